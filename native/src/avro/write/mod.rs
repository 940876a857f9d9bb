//! Columns to Avro records, one pass over the rows.
//!
//! Owns `RecordWriter`, which Python calls with whole tables.
//!
//! - A row is written whole or not at all; rows that do not fit are told by number, and Python finds the reason.
//! - Columns that only Python can write are refused by name before a row is written.

mod bind;
mod column;
mod number;
mod plan;
mod text;
mod value;

use std::collections::HashSet;

use pyo3::create_exception;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use self::bind::{Binder, positions};
use self::column::Column;
use self::plan::{Kind, Member, Plan};
use self::value::Out;
use crate::arrow_in::{Array, Table, Unreadable};
use crate::buffer::Buffer;

create_exception!(
    headrace_native,
    ColumnsRefused,
    PyValueError,
    "Columns that only Python writes; the argument is the list of their names."
);

/// Room made at once at most; beyond it the output grows as it is written.
const ROOM_BYTES_MAX: usize = 1 << 28;

/// Data, offsets, and where rows do not fit a validity bitmap and the rows.
type Written = (Buffer, Buffer, Option<(Buffer, Buffer)>);

/// Writes tables as records of one schema.
#[pyclass(frozen, module = "headrace_native")]
pub struct RecordWriter {
    members: Vec<Member>,
}

#[pymethods]
impl RecordWriter {
    #[new]
    fn new(description: &Bound<'_, PyAny>) -> PyResult<Self> {
        match Plan::of(description)?.kind {
            Kind::Record(members) => Ok(Self { members }),
            _ => Err(PyValueError::new_err("only a record has columns")),
        }
    }

    /// `prefix` and a record for each row of `columns`, which is anything with `__arrow_c_stream__`. The columns named in
    /// `written` hold the bytes of their fields. Raises `ColumnsRefused`.
    fn write(
        &self,
        python: Python<'_>,
        columns: &Bound<'_, PyAny>,
        prefix: &[u8],
        written: HashSet<String>,
    ) -> PyResult<Written> {
        let table = Table::read(columns)?;
        python
            .detach(|| self.rows(&table, prefix, &written).map(Rows::finish))
            .map_err(ColumnsRefused::new_err::<Vec<String>>)
    }
}

impl RecordWriter {
    /// The error is the names of columns that cannot be written here.
    fn rows(
        &self,
        table: &Table,
        prefix: &[u8],
        written: &HashSet<String>,
    ) -> Result<Rows, Vec<String>> {
        let places = positions(table.fields());
        let mut rows = Rows::new();
        for (length, arrays) in table.batches() {
            let mut binder = Binder::default();
            let (mut columns, mut refused) = (Vec::with_capacity(self.members.len()), Vec::new());
            for member in &self.members {
                let array = places
                    .get(member.name.as_str())
                    .map(|place| place.map_or(Err(Unreadable), |at| arrays[at]));
                match bind(&mut binder, member, array, written) {
                    Ok(column) => columns.push(column),
                    Err(Unreadable) => refused.push(member.name.clone()),
                }
            }
            if !refused.is_empty() {
                return Err(refused);
            }
            rows.make_room(
                binder
                    .room
                    .saturating_add(length.saturating_mul(prefix.len())),
                length,
            );
            rows.write(length, |row, out| {
                out.raw(prefix);
                columns.iter().all(|column| column.write(row, out))
            });
        }
        Ok(rows)
    }
}

fn bind<'a>(
    binder: &mut Binder,
    member: &'a Member,
    array: Option<Result<Array<'a>, Unreadable>>,
    written: &HashSet<String>,
) -> Result<Column<'a>, Unreadable> {
    match array {
        None => Ok(binder.missing(member)),
        Some(array) if written.contains(&member.name) => binder.written(array?),
        Some(array) => binder.bind(&member.plan, array?),
    }
}

/// What has been written of a table.
struct Rows {
    out: Out,
    offsets: Vec<i64>,
    bad: Vec<i64>,
}

impl Rows {
    fn new() -> Self {
        Self {
            out: Out::new(),
            offsets: vec![0],
            bad: Vec::new(),
        }
    }

    fn make_room(&mut self, bytes: usize, rows: usize) {
        self.out.make_room(bytes.min(ROOM_BYTES_MAX));
        self.offsets.reserve(rows);
    }

    /// `write` gives false for a row that does not fit; what it wrote then is taken back.
    #[inline]
    fn write(&mut self, length: usize, write: impl Fn(usize, &mut Out) -> bool) {
        for row in 0..length {
            let start = self.out.len();
            if !write(row, &mut self.out) {
                self.out.truncate(start);
                self.bad.push(self.offsets.len() as i64 - 1);
            }
            self.offsets.push(self.out.len() as i64);
        }
    }

    fn finish(self) -> Written {
        let failed = (!self.bad.is_empty()).then(|| {
            let mut bitmap = vec![0xFF_u8; (self.offsets.len() - 1).div_ceil(8)];
            for row in &self.bad {
                bitmap[*row as usize / 8] &= !(1 << (row % 8));
            }
            (Buffer::from_vec(bitmap), Buffer::from_vec(self.bad))
        });
        (
            Buffer::from_vec(self.out.into_vec()),
            Buffer::from_vec(self.offsets),
            failed,
        )
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("ColumnsRefused", module.py().get_type::<ColumnsRefused>())?;
    module.add_class::<RecordWriter>()?;
    module.add_class::<text::TextWriter>()
}
