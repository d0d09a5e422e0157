//! Inputs: typed structs that are both the declaration of what a plugin reads and the decoder of what arrives.
//!
//! Derive [`Reads`](macro@crate::Reads); nothing here is written by hand. Positions are counted while decoding, in declared
//! order. Everything is inlined into the stage, so that in a table of one row they are constants: a value costs a look at its presence and a load.

use crate::bindings::{Columns, Failure, Kind, Read};
use crate::values::{Choice, Day, Decimal, Instant, Key};

/// A struct whose fields are read from columns; derive it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say what it reads",
    note = "derive it: `#[derive(Reads)] struct … {{ #[read(\"trait:tier\")] tier: Option<Key>, … }}`"
)]
pub trait Reads: Sized {
    /// How many of its fields are scalar columns, of each family.
    const SCALARS: Families;
    /// Appends the declarations of its fields; `prefix` stands before paths that begin with a dot.
    fn declare(prefix: &str, reads: &mut Vec<Read>);
    /// Decodes the current row, or the current element of the current row's list.
    fn decode(cells: &mut impl Cells) -> Self;
}

/// For stages that read nothing.
impl Reads for () {
    const SCALARS: Families = Families::NONE;

    fn declare(_: &str, _: &mut Vec<Read>) {}

    fn decode(_: &mut impl Cells) -> Self {}
}

/// Numbers of scalar columns by family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Families([usize; 4]);

impl Families {
    /// No column.
    pub const NONE: Self = Self([0; 4]);

    const fn one(family: usize) -> Self {
        let mut families = [0; 4];
        families[family] = 1;
        Self(families)
    }

    /// Of both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        let (Self([a, b, c, d]), Self([e, f, g, h])) = (self, other);
        Self([a + e, b + f, c + g, d + h])
    }

    const fn total(self) -> usize {
        let Self([a, b, c, d]) = self;
        a + b + c + d
    }
}

/// The type of a field in a struct that derives [`Reads`](macro@crate::Reads).
#[diagnostic::on_unimplemented(
    message = "a plugin cannot read a field of type `{Self}`",
    note = "use `Option<T>` with T one of f64, i64, Decimal, Instant, Day, bool, Key, String or an enum that derives Choice",
    note = "or `Vec<T>` with T such an option, or a struct that derives Reads with paths that begin with a dot"
)]
pub trait Field: Sized {
    /// Its scalar column; none for a list.
    const SCALARS: Families;
    /// Appends its declaration.
    fn declare(path: &str, reads: &mut Vec<Read>);
    /// Decodes it.
    fn decode(cells: &mut impl Cells) -> Self;
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
    /// The family of its columns.
    const FAMILY: usize;
    /// The next cell; none where it is absent.
    fn take(cells: &mut impl Cells) -> Option<Self>;
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
    fn decode(cells: &mut impl Cells) -> Self;
}

impl<T: Scalar> Field for Option<T> {
    const SCALARS: Families = Families::one(T::FAMILY);

    fn declare(path: &str, reads: &mut Vec<Read>) {
        let choices = T::CHOICES.iter().map(|choice| (*choice).into()).collect();
        reads.push(Read { path: path.into(), kind: T::KIND, choices });
    }

    #[inline(always)]
    fn decode(cells: &mut impl Cells) -> Self {
        T::take(cells)
    }
}

impl<T: Item> Field for Vec<T> {
    const SCALARS: Families = Families::NONE;

    fn declare(path: &str, reads: &mut Vec<Read>) {
        T::declare(path, reads);
    }

    #[inline(always)]
    fn decode(cells: &mut impl Cells) -> Self {
        cells.list()
    }
}

impl<T: Scalar> Item for Option<T> {
    const COLUMNS: usize = 1;

    fn declare(path: &str, reads: &mut Vec<Read>) {
        <Self as Field>::declare(path, reads);
    }

    #[inline(always)]
    fn decode(cells: &mut impl Cells) -> Self {
        T::take(cells)
    }
}

impl<T: Reads> Item for T {
    const COLUMNS: usize = T::SCALARS.total();

    fn declare(path: &str, reads: &mut Vec<Read>) {
        <T as Reads>::declare(path, reads);
    }

    #[inline(always)]
    fn decode(cells: &mut impl Cells) -> Self {
        <T as Reads>::decode(cells)
    }
}

const F64: usize = 0;
const S64: usize = 1;
const CODE: usize = 2;
const TEXT: usize = 3;

/// Cells in declared order. The layout is that of `wit/types.wit`.
pub trait Cells {
    /// The table.
    fn columns(&self) -> &Columns;
    /// The position of the next cell in its family's list; none where it is absent.
    fn next(&mut self, family: usize) -> Option<usize>;
    /// Decodes all elements of the current row's next list, which has a column for each field of its items. In a list there are none.
    fn list<T: Item>(&mut self) -> Vec<T>;
}

/// The cells of one row; `ONE` where the table has no other.
struct Row<'c, const ONE: bool> {
    columns: &'c Columns,
    row: usize,
    /// Scalar columns passed so far, of all families and of each.
    scalars: usize,
    family: [usize; 4],
    /// List columns passed so far, and the presence bit of the first element of the next one.
    lists: usize,
    list_bit: usize,
}

/// The cells of one element of a list, in as many columns as its items have.
struct Element<'c> {
    columns: &'c Columns,
    row: usize,
    element: usize,
    lists: usize,
    list_bit: usize,
}

#[inline(always)]
fn is_present(columns: &Columns, bit: usize) -> bool {
    columns.present.get(bit / 64).is_some_and(|word| word >> (bit % 64) & 1 == 1)
}

/// Where the rows of a list column end, after where its elements begin.
#[inline]
fn offsets(columns: &Columns, list: usize) -> &[u32] {
    let width = columns.rows as usize + 1;
    &columns.offsets[list * width..][..width]
}

impl<'c, const ONE: bool> Row<'c, ONE> {
    #[inline(always)]
    fn new(columns: &'c Columns, row: usize, scalars: usize) -> Self {
        let list_bit = scalars * columns.rows as usize;
        Self { columns, row, scalars: 0, family: [0; 4], lists: 0, list_bit }
    }
}

impl<const ONE: bool> Cells for Row<'_, ONE> {
    #[inline(always)]
    fn columns(&self) -> &Columns {
        self.columns
    }

    #[inline(always)]
    fn next(&mut self, family: usize) -> Option<usize> {
        let (rows, row) = if ONE { (1, 0) } else { (self.columns.rows as usize, self.row) };
        let (bit, index) = (self.scalars * rows + row, self.family[family] * rows + row);
        self.scalars += 1;
        self.family[family] += 1;
        is_present(self.columns, bit).then_some(index)
    }

    #[inline]
    fn list<T: Item>(&mut self) -> Vec<T> {
        let of_first = offsets(self.columns, self.lists);
        let length = (of_first[self.row + 1] - of_first[self.row]) as usize;
        let Self { columns, row, lists, list_bit, .. } = *self;
        let items =
            (0..length).map(|element| T::decode(&mut Element { columns, row, element, lists, list_bit })).collect();
        for _ in 0..T::COLUMNS {
            let passed = offsets(self.columns, self.lists);
            self.list_bit += (passed[passed.len() - 1] - passed[0]) as usize;
            self.lists += 1;
        }
        items
    }
}

impl Cells for Element<'_> {
    #[inline(always)]
    fn columns(&self) -> &Columns {
        self.columns
    }

    #[inline]
    fn next(&mut self, _: usize) -> Option<usize> {
        let offsets = offsets(self.columns, self.lists);
        let (first, start, end) = (offsets[0], offsets[self.row], offsets[offsets.len() - 1]);
        let bit = self.list_bit + (start - first) as usize + self.element;
        self.list_bit += (end - first) as usize;
        self.lists += 1;
        is_present(self.columns, bit).then_some(start as usize + self.element)
    }

    fn list<T: Item>(&mut self) -> Vec<T> {
        Vec::new()
    }
}

/// Decodes every row of a table.
#[inline]
pub fn rows<T: Reads>(columns: &Columns) -> Vec<T> {
    let row = |row| T::decode(&mut Row::<false>::new(columns, row, T::SCALARS.total()));
    (0..columns.rows as usize).map(row).collect()
}

/// Decodes a table of one row.
#[inline]
pub fn row<T: Reads>(columns: &Columns) -> Result<T, Failure> {
    let Families([f64s, s64s, codes, texts]) = T::SCALARS;
    // Looked at once, so that no value has to look again.
    let fits = columns.rows == 1
        && columns.f64s.len() >= f64s
        && columns.s64s.len() >= s64s
        && columns.codes.len() >= codes
        && columns.texts.len() >= texts
        && columns.present.len() >= T::SCALARS.total().div_ceil(64);
    if fits {
        Ok(T::decode(&mut Row::<true>::new(columns, 0, T::SCALARS.total())))
    } else {
        Err(Failure::Internal("the host sent a table of another shape than was declared".into()))
    }
}

macro_rules! scalar {
    ($type:ty, $kind:ident, $family:expr, $list:ident, $convert:expr) => {
        impl Scalar for $type {
            const KIND: Kind = Kind::$kind;
            const FAMILY: usize = $family;

            #[inline(always)]
            fn take(cells: &mut impl Cells) -> Option<Self> {
                let index = cells.next($family)?;
                cells.columns().$list.get(index).map($convert)
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
    const FAMILY: usize = CODE;

    #[inline(always)]
    fn take(cells: &mut impl Cells) -> Option<Self> {
        let index = cells.next(CODE)?;
        let code = *cells.columns().codes.get(index)?;
        T::VARIANTS.get(code as usize).copied()
    }
}
