use proptest::prelude::*;

use super::*;
use crate::change::DecidedOffer;

const NOW: Timestamp = Timestamp(40 * DAY_MS);

fn scale(zone: &str) -> Arc<Scale> {
    Arc::new(Scale { time: BusinessTime::new(zone).expect("a zone"), days: DAYS, quarters_ms: 2 * DAY_MS })
}

/// One thing that happens: with whom, with which offer, where, what, when.
type Told = (u8, u8, u8, Act, i64);

fn tell(offers: &mut Offers, (_, offer, channel, act, at): &Told) {
    let channel = CompactString::from(["web", "email"][usize::from(channel % 2)]);
    let offer = CompactString::from(format!("offer-{offer}"));
    if *act == Act::Decided {
        return offers.decide(&DecidedOffer { offer, channel, minute: Timestamp(*at), count: 1 });
    }
    offers.record(&offer, &channel, *act, Timestamp(*at), 1);
}

/// A log of a few persons, in any order of time.
fn log() -> impl Strategy<Value = Vec<Told>> {
    let act = proptest::sample::select(Act::ALL.to_vec());
    // Dense enough that histories come to tiles of quarter hours and days.
    let at = prop_oneof![0_i64..40 * DAY_MS, 39 * DAY_MS..40 * DAY_MS, 38 * DAY_MS..38 * DAY_MS + 7_200_000];
    proptest::collection::vec((0_u8..6, 0_u8..3, 0_u8..2, act, at), 0..400)
}

/// What a fold of a log comes to, told in batches of one length: the tally that was kept, and the histories.
fn folded<'l>(log: impl Iterator<Item = &'l Told>, batch: usize, scale: &Arc<Scale>) -> (Tally, Vec<Offers>) {
    let mut tally = Tally::new(Arc::clone(scale), NOW);
    let (mut shown, mut offers) = (vec![Offers::default(); 6], vec![Offers::default(); 6]);
    for (index, told) in (1..).zip(log) {
        tell(&mut offers[usize::from(told.0)], told);
        if index % batch == 0 {
            for (before, after) in shown.iter_mut().zip(&offers) {
                tally.change(before, after);
                before.clone_from(after);
            }
        }
    }
    shown.iter().zip(&offers).for_each(|(before, after)| tally.change(before, after));
    (tally, offers)
}

fn added_up(histories: &[Offers], scale: &Arc<Scale>) -> Tally {
    let mut tally = Tally::new(Arc::clone(scale), NOW);
    histories.iter().for_each(|offers| tally.change(&Offers::default(), offers));
    tally
}

#[test]
fn days_are_those_of_the_business_and_old_ones_go() {
    let scale = scale("Asia/Tokyo");
    let mut offers = Offers::default();
    let at = |day: i64, hour: i64| day * DAY_MS + hour * DAY_MS / 24;
    for at in [at(1, 0), at(38, 14), at(38, 16), at(39, 1)] {
        offers.record(&"kettle".into(), &"web".into(), Act::Shown, Timestamp(at), 1);
    }
    offers.record(&"kettle".into(), &"web".into(), Act::Dismissed, NOW, 1);
    let mut tally = Tally::new(Arc::clone(&scale), NOW);
    tally.change(&Offers::default(), &offers);
    let row = tally.row("kettle", "web").expect("a row");
    assert_eq!((row.total, row.total.of(Act::Dismissed)), (Funnel { shown: 4, ..Funnel::default() }, 0));
    // Tokyo's days begin at 15:00 UTC.
    let days: Vec<_> = row.days().iter().map(|(begin, funnel)| (begin.0, funnel.shown)).collect();
    assert_eq!(days, [(at(37, 15), 1), (at(38, 15), 2)]);
    assert_eq!((row.days_from(Act::Shown, Timestamp(at(38, 15))), row.days_from(Act::Clicked, Timestamp(0))), (2, 0));
    assert_eq!(row.days_after(Act::Shown, Timestamp(at(38, 12))), 3, "a day counts as long as any of it may");
    assert_eq!(row.quarters_after(Act::Shown, Timestamp(at(38, 16))), 2);
    assert_eq!(row.quarters_after(Act::Shown, Timestamp(at(38, 16) + QUARTER_MS)), 1);
    tally.settle(NOW.plus_ms(30 * DAY_MS));
    let days: Vec<_> = tally.row("kettle", "web").expect("a row").days().iter().map(|(begin, _)| begin.0).collect();
    assert_eq!(days, [at(38, 15)]);
    tally.change(&offers, &Offers::default());
    assert_eq!(tally.rows().count(), 0, "whoever is gone has left nothing");
}

#[test]
fn what_nobody_decided_gives_way_to_what_was() {
    let mut tally = Tally::new(scale("UTC"), NOW);
    let one = |offer: &str, act: Act| {
        let mut offers = Offers::default();
        offers.record(&offer.into(), &"web".into(), act, NOW, 1);
        offers
    };
    let nothing = Offers::default();
    let invented: Vec<Offers> = (0..ROWS_MAX + 9).map(|index| one(&format!("invented-{index}"), Act::Shown)).collect();
    invented.iter().for_each(|offers| tally.change(&nothing, offers));
    assert_eq!(tally.rows().count(), ROWS_MAX);
    tally.change(&nothing, &one("kettle", Act::Decided));
    assert_eq!((tally.rows().count(), tally.row("kettle", "web").map(|row| row.total.decided)), (ROWS_MAX, Some(1)));
    invented.iter().for_each(|offers| tally.change(offers, &nothing));
    assert_eq!(tally.rows().map(|(offer, ..)| offer.as_str()).collect::<Vec<_>>(), ["kettle"]);
}

proptest! {
    /// In whatever batches a log is folded, the tally is the sum of the histories that it gives; so it is the same after a start, and what the fold took for a
    /// duplicate counts once.
    #[test]
    fn a_tally_that_was_kept_is_one_that_was_added_up(log in log(), batch in 1_usize..50) {
        let scale = scale("America/New_York");
        let (kept, histories) = folded(log.iter(), batch, &scale);
        prop_assert_eq!(&kept, &added_up(&histories, &scale));
        let mut shown = 0;
        kept.rows().for_each(|(_, _, row)| shown += row.total.shown);
        prop_assert_eq!(shown, log.iter().filter(|told| told.3 == Act::Shown).count() as u64);
    }

    /// Three edges fold different parts of the shards, each as far as it has come. However what they tell is put together, it is the sum over one log, once
    /// somebody has come to its end; and each part counts once, however often it is told.
    #[test]
    fn merges_over_edges_are_exact(
        log in log(),
        holds in proptest::collection::vec(1_u8..8, 3),
        cuts in proptest::collection::vec(0_usize..400, 9),
        order in Just(vec![0_usize, 1, 2]).prop_shuffle(),
        grouped in any::<bool>(),
    ) {
        let scale = scale("Europe/Berlin");
        let of_shard = |shard: u8| log.iter().filter(move |told| told.0 % 3 == shard);
        let mut edges = Vec::new();
        for edge in 0..3 {
            let mut parts = Parts::default();
            for shard in 0..3_u8 {
                let whole = of_shard(shard).count();
                // Of each shard one edge holds all.
                let cut = if usize::from(shard) == edge { whole } else { cuts[edge * 3 + usize::from(shard)].min(whole) };
                if usize::from(shard) == edge || holds[edge] & (1 << shard) != 0 {
                    let (tally, _) = folded(of_shard(shard).take(cut), 7, &scale);
                    parts.take(ShardId(u16::from(shard)), Cursor { epoch: 1, seq: cut as u64 }, tally);
                }
            }
            edges.push(parts);
        }
        let [first, second, third] = [&edges[order[0]], &edges[order[1]], &edges[order[2]]];
        let mut merged = first.clone();
        if grouped {
            let mut others = second.clone();
            others.merge(third);
            merged.merge(&others);
        } else {
            merged.merge(second);
            merged.merge(third);
            merged.merge(second);
        }
        let (one_log, _) = folded(log.iter(), 1, &scale);
        prop_assert_eq!(merged.total().expect("parts"), one_log);
    }
}
