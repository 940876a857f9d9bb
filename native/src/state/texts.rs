//! Texts one after the other.
//!
//! Owns the way from views (as Polars holds texts) to Arrow's plain form: offsets of four bytes and the bytes.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::row_columns::{Column, Given, INLINE_MAX, Kind, Part};
use crate::buffer::Buffer;

/// Offsets (one more than texts) and bytes. None where a view points outside of its buffer.
fn plain(part: &Part<'_>, count: usize, bytes: usize) -> Option<(Vec<i32>, Vec<u8>)> {
    let mut offsets = Vec::with_capacity(count + 1);
    // A short text is copied with all the room that it has in its view: so much lies behind the last one.
    let mut data = vec![0u8; bytes + INLINE_MAX];
    let mut end = 0;
    for row in 0..count {
        offsets.push(end as i32);
        let view = part.view(row);
        let length = part.length(row);
        if length <= INLINE_MAX {
            data[end..end + INLINE_MAX].copy_from_slice(&view[4..]);
        } else {
            data[end..end + length].copy_from_slice(part.text(row)?);
        }
        end += length;
    }
    offsets.push(end as i32);
    data.truncate(end);
    Some((offsets, data))
}

/// Offsets (i32) and bytes of a column of views without nulls; None where they do not fit into four bytes.
#[pyfunction]
fn plain_texts(
    py: Python<'_>,
    count: usize,
    column: Given<'_>,
) -> PyResult<Option<(Buffer, Buffer)>> {
    let column = Column::of(&column, Kind::Text, count)?;
    let part = column.part();
    let found = py.detach(|| {
        let bytes: usize = (0..count).map(|row| part.length(row)).sum();
        (bytes <= i32::MAX as usize).then(|| plain(&part, count, bytes))
    });
    match found {
        None => Ok(None),
        Some(None) => Err(PyValueError::new_err("a text points outside of its buffer")),
        Some(Some((offsets, data))) => {
            Ok(Some((Buffer::from_vec(offsets), Buffer::from_vec(data))))
        }
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(plain_texts, module)?)
}
