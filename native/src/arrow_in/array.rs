//! One column's memory as slices.
//!
//! Owns `Array`, a part of a column, and what is read of it row by row: `Bits`, `Bytes`, `Ranges`.
//!
//! - Row 0 of everything here is the first row of the part, wherever it lies in the memory below.
//! - Asking for a row that is not there, or whose offsets lead elsewhere, gives `None` or false.

use std::ffi::c_void;

use super::Unreadable;
use super::c_data::CArray;
use super::field::{Field, Type, Width};
use crate::buffer::Pod;

/// Rows `start` to `start + length` of an array; both its own offset and the part's are in `start`.
#[derive(Clone, Copy)]
pub struct Array<'a> {
    pub field: &'a Field,
    raw: &'a CArray,
    start: usize,
    length: usize,
}

impl<'a> Array<'a> {
    pub(super) fn child_of(
        parent: &'a CArray,
        index: usize,
        field: &'a Field,
    ) -> Result<Self, Unreadable> {
        if usize::try_from(parent.n_children).map_or(true, |count| index >= count)
            || parent.children.is_null()
        {
            return Err(Unreadable);
        }
        // SAFETY: `index` is below the array's own count; children live as long as their parent.
        let raw = unsafe { (*parent.children.add(index)).as_ref() }.ok_or(Unreadable)?;
        Self::open(raw, field)
    }

    fn open(raw: &'a CArray, field: &'a Field) -> Result<Self, Unreadable> {
        let start = usize::try_from(raw.offset).map_err(|_| Unreadable)?;
        let length = usize::try_from(raw.length).map_err(|_| Unreadable)?;
        // No element is wider than 32 bytes: positions in bytes stay within an isize.
        let end = start
            .checked_add(length)
            .filter(|end| *end < isize::MAX as usize / 64)
            .ok_or(Unreadable)?;
        debug_assert!(end >= start);
        Ok(Self {
            field,
            raw,
            start,
            length,
        })
    }

    pub fn len(&self) -> usize {
        self.length
    }

    /// Some of the rows.
    pub fn part(self, start: usize, length: usize) -> Result<Self, Unreadable> {
        if start
            .checked_add(length)
            .is_none_or(|end| end > self.length)
        {
            return Err(Unreadable);
        }
        Ok(Self {
            start: self.start + start,
            length,
            ..self
        })
    }

    /// A child of a struct, with its rows.
    pub fn member(&self, index: usize) -> Result<Array<'a>, Unreadable> {
        self.whole_child(index)?.part(self.start, self.length)
    }

    /// A child with rows of its own: the items of lists and maps.
    pub fn whole_child(&self, index: usize) -> Result<Array<'a>, Unreadable> {
        Self::child_of(
            self.raw,
            index,
            self.field.children.get(index).ok_or(Unreadable)?,
        )
    }

    /// The values that a dictionary's indices point to.
    pub fn dictionary(&self) -> Result<Array<'a>, Unreadable> {
        let field = self.field.dictionary.as_deref().ok_or(Unreadable)?;
        // SAFETY: null, or the dictionary's values, which live as long as the array.
        Self::open(
            unsafe { self.raw.dictionary.as_ref() }.ok_or(Unreadable)?,
            field,
        )
    }

    /// Which rows have a value; None when all have.
    pub fn validity(&self) -> Result<Option<Bits<'a>>, Unreadable> {
        if self.raw.null_count == 0 || self.length == 0 {
            return Ok(None);
        }
        match self.buffer(0)? {
            None => Ok(None),
            Some(_) => self.bits(0).map(Some),
        }
    }

    /// The values of a boolean column.
    pub fn booleans(&self) -> Result<Bits<'a>, Unreadable> {
        self.bits(1)
    }

    fn bits(&self, index: usize) -> Result<Bits<'a>, Unreadable> {
        let bytes = self.slice::<u8>(
            index,
            self.start / 8,
            (self.start + self.length).div_ceil(8),
        )?;
        Ok(Bits {
            bytes,
            start: self.start % 8,
            length: self.length,
        })
    }

    /// The numbers of a column of fixed width.
    pub fn values<T: Pod>(&self) -> Result<&'a [T], Unreadable> {
        self.slice(1, self.start, self.start + self.length)
    }

    /// The numbers of a column whose elements are wider than their alignment.
    pub fn wide<const WIDTH: usize>(&self) -> Result<&'a [[u8; WIDTH]], Unreadable> {
        Ok(self.fixed(WIDTH)?.as_chunks().0)
    }

    fn fixed(&self, width: usize) -> Result<&'a [u8], Unreadable> {
        let start = self.start.checked_mul(width).ok_or(Unreadable)?;
        let end = (self.start + self.length)
            .checked_mul(width)
            .ok_or(Unreadable)?;
        self.slice(1, start, end)
    }

    /// The bytes of text or binary of any kind.
    pub fn bytes(&self) -> Result<Bytes<'a>, Unreadable> {
        match self.field.data_type {
            Type::FixedBinary(width) => Ok(Bytes::Fixed {
                width,
                rows: self.length,
                data: self.fixed(width)?,
            }),
            Type::Text(Width::Small) | Type::Binary(Width::Small) => {
                let offsets = self.offsets::<i32>()?;
                let data = self.data(offsets.last().map(|end| i64::from(*end)))?;
                Ok(Bytes::Small { offsets, data })
            }
            Type::Text(Width::Large) | Type::Binary(Width::Large) => {
                let offsets = self.offsets::<i64>()?;
                let data = self.data(offsets.last().copied())?;
                Ok(Bytes::Large { offsets, data })
            }
            Type::Text(Width::View) | Type::Binary(Width::View) => Ok(Bytes::View {
                views: self.wide()?,
                buffers: self.view_buffers()?,
            }),
            _ => Err(Unreadable),
        }
    }

    /// Where the items of each row of a list or map are among the child's.
    pub fn ranges(&self) -> Result<Ranges<'a>, Unreadable> {
        match self.field.data_type {
            Type::List | Type::Map => Ok(Ranges::Small(self.offsets()?)),
            Type::LargeList => Ok(Ranges::Large(self.offsets()?)),
            Type::FixedList(width) => Ok(Ranges::Fixed {
                width,
                start: self.start,
                length: self.length,
            }),
            _ => Err(Unreadable),
        }
    }

    /// One more than the rows, or none at all for an empty part, whose buffer may be missing.
    fn offsets<T: Pod>(&self) -> Result<&'a [T], Unreadable> {
        if self.length == 0 {
            return Ok(&[]);
        }
        self.slice(1, self.start, self.start + self.length + 1)
    }

    /// The bytes up to the last offset.
    fn data(&self, end: Option<i64>) -> Result<&'a [u8], Unreadable> {
        let end = usize::try_from(end.unwrap_or(0)).map_err(|_| Unreadable)?;
        if isize::try_from(end).is_err() {
            return Err(Unreadable);
        }
        self.slice(2, 0, end)
    }

    fn view_buffers(&self) -> Result<Vec<&'a [u8]>, Unreadable> {
        let count = usize::try_from(self.raw.n_buffers)
            .ok()
            .and_then(|all| all.checked_sub(3))
            .ok_or(Unreadable)?;
        let sizes = self.slice::<i64>(count + 2, 0, count)?;
        let buffer = |(index, size): (usize, &i64)| {
            let size = usize::try_from(*size)
                .ok()
                .filter(|size| isize::try_from(*size).is_ok())
                .ok_or(Unreadable)?;
            self.slice::<u8>(index + 2, 0, size)
        };
        sizes.iter().enumerate().map(buffer).collect()
    }

    fn buffer(&self, index: usize) -> Result<Option<*const c_void>, Unreadable> {
        if usize::try_from(self.raw.n_buffers).map_or(true, |count| index >= count)
            || self.raw.buffers.is_null()
        {
            return Err(Unreadable);
        }
        // SAFETY: `index` is below the array's own count of buffers.
        let buffer = unsafe { *self.raw.buffers.add(index) };
        Ok((!buffer.is_null()).then_some(buffer))
    }

    /// Elements `start` to `end` of a buffer.
    fn slice<T: Pod>(&self, index: usize, start: usize, end: usize) -> Result<&'a [T], Unreadable> {
        if start >= end {
            return Ok(&[]); // The buffer may be missing.
        }
        let begin = self.buffer(index)?.ok_or(Unreadable)?.cast::<T>();
        if !begin.is_aligned() {
            return Err(Unreadable);
        }
        // SAFETY: aligned, not null, and long enough by the word of who made the array (see `arrow_in`); it is not
        // written while the array lives, which is as long as the table it is borrowed from.
        Ok(unsafe { std::slice::from_raw_parts(begin.add(start), end - start) })
    }
}

/// One bit for each row.
#[derive(Clone, Copy)]
pub struct Bits<'a> {
    bytes: &'a [u8],
    start: usize,
    length: usize,
}

impl Bits<'_> {
    #[inline]
    pub fn get(&self, row: usize) -> bool {
        let bit = self.start + row;
        row < self.length
            && self
                .bytes
                .get(bit / 8)
                .is_some_and(|byte| byte >> (bit % 8) & 1 == 1)
    }
}

/// Bytes of unequal or equal length for each row.
pub enum Bytes<'a> {
    Small {
        offsets: &'a [i32],
        data: &'a [u8],
    },
    Large {
        offsets: &'a [i64],
        data: &'a [u8],
    },
    View {
        views: &'a [[u8; 16]],
        buffers: Vec<&'a [u8]>,
    },
    Fixed {
        width: usize,
        rows: usize,
        data: &'a [u8],
    },
}

/// Bytes that a view holds in itself.
const INLINE_MAX: usize = 12;

impl<'a> Bytes<'a> {
    #[inline]
    pub fn get(&self, row: usize) -> Option<&'a [u8]> {
        match self {
            Self::Small { offsets, data } => {
                let pair = offsets.get(row..row.checked_add(2)?)?;
                data.get(usize::try_from(pair[0]).ok()?..usize::try_from(pair[1]).ok()?)
            }
            Self::Large { offsets, data } => {
                let pair = offsets.get(row..row.checked_add(2)?)?;
                data.get(usize::try_from(pair[0]).ok()?..usize::try_from(pair[1]).ok()?)
            }
            Self::View { views, buffers } => {
                let view = views.get(row)?;
                let size = usize::try_from(word(view, 0)).ok()?;
                if size <= INLINE_MAX {
                    return view.get(4..4 + size);
                }
                let start = usize::try_from(word(view, 3)).ok()?;
                buffers
                    .get(usize::try_from(word(view, 2)).ok()?)?
                    .get(start..start.checked_add(size)?)
            }
            Self::Fixed { width, rows, data } => {
                if row >= *rows {
                    return None;
                }
                data.get(row * width..(row + 1) * width)
            }
        }
    }

    /// About how many bytes all rows have together: what to make room for.
    pub fn size_hint(&self) -> usize {
        match self {
            Self::Small { offsets, .. } => match offsets {
                [first, .., last] => {
                    usize::try_from(i64::from(*last) - i64::from(*first)).unwrap_or(0)
                }
                _ => 0,
            },
            Self::Large { offsets, .. } => match offsets {
                [first, .., last] => usize::try_from(last.saturating_sub(*first)).unwrap_or(0),
                _ => 0,
            },
            Self::View { views, .. } => views
                .iter()
                .map(|view| usize::try_from(word(view, 0)).unwrap_or(0))
                .fold(0, usize::saturating_add),
            Self::Fixed { data, .. } => data.len(),
        }
    }
}

fn word(view: &[u8; 16], index: usize) -> i32 {
    i32::from_ne_bytes([
        view[4 * index],
        view[4 * index + 1],
        view[4 * index + 2],
        view[4 * index + 3],
    ])
}

/// The items of each row of a list.
pub enum Ranges<'a> {
    Small(&'a [i32]),
    Large(&'a [i64]),
    Fixed {
        width: usize,
        start: usize,
        length: usize,
    },
}

impl Ranges<'_> {
    /// Start and end among the items; not checked against how many there are.
    #[inline]
    pub fn get(&self, row: usize) -> Option<(usize, usize)> {
        let (start, end) = match self {
            Self::Small(offsets) => {
                let pair = offsets.get(row..row.checked_add(2)?)?;
                (
                    usize::try_from(pair[0]).ok()?,
                    usize::try_from(pair[1]).ok()?,
                )
            }
            Self::Large(offsets) => {
                let pair = offsets.get(row..row.checked_add(2)?)?;
                (
                    usize::try_from(pair[0]).ok()?,
                    usize::try_from(pair[1]).ok()?,
                )
            }
            Self::Fixed {
                width,
                start,
                length,
            } => {
                if row >= *length {
                    return None;
                }
                let first = start.checked_add(row)?.checked_mul(*width)?;
                (first, first.checked_add(*width)?)
            }
        };
        (start <= end).then_some((start, end))
    }
}
