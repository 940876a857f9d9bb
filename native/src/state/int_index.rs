//! From keys of integers to slots.
//!
//! Owns the table. The keys themselves are columns of the slab (one or more, by slot), lent to each call.
//!
//! - New keys are numbered in order of first appearance: the caller gives slots to them in that order (`settle`).
//! - Until then they stand in the table as pending ones; pending ones of a caller that never came back are taken out.
//! - Removing and restoring read the key of a slot from its columns, which must still hold it.

use pyo3::exceptions::{PyAssertionError, PyValueError};
use pyo3::prelude::*;

use super::hash::Hasher;
use super::memory::{Cells, IntSlice, Ints, check_lengths, check_slots};
use super::table::Table;
use crate::buffer::{Buffer, View};

/// Slots lie below it; from it on, the place of a pending key among the new ones.
const PENDING: u32 = 1 << 31;
/// So many rows before it is looked at, a row's memory is asked for.
const AHEAD: usize = 8;
const ABSENT: i64 = -1;

#[pyclass(module = "headrace_native")]
struct IntIndex {
    table: Table,
    hasher: Hasher,
    /// Hashes of the pending keys.
    pending: Vec<u64>,
}

/// Some columns of equal length.
struct Columns(Vec<Ints>);

impl Columns {
    fn of(objects: &[Bound<'_, PyAny>]) -> PyResult<Self> {
        if objects.is_empty() {
            return Err(PyValueError::new_err("a key has columns"));
        }
        Ok(Self(objects.iter().map(Ints::of).collect::<PyResult<_>>()?))
    }

    fn keys(&self) -> Keys<'_> {
        Keys(self.0.iter().map(Ints::slice).collect())
    }
}

struct Keys<'a>(Vec<IntSlice<'a>>);

impl Keys<'_> {
    /// Rows that all columns have.
    fn len(&self) -> usize {
        self.0.iter().map(|column| column.len()).min().unwrap_or(0)
    }

    #[inline(always)]
    fn hash(&self, hasher: Hasher, row: usize) -> u64 {
        hasher.of_ints(self.0.iter().map(|column| column.get(row)))
    }

    #[inline(always)]
    fn equal(&self, row: usize, others: &Keys<'_>, other: usize) -> bool {
        self.0
            .iter()
            .zip(&others.0)
            .all(|(mine, theirs)| mine.get(row) == theirs.get(other))
    }

    fn prefetch(&self, row: usize) {
        self.0.iter().for_each(|column| column.prefetch(row));
    }
}

fn check_shape(stored: &Keys<'_>, asked: &Keys<'_>, slots: usize) -> PyResult<()> {
    check_lengths(stored.0.len(), asked.0.len())?;
    asked
        .0
        .iter()
        .try_for_each(|column| check_lengths(column.len(), slots))
}

/// Visits every row with its hash, its memory asked for before.
#[inline(always)]
fn visit(
    hashes: &[u64],
    table: &mut Table,
    stored: &Keys<'_>,
    mut row_is: impl FnMut(&mut Table, usize, u64),
) {
    for (row, hash) in hashes.iter().enumerate() {
        if let Some(later) = hashes.get(row + 2 * AHEAD) {
            table.prefetch(*later);
        }
        if let Some(slot) = hashes.get(row + AHEAD).and_then(|soon| table.hint(*soon)) {
            stored.prefetch(slot as usize);
        }
        row_is(table, row, *hash);
    }
}

impl IntIndex {
    /// Takes out what nobody gave a slot.
    fn forget_pending(&mut self) {
        for (number, hash) in self.pending.drain(..).enumerate() {
            self.table.remove(hash, PENDING + number as u32);
        }
    }

    fn find_slots(&mut self, stored: &Keys<'_>, asked: &Keys<'_>, slots: &Cells<i64>) {
        let end = stored.len();
        let hashes: Vec<u64> = (0..slots.len())
            .map(|row| asked.hash(self.hasher, row))
            .collect();
        visit(&hashes, &mut self.table, stored, |table, row, hash| {
            let is_it =
                |slot: u32| (slot as usize) < end && stored.equal(slot as usize, asked, row);
            slots.set(row, table.find(hash, is_it).map_or(ABSENT, i64::from));
        });
    }

    /// The first row of each key that is new; its rows get -1, -2, ... as slots.
    fn add_missing(&mut self, stored: &Keys<'_>, asked: &Keys<'_>, slots: &Cells<i64>) -> Vec<i64> {
        let end = stored.len();
        let hashes: Vec<u64> = (0..slots.len())
            .map(|row| asked.hash(self.hasher, row))
            .collect();
        let mut first: Vec<i64> = Vec::new();
        let pending = &mut self.pending;
        visit(&hashes, &mut self.table, stored, |table, row, hash| {
            let found = table.find(hash, |number| match number.checked_sub(PENDING) {
                None => (number as usize) < end && stored.equal(number as usize, asked, row),
                Some(new) => asked.equal(first[new as usize] as usize, asked, row),
            });
            let number = found.unwrap_or_else(|| {
                let number = PENDING + first.len() as u32;
                table.insert(hash, number);
                pending.push(hash);
                first.push(row as i64);
                number
            });
            let new = i64::from(number) - i64::from(PENDING);
            slots.set(row, if new < 0 { i64::from(number) } else { -1 - new });
        });
        first
    }
}

#[pymethods]
impl IntIndex {
    #[new]
    #[pyo3(signature = (hash_mask = u64::MAX))]
    fn new(hash_mask: u64) -> Self {
        Self {
            table: Table::new(),
            hasher: Hasher::new(hash_mask),
            pending: Vec::new(),
        }
    }

    fn __len__(&self) -> usize {
        self.table.len() - self.pending.len()
    }

    #[getter]
    fn bytes(&self) -> usize {
        self.table.bytes()
    }

    fn reserve(&mut self, py: Python<'_>, count: usize) {
        py.detach(|| self.table.reserve(count));
    }

    /// Writes the slot of each key of `asked` into `slots`, -1 where there is none.
    fn find(
        &mut self,
        py: Python<'_>,
        stored: Vec<Bound<'_, PyAny>>,
        asked: Vec<Bound<'_, PyAny>>,
        slots: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let (stored, asked, slots) = (
            Columns::of(&stored)?,
            Columns::of(&asked)?,
            Cells::of(slots)?,
        );
        let (stored, asked) = (stored.keys(), asked.keys());
        check_shape(&stored, &asked, slots.len())?;
        py.detach(|| {
            self.forget_pending();
            self.find_slots(&stored, &asked, &slots);
        });
        Ok(())
    }

    /// As `find`; keys that are new are pending. Returns the first row (i64) of each; where row i has the new key k,
    /// `slots[i]` is -1 - k. None where no key is new.
    fn upsert(
        &mut self,
        py: Python<'_>,
        stored: Vec<Bound<'_, PyAny>>,
        asked: Vec<Bound<'_, PyAny>>,
        slots: &Bound<'_, PyAny>,
    ) -> PyResult<Option<Buffer>> {
        let (stored, asked, slots) = (
            Columns::of(&stored)?,
            Columns::of(&asked)?,
            Cells::of(slots)?,
        );
        let (stored, asked) = (stored.keys(), asked.keys());
        check_shape(&stored, &asked, slots.len())?;
        if slots.len() >= (u32::MAX - PENDING) as usize {
            return Err(PyValueError::new_err("too many rows for one call"));
        }
        let first = py.detach(|| {
            self.forget_pending();
            self.add_missing(&stored, &asked, &slots)
        });
        Ok((!first.is_empty()).then(|| Buffer::from_vec(first)))
    }

    /// Gives the pending keys their slots, in their order, in the table and in `slots` of the `upsert` before.
    fn settle(
        &mut self,
        py: Python<'_>,
        new: &Bound<'_, PyAny>,
        slots: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let (new, slots) = (View::<i64>::of(new)?, Cells::<i64>::of(slots)?);
        let new = new.slice();
        check_lengths(new.len(), self.pending.len())?;
        check_slots(new, PENDING as usize)?;
        py.detach(|| {
            for (number, hash) in self.pending.iter().enumerate() {
                if let Some(later) = self.pending.get(number + AHEAD) {
                    self.table.prefetch(*later);
                }
                self.table
                    .replace(*hash, PENDING + number as u32, new[number] as u32);
            }
            self.pending.clear();
            for row in 0..slots.len() {
                let place = usize::try_from(-1 - slots.get(row));
                if let Some(slot) = place.ok().and_then(|place| new.get(place)) {
                    slots.set(row, *slot);
                }
            }
        });
        Ok(())
    }

    /// Takes slots out. Raises `AssertionError` for one that is not in.
    fn remove(
        &mut self,
        py: Python<'_>,
        stored: Vec<Bound<'_, PyAny>>,
        slots: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let (stored, slots) = stored_slots(&stored, slots)?;
        let (stored, slots) = (stored.keys(), slots.slice());
        let missing = py.detach(|| {
            let hashes: Vec<u64> = slots
                .iter()
                .map(|slot| stored.hash(self.hasher, *slot as usize))
                .collect();
            let mut missing = 0;
            visit(
                &hashes,
                &mut self.table,
                &Keys(Vec::new()),
                |table, row, hash| {
                    missing += usize::from(!table.remove(hash, slots[row] as u32));
                },
            );
            missing
        });
        if missing == 0 {
            return Ok(());
        }
        Err(PyAssertionError::new_err(
            "a slot is removed that is not in the index",
        ))
    }

    /// Puts slots in whose keys are in the columns, and not in the index.
    fn restore(
        &mut self,
        py: Python<'_>,
        stored: Vec<Bound<'_, PyAny>>,
        slots: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let (stored, slots) = stored_slots(&stored, slots)?;
        let (stored, slots) = (stored.keys(), slots.slice());
        py.detach(|| {
            self.forget_pending();
            for slot in slots {
                let hash = stored.hash(self.hasher, *slot as usize);
                self.table.insert(hash, *slot as u32);
            }
        });
        Ok(())
    }
}

/// Columns by slot, and slots that are in them.
fn stored_slots(
    stored: &[Bound<'_, PyAny>],
    slots: &Bound<'_, PyAny>,
) -> PyResult<(Columns, View<i64>)> {
    let (stored, slots) = (Columns::of(stored)?, View::<i64>::of(slots)?);
    check_slots(slots.slice(), stored.keys().len().min(PENDING as usize))?;
    Ok((stored, slots))
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<IntIndex>()
}
