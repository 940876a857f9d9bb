//! The compiled parts of headrace, as one Python module.
//!
//! Owns the list of what is offered to Python; each part lives in a module of its own.
//!
//! - Everything here has a path in plain Python with equal results; nothing here is the only way.
//! - No call holds the interpreter's lock while it works through rows.

use pyo3::prelude::*;

mod arrow_c;
mod avro;
mod buffer;
mod kafka;
pub mod arrow_in;
pub mod avro;
pub mod buffer;
pub mod buffer;
mod murmur2;
mod state;

/// What `headrace` and this package must agree on; raised with every change of a signature or a meaning.
const API_VERSION: u32 = 1;

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("API_VERSION", API_VERSION)?;
    buffer::register(module)?;
    avro::register(module)?;
    kafka::register(module)?;
    avro::register(module)?;
    buffer::register(module)?;
    murmur2::register(module)?;
    state::register(module)?;
    Ok(())
}
