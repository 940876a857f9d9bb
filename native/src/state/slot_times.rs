//! Times of slots, held as distances.
//!
//! Owns raising them to the times of rows: what a slot holds is how far behind a base (a window's start) its largest
//! time lies, in as few bytes as the caller has chosen, never more than fits into them.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::memory::{Cells, check_lengths, check_slots, prefetch};
use crate::buffer::{Pod, View};

const AHEAD: usize = 16;

fn raise<T: Pod + Ord>(
    held: &Cells<T>,
    base: &[i64],
    slots: &[i64],
    times: &[i64],
    narrowed: impl Fn(i64) -> T,
) {
    for (row, (slot, time)) in slots.iter().zip(times).enumerate() {
        if let Some(later) = slots.get(row + AHEAD) {
            held.prefetch(*later as usize);
            prefetch(base.as_ptr().wrapping_add(*later as usize));
        }
        let slot = *slot as usize;
        let distance = narrowed(time.wrapping_sub(base[slot]));
        if distance > held.get(slot) {
            held.set(slot, distance);
        }
    }
}

/// Lets `held[slot]` (i32 or i64) be at least `time - base[slot]`, for every slot and its time.
#[pyfunction]
fn raise_distances(
    py: Python<'_>,
    held: &Bound<'_, PyAny>,
    item_bytes: usize,
    base: &Bound<'_, PyAny>,
    slots: &Bound<'_, PyAny>,
    times: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let (base, slots, times) = (
        View::<i64>::of(base)?,
        View::<i64>::of(slots)?,
        View::<i64>::of(times)?,
    );
    let (base, slots, times) = (base.slice(), slots.slice(), times.slice());
    check_lengths(slots.len(), times.len())?;
    match item_bytes {
        4 => {
            let held = Cells::<i32>::of(held)?;
            check_slots(slots, held.len().min(base.len()))?;
            py.detach(|| {
                raise(&held, base, slots, times, |distance| {
                    distance.min(i64::from(i32::MAX)) as i32
                });
            });
        }
        8 => {
            let held = Cells::<i64>::of(held)?;
            check_slots(slots, held.len().min(base.len()))?;
            py.detach(|| raise(&held, base, slots, times, |distance| distance));
        }
        size => return Err(PyValueError::new_err(format!("times of {size} bytes"))),
    }
    Ok(())
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(raise_distances, module)?)
}
