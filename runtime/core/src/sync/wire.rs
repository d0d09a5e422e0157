//! Numbers and bytes as they stand in frames and tokens: unsigned LEB128, and bytes behind their length. Reading never looks beyond what is there, and never reserves
//! more than what is there could fill.

/// Appends a number.
pub(super) fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

/// Appends a number of eight bytes, as hashes and random names are.
pub(super) fn put_fixed(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

/// Appends bytes behind their length.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// A difference of either sign, as a number that is small where the difference is.
pub(super) fn fold(difference: u64) -> u64 {
    (difference << 1) ^ (difference >> 63).wrapping_neg()
}

/// What [`fold`] folded.
pub(super) fn unfold(number: u64) -> u64 {
    (number >> 1) ^ (number & 1).wrapping_neg()
}

/// What is left to be read. Nothing: the bytes are not what was written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    pub(super) fn number(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    pub(super) fn small(&mut self) -> Option<u32> {
        self.number().and_then(|number| u32::try_from(number).ok())
    }

    pub(super) fn short(&mut self) -> Option<u16> {
        self.number().and_then(|number| u16::try_from(number).ok())
    }

    pub(super) fn fixed(&mut self) -> Option<u64> {
        let (bytes, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*bytes))
    }

    pub(super) fn bytes(&mut self, most: usize) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok().filter(|length| *length <= most)?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    /// How many items follow, each of at least `least` bytes: no more than `most`, nor than what is left could hold.
    pub(super) fn count(&mut self, most: usize, least: usize) -> Option<usize> {
        let count = usize::try_from(self.number()?).ok()?;
        (count <= most && count.checked_mul(least)? <= self.0.len()).then_some(count)
    }

    pub(super) fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_survive(number in any::<u64>(), shift in 0_u32..64) {
            let number = number >> shift;
            let mut out = Vec::new();
            put(&mut out, number);
            put(&mut out, fold(number));
            put_fixed(&mut out, number);
            let mut reader = Reader(&out);
            prop_assert_eq!(reader.number(), Some(number));
            prop_assert_eq!(reader.number().map(unfold), Some(number));
            prop_assert_eq!(reader.fixed(), Some(number));
            prop_assert!(reader.end().is_some());
        }
    }

    #[test]
    fn what_is_not_there_is_not_read() {
        assert_eq!(Reader(&[0x80]).number(), None);
        assert_eq!(Reader(&[0xff; 10]).number(), None);
        assert_eq!(Reader(&[5, 1, 2]).bytes(10), None);
        assert_eq!(Reader(&[2, 1, 2]).bytes(1), None);
        assert_eq!(Reader(&[3, 1, 2]).count(10, 1), None);
        assert_eq!((fold(u64::MAX), fold(1), fold(0)), (1, 2, 0));
    }
}
