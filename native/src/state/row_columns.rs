//! Rows of columns as bytes, and back.
//!
//! Owns the form in which a row lies in memory: one bit per column that says whether it is there, the values of fixed
//! width, each text but the last with its length (four bytes) before it, the last text.
//!
//! - Rows are equal exactly when their bytes are: a null has the bits of 0, or no bytes.
//! - Columns come and go as Arrow has them: numbers, or views of texts (`string_view`, `binary_view`).

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::buffer::{Buffer, View};

const VIEW_BYTES: usize = 16;
/// Bytes of a text that stands in its view.
pub const INLINE_MAX: usize = 12;

/// What a column holds.
#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    /// Values of so many bytes.
    Fixed(usize),
    Text,
}

/// A column of a batch. `offset`: the place of its first row, in validity and values.
pub struct Column {
    validity: Option<View<u8>>,
    offset: usize,
    values: View<u8>,
    texts: Vec<View<u8>>,
}

/// Validity, offset, values, buffers of texts.
pub type Given<'py> = (
    Option<Bound<'py, PyAny>>,
    usize,
    Bound<'py, PyAny>,
    Vec<Bound<'py, PyAny>>,
);
/// Validity, values, bytes of texts.
pub type Taken = (Option<Buffer>, Buffer, Option<Buffer>);

impl Column {
    pub fn of(given: &Given<'_>, kind: Kind, rows: usize) -> PyResult<Self> {
        let (validity, offset, values, texts) = given;
        let column = Self {
            validity: validity.as_ref().map(View::of).transpose()?,
            offset: *offset,
            values: View::of(values)?,
            texts: texts.iter().map(View::of).collect::<PyResult<_>>()?,
        };
        let end = offset
            .checked_add(rows)
            .ok_or_else(|| PyValueError::new_err("too many rows"))?;
        let width = if let Kind::Fixed(width) = kind {
            width
        } else {
            VIEW_BYTES
        };
        let has_bits = column
            .validity
            .as_ref()
            .is_none_or(|bits| bits.slice().len() >= end.div_ceil(8));
        if !has_bits || column.values.slice().len() / width < end {
            return Err(PyValueError::new_err(
                "a column has fewer rows than it should",
            ));
        }
        Ok(column)
    }

    pub fn part(&self) -> Part<'_> {
        Part {
            validity: self.validity.as_ref().map(View::slice),
            offset: self.offset,
            values: self.values.slice(),
            texts: self.texts.iter().map(View::slice).collect(),
        }
    }
}

/// The same, borrowed for the time without the interpreter.
pub struct Part<'a> {
    validity: Option<&'a [u8]>,
    offset: usize,
    values: &'a [u8],
    texts: Vec<&'a [u8]>,
}

impl Part<'_> {
    #[inline(always)]
    fn is_there(&self, row: usize) -> bool {
        let bit = self.offset + row;
        self.validity
            .is_none_or(|bits| bits[bit / 8] >> (bit % 8) & 1 == 1)
    }

    #[inline(always)]
    fn fixed(&self, row: usize, width: usize) -> &[u8] {
        &self.values[(self.offset + row) * width..][..width]
    }

    /// Of a column of texts.
    #[inline(always)]
    pub fn view(&self, row: usize) -> &[u8] {
        self.fixed(row, VIEW_BYTES)
    }

    /// Of a text.
    #[inline(always)]
    pub fn length(&self, row: usize) -> usize {
        let bytes = &self.view(row)[..4];
        u32::from_le_bytes(bytes.try_into().expect("four bytes")) as usize
    }

    /// None where a view points outside of its buffer.
    #[inline(always)]
    pub fn text(&self, row: usize) -> Option<&[u8]> {
        let view = self.fixed(row, VIEW_BYTES);
        let number = |at: usize| {
            u32::from_le_bytes(view[at..at + 4].try_into().expect("four bytes")) as usize
        };
        let length = number(0);
        if length <= INLINE_MAX {
            return Some(&view[4..4 + length]);
        }
        self.texts.get(number(8))?.get(number(12)..)?.get(..length)
    }
}

/// The rows of a batch, one after the other.
#[derive(Default)]
pub struct Rows {
    pub bytes: Vec<u8>,
    /// Where each begins; one more than rows.
    pub starts: Vec<usize>,
}

impl Rows {
    #[inline(always)]
    pub fn row(&self, row: usize) -> &[u8] {
        &self.bytes[self.starts[row]..self.starts[row + 1]]
    }

    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }
}

/// The rows of one column of texts, all of them there: what `put_row` makes of them.
fn text_rows(part: &Part<'_>, count: usize, mut rows: Rows) -> Option<Rows> {
    for row in 0..count {
        rows.bytes.push(1);
        rows.bytes.extend_from_slice(part.text(row)?);
        rows.starts.push(rows.bytes.len());
    }
    Some(rows)
}

/// How rows of these columns look.
pub struct Layout {
    kinds: Vec<Kind>,
    bits: usize,
    /// Where each column of fixed width lies.
    places: Vec<usize>,
    texts_from: usize,
    last_text: Option<usize>,
}

impl Layout {
    pub fn new(kinds: Vec<Kind>) -> Self {
        let bits = kinds.len().div_ceil(8);
        let mut texts_from = bits;
        let mut places = Vec::new();
        for kind in &kinds {
            places.push(texts_from);
            if let Kind::Fixed(width) = kind {
                texts_from += width;
            }
        }
        let last_text = kinds.iter().rposition(|kind| *kind == Kind::Text);
        Self {
            kinds,
            bits,
            places,
            texts_from,
            last_text,
        }
    }

    pub fn kinds(&self) -> &[Kind] {
        &self.kinds
    }

    /// The rows as bytes. None where a text points outside of its buffer, or is too long.
    pub fn rows(&self, parts: &[Part<'_>], count: usize) -> Option<Rows> {
        let mut rows = Rows {
            bytes: Vec::with_capacity(count * (self.texts_from + 16)),
            starts: vec![0],
        };
        rows.starts.reserve(count);
        if let (1, [part]) = (self.texts_from, parts)
            && part.validity.is_none()
        {
            return text_rows(part, count, rows);
        }
        for row in 0..count {
            self.put_row(parts, row, &mut rows.bytes)?;
            rows.starts.push(rows.bytes.len());
        }
        Some(rows)
    }

    #[inline(always)]
    fn put_row(&self, parts: &[Part<'_>], row: usize, bytes: &mut Vec<u8>) -> Option<()> {
        let start = bytes.len();
        bytes.resize(start + self.texts_from, 0);
        for (column, (kind, part)) in self.kinds.iter().zip(parts).enumerate() {
            let is_there = part.is_there(row);
            bytes[start + column / 8] |= u8::from(is_there) << (column % 8);
            match kind {
                Kind::Fixed(width) if is_there => {
                    let place = start + self.places[column];
                    bytes[place..place + width].copy_from_slice(part.fixed(row, *width));
                }
                Kind::Text => {
                    let text = if is_there { part.text(row)? } else { &[] };
                    if Some(column) != self.last_text {
                        bytes.extend_from_slice(&u32::try_from(text.len()).ok()?.to_le_bytes());
                    }
                    bytes.extend_from_slice(text);
                }
                Kind::Fixed(_) => {}
            }
        }
        Some(())
    }

    /// Rows as columns again.
    pub fn columns<'a>(
        &self,
        rows: impl Iterator<Item = &'a [u8]> + Clone,
        count: usize,
    ) -> Vec<Taken> {
        let taken = |column| {
            let validity = self.validity(rows.clone(), column, count);
            let (values, texts) = match self.kinds[column] {
                Kind::Fixed(width) => (self.fixed(rows.clone(), column, width, count), None),
                Kind::Text => {
                    let (views, texts) = self.texts(rows.clone(), column, count);
                    (views, Some(Buffer::from_vec(texts)))
                }
            };
            (validity, Buffer::from_vec(values), texts)
        };
        (0..self.kinds.len()).map(taken).collect()
    }

    fn validity<'a>(
        &self,
        rows: impl Iterator<Item = &'a [u8]>,
        column: usize,
        count: usize,
    ) -> Option<Buffer> {
        let mut bits = vec![0u8; count.div_ceil(8)];
        let mut there = 0;
        for (number, row) in rows.enumerate() {
            let bit = row[column / 8] >> (column % 8) & 1;
            there += usize::from(bit);
            bits[number / 8] |= bit << (number % 8);
        }
        (there < count).then(|| Buffer::from_vec(bits))
    }

    fn fixed<'a>(
        &self,
        rows: impl Iterator<Item = &'a [u8]>,
        column: usize,
        width: usize,
        count: usize,
    ) -> Vec<u8> {
        let mut values = Vec::with_capacity(count * width);
        for row in rows {
            values.extend_from_slice(&row[self.places[column]..][..width]);
        }
        values
    }

    /// Views, and the bytes of those that are too long for them.
    fn texts<'a>(
        &self,
        rows: impl Iterator<Item = &'a [u8]>,
        column: usize,
        count: usize,
    ) -> (Vec<u8>, Vec<u8>) {
        let (mut views, mut texts) = (Vec::with_capacity(count * VIEW_BYTES), Vec::new());
        for row in rows {
            let text = self.text(row, column);
            let mut view = [0u8; VIEW_BYTES];
            view[..4].copy_from_slice(&(text.len() as u32).to_le_bytes());
            if text.len() <= INLINE_MAX {
                view[4..4 + text.len()].copy_from_slice(text);
            } else {
                view[4..8].copy_from_slice(&text[..4]);
                view[12..].copy_from_slice(&(texts.len() as u32).to_le_bytes());
                texts.extend_from_slice(text);
            }
            views.extend_from_slice(&view);
        }
        (views, texts)
    }

    #[inline(always)]
    fn text<'a>(&self, row: &'a [u8], column: usize) -> &'a [u8] {
        let mut rest = &row[self.texts_from..];
        for before in 0..=column {
            if self.kinds[before] == Kind::Text && Some(before) != self.last_text {
                let (length, after) = rest.split_at(4);
                let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
                let (text, after) = after.split_at(length);
                rest = if before == column { text } else { after };
            }
        }
        rest
    }

    /// Whether the texts of rows of so many bytes together fit into one buffer of views.
    pub fn fits(&self, bytes: usize) -> bool {
        debug_assert!(self.bits <= self.texts_from);
        bytes <= i32::MAX as usize
    }
}
