//! Java-compatible murmur2 over a column of keys.
//!
//! Owns the hash of `headrace.log.partitioner`, which tells about it; the numbers are those of Kafka's Java client.
//!
//! - A row whose bit in `validity` is 0 counts as empty; who asks gives it no partition.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::buffer::{Buffer, View};

const SEED: u32 = 0x9747_b28c;
const FACTOR: u32 = 0x5bd1_e995;

fn murmur2_of(key: &[u8]) -> u32 {
    let mut hash = SEED ^ key.len() as u32;
    let (words, tail) = key.as_chunks::<4>();
    for word in words {
        let mut word = u32::from_le_bytes(*word).wrapping_mul(FACTOR);
        word = (word ^ (word >> 24)).wrapping_mul(FACTOR);
        hash = hash.wrapping_mul(FACTOR) ^ word;
    }
    if !tail.is_empty() {
        for (place, byte) in tail.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * place);
        }
        hash = hash.wrapping_mul(FACTOR);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(FACTOR);
    hash ^ (hash >> 15)
}

fn hashes(offsets: &[i64], data: &[u8], validity: Option<(&[u8], usize)>) -> Option<Vec<i32>> {
    let is_there = |row: usize| match validity {
        None => Some(true),
        Some((bits, first)) => {
            let bit = first + row;
            bits.get(bit / 8).map(|byte| byte >> (bit % 8) & 1 == 1)
        }
    };
    let mut result = Vec::with_capacity(offsets.len().saturating_sub(1));
    for (row, ends) in offsets.windows(2).enumerate() {
        let key = if is_there(row)? {
            data.get(usize::try_from(ends[0]).ok()?..usize::try_from(ends[1]).ok()?)?
        } else {
            &[]
        };
        result.push(murmur2_of(key) as i32);
    }
    Some(result)
}

/// The hash (i32) of each row between two of `offsets` (i64) into `data`; row 0 has bit `first_bit` of `validity`.
#[pyfunction]
#[pyo3(signature = (offsets, data, validity, first_bit))]
fn murmur2(
    py: Python<'_>,
    offsets: &Bound<'_, PyAny>,
    data: &Bound<'_, PyAny>,
    validity: Option<&Bound<'_, PyAny>>,
    first_bit: usize,
) -> PyResult<Buffer> {
    let offsets = View::<i64>::of(offsets)?;
    let data = View::<u8>::of(data)?;
    let validity = validity.map(View::<u8>::of).transpose()?;
    let (offsets, data) = (offsets.slice(), data.slice());
    let bits = validity.as_ref().map(|bits| (bits.slice(), first_bit));
    py.detach(|| hashes(offsets, data, bits))
        .map(Buffer::from_vec)
        .ok_or_else(|| PyValueError::new_err("an offset or a bit lies outside of its buffer"))
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(murmur2, module)?)
}
