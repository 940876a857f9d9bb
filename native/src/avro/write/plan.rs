//! What is to be written: an Avro record as the Python side describes it.
//!
//! Owns `Plan`: one node for each part of a schema, with everything that does not depend on a table.
//!
//! - Parts that only Python writes (types inside themselves, decimals as text) are `Kind::Python`: a column that holds
//!   one is refused, and comes back as bytes.

use std::collections::HashMap;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::arrow_in::TimeUnit;

/// A node as Python describes it; see `headrace.contracts.binary.native_writer`.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct Described {
    kind: String,
    null_index: Option<i64>,
    value_index: i64,
    unit: String,
    size: usize,
    precision: u32,
    scale: i32,
    symbols: Vec<String>,
    members: Vec<DescribedMember>,
}

#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct DescribedMember {
    name: String,
    index: i64,
    default: Option<Vec<u8>>,
    node: Described,
}

/// What stands in place of a null.
#[derive(Clone, Copy)]
pub enum OnNull {
    /// Nothing may: the row does not fit.
    Fail,
    /// Nothing is written, as the type `null` has it; a value does not fit.
    Nothing,
    /// The index of the union's null.
    Index(i64),
}

pub struct Plan {
    pub kind: Kind,
    pub on_null: OnNull,
    /// The index of the other branch of a nullable type, which stands before its value.
    pub head: Option<i64>,
}

pub enum Kind {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    Text,
    Fixed(usize),
    Enum(HashMap<Vec<u8>, i64>),
    Decimal {
        precision: u32,
        scale: i32,
        size: usize,
    },
    UuidText,
    UuidFixed,
    Date,
    Time(TimeUnit),
    Timestamp {
        unit: TimeUnit,
        has_zone: bool,
    },
    Duration,
    Record(Vec<Member>),
    Array(Box<Plan>),
    Map(Box<Plan>),
    Union(Vec<Member>),
    Python,
}

/// A field of a record or a branch of a union.
pub struct Member {
    pub name: String,
    /// Position of a branch in its union.
    pub index: i64,
    /// A field's bytes where its column is missing.
    pub default: Option<Vec<u8>>,
    pub plan: Plan,
}

impl Plan {
    /// Raises `ValueError` or what a missing key raises for a description that is none.
    pub fn of(description: &Bound<'_, PyAny>) -> PyResult<Self> {
        Self::build(description.extract()?)
    }

    fn build(described: Described) -> PyResult<Self> {
        let is_union = described.kind == "UNION";
        let head = (!is_union && described.null_index.is_some()).then_some(described.value_index);
        let on_null = match described.null_index {
            Some(index) => OnNull::Index(index),
            None if described.kind == "NULL" => OnNull::Nothing,
            None => OnNull::Fail,
        };
        Ok(Self {
            kind: Kind::build(described)?,
            on_null,
            head,
        })
    }
}

impl Kind {
    fn build(described: Described) -> PyResult<Self> {
        let Described {
            size,
            precision,
            scale,
            ..
        } = described;
        Ok(match described.kind.as_str() {
            "NULL" => Self::Null,
            "BOOLEAN" => Self::Boolean,
            "INT" => Self::Int,
            "LONG" => Self::Long,
            "FLOAT" => Self::Float,
            "DOUBLE" => Self::Double,
            "BYTES" => Self::Bytes,
            "STRING" => Self::Text,
            "FIXED" => Self::Fixed(size),
            "ENUM" => Self::Enum(positions(described.symbols)),
            "DECIMAL" => Self::Decimal {
                precision,
                scale,
                size,
            },
            "UUID" if size == 0 => Self::UuidText,
            "UUID" => Self::UuidFixed,
            "DATE" => Self::Date,
            "TIME" => Self::Time(unit(&described.unit)?),
            "TIMESTAMP" => Self::Timestamp {
                unit: unit(&described.unit)?,
                has_zone: true,
            },
            "LOCAL_TIMESTAMP" => Self::Timestamp {
                unit: unit(&described.unit)?,
                has_zone: false,
            },
            "DURATION" => Self::Duration,
            "RECORD" => Self::Record(members(described.members)?),
            "UNION" => Self::Union(members(described.members)?),
            "ARRAY" => Self::Array(Box::new(only_member(described.members)?)),
            "MAP" => Self::Map(Box::new(only_member(described.members)?)),
            _ => Self::Python,
        })
    }
}

fn positions(symbols: Vec<String>) -> HashMap<Vec<u8>, i64> {
    symbols
        .into_iter()
        .map(String::into_bytes)
        .zip(0..)
        .collect()
}

fn members(described: Vec<DescribedMember>) -> PyResult<Vec<Member>> {
    let build = |DescribedMember {
                     name,
                     index,
                     default,
                     node,
                 }| {
        Ok(Member {
            name,
            index,
            default,
            plan: Plan::build(node)?,
        })
    };
    described.into_iter().map(build).collect()
}

fn only_member(described: Vec<DescribedMember>) -> PyResult<Plan> {
    let [member] = <[DescribedMember; 1]>::try_from(described).map_err(|found| {
        PyValueError::new_err(format!("an array or map of {} types", found.len()))
    })?;
    Plan::build(member.node)
}

fn unit(text: &str) -> PyResult<TimeUnit> {
    match text {
        "ms" => Ok(TimeUnit::Milli),
        "us" => Ok(TimeUnit::Micro),
        "ns" => Ok(TimeUnit::Nano),
        _ => Err(PyValueError::new_err(format!(
            "{text:?} is no unit of time"
        ))),
    }
}
