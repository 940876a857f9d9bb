//! Passing over bytes that nobody wants.
//!
//! Owns the way from the start of a value to its end, following the writer's type, as `contracts/binary/skip.py` does.
//!
//! - The same bounds hold as for reading; bytes passed over are not looked at further (text may be no UTF-8).
//! - Types may hold themselves: names are followed at most `DEPTH_MAX` deep.

use super::cursor::{Cursor, Read, Refused};

/// Names followed inside each other.
const DEPTH_MAX: usize = 100;

pub enum Skip {
    /// `int` and `long`: here an `int` may be as large as a `long`.
    Number,
    /// Bytes or text.
    Bytes,
    Boolean,
    Enum(usize),
    /// So many bytes.
    Forward(usize),
    Record(Vec<Skip>),
    Union(Vec<Skip>),
    Array {
        item: Box<Skip>,
        item_bytes_min: usize,
    },
    Map {
        value: Box<Skip>,
        pair_bytes_min: usize,
    },
    /// A type by its name: its place among the named ones.
    Named(usize),
}

impl Skip {
    pub fn run(&self, input: &mut Cursor<'_>, named: &[Skip], depth: usize) -> Read {
        match self {
            Self::Number => input.long().map(drop),
            Self::Bytes => input.bytes().map(drop),
            Self::Boolean => input.boolean().map(drop),
            Self::Enum(symbols) => input.index(*symbols).map(drop),
            Self::Forward(size) => input.take(*size).map(drop),
            Self::Record(fields) => fields
                .iter()
                .try_for_each(|field| field.run(input, named, depth)),
            Self::Union(branches) => {
                branches[input.index(branches.len())?].run(input, named, depth)
            }
            Self::Array {
                item,
                item_bytes_min,
            } => {
                while let Some(count) = input.block_to_skip(*item_bytes_min)? {
                    for _ in 0..count {
                        item.run(input, named, depth)?;
                    }
                }
                Ok(())
            }
            Self::Map {
                value,
                pair_bytes_min,
            } => {
                while let Some(count) = input.block_to_skip(*pair_bytes_min)? {
                    for _ in 0..count {
                        input.bytes()?;
                        value.run(input, named, depth)?;
                    }
                }
                Ok(())
            }
            Self::Named(_) if depth > DEPTH_MAX => Err(Refused),
            Self::Named(name) => named
                .get(*name)
                .ok_or(Refused)?
                .run(input, named, depth + 1),
        }
    }
}
