//! Arrow arrays handed over by the C data interface: one pointer for a whole batch, whatever it holds.
//!
//! Owns `Node` (an array and what is below it, as plain memory) and its way into the struct of the interface.
//! See <https://arrow.apache.org/docs/format/CDataInterface.html>.
//!
//! - Nothing is copied: the memory of the nodes goes along and is freed when the last array over it is.
//! - Whoever builds nodes answers for their lengths; nothing here looks into the buffers.
//! - Vectors come from the system's allocator, which aligns them to 16 bytes on all 64-bit platforms: enough for every
//!   type of Arrow.

use std::ffi::c_void;
use std::ptr;

use crate::arrow_in::c_data::CArray;
use crate::buffer::Buffer;

/// One array: its buffers in the order of the format, the validity first (None: no nulls) where its type has one.
pub struct Node {
    pub length: usize,
    pub nulls: usize,
    pub buffers: Vec<Option<Buffer>>,
    pub children: Vec<Node>,
    pub dictionary: Option<Box<Node>>,
}

/// What a `CArray` points to.
struct Owned {
    _memory: Vec<Option<Buffer>>,
    pointers: Vec<*const c_void>,
    children: Vec<*mut CArray>,
    dictionary: *mut CArray,
}

impl Node {
    pub fn into_array(self) -> CArray {
        let boxed = |node: Node| Box::into_raw(Box::new(node.into_array()));
        let mut owned = Box::new(Owned {
            pointers: self.buffers.iter().map(pointer).collect(),
            _memory: self.buffers,
            children: self.children.into_iter().map(boxed).collect(),
            dictionary: self.dictionary.map_or(ptr::null_mut(), |node| boxed(*node)),
        });
        CArray {
            length: self.length as i64,
            null_count: self.nulls as i64,
            offset: 0,
            n_buffers: owned.pointers.len() as i64,
            n_children: owned.children.len() as i64,
            buffers: owned.pointers.as_mut_ptr(),
            children: owned.children.as_mut_ptr(),
            dictionary: owned.dictionary,
            release: Some(release),
            private_data: Box::into_raw(owned).cast(),
        }
    }
}

/// The interface wants no pointer to nothing.
fn pointer(buffer: &Option<Buffer>) -> *const c_void {
    match buffer {
        Some(buffer) if !buffer.bytes().is_empty() => buffer.bytes().as_ptr().cast(),
        _ => ptr::null(),
    }
}

/// Frees what an array owns: its buffers, and the arrays below it that were not moved away.
///
/// # Safety
/// `array` is one that `into_array` made and that was not released, as the interface demands.
unsafe extern "C" fn release(array: *mut CArray) {
    // SAFETY: the caller's promise; `private_data` is the box that `into_array` let go of.
    let owned = unsafe { Box::from_raw((*array).private_data.cast::<Owned>()) };
    for &below in owned.children.iter().chain([&owned.dictionary]) {
        if !below.is_null() {
            // SAFETY: made by `into_array` too; an array that was moved away has no release, and its box is ours.
            drop(unsafe { Box::from_raw(below) });
        }
    }
    // SAFETY: as above.
    unsafe { (*array).release = None };
}

impl Drop for CArray {
    fn drop(&mut self) {
        if let Some(release) = self.release {
            // SAFETY: it has a release, so that it was neither moved away nor released.
            unsafe { release(self) };
        }
    }
}

// SAFETY: what it points to is its own, and never changes.
unsafe impl Send for CArray {}
// SAFETY: as above.
unsafe impl Sync for CArray {}

/// Bytes of 0 and 1 as bits, the lowest first.
pub fn pack_bits(flags: &[u8]) -> Vec<u8> {
    // Each byte's lowest bit is moved to its place in the highest byte; no two of the products meet.
    const GATHER: u64 = 0x0102_0408_1020_4080;
    let (words, rest) = flags.as_chunks::<8>();
    let mut bits: Vec<u8> = Vec::with_capacity(flags.len().div_ceil(8));
    bits.extend(
        words
            .iter()
            .map(|word| (u64::from_le_bytes(*word).wrapping_mul(GATHER) >> 56) as u8),
    );
    if !rest.is_empty() {
        bits.push(
            rest.iter()
                .enumerate()
                .fold(0, |byte, (place, flag)| byte | (flag << place)),
        );
    }
    bits
}
