//! Reading framed Avro records into columns, in one pass over a batch.
//!
//! Owns `AvroReader`: the columns of one reader's schema, and the steps of each writer's that was taught to it.
//!
//! 1. A record's writer is found, by the id in front of it or as the caller says.
//! 2. Its steps append one value to every column.
//! 3. A record that was refused is truncated away and told as left; Python reads it again and names the reason.
//!
//! - Rows keep the order of the batch, whoever wrote them.
//! - The interpreter's lock is let go while rows are read.

use std::cell::UnsafeCell;
use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::arrow_in::c_data::CArray;
use crate::buffer::{Buffer, View};
use batch::{Batch, Outcome};
use columns::Spec;
use export::Uneven;
use steps::Program;

mod batch;
mod columns;
mod cursor;
mod describe;
mod export;
mod leaf;
mod skip;
mod steps;

/// The writers that a reader knows.
#[derive(Default)]
pub struct Writers {
    programs: Vec<Program>,
    by_id: HashMap<u32, usize>,
    /// The number of the first of `programs`: a number is never given twice.
    first: usize,
}

impl Writers {
    fn numbered(&self, number: i32) -> Option<&Program> {
        self.programs
            .get(usize::try_from(number).ok()?.checked_sub(self.first)?)
    }

    fn of_id(&self, id: u32) -> Option<&Program> {
        self.by_id.get(&id).map(|&place| &self.programs[place])
    }
}

#[pyclass(frozen, module = "headrace_native")]
pub struct AvroReader {
    specs: Vec<Spec>,
    offset_max: usize,
    writers: RwLock<Writers>,
}

#[pymethods]
impl AvroReader {
    #[new]
    fn new(columns: Vec<Bound<'_, PyTuple>>, offset_max: i32) -> PyResult<Self> {
        Ok(Self {
            specs: describe::specs(&columns)?,
            offset_max: usize::try_from(offset_max)?,
            writers: RwLock::default(),
        })
    }

    /// Know a writer's schema by its steps, under an id where it has one. Its number among the writers.
    #[pyo3(signature = (record, named, schema_id=None))]
    fn learn(
        &self,
        record: &Bound<'_, PyTuple>,
        named: Vec<Bound<'_, PyTuple>>,
        schema_id: Option<u32>,
    ) -> PyResult<usize> {
        let program = describe::program(record, &named, &self.specs)?;
        let mut writers = self.writers.write().unwrap_or_else(PoisonError::into_inner);
        let place = writers.programs.len();
        writers.programs.push(program);
        if let Some(schema_id) = schema_id {
            writers.by_id.insert(schema_id, place);
        }
        Ok(writers.first + place)
    }

    /// Know no writer any more.
    fn forget(&self) {
        let mut writers = self.writers.write().unwrap_or_else(PoisonError::into_inner);
        let first = writers.first + writers.programs.len();
        *writers = Writers {
            first,
            ..Writers::default()
        };
    }

    /// Read the values `first` to `first + count` of an Arrow column: `data[offsets[i]:offsets[i + 1]]`.
    ///
    /// `validity` is its bitmap. `numbers` names the writer of each value that has no prefix; -1 is for those that have one, less for those to leave.
    #[allow(clippy::too_many_arguments)] // Python names them.
    #[pyo3(signature = (data, offsets, first, count, validity=None, numbers=None))]
    fn read(
        &self,
        py: Python<'_>,
        data: &Bound<'_, PyAny>,
        offsets: &Bound<'_, PyAny>,
        first: usize,
        count: usize,
        validity: Option<&Bound<'_, PyAny>>,
        numbers: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<AvroBatch> {
        let (data, offsets) = (View::<u8>::of(data)?, View::<i64>::of(offsets)?);
        let validity = validity.map(View::<u8>::of).transpose()?;
        let numbers = numbers.map(View::<i32>::of).transpose()?;
        let batch = Batch::new(
            data.slice(),
            offsets.slice(),
            first,
            count,
            validity.as_ref().map(View::slice),
            numbers.as_ref().map(View::slice),
        )
        .ok_or_else(|| PyValueError::new_err("the column ends before its last value"))?;
        let outcome = py.detach(|| {
            let writers = self.writers.read().unwrap_or_else(PoisonError::into_inner);
            batch.read(&self.specs, &writers, self.offset_max)
        });
        let node = outcome.0.map_err(|Uneven { column }| {
            PyRuntimeError::new_err(format!(
                "the steps do not fill column {column} as its parent says"
            ))
        })?;
        Ok(AvroBatch {
            array: Exported(UnsafeCell::new(node.into_array())),
            outcome: outcome.1,
        })
    }
}

/// What came of a batch.
#[pyclass(frozen, module = "headrace_native")]
pub struct AvroBatch {
    array: Exported,
    outcome: Outcome,
}

/// Changed from outside, by whoever imports it.
struct Exported(UnsafeCell<CArray>);

// SAFETY: nothing here looks into it; importing twice at once would be the importer's mistake, as with any such array.
unsafe impl Sync for Exported {}

#[pymethods]
impl AvroBatch {
    /// Where the struct of Arrow's C data interface lies; whoever imports it moves the columns out.
    #[getter]
    fn address(&self) -> usize {
        self.array.0.get().addr()
    }

    /// The input's row of each row read, 64 bits each; None where all were.
    #[getter]
    fn rows(&self) -> Option<Buffer> {
        self.outcome.rows.clone().map(Buffer::from_shared)
    }

    /// Rows that were not read and are not null, 64 bits each.
    #[getter]
    fn left_rows(&self) -> Option<Buffer> {
        self.outcome.left_rows.clone().map(Buffer::from_shared)
    }

    /// The schema id of each row that is left; -1 where it has none.
    #[getter]
    fn left_ids(&self) -> Option<Buffer> {
        self.outcome.left_ids.clone().map(Buffer::from_shared)
    }

    /// Whether a record was left because the columns have no room for it.
    #[getter]
    fn is_full(&self) -> bool {
        self.outcome.is_full
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<AvroReader>()?;
    module.add_class::<AvroBatch>()
}
