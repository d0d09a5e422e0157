//! What conditions come to, also against a naive evaluator of random ones; and faults of names, types and cost.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::value::RawValue;
use serde_json::{Value as Json, json};

use super::*;
use crate::aggregate::{Contribution, Definition, Definitions};
use crate::audience::Audience;
use crate::effects::Effects;
use crate::fragment::{EventRef, Fragment};
use crate::offers::{Act, Offers};
use crate::time::BusinessTime;
use crate::traits::TraitSources;
use crate::value::{Kind, Timestamp};
use crate::view::{NO_ENTITIES, Schema, ScoreName, Subject};

const NOW: &str = "2026-07-06T11:30:00Z";

fn schema() -> Schema {
    let define = |name, operator, windows: &[&str], kind| {
        let windows: Vec<String> = windows.iter().map(|window| (*window).to_owned()).collect();
        Definition::parse(name, operator, &[], &windows, kind, None).expect("a good definition")
    };
    let own = [
        define("orders", "sum", &[], Kind::Integer),
        define("revenue", "sum", &["lifetime", "7d"], Kind::Decimal),
        define("last_at", "max", &[], Kind::Instant),
        define("viewed", "sum-by-key", &[], Kind::Integer),
    ];
    let mut definitions = Definitions::new(BusinessTime::new("Europe/London").expect("a zone"));
    definitions.add("retail", &own, None).expect("good definitions");
    Schema { definitions, scores: vec![ScoreName { name: "retail.p_alive".into(), unit: None }] }
}

fn condition(text: &str) -> Condition {
    let expression = Expression::parse(text).unwrap_or_else(|fault| panic!("{text}: {fault}"));
    Condition { pointer: "/offers/0/eligible".into(), label: "offer \"a\"".into(), expression: Arc::new(expression) }
}

fn compile(texts: &[&str], audiences: &[&str]) -> Result<Conditions, String> {
    let conditions: Vec<_> = texts.iter().map(|text| condition(text)).collect();
    let audience =
        |(index, name): (usize, &&str)| Audience { name: (*name).into(), condition: ConditionId(index as u32) };
    let audiences: Vec<_> = audiences.iter().enumerate().map(audience).collect();
    Conditions::compile(&conditions, &audiences, &schema()).map_err(|error| error.to_string())
}

/// What a visitor is asked about.
struct World {
    schema: Schema,
    fragment: Fragment,
    scores: Vec<Option<f64>>,
    context: Option<Box<RawValue>>,
    channel: &'static str,
}

impl World {
    fn new(traits: &[(&str, Json)], context: Option<Json>) -> Self {
        let schema = schema();
        let at = Timestamp::parse(NOW).expect("an instant");
        let mut fragment = Fragment::empty(&schema.definitions);
        let contribution = |state, key: &str, value| Contribution { state, key: key.into(), value };
        let effects = Effects {
            traits: traits.iter().map(|(name, value)| ((*name).into(), value.to_string().into())).collect(),
            contributions: vec![
                contribution(0, "", 3),
                contribution(1, "", 100_100_000),
                contribution(2, "", at.0 - 3_600_000),
                contribution(3, "toys", 2),
                contribution(3, "garden", 5),
            ],
            source: "test".into(),
            ..Effects::default()
        };
        let event = EventRef { at: at.plus_ms(-60_000), id_hash: [1; 16], received_at: at };
        let _ = fragment.apply_event(&schema.definitions, &event, &effects);
        let mut offers = Offers::default();
        offers.record(&"wooden-train".into(), &"web".into(), Act::Shown, at.plus_ms(-7_200_000), 2);
        fragment.offers = offers;
        let context = context.map(|context| RawValue::from_string(context.to_string()).expect("JSON"));
        Self { schema, fragment, scores: vec![Some(0.25)], context, channel: "web" }
    }

    fn ask<T>(&self, conditions: &Conditions, ask: impl FnOnce(&Evaluation<'_>) -> T) -> T {
        let sources = TraitSources::default();
        let at = Timestamp::parse(NOW).expect("an instant");
        let moment = self.fragment.moment(&self.schema.definitions, &sources, at);
        let subject = Subject {
            fragment: &self.fragment,
            entities: &NO_ENTITIES,
            trait_sources: &sources,
            scores: &self.scores,
            context: self.context.as_deref(),
            channel: self.channel,
            moment: &moment,
            seed: 0,
        };
        ask(&Evaluation::new(conditions, &self.schema.definitions, subject))
    }

    fn met(&self, text: &str) -> bool {
        let conditions = compile(&[text], &[]).unwrap_or_else(|fault| panic!("{text}: {fault}"));
        self.ask(&conditions, |evaluation| evaluation.met(ConditionId(0)))
    }
}

fn somebody() -> World {
    let traits = [
        ("country", json!("GB")),
        ("age", json!(42)),
        ("points", json!("1200")),
        ("zip", json!(10115)),
        ("vip", json!(true)),
        ("tags", json!(["new", 7, true])),
        ("address", json!({"city": "Köln", "geo": {"lat": 50.94, "lon": 6.96}})),
        ("odd name", json!("a \"b\"")),
        ("member_since", json!("2020-01-01T00:00:00Z")),
    ];
    let context = json!({"page": {"path": "/garden/roses"}, "cart": {"items": ["K1", "K2"], "total": 99.5}, "country": "GB", "shape": "flat"});
    World::new(&traits, Some(context))
}

#[test]
fn conditions_hold_of_what_is_known() {
    let world = somebody();
    for met in [
        "true",
        "trait.country == \"GB\" && trait.age >= 18",
        "trait.country in [\"IE\", \"GB\"] && trait.age in [41, 42] && !(trait.age in [-1, 0])",
        "trait.points > 1000 && trait.zip == \"10115\" && trait.zip == 10115",
        "trait.vip && trait.vip == true && !(trait.vip == false)",
        "\"new\" in trait.tags && 7 in trait.tags && size(trait.tags) == 3",
        "trait.address.city == \"Köln\" && size(trait.address.city) == 4",
        "trait[\"odd name\"].startsWith(\"a \") && trait[\"odd name\"].endsWith(\"\\\"\") && trait['odd name'].contains('b')",
        "has(trait.age) && !has(trait.none) && trait.none == null && null != trait.age && has(trait.address.geo)",
        "trait.country == ctx.country && !(trait.country == trait.age)",
        "ctx.page.path.startsWith(\"/garden\") && \"K2\" in ctx.cart.items && ctx.cart.total < 100",
        "agg.retail.orders == 3 && agg.retail.revenue == 100.1 && agg.retail.revenue_7d > 100",
        "agg.retail.viewed.garden == 5 && agg.retail.viewed[\"none\"] == 0 && \"toys\" in agg.retail.viewed",
        "now - agg.retail.last_at == duration(\"1h\") && agg.retail.last_at < now",
        "score.retail.p_alive * 4 == 1 && score.retail.p_alive != 1",
        "offers[\"wooden-train\"].shown == 2 && offers.kettle.shown == 0 && !has(offers.kettle.last_shown_at)",
        "now - offers[\"wooden-train\"].last_shown_at >= duration(\"1h30m\") && duration(\"2h\") / duration(\"30m\") == 4",
        "channel == \"web\" && ctx.channel == channel",
        "now > timestamp(\"2026-07-06T11:00:00Z\") && now < timestamp(\"2026-07-06T11:00:00Z\") + duration(\"1d\")",
        "trait.member_since < now && timestamp(trait.member_since) + duration(\"365d\") < now",
        "distance_km(trait.address.geo.lat, trait.address.geo.lon, 52.52, 13.405) > 470.0",
        "distance_km(trait.address.geo.lat, trait.address.geo.lon, 52.52, 13.405) < 480",
        "distance_km(0, 0, 0, 180) > 20015 && distance_km(1, 1, 1, 1) == 0",
        // In the business's zone, where the clock shows an hour more; a Monday.
        "now.getHours() == 12 && now.getHours(\"UTC\") == 11 && now.getMinutes() == 30 && now.getDayOfWeek() == 1",
        "now.getFullYear() == 2026 && now.getMonth() == 6 && now.getDate() == 6",
        "(trait.age > 18 ? \"adult\" : \"child\") == \"adult\" && (trait.vip ? 2 : 1) % 2 == 0",
        "7 / 2 == 3.5 && -trait.age < 0 && 2 * 3 + 1 - 1 == 6",
        "trait.country < \"HR\" && trait.country >= \"GB\"",
        // One side decides.
        "trait.none > 3 || true",
        "!(trait.none > 3 && false)",
    ] {
        assert!(world.met(met), "{met}");
    }
}

#[test]
fn what_is_missing_is_never_met_and_never_an_error() {
    let world = somebody();
    for unmet in [
        "false",
        "trait.none == \"x\"",
        "trait.none != \"x\"",
        "!(trait.none == \"x\")",
        "trait.none > 3 || trait.age > 100",
        "trait.country > 3",
        "trait.country",
        "trait.age / 0 > 1 || trait.age / 0 <= 1",
        "trait.none ? true : true",
        "trait.address == \"x\"",
        "trait.address.city.none == \"x\"",
        "ctx.shape.path == \"x\"",
        "ctx.page == \"x\" || ctx.none.at.all == 3",
        "\"x\" in trait.country",
        "trait.country < now",
        "trait.tags == trait.tags",
        "now - offers.kettle.last_shown_at > duration(\"1h\")",
        "household.trait.plan == \"x\" || has(household.agg.retail.orders)",
        "distance_km(trait.country, 1, 2, 3) > 0",
    ] {
        assert!(!world.met(unmet), "{unmet}");
    }
    let unknown = World::new(&[], None);
    assert!(!unknown.met("ctx.page.path == \"/\"") && unknown.met("!has(ctx.page) && agg.retail.orders == 3"));
    // An audience is met or it is not: whoever asks for one always has an answer.
    let conditions = compile(&["trait.none > 3", "!audience(\"rich\")"], &["rich"]).expect("good conditions");
    assert!(world.ask(&conditions, |evaluation| evaluation.met(ConditionId(1))));
}

#[test]
fn audiences_are_asked_through_and_all_inputs_are_told() {
    let conditions = compile(
        &[
            "trait.age > 18",
            "audience('adult') && trait.country == 'GB'",
            "audience('brits') || agg.retail.last_at > now",
        ],
        &["adult", "brits"],
    );
    let conditions = conditions.expect("good conditions");
    somebody().ask(&conditions, |evaluation| {
        assert!(evaluation.met(ConditionId(2)));
        let told = |ids: &[u32]| -> Vec<String> {
            let reads = conditions.reads_of(ids.iter().copied().map(ConditionId));
            reads
                .into_iter()
                .map(|read| evaluation.input(read))
                .map(|(name, value)| format!("{name}={value}"))
                .collect()
        };
        let all = [
            "agg.retail.last_at=\"2026-07-06T10:30:00Z\"",
            "now=\"2026-07-06T11:30:00Z\"",
            "trait.age=42",
            "trait.country=\"GB\"",
        ];
        assert_eq!(
            (told(&[2]), told(&[0, 1])),
            (all.map(str::to_owned).into(), all[2..].iter().map(|&one| one.to_owned()).collect())
        );
    });
    assert!(conditions.scores().is_empty() && conditions.entities().is_empty());
    let needs = compile(&["household.trait.plan == 'x' && score.retail.p_alive > 0.5"], &[]).expect("a good condition");
    assert_eq!((needs.scores(), needs.entities()), (&[0][..], &[0][..]));
}

#[test]
fn what_does_not_fit_says_where_and_what_is_near() {
    let fault = |text: &str| compile(&[text], &[]).map(|_| ()).expect_err(text);
    let all = [
        (
            "true && agg.retail.order > 1",
            "at character 9: no active plugin defines the aggregate \"retail.order\"; did you mean \"retail.orders\"?",
        ),
        ("score.retail.alive > 1", "did you mean \"retail.p_alive\"?"),
        ("offers.a.show > 1", "an offer's history has no \"show\"; did you mean \"shown\"?"),
        (
            "agg.retail.orders",
            "at character 1: `agg.retail.orders` is a number, no condition; compare it with something",
        ),
        ("agg.retail.orders.x > 1", "is no aggregate by key"),
        ("agg.retail.viewed > 1", "is a list"),
        ("now > 3", "compares an instant with a number"),
        ("1 + \"a\" == 2", "`+` does not go with a number and a text"),
        ("trait.a + \"b\" == \"ab\"", "`+` does not go with any value and a text"),
        ("trait.a in [1, \"b\"]", "has texts and numbers in it; it has either"),
        ("trait.a in [trait.b]", "has `trait.b` in it"),
        ("trait.a in []", "with something in it"),
        ("\"a\" in agg.retail.orders", "`agg.retail.orders` is a number, no list"),
        ("audience(\"none\")", "there is no audience \"none\""),
        ("timestamp(\"today\") < now", "not an RFC 3339 instant"),
        ("duration(\"a while\") > duration(\"1h\")", "duration() takes a text"),
        ("now.getHours(\"Europe/Londn\") > 1", "unknown time zone"),
        ("(true ? 1 : \"a\") == 1", "is a text where a number is needed"),
        ("1 && true", "is a number where true or false is needed"),
        ("true == (1 == 1) && (1 == 1) == (2 == 2)", "join them with `&&`"),
        ("null == 1", "`null` is only compared with a name"),
        ("household.x.y == 1", "of a household there is household.trait"),
        ("size(agg.retail.orders) == 1", "takes a text or a list, not a number"),
    ];
    for (text, part) in all {
        let fault = fault(text);
        assert!(fault.starts_with("/offers/0/eligible: offer \"a\": at character "), "{fault}");
        assert!(fault.contains(part), "{fault}");
    }
}

#[test]
fn what_costs_too_much_is_refused() {
    let lists: Vec<String> =
        (0..3).map(|of| format!("\"{of}\" in agg.retail.viewed && agg.retail.viewed.k{of} > 1")).collect();
    let dear = compile(&[&lists.join(" && ")], &[]).expect("three of them, and one list");
    assert!((350..600).contains(&dear.cost(ConditionId(0))), "{}", dear.cost(ConditionId(0)));
    let keys: Vec<String> = (0..45).map(|of| format!("agg.retail.viewed.k{of} > 1")).collect();
    let too_dear = compile(&[&keys.join(" && ")], &[]).map(|_| ()).expect_err("45 of them");
    assert!(too_dear.contains("at most 2000 are allowed"), "{too_dear}");
    // What audiences cost counts, once.
    let (one, other) = (keys[..20].join(" && "), keys[20..40].join(" && "));
    let both = [one.as_str(), other.as_str(), "audience('one') && audience('other')"];
    assert!(compile(&both, &["one", "other"]).map(|_| ()).expect_err("40 of them").contains("steps"));
    assert!(compile(&[&one, "audience('one') && audience('one') && audience('one')"], &["one"]).is_ok());
    let cheap = compile(&["trait.country == \"GB\""], &[]).expect("a good condition");
    assert!(cheap.cost(ConditionId(0)) < 10);
}

/// A random expression, which is also evaluated as it stands.
#[derive(Clone, Debug)]
enum Part {
    Flag(bool),
    Number(i32),
    Text(&'static str),
    /// `trait.NAME` or `ctx.NAME`.
    Read(&'static str, &'static str),
    Channel,
    Orders,
    Score,
    Shown(&'static str),
    Has(&'static str, &'static str),
    Unary(&'static str, Box<Part>),
    Flags(&'static str, Box<(Part, Part)>),
    Numbers(&'static str, Box<(Part, Part)>),
    Compare(&'static str, Box<(Part, Part)>),
    CompareTexts(&'static str, Box<(Part, Part)>),
    Same(Box<(Part, Part)>),
    Among(Box<Part>, Vec<i32>),
    AmongTexts(Box<Part>, Vec<&'static str>),
    Within(Box<Part>, &'static str),
    Ask(&'static str, Box<(Part, Part)>),
    Choose(Box<(Part, Part, Part)>),
    Audience(u32),
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const TEXTS: [&str; 5] = ["", "x", "xy", "-1", "3"];

impl Part {
    fn cel(&self) -> String {
        match self {
            Self::Flag(flag) => flag.to_string(),
            Self::Number(number) => format!("({number})"),
            Self::Text(text) => format!("{text:?}"),
            Self::Read(root, name) => format!("{root}.{name}"),
            Self::Channel => "channel".to_owned(),
            Self::Orders => "agg.retail.orders".to_owned(),
            Self::Score => "score.retail.p_alive".to_owned(),
            Self::Shown(offer) => format!("offers[{offer:?}].shown"),
            Self::Has(root, name) => format!("has({root}.{name})"),
            Self::Unary(operator, inner) => format!("{operator}({})", inner.cel()),
            Self::Flags(operator, both)
            | Self::Numbers(operator, both)
            | Self::Compare(operator, both)
            | Self::CompareTexts(operator, both) => format!("({} {operator} {})", both.0.cel(), both.1.cel()),
            Self::Same(both) => format!("({} == {})", both.0.cel(), both.1.cel()),
            Self::Among(member, list) => format!("({} in {list:?})", member.cel()),
            Self::AmongTexts(member, list) => format!("({} in {list:?})", member.cel()),
            Self::Within(member, name) => format!("({} in trait.{name})", member.cel()),
            Self::Ask(method, both) => format!("{}.{method}({})", both.0.cel(), both.1.cel()),
            Self::Choose(three) => format!("({} ? {} : {})", three.0.cel(), three.1.cel(), three.2.cel()),
            Self::Audience(index) => format!("audience(\"{index}\")"),
        }
    }

    fn json<'j>(&self, known: &'j Known) -> &'j Json {
        match self {
            Self::Read("trait", name) => &known.traits[NAMES.iter().position(|known| known == name).expect("known")],
            Self::Read(_, name) => &known.context[NAMES.iter().position(|known| known == name).expect("known")],
            _ => &Json::Null,
        }
    }

    fn truth(&self, known: &Known) -> Option<bool> {
        match self {
            Self::Flag(flag) => Some(*flag),
            Self::Read(..) => self.json(known).as_bool(),
            Self::Has(root, name) => Some(!Self::Read(root, name).json(known).is_null()),
            Self::Unary(_, inner) => Some(!inner.truth(known)?),
            Self::Flags(operator, both) => {
                let decisive = *operator == "||";
                match (both.0.truth(known), both.1.truth(known)) {
                    (one, other) if one == Some(decisive) || other == Some(decisive) => Some(decisive),
                    (Some(_), Some(_)) => Some(!decisive),
                    _ => None,
                }
            }
            Self::Compare(operator, both) => {
                let ordering = both.0.number(known)?.partial_cmp(&both.1.number(known)?)?;
                Some(holds(operator, ordering))
            }
            Self::CompareTexts(operator, both) => Some(holds(operator, both.0.text(known)?.cmp(&both.1.text(known)?))),
            Self::Same(both) => match (both.0.json(known), both.1.json(known)) {
                (Json::Null | Json::Array(_), _) | (_, Json::Null | Json::Array(_)) => None,
                (Json::Bool(one), Json::Bool(other)) => Some(one == other),
                (Json::Bool(_), _) | (_, Json::Bool(_)) => Some(false),
                (one, other) if one.is_number() && other.is_number() => Some(one.as_f64() == other.as_f64()),
                _ => Some(both.0.text(known) == both.1.text(known)),
            },
            Self::Among(member, list) => {
                let member = member.number(known)?;
                Some(list.iter().any(|number| f64::from(*number) == member))
            }
            Self::AmongTexts(member, list) => Some(list.contains(&member.text(known)?.as_str())),
            Self::Within(member, name) => {
                let text = member.text(known)?;
                let list = Self::Read("trait", name).json(known).as_array()?;
                Some(list.iter().any(|element| text_of(element).as_deref() == Some(&text)))
            }
            Self::Ask(method, both) => {
                let (text, part) = (both.0.text(known)?, both.1.text(known)?);
                Some(match *method {
                    "startsWith" => text.starts_with(&part),
                    "endsWith" => text.ends_with(&part),
                    _ => text.contains(&part),
                })
            }
            Self::Choose(three) => {
                if three.0.truth(known)? {
                    three.1.truth(known)
                } else {
                    three.2.truth(known)
                }
            }
            Self::Audience(index) => Some(known.audiences[*index as usize]),
            _ => None,
        }
    }

    fn number(&self, known: &Known) -> Option<f64> {
        let number = match self {
            Self::Number(number) => f64::from(*number),
            Self::Read(..) => match self.json(known) {
                Json::String(text) => text.parse().ok()?,
                other => other.as_f64()?,
            },
            Self::Orders => 3.0,
            Self::Score => 0.25,
            Self::Shown(offer) => {
                if *offer == "wooden-train" {
                    2.0
                } else {
                    0.0
                }
            }
            Self::Unary(_, inner) => -inner.number(known)?,
            Self::Numbers(operator, both) => {
                let (one, other) = (both.0.number(known)?, both.1.number(known)?);
                match *operator {
                    "+" => one + other,
                    "-" => one - other,
                    "*" => one * other,
                    "/" => one / other,
                    _ => one % other,
                }
            }
            Self::Choose(three) => {
                if three.0.truth(known)? {
                    three.1.number(known)?
                } else {
                    three.2.number(known)?
                }
            }
            _ => return None,
        };
        Some(number).filter(|number| number.is_finite())
    }

    fn text(&self, known: &Known) -> Option<String> {
        match self {
            Self::Text(text) => Some((*text).to_owned()),
            Self::Read(..) => text_of(self.json(known)),
            Self::Channel => Some("web".to_owned()),
            Self::Choose(three) => {
                if three.0.truth(known)? {
                    three.1.text(known)
                } else {
                    three.2.text(known)
                }
            }
            _ => None,
        }
    }
}

fn text_of(json: &Json) -> Option<String> {
    match json {
        Json::String(text) => Some(text.clone()),
        Json::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn holds(operator: &str, ordering: std::cmp::Ordering) -> bool {
    match operator {
        "==" => ordering.is_eq(),
        "!=" => ordering.is_ne(),
        "<" => ordering.is_lt(),
        "<=" => ordering.is_le(),
        ">" => ordering.is_gt(),
        _ => ordering.is_ge(),
    }
}

#[derive(Debug)]
struct Known {
    traits: [Json; 4],
    context: [Json; 4],
    audiences: Vec<bool>,
}

fn any_json() -> impl Strategy<Value = Json> {
    let text = || prop::sample::select(&TEXTS[..]);
    prop_oneof![
        2 => Just(Json::Null),
        2 => any::<bool>().prop_map(Json::from),
        3 => (-4..5_i32).prop_map(Json::from),
        3 => text().prop_map(Json::from),
        1 => prop::collection::vec(text(), 0..3).prop_map(Json::from),
    ]
}

fn read() -> impl Strategy<Value = Part> {
    (prop::sample::select(&["trait", "ctx"][..]), prop::sample::select(&NAMES[..]))
        .prop_map(|(root, name)| Part::Read(root, name))
}

fn number(depth: u32) -> BoxedStrategy<Part> {
    let leaf = prop_oneof![
        (-4..5_i32).prop_map(Part::Number),
        read(),
        Just(Part::Orders),
        Just(Part::Score),
        prop::sample::select(&["wooden-train", "kettle"][..]).prop_map(Part::Shown),
    ];
    if depth == 0 {
        return leaf.boxed();
    }
    let two = || (number(depth - 1), number(depth - 1));
    prop_oneof![
        3 => leaf,
        1 => number(depth - 1).prop_map(|inner| Part::Unary("-", inner.into())),
        3 => (prop::sample::select(&["+", "-", "*", "/", "%"][..]), two()).prop_map(|(operator, both)| Part::Numbers(operator, both.into())),
        1 => (flag(depth - 1), number(depth - 1), number(depth - 1)).prop_map(|three| Part::Choose(three.into())),
    ]
    .boxed()
}

fn text(depth: u32) -> BoxedStrategy<Part> {
    let leaf = prop_oneof![prop::sample::select(&TEXTS[..]).prop_map(Part::Text), read(), Just(Part::Channel)];
    if depth == 0 {
        return leaf.boxed();
    }
    let choice = (flag(depth - 1), text(depth - 1), text(depth - 1)).prop_map(|three| Part::Choose(three.into()));
    prop_oneof![4 => leaf, 1 => choice].boxed()
}

fn flag(depth: u32) -> BoxedStrategy<Part> {
    let leaf = prop_oneof![
        1 => any::<bool>().prop_map(Part::Flag),
        2 => read(),
        2 => read().prop_map(|read| if let Part::Read(root, name) = read { Part::Has(root, name) } else { read }),
        1 => (0..2_u32).prop_map(Part::Audience),
    ];
    if depth == 0 {
        return leaf.boxed();
    }
    let orders = || prop::sample::select(&["==", "!=", "<", "<=", ">", ">="][..]);
    // Two reads that are compared as they are, are compared as numbers or for being the same.
    let typed_number = move || (number(depth - 1), (-4..5_i32).prop_map(Part::Number));
    let typed_text = move || (text(depth - 1), prop::sample::select(&TEXTS[..]).prop_map(Part::Text));
    prop_oneof![
        1 => leaf,
        2 => flag(depth - 1).prop_map(|inner| Part::Unary("!", inner.into())),
        4 => (prop::sample::select(&["&&", "||"][..]), flag(depth - 1), flag(depth - 1))
            .prop_map(|(operator, one, other)| Part::Flags(operator, (one, other).into())),
        3 => (orders(), typed_number()).prop_map(|(operator, both)| Part::Compare(operator, both.into())),
        3 => (orders(), typed_text()).prop_map(|(operator, both)| Part::CompareTexts(operator, both.into())),
        1 => (read(), read()).prop_map(|both| Part::Same(both.into())),
        1 => (number(depth - 1), prop::collection::vec(-4..5_i32, 1..4)).prop_map(|(member, list)| Part::Among(member.into(), list)),
        1 => (text(depth - 1), prop::collection::vec(prop::sample::select(&TEXTS[..]), 1..4))
            .prop_map(|(member, list)| Part::AmongTexts(member.into(), list)),
        1 => (text(depth - 1), prop::sample::select(&NAMES[..])).prop_map(|(member, name)| Part::Within(member.into(), name)),
        1 => (prop::sample::select(&["startsWith", "endsWith", "contains"][..]), text(0), text(0))
            .prop_map(|(method, one, other)| Part::Ask(method, (one, other).into())),
        1 => (flag(depth - 1), flag(depth - 1), flag(depth - 1)).prop_map(|three| Part::Choose(three.into())),
    ]
    .boxed()
}

proptest! {
    #[test]
    fn compiled_conditions_come_to_what_a_naive_evaluator_says(
        parts in prop::collection::vec(flag(3), 4),
        traits in prop::array::uniform4(any_json()),
        context in prop::array::uniform4(any_json()),
    ) {
        // The first one names no audience, the second the first only.
        let own = ["trait.a == 'x'".to_owned(), "audience('0') || has(ctx.b)".to_owned()];
        let own_met = [traits[0] == json!("x"), traits[0] == json!("x") || !context[1].is_null()];
        let texts: Vec<String> = own.into_iter().chain(parts.iter().map(Part::cel)).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let conditions = match compile(&texts, &["0", "1"]) {
            Ok(conditions) => conditions,
            // Two texts, numbers or conditions that nothing tells apart from each other.
            Err(fault) => return Err(TestCaseError::fail(format!("{texts:?}: {fault}"))),
        };
        let named: Vec<(&str, Json)> = NAMES.into_iter().zip(traits.iter().cloned()).collect();
        let members: serde_json::Map<String, Json> = NAMES.map(str::to_owned).into_iter().zip(context.iter().cloned()).collect();
        let world = World::new(&named, Some(members.into()));
        let known = Known { traits, context, audiences: own_met.to_vec() };
        world.ask(&conditions, |evaluation| {
            // Asked twice, and the last one first: what is kept is what it was.
            for (index, part) in parts.iter().enumerate().rev().chain(parts.iter().enumerate()) {
                let met = evaluation.met(ConditionId(index as u32 + 2));
                prop_assert_eq!(met, part.truth(&known) == Some(true), "{} with {:?}", part.cel(), &known);
            }
            Ok(())
        })?;
    }
}

#[test]
fn a_hundred_conditions_are_asked_of_a_thousand_offers() {
    let texts: Vec<String> = (0..100)
        .map(|of| {
            format!("trait.country == \"GB\" && trait.age > {of} && (agg.retail.orders > 2 || ctx.cart.total > {of})")
        })
        .collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let conditions = compile(&texts, &[]).expect("good conditions");
    let world = somebody();
    let rounds = 3_usize;
    let mut met = 0;
    for _ in 0..rounds {
        world.ask(&conditions, |evaluation| {
            met += (0..1_000_u32).filter(|offer| evaluation.met(ConditionId(offer % 100))).count();
        });
    }
    assert_eq!(met, 42 * 10 * rounds);
}
