use proptest::prelude::*;

use super::*;

fn offers(told: &[(u8, u8, Act, i64)]) -> Offers {
    let mut offers = Offers::default();
    for (offer, channel, act, at) in told {
        tell(&mut offers, *offer, *channel, *act, *at);
    }
    offers
}

fn tell(offers: &mut Offers, offer: u8, channel: u8, act: Act, at: i64) {
    let channel = CompactString::from(["web", "email", "call-center"][usize::from(channel % 3)]);
    let offer = CompactString::from(format!("offer-{offer}"));
    if act == Act::Decided {
        return offers.decide(&DecidedOffer { offer, channel, minute: Timestamp(at), count: 1 });
    }
    offers.record(&offer, &channel, act, Timestamp(at), 1);
}

fn exposed(experiment: u8, arm: u8, at: i64) -> Exposure {
    Exposure { experiment: format!("e{experiment}").into(), arm: format!("arm-{arm}").into(), at: Timestamp(at) }
}

fn told() -> impl Strategy<Value = Vec<(u8, u8, Act, i64)>> {
    let act = proptest::sample::select(Act::ALL.to_vec());
    proptest::collection::vec((0_u8..4, 0_u8..3, act, 0_i64..200_000_000), 0..200)
}

#[test]
fn nothing_takes_no_room() {
    assert_eq!(size_of::<Offers>(), 8);
    assert!(size_of::<Line>() <= 96 && size_of::<Mark>() <= 16, "{} {}", size_of::<Line>(), size_of::<Mark>());
    let nothing = Offers::default();
    assert!(nothing.is_empty() && nothing.weight() == 0 && nothing.get("kettle") == OfferHistory::default());
    assert_eq!(postcard::to_allocvec(&nothing).expect("bytes"), [0]);
}

#[test]
fn one_decision_can_be_left_out_whatever_is_known_it_by() {
    let minutes = |range: std::ops::Range<i64>| range.map(|minute| (1, 0, Act::Decided, minute * 60_000));
    let mut all: Vec<_> = minutes(0..200).collect();
    all.extend([(1, 1, Act::Shown, 7), (2, 0, Act::Decided, 60_000), (1, 0, Act::Decided, 199 * 60_000)]);
    let whole = offers(&all);
    for minute in [199, 190, 100, 3] {
        let mut without = whole.clone();
        without.undecide("offer-1", "web", Timestamp(minute * 60_000 + 30_000));
        assert_eq!(without.get("offer-1").decided, 200, "{minute}");
        let of = |offers: &Offers| {
            let line = offers.of("offer-1").find(|line| line.channel() == "web").expect("a line");
            line.count_after(Act::Decided, Timestamp(0), u32::MAX)
        };
        assert_eq!(of(&without) + 1, of(&whole), "{minute}");
        assert_eq!((without.get("offer-2").decided, without.get("offer-1").shown), (1, 1));
    }
    let mut same = whole.clone();
    same.undecide("offer-1", "email", Timestamp(60_000));
    same.undecide("offer-1", "web", Timestamp(900 * 24 * 60 * 60_000));
    same.undecide("offer-9", "web", Timestamp(60_000));
    assert_eq!(same, whole);
    let mut only = offers(&[(1, 0, Act::Decided, 60_000)]);
    only.undecide("offer-1", "web", Timestamp(60_000));
    assert_eq!((only.get("offer-1").decided, only.get("offer-1").last_decided_at), (0, None));
}

#[test]
fn what_happened_is_counted_by_offer_and_channel() {
    use Act::{Clicked, Decided, Dismissed, Owned, Shown};
    let offers = offers(&[
        (1, 0, Decided, 61_000),
        (1, 0, Decided, 119_999),
        (1, 0, Shown, 62_000),
        (1, 1, Shown, 50_000),
        (2, 0, Clicked, 7),
        (1, 1, Dismissed, 70_000),
        (1, 1, Owned, 70_000),
    ]);
    let kettle = offers.get("offer-1");
    assert_eq!((kettle.decided, kettle.shown, kettle.clicked, kettle.dismissed), (2, 2, 0, 1));
    assert_eq!((kettle.last_decided_at, kettle.last_shown_at), (Some(Timestamp(60_000)), Some(Timestamp(62_000))));
    assert_eq!(kettle.last_owned_at, Some(Timestamp(70_000)));
    let by_offer: Vec<_> = offers.by_offer().map(|(offer, history)| (offer.to_owned(), history.shown)).collect();
    assert_eq!(by_offer, [("offer-1".to_owned(), 2), ("offer-2".to_owned(), 0)]);
    let lines: Vec<_> = offers.of("offer-1").map(|line| (line.channel(), line.total(Shown))).collect();
    assert_eq!(lines, [("email", 1), ("web", 1)]);
    assert!(offers.decided_after(Timestamp(59_999)) && !offers.decided_after(Timestamp(60_000)));
}

#[test]
fn an_event_leaves_a_window_at_its_time_and_a_decision_at_the_end_of_its_minute() {
    let hour = 3_600_000;
    let offers = offers(&[(1, 0, Act::Decided, 90_500), (1, 0, Act::Shown, 90_500)]);
    let line = offers.iter().next().expect("a line");
    let count = |act: Act, at: i64| line.count_after(act, act.bound(Timestamp(at), hour), u32::MAX);
    for (act, free_at) in [(Act::Decided, 120_000 + hour), (Act::Shown, 90_500 + hour)] {
        assert_eq!((count(act, free_at - 1), count(act, free_at)), (1, 0), "{act:?}");
        let leaves: Vec<_> = line.ends(act).map(|(end, _)| act.leaves(end, hour)).collect();
        assert_eq!(leaves, [Timestamp(free_at)], "{act:?}");
    }
}

#[test]
fn the_lines_are_bounded_and_the_one_touched_longest_ago_gives_way() {
    let mut offers = Offers::default();
    for index in 0..=LINES_MAX {
        let at = Timestamp(60_000 * index as i64);
        offers.record(&format!("{index:05}").into(), &"web".into(), Act::Shown, at, 1);
    }
    assert_eq!(
        (offers.len(), offers.iter().next().map(|line| line.offer().to_owned())),
        (LINES_MAX, Some("00001".into()))
    );
    let spread: Vec<_> = (0..EXPOSURES_MAX as i64 + 9).collect();
    spread.iter().for_each(|index| {
        offers.expose(&Exposure { experiment: format!("{index:05}").into(), arm: "a".into(), at: Timestamp(*index) })
    });
    assert_eq!(
        (offers.exposures().len(), offers.exposure("00008"), offers.exposure("00009").is_some()),
        (EXPOSURES_MAX, None, true)
    );
}

#[test]
fn the_marks_are_bounded() {
    let mut offers = Offers::default();
    for offer in 0..400_i64 {
        for minute in 0..48 {
            let at = Timestamp((offer * 48 + minute * 60) * 60_000);
            offers.record(&format!("{offer:05}").into(), &"web".into(), Act::Shown, at, 1);
        }
    }
    let held = offers.0.as_ref().expect("something");
    assert!(held.marks.len() <= MARKS_MAX && held.lines.len() < 400);
    assert_eq!(held.marks.len(), held.lines.iter().map(Line::len).sum::<usize>());
}

proptest! {
    #[test]
    fn a_join_is_the_fold_of_both_in_whatever_order(
        one in told(),
        other in told(),
        exposures in proptest::collection::vec((0_u8..3, 0_u8..3, 0_i64..5), 0..20),
        cut in any::<prop::sample::Index>(),
    ) {
        let all: Vec<_> = one.iter().chain(&other).copied().collect();
        let mut whole = offers(&all);
        let (mut first, mut second) = (offers(&one), offers(&other));
        let cut = if exposures.is_empty() { 0 } else { cut.index(exposures.len()) };
        for (index, (experiment, arm, at)) in exposures.iter().enumerate() {
            let exposure = exposed(*experiment, *arm, *at);
            whole.expose(&exposure);
            if index < cut { first.expose(&exposure) } else { second.expose(&exposure) }
        }
        let mut joined = first.clone();
        joined.join(&second);
        prop_assert_eq!(&joined, &whole);
        let mut joined = second.clone();
        joined.join(&first);
        prop_assert_eq!(&joined, &whole);
        for exposure in whole.exposures() {
            let earliest = exposures
                .iter()
                .filter(|(experiment, ..)| format!("e{experiment}") == exposure.experiment)
                .map(|(_, arm, at)| (*at, *arm))
                .min();
            prop_assert_eq!(earliest, Some((exposure.at.0, exposure.arm.as_bytes()[4] - b'0')));
        }
    }

    #[test]
    fn joins_are_associative(parts in proptest::collection::vec(told(), 3)) {
        let parts: Vec<Offers> = parts.iter().map(|part| offers(part)).collect();
        let join = |one: &Offers, other: &Offers| {
            let mut joined = one.clone();
            joined.join(other);
            joined
        };
        prop_assert_eq!(join(&join(&parts[0], &parts[1]), &parts[2]), join(&parts[0], &join(&parts[1], &parts[2])));
    }

    #[test]
    fn the_stored_form_and_what_was_added_give_the_same_again(before in told(), more in told(), exposure in 0_u8..3) {
        let before = offers(&before);
        let mut after = before.clone();
        more.iter().for_each(|(offer, channel, act, at)| {
            // Mostly later ones, as they come.
            tell(&mut after, *offer, *channel, *act, *at + 200_000_000 * i64::from(*offer));
        });
        after.expose(&exposed(exposure, 1, 7));
        let bytes = postcard::to_allocvec(&after).expect("bytes");
        prop_assert_eq!(&postcard::from_bytes::<Offers>(&bytes).expect("read"), &after);
        if let Some(added) = after.added_since(&before) {
            let mut laid = before.clone();
            laid.lay(&added);
            prop_assert_eq!(&laid, &after);
        }
        prop_assert_eq!(after.added_since(&after), Some(Added::default()));
        prop_assert_eq!(before.added_since(&after), None);
    }
}
