//! Columns that Python hands over to be produced.
//!
//! Owns the checked view of them, for one call.
//!
//! - Every position is checked against the bytes before the first row is read.
//! - Null and empty stay different, for keys, values and the values of headers.

use std::ffi::c_void;
use std::ptr::null;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::ffi::{self, Memory};
use crate::buffer::View;

/// Validity, positions, bytes and first row: as `native_producer` gives them.
type Given<'py> = (
    Option<Bound<'py, PyAny>>,
    Option<Bound<'py, PyAny>>,
    Option<Bound<'py, PyAny>>,
    usize,
);

/// Where each row's headers end, their names, their values.
pub type GivenHeaders<'py> = (Bound<'py, PyAny>, BytesColumn, BytesColumn);

pub const NOTHING: Memory = Memory {
    start: null(),
    size: 0,
};

/// Something for an empty value to point to: a null pointer would mean null.
static EMPTY: u8 = 0;

pub fn empty() -> *const c_void {
    (&raw const EMPTY).cast()
}

/// A `large_binary` column of Python's.
pub struct BytesColumn {
    validity: Option<View<u8>>,
    ends: Option<View<i64>>,
    data: Option<View<u8>>,
    first: usize,
}

impl<'py> FromPyObject<'_, 'py> for BytesColumn {
    type Error = PyErr;

    fn extract(given: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let (validity, ends, data, first): Given<'py> = given.extract()?;
        Ok(Self {
            validity: validity.map(|each| View::of(&each)).transpose()?,
            ends: ends.map(|each| View::of(&each)).transpose()?,
            data: data.map(|each| View::of(&each)).transpose()?,
            first,
        })
    }
}

impl BytesColumn {
    /// The column, whose rows from `start` to `stop` are checked.
    fn checked(&self, start: usize, stop: usize) -> PyResult<BytesRows<'_>> {
        let data = self.data.as_ref().map_or(&[][..], View::slice);
        let ends = self.ends.as_ref().map_or(&[][..], View::slice);
        let validity = self.validity.as_ref().map(View::slice);
        let first = self.first;
        if start < stop {
            let wrong =
                || PyValueError::new_err("positions of a binary column do not fit its bytes");
            let (from, to) = first
                .checked_add(start)
                .zip(first.checked_add(stop))
                .ok_or_else(wrong)?;
            let checked = ends.get(from..=to).ok_or_else(wrong)?;
            let is_rising = checked.windows(2).all(|pair| pair[0] <= pair[1]);
            if !is_rising || checked[0] < 0 || checked[checked.len() - 1] > data.len() as i64 {
                return Err(wrong());
            }
            if validity.is_some_and(|bits| bits.len() * 8 < to) {
                return Err(PyValueError::new_err(
                    "the validity of a binary column is too short",
                ));
            }
        }
        Ok(BytesRows {
            validity,
            ends,
            data,
            first,
        })
    }
}

#[derive(Clone, Copy)]
pub struct BytesRows<'a> {
    validity: Option<&'a [u8]>,
    ends: &'a [i64],
    data: &'a [u8],
    first: usize,
}

impl BytesRows<'_> {
    #[inline]
    pub fn row(&self, row: usize) -> Memory {
        let at = self.first + row;
        if self
            .validity
            .is_some_and(|bits| bits[at / 8] & (1 << (at % 8)) == 0)
        {
            return NOTHING;
        }
        let (start, end) = (self.ends[at] as usize, self.ends[at + 1] as usize);
        let start_pointer = if start == end {
            empty()
        } else {
            (&raw const self.data[start]).cast()
        };
        Memory {
            start: start_pointer,
            size: end - start,
        }
    }
}

/// The columns of one call.
pub struct Columns<'a> {
    pub rows: usize,
    pub value: &'a BytesColumn,
    pub key: Option<&'a BytesColumn>,
    pub partition: Option<View<i32>>,
    pub timestamp: Option<View<i64>>,
    pub headers: Option<(View<i64>, BytesColumn, BytesColumn)>,
    /// The row that is sent first, and so on; without it they are sent as they stand.
    pub order: Option<View<i64>>,
    /// Whether the partitions were worked out here, so that librdkafka may choose others.
    pub may_repartition: bool,
}

impl Columns<'_> {
    /// The rows that are sent from `start` to `stop`, every position checked.
    pub fn checked(&self, start: usize, stop: usize) -> PyResult<Rows<'_>> {
        if start > stop || stop > self.rows {
            return Err(PyValueError::new_err("rows beyond the columns"));
        }
        let is_whole = |length: Option<usize>| length.is_none_or(|length| length == self.rows);
        let partition = self.partition.as_ref().map(View::slice);
        let timestamp = self.timestamp.as_ref().map(View::slice);
        let order = self.order.as_ref().map(View::slice);
        if !is_whole(partition.map(<[i32]>::len))
            || !is_whole(timestamp.map(<[i64]>::len))
            || !is_whole(order.map(<[i64]>::len))
        {
            return Err(PyValueError::new_err("columns of different lengths"));
        }
        let is_row = |row: &i64| usize::try_from(*row).is_ok_and(|row| row < self.rows);
        if !order.is_none_or(|order| order[start..stop].iter().all(is_row)) {
            return Err(PyValueError::new_err("an order of rows that are not there"));
        }
        let (from, to) = if order.is_none() {
            (start, stop)
        } else {
            (0, self.rows)
        };
        Ok(Rows {
            start,
            stop,
            value: self.value.checked(from, to)?,
            key: self.key.map(|key| key.checked(from, to)).transpose()?,
            partition,
            timestamp,
            headers: self
                .headers
                .as_ref()
                .map(|each| self.checked_headers(each))
                .transpose()?,
            order,
            may_repartition: self.may_repartition,
        })
    }

    fn checked_headers<'b>(
        &self,
        (ends, names, values): &'b (View<i64>, BytesColumn, BytesColumn),
    ) -> PyResult<HeaderRows<'b>> {
        let ends = ends.slice();
        let is_rising = ends.windows(2).all(|pair| pair[0] <= pair[1]);
        if ends.len() != self.rows || !is_rising || ends.first().is_some_and(|first| *first < 0) {
            return Err(PyValueError::new_err(
                "positions of headers do not fit their rows",
            ));
        }
        let count = ends.last().map_or(0, |last| *last as usize);
        Ok(HeaderRows {
            ends,
            names: names.checked(0, count)?,
            values: values.checked(0, count)?,
        })
    }
}

pub struct HeaderRows<'a> {
    ends: &'a [i64],
    pub names: BytesRows<'a>,
    pub values: BytesRows<'a>,
}

impl HeaderRows<'_> {
    /// Which headers are those of a row.
    pub fn of(&self, row: usize) -> std::ops::Range<usize> {
        let start = if row == 0 {
            0
        } else {
            self.ends[row - 1] as usize
        };
        start..self.ends[row] as usize
    }
}

/// Rows to be sent; `start` and `stop` count in the order of sending.
pub struct Rows<'a> {
    pub start: usize,
    pub stop: usize,
    pub value: BytesRows<'a>,
    pub key: Option<BytesRows<'a>>,
    partition: Option<&'a [i32]>,
    pub timestamp: Option<&'a [i64]>,
    pub headers: Option<HeaderRows<'a>>,
    order: Option<&'a [i64]>,
    pub may_repartition: bool,
}

impl Rows<'_> {
    /// The row that is sent at this place.
    #[inline]
    pub fn at(&self, place: usize) -> usize {
        self.order.map_or(place, |order| order[place] as usize)
    }

    #[inline]
    pub fn partition(&self, row: usize) -> i32 {
        self.partition.map_or(ffi::PARTITION_UA, |each| each[row])
    }
}
