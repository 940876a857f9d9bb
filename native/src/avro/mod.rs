//! Avro's binary encoding, a batch of records at a time.

use pyo3::prelude::*;

pub mod read;
pub mod write;

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    read::register(module)?;
    write::register(module)
}
