//! Errors of librdkafka as the exceptions that confluent-kafka raises.
//!
//! Owns the way from a code, or an error object, to `confluent_kafka.KafkaException`.
//!
//! - Whoever judges errors cannot tell which client raised them.

use std::ffi::{CStr, c_char};

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use super::ffi::{self, Code, Functions};

/// An error, taken out of librdkafka's memory.
#[derive(Debug)]
pub struct KafkaFailure {
    pub code: Code,
    pub reason: String,
    pub is_fatal: bool,
    pub is_retriable: bool,
    pub requires_abort: bool,
}

pub type Outcome<T> = Result<T, KafkaFailure>;

/// A string of librdkafka's; empty for a null pointer.
///
/// # Safety
/// `text` is null, or ends with a zero.
pub unsafe fn text_of(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: not null, and the caller says that it ends.
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}

impl KafkaFailure {
    pub fn new(code: Code, reason: String) -> Self {
        Self {
            code,
            reason,
            is_fatal: false,
            is_retriable: false,
            requires_abort: false,
        }
    }

    /// Takes over an error object; null is success.
    ///
    /// # Safety
    /// `failure` is null, or an error that nobody else destroys.
    pub unsafe fn take(api: &Functions, failure: *mut ffi::Failure) -> Outcome<()> {
        if failure.is_null() {
            return Ok(());
        }
        // SAFETY: the object lives until it is destroyed in the last line.
        unsafe {
            let taken = Self {
                code: (api.error_code)(failure),
                reason: text_of((api.error_string)(failure)),
                is_fatal: (api.error_is_fatal)(failure) != 0,
                is_retriable: (api.error_is_retriable)(failure) != 0,
                requires_abort: (api.error_txn_requires_abort)(failure) != 0,
            };
            (api.error_destroy)(failure);
            Err(taken)
        }
    }

    /// What a code means after `action` ("Failed to ..."); zero is success.
    pub fn of_code(api: &Functions, code: Code, action: &str) -> Outcome<()> {
        if code == ffi::NO_ERROR {
            return Ok(());
        }
        // SAFETY: a text for each number, never freed.
        let told = unsafe { text_of((api.err2str)(code)) };
        Err(Self::new(code, format!("{action}: {told}")))
    }

    /// The exception to raise.
    pub fn raised(&self, py: Python<'_>) -> PyErr {
        match self.exception(py) {
            Ok(exception) => PyErr::from_value(exception),
            Err(error) => error,
        }
    }

    fn exception<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        static ERROR: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        static EXCEPTION: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let class = |name: &str| -> PyResult<Py<PyAny>> {
            Ok(py.import("confluent_kafka")?.getattr(name)?.unbind())
        };
        let error = ERROR.get_or_try_init(py, || class("KafkaError"))?.bind(py);
        let exception = EXCEPTION
            .get_or_try_init(py, || class("KafkaException"))?
            .bind(py);
        let marks = (
            self.code,
            &self.reason,
            self.is_fatal,
            self.is_retriable,
            self.requires_abort,
        );
        exception.call1((error.call1(marks)?,))
    }
}
