//! Columns that come in from Python as they are: the Arrow C data interface, by hand.
//!
//! Owns the way from an object with `__arrow_c_stream__` (a pyarrow table, a Polars frame) to slices of its memory.
//!
//! - Nothing is copied; a `Table` keeps the memory until it is dropped.
//! - Counts of children and buffers, missing buffers, alignment and signs are checked when an array is opened; every
//!   offset, index and view is checked when it is used. What is wrong is an error or no value, never a panic.
//! - The interface does not tell how long buffers are. That they are as long as their array says is the word of who
//!   made them: the callers let pyarrow validate its tables before.

mod array;
pub mod c_data;
mod field;

pub use array::{Array, Bits, Bytes, Ranges};
pub use c_data::Table;
pub use field::{Field, TimeUnit, Type};

/// Why a column cannot be read here. Whoever asked has another way to read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreadable;
