//! A place in one record, and Avro's primitives read from there.
//!
//! Owns every check of the wire: ends, lengths, sizes of numbers, indexes, counts of items.
//!
//! - Nothing is allocated here, and nothing is read beyond the record.
//! - What is wrong is only marked: a record that is refused is read again in Python, which names the reason.

/// Items of no bytes (nulls, empty records) in one record. The record's end never stops those, so a count of six bytes
/// could ask for billions. In Python as many are allowed in each array: what has more is left to it.
pub const ZERO_SIZE_ITEMS_MAX: u64 = 65_536;

/// The record is not what its schema says, or more than this way of reading is made for.
#[derive(Debug)]
pub struct Refused;

pub type Read<T = ()> = Result<T, Refused>;

pub struct Cursor<'a> {
    data: &'a [u8],
    position: usize,
    zero_size_items: u64,
}

impl<'a> Cursor<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Self {
            data,
            position: 0,
            zero_size_items: 0,
        }
    }

    pub fn is_at_end(&self) -> bool {
        self.position == self.data.len()
    }

    #[inline(always)]
    fn remaining(&self) -> usize {
        self.data.len() - self.position
    }

    #[inline(always)]
    pub fn byte(&mut self) -> Read<u8> {
        let byte = *self.data.get(self.position).ok_or(Refused)?;
        self.position += 1;
        Ok(byte)
    }

    #[inline(always)]
    pub fn take(&mut self, size: usize) -> Read<&'a [u8]> {
        let rest = &self.data[self.position..];
        let taken = rest.get(..size).ok_or(Refused)?;
        self.position += size;
        Ok(taken)
    }

    #[inline(always)]
    pub fn array<const SIZE: usize>(&mut self) -> Read<[u8; SIZE]> {
        let rest = &self.data[self.position..];
        let taken = *rest.first_chunk().ok_or(Refused)?;
        self.position += SIZE;
        Ok(taken)
    }

    #[inline(always)]
    pub fn long(&mut self) -> Read<i64> {
        let code = match self.data.get(self.position) {
            Some(&byte) if byte < 0x80 => {
                self.position += 1;
                u64::from(byte)
            }
            Some(_) => self.long_code()?,
            None => return Err(Refused),
        };
        Ok((code >> 1) as i64 ^ -((code & 1) as i64))
    }

    #[inline(always)]
    pub fn int(&mut self) -> Read<i32> {
        i32::try_from(self.long()?).map_err(|_| Refused)
    }

    /// Seven bits a byte, the lowest first, at most ten bytes and 64 bits.
    fn long_code(&mut self) -> Read<u64> {
        let mut code = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            code |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                let is_whole = shift < 63 || byte <= 1;
                return if is_whole { Ok(code) } else { Err(Refused) };
            }
        }
        Err(Refused)
    }

    #[inline(always)]
    pub fn boolean(&mut self) -> Read<u8> {
        let byte = self.byte()?;
        if byte <= 1 { Ok(byte) } else { Err(Refused) }
    }

    /// The bytes behind their length.
    #[inline(always)]
    pub fn bytes(&mut self) -> Read<&'a [u8]> {
        let size = usize::try_from(self.long()?).map_err(|_| Refused)?;
        self.take(size)
    }

    /// A symbol or a branch of `count`.
    #[inline(always)]
    pub fn index(&mut self, count: usize) -> Read<usize> {
        let index = usize::try_from(self.long()?).map_err(|_| Refused)?;
        if index < count {
            Ok(index)
        } else {
            Err(Refused)
        }
    }

    /// Items of the next block of an array or map, each of so many bytes at least; 0 ends it.
    pub fn block(&mut self, item_bytes_min: usize) -> Read<u64> {
        let count = self.long()?;
        if count < 0 && self.long()? < 0 {
            return Err(Refused); // A block of less than no bytes.
        }
        self.checked_count(count.unsigned_abs(), item_bytes_min)
    }

    /// The same where nobody wants the items: a block that tells its size is passed over, as is the 0 it counts as.
    pub fn block_to_skip(&mut self, item_bytes_min: usize) -> Read<Option<u64>> {
        let count = self.long()?;
        if count < 0 {
            let size = usize::try_from(self.long()?).map_err(|_| Refused)?;
            self.take(size)?;
            return Ok(Some(0));
        }
        if count == 0 {
            return Ok(None);
        }
        self.checked_count(count.unsigned_abs(), item_bytes_min)
            .map(Some)
    }

    fn checked_count(&mut self, count: u64, item_bytes_min: usize) -> Read<u64> {
        if item_bytes_min > 0 {
            let most = self.remaining() / item_bytes_min;
            return if count <= most as u64 {
                Ok(count)
            } else {
                Err(Refused)
            };
        }
        self.zero_size_items = self.zero_size_items.saturating_add(count);
        if self.zero_size_items <= ZERO_SIZE_ITEMS_MAX {
            Ok(count)
        } else {
            Err(Refused)
        }
    }
}

/// Whether the bytes are UTF-8. Most texts are short and ASCII: eight bytes at a time tell that.
#[inline(always)]
pub fn is_text(bytes: &[u8]) -> bool {
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let (words, rest) = bytes.as_chunks::<8>();
    let mut found = words
        .iter()
        .fold(0, |found, word| found | u64::from_le_bytes(*word));
    for &byte in rest {
        found |= u64::from(byte);
    }
    found & HIGH == 0 || std::str::from_utf8(bytes).is_ok()
}
