//! What Python says of columns and steps, as the trees that are executed.
//!
//! Owns the reading of descriptions, which `contracts/binary/native_steps.py` writes: tuples that begin with a name.
//!
//! - A description that makes no sense raises; it is a mistake of ours, not of a schema or a record.
//! - Columns form a tree: children stand behind their parents, and each has one.

use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use super::columns::{Layout, Spec, Symbols};
use super::leaf::{Decimal, Integer, Number, Wide, Wire, wide};
use super::skip::Skip;
use super::steps::{Program, Step};

/// The columns of a reader; the first is the record.
pub fn specs(described: &[Bound<'_, PyTuple>]) -> PyResult<Vec<Spec>> {
    let specs = described.iter().map(spec).collect::<PyResult<Vec<_>>>()?;
    let mut has_parent = vec![false; specs.len()];
    for (at, spec) in specs.iter().enumerate() {
        for child in children(&spec.layout) {
            if child <= at
                || child >= specs.len()
                || std::mem::replace(&mut has_parent[child], true)
            {
                return Err(wrong(&format!("column {child} is no child of {at}")));
            }
        }
    }
    match specs.first().map(|spec| &spec.layout) {
        Some(Layout::Struct(_)) => Ok(specs),
        _ => Err(wrong("the first column is the record")),
    }
}

fn children(layout: &Layout) -> Vec<usize> {
    match layout {
        Layout::Struct(children) => children.clone(),
        Layout::List(item) => vec![*item],
        Layout::Map { key, value } => vec![*key, *value],
        _ => Vec::new(),
    }
}

fn spec(described: &Bound<'_, PyTuple>) -> PyResult<Spec> {
    let layout = match &*name(described)? {
        "null" => Layout::Null,
        "bits" => Layout::Bits,
        "fixed" => Layout::Fixed(get(described, 2)?),
        "bytes" => Layout::Bytes,
        "enum" => Layout::Enum(symbols(&get::<Vec<String>>(described, 2)?)?),
        "duration" => Layout::Duration,
        "struct" => Layout::Struct(get(described, 2)?),
        "list" => Layout::List(get(described, 2)?),
        "map" => Layout::Map {
            key: get(described, 2)?,
            value: get(described, 3)?,
        },
        other => return Err(wrong(&format!("no column is a {other}"))),
    };
    Ok(Spec {
        layout,
        is_nullable: get(described, 1)?,
    })
}

fn symbols(texts: &[String]) -> PyResult<Symbols> {
    let mut offsets = vec![0];
    let mut data = Vec::new();
    for text in texts {
        data.extend_from_slice(text.as_bytes());
        offsets.push(i32::try_from(data.len()).map_err(|_| wrong("symbols are too long"))?);
    }
    Ok(Symbols {
        offsets: Arc::new(offsets),
        data: Arc::new(data),
    })
}

pub fn program(
    record: &Bound<'_, PyTuple>,
    named: &[Bound<'_, PyTuple>],
    specs: &[Spec],
) -> PyResult<Program> {
    let named = named.iter().map(skip).collect::<PyResult<Vec<_>>>()?;
    Ok(Program {
        record: Steps { specs }.step(record)?,
        named,
    })
}

struct Steps<'a> {
    specs: &'a [Spec],
}

impl Steps<'_> {
    fn step(&self, described: &Bound<'_, PyTuple>) -> PyResult<Step> {
        Ok(match &*name(described)? {
            "record" => Step::Record {
                column: self.column(described, |layout| matches!(layout, Layout::Struct(_)))?,
                fields: self.steps(described, 2)?,
            },
            "array" => Step::Array {
                column: self.column(described, |layout| matches!(layout, Layout::List(_)))?,
                item: self.boxed(described, 2)?,
                item_bytes_min: get(described, 3)?,
            },
            "map" => Step::Map {
                column: self.column(described, |layout| matches!(layout, Layout::Map { .. }))?,
                key: self.at(get(described, 2)?, |layout| matches!(layout, Layout::Bytes))?,
                value: self.boxed(described, 3)?,
            },
            "writer_union" => Step::WriterUnion(self.steps(described, 1)?),
            "null_value" => Step::NullValue {
                column: self.column(described, |_| true)?,
            },
            "union_branch" => Step::UnionBranch {
                column: self.column(described, |layout| matches!(layout, Layout::Struct(_)))?,
                value: self.boxed(described, 2)?,
                others: self.others(described)?,
            },
            "default" => Step::Default {
                body: get::<Bound<'_, PyBytes>>(described, 1)?.as_bytes().to_vec(),
                value: self.boxed(described, 2)?,
            },
            "failing" => Step::Failing,
            "skip" => Step::Skipped(skip(&get(described, 1)?)?),
            _ => self.leaf(described)?,
        })
    }

    fn leaf(&self, described: &Bound<'_, PyTuple>) -> PyResult<Step> {
        let of_bytes = |layout: &Layout| matches!(layout, Layout::Bytes);
        let of_width =
            |width| move |layout: &Layout| matches!(layout, Layout::Fixed(size) if *size == width);
        Ok(match &*name(described)? {
            "null" => Step::Null {
                column: self.column(described, |layout| matches!(layout, Layout::Null))?,
            },
            "boolean" => Step::Boolean {
                column: self.column(described, |layout| matches!(layout, Layout::Bits))?,
            },
            "int" => Step::Int {
                column: self.column(described, of_width(4))?,
            },
            "long" => Step::Long {
                column: self.column(described, of_width(8))?,
            },
            "copy" => {
                let size = get(described, 2)?;
                let column = self.column(described, |layout| {
                    !matches!(layout, Layout::Bits | Layout::Enum(_))
                        && layout.width() == Some(size)
                })?;
                Step::Copy { column, size }
            }
            "text" => Step::Text {
                column: self.column(described, of_bytes)?,
            },
            "bytes" => Step::Bytes {
                column: self.column(described, of_bytes)?,
            },
            "uuid_of_text" => Step::UuidOfText {
                column: self.column(described, of_bytes)?,
            },
            "uuid_of_fixed" => Step::UuidOfFixed {
                column: self.column(described, of_bytes)?,
            },
            "enum" => {
                let indexes: Vec<i32> = get(described, 2)?;
                let column = self.column(described, |layout| has_symbols(layout, &indexes))?;
                Step::Enum { column, indexes }
            }
            "integer" => self.integer(described)?,
            "number" => self.number(described)?,
            "decimal" => self.decimal(described)?,
            other => return Err(wrong(&format!("no step is a {other}"))),
        })
    }

    fn integer(&self, described: &Bound<'_, PyTuple>) -> PyResult<Step> {
        let is_wide = get(described, 3)?;
        let width = if is_wide { 8 } else { 4 };
        let divide_by = get(described, 5)?;
        if divide_by < 1 {
            return Err(wrong("a unit is divided by one or more"));
        }
        Ok(Step::Integer(Integer {
            column: self.column(
                described,
                |layout| matches!(layout, Layout::Fixed(size) if *size == width),
            )?,
            is_int: get(described, 2)?,
            is_wide,
            multiply_by: get(described, 4)?,
            divide_by,
            end: get(described, 6)?,
        }))
    }

    fn number(&self, described: &Bound<'_, PyTuple>) -> PyResult<Step> {
        let is_double = get(described, 3)?;
        let width = if is_double { 8 } else { 4 };
        let wire = match &*get::<String>(described, 2)? {
            "int" => Wire::Int,
            "long" => Wire::Long,
            "float" => Wire::Float,
            other => return Err(wrong(&format!("{other} is no number"))),
        };
        let column = self.column(
            described,
            |layout| matches!(layout, Layout::Fixed(size) if *size == width),
        )?;
        Ok(Step::Number(Number {
            column,
            wire,
            is_double,
        }))
    }

    fn decimal(&self, described: &Bound<'_, PyTuple>) -> PyResult<Step> {
        let is_wide = get(described, 3)?;
        let width = if is_wide { 32 } else { 16 };
        Ok(Step::Decimal(Box::new(Decimal {
            column: self.column(
                described,
                |layout| matches!(layout, Layout::Fixed(size) if *size == width),
            )?,
            size: get(described, 2)?,
            is_wide,
            low: wide_of(described, 4)?,
            high: wide_of(described, 5)?,
        })))
    }

    fn steps(&self, described: &Bound<'_, PyTuple>, at: usize) -> PyResult<Vec<Step>> {
        let inner: Vec<Bound<'_, PyTuple>> = get(described, at)?;
        inner.iter().map(|each| self.step(each)).collect()
    }

    fn boxed(&self, described: &Bound<'_, PyTuple>, at: usize) -> PyResult<Box<Step>> {
        Ok(Box::new(self.step(&get(described, at)?)?))
    }

    fn others(&self, described: &Bound<'_, PyTuple>) -> PyResult<Vec<usize>> {
        let others: Vec<usize> = get(described, 3)?;
        others
            .into_iter()
            .map(|other| self.at(other, |_| true))
            .collect()
    }

    /// The column that a description names first, of a layout that its step can fill.
    fn column(
        &self,
        described: &Bound<'_, PyTuple>,
        is_good: impl Fn(&Layout) -> bool,
    ) -> PyResult<usize> {
        self.at(get(described, 1)?, is_good)
    }

    fn at(&self, column: usize, is_good: impl Fn(&Layout) -> bool) -> PyResult<usize> {
        match self.specs.get(column) {
            Some(spec) if is_good(&spec.layout) => Ok(column),
            _ => Err(wrong(&format!("column {column} is not of the step's kind"))),
        }
    }
}

fn has_symbols(layout: &Layout, indexes: &[i32]) -> bool {
    match layout {
        Layout::Enum(symbols) => {
            let count = symbols.offsets.len() as i32 - 1;
            indexes.iter().all(|&index| index < count)
        }
        _ => false,
    }
}

fn wide_of(described: &Bound<'_, PyTuple>, at: usize) -> PyResult<Wide> {
    let bytes = get::<Bound<'_, PyBytes>>(described, at)?;
    wide(bytes.as_bytes()).map_err(|_| wrong("a bound of more than 256 bits"))
}

fn skip(described: &Bound<'_, PyTuple>) -> PyResult<Skip> {
    let inner = |at| -> PyResult<Vec<Skip>> {
        get::<Vec<Bound<'_, PyTuple>>>(described, at)?
            .iter()
            .map(skip)
            .collect()
    };
    let boxed = |at| -> PyResult<Box<Skip>> { Ok(Box::new(skip(&get(described, at)?)?)) };
    Ok(match &*name(described)? {
        "number" => Skip::Number,
        "bytes" => Skip::Bytes,
        "boolean" => Skip::Boolean,
        "enum" => Skip::Enum(get(described, 1)?),
        "forward" => Skip::Forward(get(described, 1)?),
        "record" => Skip::Record(inner(1)?),
        "union" => Skip::Union(inner(1)?),
        "array" => Skip::Array {
            item: boxed(1)?,
            item_bytes_min: get(described, 2)?,
        },
        "map" => Skip::Map {
            value: boxed(1)?,
            pair_bytes_min: get(described, 2)?,
        },
        "named" => Skip::Named(get(described, 1)?),
        other => return Err(wrong(&format!("nothing skips a {other}"))),
    })
}

fn name(described: &Bound<'_, PyTuple>) -> PyResult<String> {
    get(described, 0)
}

fn get<'py, T>(described: &Bound<'py, PyTuple>, at: usize) -> PyResult<T>
where
    T: for<'a> FromPyObject<'a, 'py>,
{
    described.get_item(at)?.extract().map_err(Into::into)
}

fn wrong(what: &str) -> PyErr {
    PyValueError::new_err(format!(
        "a description of columns or steps makes no sense: {what}"
    ))
}
