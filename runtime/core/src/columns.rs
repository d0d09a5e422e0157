//! Columns by position: the only form in which values reach a plugin. `wit/types.wit` defines the layout.
//!
//! A [`Shape`] is computed once from declared reads; a [`Table`] is filled for one call and finished to [`Columns`].

use compact_str::CompactString;
use indexmap::IndexSet;

use crate::value::Kind;

/// A finished table: one list for each family, presence bits, list offsets.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs)] // field by field in wit/types.wit
pub struct Columns {
    pub rows: u32,
    pub f64s: Vec<f64>,
    pub s64s: Vec<i64>,
    pub codes: Vec<u32>,
    pub texts: Vec<String>,
    pub present: Vec<u64>,
    pub offsets: Vec<u32>,
}

impl Columns {
    /// The number of elements of all list columns; with the rows, what a call's fuel is measured by.
    pub fn elements(&self, shape: &Shape) -> usize {
        let total = self.f64s.len() + self.s64s.len() + self.codes.len() + self.texts.len();
        total - shape.scalars * self.rows as usize
    }

    /// What stands at a place of a family, if its bit says so.
    fn cell(&self, family: Family, at: usize, bit: usize) -> Option<Cell> {
        if self.present.get(bit / 64)? >> (bit % 64) & 1 == 0 {
            return None;
        }
        match family {
            Family::F64 => self.f64s.get(at).copied().map(Cell::F64),
            Family::S64 => self.s64s.get(at).copied().map(Cell::S64),
            Family::Code => self.codes.get(at).copied().map(Cell::Code),
            Family::Text => self.texts.get(at).cloned().map(Cell::Text),
        }
    }

    /// Heap bytes, about.
    pub(crate) fn weight(&self) -> usize {
        let Self { rows: _, f64s, s64s, codes, texts, present, offsets } = self;
        let texts: usize = texts.iter().map(|text| size_of::<String>() + text.capacity()).sum();
        8 * (f64s.capacity() + s64s.capacity() + present.capacity())
            + 4 * (codes.capacity() + offsets.capacity())
            + texts
    }
}

/// One value of a table.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Of a number.
    F64(f64),
    /// Of an integer, decimal, instant or day.
    S64(i64),
    /// Of a flag, choice or key.
    Code(u32),
    /// Of a text.
    Text(String),
}

/// The list of [`Columns`] that carries a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    F64,
    S64,
    Code,
    Text,
}

impl Family {
    const ALL: [Self; 4] = [Self::F64, Self::S64, Self::Code, Self::Text];

    fn of(kind: Kind) -> Self {
        match kind {
            Kind::Number => Self::F64,
            Kind::Integer | Kind::Decimal | Kind::Instant | Kind::Day => Self::S64,
            Kind::Flag | Kind::Choice | Kind::Key => Self::Code,
            Kind::Text => Self::Text,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Place {
    /// The position among all scalar columns, and among those of the family.
    Scalar { bit_column: usize, family_column: usize },
    /// The position among all list columns.
    List(usize),
}

/// Where each declared read stands.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    places: Vec<(Family, Place)>,
    scalars: usize,
    lists: usize,
    family_scalars: [usize; 4],
}

impl Shape {
    /// The shape of reads, each by kind and whether it is a list column.
    pub fn new(reads: impl IntoIterator<Item = (Kind, bool)>) -> Self {
        let mut shape = Self::default();
        for (kind, many) in reads {
            let family = Family::of(kind);
            let place = if many {
                shape.lists += 1;
                Place::List(shape.lists - 1)
            } else {
                let family_column = &mut shape.family_scalars[family as usize];
                *family_column += 1;
                shape.scalars += 1;
                Place::Scalar { bit_column: shape.scalars - 1, family_column: *family_column - 1 }
            };
            shape.places.push((family, place));
        }
        shape
    }

    /// What a row of a column says that has one value.
    pub(crate) fn scalar(&self, columns: &Columns, column: usize, row: usize) -> Option<Cell> {
        match self.places.get(column).copied()? {
            (family, Place::Scalar { bit_column, family_column }) => {
                let rows = columns.rows as usize;
                columns.cell(family, family_column * rows + row, bit_column * rows + row)
            }
            (_, Place::List(_)) => None,
        }
    }

    /// What stands in a column: the cell of a row, or the elements of its list.
    pub(crate) fn cells(&self, columns: &Columns, column: usize, row: usize) -> Vec<Option<Cell>> {
        let Some((family, place)) = self.places.get(column).copied() else { return Vec::new() };
        let rows = columns.rows as usize;
        match place {
            Place::Scalar { .. } => vec![self.scalar(columns, column, row)],
            Place::List(list) => {
                let ends = |list: usize| columns.offsets.get(list * (rows + 1)..(list + 1) * (rows + 1));
                let Some(own) = ends(list) else { return Vec::new() };
                // The elements of the lists before it have their bits before those of its own.
                let before = (0..list).filter_map(ends).map(|of| of[rows] - of[0]).sum::<u32>();
                let first_bit = self.scalars * rows + before as usize;
                let element = |at: u32| columns.cell(family, at as usize, first_bit + (at - own[0]) as usize);
                (own[row]..own[row + 1]).map(element).collect()
            }
        }
    }
}

/// A table being filled. Cells that are never put are absent.
#[derive(Debug)]
pub struct Table<'s> {
    shape: &'s Shape,
    columns: Columns,
    /// For each list column its elements so far and where each row's end.
    lists: Vec<(Vec<Option<Cell>>, Vec<u32>)>,
}

impl<'s> Table<'s> {
    /// An empty table.
    pub fn new(shape: &'s Shape, rows: usize) -> Self {
        let family = |family: Family| shape.family_scalars[family as usize] * rows;
        let columns = Columns {
            rows: rows as u32,
            f64s: vec![0.0; family(Family::F64)],
            s64s: vec![0; family(Family::S64)],
            codes: vec![0; family(Family::Code)],
            texts: vec![String::new(); family(Family::Text)],
            present: vec![0; (shape.scalars * rows).div_ceil(64)],
            offsets: Vec::new(),
        };
        Self { shape, columns, lists: vec![(Vec::new(), Vec::new()); shape.lists] }
    }

    /// A table in which some scalar cells stand already.
    pub(crate) fn resume(shape: &'s Shape, columns: Columns) -> Self {
        Self { shape, columns, lists: vec![(Vec::new(), Vec::new()); shape.lists] }
    }

    /// Sets a scalar cell. A cell of another family than the column's is a bug of the caller and is left absent.
    pub fn put(&mut self, column: usize, row: usize, cell: Cell) {
        let Some((family, Place::Scalar { bit_column, family_column })) = self.shape.places.get(column).copied() else {
            return;
        };
        let rows = self.columns.rows as usize;
        let index = family_column * rows + row;
        match (family, cell) {
            (Family::F64, Cell::F64(value)) => self.columns.f64s[index] = value,
            (Family::S64, Cell::S64(value)) => self.columns.s64s[index] = value,
            (Family::Code, Cell::Code(value)) => self.columns.codes[index] = value,
            (Family::Text, Cell::Text(value)) => self.columns.texts[index] = value,
            _ => return,
        }
        let bit = bit_column * rows + row;
        self.columns.present[bit / 64] |= 1 << (bit % 64);
    }

    /// Whether a column is a list.
    pub(crate) fn is_list(&self, column: usize) -> bool {
        matches!(self.shape.places.get(column), Some((_, Place::List(_))))
    }

    /// Leaves a scalar cell of a table of one row absent that may have been put.
    pub(crate) fn leave_out(&mut self, column: usize) {
        if let Some((_, Place::Scalar { bit_column, .. })) = self.shape.places.get(column) {
            self.columns.present[bit_column / 64] &= !(1 << (bit_column % 64));
        }
    }

    /// Appends an element to the current row of a list column.
    pub fn push(&mut self, column: usize, cell: Option<Cell>) {
        if let Some((_, Place::List(list))) = self.shape.places.get(column) {
            self.lists[*list].0.push(cell);
        }
    }

    /// Sets the last element of the current row of a list column.
    pub fn put_last(&mut self, column: usize, cell: Option<Cell>) {
        if let Some((_, Place::List(list))) = self.shape.places.get(column)
            && let Some(last) = self.lists[*list].0.last_mut()
        {
            *last = cell;
        }
    }

    /// Drops the elements of the current row of a list column.
    pub fn clear_row(&mut self, column: usize) {
        if let Some((_, Place::List(list))) = self.shape.places.get(column) {
            let (elements, ends) = &mut self.lists[*list];
            elements.truncate(ends.last().map_or(0, |end| *end as usize));
        }
    }

    /// Ends the current row of every list column.
    pub fn end_row(&mut self) {
        for (elements, ends) in &mut self.lists {
            ends.push(elements.len() as u32);
        }
    }

    /// The scalar cells as they stand, to be resumed.
    pub(crate) fn scalars(self) -> Columns {
        self.columns
    }

    /// The finished table; every row must have been ended where there are list columns.
    pub fn finish(mut self) -> Columns {
        let rows = self.columns.rows as usize;
        let mut bit = self.shape.scalars * rows;
        let list_families =
            self.shape.places.iter().filter(|(_, place)| matches!(place, Place::List(_))).map(|(family, _)| *family);
        for (family, (elements, mut ends)) in list_families.zip(std::mem::take(&mut self.lists)) {
            ends.resize(rows, elements.len() as u32);
            let base = self.family_len(family) as u32;
            self.columns.offsets.push(base);
            self.columns.offsets.extend(ends.iter().map(|end| base + end));
            self.columns.present.resize((bit + elements.len()).div_ceil(64), 0);
            for cell in elements {
                if cell.is_some() {
                    self.columns.present[bit / 64] |= 1 << (bit % 64);
                }
                bit += 1;
                self.append(family, cell);
            }
        }
        self.columns
    }

    fn family_len(&self, family: Family) -> usize {
        match family {
            Family::F64 => self.columns.f64s.len(),
            Family::S64 => self.columns.s64s.len(),
            Family::Code => self.columns.codes.len(),
            Family::Text => self.columns.texts.len(),
        }
    }

    fn append(&mut self, family: Family, cell: Option<Cell>) {
        match (family, cell) {
            (Family::F64, Some(Cell::F64(value))) => self.columns.f64s.push(value),
            (Family::S64, Some(Cell::S64(value))) => self.columns.s64s.push(value),
            (Family::Code, Some(Cell::Code(value))) => self.columns.codes.push(value),
            (Family::Text, Some(Cell::Text(value))) => self.columns.texts.push(value),
            (Family::F64, _) => self.columns.f64s.push(0.0),
            (Family::S64, _) => self.columns.s64s.push(0),
            (Family::Code, _) => self.columns.codes.push(0),
            (Family::Text, _) => self.columns.texts.push(String::new()),
        }
    }
}

/// The texts behind the handles of one call.
#[derive(Clone, Debug, Default)]
pub struct Keys(IndexSet<CompactString>);

impl Keys {
    /// The handle that a plugin answers where a contribution has no key.
    pub const NONE: u32 = u32::MAX;

    /// The handle of a text; equal texts have equal handles.
    pub fn intern(&mut self, text: &str) -> u32 {
        match self.0.get_index_of(text) {
            Some(index) => index as u32,
            None => self.0.insert_full(CompactString::from(text)).0 as u32,
        }
    }

    /// The text of a handle.
    pub fn get(&self, handle: u32) -> Option<&CompactString> {
        self.0.get_index(handle as usize)
    }
}

// The families' positions in `Shape::family_scalars` are their discriminants.
const _: () = assert!(Family::ALL[3] as usize == 3);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_laid_out_as_the_contract_says() {
        let shape = Shape::new([
            (Kind::Integer, false),
            (Kind::Decimal, true),
            (Kind::Number, false),
            (Kind::Instant, false),
            (Kind::Key, true),
        ]);
        let mut table = Table::new(&shape, 2);
        table.put(0, 0, Cell::S64(10));
        table.put(0, 1, Cell::S64(11));
        table.put(2, 1, Cell::F64(0.5));
        table.put(3, 0, Cell::S64(30));
        table.push(1, Some(Cell::S64(100)));
        table.push(1, None);
        table.push(4, Some(Cell::Code(7)));
        table.end_row();
        table.push(1, None);
        table.put_last(1, Some(Cell::S64(102)));
        table.end_row();
        let columns = table.finish();
        assert_eq!(columns.s64s, [10, 11, 30, 0, 100, 0, 102]);
        assert_eq!(columns.f64s, [0.0, 0.5]);
        assert_eq!(columns.codes, [7]);
        assert_eq!(columns.offsets, [4, 6, 7, 0, 1, 1]);
        // Scalars: integer 11, number 01 (row 1), instant 10 (row 0); then the elements 1, 0, 1 and 1.
        assert_eq!(columns.present, [0b1101_011011]);
        assert_eq!(columns.elements(&shape), 4);
        let cells = |column, row| shape.cells(&columns, column, row);
        assert_eq!((cells(0, 0), cells(0, 1)), (vec![Some(Cell::S64(10))], vec![Some(Cell::S64(11))]));
        assert_eq!((cells(2, 0), cells(2, 1)), (vec![None], vec![Some(Cell::F64(0.5))]));
        assert_eq!(cells(1, 0), [Some(Cell::S64(100)), None]);
        assert_eq!((cells(1, 1), cells(4, 0)), (vec![Some(Cell::S64(102))], vec![Some(Cell::Code(7))]));
        assert_eq!((cells(4, 1), cells(9, 0)), (vec![], vec![]));
    }

    #[test]
    fn a_row_can_be_cleared_and_a_wrong_family_stays_absent() {
        let shape = Shape::new([(Kind::Key, true), (Kind::Text, false)]);
        let mut table = Table::new(&shape, 1);
        table.push(0, Some(Cell::Code(1)));
        table.clear_row(0);
        table.push(0, Some(Cell::Code(2)));
        table.put(1, 0, Cell::F64(1.0));
        let columns = table.finish();
        assert_eq!((columns.codes, columns.offsets, columns.present), (vec![2], vec![0, 1], vec![0b10]));
    }

    #[test]
    fn equal_texts_have_equal_handles() {
        let mut keys = Keys::default();
        assert_eq!([keys.intern("a"), keys.intern("b"), keys.intern("a")], [0, 1, 0]);
        assert_eq!(keys.get(1).map(CompactString::as_str), Some("b"));
        assert_eq!(keys.get(Keys::NONE), None);
    }
}
