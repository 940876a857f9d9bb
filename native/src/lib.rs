//! The compiled parts of headrace, as one Python module.
//!
//! Owns the list of what is offered to Python; each part lives in a module of its own.
//!
//! - Everything here has a path in plain Python with equal results; nothing here is the only way.
//! - No call holds the interpreter's lock while it works through rows.

use pyo3::prelude::*;

mod arrow_c;
mod arrow_in;
mod avro;
mod buffer;
mod kafka;
mod murmur2;
mod state;

/// What `headrace` and this package must agree on; raised with every change of a signature or a meaning.
const API_VERSION: u32 = 2;

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("API_VERSION", API_VERSION)?;
    avro::register(module)?;
    buffer::register(module)?;
    kafka::register(module)?;
    murmur2::register(module)?;
    state::register(module)?;
    Ok(())
}
