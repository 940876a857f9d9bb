//! Finished columns as Arrow arrays.
//!
//! Owns the layout that Arrow wants, and the check that all columns are as long as their parents say.

use super::columns::{Column, DURATION_BYTES, Layout, Spec, Symbols};
use crate::arrow_c::{Node, pack_bits};
use crate::buffer::Buffer;

/// A column that is not as long as its parent says: steps and columns do not belong together.
#[derive(Debug)]
pub struct Uneven {
    pub column: usize,
}

/// The record (the first column) as a struct array of so many rows.
pub fn export(specs: &[Spec], mut columns: Vec<Column>, rows: usize) -> Result<Node, Uneven> {
    node(specs, &mut columns, 0, rows)
}

fn node(specs: &[Spec], columns: &mut [Column], at: usize, length: usize) -> Result<Node, Uneven> {
    let column = std::mem::take(&mut columns[at]);
    let spec = &specs[at];
    if !has_length(&column, spec, length) {
        return Err(Uneven { column: at });
    }
    let (valid, nulls) = validity(&column.valid);
    let items = column.offsets.last().map_or(0, |&end| end as usize);
    let mut made = Node {
        length,
        nulls,
        buffers: vec![valid],
        children: Vec::new(),
        dictionary: None,
    };
    match &spec.layout {
        Layout::Null => {
            made.buffers.clear();
            made.nulls = length;
        }
        Layout::Bits => made
            .buffers
            .push(Some(Buffer::from_vec(pack_bits(&column.data)))),
        Layout::Fixed(_) => made.buffers.push(Some(Buffer::from_vec(column.data))),
        Layout::Bytes => {
            made.buffers.push(Some(Buffer::from_vec(column.offsets)));
            made.buffers.push(Some(Buffer::from_vec(column.data)));
        }
        Layout::Enum(symbols) => {
            made.buffers.push(Some(Buffer::from_vec(column.data)));
            made.dictionary = Some(Box::new(dictionary(symbols)));
        }
        Layout::Duration => made.children = duration_parts(&column.data),
        Layout::Struct(children) => {
            for &child in children {
                made.children.push(node(specs, columns, child, length)?);
            }
        }
        Layout::List(item) => {
            made.buffers.push(Some(Buffer::from_vec(column.offsets)));
            made.children.push(node(specs, columns, *item, items)?);
        }
        Layout::Map { key, value } => {
            made.buffers.push(Some(Buffer::from_vec(column.offsets)));
            let pair = vec![
                node(specs, columns, *key, items)?,
                node(specs, columns, *value, items)?,
            ];
            made.children.push(Node {
                length: items,
                nulls: 0,
                buffers: vec![None],
                children: pair,
                dictionary: None,
            });
        }
    }
    Ok(made)
}

fn has_length(column: &Column, spec: &Spec, length: usize) -> bool {
    let is_even = match (&spec.layout, spec.layout.width()) {
        (_, Some(width)) => column.data.len() == length * width,
        (Layout::Null | Layout::Struct(_), _) => column.length == length,
        _ => column.offsets.len() == length + 1,
    };
    let has_validity = column.valid.len() == if spec.is_nullable { length } else { 0 };
    let last = column.offsets.last().map_or(0, |&end| end as usize);
    let has_data = !matches!(spec.layout, Layout::Bytes) || column.data.len() == last;
    is_even && has_validity && has_data
}

/// The bitmap, where there are nulls, and how many.
fn validity(valid: &[u8]) -> (Option<Buffer>, usize) {
    let present: usize = valid.iter().map(|&flag| usize::from(flag)).sum();
    if present == valid.len() {
        return (None, 0);
    }
    (
        Some(Buffer::from_vec(pack_bits(valid))),
        valid.len() - present,
    )
}

fn dictionary(symbols: &Symbols) -> Node {
    Node {
        length: symbols.offsets.len() - 1,
        nulls: 0,
        buffers: vec![
            None,
            Some(Buffer::from_shared(symbols.offsets.clone())),
            Some(Buffer::from_shared(symbols.data.clone())),
        ],
        children: Vec::new(),
        dictionary: None,
    }
}

/// Months, days and milliseconds: three columns of 32 bits.
fn duration_parts(data: &[u8]) -> Vec<Node> {
    let (durations, _) = data.as_chunks::<DURATION_BYTES>();
    (0..DURATION_BYTES)
        .step_by(size_of::<u32>())
        .map(|place| {
            let part: Vec<u8> = durations
                .iter()
                .flat_map(|each| each[place..place + size_of::<u32>()].iter().copied())
                .collect();
            Node {
                length: durations.len(),
                nulls: 0,
                buffers: vec![None, Some(Buffer::from_vec(part))],
                children: Vec::new(),
                dictionary: None,
            }
        })
        .collect()
}
