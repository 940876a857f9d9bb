//! Lists of slots: which are different, and which come for the first time.
//!
//! Owns no state: the marks are a column of the slab, lent to the call.
//!
//! - Slots repeat in any order. One outside of its column is told (`IndexError`) before anything is written.
//!
//! Gathers and scatters of plain numbers alone are not here: NumPy's `take` and `at` are as fast.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::memory::{Cells, check_slots, prefetch};
use crate::buffer::{Buffer, View};

const AHEAD: usize = 16;

/// The different slots in order of first appearance; all lie below `end`.
fn different<'a>(slots: impl Iterator<Item = &'a i64>, end: usize) -> Vec<i64> {
    let mut seen = vec![0u64; end.div_ceil(64)];
    let mut result = Vec::new();
    for slot in slots {
        let (word, bit) = (*slot as usize / 64, 1u64 << (*slot as usize % 64));
        if seen[word] & bit == 0 {
            seen[word] |= bit;
            result.push(*slot);
        }
    }
    result
}

fn end_of(slots: &[i64]) -> PyResult<usize> {
    let end = slots.iter().max().map_or(0, |slot| *slot as usize + 1);
    check_slots(slots, end)?;
    Ok(end)
}

/// The different slots, in the order of their first rows, or of their last.
#[pyfunction]
#[pyo3(signature = (slots, *, by_last = false))]
fn distinct_slots(py: Python<'_>, slots: &Bound<'_, PyAny>, by_last: bool) -> PyResult<Buffer> {
    let slots = View::<i64>::of(slots)?;
    let slots = slots.slice();
    let end = end_of(slots)?;
    let found = py.detach(|| {
        if !by_last {
            return different(slots.iter(), end);
        }
        let mut found = different(slots.iter().rev(), end);
        found.reverse();
        found
    });
    Ok(Buffer::from_vec(found))
}

/// The bytes of these rows of a column, each `width` bytes long.
fn taken(column: &[u8], width: usize, slots: &[i64]) -> Vec<u8> {
    match width {
        1 => gathered::<1>(column, slots),
        2 => gathered::<2>(column, slots),
        4 => gathered::<4>(column, slots),
        8 => gathered::<8>(column, slots),
        32 => gathered::<32>(column, slots),
        _ => {
            let mut bytes = Vec::with_capacity(slots.len() * width);
            for slot in slots {
                bytes.extend_from_slice(&column[*slot as usize * width..][..width]);
            }
            bytes
        }
    }
}

fn gathered<const WIDTH: usize>(column: &[u8], slots: &[i64]) -> Vec<u8> {
    let (rows, _) = column.as_chunks::<WIDTH>();
    let mut found = Vec::with_capacity(slots.len());
    for (row, slot) in slots.iter().enumerate() {
        if let Some(later) = slots.get(row + AHEAD) {
            prefetch(rows.as_ptr().wrapping_add(*later as usize));
        }
        found.push(rows[*slot as usize]);
    }
    found.into_flattened()
}

/// The slots, and of each column the bytes of their rows.
type Fresh = (Buffer, Vec<Buffer>);

/// The different slots whose mark (i32) is 0, in the order of their first rows; they are marked `first`, `first + 1`,
/// ... Of each column, given with the bytes of a row, their rows come along. None where there is no such slot.
#[pyfunction]
fn mark_fresh(
    py: Python<'_>,
    marks: &Bound<'_, PyAny>,
    slots: &Bound<'_, PyAny>,
    first: i32,
    columns: Vec<(Bound<'_, PyAny>, usize)>,
) -> PyResult<Option<Fresh>> {
    let (marks, slots) = (Cells::<i32>::of(marks)?, View::<i64>::of(slots)?);
    let slots = slots.slice();
    let columns = columns
        .iter()
        .map(|(column, width)| Ok((View::<u8>::of(column)?, *width)))
        .collect::<PyResult<Vec<_>>>()?;
    let columns: Vec<(&[u8], usize)> = columns.iter().map(|(c, w)| (c.slice(), *w)).collect();
    if columns
        .iter()
        .any(|(column, width)| *width == 0 || column.len() / width < marks.len())
    {
        return Err(PyValueError::new_err("a column has fewer rows than slots"));
    }
    check_slots(slots, marks.len())?;
    if first <= 0 || slots.len() as i64 > i64::from(i32::MAX - first) {
        return Err(PyValueError::new_err("too many changes in one epoch"));
    }
    let (fresh, kept) = py.detach(|| {
        let mut fresh: Vec<i64> = Vec::new();
        for (row, slot) in slots.iter().enumerate() {
            if let Some(later) = slots.get(row + AHEAD) {
                marks.prefetch(*later as usize);
            }
            if marks.get(*slot as usize) == 0 {
                marks.set(*slot as usize, first + fresh.len() as i32);
                fresh.push(*slot);
            }
        }
        let kept: Vec<Vec<u8>> = columns
            .iter()
            .filter(|_| !fresh.is_empty())
            .map(|(column, width)| taken(column, *width, &fresh))
            .collect();
        (fresh, kept)
    });
    if fresh.is_empty() {
        return Ok(None);
    }
    let kept = kept.into_iter().map(Buffer::from_vec).collect();
    Ok(Some((Buffer::from_vec(fresh), kept)))
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(distinct_slots, module)?)?;
    module.add_function(wrap_pyfunction!(mark_fresh, module)?)
}
