//! What a column's memory means.
//!
//! Owns `Field`: the schema of the C data interface as a tree of our own.
//!
//! - A type that nobody here reads is `Type::Other`, never an error: it may stand beside columns that are read.
//! - An extension type is `Other`: its storage may mean something else.

use std::ffi::{CStr, c_char};

use super::Unreadable;
use super::c_data::CSchema;

/// Nesting beyond it is not read: opening a column takes a frame of the stack for each level.
const DEPTH_MAX: usize = 200;

/// How offsets of text and binary are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    Small,
    Large,
    View,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeUnit {
    Second,
    Milli,
    Micro,
    Nano,
}

impl TimeUnit {
    pub fn per_second(self) -> i64 {
        match self {
            Self::Second => 1,
            Self::Milli => 1_000,
            Self::Micro => 1_000_000,
            Self::Nano => 1_000_000_000,
        }
    }
}

/// The types that are read. Those of a dictionary are the types of its indices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Null,
    Boolean,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    F32,
    F64,
    Decimal128 { precision: u32, scale: i32 },
    Decimal256 { precision: u32, scale: i32 },
    Binary(Width),
    Text(Width),
    FixedBinary(usize),
    Date32,
    Date64,
    Time32(TimeUnit),
    Time64(TimeUnit),
    Timestamp { unit: TimeUnit, has_zone: bool },
    Struct,
    List,
    LargeList,
    FixedList(usize),
    Map,
    Other,
}

/// A column's name and type.
#[derive(Debug)]
pub struct Field {
    pub name: String,
    pub data_type: Type,
    pub children: Vec<Field>,
    pub dictionary: Option<Box<Field>>,
}

impl Field {
    pub(super) fn of(schema: &CSchema) -> Result<Self, Unreadable> {
        Self::at(schema, 0)
    }

    fn at(schema: &CSchema, depth: usize) -> Result<Self, Unreadable> {
        if depth > DEPTH_MAX {
            return Err(Unreadable);
        }
        let count = usize::try_from(schema.n_children).map_err(|_| Unreadable)?;
        let children = (0..count)
            .map(|index| Self::at(child(schema, index)?, depth + 1))
            .collect::<Result<_, _>>()?;
        // SAFETY: null, or the schema of the dictionary, which lives as long as this one.
        let dictionary = match unsafe { schema.dictionary.as_ref() } {
            None => None,
            Some(values) => Some(Box::new(Self::at(values, depth + 1)?)),
        };
        let is_extension = has_key(schema.metadata, b"ARROW:extension:name");
        let data_type = if is_extension {
            Type::Other
        } else {
            type_of(&text(schema.format))
        };
        Ok(Self {
            name: text(schema.name),
            data_type,
            children,
            dictionary,
        })
    }
}

fn child(schema: &CSchema, index: usize) -> Result<&CSchema, Unreadable> {
    if schema.children.is_null() {
        return Err(Unreadable);
    }
    // SAFETY: `index` is below the schema's own count; the children live as long as it does.
    unsafe { (*schema.children.add(index)).as_ref() }.ok_or(Unreadable)
}

fn text(raw: *const c_char) -> String {
    if raw.is_null() {
        return String::new();
    }
    // SAFETY: a C text that lives as long as the schema; it is copied.
    unsafe { CStr::from_ptr(raw) }
        .to_string_lossy()
        .into_owned()
}

/// Whether metadata (a count, then lengths and bytes of each key and value) has a key.
fn has_key(metadata: *const c_char, wanted: &[u8]) -> bool {
    if metadata.is_null() {
        return false;
    }
    let mut place = metadata.cast::<u8>();
    let mut next = |size: Option<usize>| -> &[u8] {
        let size = size.unwrap_or_else(|| {
            // SAFETY: a length stands here, as the specification has it; it need not be aligned.
            let length = unsafe { place.cast::<i32>().read_unaligned() };
            // SAFETY: as above.
            place = unsafe { place.add(4) };
            usize::try_from(length).unwrap_or(0)
        });
        // SAFETY: so many bytes stand here, says the length before them.
        let bytes = unsafe { std::slice::from_raw_parts(place, size) };
        // SAFETY: still inside, or at the end of what was just read.
        place = unsafe { place.add(size) };
        bytes
    };
    let count = i32::from_ne_bytes(next(Some(4)).try_into().unwrap_or_default());
    (0..count).any(|_| {
        let is_wanted = next(None) == wanted;
        next(None);
        is_wanted
    })
}

fn type_of(format: &str) -> Type {
    match format {
        "n" => Type::Null,
        "b" => Type::Boolean,
        "c" => Type::I8,
        "s" => Type::I16,
        "i" => Type::I32,
        "l" => Type::I64,
        "C" => Type::U8,
        "S" => Type::U16,
        "I" => Type::U32,
        "L" => Type::U64,
        "f" => Type::F32,
        "g" => Type::F64,
        "z" => Type::Binary(Width::Small),
        "Z" => Type::Binary(Width::Large),
        "vz" => Type::Binary(Width::View),
        "u" => Type::Text(Width::Small),
        "U" => Type::Text(Width::Large),
        "vu" => Type::Text(Width::View),
        "tdD" => Type::Date32,
        "tdm" => Type::Date64,
        "tts" => Type::Time32(TimeUnit::Second),
        "ttm" => Type::Time32(TimeUnit::Milli),
        "ttu" => Type::Time64(TimeUnit::Micro),
        "ttn" => Type::Time64(TimeUnit::Nano),
        "+s" => Type::Struct,
        "+l" => Type::List,
        "+L" => Type::LargeList,
        "+m" => Type::Map,
        _ => type_with_numbers(format).unwrap_or(Type::Other),
    }
}

fn type_with_numbers(format: &str) -> Option<Type> {
    let (name, rest) = format.split_once(':')?;
    match name {
        "w" => Some(Type::FixedBinary(rest.parse().ok()?)),
        "+w" => Some(Type::FixedList(rest.parse().ok()?)),
        "d" => decimal(rest),
        _ => {
            let unit = match name {
                "tss" => TimeUnit::Second,
                "tsm" => TimeUnit::Milli,
                "tsu" => TimeUnit::Micro,
                "tsn" => TimeUnit::Nano,
                _ => return None,
            };
            Some(Type::Timestamp {
                unit,
                has_zone: !rest.is_empty(),
            })
        }
    }
}

fn decimal(numbers: &str) -> Option<Type> {
    let mut parts = numbers.split(',');
    let precision = parts.next()?.parse().ok()?;
    let scale = parts.next()?.parse().ok()?;
    match parts.next().unwrap_or("128") {
        "128" => Some(Type::Decimal128 { precision, scale }),
        "256" => Some(Type::Decimal256 { precision, scale }),
        _ => None,
    }
}
