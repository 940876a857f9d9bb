//! Memory that crosses between Python and this package without being copied.
//!
//! Owns `Buffer` (what goes out: a column's bytes) and `View` (what comes in: the bytes under a Python object).
//!
//! - A `Buffer` never changes once Python can see it, and is freed when the last array over it is.
//! - A `View` is checked once, for contiguity, alignment and whole elements; after that it is a plain slice.
//! - What is passed in is not written by anybody while a call runs: the callers hand over Arrow buffers, which are
//!   immutable, and arrays that they keep to themselves.

use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::sync::Arc;

use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::ffi;
use pyo3::prelude::*;

/// A number without padding, for which every pattern of bits is a value.
///
/// # Safety
/// Only for such types: their memory is read as bytes, and bytes as them.
pub unsafe trait Pod: Copy + Send + Sync + 'static {}

macro_rules! pod {
    ($($number:ty),*) => {
        $(
            // SAFETY: a primitive number has no padding, and every pattern of bits is one.
            unsafe impl Pod for $number {}
        )*
    };
}
pod!(u8, i8, u16, i16, u32, i32, u64, i64, u128, i128, f32, f64);

/// The bytes of `values`, in the machine's order.
pub fn as_bytes<T: Pod>(values: &[T]) -> &[u8] {
    // SAFETY: `Pod` has no padding; the slice covers exactly the memory of `values` and lives as long.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), std::mem::size_of_val(values)) }
}

trait Owner: Send + Sync {
    fn bytes(&self) -> &[u8];
}

impl<T: Pod> Owner for Vec<T> {
    fn bytes(&self) -> &[u8] {
        as_bytes(self)
    }
}

impl<T: Pod> Owner for Arc<Vec<T>> {
    fn bytes(&self) -> &[u8] {
        as_bytes(self)
    }
}

/// Memory made here, which Python reads through the buffer protocol.
#[pyclass(frozen, module = "headrace_native")]
pub struct Buffer(Box<dyn Owner>);

impl Buffer {
    /// Takes the vector as it is; nothing is copied.
    pub fn from_vec<T: Pod>(values: Vec<T>) -> Self {
        Self(Box::new(values))
    }

    /// The same memory for many arrays.
    pub fn from_shared<T: Pod>(values: Arc<Vec<T>>) -> Self {
        Self(Box::new(values))
    }

    pub fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }
}

#[pymethods]
impl Buffer {
    fn __len__(&self) -> usize {
        self.bytes().len()
    }

    /// # Safety
    /// Called by the interpreter with a view to fill.
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let bytes = slf.get().bytes();
        let (start, length) = (
            bytes.as_ptr().cast_mut().cast::<c_void>(),
            bytes.len() as isize,
        );
        // SAFETY: the memory belongs to `slf`, to which the view takes a reference, and is marked read-only.
        let result = unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start, length, 1, flags) };
        if result == 0 {
            Ok(())
        } else {
            Err(PyErr::fetch(slf.py()))
        }
    }
}

/// The memory of a Python object as a slice of numbers.
pub struct View<T: Pod> {
    memory: PyUntypedBuffer,
    elements: PhantomData<T>,
}

impl<T: Pod> View<T> {
    /// Raises `ValueError` for memory that is no slice of these numbers, and `TypeError` for what has no memory.
    pub fn of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let memory = PyUntypedBuffer::get(object)?;
        if !memory.is_c_contiguous() {
            return Err(PyValueError::new_err("the buffer is not contiguous"));
        }
        let has_whole_elements = memory.len_bytes().is_multiple_of(size_of::<T>());
        let is_aligned = memory.len_bytes() == 0 || memory.buf_ptr().cast::<T>().is_aligned();
        if !has_whole_elements || !is_aligned {
            return Err(PyValueError::new_err(format!(
                "the buffer of {} bytes does not hold aligned {}",
                memory.len_bytes(),
                std::any::type_name::<T>()
            )));
        }
        Ok(Self {
            memory,
            elements: PhantomData,
        })
    }

    pub fn slice(&self) -> &[T] {
        let length = self.memory.len_bytes() / size_of::<T>();
        if length == 0 {
            return &[]; // Its pointer may be null.
        }
        // SAFETY: contiguous, aligned and of whole elements (`of`); held by `memory`, and not written (see above).
        unsafe { std::slice::from_raw_parts(self.memory.buf_ptr().cast(), length) }
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Buffer>()
}
