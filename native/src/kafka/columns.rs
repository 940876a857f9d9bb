//! Columns that grow record by record, in the layout of Arrow.
//!
//! Owns the memory of one fetch until Python takes it over.
//!
//! - Null and empty stay different, for keys, values and the values of headers.
//! - There is no validity before the first null, and no header column before the first header.
//! - Nothing here fails: a fetch is bounded, far below what 32-bit positions of header names reach.

use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::buffer::Buffer;

/// How much a fetch of some topic took, so that the next one makes its memory in one go.
#[derive(Clone, Copy, Default)]
pub struct Measure {
    pub rows: usize,
    key_bytes: usize,
    value_bytes: usize,
}

impl Measure {
    /// The same with an eighth on top, for fetches are not quite alike.
    fn roomy(self) -> Self {
        let more = |size: usize| size + size / 8 + 16;
        Self {
            rows: more(self.rows),
            key_bytes: more(self.key_bytes),
            value_bytes: more(self.value_bytes),
        }
    }
}

/// A `large_binary` column.
pub struct Bytes {
    ends: Vec<i64>,
    data: Vec<u8>,
    validity: Option<Vec<u8>>,
    nulls: usize,
}

impl Bytes {
    fn with_capacity(rows: usize, bytes: usize) -> Self {
        let mut ends = Vec::with_capacity(rows + 1);
        ends.push(0);
        Self {
            ends,
            data: Vec::with_capacity(bytes),
            validity: None,
            nulls: 0,
        }
    }

    fn rows(&self) -> usize {
        self.ends.len() - 1
    }

    #[inline]
    pub fn push(&mut self, value: Option<&[u8]>) {
        if let Some(value) = value {
            self.data.extend_from_slice(value);
        }
        if self.validity.is_some() || value.is_none() {
            self.mark(value.is_some());
        }
        self.ends.push(self.data.len() as i64);
    }

    /// Notes whether the row about to be added is one; from the first null on.
    #[cold]
    fn mark(&mut self, is_valid: bool) {
        let row = self.rows();
        let bits = self.validity.get_or_insert_with(|| {
            let mut bits = vec![0xff; row / 8];
            bits.push((1u8 << (row % 8)).wrapping_sub(1));
            bits
        });
        if row / 8 == bits.len() {
            bits.push(0);
        }
        bits[row / 8] |= u8::from(is_valid) << (row % 8);
        self.nulls += usize::from(!is_valid);
    }

    /// Number of nulls, validity, positions, bytes.
    fn into_python<'py>(self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let validity = self.validity.map(Buffer::from_vec);
        (
            self.nulls,
            validity,
            Buffer::from_vec(self.ends),
            Buffer::from_vec(self.data),
        )
            .into_pyobject(py)
    }
}

/// A column of lists of (name, value).
struct HeaderColumn {
    ends: Vec<i32>,
    name_ends: Vec<i32>,
    names: Vec<u8>,
    values: Bytes,
}

impl HeaderColumn {
    /// After `rows` rows without headers.
    fn after(rows: usize) -> Self {
        Self {
            ends: vec![0; rows + 1],
            name_ends: vec![0],
            names: Vec::new(),
            values: Bytes::with_capacity(rows, 0),
        }
    }

    fn push(&mut self, name: &[u8], value: Option<&[u8]>) {
        // Arrow's strings are UTF-8; what another client sent need not be.
        self.names
            .extend_from_slice(String::from_utf8_lossy(name).as_bytes());
        self.name_ends.push(self.names.len() as i32);
        self.values.push(value);
    }

    fn end_row(&mut self) {
        self.ends.push(self.values.rows() as i32);
    }

    fn into_python<'py>(self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let count = self.values.rows();
        (
            Buffer::from_vec(self.ends),
            count,
            Buffer::from_vec(self.name_ends),
            Buffer::from_vec(self.names),
            self.values.into_python(py)?,
        )
            .into_pyobject(py)
    }
}

/// The records of one topic.
pub struct TopicColumns {
    pub topic: String,
    partitions: Vec<i32>,
    offsets: Vec<i64>,
    timestamps: Vec<i64>,
    keys: Bytes,
    values: Bytes,
    headers: Option<HeaderColumn>,
}

impl TopicColumns {
    pub fn new(topic: String, expected: Measure) -> Self {
        let room = expected.roomy();
        Self {
            topic,
            partitions: Vec::with_capacity(room.rows),
            offsets: Vec::with_capacity(room.rows),
            timestamps: Vec::with_capacity(room.rows),
            keys: Bytes::with_capacity(room.rows, room.key_bytes),
            values: Bytes::with_capacity(room.rows, room.value_bytes),
            headers: None,
        }
    }

    pub fn measure(&self) -> Measure {
        Measure {
            rows: self.offsets.len(),
            key_bytes: self.keys.data.len(),
            value_bytes: self.values.data.len(),
        }
    }

    #[inline]
    pub fn push(
        &mut self,
        partition: i32,
        offset: i64,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
    ) {
        self.partitions.push(partition);
        self.offsets.push(offset);
        self.timestamps.push(timestamp);
        self.keys.push(key);
        self.values.push(value);
    }

    /// Adds a header to the row pushed last.
    pub fn push_header(&mut self, name: &[u8], value: Option<&[u8]>) {
        let rows_before = self.offsets.len() - 1;
        self.headers
            .get_or_insert_with(|| HeaderColumn::after(rows_before))
            .push(name, value);
    }

    /// Ends the row pushed last; no header of it comes any more.
    #[inline]
    pub fn end_row(&mut self) {
        if let Some(headers) = &mut self.headers {
            headers.end_row();
        }
    }

    /// Topic, rows, partitions, offsets, timestamps, key, value, headers: as `native_consumer` takes them.
    pub fn into_python<'py>(self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let headers = self
            .headers
            .map(|headers| headers.into_python(py))
            .transpose()?;
        (
            self.topic,
            self.offsets.len(),
            Buffer::from_vec(self.partitions),
            Buffer::from_vec(self.offsets),
            Buffer::from_vec(self.timestamps),
            self.keys.into_python(py)?,
            self.values.into_python(py)?,
            headers,
        )
            .into_pyobject(py)
    }
}
