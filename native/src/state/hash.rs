//! 64-bit hashes of keys.
//!
//! Owns the hash functions and their seed, which is of this process: no topic can be filled with keys that collide.
//!
//! - A hash is only a hint; equality is decided on the keys.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::LazyLock;

static SEED: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(0u8) | 1);
const A: u64 = 0x9e37_79b9_7f4a_7c15;
const B: u64 = 0xa076_1d64_78bd_642f;

/// Both halves of the product: every bit of each factor reaches the middle of the result.
#[inline(always)]
fn folded(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

/// A hasher. `mask` is for tests: few bits make keys collide.
#[derive(Clone, Copy)]
pub struct Hasher {
    seed: u64,
    mask: u64,
}

impl Hasher {
    pub fn new(mask: u64) -> Self {
        Self { seed: *SEED, mask }
    }

    /// Of a key of integers.
    #[inline(always)]
    pub fn of_ints(self, key: impl Iterator<Item = i64>) -> u64 {
        let hash = key.fold(self.seed, |hash, part| folded(hash ^ part as u64, A));
        folded(hash ^ B, A) & self.mask
    }

    /// Of a row of bytes.
    #[inline(always)]
    pub fn of_bytes(self, bytes: &[u8]) -> u64 {
        let mut hash = self.seed ^ (bytes.len() as u64).wrapping_mul(B);
        let (low, high) = if bytes.len() > 16 {
            let mut rest = bytes;
            while rest.len() > 16 {
                hash = folded(word(rest, 0) ^ hash, word(rest, 8) ^ A);
                rest = &rest[16..];
            }
            (word(bytes, bytes.len() - 16), word(bytes, bytes.len() - 8))
        } else if bytes.len() >= 8 {
            (word(bytes, 0), word(bytes, bytes.len() - 8))
        } else {
            (short(bytes), 0)
        };
        let hash = folded(low ^ hash, high ^ B);
        folded(hash ^ self.seed, A) & self.mask
    }
}

#[inline(always)]
fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Up to seven bytes as a number.
#[inline(always)]
fn short(bytes: &[u8]) -> u64 {
    match bytes.len() {
        0 => 0,
        1..=3 => {
            let (first, middle, last) = (bytes[0], bytes[bytes.len() / 2], bytes[bytes.len() - 1]);
            u64::from(first) | u64::from(middle) << 8 | u64::from(last) << 16
        }
        length => {
            let half = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four"));
            u64::from(half(0)) | u64::from(half(length - 4)) << 32
        }
    }
}
