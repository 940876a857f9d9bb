//! Bringing a plan and a batch together.
//!
//! Owns `Binder`: which columns of Arrow can be written as which types of Avro, and how.
//!
//! - A pair is bound here only where every value either has the bytes that the Python path writes, or is told to fit
//!   not. All other pairs are `Unreadable`: their columns are refused, and Python writes them.

use std::collections::HashMap;

use super::column::{Body, Column, DecimalValues, Validity};
use super::number::{Fit, Number, Rescale, Whole};
use super::plan::{Kind, Member, OnNull, Plan};
use crate::arrow_in::{Array, Bytes, Field, TimeUnit, Type, Unreadable};

const SECONDS_PER_DAY: i64 = 86_400;
const MILLIS_PER_DAY: i64 = SECONDS_PER_DAY * 1_000;
const DURATION_PARTS: [&str; 3] = ["months", "days", "milliseconds"];
/// Decimals of more digits are kept in 32 bytes.
const DECIMAL128_PRECISION_MAX: u32 = 38;
/// About the bytes of a number.
const NUMBER_BYTES: usize = 6;

/// Binds columns, and sums up how many bytes they may take.
#[derive(Default)]
pub struct Binder {
    pub room: usize,
}

/// Positions of columns by name; None for a name that stands twice.
pub fn positions(fields: &[Field]) -> HashMap<&str, Option<usize>> {
    let mut found = HashMap::with_capacity(fields.len());
    for (index, field) in fields.iter().enumerate() {
        found
            .entry(field.name.as_str())
            .and_modify(|place| *place = None)
            .or_insert(Some(index));
    }
    found
}

impl Binder {
    pub fn bind<'a>(&mut self, plan: &'a Plan, array: Array<'a>) -> Result<Column<'a>, Unreadable> {
        if matches!(plan.kind, Kind::Python) {
            return Err(Unreadable);
        }
        let is_null = array.field.data_type == Type::Null && array.field.dictionary.is_none();
        let (validity, body) = if is_null {
            (Validity::None, Body::Nothing)
        } else {
            (validity(&array)?, self.body(&plan.kind, array)?)
        };
        Ok(Column {
            validity,
            on_null: plan.on_null,
            head: plan.head,
            body,
        })
    }

    /// A column that Python has written.
    pub fn written<'a>(&mut self, array: Array<'a>) -> Result<Column<'a>, Unreadable> {
        let body = Body::Written(self.sized(&array)?);
        Ok(Column {
            validity: validity(&array)?,
            on_null: OnNull::Fail,
            head: None,
            body,
        })
    }

    /// A field without a column.
    pub fn missing<'a>(&mut self, member: &'a Member) -> Column<'a> {
        let body = member
            .default
            .as_ref()
            .map_or(Body::Nothing, |bytes| Body::Constant(bytes));
        Column {
            validity: Validity::All,
            on_null: OnNull::Fail,
            head: None,
            body,
        }
    }

    fn body<'a>(&mut self, kind: &'a Kind, array: Array<'a>) -> Result<Body<'a>, Unreadable> {
        self.room = self
            .room
            .saturating_add(array.len().saturating_mul(NUMBER_BYTES));
        if array.field.dictionary.is_some() {
            return self.of_dictionary(kind, array);
        }
        match kind {
            Kind::Null => Ok(Body::Nothing),
            Kind::Boolean if array.field.data_type == Type::Boolean => {
                array.booleans().map(Body::Boolean)
            }
            Kind::Int | Kind::Long | Kind::Float | Kind::Double => number(kind, &array),
            Kind::Bytes if is_bytes(&array) => self.sized(&array).map(Body::Sized),
            Kind::Text if is_text(&array) => self.sized(&array).map(Body::Sized),
            Kind::Fixed(size) if is_bytes(&array) => self.fixed(*size, &array),
            Kind::Enum(codes) if is_text(&array) => Ok(Body::SymbolTexts {
                texts: array.bytes()?,
                codes,
            }),
            Kind::UuidText if is_text(&array) => self.sized(&array).map(Body::UuidText),
            Kind::UuidFixed if is_text(&array) => self.sized(&array).map(Body::UuidFixed),
            Kind::Decimal {
                precision,
                scale,
                size,
            } => decimal(*precision, *scale, *size, &array),
            Kind::Date | Kind::Time(_) | Kind::Timestamp { .. } => time(kind, &array),
            Kind::Duration => duration(&array),
            Kind::Record(members) => self.record(members, array),
            Kind::Array(item) => self.list(item, array),
            Kind::Map(value) => self.map(value, array),
            Kind::Union(branches) => self.union(branches, array),
            _ => Err(Unreadable),
        }
    }

    fn sized<'a>(&mut self, array: &Array<'a>) -> Result<Bytes<'a>, Unreadable> {
        let values = array.bytes()?;
        self.room = self.room.saturating_add(values.size_hint());
        Ok(values)
    }

    fn fixed<'a>(&mut self, size: usize, array: &Array<'a>) -> Result<Body<'a>, Unreadable> {
        match array.field.data_type {
            Type::FixedBinary(width) if width != size => Err(Unreadable),
            _ => Ok(Body::Fixed {
                values: self.sized(array)?,
                size,
            }),
        }
    }

    fn of_dictionary<'a>(
        &mut self,
        kind: &'a Kind,
        array: Array<'a>,
    ) -> Result<Body<'a>, Unreadable> {
        let (indices, entries) = (Whole::of(&array)?, array.dictionary()?);
        if entries.field.dictionary.is_some() {
            return Err(Unreadable);
        }
        let has_values = match kind {
            Kind::Bytes => is_bytes(&entries),
            Kind::Text | Kind::Enum(_) => is_text(&entries),
            _ => false,
        };
        if !has_values {
            return Err(Unreadable);
        }
        let values = entries.bytes()?;
        if let Kind::Enum(codes) = kind {
            let code = |entry| {
                values
                    .get(entry)
                    .and_then(|text| codes.get(text).copied())
                    .unwrap_or(-1)
            };
            return Ok(Body::Symbols {
                indices,
                codes: (0..entries.len()).map(code).collect(),
            });
        }
        let mean = values.size_hint() / entries.len().max(1);
        self.room = self.room.saturating_add(array.len().saturating_mul(mean));
        Ok(Body::Indexed { indices, values })
    }

    fn record<'a>(
        &mut self,
        members: &'a [Member],
        array: Array<'a>,
    ) -> Result<Body<'a>, Unreadable> {
        if array.field.data_type != Type::Struct {
            return Err(Unreadable);
        }
        let places = positions(&array.field.children);
        let column = |member: &'a Member| match places.get(member.name.as_str()) {
            Some(Some(place)) => self.bind(&member.plan, array.member(*place)?),
            // A name that stands twice is none.
            _ => Ok(self.missing(member)),
        };
        members
            .iter()
            .map(column)
            .collect::<Result<_, _>>()
            .map(Body::Record)
    }

    fn list<'a>(&mut self, item: &'a Plan, array: Array<'a>) -> Result<Body<'a>, Unreadable> {
        if !is_list(&array) {
            return Err(Unreadable);
        }
        let items = array.whole_child(0)?;
        Ok(Body::Array {
            ranges: array.ranges()?,
            count: items.len(),
            items: Box::new(self.bind(item, items)?),
        })
    }

    /// A map, or a list of structs of key and value as Polars has it.
    fn map<'a>(&mut self, value: &'a Plan, array: Array<'a>) -> Result<Body<'a>, Unreadable> {
        let is_map = array.field.data_type == Type::Map;
        if !is_map && (!is_list(&array) || matches!(array.field.data_type, Type::FixedList(_))) {
            return Err(Unreadable);
        }
        let entries = array.whole_child(0)?;
        if entries.field.data_type != Type::Struct {
            return Err(Unreadable);
        }
        let (key_place, value_place) = if is_map {
            (0, 1)
        } else {
            let places = positions(&entries.field.children);
            let place = |name: &str| places.get(name).copied().flatten().ok_or(Unreadable);
            (place("key")?, place("value")?)
        };
        Ok(Body::Map {
            ranges: array.ranges()?,
            entries: validity(&entries)?,
            keys: Box::new(self.bind(&KEY, entries.member(key_place)?)?),
            values: Box::new(self.bind(value, entries.member(value_place)?)?),
            count: entries.len(),
        })
    }

    fn union<'a>(
        &mut self,
        branches: &'a [Member],
        array: Array<'a>,
    ) -> Result<Body<'a>, Unreadable> {
        if array.field.data_type != Type::Struct {
            return Err(Unreadable);
        }
        let places = positions(&array.field.children);
        let mut columns = Vec::with_capacity(branches.len());
        for branch in branches {
            match places.get(branch.name.as_str()) {
                None => {}
                Some(None) => return Err(Unreadable),
                Some(Some(place)) => columns.push((
                    branch.index,
                    self.bind(&branch.plan, array.member(*place)?)?,
                )),
            }
        }
        Ok(Body::Union(columns))
    }
}

static KEY: Plan = Plan {
    kind: Kind::Text,
    on_null: OnNull::Fail,
    head: None,
};

pub fn validity<'a>(array: &Array<'a>) -> Result<Validity<'a>, Unreadable> {
    let own = array.validity()?.map_or(Validity::All, Validity::Some);
    if array.field.dictionary.is_none() {
        return Ok(own);
    }
    let Some(entries) = array.dictionary()?.validity()? else {
        return Ok(own);
    };
    let indices = Whole::of(array)?;
    let has_value = |row| own.has(row) && indices.index(row).is_none_or(|entry| entries.get(entry));
    Ok(Validity::Rows((0..array.len()).map(has_value).collect()))
}

fn is_bytes(array: &Array<'_>) -> bool {
    matches!(
        array.field.data_type,
        Type::Binary(_) | Type::FixedBinary(_)
    )
}

pub fn is_text(array: &Array<'_>) -> bool {
    matches!(array.field.data_type, Type::Text(_))
}

fn is_list(array: &Array<'_>) -> bool {
    matches!(
        array.field.data_type,
        Type::List | Type::LargeList | Type::FixedList(_)
    )
}

fn number<'a>(kind: &Kind, array: &Array<'a>) -> Result<Body<'a>, Unreadable> {
    Ok(match (kind, array.field.data_type) {
        (Kind::Int | Kind::Long, Type::I32) => Body::I32(array.values()?),
        (Kind::Long, Type::I64) => Body::I64(array.values()?),
        (Kind::Int, _) => Body::Rounded {
            values: Number::of(array)?,
            fit: Fit::INT,
        },
        (Kind::Long, _) => Body::Rounded {
            values: Number::of(array)?,
            fit: Fit::LONG,
        },
        (Kind::Float, Type::F32) => Body::F32(array.values()?),
        (Kind::Double, Type::F64) => Body::F64(array.values()?),
        (Kind::Float, _) => Body::Float(Number::of(array)?),
        _ => Body::Double(Number::of(array)?),
    })
}

fn decimal<'a>(
    precision: u32,
    scale: i32,
    size: usize,
    array: &Array<'a>,
) -> Result<Body<'a>, Unreadable> {
    let is_wide = precision > DECIMAL128_PRECISION_MAX;
    let rescale = |from| {
        Rescale::between(from, scale, precision)
            .filter(|_| !is_wide)
            .ok_or(Unreadable)
    };
    let same = (precision, scale);
    let values = match array.field.data_type {
        Type::Decimal256 {
            precision: digits,
            scale: places,
        } if is_wide && (digits, places) == same => {
            return Ok(Body::Decimal256 {
                values: array.wide()?,
                size,
            });
        }
        Type::Decimal128 {
            precision: digits,
            scale: places,
        } if (digits, places) == same => DecimalValues::Same(array.wide()?),
        Type::Decimal128 { scale: places, .. } => {
            DecimalValues::Rescaled(array.wide()?, rescale(places)?)
        }
        Type::I8
        | Type::I16
        | Type::I32
        | Type::I64
        | Type::U8
        | Type::U16
        | Type::U32
        | Type::U64 => DecimalValues::Whole(Whole::of(array)?, rescale(0)?),
        _ => return Err(Unreadable),
    };
    Ok(Body::Decimal { values, size })
}

fn time<'a>(kind: &Kind, array: &Array<'a>) -> Result<Body<'a>, Unreadable> {
    let long = |from: TimeUnit, to: TimeUnit| {
        Fit::units(from.per_second(), to.per_second(), i64::MIN, i64::MAX)
    };
    let fit = match (kind, array.field.data_type) {
        (Kind::Date, Type::Date32) => return array.values().map(Body::I32),
        (Kind::Date, Type::Date64) => {
            Fit::units(MILLIS_PER_DAY, 1, i64::from(i32::MIN), i64::from(i32::MAX))
        }
        (Kind::Time(to), Type::Time32(from) | Type::Time64(from)) => {
            let end = to.per_second() * SECONDS_PER_DAY;
            Fit {
                low: 0,
                high: end - 1,
                ..long(from, *to)
            }
        }
        (
            Kind::Timestamp { unit, has_zone },
            Type::Timestamp {
                unit: from,
                has_zone: zoned,
            },
        ) if *has_zone == zoned => {
            if *unit == from {
                return array.values().map(Body::I64);
            }
            long(from, *unit)
        }
        _ => return Err(Unreadable),
    };
    Ok(Body::Whole {
        values: Whole::of(array)?,
        fit,
    })
}

fn duration<'a>(array: &Array<'a>) -> Result<Body<'a>, Unreadable> {
    if array.field.data_type != Type::Struct {
        return Err(Unreadable);
    }
    let places = positions(&array.field.children);
    let part = |name: &str| {
        let place = places.get(name).copied().flatten().ok_or(Unreadable)?;
        let child = array.member(place)?;
        if child.field.dictionary.is_some() {
            return Err(Unreadable);
        }
        Ok((validity(&child)?, Number::of(&child)?))
    };
    let [months, days, milliseconds] = DURATION_PARTS;
    Ok(Body::Duration([
        part(months)?,
        part(days)?,
        part(milliseconds)?,
    ]))
}
