//! The newest amounts of a series, packed. Nearly all of them are an instant and 64 bits, and many series have one: that takes no place of its own in memory.

use crate::aggregate::insert_tight;

/// An amount in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) place: (i64, u64),
    /// The sum of the tail up to and with this one.
    pub(super) upto: i128,
    /// The sum of the absolute amounts at this place.
    pub(super) magnitude: i128,
}

/// Amounts by their places, ascending. The same amounts are packed the same way, however they came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tail(Packed);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Packed {
    /// One plain amount and its instant.
    One(i64, i64),
    /// None or several: instants, and the sums up to and with them. Their places are their instants, each stands for one amount or for several of one sign,
    /// and no sum is more than 64 bits.
    Plain(Vec<(i64, i64)>),
    /// At least one of which that does not hold.
    Full(Box<[Amount]>),
}

impl Default for Tail {
    fn default() -> Self {
        Self::NONE
    }
}

impl Tail {
    /// Without any.
    pub(super) const NONE: Self = Self(Packed::Plain(Vec::new()));

    #[inline]
    pub(super) fn len(&self) -> usize {
        match &self.0 {
            Packed::One(..) => 1,
            Packed::Plain(list) => list.len(),
            Packed::Full(list) => list.len(),
        }
    }

    /// The instant of one.
    #[inline]
    pub(super) fn at(&self, index: usize) -> Option<i64> {
        match &self.0 {
            Packed::One(at, _) => (index == 0).then_some(*at),
            Packed::Plain(list) => list.get(index).map(|(at, _)| *at),
            Packed::Full(list) => list.get(index).map(|amount| amount.place.0),
        }
    }

    /// The place of the oldest.
    pub(super) fn first_place(&self) -> Option<(i64, u64)> {
        match &self.0 {
            Packed::Full(list) => list.first().map(|amount| amount.place),
            Packed::One(..) | Packed::Plain(_) => self.at(0).map(|at| (at, 0)),
        }
    }

    /// The instant of the newest.
    #[inline]
    pub(super) fn newest(&self) -> Option<i64> {
        self.at(self.len().wrapping_sub(1))
    }

    /// The sum of the first so many.
    #[inline]
    pub(super) fn sum_of(&self, count: usize) -> i128 {
        let Some(last) = count.checked_sub(1) else { return 0 };
        match &self.0 {
            Packed::One(_, amount) => i128::from(*amount),
            Packed::Plain(list) => i128::from(list[last].1),
            Packed::Full(list) => list[last].upto,
        }
    }

    /// How many come first that are no later than an instant. Most that are asked for begin near the end, so the search does.
    #[inline]
    pub(super) fn count_until(&self, instant: i64) -> usize {
        match &self.0 {
            Packed::One(at, _) => usize::from(*at <= instant),
            Packed::Plain(list) => count_from_behind(list, |(at, _)| *at <= instant),
            Packed::Full(list) => count_from_behind(list, |amount| amount.place.0 <= instant),
        }
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = Amount> {
        let mut before = 0;
        (0..self.len()).map(move |index| match &self.0 {
            Packed::Full(list) => list[index],
            Packed::One(..) | Packed::Plain(_) => {
                let upto = self.sum_of(index + 1);
                let magnitude = (upto - before).abs();
                before = upto;
                Amount { place: (self.at(index).unwrap_or_default(), 0), upto, magnitude }
            }
        })
    }

    /// Adds an amount at its place, of a magnitude that may be more than its own.
    pub(super) fn add(&mut self, place: (i64, u64), amount: i128, magnitude: i128) {
        if place.1 != 0 || magnitude != amount.abs() || !self.append(place.0, amount) {
            self.edit(|list| {
                let index = list.partition_point(|held| held.place < place);
                if list.get(index).is_none_or(|held| held.place != place) {
                    let upto = index.checked_sub(1).map_or(0, |before| list[before].upto);
                    list.reserve_exact(1);
                    list.insert(index, Amount { place, upto, magnitude: 0 });
                }
                list[index].magnitude += magnitude;
                list[index..].iter_mut().for_each(|later| later.upto += amount);
            });
        }
    }

    /// Adds a plain amount behind plain ones, or to the last of them. False where it is not like that: then nothing has happened.
    fn append(&mut self, at: i64, amount: i128) -> bool {
        match self.newest() {
            Some(newest) if newest > at => return false,
            Some(newest) if newest == at => return self.swell(amount),
            _ => {}
        }
        let upto = self.sum_of(self.len()).checked_add(amount);
        let Some(Ok(upto)) = upto.map(i64::try_from) else { return false };
        match &mut self.0 {
            Packed::Plain(list) if list.is_empty() => self.0 = Packed::One(at, upto),
            Packed::Plain(list) => insert_tight(list, list.len(), (at, upto)),
            Packed::One(first, before) => self.0 = Packed::Plain(vec![(*first, *before), (at, upto)]),
            Packed::Full(_) => return false,
        }
        true
    }

    /// Adds to the newest, if it is a plain amount of the same sign. False where it is not like that: then nothing has happened.
    fn swell(&mut self, amount: i128) -> bool {
        let before = self.sum_of(self.len().saturating_sub(1));
        let upto = match &mut self.0 {
            Packed::One(_, upto) => upto,
            Packed::Plain(list) => match list.last_mut() {
                Some((_, upto)) => upto,
                None => return false,
            },
            Packed::Full(_) => return false,
        };
        let own = i128::from(*upto) - before;
        let more = i128::from(*upto).checked_add(amount).map(i64::try_from);
        let (true, Some(Ok(more))) = (own.signum() * amount.signum() >= 0, more) else { return false };
        *upto = more;
        true
    }

    /// Takes the oldest out, each with its own amount in the place of the sum.
    pub(super) fn take_oldest(&mut self, count: usize) -> Vec<Amount> {
        if count == 0 {
            return Vec::new();
        }
        let (mut taken, mut before) = (Vec::with_capacity(count), 0);
        taken.extend(self.iter().take(count));
        for amount in &mut taken {
            amount.upto -= std::mem::replace(&mut before, amount.upto);
        }
        let (gone, sum) = (taken.len(), before);
        if !self.drop_plain(gone, sum) {
            self.edit(|list| {
                list.drain(..gone);
                list.iter_mut().for_each(|later| later.upto -= sum);
            });
        }
        taken
    }

    /// Drops the oldest plain ones, and their sum from those of the others, as it is with a busy series whose oldest goes with every new one. False where it is not like
    /// that: then nothing has happened.
    fn drop_plain(&mut self, gone: usize, sum: i128) -> bool {
        let Packed::Plain(list) = &mut self.0 else { return false };
        let lower = |upto: i64| i64::try_from(i128::from(upto) - sum);
        // One that is left takes no list.
        if list.len() < gone + 2 || !list[gone..].iter().all(|(_, upto)| lower(*upto).is_ok()) {
            return false;
        }
        list.drain(..gone);
        list.iter_mut().for_each(|(_, upto)| *upto = lower(*upto).unwrap_or(*upto));
        true
    }

    /// Changes them as a list, and packs what that comes to. Full ones are such a list, and mostly stay one.
    fn edit(&mut self, edit: impl FnOnce(&mut Vec<Amount>)) {
        let mut list = match std::mem::take(self) {
            Self(Packed::Full(list)) => list.into_vec(),
            plain => plain.iter().collect(),
        };
        edit(&mut list);
        let mut packed = Self::NONE;
        let plain = list.iter().all(|amount| packed.push(*amount));
        *self = if plain { packed } else { Self(Packed::Full(list.into())) };
    }

    /// Adds the next one of a list. False where it is not plain: then nothing has happened.
    fn push(&mut self, Amount { place, upto, magnitude }: Amount) -> bool {
        // Of a list that was read it is not certain that it is one.
        let own = upto.wrapping_sub(self.sum_of(self.len()));
        place.1 == 0 && magnitude == own.saturating_abs() && self.append(place.0, own)
    }

    /// Heap bytes, about.
    pub(super) fn weight(&self) -> usize {
        match &self.0 {
            Packed::One(..) => 0,
            Packed::Plain(list) => list.capacity() * size_of::<(i64, i64)>(),
            Packed::Full(list) => size_of_val::<[Amount]>(list),
        }
    }
}

/// How many come first of which something holds, found from the end.
fn count_from_behind<T>(list: &[T], holds: impl Fn(&T) -> bool) -> usize {
    let (mut step, mut until) = (1, list.len());
    loop {
        let from = until.saturating_sub(step);
        match list.get(from) {
            Some(held) if !holds(held) && from > 0 => (step, until) = (2 * step, from),
            _ => return from + list[from..until].partition_point(&holds),
        }
    }
}

/// Of amounts in ascending order of their places.
impl FromIterator<Amount> for Tail {
    fn from_iter<I: IntoIterator<Item = Amount>>(amounts: I) -> Self {
        let mut packed = Self::NONE;
        let mut amounts = amounts.into_iter();
        while let Some(amount) = amounts.next() {
            if !packed.push(amount) {
                let list: Vec<Amount> = packed.iter().chain([amount]).chain(amounts).collect();
                return Self(Packed::Full(list.into()));
            }
        }
        packed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What amounts come to, one by one.
    fn listed(steps: &[((i64, u64), i128)]) -> Vec<Amount> {
        let mut by_place = std::collections::BTreeMap::<(i64, u64), (i128, i128)>::new();
        for (place, amount) in steps {
            let held = by_place.entry(*place).or_default();
            *held = (held.0 + amount, held.1 + amount.abs());
        }
        let mut upto = 0;
        let listed = by_place.into_iter().map(|(place, (own, magnitude))| {
            upto += own;
            Amount { place, upto, magnitude }
        });
        listed.collect()
    }

    fn steps() -> impl Strategy<Value = Vec<((i64, u64), i128)>> {
        let amount = prop_oneof![
            8 => (-3_i64..9).prop_map(i128::from),
            1 => prop_oneof![Just(i64::MAX), Just(i64::MIN)].prop_map(i128::from)
        ];
        let plain = (0_i64..60, Just(0_u64), amount.clone());
        let tied = (0_i64..60, 0_u64..3, amount);
        let all = |step: BoxedStrategy<(i64, u64, i128)>| prop::collection::vec(step, 0..40);
        let steps = prop_oneof![3 => all(plain.boxed()), 1 => all(tied.boxed())];
        steps.prop_map(|steps| steps.into_iter().map(|(at, tie, amount)| ((at, tie), amount)).collect())
    }

    proptest! {
        #[test]
        fn packed_amounts_are_what_a_list_of_them_is(steps in steps(), instant in -1_i64..62, taken in 0_usize..50) {
            let mut tail = Tail::NONE;
            steps.iter().for_each(|(place, amount)| tail.add(*place, *amount, amount.abs()));
            let mut list = listed(&steps);
            prop_assert_eq!(tail.iter().collect::<Vec<_>>(), list.clone());
            prop_assert_eq!(&tail, &list.iter().copied().collect::<Tail>(), "however they came");
            let until = list.iter().take_while(|amount| amount.place.0 <= instant).count();
            prop_assert_eq!((tail.len(), tail.count_until(instant)), (list.len(), until));
            prop_assert_eq!(tail.sum_of(until), until.checked_sub(1).map_or(0, |last| list[last].upto));
            prop_assert_eq!(tail.newest(), list.last().map(|amount| amount.place.0));
            prop_assert_eq!(tail.first_place(), list.first().map(|amount| amount.place));
            let mut sum = 0;
            let gone: Vec<Amount> = list.drain(..taken.min(list.len())).collect();
            let gone = gone.into_iter().map(|amount| {
                let upto = amount.upto - std::mem::replace(&mut sum, amount.upto);
                Amount { upto, ..amount }
            });
            prop_assert_eq!(tail.take_oldest(taken), gone.collect::<Vec<_>>());
            list.iter_mut().for_each(|later| later.upto -= sum);
            prop_assert_eq!(tail, list.into_iter().collect::<Tail>());
        }
    }

    #[test]
    fn what_most_series_hold_takes_little_room() {
        let one: Tail = listed(&[((7, 0), 5)]).into_iter().collect();
        let two: Tail = listed(&[((7, 0), 5), ((9, 0), -2)]).into_iter().collect();
        let tied: Tail = listed(&[((7, 1), 5)]).into_iter().collect();
        assert_eq!((one.weight(), two.weight(), tied.weight()), (0, 32, 48));
        assert_eq!(size_of::<Tail>(), 24);
    }
}
