//! Values that hold no other values: from the wire to a column.
//!
//! Owns the checks of logical types (times of day, digits of decimals, texts of UUIDs) and changes of their units.
//!
//! - What a value becomes is what `contracts/binary/leaf.py` makes of it; what that refuses is refused here.

use super::columns::Columns;
use super::cursor::{Cursor, Read, Refused};

/// An integer that needs more than to be stored: other width, other unit, bounds.
pub struct Integer {
    pub column: usize,
    /// Written as `int`: 32 bits.
    pub is_int: bool,
    /// Stored in 64 bits.
    pub is_wide: bool,
    pub multiply_by: i64,
    pub divide_by: i64,
    /// Values are below it and not negative; 0 where any value is good.
    pub end: i64,
}

impl Integer {
    pub fn read(&self, input: &mut Cursor<'_>, columns: &mut Columns<'_>) -> Read {
        let raw = if self.is_int {
            i64::from(input.int()?)
        } else {
            input.long()?
        };
        let value = raw.checked_mul(self.multiply_by).ok_or(Refused)?;
        if value % self.divide_by != 0 {
            return Err(Refused); // Finer than the reader's unit.
        }
        let value = value / self.divide_by;
        if self.end > 0 && !(0..self.end).contains(&value) {
            return Err(Refused);
        }
        let column = columns.column(self.column);
        if self.is_wide {
            column.push(value.to_le_bytes());
        } else {
            column.push(i32::try_from(value).map_err(|_| Refused)?.to_le_bytes());
        }
        Ok(())
    }
}

/// An integer or a float that becomes a float or a double.
pub struct Number {
    pub column: usize,
    pub wire: Wire,
    /// Stored as a double.
    pub is_double: bool,
}

#[derive(Clone, Copy)]
pub enum Wire {
    Int,
    Long,
    Float,
}

impl Number {
    pub fn read(&self, input: &mut Cursor<'_>, columns: &mut Columns<'_>) -> Read {
        let value = match self.wire {
            Wire::Int => f64::from(input.int()?),
            // By way of a double, also to a float: as Python goes.
            Wire::Long => input.long()? as f64,
            Wire::Float => f64::from(f32::from_le_bytes(input.array()?)),
        };
        let column = columns.column(self.column);
        if self.is_double {
            column.push(value.to_le_bytes());
        } else {
            column.push((value as f32).to_le_bytes());
        }
        Ok(())
    }
}

/// A signed number of any size, big end first, with a bound of digits.
pub struct Decimal {
    pub column: usize,
    /// Bytes of the fixed that holds it; 0 where it tells its own length.
    pub size: usize,
    /// Stored in 256 bits, not 128.
    pub is_wide: bool,
    pub low: Wide,
    pub high: Wide,
}

/// 256 bits, high half first; compares as the number does.
pub type Wide = (i128, u128);

const DECIMAL128_BYTES: usize = 16;
const DECIMAL256_BYTES: usize = 32;

impl Decimal {
    pub fn read(&self, input: &mut Cursor<'_>, columns: &mut Columns<'_>) -> Read {
        let raw = if self.size > 0 {
            input.take(self.size)?
        } else {
            input.bytes()?
        };
        let value = wide(raw)?;
        if value < self.low || value > self.high {
            return Err(Refused);
        }
        let column = columns.column(self.column);
        if self.is_wide {
            column.data.extend_from_slice(&value.1.to_le_bytes());
            column.push(value.0.to_le_bytes());
        } else {
            column.push(value.1.to_le_bytes());
        }
        Ok(())
    }
}

/// The number of these bytes, big end first. Refuses more than fit, even where the first only repeat the sign.
pub fn wide(raw: &[u8]) -> Read<Wide> {
    let sign = if raw.first().is_some_and(|&byte| byte >= 0x80) {
        0xFF
    } else {
        0
    };
    let mut bytes = [sign; DECIMAL256_BYTES];
    let start = DECIMAL256_BYTES.checked_sub(raw.len()).ok_or(Refused)?;
    bytes[start..].copy_from_slice(raw);
    let (high, low) = bytes.split_at(DECIMAL128_BYTES);
    let half = |bytes: &[u8]| bytes.try_into().map_err(|_| Refused);
    Ok((
        i128::from_be_bytes(half(high)?),
        u128::from_be_bytes(half(low)?),
    ))
}

#[inline(always)]
pub fn text(column: usize, input: &mut Cursor<'_>, columns: &mut Columns<'_>) -> Read {
    let (text, pieces) = input.bytes_in_pieces()?;
    columns.push_text(column, text, pieces)
}

const UUID_TEXT_BYTES: usize = 36;
const UUID_BYTES: usize = 16;
const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";

fn is_hyphen_place(place: usize) -> bool {
    matches!(place, 8 | 13 | 18 | 23)
}

pub fn uuid_of_text(column: usize, input: &mut Cursor<'_>, columns: &mut Columns<'_>) -> Read {
    let bytes = input.bytes()?;
    let is_good = |(place, byte): (usize, &u8)| {
        if is_hyphen_place(place) {
            *byte == b'-'
        } else {
            byte.is_ascii_hexdigit()
        }
    };
    if bytes.len() != UUID_TEXT_BYTES || !bytes.iter().enumerate().all(is_good) {
        return Err(Refused);
    }
    columns.push_bytes(column, bytes)
}

pub fn uuid_of_fixed(column: usize, input: &mut Cursor<'_>, columns: &mut Columns<'_>) -> Read {
    let raw: [u8; UUID_BYTES] = input.array()?;
    let mut digits = raw.iter().flat_map(|&byte| [byte >> 4, byte & 15]);
    let mut text = [b'-'; UUID_TEXT_BYTES];
    for (place, out) in text.iter_mut().enumerate() {
        if !is_hyphen_place(place) {
            *out = HEX_DIGITS[usize::from(digits.next().unwrap_or_default())];
        }
    }
    columns.push_bytes(column, &text)
}
