//! Different rows of key columns as small numbers, and back.
//!
//! Owns the rows, each once, as bytes (`row_columns` says how), and the number (`id`) of each.
//!
//! - An id stays until `retain` drops it; ids are given as `Dictionary` of the Python path gives them.
//! - A row lies at a multiple of two bytes, its length (one byte, or five) before it.

use pyo3::exceptions::{PyOverflowError, PyValueError};
use pyo3::prelude::*;

use super::hash::Hasher;
use super::memory::{Cells, check_lengths, check_slots, prefetch};
use super::row_columns::{Column, Given, Kind, Layout, Part, Rows, Taken};
use super::table::{NUMBER_END, Table};
use crate::buffer::View;

const ABSENT: i64 = -1;
const NO_ROW: u32 = u32::MAX;
const ALIGNMENT: usize = 2;
const LONG: u8 = u8::MAX;
const AHEAD: usize = 6;
/// Up to here memory doubles; beyond, where moving it costs nothing, an eighth is added.
const DOUBLED_BYTES_MAX: usize = 1 << 22;

/// Rows one after the other.
#[derive(Default)]
struct Arena {
    bytes: Vec<u8>,
}

impl Arena {
    /// Where the row lies; None when there is no more room to point into.
    fn add(&mut self, row: &[u8]) -> Option<u32> {
        let place = u32::try_from(self.bytes.len() / ALIGNMENT)
            .ok()
            .filter(|place| *place != NO_ROW)?;
        let needed = row.len() + 5 + ALIGNMENT;
        if self.bytes.capacity() - self.bytes.len() < needed {
            self.bytes.reserve_exact(
                needed.max(
                    self.bytes
                        .len()
                        .min(DOUBLED_BYTES_MAX.max(self.bytes.len() / 8)),
                ),
            );
        }
        match u8::try_from(row.len()) {
            Ok(length) if length < LONG => self.bytes.push(length),
            _ => {
                self.bytes.push(LONG);
                self.bytes
                    .extend_from_slice(&u32::try_from(row.len()).ok()?.to_le_bytes());
            }
        }
        self.bytes.extend_from_slice(row);
        self.bytes
            .resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
        Some(place)
    }

    #[inline(always)]
    fn row(&self, place: u32) -> &[u8] {
        let at = place as usize * ALIGNMENT;
        let rest = &self.bytes[at + 1..];
        match self.bytes[at] {
            LONG => {
                let length = u32::from_le_bytes(rest[..4].try_into().expect("four bytes"));
                &rest[4..4 + length as usize]
            }
            length => &rest[..usize::from(length)],
        }
    }

    #[inline(always)]
    fn prefetch(&self, place: u32) {
        prefetch(self.bytes.as_ptr().wrapping_add(place as usize * ALIGNMENT));
    }
}

struct Dictionary {
    layout: Layout,
    hasher: Hasher,
    table: Table,
    arena: Arena,
    /// By id.
    places: Vec<u32>,
    /// Ids to be given again, the next one last.
    free: Vec<u32>,
}

impl Dictionary {
    /// Visits every row with its hash, its memory asked for before.
    #[inline(always)]
    fn visit(
        &mut self,
        rows: &Rows,
        mut row_is: impl FnMut(&mut Self, usize, u64) -> Option<()>,
    ) -> Option<()> {
        let hashes: Vec<u64> = (0..rows.len())
            .map(|row| self.hasher.of_bytes(rows.row(row)))
            .collect();
        for (row, hash) in hashes.iter().enumerate() {
            if let Some(later) = hashes.get(row + 3 * AHEAD) {
                self.table.prefetch(*later);
            }
            if let Some(id) = hashes
                .get(row + 2 * AHEAD)
                .and_then(|later| self.table.hint(*later))
            {
                prefetch(self.places.as_ptr().wrapping_add(id as usize));
            }
            if let Some(id) = hashes
                .get(row + AHEAD)
                .and_then(|soon| self.table.hint(*soon))
            {
                self.arena.prefetch(self.places[id as usize]);
            }
            row_is(self, row, *hash)?;
        }
        Some(())
    }

    #[inline(always)]
    fn id_of(&self, row: &[u8], hash: u64) -> Option<u32> {
        self.table
            .find(hash, |id| self.arena.row(self.places[id as usize]) == row)
    }

    fn find(&mut self, rows: &Rows, ids: &Cells<i64>) {
        self.visit(rows, |dictionary, row, hash| {
            ids.set(
                row,
                dictionary
                    .id_of(rows.row(row), hash)
                    .map_or(ABSENT, i64::from),
            );
            Some(())
        });
    }

    /// None when there is no room for more rows.
    fn intern(&mut self, rows: &Rows, ids: &Cells<i64>) -> Option<()> {
        self.visit(rows, |dictionary, row, hash| {
            let bytes = rows.row(row);
            let id = match dictionary.id_of(bytes, hash) {
                Some(id) => id,
                None => dictionary.add(bytes, hash)?,
            };
            ids.set(row, i64::from(id));
            Some(())
        })
    }

    fn add(&mut self, row: &[u8], hash: u64) -> Option<u32> {
        let place = self.arena.add(row)?;
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                let id = u32::try_from(self.places.len())
                    .ok()
                    .filter(|id| *id < NUMBER_END)?;
                if self.places.len() == self.places.capacity() {
                    let more = self
                        .places
                        .len()
                        .clamp(64, (DOUBLED_BYTES_MAX / 4).max(self.places.len() / 8));
                    self.places.reserve_exact(more);
                }
                self.places.push(NO_ROW);
                id
            }
        };
        self.places[id as usize] = place;
        self.table.insert(hash, id);
        Some(id)
    }

    /// Drops all ids but these, and the rows of dropped ones.
    fn retain(&mut self, wanted: &[i64]) {
        let mut is_wanted = vec![false; self.places.len()];
        for id in wanted {
            is_wanted[*id as usize] = true;
        }
        let kept: usize = wanted.len().min(self.places.len());
        let mut arena = Arena {
            bytes: Vec::with_capacity(self.arena.bytes.len().min(kept * 64)),
        };
        let mut dead = Vec::new();
        for (id, is_wanted) in is_wanted.into_iter().enumerate() {
            let place = self.places[id];
            if place == NO_ROW {
                continue;
            }
            let row = self.arena.row(place);
            if is_wanted {
                self.places[id] = arena.add(row).expect("fewer rows than before");
            } else {
                self.table.remove(self.hasher.of_bytes(row), id as u32);
                self.places[id] = NO_ROW;
                dead.push(id as u32);
            }
        }
        arena.bytes.shrink_to_fit();
        self.arena = arena;
        // The longest free come first, then these in their order.
        dead.reverse();
        dead.append(&mut self.free);
        self.free = dead;
    }
}

#[pyclass(module = "headrace_native")]
struct RowDictionary(Dictionary);

impl RowDictionary {
    fn rows(&self, py: Python<'_>, count: usize, columns: &[Given<'_>]) -> PyResult<Rows> {
        let layout = &self.0.layout;
        check_lengths(layout.kinds().len(), columns.len())?;
        let columns: Vec<Column> = columns
            .iter()
            .zip(layout.kinds())
            .map(|(given, kind)| Column::of(given, *kind, count))
            .collect::<PyResult<_>>()?;
        let parts: Vec<Part<'_>> = columns.iter().map(Column::part).collect();
        py.detach(|| layout.rows(&parts, count))
            .ok_or_else(|| PyValueError::new_err("a text points outside of its buffer"))
    }

    /// The rows asked about, and where their ids go.
    fn asked(
        &self,
        py: Python<'_>,
        count: usize,
        columns: &[Given<'_>],
        ids: &Bound<'_, PyAny>,
    ) -> PyResult<(Rows, Cells<i64>)> {
        let (rows, ids) = (self.rows(py, count, columns)?, Cells::of(ids)?);
        check_lengths(count, ids.len())?;
        Ok((rows, ids))
    }
}

#[pymethods]
impl RowDictionary {
    /// `widths`: bytes of each column's values, 0 for texts.
    #[new]
    #[pyo3(signature = (widths, hash_mask = u64::MAX))]
    fn new(widths: Vec<usize>, hash_mask: u64) -> PyResult<Self> {
        if widths.is_empty() {
            return Err(PyValueError::new_err("a dictionary has columns"));
        }
        let kind = |width| {
            if width == 0 {
                Kind::Text
            } else {
                Kind::Fixed(width)
            }
        };
        Ok(Self(Dictionary {
            layout: Layout::new(widths.into_iter().map(kind).collect()),
            hasher: Hasher::new(hash_mask),
            table: Table::new(),
            arena: Arena::default(),
            places: Vec::new(),
            free: Vec::new(),
        }))
    }

    fn __len__(&self) -> usize {
        self.0.table.len()
    }

    #[getter]
    fn bytes(&self) -> usize {
        let (arena, places) = (
            self.0.arena.bytes.capacity(),
            self.0.places.capacity() + self.0.free.capacity(),
        );
        arena + places * size_of::<u32>() + self.0.table.bytes()
    }

    fn reserve(&mut self, py: Python<'_>, count: usize) {
        py.detach(|| {
            self.0.table.reserve(count);
            self.0
                .places
                .reserve_exact(count.saturating_sub(self.0.places.len()));
        });
    }

    /// Writes the id of each of `count` rows into `ids`, -1 for unknown ones.
    fn find(
        &mut self,
        py: Python<'_>,
        count: usize,
        columns: Vec<Given<'_>>,
        ids: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let (rows, ids) = self.asked(py, count, &columns, ids)?;
        py.detach(|| self.0.find(&rows, &ids));
        Ok(())
    }

    /// Writes the id of each of `count` rows into `ids`; unknown rows are added.
    fn intern(
        &mut self,
        py: Python<'_>,
        count: usize,
        columns: Vec<Given<'_>>,
        ids: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let (rows, ids) = self.asked(py, count, &columns, ids)?;
        py.detach(|| self.0.intern(&rows, &ids))
            .ok_or_else(|| PyOverflowError::new_err("the dictionary has no room for more rows"))
    }

    /// The rows of these ids as columns: validity, values or views, bytes of texts.
    fn take(&self, py: Python<'_>, ids: &Bound<'_, PyAny>) -> PyResult<Vec<Taken>> {
        let ids = View::<i64>::of(ids)?;
        let ids = ids.slice();
        check_slots(ids, self.0.places.len())?;
        let (places, arena) = (&self.0.places, &self.0.arena);
        if ids.iter().any(|id| places[*id as usize] == NO_ROW) {
            return Err(PyValueError::new_err("an id that was dropped"));
        }
        py.detach(|| {
            let found: Vec<u32> = ids.iter().map(|id| places[*id as usize]).collect();
            let rows = found.iter().enumerate().map(|(number, place)| {
                if let Some(later) = found.get(number + AHEAD) {
                    arena.prefetch(*later);
                }
                arena.row(*place)
            });
            let bytes = rows.clone().map(<[u8]>::len).sum();
            self.0
                .layout
                .fits(bytes)
                .then(|| self.0.layout.columns(rows, ids.len()))
        })
        .ok_or_else(|| PyOverflowError::new_err("so many bytes of keys do not fit into one column"))
    }

    /// Drops all ids but these (any order, repeats allowed).
    fn retain(&mut self, py: Python<'_>, ids: &Bound<'_, PyAny>) -> PyResult<()> {
        let ids = View::<i64>::of(ids)?;
        let ids = ids.slice();
        check_slots(ids, self.0.places.len())?;
        py.detach(|| self.0.retain(ids));
        Ok(())
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<RowDictionary>()
}
