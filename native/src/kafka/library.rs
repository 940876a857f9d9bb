//! The library that everything here calls.
//!
//! Owns the one copy of librdkafka that is open, from the first time it is asked for until the process ends.
//!
//! - It is the file that confluent-kafka runs on: Python finds it and says what version it must be.
//! - The system hands out the same copy to whoever opens a file twice, so both clients run the same code.

use std::sync::OnceLock;

use libloading::Library;
use pyo3::exceptions::{PyOSError, PyRuntimeError};
use pyo3::prelude::*;

use super::ffi::Functions;

static OPEN: OnceLock<Functions> = OnceLock::new();

/// The functions of the library; an error when nobody has opened it.
pub fn functions() -> PyResult<&'static Functions> {
    OPEN.get()
        .ok_or_else(|| PyRuntimeError::new_err("open_librdkafka() comes first"))
}

/// Opens the library at `path`, if it has this version; raises `OSError` with the reason otherwise. Only the first one
/// that opens counts.
#[pyfunction]
pub fn open_librdkafka(path: &str, version: i32) -> PyResult<()> {
    if OPEN.get().is_some() {
        return Ok(());
    }
    let refused = |reason: String| PyOSError::new_err(format!("{path}: {reason}"));
    // SAFETY: the file is the one that confluent-kafka loads; its initialisers have no other demands.
    let library = unsafe { Library::new(path) }.map_err(|error| refused(error.to_string()))?;
    // SAFETY: it is librdkafka (all its functions are found, or this fails), and stays open (below).
    let found = unsafe { Functions::of(&library) }.map_err(refused)?;
    // SAFETY: takes nothing, and may be called at any time.
    let has = unsafe { (found.version)() };
    if has != version {
        return Err(refused(format!(
            "is version {has:#010x}, not {version:#010x}"
        )));
    }
    // Its threads outlive every object of ours.
    std::mem::forget(library);
    OPEN.get_or_init(|| found);
    Ok(())
}
