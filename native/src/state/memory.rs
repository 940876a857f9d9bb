//! Columns of state, as Python lends them.
//!
//! Owns the views of arrays that may be written (`Cells`) and of integer arrays of either width (`Ints`).
//!
//! - A view lives as long as its call, and every index is checked before it is used.
//! - Cells are read and written one number at a time through a pointer: that two arguments are one array is allowed.

use std::marker::PhantomData;

use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::prelude::*;

use crate::buffer::{Pod, View};

/// Ask for memory that is needed soon.
#[inline(always)]
pub fn prefetch<T>(place: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint; any address is allowed, and nothing is read.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(place.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// An array that a call writes to.
pub struct Cells<T: Pod> {
    /// Keeps the memory where it is.
    _memory: PyUntypedBuffer,
    start: *mut T,
    length: usize,
    elements: PhantomData<T>,
}

// SAFETY: the memory is the caller's and stays while `_memory` is held; state is used by one thread at a time.
unsafe impl<T: Pod> Send for Cells<T> {}
// SAFETY: as above.
unsafe impl<T: Pod> Sync for Cells<T> {}

impl<T: Pod> Cells<T> {
    pub fn of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let memory = PyUntypedBuffer::get(object)?;
        let start: *mut T = memory.buf_ptr().cast();
        let bytes = memory.len_bytes();
        let is_whole = bytes.is_multiple_of(size_of::<T>()) && (bytes == 0 || start.is_aligned());
        if memory.readonly() || !memory.is_c_contiguous() || !is_whole {
            return Err(PyValueError::new_err(
                "not a contiguous array of these numbers that may be written",
            ));
        }
        let length = bytes / size_of::<T>();
        Ok(Self {
            _memory: memory,
            start,
            length,
            elements: PhantomData,
        })
    }

    pub fn len(&self) -> usize {
        self.length
    }

    #[inline(always)]
    pub fn prefetch(&self, at: usize) {
        prefetch(self.start.wrapping_add(at));
    }

    /// `at` must be below `len`.
    #[inline(always)]
    pub fn get(&self, at: usize) -> T {
        assert!(at < self.length);
        // SAFETY: inside, aligned (`of`), and every pattern of bits is a number.
        unsafe { self.start.add(at).read() }
    }

    /// `at` must be below `len`.
    #[inline(always)]
    pub fn set(&self, at: usize, value: T) {
        assert!(at < self.length);
        // SAFETY: inside, aligned and writable (`of`).
        unsafe { self.start.add(at).write(value) }
    }
}

/// Integers of 32 or 64 bits, by the size of their items.
pub enum Ints {
    Narrow(View<i32>),
    Wide(View<i64>),
}

/// The same, borrowed for the time without the interpreter.
#[derive(Clone, Copy)]
pub enum IntSlice<'a> {
    Narrow(&'a [i32]),
    Wide(&'a [i64]),
}

impl Ints {
    pub fn of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        match PyUntypedBuffer::get(object)?.item_size() {
            4 => Ok(Self::Narrow(View::of(object)?)),
            8 => Ok(Self::Wide(View::of(object)?)),
            size => Err(PyValueError::new_err(format!("integers of {size} bytes"))),
        }
    }

    pub fn slice(&self) -> IntSlice<'_> {
        match self {
            Self::Narrow(view) => IntSlice::Narrow(view.slice()),
            Self::Wide(view) => IntSlice::Wide(view.slice()),
        }
    }
}

impl IntSlice<'_> {
    pub fn len(self) -> usize {
        match self {
            Self::Narrow(values) => values.len(),
            Self::Wide(values) => values.len(),
        }
    }

    #[inline(always)]
    pub fn get(self, at: usize) -> i64 {
        match self {
            Self::Narrow(values) => i64::from(values[at]),
            Self::Wide(values) => values[at],
        }
    }

    #[inline(always)]
    pub fn prefetch(self, at: usize) {
        match self {
            Self::Narrow(values) => prefetch(values.as_ptr().wrapping_add(at)),
            Self::Wide(values) => prefetch(values.as_ptr().wrapping_add(at)),
        }
    }
}

/// Whether all slots lie below `end`; else the error to raise.
pub fn check_slots(slots: &[i64], end: usize) -> PyResult<()> {
    // One look for all of them: as an unsigned number a negative one is the largest.
    let largest = slots
        .iter()
        .fold(0, |largest, slot| largest.max(*slot as u64));
    if slots.is_empty() || largest < end as u64 {
        return Ok(());
    }
    Err(PyIndexError::new_err(format!(
        "slot {} of {end}",
        largest as i64
    )))
}

/// Whether two columns belong together; else the error to raise.
pub fn check_lengths(left: usize, right: usize) -> PyResult<()> {
    if left == right {
        return Ok(());
    }
    Err(PyValueError::new_err(format!(
        "columns of {left} and {right} rows"
    )))
}
