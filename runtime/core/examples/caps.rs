//! What the host's own constraints cost: 1,000 offers in the catalogue, 100 of them candidates, ten caps on each, and a person with a long history.
//!
//! `cargo run --release -p selvedge-core --example caps`

use std::hint::black_box;
use std::time::Instant;

use compact_str::CompactString;
use selvedge_core::catalog::terms::{Cap, CapWindow, Counts, Per};
use selvedge_core::change::DecidedOffer;
use selvedge_core::consent::Consent;
use selvedge_core::constraint::cap::Past;
use selvedge_core::constraint::{OfferTerms, Terms};
use selvedge_core::decision::screen::{Offered, Person, Shelf};
use selvedge_core::decision::{Contest, Judgement, fill};
use selvedge_core::offers::{Act, Offers};
use selvedge_core::time::{BusinessTime, DAY_MS, Period};
use selvedge_core::value::Timestamp;

const OFFERS: usize = 1_000;
const CANDIDATES: usize = 100;
const ROUNDS: u32 = 2_000;

fn main() {
    let time = BusinessTime::new("Europe/London").expect("a zone");
    let at = Timestamp(1_767_607_230_500);
    let cap = |counts, most, window| Cap { per: Per::Person, counts, most, window };
    let windows = [
        CapWindow::Sliding(DAY_MS / 24),
        CapWindow::Sliding(7 * DAY_MS),
        CapWindow::Calendar(Period::Month),
        CapWindow::Lifetime,
    ];
    let own: Vec<Cap> = windows.iter().map(|window| cap(Counts::Decided, 500, *window)).collect();
    let two = [cap(Counts::Decided, 2_000, windows[1]), cap(Counts::Shown, 2_000, windows[2])];
    let one = [cap(Counts::Decided, 9_000, windows[0])];
    let ids: Vec<String> = (0..OFFERS).map(|index| format!("offer-{index:04}")).collect();
    let offer = |index: usize| OfferTerms {
        id: &ids[index],
        category: Some(index % 20),
        campaign: Some(index % 10),
        caps: &own,
        ..OfferTerms::default()
    };
    let terms = Terms {
        offers: (0..OFFERS).map(offer).collect(),
        categories: vec![&two; 20],
        campaigns: vec![&two; 10],
        channels: vec![("web", &one), ("email", &one)],
        overall: &one,
    };
    let shelf = Shelf::new(&terms, vec![Offered { enabled: true, ..Offered::default() }; OFFERS]);
    let candidates: Vec<usize> = (0..OFFERS).step_by(OFFERS / CANDIDATES).collect();
    let judged =
        |offer: &usize| Judgement { offer: *offer, priority: (offer * 7 % 97) as f64, eligible: true, reason: None };
    let ranking: Vec<Judgement> = candidates.iter().map(judged).collect();
    let consent = Consent::default();
    for (lines, times) in [(0, 0), (10, 10), (60, 30), (200, 30)] {
        let past = history(&ids, at, lines, times);
        let whole = || {
            let past = Past { person: &past, household: &past };
            let person = Person {
                past,
                holdings: &(),
                consent: &consent,
                channel: 0,
                closed: None,
                held_out: false,
                held_out_of: &[],
            };
            let mut screen = shelf.screen(person, (at, &time), |_| u64::MAX);
            let admitted = candidates.iter().filter(|offer| screen.admit(**offer, false).is_ok()).count();
            assert_eq!(admitted, CANDIDATES);
            let contest = Contest { candidates: &candidates, count: 4, per_category: Some(1), ranking: Some(&ranking) };
            black_box(fill(&[contest], &mut screen, None));
        };
        println!("{lines:4} offers in the history, {times} times each, {:6} bytes: {}", past.weight(), median(whole));
    }
    let mut past = history(&ids, at, 60, 30);
    let minute = DecidedOffer { offer: CompactString::from(&ids[30]), channel: "web".into(), minute: at, count: 1 };
    println!("count a decision into a known minute: {}", median(|| past.decide(black_box(&minute))));
    let before = past.clone();
    let copied = || {
        let mut copy = before.clone();
        copy.decide(&minute);
        black_box(&copy);
    };
    println!("copy the history and count: {}", median(copied));
}

fn history(ids: &[String], at: Timestamp, lines: usize, times: i64) -> Offers {
    let mut offers = Offers::default();
    for (index, id) in ids.iter().step_by(3).take(lines).enumerate() {
        let channel = CompactString::from(if index % 4 == 0 { "email" } else { "web" });
        for time in 0..times {
            let (offer, minute) = (CompactString::from(id), Timestamp(at.0 - time * 3_700_000 - index as i64 * 60_000));
            offers.record(&offer, &channel, Act::Shown, minute, 1);
            offers.decide(&DecidedOffer { offer, channel: channel.clone(), minute, count: 1 });
        }
    }
    offers
}

fn median(mut run: impl FnMut()) -> String {
    let mut times: Vec<u128> = (0..ROUNDS)
        .map(|_| {
            let started = Instant::now();
            run();
            started.elapsed().as_nanos()
        })
        .collect();
    times.sort_unstable();
    format!("{:.2} µs", times[times.len() / 2] as f64 / 1_000.0)
}
