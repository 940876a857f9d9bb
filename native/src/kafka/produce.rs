//! Rows of columns into librdkafka's queue.
//!
//! Owns the checked view of the columns that Python hands over, for one call.
//!
//! - Rows are queued in order, up to the first that is refused: what is not told as queued is not queued.
//! - Every position is checked against the bytes before the first row is queued.
//! - Null and empty stay different, for keys, values and the values of headers.

use std::ffi::{c_char, c_int, c_void};
use std::ptr::{null, null_mut};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::errors::KafkaFailure;
use super::ffi::{self, Argued, Argument, Client, Functions, Headers, Memory, Message, Topic};
use crate::buffer::View;

/// Rows handed over at once, in memory that stays in the processor's cache.
const PIECE_ROWS: usize = 1024;

/// How far rows were queued, and why no further.
pub struct Queued {
    pub stop: usize,
    pub refused: Option<KafkaFailure>,
}

/// Validity, positions, bytes and first row: as `native_producer` gives them.
type Given<'py> = (
    Option<Bound<'py, PyAny>>,
    Option<Bound<'py, PyAny>>,
    Option<Bound<'py, PyAny>>,
    usize,
);

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
    /// The column's rows from `start` to `stop`, checked.
    fn rows(&self, start: usize, stop: usize) -> PyResult<BytesRows<'_>> {
        let data = self.data.as_ref().map_or(&[][..], View::slice);
        let ends = self.ends.as_ref().map_or(&[][..], View::slice);
        let validity = self.validity.as_ref().map(View::slice);
        let rows = BytesRows {
            validity,
            ends,
            data,
            first: self.first,
        };
        if start == stop {
            return Ok(rows);
        }
        let wrong = || PyValueError::new_err("positions of a binary column do not fit its bytes");
        let checked = ends
            .get(self.first + start..=self.first + stop)
            .ok_or_else(wrong)?;
        let is_rising = checked.windows(2).all(|pair| pair[0] <= pair[1]);
        if !is_rising || checked[0] < 0 || checked[checked.len() - 1] > data.len() as i64 {
            return Err(wrong());
        }
        if validity.is_some_and(|bits| bits.len() * 8 < self.first + stop) {
            return Err(PyValueError::new_err(
                "the validity of a binary column is too short",
            ));
        }
        Ok(rows)
    }
}

/// Something for an empty value to point to: a null pointer would mean null.
static EMPTY: u8 = 0;

#[derive(Clone, Copy)]
struct BytesRows<'a> {
    validity: Option<&'a [u8]>,
    ends: &'a [i64],
    data: &'a [u8],
    first: usize,
}

impl BytesRows<'_> {
    #[inline]
    fn row(&self, row: usize) -> Memory {
        let at = self.first + row;
        if self
            .validity
            .is_some_and(|bits| bits[at / 8] & (1 << (at % 8)) == 0)
        {
            return Memory {
                start: null(),
                size: 0,
            };
        }
        let (start, end) = (self.ends[at] as usize, self.ends[at + 1] as usize);
        let start_pointer: *const u8 = if start == end {
            &EMPTY
        } else {
            &self.data[start]
        };
        Memory {
            start: start_pointer.cast(),
            size: end - start,
        }
    }
}

/// Where each row's headers end, their names, their values.
type GivenHeaders<'py> = (Bound<'py, PyAny>, BytesColumn, BytesColumn);

/// The rows of one call.
pub struct Rows<'a> {
    count: usize,
    value: &'a BytesColumn,
    key: Option<&'a BytesColumn>,
    partition: Option<View<i32>>,
    timestamp: Option<View<i64>>,
    headers: Option<(View<i64>, BytesColumn, BytesColumn)>,
}

impl<'a> Rows<'a> {
    pub fn new(
        count: usize,
        value: &'a BytesColumn,
        key: Option<&'a BytesColumn>,
        partition: Option<&Bound<'_, PyAny>>,
        timestamp: Option<&Bound<'_, PyAny>>,
        headers: Option<GivenHeaders<'_>>,
    ) -> PyResult<Self> {
        let headers = headers
            .map(|(ends, names, values)| PyResult::Ok((View::of(&ends)?, names, values)))
            .transpose()?;
        Ok(Self {
            count,
            value,
            key,
            partition: partition.map(View::of).transpose()?,
            timestamp: timestamp.map(View::of).transpose()?,
            headers,
        })
    }

    /// The rows from `start` to `stop`, every position checked.
    pub fn checked(&self, start: usize, stop: usize) -> PyResult<CheckedRows<'_>> {
        if start > stop || stop > self.count {
            return Err(PyValueError::new_err("rows beyond the columns"));
        }
        let is_whole = |length: usize| length == self.count;
        let partition = self.partition.as_ref().map(View::slice);
        let timestamp = self.timestamp.as_ref().map(View::slice);
        if !partition.is_none_or(|each| is_whole(each.len()))
            || !timestamp.is_none_or(|each| is_whole(each.len()))
        {
            return Err(PyValueError::new_err("columns of different lengths"));
        }
        Ok(CheckedRows {
            start,
            stop,
            value: self.value.rows(start, stop)?,
            key: self.key.map(|key| key.rows(start, stop)).transpose()?,
            partition,
            timestamp,
            headers: self
                .headers
                .as_ref()
                .map(|each| self.checked_headers(each))
                .transpose()?,
        })
    }

    fn checked_headers<'b>(
        &self,
        (ends, names, values): &'b (View<i64>, BytesColumn, BytesColumn),
    ) -> PyResult<HeaderRows<'b>> {
        let ends = ends.slice();
        let is_rising = ends.windows(2).all(|pair| pair[0] <= pair[1])
            && ends.first().is_none_or(|first| *first >= 0);
        if ends.len() != self.count || !is_rising {
            return Err(PyValueError::new_err(
                "positions of headers do not fit their rows",
            ));
        }
        let count = ends.last().map_or(0, |last| *last as usize);
        Ok(HeaderRows {
            ends,
            names: names.rows(0, count)?,
            values: values.rows(0, count)?,
        })
    }
}

struct HeaderRows<'a> {
    ends: &'a [i64],
    names: BytesRows<'a>,
    values: BytesRows<'a>,
}

pub struct CheckedRows<'a> {
    start: usize,
    stop: usize,
    value: BytesRows<'a>,
    key: Option<BytesRows<'a>>,
    partition: Option<&'a [i32]>,
    timestamp: Option<&'a [i64]>,
    headers: Option<HeaderRows<'a>>,
}

const NOTHING: Memory = Memory {
    start: null(),
    size: 0,
};

impl CheckedRows<'_> {
    /// Queues the rows.
    ///
    /// # Safety
    /// `client` is a living producer, `topic` a topic of it.
    pub unsafe fn queue(&self, api: &Functions, client: *mut Client, topic: *mut Topic) -> Queued {
        // SAFETY: as the caller says.
        unsafe {
            if self.timestamp.is_some() || self.headers.is_some() {
                return self.queue_one_by_one(api, client, topic);
            }
            let mut piece = Vec::with_capacity(PIECE_ROWS.min(self.stop - self.start));
            let mut done = self.start;
            while done < self.stop {
                let (partition, end) = self.run(done);
                let refused = self.queue_piece(api, topic, partition, done, end, &mut piece);
                if let Some((row, failure)) = refused {
                    return Queued {
                        stop: row,
                        refused: Some(failure),
                    };
                }
                done = end;
            }
            Queued {
                stop: self.stop,
                refused: None,
            }
        }
    }

    /// The rows from `start` on that go to one partition; a piece of them.
    fn run(&self, start: usize) -> (i32, usize) {
        let end = self.stop.min(start + PIECE_ROWS);
        match self.partition {
            None => (ffi::PARTITION_UA, end),
            Some(partitions) => {
                let partition = partitions[start];
                let same = partitions[start..end]
                    .iter()
                    .take_while(|each| **each == partition);
                (partition, start + same.count())
            }
        }
    }

    /// Queues rows for one partition; the first row refused, and why.
    ///
    /// Of a batch with partitions of its own for each row librdkafka queues rows behind one that it refuses, and leaks
    /// that one; of a batch for one partition, or for the partitioner, all rows behind the first refused one are refused.
    unsafe fn queue_piece(
        &self,
        api: &Functions,
        topic: *mut Topic,
        partition: i32,
        start: usize,
        stop: usize,
        piece: &mut Vec<Message>,
    ) -> Option<(usize, KafkaFailure)> {
        piece.clear();
        piece.extend((start..stop).map(|row| {
            let (value, key) = (
                self.value.row(row),
                self.key.map_or(NOTHING, |key| key.row(row)),
            );
            message(value, key)
        }));
        // SAFETY: a topic of a living producer; as many messages as are said, whose bytes are copied by the call.
        let queued = unsafe {
            (api.produce_batch)(
                topic,
                partition,
                ffi::MSG_F_COPY,
                piece.as_mut_ptr(),
                piece.len() as c_int,
            )
        };
        if queued as usize == piece.len() {
            return None;
        }
        let refused = piece.iter().position(|each| each.err != ffi::NO_ERROR)?;
        // SAFETY: a text for each number, never freed.
        let reason = unsafe { super::errors::text_of((api.err2str)(piece[refused].err)) };
        Some((
            start + refused,
            KafkaFailure::new(piece[refused].err, reason),
        ))
    }

    /// With timestamps or headers each row is a call.
    unsafe fn queue_one_by_one(
        &self,
        api: &Functions,
        client: *mut Client,
        topic: *mut Topic,
    ) -> Queued {
        for row in self.start..self.stop {
            // SAFETY: as the caller says; a list of headers is the message's once it is queued, else still ours.
            unsafe {
                let headers = match self.headers_of(api, row) {
                    Ok(headers) => headers,
                    Err(failure) => {
                        return Queued {
                            stop: row,
                            refused: Some(failure),
                        };
                    }
                };
                let arguments = self.arguments(topic, row, headers);
                let count = arguments.len() - usize::from(headers.is_null());
                let outcome =
                    KafkaFailure::take(api, (api.produceva)(client, arguments.as_ptr(), count));
                if let Err(failure) = outcome {
                    if !headers.is_null() {
                        (api.headers_destroy)(headers);
                    }
                    return Queued {
                        stop: row,
                        refused: Some(failure),
                    };
                }
            }
        }
        Queued {
            stop: self.stop,
            refused: None,
        }
    }

    /// The headers come last, for not every row has some.
    fn arguments(&self, topic: *mut Topic, row: usize, headers: *mut Headers) -> [Argued; 7] {
        let key = self.key.map_or(NOTHING, |key| key.row(row));
        let partition = self.partition.map_or(ffi::PARTITION_UA, |each| each[row]);
        let timestamp = self.timestamp.map_or(0, |each| each[row]);
        [
            argued(ffi::VTYPE_RKT, Argument { topic }),
            argued(
                ffi::VTYPE_MSGFLAGS,
                Argument {
                    int: ffi::MSG_F_COPY,
                },
            ),
            argued(ffi::VTYPE_PARTITION, Argument { int32: partition }),
            argued(
                ffi::VTYPE_VALUE,
                Argument {
                    memory: self.value.row(row),
                },
            ),
            argued(ffi::VTYPE_KEY, Argument { memory: key }),
            argued(ffi::VTYPE_TIMESTAMP, Argument { int64: timestamp }),
            argued(ffi::VTYPE_HEADERS, Argument { headers }),
        ]
    }

    /// A row's headers as a list of librdkafka's; null for none.
    unsafe fn headers_of(&self, api: &Functions, row: usize) -> Result<*mut Headers, KafkaFailure> {
        let Some(columns) = &self.headers else {
            return Ok(null_mut());
        };
        let start = if row == 0 {
            0
        } else {
            columns.ends[row - 1] as usize
        };
        let stop = columns.ends[row] as usize;
        if start == stop {
            return Ok(null_mut());
        }
        // SAFETY: the list is ours; names and values are copied into it.
        unsafe {
            let list = (api.headers_new)(stop - start);
            for each in start..stop {
                let (name, value) = (columns.names.row(each), columns.values.row(each));
                let name_start: *const c_char = if name.start.is_null() {
                    (&raw const EMPTY).cast()
                } else {
                    name.start.cast()
                };
                let code = (api.header_add)(
                    list,
                    name_start,
                    name.size as isize,
                    value.start,
                    value.size as isize,
                );
                if code != ffi::NO_ERROR {
                    (api.headers_destroy)(list);
                    return KafkaFailure::of_code(api, code, "Unable to add message header")
                        .map(|()| null_mut());
                }
            }
            Ok(list)
        }
    }
}

fn argued(kind: c_int, argument: Argument) -> Argued {
    Argued { kind, argument }
}

fn message(value: Memory, key: Memory) -> Message {
    Message {
        err: ffi::NO_ERROR,
        topic: null_mut(),
        partition: ffi::PARTITION_UA,
        payload: value.start.cast_mut(),
        len: value.size,
        key: key.start.cast_mut(),
        key_len: key.size,
        offset: 0,
        private: null_mut::<c_void>(),
    }
}
