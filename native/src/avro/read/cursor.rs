//! A place in one record, and Avro's primitives read from there.
//!
//! Owns every check of the wire: ends, lengths, sizes of numbers, indexes, counts of items.
//!
//! - Nothing is allocated here, and nothing is read beyond the record.
//! - What is wrong is only marked: a record that is refused is read again in Python, which names the reason.

/// Items of no bytes (nulls, empty records) in one record. The record's end never stops those, so a count of six bytes
/// could ask for billions. In Python as many are allowed in each array: what has more is left to it.
pub const ZERO_SIZE_ITEMS_MAX: u64 = 65_536;

/// Short texts are copied in pieces of so many bytes: cheaper than to copy as many as there are.
pub const PIECE_BYTES: usize = 16;
pub type Pieces<'a> = &'a [[u8; PIECE_BYTES]];

/// The record is not what its schema says, or more than this way of reading is made for.
#[derive(Debug)]
pub struct Refused;

pub type Read<T = ()> = Result<T, Refused>;

/// A place between the start and the end of a record, which lies in a batch.
///
/// `position <= end <= data.len()`, always.
pub struct Cursor<'a> {
    /// The whole batch: copies may look behind the record, nothing else does.
    data: &'a [u8],
    position: usize,
    end: usize,
    zero_size_items: u64,
}

impl<'a> Cursor<'a> {
    /// At the start of a record; None for one that is not in the batch.
    #[inline(always)]
    pub fn new(data: &'a [u8], start: usize, end: usize) -> Option<Self> {
        (start <= end && end <= data.len()).then_some(Self {
            data,
            position: start,
            end,
            zero_size_items: 0,
        })
    }

    #[inline(always)]
    pub fn is_at_end(&self) -> bool {
        self.position == self.end
    }

    #[inline(always)]
    fn remaining(&self) -> usize {
        self.end - self.position
    }

    #[inline(always)]
    fn rest(&self) -> &'a [u8] {
        // SAFETY: `position <= end <= data.len()`.
        unsafe { self.data.get_unchecked(self.position..self.end) }
    }

    #[inline(always)]
    pub fn byte(&mut self) -> Read<u8> {
        let byte = *self.rest().first().ok_or(Refused)?;
        self.position += 1;
        Ok(byte)
    }

    #[inline(always)]
    pub fn take(&mut self, size: usize) -> Read<&'a [u8]> {
        let taken = self.rest().get(..size).ok_or(Refused)?;
        self.position += size;
        Ok(taken)
    }

    #[inline(always)]
    pub fn array<const SIZE: usize>(&mut self) -> Read<[u8; SIZE]> {
        let taken = *self.rest().first_chunk().ok_or(Refused)?;
        self.position += SIZE;
        Ok(taken)
    }

    #[inline(always)]
    pub fn long(&mut self) -> Read<i64> {
        let code = match self.rest().first() {
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

    /// Seven bits a byte, the lowest first: eight bytes at once, where so many are left.
    #[inline(always)]
    fn long_code(&mut self) -> Read<u64> {
        const STOPS: u64 = 0x8080_8080_8080_8080;
        let Some(&word) = self.rest().first_chunk() else {
            return self.last_code();
        };
        let word = u64::from_le_bytes(word);
        let stops = !word & STOPS;
        if stops == 0 {
            return self.last_code();
        }
        // Up to the first byte without the highest bit; then the groups of seven bits move together in three steps.
        let mut code = word & (stops ^ (stops - 1)) & !STOPS;
        code = (code & 0x007F_007F_007F_007F) | ((code & 0x7F00_7F00_7F00_7F00) >> 1);
        code = (code & 0x0000_3FFF_0000_3FFF) | ((code & 0x3FFF_0000_3FFF_0000) >> 2);
        code = (code & 0x0FFF_FFFF) | ((code & 0x0FFF_FFFF_0000_0000) >> 4);
        self.position += stops.trailing_zeros() as usize / 8 + 1;
        Ok(code)
    }

    /// The same byte by byte: at the end of a record, and for numbers of nine or ten bytes.
    #[inline(never)]
    fn last_code(&mut self) -> Read<u64> {
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

    /// The same, and the whole pieces of `PIECE_BYTES` that begin with them, where the batch goes on so far.
    #[inline(always)]
    pub fn bytes_in_pieces(&mut self) -> Read<(&'a [u8], Option<Pieces<'a>>)> {
        let bytes = self.bytes()?;
        let start = self.position - bytes.len();
        let length = bytes.len().next_multiple_of(PIECE_BYTES);
        let pieces = self.data.get(start..start + length);
        Ok((bytes, pieces.map(|pieces| pieces.as_chunks().0)))
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
    #[inline(always)]
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
        if let Some(most) = self.remaining().checked_div(item_bytes_min) {
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
