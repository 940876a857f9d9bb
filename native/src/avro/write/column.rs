//! Writing one value of a column.
//!
//! Owns `Column`: a part of the plan bound to the memory of one batch.
//!
//! - `write` gives false for a row that does not fit, or that this path cannot tell for sure; it never panics, whatever
//!   the offsets in the memory say.

use super::number::{Fit, Number, Rescale, Whole};
use super::plan::OnNull;
use super::value::Out;
use crate::arrow_in::{Bits, Bytes, Ranges};

/// Which rows have a value.
pub enum Validity<'a> {
    All,
    None,
    Some(Bits<'a>),
    /// Of a dictionary with null entries.
    Rows(Vec<bool>),
}

impl Validity<'_> {
    #[inline]
    pub fn has(&self, row: usize) -> bool {
        match self {
            Self::All => true,
            Self::None => false,
            Self::Some(bits) => bits.get(row),
            Self::Rows(rows) => rows.get(row).copied().unwrap_or(false),
        }
    }
}

pub struct Column<'a> {
    pub validity: Validity<'a>,
    pub on_null: OnNull,
    /// Stands before every value.
    pub head: Option<i64>,
    pub body: Body<'a>,
}

/// The values of a column without its nulls.
pub enum Body<'a> {
    /// No value fits.
    Nothing,
    Constant(&'a [u8]),
    /// Bytes that were written before.
    Written(Bytes<'a>),
    Boolean(Bits<'a>),
    I32(&'a [i32]),
    I64(&'a [i64]),
    Whole {
        values: Whole<'a>,
        fit: Fit,
    },
    Rounded {
        values: Number<'a>,
        fit: Fit,
    },
    F32(&'a [f32]),
    F64(&'a [f64]),
    Float(Number<'a>),
    Double(Number<'a>),
    Sized(Bytes<'a>),
    Indexed {
        indices: Whole<'a>,
        values: Bytes<'a>,
    },
    Fixed {
        values: Bytes<'a>,
        size: usize,
    },
    /// Symbols by the dictionary's own positions; -1 for a text that is none.
    Symbols {
        indices: Whole<'a>,
        codes: Vec<i64>,
    },
    SymbolTexts {
        texts: Bytes<'a>,
        codes: &'a std::collections::HashMap<Vec<u8>, i64>,
    },
    Decimal {
        values: DecimalValues<'a>,
        size: usize,
    },
    Decimal256 {
        values: &'a [[u8; 32]],
        size: usize,
    },
    UuidText(Bytes<'a>),
    UuidFixed(Bytes<'a>),
    Duration([(Validity<'a>, Number<'a>); 3]),
    Record(Vec<Column<'a>>),
    Array {
        ranges: Ranges<'a>,
        items: Box<Column<'a>>,
        count: usize,
    },
    Map {
        ranges: Ranges<'a>,
        entries: Validity<'a>,
        keys: Box<Column<'a>>,
        values: Box<Column<'a>>,
        count: usize,
    },
    Union(Vec<(i64, Column<'a>)>),
}

pub enum DecimalValues<'a> {
    Same(&'a [[u8; 16]]),
    Rescaled(&'a [[u8; 16]], Rescale),
    Whole(Whole<'a>, Rescale),
}

impl DecimalValues<'_> {
    fn get(&self, row: usize) -> Option<i128> {
        match self {
            Self::Same(values) => values.get(row).map(|bytes| i128::from_le_bytes(*bytes)),
            Self::Rescaled(values, rescale) => {
                rescale.apply(i128::from_le_bytes(*values.get(row)?))
            }
            Self::Whole(values, rescale) => rescale.apply(i128::from(values.get(row)?)),
        }
    }
}

impl Column<'_> {
    /// Whether the row fits its type; what a row that does not has left in `out` means nothing.
    #[inline]
    pub fn write(&self, row: usize, out: &mut Out) -> bool {
        if !self.validity.has(row) {
            return match self.on_null {
                OnNull::Fail => false,
                OnNull::Nothing => true,
                OnNull::Index(index) => {
                    out.long(index);
                    true
                }
            };
        }
        if let Some(index) = self.head {
            out.long(index);
        }
        self.body.write(row, out).is_some()
    }
}

impl Body<'_> {
    #[inline]
    fn write(&self, row: usize, out: &mut Out) -> Option<()> {
        match self {
            Self::Sized(values) => out.sized(values.get(row)?),
            Self::I64(values) => out.long(*values.get(row)?),
            Self::I32(values) => out.long(i64::from(*values.get(row)?)),
            Self::F64(values) => out.raw(&values.get(row)?.to_le_bytes()),
            Self::F32(values) => out.raw(&values.get(row)?.to_le_bytes()),
            Self::Boolean(values) => out.byte(u8::from(values.get(row))),
            Self::Constant(bytes) => out.raw(bytes),
            Self::Symbols { indices, codes } => {
                let code = *codes.get(indices.index(row)?)?;
                if code < 0 {
                    return None;
                }
                out.long(code);
            }
            _ => return self.write_rare(row, out),
        }
        Some(())
    }

    fn write_rare(&self, row: usize, out: &mut Out) -> Option<()> {
        match self {
            Self::Written(values) => out.raw(values.get(row)?),
            Self::Whole { values, fit } => out.long(fit.apply(values.get(row)?)?),
            Self::Rounded { values, fit } => out.long(fit.apply(values.as_whole(row)?)?),
            Self::Float(values) => out.raw(&values.as_float(row)?.to_le_bytes()),
            Self::Double(values) => out.raw(&values.as_double(row)?.to_le_bytes()),
            Self::SymbolTexts { texts, codes } => out.long(*codes.get(texts.get(row)?)?),
            Self::Indexed { indices, values } => out.sized(values.get(indices.index(row)?)?),
            Self::Fixed { values, size } => {
                let value = values.get(row)?;
                fits(value.len() == *size)?;
                out.raw(value);
            }
            Self::Decimal { values, size } => {
                let bytes = values.get(row)?.to_be_bytes();
                write_decimal(&bytes, *size, out)?;
            }
            Self::Decimal256 { values, size } => {
                let mut bytes = *values.get(row)?;
                bytes.reverse();
                write_decimal(&bytes, *size, out)?;
            }
            Self::UuidText(texts) => fits(out.uuid_in_text(texts.get(row)?))?,
            Self::UuidFixed(texts) => fits(out.uuid_in_fixed(texts.get(row)?))?,
            Self::Duration(parts) => {
                for (validity, values) in parts {
                    fits(validity.has(row))?;
                    out.raw(&u32::try_from(values.as_whole(row)?).ok()?.to_le_bytes());
                }
            }
            _ => return self.write_nested(row, out),
        }
        Some(())
    }

    fn write_nested(&self, row: usize, out: &mut Out) -> Option<()> {
        match self {
            Self::Record(columns) => fits(columns.iter().all(|column| column.write(row, out))),
            Self::Array {
                ranges,
                items,
                count,
            } => write_block(ranges, *count, row, out, |item, out| items.write(item, out)),
            Self::Map {
                ranges,
                entries,
                keys,
                values,
                count,
            } => write_block(ranges, *count, row, out, |item, out| {
                entries.has(item) && keys.write(item, out) && values.write(item, out)
            }),
            Self::Union(branches) => {
                let mut filled = branches
                    .iter()
                    .filter(|(_, column)| column.validity.has(row));
                let (Some((index, column)), None) = (filled.next(), filled.next()) else {
                    return None;
                };
                out.long(*index);
                fits(column.write(row, out))
            }
            _ => None,
        }
    }
}

fn fits(does_fit: bool) -> Option<()> {
    does_fit.then_some(())
}

fn write_decimal<const WIDTH: usize>(
    big_endian: &[u8; WIDTH],
    size: usize,
    out: &mut Out,
) -> Option<()> {
    if size == 0 {
        out.decimal_in_bytes(big_endian);
        return Some(());
    }
    fits(out.decimal_in_fixed(big_endian, size))
}

/// The row's items as one block with its count, and the end.
fn write_block(
    ranges: &Ranges<'_>,
    count: usize,
    row: usize,
    out: &mut Out,
    write: impl Fn(usize, &mut Out) -> bool,
) -> Option<()> {
    let (start, end) = ranges.get(row)?;
    fits(end <= count)?;
    if end > start {
        out.long((end - start) as i64);
        fits((start..end).all(|item| write(item, out)))?;
    }
    out.byte(0);
    Some(())
}
