//! Numbers of any Arrow type as the number that an Avro field wants.
//!
//! Owns the conversions that never change a value; what they cannot tell for sure is `None`, and left to the Python path.

use crate::arrow_in::{Array, Type, Unreadable};

/// Whole numbers beyond it are not all doubles.
const DOUBLE_EXACT_MAX: i64 = 1 << 53;
const LONG_BOUND: f64 = 9_223_372_036_854_775_808.0;

/// A column of whole numbers.
pub enum Whole<'a> {
    I8(&'a [i8]),
    I16(&'a [i16]),
    I32(&'a [i32]),
    I64(&'a [i64]),
    U8(&'a [u8]),
    U16(&'a [u16]),
    U32(&'a [u32]),
    U64(&'a [u64]),
}

impl<'a> Whole<'a> {
    /// Numbers, or what is kept as numbers: dates, times, a dictionary's indices.
    pub fn of(array: &Array<'a>) -> Result<Self, Unreadable> {
        Ok(match array.field.data_type {
            Type::I8 => Self::I8(array.values()?),
            Type::I16 => Self::I16(array.values()?),
            Type::I32 | Type::Date32 | Type::Time32(_) => Self::I32(array.values()?),
            Type::I64 | Type::Date64 | Type::Time64(_) | Type::Timestamp { .. } => {
                Self::I64(array.values()?)
            }
            Type::U8 => Self::U8(array.values()?),
            Type::U16 => Self::U16(array.values()?),
            Type::U32 => Self::U32(array.values()?),
            Type::U64 => Self::U64(array.values()?),
            _ => return Err(Unreadable),
        })
    }

    #[inline]
    pub fn get(&self, row: usize) -> Option<i64> {
        match self {
            Self::I8(values) => values.get(row).map(|value| i64::from(*value)),
            Self::I16(values) => values.get(row).map(|value| i64::from(*value)),
            Self::I32(values) => values.get(row).map(|value| i64::from(*value)),
            Self::I64(values) => values.get(row).copied(),
            Self::U8(values) => values.get(row).map(|value| i64::from(*value)),
            Self::U16(values) => values.get(row).map(|value| i64::from(*value)),
            Self::U32(values) => values.get(row).map(|value| i64::from(*value)),
            Self::U64(values) => values.get(row).and_then(|value| i64::try_from(*value).ok()),
        }
    }

    #[inline]
    pub fn index(&self, row: usize) -> Option<usize> {
        self.get(row).and_then(|index| usize::try_from(index).ok())
    }

    fn as_double(&self, row: usize) -> Option<f64> {
        let value = self.get(row)?;
        (-DOUBLE_EXACT_MAX..=DOUBLE_EXACT_MAX)
            .contains(&value)
            .then_some(value as f64)
    }
}

/// A column of floating point numbers.
pub enum Real<'a> {
    F32(&'a [f32]),
    F64(&'a [f64]),
}

impl<'a> Real<'a> {
    pub fn of(array: &Array<'a>) -> Result<Self, Unreadable> {
        Ok(match array.field.data_type {
            Type::F32 => Self::F32(array.values()?),
            Type::F64 => Self::F64(array.values()?),
            _ => return Err(Unreadable),
        })
    }

    #[inline]
    pub fn get(&self, row: usize) -> Option<f64> {
        match self {
            Self::F32(values) => values.get(row).map(|value| f64::from(*value)),
            Self::F64(values) => values.get(row).copied(),
        }
    }
}

/// A column of either.
pub enum Number<'a> {
    Whole(Whole<'a>),
    Real(Real<'a>),
}

impl<'a> Number<'a> {
    pub fn of(array: &Array<'a>) -> Result<Self, Unreadable> {
        match array.field.data_type {
            Type::F32 | Type::F64 => Real::of(array).map(Self::Real),
            Type::I8
            | Type::I16
            | Type::I32
            | Type::I64
            | Type::U8
            | Type::U16
            | Type::U32
            | Type::U64 => Whole::of(array).map(Self::Whole),
            _ => Err(Unreadable),
        }
    }

    pub fn as_whole(&self, row: usize) -> Option<i64> {
        match self {
            Self::Whole(values) => values.get(row),
            Self::Real(values) => {
                let value = values.get(row)?;
                let is_whole = value.trunc() == value && (-LONG_BOUND..LONG_BOUND).contains(&value);
                is_whole.then_some(value as i64)
            }
        }
    }

    pub fn as_double(&self, row: usize) -> Option<f64> {
        match self {
            Self::Whole(values) => values.as_double(row),
            Self::Real(values) => values.get(row),
        }
    }

    pub fn as_float(&self, row: usize) -> Option<f32> {
        let value = self.as_double(row)?;
        let narrow = value as f32;
        (f64::from(narrow) == value || value.is_nan()).then_some(narrow)
    }
}

/// Whole numbers in another unit, within bounds.
#[derive(Clone, Copy)]
pub struct Fit {
    pub multiply: i64,
    pub divide: i64,
    pub low: i64,
    pub high: i64,
}

impl Fit {
    pub const INT: Self = Self::within(i32::MIN as i64, i32::MAX as i64);
    pub const LONG: Self = Self::within(i64::MIN, i64::MAX);

    const fn within(low: i64, high: i64) -> Self {
        Self {
            multiply: 1,
            divide: 1,
            low,
            high,
        }
    }

    /// From one number of parts of a whole to another; each divides the other or is divided by it.
    pub fn units(from: i64, to: i64, low: i64, high: i64) -> Self {
        let (multiply, divide) = if to >= from {
            (to / from, 1)
        } else {
            (1, from / to)
        };
        Self {
            multiply,
            divide,
            low,
            high,
        }
    }

    #[inline]
    pub fn apply(&self, value: i64) -> Option<i64> {
        let fitted = if self.divide == 1 {
            value.checked_mul(self.multiply)?
        } else if value % self.divide == 0 {
            value / self.divide
        } else {
            return None;
        };
        (self.low..=self.high).contains(&fitted).then_some(fitted)
    }
}

/// Decimals of up to 38 digits in another scale, within a precision.
#[derive(Clone, Copy)]
pub struct Rescale {
    multiply: i128,
    divide: i128,
    bound: i128,
}

impl Rescale {
    /// None where this arithmetic does not reach.
    pub fn between(from_scale: i32, to_scale: i32, precision: u32) -> Option<Self> {
        let factor = 10_i128.checked_pow(from_scale.abs_diff(to_scale))?;
        let (multiply, divide) = if to_scale >= from_scale {
            (factor, 1)
        } else {
            (1, factor)
        };
        Some(Self {
            multiply,
            divide,
            bound: 10_i128.checked_pow(precision)?,
        })
    }

    pub fn apply(&self, value: i128) -> Option<i128> {
        let scaled = value.checked_mul(self.multiply)?;
        if scaled % self.divide != 0 {
            return None;
        }
        let scaled = scaled / self.divide;
        (-self.bound < scaled && scaled < self.bound).then_some(scaled)
    }
}
