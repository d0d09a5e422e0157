//! The plugin that the load bench measures: one score over 150 values of a profile, and a ranking of offers by it.

mod judge;

use judge::{CODES, LEVELS, NUMBERS, priority, propensity};
use selvedge_guest::prelude::*;

/// The plugin.
pub struct Bench;

/// A trait that is one of four.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Choice)]
pub enum Level {
    /// Nothing to speak of.
    #[choice("none")]
    None,
    /// Some.
    #[choice("low")]
    Low,
    /// More.
    #[choice("medium")]
    Medium,
    /// Most.
    #[choice("high")]
    High,
}

fn code(level: Option<Level>) -> usize {
    level.map_or(LEVELS - 1, |level| level as usize)
}

/// The struct of everything that is known, and how it becomes two arrays.
macro_rules! visitor {
    (integers [$($integer:ident = $integer_path:literal,)+] decimals [$($decimal:ident = $decimal_path:literal,)+]
     numbers [$($number:ident = $number_path:literal,)+] levels [$($level:ident = $level_path:literal,)+]) => {
        /// Everything that is known of a visitor.
        #[derive(Reads)]
        pub struct Visitor {
            $(#[read($integer_path)] $integer: Option<i64>,)+
            $(#[read($decimal_path)] $decimal: Option<Decimal>,)+
            $(#[read($number_path)] $number: Option<f64>,)+
            $(#[read($level_path)] $level: Option<Level>,)+
        }

        impl Visitor {
            fn numbers(&self) -> [f64; NUMBERS] {
                [
                    $(self.$integer.unwrap_or(0) as f64,)+
                    $(self.$decimal.map_or(0.0, Decimal::to_f64),)+
                    $(self.$number.unwrap_or(0.0),)+
                ]
            }

            fn codes(&self) -> [usize; CODES] {
                [$(code(self.$level),)+]
            }
        }
    };
}

visitor! {
    integers [
    m00 = "agg:aggregates.m00", m01 = "agg:aggregates.m01", m02 = "agg:aggregates.m02", m03 = "agg:aggregates.m03",
    m04 = "agg:aggregates.m04", m05 = "agg:aggregates.m05", m06 = "agg:aggregates.m06", m07 = "agg:aggregates.m07",
    m08 = "agg:aggregates.m08", m09 = "agg:aggregates.m09", m10 = "agg:aggregates.m10", m11 = "agg:aggregates.m11",
    m12 = "agg:aggregates.m12", m13 = "agg:aggregates.m13", m14 = "agg:aggregates.m14", m15 = "agg:aggregates.m15",
    m16 = "agg:aggregates.m16", m17 = "agg:aggregates.m17", m18 = "agg:aggregates.m18", m19 = "agg:aggregates.m19",
    m20 = "agg:aggregates.m20", m21 = "agg:aggregates.m21", m22 = "agg:aggregates.m22", m23 = "agg:aggregates.m23",
    m24 = "agg:aggregates.m24", m25 = "agg:aggregates.m25", m26 = "agg:aggregates.m26", m27 = "agg:aggregates.m27",
    m28 = "agg:aggregates.m28", m29 = "agg:aggregates.m29", m30 = "agg:aggregates.m30", m31 = "agg:aggregates.m31",
    m32 = "agg:aggregates.m32", m33 = "agg:aggregates.m33", m34 = "agg:aggregates.m34", m35 = "agg:aggregates.m35",
    m36 = "agg:aggregates.m36", m37 = "agg:aggregates.m37", m38 = "agg:aggregates.m38", m39 = "agg:aggregates.m39",
    m40 = "agg:aggregates.m40", m41 = "agg:aggregates.m41", m42 = "agg:aggregates.m42", m43 = "agg:aggregates.m43",
    m44 = "agg:aggregates.m44", m45 = "agg:aggregates.m45", m46 = "agg:aggregates.m46", m47 = "agg:aggregates.m47",
    m48 = "agg:aggregates.m48", m49 = "agg:aggregates.m49", m50 = "agg:aggregates.m50", m51 = "agg:aggregates.m51",
    m52 = "agg:aggregates.m52", m53 = "agg:aggregates.m53", m54 = "agg:aggregates.m54", m55 = "agg:aggregates.m55",
    m56 = "agg:aggregates.m56", m57 = "agg:aggregates.m57", m58 = "agg:aggregates.m58", m59 = "agg:aggregates.m59",
    m60 = "agg:aggregates.m60", m61 = "agg:aggregates.m61", m62 = "agg:aggregates.m62", m63 = "agg:aggregates.m63",
    m64 = "agg:aggregates.m64", m65 = "agg:aggregates.m65", m66 = "agg:aggregates.m66", m67 = "agg:aggregates.m67",
    m68 = "agg:aggregates.m68", m69 = "agg:aggregates.m69", m70 = "agg:aggregates.m70_30d", m71 = "agg:aggregates.m71_30d",
    m72 = "agg:aggregates.m72_30d", m73 = "agg:aggregates.m73_30d", m74 = "agg:aggregates.m74_30d", m75 = "agg:aggregates.m75_30d",
    m76 = "agg:aggregates.m76_30d", m77 = "agg:aggregates.m77_30d", m78 = "agg:aggregates.m78_30d", m79 = "agg:aggregates.m79_30d",
    m80 = "agg:aggregates.m80_30d", m81 = "agg:aggregates.m81_30d", m82 = "agg:aggregates.m82_30d", m83 = "agg:aggregates.m83_30d",
    m84 = "agg:aggregates.m84_30d", m85 = "agg:aggregates.m85_30d", m86 = "agg:aggregates.m86_30d", m87 = "agg:aggregates.m87_30d",
    m88 = "agg:aggregates.m88_30d", m89 = "agg:aggregates.m89_30d", views = "agg:viewed.views", views_1h = "agg:viewed.views_1h",
    views_24h = "agg:viewed.views_24h", views_7d = "agg:viewed.views_7d", views_30d = "agg:viewed.views_30d", units = "agg:viewed.units",
    units_7d = "agg:viewed.units_7d", units_30d = "agg:viewed.units_30d",
    ] decimals [
    highest = "agg:viewed.highest", latest = "agg:viewed.latest",
    ] numbers [
    t00 = "trait:t00", t01 = "trait:t01", t02 = "trait:t02", t03 = "trait:t03", t04 = "trait:t04", t05 = "trait:t05",
    t06 = "trait:t06", t07 = "trait:t07", t08 = "trait:t08", t09 = "trait:t09", t10 = "trait:t10", t11 = "trait:t11",
    t12 = "trait:t12", t13 = "trait:t13", t14 = "trait:t14", t15 = "trait:t15", t16 = "trait:t16", t17 = "trait:t17",
    t18 = "trait:t18", t19 = "trait:t19", t20 = "trait:t20", t21 = "trait:t21", t22 = "trait:t22", t23 = "trait:t23",
    t24 = "trait:t24", t25 = "trait:t25", t26 = "trait:t26", t27 = "trait:t27", t28 = "trait:t28", t29 = "trait:t29",
    ] levels [
    t30 = "trait:t30", t31 = "trait:t31", t32 = "trait:t32", t33 = "trait:t33", t34 = "trait:t34",
    t35 = "trait:t35", t36 = "trait:t36", t37 = "trait:t37", t38 = "trait:t38", t39 = "trait:t39",
    t40 = "trait:t40", t41 = "trait:t41", t42 = "trait:t42", t43 = "trait:t43", t44 = "trait:t44",
    t45 = "trait:t45", t46 = "trait:t46", t47 = "trait:t47", t48 = "trait:t48", t49 = "trait:t49",
    ]
}

/// The one score.
#[derive(Scores)]
pub struct Propensity {
    propensity: Option<f64>,
}

impl Score for Bench {
    type Visitor = Visitor;
    type Scores = Propensity;

    fn score(visitor: &Visitor) -> Result<Propensity, Stop> {
        Ok(Propensity { propensity: Some(propensity(&visitor.numbers(), &visitor.codes())) })
    }
}

/// What the ranking reads of a visitor.
#[derive(Reads)]
pub struct Taste {
    #[read("score:bench.propensity")]
    propensity: Option<f64>,
    #[read("trait:t30")]
    liked: Option<Level>,
}

/// What is read of an offer.
#[derive(Reads)]
pub struct Candidate {
    #[read("offer:value")]
    value: Option<f64>,
    #[read("offer:category")]
    category: Option<Level>,
}

/// Why an offer stands where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Choice)]
pub enum Reason {
    /// The visitor's taste.
    #[choice("liked")]
    Liked,
    /// Its value.
    #[choice("valuable")]
    Valuable,
}

impl Rank for Bench {
    type Visitor = Taste;
    type Offer = Candidate;
    type Reason = Reason;

    fn rank(visitor: &Taste, offers: &[Candidate]) -> Result<Vec<Judgement<Reason>>, Stop> {
        let (propensity, taste) = (visitor.propensity.unwrap_or(0.0), code(visitor.liked));
        Ok(offers.iter().map(|offer| judge(offer, propensity, taste)).collect())
    }
}

fn judge(offer: &Candidate, propensity: f64, taste: usize) -> Judgement<Reason> {
    let (value, category) = (offer.value.unwrap_or(1.0), code(offer.category));
    let reason = if category == taste { Reason::Liked } else { Reason::Valuable };
    Judgement::offer(priority(propensity, taste, value, category)).because(reason)
}

selvedge_guest::export!(Bench: score, rank);
