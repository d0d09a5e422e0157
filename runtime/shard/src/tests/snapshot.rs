//! Snapshots: damaged ones, interrupted ones, and what goes on meanwhile.

use std::sync::atomic::AtomicBool;

use selvedge_core::sync::Entry;

use super::*;

/// Events of several people of one shard, as entries of a centre's log.
fn entries(count: u64) -> (ShardId, Vec<Ordered>) {
    let people: Vec<_> = (0..2000)
        .map(|number| Identifier::stored(&format!("user:{number}")).expect("an identifier"))
        .filter(|identifier| identifier.shard() == identifier_of_all().shard())
        .collect();
    let entry = |seq: u64| {
        let fragment = people[seq as usize % people.len()].clone();
        let event = Event { payload: format!(r#"{{"n":{seq}}}"#).into(), ..event(&format!("e{seq}"), seq as i64) };
        let bytes = Change::Event { fragment, event }.encode().into();
        Ordered { entry: Entry { seq, origin: Origin(5), number: seq, bytes }, own: None }
    };
    (identifier_of_all().shard(), (1..=count).map(entry).collect())
}

fn identifier_of_all() -> Identifier {
    Identifier::stored("user:0").expect("an identifier")
}

fn snapshot(shards: &Shards, shard: ShardId, chunk_bytes: usize) -> (SnapshotHead, Vec<Vec<u8>>) {
    let mut chunks = Vec::new();
    let mut take = |chunk| {
        chunks.push(chunk);
        Ok(())
    };
    let head = shards.export(shard, chunk_bytes, &mut take).expect("export");
    (head, chunks)
}

#[test]
fn a_base_begins_from_a_snapshot_and_goes_on_from_there() {
    let (one, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let (source, shards) = (open(one.path(), 1), open(other.path(), 1));
    let (shard, entries) = entries(500);
    source.follow(shard, 3, &entries[..300]).expect("follow");
    let (head, chunks) = snapshot(&source, shard, 1000);
    assert_eq!((head.cursor, head.chunks as usize), (Cursor { epoch: 3, seq: 300 }, chunks.len()));
    assert!(chunks.len() > 5);
    // Nothing is there that a shorter log had.
    shards.follow(shard, 1, &entries[..7]).expect("follow");
    let mut replacement = shards.begin_replacement(shard).expect("begin");
    chunks.iter().for_each(|chunk| replacement.take(chunk).expect("take"));
    shards.replace(replacement, &head, 0, Vec::new()).expect("replace");
    assert_eq!(shards.place(shard), source.place(shard));
    assert_eq!(shards.applied(shard, Origin(5)), 300);
    drop(shards);
    let shards = open(other.path(), 1);
    assert_eq!(shards.place(shard), source.place(shard));
    for shards in [&source, &shards] {
        shards.follow(shard, 3, &entries[300..]).expect("follow");
    }
    let hash = shards.state_hash(shard).expect("hash");
    assert_eq!(source.state_hash(shard).expect("hash").agrees(&hash), Some(true));
    assert_eq!(hash, source.state_hash(shard).expect("hash"));
    // From the beginning again, in whatever epoch.
    shards.reset(shard).expect("reset");
    assert_eq!(shards.place(shard), (Cursor { epoch: 3, seq: 0 }, 0));
    shards.follow(shard, 4, &entries).expect("follow");
    assert_eq!(shards.state_hash(shard).expect("hash").hash, hash.hash);
    assert_eq!(shards.state_hash(shard).expect("hash").agrees(&hash), None, "another epoch");
}

#[test]
fn what_a_crash_leaves_of_a_replacement_goes_with_the_next_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let (shard, entries) = entries(60);
    let trees = |shards: &Shards| shards.disk.tree_names().iter().filter(|name| name.contains("shard-")).count();
    let chunks = {
        let shards = open(folder.path(), 1);
        shards.follow(shard, 1, &entries).expect("follow");
        let (head, chunks) = snapshot(&shards, shard, 500);
        // One that is given up leaves nothing.
        let mut given_up = shards.begin_replacement(shard).expect("begin");
        given_up.take(&chunks[0]).expect("take");
        assert_eq!(trees(&shards), 65);
        drop(given_up);
        assert_eq!(trees(&shards), 64);
        let mut short = shards.begin_replacement(shard).expect("begin");
        short.take(&chunks[0]).expect("take");
        let refused = shards.replace(short, &head, 0, Vec::new()).expect_err("most chunks are missing");
        assert!(matches!(refused, ShardError::Snapshot(_)), "{refused}");
        // As if the process had died.
        let mut open = shards.begin_replacement(shard).expect("begin");
        open.take(&chunks[1]).expect("take");
        std::mem::forget(open);
        (head, chunks)
    };
    // Its directory is held until all of it is gone, so it is copied as a crash would leave it.
    let copy = tempfile::tempdir().expect("a folder");
    for file in std::fs::read_dir(folder.path()).expect("files").flatten().filter(|file| file.path().is_file()) {
        std::fs::copy(file.path(), copy.path().join(file.file_name())).expect("copy");
    }
    let shards = open(copy.path(), 1);
    assert_eq!(trees(&shards), 64);
    let (head, chunks) = chunks;
    assert!(shards.cursor(shard).seq <= 60);
    let mut whole = shards.begin_replacement(shard).expect("begin");
    chunks.iter().for_each(|chunk| whole.take(chunk).expect("take"));
    shards.replace(whole, &head, 0, Vec::new()).expect("replace");
    assert_eq!(shards.cursor(shard).seq, 60);
}

#[test]
fn damaged_snapshots_are_refused_and_change_nothing() {
    let (one, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let (source, shards) = (open(one.path(), 1), open(other.path(), 1));
    let (shard, entries) = entries(120);
    source.follow(shard, 1, &entries).expect("follow");
    let (head, chunks) = snapshot(&source, shard, 3000);
    let bytes = head.encode();
    assert_eq!(SnapshotHead::decode(&bytes).expect("a head"), head);
    let mut random = 0x5EED_u64;
    let mut next = move |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % below
    };
    let mut damage = |whole: &[u8]| {
        let mut bytes = whole.to_vec();
        match next(4) {
            0 => bytes.truncate(next(whole.len())),
            1 => {
                let at = next(whole.len());
                bytes[at] ^= 1 << next(8);
            }
            2 => bytes.extend_from_slice(&[0; 3]),
            _ => {
                let (at, from) = (next(whole.len()), next(whole.len()));
                bytes[at] = whole[from];
            }
        }
        bytes
    };
    let mut replacement = shards.begin_replacement(shard).expect("begin");
    for round in 0..6000 {
        let damaged = damage(&bytes);
        assert!(damaged == bytes || SnapshotHead::decode(&damaged).is_err());
        let chunk = &chunks[round % chunks.len()];
        let damaged = damage(chunk);
        if damaged != *chunk {
            let refused = replacement.take(&damaged).expect_err("damaged");
            assert!(matches!(refused, ShardError::Snapshot(_)), "{refused}");
        }
    }
    // Whole all the same, once the chunks come as they were written.
    chunks.iter().for_each(|chunk| replacement.take(chunk).expect("take"));
    let mut of_other = head.clone();
    of_other.past ^= 1;
    assert!(shards.replace(replacement, &of_other, 0, Vec::new()).is_err());
    assert_eq!(shards.cursor(shard).seq, 0);
    let elsewhere = ShardId((shard.0 + 1) % 64);
    assert!(shards.begin_replacement(elsewhere).expect("begin").take(&chunks[0]).is_err(), "of another shard");
}

#[test]
fn states_of_other_plugins_wait_for_their_history_behind_a_snapshot() {
    let (one, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let (source, shards) = (open(one.path(), 1), open(other.path(), 2));
    let (shard, entries) = entries(40);
    source.follow(shard, 1, &entries).expect("follow");
    shards.settle(shards.replaced()).expect("settle");
    let (head, chunks) = snapshot(&source, shard, 3000);
    let mut replacement = shards.begin_replacement(shard).expect("begin");
    chunks.iter().for_each(|chunk| replacement.take(chunk).expect("take"));
    shards.replace(replacement, &head, 0, Vec::new()).expect("replace");
    assert!(shards.unsettled().expect("look"));
    let hash = shards.state_hash(shard).expect("hash");
    assert!(!hash.settled);
    assert_eq!(source.state_hash(shard).expect("hash").agrees(&hash), Some(true), "the history is the same");
    let mut walk = Walk::default();
    while let Some(of) = shards.next_unfinished(&mut walk, 1).expect("look").pop() {
        assert!(shards.backfill(&of).expect("backfill"));
    }
    let whole = shards.state_hash(shard).expect("hash");
    assert!(whole.settled && whole.past == hash.past && whole.hash != hash.hash);
    let theirs = source.state_hash(shard).expect("hash");
    assert_eq!(whole.hash.wrapping_sub(whole.past), theirs.hash.wrapping_sub(theirs.past), "these plugins fold alike");
}

#[test]
fn a_checkpoint_says_what_it_covers() {
    let folder = tempfile::tempdir().expect("a folder");
    let (shard, entries) = entries(40);
    let held = |of: ShardId| of == shard;
    let shards =
        Shards::open_holding(folder.path(), "log", 1 << 20, Counting::new(1), Arc::default(), &held).expect("open");
    shards.follow(shard, 2, &entries).expect("follow");
    let covered = shards.checkpoint(&[Origin(5), Origin(6)]).expect("checkpoint");
    assert_eq!(covered, [Covered { shard, cursor: Cursor { epoch: 2, seq: 40 }, applied: vec![(Origin(5), 40)] }]);
    // As a crash right after it would leave the files.
    let copy = tempfile::tempdir().expect("a folder");
    for file in std::fs::read_dir(folder.path()).expect("files").flatten().filter(|file| file.path().is_file()) {
        std::fs::copy(file.path(), copy.path().join(file.file_name())).expect("copy");
    }
    let after = open(copy.path(), 1);
    assert_eq!(after.place(shard), shards.place(shard));
    assert_eq!(after.state_hash(shard).expect("hash"), shards.state_hash(shard).expect("hash"));
}

#[test]
fn a_shard_that_is_not_held_serves_what_is_pending_until_the_centre_has_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = Log::default();
    {
        let shards = open(folder.path(), 1);
        admit(&shards, &log, 1, &[("old", 1)]);
        shards.advance(identifier(1).shard(), 1, 1).expect("advance");
    }
    let shards = Shards::open_holding(folder.path(), "log", 1 << 20, Counting::new(1), Arc::default(), &|_| false)
        .expect("open");
    let shard = identifier(1).shard();
    assert!(!shards.holds(shard));
    assert!(matches!(shards.follow(shard, 1, &[]), Err(ShardError::NotHeld(_))));
    let view = || read(&shards, &shards.load(&identifier(1)).expect("load").fragment);
    assert_eq!(view(), (0, 0));
    shards.begin_pending(shard, 11).expect("begin");
    admit(&shards, &log, 1, &[("a", 5), ("b", 7), ("c", 9)]);
    let bytes = log.entries(shard).pop().expect("a change").1;
    for wrong in [vec![(13, bytes.clone())], vec![(20, bytes.clone()), (20, bytes)]] {
        assert!(shards.restore_pending(shard, wrong).is_err(), "behind newer ones");
    }
    assert!(shards.begin_pending(shard, 5).is_err(), "something is pending");
    assert_eq!((view(), shards.pending_changes(shard)), ((3, 21), Outstanding { changes: 3, oldest: Some(11) }));
    shards.settle_pending(shard, 12).expect("settle");
    assert_eq!((view(), shards.pending_changes(shard)), ((1, 9), Outstanding { changes: 1, oldest: Some(13) }));
    shards.settle_pending(shard, 13).expect("settle");
    assert_eq!((view(), shards.pending_bytes()), ((0, 0), 0));
}

#[test]
fn entries_that_do_not_follow_are_refused_and_move_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let shards = open(folder.path(), 1);
    let (shard, entries) = entries(20);
    shards.follow(shard, 2, &entries[..5]).expect("follow");
    let before = (shards.place(shard), shards.state_hash(shard).expect("hash"));
    let gap = |from: u64, epoch: u32| {
        let refused = shards.follow(shard, epoch, &entries[from as usize - 1..]).expect_err("refused");
        assert!(matches!(refused, ShardError::Gap { at: Cursor { epoch: 2, seq: 5 }, .. }), "{refused}");
    };
    gap(7, 2);
    gap(5, 2);
    gap(6, 3);
    let mut broken = entries[5..].to_vec();
    broken.remove(3);
    assert!(matches!(shards.follow(shard, 2, &broken), Err(ShardError::Gap { .. })));
    let mut unknown = entries[5..].to_vec();
    unknown[4].entry.bytes = [99_u8, 1, 2].as_slice().into();
    let refused = shards.follow(shard, 2, &unknown).expect_err("of a newer version");
    assert!(matches!(refused, ShardError::Change(ChangeError::UnknownKind(99))), "{refused}");
    let mut elsewhere = entries[5..].to_vec();
    let other = (0..200).map(|number| Identifier::stored(&format!("user:{number}")).expect("an identifier"));
    let fragment = other.into_iter().find(|other| other.shard() != shard).expect("another shard");
    elsewhere[0].entry.bytes = Change::Event { fragment, event: event("x", 1) }.encode().into();
    assert!(matches!(shards.follow(shard, 2, &elsewhere), Err(ShardError::Corrupt(_))));
    assert_eq!((shards.place(shard), shards.state_hash(shard).expect("hash")), before);
    shards.follow(shard, 2, &[]).expect("nothing is no gap");
    shards.follow(shard, 2, &entries[5..]).expect("follow");
}

#[test]
fn origins_of_long_gone_starts_are_forgotten() {
    let folder = tempfile::tempdir().expect("a folder");
    let shards = open(folder.path(), 1);
    let (shard, mut entries) = entries(ORIGINS_MAX as u64 + 100);
    for ordered in &mut entries {
        ordered.entry.origin = Origin(ordered.entry.seq);
        ordered.entry.number = 9;
    }
    entries[0].entry.origin = Origin::CENTRE;
    for piece in entries.chunks(1000) {
        shards.follow(shard, 1, piece).expect("follow");
    }
    let known = |shards: &Shards| {
        let known = |origin: &u64| shards.applied(shard, Origin(*origin)) == 9;
        ((0..=100).filter(known).count(), (101..=ORIGINS_MAX as u64 + 100).filter(known).count())
    };
    assert_eq!(known(&shards), (0, ORIGINS_MAX));
    drop(shards);
    assert_eq!(known(&open(folder.path(), 1)), (0, ORIGINS_MAX));
}

/// Followers of two shards, a door, readers, links across both, snapshots and replacements, all at once.
#[test]
fn the_centre_the_door_readers_and_snapshots_do_not_get_in_each_others_way() {
    let folder = tempfile::tempdir().expect("a folder");
    let (shards, log) = (open(folder.path(), 1), Log::default());
    let (home, entries) = entries(3000);
    let others: Vec<_> = (0..2000)
        .map(|number| Identifier::stored(&format!("device:{number}")).expect("an identifier"))
        .filter(|of| of.shard() == ShardId((home.0 + 1) % 64))
        .collect();
    let other_home = others[0].shard();
    let other_entries: Vec<Ordered> = (1..=3000_u64)
        .map(|seq| {
            let fragment = others[seq as usize % 3].clone();
            let event = event(&format!("e{seq}"), seq as i64);
            let bytes = Change::Event { fragment, event }.encode().into();
            Ordered { entry: Entry { seq, origin: Origin(6), number: seq, bytes }, own: None }
        })
        .collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let followers = [(home, &entries), (other_home, &other_entries)].map(|(shard, entries)| {
            let shards = &shards;
            scope.spawn(move || {
                for (round, piece) in entries.chunks(50).enumerate() {
                    shards.follow(shard, 1, piece).expect("follow");
                    if round % 20 == 19 {
                        let (head, chunks) = snapshot(shards, shard, 2000);
                        let mut replacement = shards.begin_replacement(shard).expect("begin");
                        chunks.iter().for_each(|chunk| replacement.take(chunk).expect("take"));
                        shards.replace(replacement, &head, 0, Vec::new()).expect("replace");
                    }
                }
            })
        });
        let door = scope.spawn(|| {
            let mut admitted = 0;
            while !done.load(Ordering::Acquire) && admitted < 400 {
                for (place, of) in [&identifier_of_all(), &others[0], &others[1]].into_iter().enumerate() {
                    let event = event(&format!("own-{place}-{admitted}"), admitted);
                    let effects = shards.observer.observe(&event);
                    shards.admit(of.shard(), vec![Prepared::event(of.clone(), event, effects)], &log).expect("admit");
                }
                let word = Word { at: Timestamp(admitted), linked: true, id: [1; 16], how: How::Api };
                shards.say(&identifier_of_all(), &others[1], word, &log).expect("say");
                admitted += 1;
            }
            admitted
        });
        let reader = scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                let profile = shards.profile(&identifier_of_all()).expect("profile");
                assert!(profile.fragment().events <= 7000);
                shards.prepare(&others[2]).expect("prepare");
                shards.as_of(&others[0], Timestamp(1 << 40)).expect("as of");
            }
        });
        followers.into_iter().for_each(|follower| follower.join().expect("a follower"));
        done.store(true, Ordering::Release);
        let admitted = door.join().expect("the door") as u64;
        reader.join().expect("a reader");
        for (of, followed) in [(&others[0], 1000), (&others[1], 1000), (&identifier_of_all(), u64::MAX)] {
            let base = shards.read_base(of).expect("the base").0.events;
            assert!(followed == u64::MAX || base == followed, "{of}: {base}");
            assert_eq!(shards.load(of).expect("load").fragment.events, base + admitted, "{of}");
        }
        let group = shards.profile(&others[1]).expect("profile");
        assert_eq!(group.identifiers().len(), if admitted > 0 { 2 } else { 1 });
        let members = group.identifiers().iter().map(|of| shards.load(of).expect("load").fragment.events);
        assert_eq!(group.fragment().events, members.sum::<u64>());
    });
}

#[test]
fn what_another_engine_folded_is_folded_again_for_a_snapshot() {
    let (one, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let (shard, entries) = entries(40);
    open(one.path(), 1).follow(shard, 1, &entries).expect("follow");
    let newer = |folder: &Path| {
        let Ok(observer) = Arc::try_unwrap(Counting::new(1)) else { panic!("it is nobody else's") };
        let layout = Layout { engine: 2, ..observer.layout.clone() };
        let observer = Arc::new(Counting { layout, ..observer });
        Shards::open(folder, "log", 1 << 20, observer, Arc::default()).expect("open")
    };
    let (source, shards) = (newer(one.path()), newer(other.path()));
    let (head, chunks) = snapshot(&source, shard, 3000);
    let mut replacement = shards.begin_replacement(shard).expect("begin");
    chunks.iter().for_each(|chunk| replacement.take(chunk).expect("take"));
    shards.replace(replacement, &head, 0, Vec::new()).expect("replace");
    let hash = shards.state_hash(shard).expect("hash");
    assert!(hash.settled);
    assert_eq!(hash, source.state_hash(shard).expect("hash"));
    let whole = tempfile::tempdir().expect("a folder");
    let whole = newer(whole.path());
    whole.follow(shard, 1, &entries).expect("follow");
    assert_eq!(hash, whole.state_hash(shard).expect("hash"));
}
