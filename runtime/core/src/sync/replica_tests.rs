use std::sync::Arc;

use super::*;
use crate::sync::Origin;

fn entries(seqs: impl IntoIterator<Item = u64>) -> Vec<Entry> {
    // An event by its kind byte; more is not looked at.
    let bytes: Arc<[u8]> = vec![1, 0].into();
    seqs.into_iter().map(|seq| Entry { seq, origin: Origin(1), number: seq, bytes: Arc::clone(&bytes) }).collect()
}

fn head(seq: u64, checksum: u64) -> Head {
    Head { epoch: 1, seq, first: 1, stable: seq, checksum }
}

fn at(seq: u64) -> Cursor {
    Cursor { epoch: 1, seq }
}

fn following(seq: u64, checksum: u64) -> Replica {
    let mut replica = Replica::new(at(seq), checksum);
    replica.on_connected(0);
    replica
}

#[test]
fn entries_are_applied_once_and_in_order() {
    let mut replica = following(3, 0);
    assert_eq!(replica.on_changes(1, 1, &entries(2..=5)), Step::Apply { skip: 2 });
    assert_eq!(replica.after(), at(5), "what is being applied is not asked for again");
    assert_eq!(replica.cursor(), at(3));
    assert_eq!(replica.on_changes(1, 1, &entries(4..=5)), Step::Ignore(Why::Known(5)));
    assert_eq!(replica.on_changes(1, 1, &entries(6..=6)), Step::Apply { skip: 0 });
    assert_eq!(replica.on_changes(1, 1, &[]), Step::Nothing);
    assert_eq!(replica.on_applied(at(5), 9), Step::Nothing);
    assert_eq!((replica.cursor(), replica.after()), (at(5), at(6)));
    replica.on_apply_failed();
    assert_eq!(replica.on_changes(2, 1, &entries(6..=6)), Step::Apply { skip: 0 }, "asked for again");
}

#[test]
fn a_gap_is_asked_for_again_and_then_given_up() {
    let mut replica = following(3, 0);
    let gap = Why::Gap { after: 3, got: 5 };
    assert_eq!(replica.on_changes(1, 1, &entries(5..=6)), Step::Resume(gap));
    assert_eq!(replica.on_changes(1, 1, &entries([4, 6])), Step::Resume(Why::Gap { after: 4, got: 6 }));
    assert_eq!(replica.on_changes(1, 1, &entries(4..=4)), Step::Apply { skip: 0 });
    for _ in 1..GAPS_MAX {
        assert!(matches!(replica.on_changes(1, 1, &entries(9..=9)), Step::Resume(_)));
    }
    assert_eq!(replica.on_changes(1, 1, &entries(9..=9)), Step::Bootstrap(Why::Gap { after: 4, got: 9 }));
    assert_eq!(replica.on_changes(1, 1, &entries(5..=9)), Step::Ignore(Why::Bootstrapping));
    assert_eq!(replica.on_head(1, head(9, 0)), Step::Ignore(Why::Bootstrapping));
    assert_eq!(replica.on_applied(at(4), 0), Step::Ignore(Why::Bootstrapping));
    replica.on_bootstrapped(at(8), 77);
    assert_eq!(replica.on_changes(2, 1, &entries(5..=9)), Step::Apply { skip: 4 });
}

#[test]
fn another_log_is_never_applied() {
    let mut empty = Replica::new(Cursor::default(), 0);
    assert_eq!(empty.on_head(1, head(5, 0)), Step::Bootstrap(Why::Empty));
    let other = Why::Epoch { centre: 2, base: 1 };
    assert_eq!(following(3, 0).on_changes(1, 2, &entries(4..=4)), Step::Bootstrap(other));
    assert_eq!(following(3, 0).on_head(1, Head { epoch: 2, ..head(3, 0) }), Step::Bootstrap(other));
    assert_eq!(following(3, 0).on_head(1, head(3, 1)), Step::Bootstrap(Why::Checksum { seq: 3 }));
    assert_eq!(
        following(3, 0).on_head(1, Head { first: 5, ..head(9, 0) }),
        Step::Bootstrap(Why::Trimmed { first: 5, base: 3 })
    );
    assert_eq!(following(3, 0).on_head(1, Head { first: 4, ..head(9, 0) }), Step::Nothing);
    assert_eq!(following(3, 0).on_refetch(1, Refetch::Ahead), Step::Bootstrap(Why::Refetch(Refetch::Ahead)));
}

#[test]
fn a_checksum_is_compared_once_the_base_has_come_to_it() {
    let mut replica = following(3, 0);
    assert_eq!(replica.on_head(1, head(5, 50)), Step::Nothing);
    assert_eq!(replica.on_changes(1, 1, &entries(4..=6)), Step::Apply { skip: 0 });
    assert_eq!(replica.on_applied(at(4), 40), Step::Nothing);
    assert_eq!(replica.on_applied(at(5), 51), Step::Bootstrap(Why::Checksum { seq: 5 }));
}

#[test]
fn a_head_behind_the_base_is_believed_after_a_while() {
    let mut replica = following(3, 0);
    let behind = Why::Behind { head: 2, base: 3 };
    assert_eq!(replica.on_head(0, head(2, 0)), Step::Ignore(behind));
    assert_eq!(replica.on_head(BEHIND_MS - 1, head(2, 0)), Step::Ignore(behind));
    assert_eq!(replica.on_head(BEHIND_MS - 1, head(3, 0)), Step::Nothing, "another process had more");
    assert_eq!(replica.on_head(BEHIND_MS, head(2, 0)), Step::Ignore(behind));
    assert_eq!(replica.on_head(2 * BEHIND_MS, head(2, 0)), Step::Bootstrap(behind));
}

#[test]
fn a_stream_that_only_says_that_there_is_more_is_asked_for_again() {
    let mut replica = following(3, 0);
    assert_eq!(replica.on_head(0, head(5, 0)), Step::Nothing);
    assert_eq!(replica.on_changes(STALLED_MS, 1, &entries(4..=4)), Step::Apply { skip: 0 });
    assert_eq!(replica.on_head(STALLED_MS, head(5, 0)), Step::Nothing, "something came");
    let stalled = Why::Stalled { head: 6, base: 4 };
    assert_eq!(replica.on_head(2 * STALLED_MS, head(6, 0)), Step::Resume(stalled));
    replica.on_connected(2 * STALLED_MS);
    assert_eq!(replica.on_changes(2 * STALLED_MS, 1, &entries(5..=6)), Step::Apply { skip: 0 });
    assert_eq!(replica.on_head(9 * STALLED_MS, head(6, 0)), Step::Nothing, "all of it is being applied");
}

#[test]
fn what_cannot_be_read_stops_the_shard() {
    let mut replica = following(3, 0);
    let mut unreadable = entries(4..=5);
    unreadable[1].bytes = vec![99, 1].into();
    assert_eq!(replica.on_changes(1, 1, &unreadable), Step::Halt(Why::Unreadable { seq: 5, kind: 99 }));
    assert_eq!(replica.on_changes(1, 1, &entries(4..=4)), Step::Ignore(Why::Halted));
    assert_eq!(replica.on_head(1, head(5, 0)), Step::Ignore(Why::Halted));
    assert_eq!(replica.freshness(5_000), Freshness { state: State::Stale, lag_ms: None });
    assert_eq!(replica.after(), at(3));
}

#[test]
fn lag_goes_by_heads_that_the_base_has_reached() {
    let mut replica = Replica::new(at(3), 0);
    assert_eq!(replica.freshness(0), Freshness { state: State::Offline, lag_ms: None });
    replica.on_connected(0);
    assert_eq!(replica.freshness(0).state, State::Stale, "connected is not fresh");
    assert_eq!(replica.on_head(100, head(3, 0)), Step::Nothing);
    assert_eq!(replica.freshness(150), Freshness { state: State::Live, lag_ms: Some(50) });
    assert_eq!(replica.on_head(200, head(5, 0)), Step::Nothing);
    assert_eq!(replica.on_head(300, head(5, 0)), Step::Nothing);
    assert_eq!(replica.on_head(400, head(8, 0)), Step::Nothing);
    assert_eq!(replica.freshness(100 + LIVE_MS).state, State::Live);
    assert_eq!(replica.freshness(101 + LIVE_MS).state, State::CatchingUp);
    assert_eq!(replica.on_changes(2_500, 1, &entries(4..=6)), Step::Apply { skip: 0 });
    assert_eq!(replica.on_applied(at(6), 0), Step::Nothing);
    assert_eq!(replica.freshness(3_000), Freshness { state: State::CatchingUp, lag_ms: Some(2_700) });
    replica.on_disconnected();
    assert_eq!(replica.freshness(3_000).state, State::Stale);
    assert_eq!(replica.freshness(2_500 + OFFLINE_MS).state, State::Stale);
    assert_eq!(replica.freshness(2_501 + OFFLINE_MS).state, State::Offline);
    replica.on_contact(20_000);
    assert_eq!(replica.on_refetch(20_000, Refetch::Trimmed), Step::Bootstrap(Why::Refetch(Refetch::Trimmed)));
    assert_eq!(replica.freshness(20_001).state, State::Bootstrapping);
    replica.on_bootstrapped(at(9), 1);
    assert_eq!(replica.freshness(20_002).lag_ms, None);
    assert_eq!(replica.on_head(20_003, head(9, 1)), Step::Nothing);
    assert_eq!(replica.freshness(20_003), Freshness { state: State::Live, lag_ms: Some(0) });
}

#[test]
fn many_heads_ahead_make_the_lag_longer_never_shorter() {
    let mut replica = following(0, 0);
    for time in 1..=1_000_u32 {
        assert_eq!(replica.on_head(i64::from(time), head(u64::from(time), 0)), Step::Nothing);
        assert!(replica.ahead.len() <= HEADS_MAX);
    }
    assert_eq!(replica.on_changes(1_000, 1, &entries(1..=900)), Step::Apply { skip: 0 });
    assert_eq!(replica.on_applied(at(900), 0), Step::Nothing);
    let lag = replica.freshness(1_000).lag_ms.expect("reached");
    assert!((100..1_000).contains(&lag), "{lag}");
    assert_eq!(State::CatchingUp.as_str(), "catching-up");
}
