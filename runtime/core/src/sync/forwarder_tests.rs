use super::*;

const SHARD: ShardId = ShardId(7);
const ONE: Origin = Origin(11);
const TWO: Origin = Origin(22);

fn at(epoch: u32, seq: u64) -> Cursor {
    Cursor { epoch, seq }
}

fn droppable(forwarder: &Forwarder, epoch: u32, checkpointed: u64, stable: u64) -> u64 {
    let head = Head { epoch, seq: 99, first: 1, stable, checksum: 0 };
    forwarder.droppable(at(epoch, checkpointed), &head)
}

fn boots(befores: &[(Origin, u64)]) -> Boots {
    let mut boots = Boots::default();
    for (origin, before) in befores {
        boots.begin(*origin, |_| *before, |_| 0).expect("begun");
    }
    boots
}

fn forwarder(befores: &[(Origin, u64)], trimmed: u64, durable: u64) -> Forwarder {
    Forwarder::new(&boots(befores), SHARD, trimmed, durable, 1, Backoff::new(1)).expect("covered")
}

fn taken(seqs: impl IntoIterator<Item = u64>) -> Pushed {
    Pushed::Taken { seqs: seqs.into_iter().collect() }
}

fn next(forwarder: &mut Forwarder) -> Range {
    forwarder.next(i64::MAX).expect("something to push")
}

fn span(range: &Range) -> (Origin, u64, u64, u64) {
    (range.origin, range.predecessor, range.first_local, range.last_local)
}

#[test]
fn one_push_is_under_way_and_only_what_is_durable() {
    let mut forwarder = forwarder(&[(ONE, 0)], 0, 0);
    assert_eq!((forwarder.next(0), forwarder.due()), (None, None));
    forwarder.on_durable(3);
    assert_eq!(forwarder.due(), Some(i64::MIN));
    let range = next(&mut forwarder);
    assert_eq!((span(&range), range.skips), ((ONE, 0, 1, 3), false));
    forwarder.on_durable(2_000);
    assert_eq!((forwarder.next(0), forwarder.due()), (None, None));
    assert_eq!(forwarder.on_answer(0, range.ticket + 1, &taken([9])), Outcome::Late);
    assert_eq!(forwarder.on_answer(0, range.ticket, &taken([5, 2, 6])), Outcome::Settled(3));
    assert_eq!(forwarder.on_answer(0, range.ticket, &taken([5, 2, 6])), Outcome::Late);
    assert_eq!(span(&next(&mut forwarder)), (ONE, 3, 4, 1_003));
    assert_eq!(forwarder.unanswered(), 1_997);
}

#[test]
fn older_starts_come_first_and_a_push_never_spans_two() {
    let mut forwarder = forwarder(&[(ONE, 0), (TWO, 4)], 2, 6);
    let range = next(&mut forwarder);
    assert_eq!(span(&range), (ONE, 2, 3, 4));
    assert_eq!(forwarder.on_answer(0, range.ticket, &taken([8, 9])), Outcome::Settled(4));
    let range = next(&mut forwarder);
    assert_eq!(span(&range), (TWO, 0, 5, 6));
    // Fewer were sent than could have been.
    assert_eq!(forwarder.on_answer(0, range.ticket, &taken([10])), Outcome::Settled(5));
    assert_eq!(span(&next(&mut forwarder)), (TWO, 1, 6, 6));
}

#[test]
fn what_the_centre_has_is_not_sent_and_what_it_lacks_is() {
    let mut held = forwarder(&[(ONE, 0), (TWO, 4)], 1, 9);
    let range = next(&mut held);
    assert_eq!(held.on_answer(0, range.ticket, &Pushed::Behind { watermark: 3, head: 30 }), Outcome::Settled(3));
    let range = next(&mut held);
    assert_eq!(span(&range), (ONE, 3, 4, 4));
    assert_eq!(held.on_answer(0, range.ticket, &Pushed::Behind { watermark: 2, head: 30 }), Outcome::Again(2));
    assert_eq!(held.ordered_local(at(1, u64::MAX)), 1, "what was known of 3 means nothing any more");
    let range = next(&mut held);
    assert_eq!((span(&range), range.skips), ((ONE, 2, 3, 4), false));
    // A directory from a backup: the first start had sent more than it has.
    assert_eq!(held.on_answer(0, range.ticket, &Pushed::Behind { watermark: 99, head: 40 }), Outcome::Settled(4));
    let range = next(&mut held);
    assert_eq!(span(&range), (TWO, 0, 5, 9));
    assert_eq!((held.ordered_local(at(1, 39)), held.ordered_local(at(1, 40)), held.seq_of(2)), (1, 4, Some(40)));

    // A centre from a backup that is older than what was trimmed here.
    let mut trimmed = forwarder(&[(ONE, 0)], 5, 9);
    let range = next(&mut trimmed);
    assert_eq!((span(&range), range.skips), ((ONE, 5, 6, 9), false));
    let behind = Pushed::Behind { watermark: 2, head: 20 };
    assert_eq!(trimmed.on_answer(0, range.ticket, &behind), Outcome::Again(5));
    let range = next(&mut trimmed);
    assert_eq!((span(&range), range.skips), ((ONE, 5, 6, 9), true));
    assert_eq!(trimmed.on_answer(0, range.ticket, &behind), Outcome::Unfit, "asked for twice: not in a circle");
    assert_eq!(trimmed.next(0), None);
    let range = next(&mut trimmed);
    assert!(range.skips);
    assert_eq!(trimmed.on_answer(0, range.ticket, &taken(21..=24)), Outcome::Settled(9));
}

#[test]
fn a_change_that_cannot_be_taken_stands_in_nobodys_way() {
    let mut forwarder = forwarder(&[(ONE, 0)], 0, 5);
    let refused = |index| Pushed::Refused { index, reason: "unreadable".to_owned() };
    let range = next(&mut forwarder);
    let dead = |local| Outcome::Refused { local, reason: "unreadable".to_owned() };
    assert_eq!(forwarder.on_answer(0, range.ticket, &refused(2)), dead(3));
    let range = next(&mut forwarder);
    assert_eq!(span(&range), (ONE, 0, 1, 2));
    assert_eq!(forwarder.on_answer(0, range.ticket, &taken([1, 2])), Outcome::Settled(2));
    let range = next(&mut forwarder);
    assert_eq!((span(&range), range.skips), ((ONE, 3, 4, 5), true));
    assert_eq!(forwarder.on_answer(0, range.ticket, &refused(9)), Outcome::Unfit);
    let range = next(&mut forwarder);
    assert!(range.skips, "still so after a failure");
    assert_eq!(forwarder.on_answer(0, range.ticket, &refused(0)), dead(4));
    let range = next(&mut forwarder);
    assert_eq!((span(&range), range.skips), ((ONE, 4, 5, 5), true));
    assert_eq!(forwarder.on_answer(0, range.ticket, &refused(0)), dead(5));
    assert_eq!(forwarder.next(i64::MAX), None);
    assert_eq!((forwarder.unanswered(), droppable(&forwarder, 1, 2, 2)), (0, 5), "the last ones hold nothing up");
}

#[test]
fn after_a_failure_it_waits_and_asks_again() {
    let mut forwarder = forwarder(&[(ONE, 0)], 0, 5);
    let mut now = 1_000;
    for failure in 1..20 {
        let range = forwarder.next(now).expect("due");
        assert!(!forwarder.on_failed(now, range.ticket + 1));
        assert!(forwarder.on_failed(now, range.ticket));
        assert_eq!(forwarder.failures(), failure);
        let due = forwarder.due().expect("waiting");
        assert!(due > now && due <= now + 5_000);
        assert_eq!(forwarder.next(due - 1), None);
        now = due;
    }
    let range = forwarder.next(now).expect("due");
    assert_eq!(forwarder.on_answer(now, range.ticket, &Pushed::Epoch { epoch: 1 }), Outcome::Unfit);
    assert_eq!(forwarder.on_answer(now, range.ticket, &taken([1])), Outcome::Late);
    let range = next(&mut forwarder);
    assert_eq!(forwarder.on_answer(now, range.ticket, &taken([])), Outcome::Unfit);
    let range = next(&mut forwarder);
    assert_eq!(forwarder.on_answer(now, range.ticket, &taken(0..6)), Outcome::Unfit);
    let range = next(&mut forwarder);
    assert_eq!(forwarder.on_answer(now, range.ticket, &taken(1..6)), Outcome::Settled(5));
    assert_eq!(forwarder.failures(), 0);
}

#[test]
fn another_epoch_starts_over() {
    let mut forwarder = forwarder(&[(ONE, 0)], 0, 5);
    let range = next(&mut forwarder);
    assert_eq!(forwarder.on_answer(0, range.ticket, &taken(1..=5)), Outcome::Settled(5));
    forwarder.on_trimmed(2);
    forwarder.on_durable(6);
    let range = next(&mut forwarder);
    assert_eq!(forwarder.on_answer(0, range.ticket, &Pushed::Epoch { epoch: 2 }), Outcome::Epoch(2));
    assert_eq!((forwarder.epoch(), forwarder.settled(), droppable(&forwarder, 2, 99, 99)), (2, 2, 2));
    let range = next(&mut forwarder);
    assert_eq!((span(&range), range.epoch), ((ONE, 2, 3, 6), 2));
    forwarder.on_own(1, 4, 4);
    assert_eq!(forwarder.ordered_local(at(2, 99)), 2, "what an earlier epoch said is not believed");
    forwarder.on_own(2, 4, 4);
    assert_eq!(forwarder.ordered_local(at(2, 99)), 4);
}

#[test]
fn the_outbox_keeps_what_a_checkpoint_or_the_stable_sequence_does_not_cover() {
    let mut forwarder = forwarder(&[(ONE, 0)], 0, 10);
    let range = next(&mut forwarder);
    // The second and the last are duplicates of what came first at 3 and at 1.
    let seqs = [5, 3, 8, 9, 12, 13, 14, 15, 16, 1];
    assert_eq!(forwarder.on_answer(0, range.ticket, &taken(seqs)), Outcome::Settled(10));
    assert_eq!((droppable(&forwarder, 1, 16, 15), droppable(&forwarder, 1, 15, 16)), (0, 0));
    assert_eq!(droppable(&forwarder, 1, 16, 99), 10);
    forwarder.on_durable(12);
    let range = next(&mut forwarder);
    assert_eq!(forwarder.on_answer(0, range.ticket, &taken([2, 20])), Outcome::Settled(12));
    assert_eq!((droppable(&forwarder, 1, 19, 19), droppable(&forwarder, 1, 20, 20)), (10, 12));
    assert_eq!((forwarder.seq_of(10), forwarder.seq_of(11), forwarder.seq_of(13)), (Some(16), Some(20), None));
    assert_eq!(droppable(&forwarder, 2, 20, 20), 0, "a checkpoint or a head of another epoch says nothing");
    forwarder.on_trimmed(10);
    assert_eq!((forwarder.ordered_local(at(1, 0)), forwarder.ordered_local(at(1, 20))), (10, 12));
}

#[test]
fn what_the_base_saw_in_the_log_and_was_trimmed_is_not_pushed() {
    let mut forwarder = forwarder(&[(ONE, 0)], 0, 10);
    let range = next(&mut forwarder);
    forwarder.on_own(1, 6, 60);
    assert_eq!(droppable(&forwarder, 1, 60, 60), 6);
    forwarder.on_trimmed(6);
    let late = Pushed::Refused { index: 1, reason: "unreadable".to_owned() };
    assert_eq!(forwarder.on_answer(0, range.ticket, &late), Outcome::Settled(6), "it was set aside before");
    let range = next(&mut forwarder);
    assert_eq!(span(&range), (ONE, 6, 7, 10));
    forwarder.on_own(1, 8, 80);
    forwarder.on_trimmed(8);
    assert_eq!(forwarder.on_answer(0, range.ticket, &taken([70])), Outcome::Settled(8));
    assert_eq!(span(&next(&mut forwarder)), (ONE, 8, 9, 10));
}

#[test]
fn what_is_known_of_the_log_is_bounded_and_stays_true() {
    let mut forwarder = forwarder(&[(ONE, 0)], 0, 100_000);
    for local in 1..=100_000 {
        forwarder.on_own(1, local, 2 * local);
        assert!(forwarder.ordered.len() <= STEPS_MAX);
    }
    for local in (1..=100_000).step_by(997) {
        assert!(forwarder.seq_of(local).is_some_and(|seq| seq >= 2 * local));
        assert!(forwarder.ordered_local(at(1, 2 * local)) <= local);
    }
    assert_eq!(forwarder.ordered_local(at(1, 200_000)), 100_000);
}

#[test]
fn an_outbox_that_no_start_covers_is_refused() {
    let boots = boots(&[(ONE, 3)]);
    let made = |trimmed| Forwarder::new(&boots, SHARD, trimmed, 5, 0, Backoff::new(1)).map(|_| ());
    assert_eq!((made(2), made(3)), (Err(BootsError::Corrupt), Ok(())));
}
