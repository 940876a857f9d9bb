//! From hashes to numbers: the open-addressing table under both indexes.
//!
//! Owns the entries, 8 bytes each: a number, and 32 bits of its key's hash. Owns no keys: whoever looks up compares.
//!
//! - A number is in the table at most once, under the hash that its key has.
//! - The table is cut into shards by the top bits of the hash. A shard grows alone, and shards of equal size grow at
//!   different times, so no call rebuilds the whole table.
//! - Probing is linear and a shard always has an empty entry, so every search ends.

const SHARD_BITS: u32 = 6;
const SHARDS: usize = 1 << SHARD_BITS;
const CAPACITY_MIN: f64 = 16.0;
/// A shard is rebuilt when this part of it is used, to the load after which it is `GROWN` times as large.
const LOAD_MAX: f64 = 0.82;
const GROWN: f64 = 1.22;

const EMPTY: u64 = 0;
const REMOVED: u64 = u32::MAX as u64;
/// Numbers are below this: stored with one added, they are told from `EMPTY` and `REMOVED`.
pub const NUMBER_END: u32 = u32::MAX - 1;

struct Shard {
    entries: Vec<u64>,
    /// Entries that are not empty, removed ones included.
    used: usize,
    live: usize,
}

pub struct Table {
    shards: Vec<Shard>,
}

/// Where a hash belongs.
#[inline(always)]
fn split(hash: u64) -> (usize, u32) {
    ((hash >> (64 - SHARD_BITS)) as usize, hash as u32)
}

#[inline(always)]
fn entry_of(tag: u32, number: u32) -> u64 {
    (u64::from(tag) << 32) | u64::from(number + 1)
}

#[inline(always)]
fn tag_of(entry: u64) -> u32 {
    (entry >> 32) as u32
}

#[inline(always)]
fn number_of(entry: u64) -> u32 {
    (entry as u32).wrapping_sub(1)
}

#[inline(always)]
fn is_number(entry: u64) -> bool {
    entry as u32 != EMPTY as u32 && entry as u32 != REMOVED as u32
}

impl Shard {
    fn with_capacity(capacity: usize) -> Self {
        let entries = vec![EMPTY; capacity];
        Self {
            entries,
            used: 0,
            live: 0,
        }
    }

    #[inline(always)]
    fn first(&self, tag: u32) -> usize {
        ((u64::from(tag) * self.entries.len() as u64) >> 32) as usize
    }

    #[inline(always)]
    fn next(&self, at: usize) -> usize {
        if at + 1 == self.entries.len() {
            0
        } else {
            at + 1
        }
    }

    fn limit(&self) -> usize {
        (self.entries.len() as f64 * LOAD_MAX) as usize
    }

    /// The place of an entry of this tag whose number `is_it`, or none.
    #[inline(always)]
    fn find(&self, tag: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<usize> {
        let mut at = self.first(tag);
        loop {
            let entry = self.entries[at];
            if entry == EMPTY {
                return None;
            }
            if tag_of(entry) == tag && is_number(entry) && is_it(number_of(entry)) {
                return Some(at);
            }
            at = self.next(at);
        }
    }

    /// Puts in a number whose key is not here. There is room.
    #[inline(always)]
    fn put(&mut self, tag: u32, number: u32) {
        let mut at = self.first(tag);
        while is_number(self.entries[at]) {
            at = self.next(at);
        }
        self.used += usize::from(self.entries[at] == EMPTY);
        self.live += 1;
        self.entries[at] = entry_of(tag, number);
    }

    fn take_out(&mut self, at: usize) {
        self.live -= 1;
        self.entries[at] = REMOVED;
        if self.entries[self.next(at)] != EMPTY {
            return;
        }
        // Nothing is searched for beyond here: removed entries before an empty one can be empty too.
        let mut last = at;
        while self.entries[last] == REMOVED {
            self.entries[last] = EMPTY;
            self.used -= 1;
            last = if last == 0 {
                self.entries.len() - 1
            } else {
                last - 1
            };
        }
    }

    #[cold]
    fn rebuild(&mut self, capacity: usize) {
        let old = std::mem::replace(self, Self::with_capacity(capacity));
        for entry in old.entries {
            if is_number(entry) {
                self.put(tag_of(entry), number_of(entry));
            }
        }
    }
}

fn capacity_for(live: usize) -> usize {
    (live as f64 * GROWN / LOAD_MAX) as usize + CAPACITY_MIN as usize / 2
}

impl Table {
    pub fn new() -> Self {
        let sized = |shard: usize| CAPACITY_MIN * GROWN.powf(shard as f64 / SHARDS as f64);
        Self {
            shards: (0..SHARDS)
                .map(|shard| Shard::with_capacity(sized(shard) as usize))
                .collect(),
        }
    }

    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.live).sum()
    }

    pub fn bytes(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.entries.len() * size_of::<u64>())
            .sum()
    }

    /// Room for so many numbers, hashes assumed even.
    pub fn reserve(&mut self, count: usize) {
        let each = count.div_ceil(SHARDS);
        // An even spread is off by a few square roots.
        let each = each + 4 * (each as f64).sqrt() as usize;
        for shard in self.shards.iter_mut().filter(|shard| shard.limit() <= each) {
            shard.rebuild((each as f64 / LOAD_MAX) as usize + 2);
        }
    }

    /// Ask for the memory that a search for this hash begins with.
    #[inline(always)]
    pub fn prefetch(&self, hash: u64) {
        let (shard, tag) = split(hash);
        let shard = &self.shards[shard];
        super::memory::prefetch(&shard.entries[shard.first(tag)]);
    }

    /// The number that a search for this hash is likely to find, without a look at its key.
    #[inline(always)]
    pub fn hint(&self, hash: u64) -> Option<u32> {
        let (shard, tag) = split(hash);
        let shard = &self.shards[shard];
        let entry = shard.entries[shard.first(tag)];
        (tag_of(entry) == tag && is_number(entry)).then(|| number_of(entry))
    }

    /// The number under this hash that `is_it`.
    #[inline(always)]
    pub fn find(&self, hash: u64, is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let (shard, tag) = split(hash);
        let shard = &self.shards[shard];
        shard
            .find(tag, is_it)
            .map(|at| number_of(shard.entries[at]))
    }

    /// Puts in a number whose key is not here.
    #[inline(always)]
    pub fn insert(&mut self, hash: u64, number: u32) {
        debug_assert!(number < NUMBER_END);
        let (shard, tag) = split(hash);
        let shard = &mut self.shards[shard];
        if shard.used >= shard.limit() {
            shard.rebuild(capacity_for(shard.live));
        }
        shard.put(tag, number);
    }

    /// Takes a number out; whether it was there.
    #[inline(always)]
    pub fn remove(&mut self, hash: u64, number: u32) -> bool {
        let (shard, tag) = split(hash);
        let shard = &mut self.shards[shard];
        let place = shard.find(tag, |found| found == number);
        if let Some(at) = place {
            shard.take_out(at);
        }
        place.is_some()
    }

    /// Lets another number stand where one stands; whether it did.
    #[inline(always)]
    pub fn replace(&mut self, hash: u64, number: u32, by: u32) -> bool {
        let (shard, tag) = split(hash);
        let shard = &mut self.shards[shard];
        let place = shard.find(tag, |found| found == number);
        if let Some(at) = place {
            shard.entries[at] = entry_of(tag, by);
        }
        place.is_some()
    }
}
