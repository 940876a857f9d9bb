//! State: keys to numbers, and numbers to columns, many at a time.
//!
//! Owns what `headrace.engine.state` leaves to compiled code; that package owns the slots, their columns and the undo.
//!
//! - `table`: from hashes to numbers. `int_index`, `row_dictionary`: from integer keys, from rows of any columns.
//! - `slots`: gathers, scatters and lists of different slots. `doubles`: exact sums of doubles.
//! - `clocks`: times by partition. `slot_times`: times by slot. `texts`: from views to plain texts.
//! - Numbers are given in order of first appearance, as the NumPy path gives them; no hash shows in any result.

use pyo3::prelude::*;

mod clocks;
mod doubles;
mod hash;
mod int_index;
mod memory;
mod row_columns;
mod row_dictionary;
mod slot_times;
mod slots;
mod table;
mod texts;

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    clocks::register(module)?;
    doubles::register(module)?;
    int_index::register(module)?;
    row_dictionary::register(module)?;
    slot_times::register(module)?;
    slots::register(module)?;
    texts::register(module)
}
