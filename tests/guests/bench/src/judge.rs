//! The arithmetic of the bench: a score over all values of a profile, and the priority of an offer. The plugin and the native floor run
//! these very lines.

/// Numbers of a profile: a hundred aggregates and thirty traits.
pub const NUMBERS: usize = 130;
/// Traits that are one of a few choices.
pub const CODES: usize = 20;
/// Choices of such a trait; this one stands for none.
pub const LEVELS: usize = 5;

/// How much a number weighs; signs alternate, so that no sum runs away.
const fn weight(index: usize) -> f64 {
    let size = ((index * 37) % 101) as f64 / 1e4;
    if index.is_multiple_of(2) { size } else { -size }
}

const fn weights() -> [f64; NUMBERS] {
    let mut weights = [0.0; NUMBERS];
    let mut index = 0;
    while index < NUMBERS {
        weights[index] = weight(index);
        index += 1;
    }
    weights
}

const WEIGHTS: [f64; NUMBERS] = weights();
const LEVEL: [f64; LEVELS] = [-0.2, -0.05, 0.05, 0.2, 0.0];

/// How likely a visitor is to buy, from 0 to 1: a logistic regression over everything that is known.
pub fn propensity(numbers: &[f64; NUMBERS], codes: &[usize; CODES]) -> f64 {
    let of_numbers: f64 = numbers.iter().zip(&WEIGHTS).map(|(number, weight)| number * weight).sum();
    let of_codes: f64 = codes.iter().map(|code| LEVEL[*code]).sum();
    1.0 / (1.0 + (-(of_numbers / 10.0 + of_codes)).exp())
}

/// What an offer is worth to a visitor: dear ones for those who buy, more so in the category they like.
pub fn priority(propensity: f64, taste: usize, value: f64, category: usize) -> f64 {
    let liked = if category == taste { 1.5 } else { 1.0 };
    liked * (value * propensity + 1.0 - propensity)
}
