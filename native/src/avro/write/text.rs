//! One field as its text, without anything around it: the string form of keys.
//!
//! Owns `TextWriter` and which columns have a text.
//!
//! - Only what has one obvious text is written: text, symbols, UUIDs, whole numbers.
//! - Rows without one are told by number, and columns of other types are refused, as `RecordWriter` does it.

use std::collections::HashMap;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::bind::{is_text, positions, validity};
use super::number::{Fit, Number, Whole};
use super::plan::{Kind, Plan};
use super::value::{Out, is_uuid};
use super::{ColumnsRefused, Rows, Written};
use crate::arrow_in::{Array, Bytes, Table, Unreadable};

/// Writes one column as texts.
#[pyclass(frozen, module = "headrace_native")]
pub struct TextWriter {
    name: String,
    plan: Plan,
}

#[pymethods]
impl TextWriter {
    #[new]
    fn new(name: String, description: &Bound<'_, PyAny>) -> PyResult<Self> {
        let plan = Plan::of(description)?;
        let has_text = matches!(
            plan.kind,
            Kind::Text | Kind::Enum(_) | Kind::UuidText | Kind::UuidFixed | Kind::Int | Kind::Long
        );
        if !has_text {
            return Err(PyValueError::new_err("no type with one obvious text"));
        }
        Ok(Self { name, plan })
    }

    /// The text of each row. Raises `ColumnsRefused`, also where the column is missing.
    fn write(&self, python: Python<'_>, columns: &Bound<'_, PyAny>) -> PyResult<Written> {
        let table = Table::read(columns)?;
        python
            .detach(|| self.rows(&table).map(Rows::finish))
            .map_err(|_| ColumnsRefused::new_err(vec![self.name.clone()]))
    }
}

impl TextWriter {
    fn rows(&self, table: &Table) -> Result<Rows, Unreadable> {
        let place = positions(table.fields())
            .get(self.name.as_str())
            .copied()
            .flatten()
            .ok_or(Unreadable)?;
        let mut rows = Rows::new();
        for (length, arrays) in table.batches() {
            let array = arrays[place]?;
            let (validity, texts) = (validity(&array)?, Texts::of(&self.plan.kind, &array)?);
            rows.make_room(texts.size_hint(length), length);
            rows.write(length, |row, out| {
                validity.has(row) && texts.write(row, out).is_some()
            });
        }
        Ok(rows)
    }
}

enum Texts<'a> {
    Any(Source<'a>),
    Symbol(Source<'a>, &'a HashMap<Vec<u8>, i64>),
    /// With its letters as they are, or small.
    Uuid(Source<'a>, bool),
    Whole(Number<'a>, Fit),
}

impl<'a> Texts<'a> {
    fn of(kind: &'a Kind, array: &Array<'a>) -> Result<Self, Unreadable> {
        Ok(match kind {
            Kind::Int | Kind::Long if array.field.dictionary.is_some() => return Err(Unreadable),
            Kind::Int => Self::Whole(Number::of(array)?, Fit::INT),
            Kind::Long => Self::Whole(Number::of(array)?, Fit::LONG),
            Kind::Enum(symbols) => Self::Symbol(Source::of(array)?, symbols),
            Kind::UuidText => Self::Uuid(Source::of(array)?, false),
            Kind::UuidFixed => Self::Uuid(Source::of(array)?, true),
            _ => Self::Any(Source::of(array)?),
        })
    }

    #[inline]
    fn write(&self, row: usize, out: &mut Out) -> Option<()> {
        match self {
            Self::Any(texts) => out.raw(texts.get(row)?),
            Self::Symbol(texts, symbols) => {
                let text = texts.get(row)?;
                symbols.get(text)?;
                out.raw(text);
            }
            Self::Uuid(texts, is_small) => {
                let text = texts.get(row).filter(|text| is_uuid(text))?;
                if *is_small {
                    text.iter()
                        .for_each(|letter| out.byte(letter.to_ascii_lowercase()));
                } else {
                    out.raw(text);
                }
            }
            Self::Whole(values, fit) => out.digits(fit.apply(values.as_whole(row)?)?),
        }
        Some(())
    }

    fn size_hint(&self, rows: usize) -> usize {
        const NUMBER_BYTES: usize = 8;
        match self {
            Self::Any(texts) | Self::Symbol(texts, _) | Self::Uuid(texts, _) => {
                texts.size_hint(rows)
            }
            Self::Whole(..) => rows.saturating_mul(NUMBER_BYTES),
        }
    }
}

/// Texts as they are, or by their place in a dictionary.
enum Source<'a> {
    Plain(Bytes<'a>),
    Indexed(Whole<'a>, Bytes<'a>),
}

impl<'a> Source<'a> {
    fn of(array: &Array<'a>) -> Result<Self, Unreadable> {
        if array.field.dictionary.is_none() {
            return if is_text(array) {
                array.bytes().map(Self::Plain)
            } else {
                Err(Unreadable)
            };
        }
        let entries = array.dictionary()?;
        if entries.field.dictionary.is_some() || !is_text(&entries) {
            return Err(Unreadable);
        }
        Ok(Self::Indexed(Whole::of(array)?, entries.bytes()?))
    }

    #[inline]
    fn get(&self, row: usize) -> Option<&'a [u8]> {
        match self {
            Self::Plain(texts) => texts.get(row),
            Self::Indexed(indices, entries) => entries.get(indices.index(row)?),
        }
    }

    fn size_hint(&self, rows: usize) -> usize {
        match self {
            Self::Plain(texts) => texts.size_hint(),
            Self::Indexed(..) => rows,
        }
    }
}
