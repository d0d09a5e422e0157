//! Small changes beside a record.

use selvedge_core::change::DecidedOffer;

use super::*;

fn decided(user: u8, offers: &[String]) -> Prepared {
    let decided = |offer: &String| DecidedOffer::on_web(offer, Timestamp(0), 1);
    Prepared::decided(identifier(user), offers.iter().map(decided).collect(), Vec::new())
}

#[test]
fn a_small_change_lies_on_the_record_until_it_is_a_large_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let (user, log) = (identifier(1), Log::default());
    let shard = user.shard();
    let shards = open(folder.path(), 7);
    let mut seq = 0;
    let mut take = |shards: &Shards, prepared: Prepared| {
        seq += 1;
        shards.load(&user).expect("load");
        shards.admit(shard, vec![prepared], &log).expect("admit");
        shards.advance(shard, seq, 1).expect("advance");
        shards.disk.stored(&user)
    };
    let (record, overlay) = take(&shards, prepared(&shards, 1, "e1", 1));
    assert!(record.is_some() && overlay == 0, "a record of its own at first");
    let (same, overlay) = take(&shards, prepared(&shards, 1, "e2", 2));
    assert!(same == record && overlay == 1);
    let (same, _) = take(&shards, decided(1, &["kettle".to_owned()]));
    assert_eq!(same, record);
    // Both are read, here and after a start.
    let read = |shards: &Shards| {
        let (base, seq) = shards.read_base(&user).expect("read");
        let head = shards.disk.head(&user).expect("read").expect("a head");
        assert_eq!(head.seq, seq);
        (base.events, base.offers.by_offer().map(|(_, history)| history.decided).sum::<u64>(), seq)
    };
    assert_eq!(read(&shards), (2, 1, 3));
    let of_states = shards.state_hash(shard).expect("a hash");
    drop(shards);
    let shards = open(folder.path(), 7);
    assert_eq!(read(&shards), (2, 1, 3));
    assert_eq!(shards.state_hash(shard).expect("a hash"), of_states);
    // What is no longer small takes the record's place, and the overlay goes.
    let many: Vec<String> = (0..100).map(|offer| format!("an offer with a long name {offer}")).collect();
    let (new, overlay) = take(&shards, decided(1, &many));
    assert!(new != record && overlay == 0);
    assert_eq!(read(&shards), (2, 101, 4));
    // Another layout finds its states by the record, whatever lies on it.
    assert!(take(&shards, prepared(&shards, 1, "e3", 3)).1 == 1);
    drop(shards);
    let shards = open(folder.path(), 8);
    assert!(shards.backfill(&user).expect("folded"), "it waited");
    assert_eq!(read(&shards), (3, 101, 5));
    // Nothing of one who is erased lies there.
    assert!(take(&shards, prepared(&shards, 1, "e4", 4)).1 > 0);
    shards.erase(&user, [1; 16], Timestamp(9_000), &log).expect("erase");
    shards.advance(shard, 7, 1).expect("advance");
    assert!(shards.disk.stored(&user).1 == 0);
}
