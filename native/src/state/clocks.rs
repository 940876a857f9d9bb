//! Clocks of partitions: the largest time so far, row by row.
//!
//! Owns one pass over the rows of a batch, whatever the number of its partitions.

use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;

use super::memory::{Cells, check_lengths};
use crate::buffer::{Buffer, View};

/// The largest time of its partition up to and including each row (i64), going on from `clocks` (i64, by partition),
/// which are moved.
#[pyfunction]
fn running_times(
    py: Python<'_>,
    partitions: &Bound<'_, PyAny>,
    times: &Bound<'_, PyAny>,
    clocks: &Bound<'_, PyAny>,
) -> PyResult<Buffer> {
    let (partitions, times) = (View::<i32>::of(partitions)?, View::<i64>::of(times)?);
    let (partitions, times) = (partitions.slice(), times.slice());
    let clocks = Cells::<i64>::of(clocks)?;
    check_lengths(partitions.len(), times.len())?;
    // As an unsigned number a negative one is the largest.
    if partitions
        .iter()
        .any(|partition| *partition as u32 as usize >= clocks.len())
    {
        return Err(PyIndexError::new_err("a partition without a clock"));
    }
    let running = py.detach(|| {
        let reached = partitions.iter().zip(times).map(|(partition, time)| {
            let partition = *partition as usize;
            let reached = clocks.get(partition).max(*time);
            clocks.set(partition, reached);
            reached
        });
        reached.collect::<Vec<i64>>()
    });
    Ok(Buffer::from_vec(running))
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(running_times, module)?)
}
