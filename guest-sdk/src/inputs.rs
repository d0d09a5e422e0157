//! Inputs: typed structs that are both the declaration of what a plugin reads and the decoder of what arrives.
//!
//! Derive [`Reads`](macro@crate::Reads); nothing here is written by hand. Positions are counted while decoding, in declared
//! order, which after inlining costs nothing.

use crate::bindings::{Columns, Failure, Kind, Read};
use crate::values::{Choice, Day, Decimal, Instant, Key};

/// A struct whose fields are read from columns; derive it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say what it reads",
    note = "derive it: `#[derive(Reads)] struct … {{ #[read(\"trait:tier\")] tier: Option<Key>, … }}`"
)]
pub trait Reads: Sized {
    /// How many of its fields are scalar columns.
    const SCALARS: usize;
    /// Appends the declarations of its fields; `prefix` stands before paths that begin with a dot.
    fn declare(prefix: &str, reads: &mut Vec<Read>);
    /// Decodes the current row, or the current element of the current row's list.
    fn decode(decoder: &mut Decoder<'_>) -> Self;
}

/// For stages that read nothing.
impl Reads for () {
    const SCALARS: usize = 0;

    fn declare(_: &str, _: &mut Vec<Read>) {}

    fn decode(_: &mut Decoder<'_>) -> Self {}
}

/// The type of a field in a struct that derives [`Reads`](macro@crate::Reads).
#[diagnostic::on_unimplemented(
    message = "a plugin cannot read a field of type `{Self}`",
    note = "use `Option<T>` with T one of f64, i64, Decimal, Instant, Day, bool, Key, String or an enum that derives Choice",
    note = "or `Vec<T>` with T such an option, or a struct that derives Reads with paths that begin with a dot"
)]
pub trait Field: Sized {
    /// How many scalar columns it is: 1, or 0 for a list.
    const SCALARS: usize;
    /// Appends its declaration.
    fn declare(path: &str, reads: &mut Vec<Read>);
    /// Decodes it.
    fn decode(decoder: &mut Decoder<'_>) -> Self;
}

/// A value of one column.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a value that a plugin can read",
    note = "use f64, i64, Decimal, Instant, Day, bool, Key, String or an enum that derives Choice"
)]
pub trait Scalar: Sized {
    /// How the host names it.
    const KIND: Kind;
    /// The texts of a choice.
    const CHOICES: &'static [&'static str] = &[];
    /// The next cell; none where it is absent.
    fn take(decoder: &mut Decoder<'_>) -> Option<Self>;
}

/// What a list holds.
#[diagnostic::on_unimplemented(
    message = "a plugin cannot read a list of `{Self}`",
    note = "use `Vec<Option<Key>>` and the like, or a struct that derives Reads with paths that begin with a dot"
)]
pub trait Item: Sized {
    /// How many list columns it is.
    const COLUMNS: usize;
    /// Appends the declarations of its columns.
    fn declare(path: &str, reads: &mut Vec<Read>);
    /// Decodes the current element.
    fn decode(decoder: &mut Decoder<'_>) -> Self;
}

impl<T: Scalar> Field for Option<T> {
    const SCALARS: usize = 1;

    fn declare(path: &str, reads: &mut Vec<Read>) {
        let choices = T::CHOICES.iter().map(|choice| (*choice).into()).collect();
        reads.push(Read { path: path.into(), kind: T::KIND, choices });
    }

    #[inline]
    fn decode(decoder: &mut Decoder<'_>) -> Self {
        T::take(decoder)
    }
}

impl<T: Item> Field for Vec<T> {
    const SCALARS: usize = 0;

    fn declare(path: &str, reads: &mut Vec<Read>) {
        T::declare(path, reads);
    }

    #[inline]
    fn decode(decoder: &mut Decoder<'_>) -> Self {
        decoder.list()
    }
}

impl<T: Scalar> Item for Option<T> {
    const COLUMNS: usize = 1;

    fn declare(path: &str, reads: &mut Vec<Read>) {
        <Self as Field>::declare(path, reads);
    }

    #[inline]
    fn decode(decoder: &mut Decoder<'_>) -> Self {
        T::take(decoder)
    }
}

impl<T: Reads> Item for T {
    const COLUMNS: usize = T::SCALARS;

    fn declare(path: &str, reads: &mut Vec<Read>) {
        <T as Reads>::declare(path, reads);
    }

    #[inline]
    fn decode(decoder: &mut Decoder<'_>) -> Self {
        <T as Reads>::decode(decoder)
    }
}

const F64: usize = 0;
const S64: usize = 1;
const CODE: usize = 2;
const TEXT: usize = 3;

/// Walks over columns in declared order. The layout is that of `wit/types.wit`.
pub struct Decoder<'c> {
    columns: &'c Columns,
    row: usize,
    /// Scalar columns passed so far, of all families and of each.
    scalars: usize,
    family: [usize; 4],
    /// List columns passed so far, and the presence bit of the first element of the next one.
    lists: usize,
    list_bit: usize,
    /// Within a list: the element.
    element: Option<usize>,
}

impl<'c> Decoder<'c> {
    fn new(columns: &'c Columns, row: usize, scalars: usize) -> Self {
        let list_bit = scalars * columns.rows as usize;
        Self { columns, row, scalars: 0, family: [0; 4], lists: 0, list_bit, element: None }
    }

    /// The position of the next cell in its family's list; none where it is absent.
    #[inline]
    fn next(&mut self, family: usize) -> Option<usize> {
        let rows = self.columns.rows as usize;
        let (bit, index) = match self.element {
            None => {
                let place = (self.scalars * rows + self.row, self.family[family] * rows + self.row);
                self.scalars += 1;
                self.family[family] += 1;
                place
            }
            Some(element) => {
                let offsets = self.offsets(self.lists);
                let (first, start, end) = (offsets[0], offsets[self.row], offsets[rows]);
                let place = (self.list_bit + (start - first) as usize + element, start as usize + element);
                self.list_bit += (end - first) as usize;
                self.lists += 1;
                place
            }
        };
        let present = self.columns.present.get(bit / 64).is_some_and(|word| word >> (bit % 64) & 1 == 1);
        present.then_some(index)
    }

    #[inline]
    fn offsets(&self, list: usize) -> &'c [u32] {
        let width = self.columns.rows as usize + 1;
        &self.columns.offsets[list * width..][..width]
    }

    /// Decodes all elements of the current row's next list, which has a column for each field of its items.
    #[inline]
    fn list<T: Item>(&mut self) -> Vec<T> {
        let offsets = self.offsets(self.lists);
        let length = (offsets[self.row + 1] - offsets[self.row]) as usize;
        let (list, bit) = (self.lists, self.list_bit);
        let mut items = Vec::with_capacity(length);
        for element in 0..length {
            (self.lists, self.list_bit, self.element) = (list, bit, Some(element));
            items.push(T::decode(self));
        }
        (self.lists, self.list_bit, self.element) = (list, bit, None);
        for _ in 0..T::COLUMNS {
            let offsets = self.offsets(self.lists);
            self.list_bit += (offsets[offsets.len() - 1] - offsets[0]) as usize;
            self.lists += 1;
        }
        items
    }
}

/// Decodes every row of a table.
pub fn rows<T: Reads>(columns: &Columns) -> Vec<T> {
    (0..columns.rows as usize).map(|row| T::decode(&mut Decoder::new(columns, row, T::SCALARS))).collect()
}

/// Decodes a table of one row.
pub fn row<T: Reads>(columns: &Columns) -> Result<T, Failure> {
    if columns.rows == 1 {
        Ok(T::decode(&mut Decoder::new(columns, 0, T::SCALARS)))
    } else {
        Err(Failure::Internal("the host sent a table without its row".into()))
    }
}

macro_rules! scalar {
    ($type:ty, $kind:ident, $family:expr, $list:ident, $convert:expr) => {
        impl Scalar for $type {
            const KIND: Kind = Kind::$kind;

            #[inline]
            fn take(decoder: &mut Decoder<'_>) -> Option<Self> {
                let index = decoder.next($family)?;
                decoder.columns.$list.get(index).map($convert)
            }
        }
    };
}

scalar!(f64, Number, F64, f64s, |value| *value);
scalar!(i64, Integer, S64, s64s, |value| *value);
scalar!(Decimal, Decimal, S64, s64s, |value| Decimal(*value));
scalar!(Instant, Instant, S64, s64s, |value| Instant(*value));
scalar!(Day, Day, S64, s64s, |value| Day(*value));
scalar!(bool, Flag, CODE, codes, |value| *value != 0);
scalar!(Key, Key, CODE, codes, |value| Key(*value));
scalar!(String, Text, TEXT, texts, Clone::clone);

impl<T: Choice> Scalar for T {
    const KIND: Kind = Kind::Choice;
    const CHOICES: &'static [&'static str] = T::CHOICES;

    #[inline]
    fn take(decoder: &mut Decoder<'_>) -> Option<Self> {
        let index = decoder.next(CODE)?;
        let code = *decoder.columns.codes.get(index)?;
        T::VARIANTS.get(code as usize).copied()
    }
}
