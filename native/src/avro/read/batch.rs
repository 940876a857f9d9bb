//! One batch of values: the loop over its records.
//!
//! Owns the framing (0x00 and a big-endian id in front of a body, as `contracts/wire.py` has it) and which rows came.

use std::sync::Arc;

use super::Writers;
use super::columns::{Columns, Spec};
use super::cursor::Cursor;
use super::export::{Uneven, export};
use super::steps::Program;
use crate::arrow_c::Node;

const MAGIC: u8 = 0;
const PREFIX_BYTES: usize = 5;
/// In place of an id: no magic byte, too short, an id that no registry gives, or a writer named by a header.
const NOT_FRAMED: i64 = -1;
/// In place of a writer's number.
const HAS_PREFIX: i32 = -1;

/// An Arrow column of values.
pub struct Batch<'a> {
    data: &'a [u8],
    /// One more than there are values.
    offsets: &'a [i64],
    validity: Option<Validity<'a>>,
    numbers: Option<&'a [i32]>,
}

struct Validity<'a> {
    bits: &'a [u8],
    first: usize,
}

/// Which rows were read, and which were not.
pub struct Outcome {
    pub rows: Option<Arc<Vec<i64>>>,
    pub left_rows: Option<Arc<Vec<i64>>>,
    pub left_ids: Option<Arc<Vec<i64>>>,
    pub is_full: bool,
}

#[derive(Default)]
struct Left {
    rows: Vec<i64>,
    ids: Vec<i64>,
}

impl<'a> Batch<'a> {
    /// None for a column that ends before its last value.
    pub fn new(
        data: &'a [u8],
        offsets: &'a [i64],
        first: usize,
        count: usize,
        validity: Option<&'a [u8]>,
        numbers: Option<&'a [i32]>,
    ) -> Option<Self> {
        let end = first.checked_add(count)?;
        // Arrow may leave out the offsets of an empty array.
        let offsets = if count == 0 {
            &[]
        } else {
            offsets.get(first..=end)?
        };
        let has_bits = validity.is_none_or(|bits| end.div_ceil(8) <= bits.len());
        let has_numbers = numbers.is_none_or(|numbers| numbers.len() == count);
        let validity = validity.map(|bits| Validity { bits, first });
        (has_bits && has_numbers).then_some(Self {
            data,
            offsets,
            validity,
            numbers,
        })
    }

    pub fn read(
        &self,
        specs: &[Spec],
        writers: &Writers,
        offset_max: usize,
    ) -> (Result<Node, Uneven>, Outcome) {
        let count = self.offsets.len().saturating_sub(1);
        let mut columns = Columns::new(specs, count, offset_max);
        let mut rows: Vec<i64> = Vec::new();
        let mut left = Left::default();
        let mut finder = Finder::new(writers);
        let mut good = 0;
        for row in 0..count {
            if self.is_null(row) {
                continue_from(&mut rows, good, row);
                continue;
            }
            let (start, end) = (self.offsets[row] as usize, self.offsets[row + 1] as usize);
            let (id, program, prefix_bytes) = match self.numbers.map_or(HAS_PREFIX, |all| all[row])
            {
                HAS_PREFIX => finder.find(self.data.get(start..end).unwrap_or_default()),
                number => (NOT_FRAMED, writers.numbered(number), 0),
            };
            let read = program.zip(Cursor::new(
                self.data,
                start.saturating_add(prefix_bytes),
                end,
            ));
            if read.is_some_and(|(program, record)| program.read(record, &mut columns).is_ok()) {
                if good < row {
                    rows.push(row as i64);
                }
                good += 1;
                continue;
            }
            columns.truncate(0, good);
            continue_from(&mut rows, good, row);
            left.rows.push(row as i64);
            left.ids.push(id);
        }
        let is_full = columns.is_full();
        let outcome = Outcome {
            rows: (good < count).then(|| Arc::new(rows)),
            left_ids: (!left.ids.is_empty()).then(|| Arc::new(left.ids)),
            left_rows: (!left.rows.is_empty()).then(|| Arc::new(left.rows)),
            is_full,
        };
        (export(specs, columns.into_items(), good), outcome)
    }

    fn is_null(&self, row: usize) -> bool {
        self.validity.as_ref().is_some_and(|validity| {
            let place = validity.first + row;
            validity.bits[place / 8] >> (place % 8) & 1 == 0
        })
    }
}

/// Before the first row that is not read, rows are not noted: they are all there.
fn continue_from(rows: &mut Vec<i64>, good: usize, row: usize) {
    if good == row {
        rows.extend(0..row as i64);
    }
}

/// Finds programs by id; most records follow one of the same writer.
struct Finder<'a> {
    writers: &'a Writers,
    last_id: Option<u32>,
    last: Option<&'a Program>,
}

impl<'a> Finder<'a> {
    fn new(writers: &'a Writers) -> Self {
        Self {
            writers,
            last_id: None,
            last: None,
        }
    }

    /// The id in front of a value, what reads it, and the bytes of the prefix.
    #[inline(always)]
    fn find(&mut self, value: &[u8]) -> (i64, Option<&'a Program>, usize) {
        let Some(&[MAGIC, a, b, c, d]) = value.first_chunk::<PREFIX_BYTES>() else {
            return (NOT_FRAMED, None, 0);
        };
        let id = u32::from_be_bytes([a, b, c, d]);
        if i32::try_from(id).is_err() {
            return (NOT_FRAMED, None, 0);
        }
        if self.last_id != Some(id) {
            self.last_id = Some(id);
            self.last = self.writers.of_id(id);
        }
        (i64::from(id), self.last, PREFIX_BYTES)
    }
}
