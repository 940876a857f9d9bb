//! The steps from a writer's bytes to a reader's columns, and their execution.
//!
//! Owns `Step`, the compiled form of `contracts/binary/resolution.py`, one tree for each writer's schema.
//!
//! - A step reads exactly the bytes of one value of the writer and appends exactly one value to its column.
//! - Trees are as deep as schemas are, and records go no deeper: only `Skip` follows names, with a bound.

use super::columns::Columns;
use super::cursor::{Cursor, Read, Refused};
use super::leaf::{self, Decimal, Integer, Number};
use super::skip::Skip;

pub enum Step {
    Null {
        column: usize,
    },
    Boolean {
        column: usize,
    },
    Int {
        column: usize,
    },
    Long {
        column: usize,
    },
    /// Floats, doubles, fixed and durations: so many bytes as they are.
    Copy {
        column: usize,
        size: usize,
    },
    Text {
        column: usize,
    },
    Bytes {
        column: usize,
    },
    UuidOfText {
        column: usize,
    },
    UuidOfFixed {
        column: usize,
    },
    Integer(Integer),
    Number(Number),
    Decimal(Box<Decimal>),
    /// The reader's index for each of the writer's, -1 where the reader has no such symbol.
    Enum {
        column: usize,
        indexes: Vec<i32>,
    },
    Record {
        column: usize,
        fields: Vec<Step>,
    },
    Array {
        column: usize,
        item: Box<Step>,
        item_bytes_min: usize,
    },
    Map {
        column: usize,
        key: usize,
        value: Box<Step>,
    },
    /// An index on the wire chooses the step.
    WriterUnion(Vec<Step>),
    /// The value is null, and takes no bytes.
    NullValue {
        column: usize,
    },
    /// The value belongs to one branch of the reader's union; the others are null.
    UnionBranch {
        column: usize,
        value: Box<Step>,
        others: Vec<usize>,
    },
    /// A field that the writer does not have: its default in the reader's own encoding.
    Default {
        body: Vec<u8>,
        value: Box<Step>,
    },
    /// A value that arrives here cannot be read.
    Failing,
    Skipped(Skip),
}

/// The steps of one writer, and the types that they pass over by name.
pub struct Program {
    pub record: Step,
    pub named: Vec<Skip>,
}

impl Program {
    /// Append one record, which is all that `input` has. What was refused is partly in the columns: truncate them.
    #[inline(always)]
    pub fn read(&self, mut input: Cursor<'_>, columns: &mut Columns<'_>) -> Read {
        run(
            std::slice::from_ref(&self.record),
            &self.named,
            &mut input,
            columns,
        )?;
        if input.is_at_end() {
            Ok(())
        } else {
            Err(Refused)
        }
    }
}

fn one(step: &Step, named: &[Skip], input: &mut Cursor<'_>, columns: &mut Columns<'_>) -> Read {
    run(std::slice::from_ref(step), named, input, columns)
}

/// One step after the other, in one loop: a call for each field would cost as much as to read it.
fn run(steps: &[Step], named: &[Skip], input: &mut Cursor<'_>, columns: &mut Columns<'_>) -> Read {
    for step in steps {
        let mut step = step;
        if let Step::WriterUnion(branches) = step {
            step = &branches[input.index(branches.len())?];
        }
        match step {
            Step::Text { column } => leaf::text(*column, input, columns)?,
            Step::Long { column } => {
                let value = input.long()?;
                columns.column(*column).push(value.to_le_bytes());
            }
            Step::Int { column } => {
                let value = input.int()?;
                columns.column(*column).push(value.to_le_bytes());
            }
            Step::Copy { column, size: 8 } => {
                let value: [u8; 8] = input.array()?;
                columns.column(*column).push(value);
            }
            Step::Enum { column, indexes } => {
                let index = indexes[input.index(indexes.len())?];
                if index < 0 {
                    return Err(Refused);
                }
                columns.column(*column).push(index.to_le_bytes());
            }
            Step::Boolean { column } => {
                let value = input.boolean()?;
                columns.column(*column).push([value]);
            }
            Step::NullValue { column } => columns.push_null(*column),
            Step::Skipped(skip) => skip.run(input, named, 0)?,
            Step::Record { column, fields } => {
                run(fields, named, input, columns)?;
                columns.end_struct(*column);
            }
            rare => run_rare(rare, named, input, columns)?,
        }
    }
    Ok(())
}

/// Apart from the others, so that their frame stays small.
#[inline(never)]
fn run_rare(
    step: &Step,
    named: &[Skip],
    input: &mut Cursor<'_>,
    columns: &mut Columns<'_>,
) -> Read {
    match step {
        Step::Copy { column, size } => {
            let value = input.take(*size)?;
            let column = columns.column(*column);
            column.data.extend_from_slice(value);
            column.mark();
            Ok(())
        }
        Step::Bytes { column } => {
            let value = input.bytes()?;
            columns.push_bytes(*column, value)
        }
        Step::Null { column } => {
            columns.push_null(*column);
            Ok(())
        }
        Step::Integer(integer) => integer.read(input, columns),
        Step::Number(number) => number.read(input, columns),
        Step::Decimal(decimal) => decimal.read(input, columns),
        Step::UuidOfText { column } => leaf::uuid_of_text(*column, input, columns),
        Step::UuidOfFixed { column } => leaf::uuid_of_fixed(*column, input, columns),
        Step::Default { body, value } => {
            let mut default = Cursor::new(body, 0, body.len()).ok_or(Refused)?;
            one(value, named, &mut default, columns)
        }
        Step::Failing => Err(Refused),
        nested => run_nested(nested, named, input, columns),
    }
}

fn run_nested(
    step: &Step,
    named: &[Skip],
    input: &mut Cursor<'_>,
    columns: &mut Columns<'_>,
) -> Read {
    match step {
        Step::Array {
            column,
            item,
            item_bytes_min,
        } => {
            let mut items = 0;
            loop {
                let count = input.block(*item_bytes_min)?;
                if count == 0 {
                    return columns.end_list(*column, items);
                }
                items += count;
                for _ in 0..count {
                    one(item, named, input, columns)?;
                }
            }
        }
        Step::Map { column, key, value } => {
            let mut items = 0;
            loop {
                let count = input.block(1)?;
                if count == 0 {
                    return columns.end_list(*column, items);
                }
                items += count;
                for _ in 0..count {
                    leaf::text(*key, input, columns)?;
                    one(value, named, input, columns)?;
                }
            }
        }
        Step::UnionBranch {
            column,
            value,
            others,
        } => {
            one(value, named, input, columns)?;
            for &other in others {
                columns.push_null(other);
            }
            columns.end_struct(*column);
            Ok(())
        }
        // A union in a union, or what is common.
        other => one(other, named, input, columns),
    }
}
