//! The columns of a batch while they grow, record by record.
//!
//! Owns their memory and what takes a half-read record back out of them.
//!
//! - A column has as many values as its parent has rows or items, once a record is whole.
//! - `truncate` restores that for all columns below one: a record that was refused leaves nothing.
//! - A validity is one byte a value until the batch is done, and only where nulls can be.
//! - Offsets are 32 bits, as Arrow's: a batch that outgrows them is refused and marked (`is_full`).

use std::sync::Arc;

use super::cursor::{PIECE_BYTES, Pieces, Read, Refused};

/// How a column lies in memory.
pub enum Layout {
    Null,
    /// Booleans.
    Bits,
    /// Values of so many bytes.
    Fixed(usize),
    /// Bytes or text.
    Bytes,
    /// Indexes into these symbols.
    Enum(Symbols),
    /// Months, days and milliseconds.
    Duration,
    /// A record, or a union with a child for each branch.
    Struct(Vec<usize>),
    List(usize),
    Map {
        key: usize,
        value: usize,
    },
}

/// The texts of an enum, as Arrow holds them; shared by all batches.
pub struct Symbols {
    pub offsets: Arc<Vec<i32>>,
    pub data: Arc<Vec<u8>>,
}

pub const ENUM_BYTES: usize = 4;
pub const DURATION_BYTES: usize = 12;

impl Layout {
    pub fn width(&self) -> Option<usize> {
        match self {
            Self::Bits => Some(1),
            Self::Fixed(width) => Some(*width),
            Self::Enum(_) => Some(ENUM_BYTES),
            Self::Duration => Some(DURATION_BYTES),
            _ => None,
        }
    }

    pub fn has_offsets(&self) -> bool {
        matches!(self, Self::Bytes | Self::List(_) | Self::Map { .. })
    }
}

pub struct Spec {
    pub layout: Layout,
    pub is_nullable: bool,
}

#[derive(Default)]
pub struct Column {
    pub data: Vec<u8>,
    pub offsets: Vec<i32>,
    /// One byte a value, 1 where it is there; empty where nulls cannot be.
    pub valid: Vec<u8>,
    /// Values of a struct or of nulls, which have no other memory to tell it.
    pub length: usize,
    is_nullable: bool,
}

impl Column {
    fn new(spec: &Spec, rows: usize) -> Self {
        let mut column = Self {
            is_nullable: spec.is_nullable,
            ..Self::default()
        };
        if let Some(width) = spec.layout.width() {
            column.data.reserve(rows * width);
        }
        if spec.layout.has_offsets() {
            column.offsets.reserve(rows + 1);
            column.offsets.push(0);
        }
        if spec.is_nullable {
            column.valid.reserve(rows);
        }
        column
    }

    /// The value just appended is one.
    #[inline(always)]
    pub fn mark(&mut self) {
        if self.is_nullable {
            self.valid.push(1);
        }
    }

    #[inline(always)]
    pub fn push<const SIZE: usize>(&mut self, value: [u8; SIZE]) {
        self.data.extend_from_slice(&value);
        self.mark();
    }
}

/// All columns of a batch; the first is the record itself.
pub struct Columns<'a> {
    specs: &'a [Spec],
    items: Vec<Column>,
    offset_max: usize,
    is_full: bool,
}

impl<'a> Columns<'a> {
    /// Room for so many records; what is nested grows as it comes.
    pub fn new(specs: &'a [Spec], rows: usize, offset_max: usize) -> Self {
        let mut items: Vec<Column> = specs.iter().map(|spec| Column::new(spec, 0)).collect();
        if let Layout::Struct(children) = &specs[0].layout {
            for &child in children {
                items[child] = Column::new(&specs[child], rows);
            }
        }
        Self {
            specs,
            items,
            offset_max,
            is_full: false,
        }
    }

    /// Whether a record was refused because no offset reaches further.
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    pub fn into_items(self) -> Vec<Column> {
        self.items
    }

    #[inline(always)]
    pub fn column(&mut self, column: usize) -> &mut Column {
        &mut self.items[column]
    }

    /// Append bytes or a text.
    #[inline(always)]
    pub fn push_bytes(&mut self, column: usize, bytes: &[u8]) -> Read {
        let found = &mut self.items[column];
        let end = found.data.len() + bytes.len();
        if end > self.offset_max {
            return self.full();
        }
        found.data.extend_from_slice(bytes);
        found.offsets.push(end as i32);
        found.mark();
        Ok(())
    }

    /// Append a text. Refuses what is not UTF-8.
    #[inline(always)]
    pub fn push_text(&mut self, column: usize, text: &[u8], pieces: Option<Pieces<'_>>) -> Read {
        let Some(pieces) = pieces else {
            return self.push_last_text(column, text);
        };
        let found = &mut self.items[column];
        let end = found.data.len() + text.len();
        if end > self.offset_max {
            return self.full();
        }
        if !push_pieces(&mut found.data, text.len(), pieces) && std::str::from_utf8(text).is_err() {
            return Err(Refused);
        }
        found.offsets.push(end as i32);
        found.mark();
        Ok(())
    }

    /// At the end of a batch there are no whole pieces.
    #[inline(never)]
    fn push_last_text(&mut self, column: usize, text: &[u8]) -> Read {
        if std::str::from_utf8(text).is_err() {
            return Err(Refused);
        }
        self.push_bytes(column, text)
    }

    /// The items appended since the last list are a list.
    pub fn end_list(&mut self, column: usize, items: u64) -> Read {
        let found = &mut self.items[column];
        let end = last(&found.offsets) as u64 + items;
        if end > self.offset_max as u64 {
            return self.full();
        }
        found.offsets.push(end as i32);
        found.mark();
        Ok(())
    }

    /// The values appended to the children are a record, or a branch of a union.
    #[inline(always)]
    pub fn end_struct(&mut self, column: usize) {
        let found = &mut self.items[column];
        found.length += 1;
        found.mark();
    }

    pub fn push_null(&mut self, column: usize) {
        let specs = self.specs;
        let found = &mut self.items[column];
        if found.is_nullable {
            found.valid.push(0);
        }
        match &specs[column].layout {
            Layout::Struct(children) => {
                found.length += 1;
                for &child in children {
                    self.push_null(child);
                }
            }
            Layout::Null => found.length += 1,
            Layout::Bytes | Layout::List(_) | Layout::Map { .. } => {
                let end = last(&found.offsets) as i32;
                found.offsets.push(end);
            }
            fixed => {
                let width = fixed.width().unwrap_or_default();
                found.data.resize(found.data.len() + width, 0);
            }
        }
    }

    /// Keep the first values of a column, and what belongs to them below it.
    pub fn truncate(&mut self, column: usize, length: usize) {
        let specs = self.specs;
        let found = &mut self.items[column];
        found.valid.truncate(length);
        found.length = found.length.min(length);
        if specs[column].layout.has_offsets() {
            found.offsets.truncate(length + 1);
        }
        let items = last(&found.offsets);
        match &specs[column].layout {
            Layout::Null => {}
            Layout::Bytes => found.data.truncate(items),
            Layout::Struct(children) => {
                for &child in children {
                    self.truncate(child, length);
                }
            }
            Layout::List(item) => self.truncate(*item, items),
            Layout::Map { key, value } => {
                self.truncate(*key, items);
                self.truncate(*value, items);
            }
            fixed => {
                let width = fixed.width().unwrap_or_default();
                found.data.truncate(length * width);
            }
        }
    }

    #[cold]
    fn full(&mut self) -> Read {
        self.is_full = true;
        Err(Refused)
    }
}

/// Append the first `length` bytes of the pieces, which end in the last of them. Whether all are ASCII.
#[inline(always)]
fn push_pieces(data: &mut Vec<u8>, length: usize, pieces: Pieces<'_>) -> bool {
    const HIGH: u128 = 0x8080_8080_8080_8080_8080_8080_8080_8080;
    let begin = data.len();
    data.reserve(pieces.len() * PIECE_BYTES);
    let mut found = 0;
    let mut last = 0;
    for (place, piece) in pieces.iter().enumerate() {
        found |= last;
        last = u128::from_le_bytes(*piece);
        // SAFETY: `reserve` made room for all pieces behind the bytes that were there.
        unsafe {
            data.as_mut_ptr()
                .add(begin + place * PIECE_BYTES)
                .cast::<[u8; PIECE_BYTES]>()
                .write(*piece)
        };
    }
    // What stands behind the text in the last piece does not count.
    found |= last << (8 * (pieces.len() * PIECE_BYTES - length)) as u32;
    // SAFETY: the pieces, just written, have at least so many bytes.
    unsafe { data.set_len(begin + length) };
    found & HIGH == 0
}

/// Where the last value ends.
#[inline(always)]
fn last(offsets: &[i32]) -> usize {
    offsets.last().map_or(0, |&end| end as usize)
}
