//! Avro's bytes of single values.
//!
//! Owns `Out`: what has been written so far.
//!
//! - A value that does not fit its type writes nothing that counts and gives false; who asked takes the row back.

/// Bytes of the longest variable-length number.
const VARINT_BYTES_MAX: usize = 10;
/// Digits of a long, and its sign.
const LONG_DIGITS_MAX: usize = 20;
/// Numbers below 2^56 have at most eight groups of seven bits: they are spread within one word.
const WORD_BITS: u32 = 56;

/// Bytes of the rows written.
pub struct Out {
    bytes: Vec<u8>,
}

impl Out {
    pub fn new() -> Self {
        Self { bytes: Vec::new() }
    }

    /// Memory for so many bytes more.
    pub fn make_room(&mut self, bytes: usize) {
        self.bytes.reserve(bytes);
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Takes back what was written behind `length`.
    pub fn truncate(&mut self, length: usize) {
        self.bytes.truncate(length);
    }

    pub fn into_vec(self) -> Vec<u8> {
        self.bytes
    }

    #[inline]
    pub fn byte(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    #[inline]
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// A zig-zag number of variable length.
    #[inline]
    pub fn long(&mut self, value: i64) {
        let code = (value.cast_unsigned() << 1) ^ (value >> 63).cast_unsigned();
        if code < 0x80 {
            self.bytes.push(code as u8);
        } else {
            self.long_code(code);
        }
    }

    #[inline]
    fn long_code(&mut self, code: u64) {
        if code >> WORD_BITS != 0 {
            return self.very_long_code(code);
        }
        let groups = (63 - code.leading_zeros()) / 7 + 1;
        // Seven bits to a byte, in three steps: halves of 28 bits, of 14, of 7.
        let word = (code & 0x0FFF_FFFF) | ((code & 0x00FF_FFFF_F000_0000) << 4);
        let word = (word & 0x0000_3FFF_0000_3FFF) | ((word & 0x0FFF_C000_0FFF_C000) << 2);
        let word = (word & 0x007F_007F_007F_007F) | ((word & 0x3F80_3F80_3F80_3F80) << 1);
        let followed = 0x0080_8080_8080_8080 & ((1_u64 << (8 * (groups - 1))) - 1);
        let bytes = (word | followed).to_le_bytes();
        let end = self.bytes.len() + groups as usize;
        self.bytes.extend_from_slice(&bytes);
        self.bytes.truncate(end);
    }

    #[cold]
    fn very_long_code(&mut self, mut code: u64) {
        let mut bytes = [0; VARINT_BYTES_MAX];
        let mut size = 0;
        while code >= 0x80 {
            bytes[size] = code as u8 | 0x80;
            code >>= 7;
            size += 1;
        }
        bytes[size] = code as u8;
        self.raw(&bytes[..=size]);
    }

    /// A number's digits.
    pub fn digits(&mut self, value: i64) {
        let mut digits = [0; LONG_DIGITS_MAX];
        let mut place = digits.len();
        let mut rest = value.unsigned_abs();
        while rest > 0 || place == digits.len() {
            place -= 1;
            digits[place] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        if value < 0 {
            place -= 1;
            digits[place] = b'-';
        }
        self.raw(&digits[place..]);
    }

    /// Bytes behind their length.
    #[inline]
    pub fn sized(&mut self, bytes: &[u8]) {
        self.long(bytes.len() as i64);
        self.raw(bytes);
    }

    /// Two's complement, big end first, in as few bytes as hold it.
    pub fn decimal_in_bytes<const WIDTH: usize>(&mut self, big_endian: &[u8; WIDTH]) {
        self.sized(&big_endian[spare_bytes(big_endian)..]);
    }

    /// Two's complement, big end first, padded to `size` bytes.
    pub fn decimal_in_fixed<const WIDTH: usize>(
        &mut self,
        big_endian: &[u8; WIDTH],
        size: usize,
    ) -> bool {
        if size >= WIDTH {
            let sign = if big_endian[0] & 0x80 == 0 { 0 } else { 0xFF };
            self.bytes.resize(self.bytes.len() + size - WIDTH, sign);
            self.raw(big_endian);
            return true;
        }
        if WIDTH - size > spare_bytes(big_endian) {
            return false;
        }
        self.raw(&big_endian[WIDTH - size..]);
        true
    }

    /// A UUID's text as it is.
    pub fn uuid_in_text(&mut self, text: &[u8]) -> bool {
        if !is_uuid(text) {
            return false;
        }
        self.sized(text);
        true
    }

    /// A UUID's sixteen bytes.
    pub fn uuid_in_fixed(&mut self, text: &[u8]) -> bool {
        let Some(digits) = uuid_digits(text) else {
            return false;
        };
        let mut bytes = [0; UUID_DIGITS / 2];
        for (byte, pair) in bytes.iter_mut().zip(digits.as_chunks::<2>().0) {
            *byte = pair[0] << 4 | pair[1];
        }
        self.raw(&bytes);
        true
    }
}

/// Leading bytes that only repeat the sign; one byte is always needed.
fn spare_bytes<const WIDTH: usize>(big_endian: &[u8; WIDTH]) -> usize {
    let sign = if big_endian[0] & 0x80 == 0 { 0 } else { 0xFF };
    let is_spare = |pair: &[u8]| pair[0] == sign && (pair[1] ^ sign) & 0x80 == 0;
    big_endian
        .windows(2)
        .take_while(|pair| is_spare(pair))
        .count()
}

/// Whether a text is `8-4-4-4-12` hexadecimal digits.
pub fn is_uuid(text: &[u8]) -> bool {
    uuid_digits(text).is_some()
}

/// The digits of a UUID's text; None for a text that is none.
#[inline]
fn uuid_digits(text: &[u8]) -> Option<[u8; UUID_DIGITS]> {
    let text: &[u8; UUID_TEXT_BYTES] = text.try_into().ok()?;
    let mut digits = [0; UUID_DIGITS];
    let mut all = 0;
    for (digit, place) in digits.iter_mut().zip(UUID_DIGIT_PLACES) {
        *digit = HEX[usize::from(text[place])];
        all |= *digit;
    }
    let has_dashes = UUID_DASHES.iter().all(|place| text[*place] == b'-');
    (has_dashes && all & NO_DIGIT == 0).then_some(digits)
}

const UUID_TEXT_BYTES: usize = 36;
const UUID_DIGITS: usize = 32;
const UUID_DASHES: [usize; 4] = [8, 13, 18, 23];
const UUID_DIGIT_PLACES: [usize; UUID_DIGITS] = {
    let mut places = [0; UUID_DIGITS];
    let (mut place, mut count) = (0, 0);
    while place < UUID_TEXT_BYTES {
        if !matches!(place, 8 | 13 | 18 | 23) {
            places[count] = place;
            count += 1;
        }
        place += 1;
    }
    places
};

/// Set in the value of no digit.
const NO_DIGIT: u8 = 0xF0;
/// Values of hexadecimal digits.
const HEX: [u8; 256] = {
    let mut values = [NO_DIGIT; 256];
    let mut digit = 0;
    while digit < 16 {
        values[b"0123456789abcdef"[digit] as usize] = digit as u8;
        values[b"0123456789ABCDEF"[digit] as usize] = digit as u8;
        digit += 1;
    }
    values
};
