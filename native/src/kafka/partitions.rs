//! Lists of partitions, between Python's values and librdkafka's memory.
//!
//! Owns one list of librdkafka's.
//!
//! - The text of a committed offset ends with a zero, and the zero counts: librdkafka copies as many bytes as are said,
//!   and in a transaction looks for the zero in its copy. It is cut off when a text is read.

use std::ffi::{CString, c_int};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::errors::text_of;
use super::ffi::{self, Functions, PartitionList};

/// Topic, partition, offset and text, as Python gives them.
pub type Place = (String, i32, i64, Option<String>);

/// Topic, partition, offset, text and error code, as Python gets them.
pub type Answer = (String, i32, i64, Option<String>, i32);

pub struct Partitions {
    api: &'static Functions,
    list: *mut PartitionList,
}

// SAFETY: the list belongs to this value alone, and librdkafka ties it to no thread.
unsafe impl Send for Partitions {}
// SAFETY: nothing is written through a shared reference but by librdkafka, inside one call.
unsafe impl Sync for Partitions {}

impl Partitions {
    pub fn new(api: &'static Functions, places: &[Place]) -> PyResult<Self> {
        let names = places
            .iter()
            .map(|(topic, ..)| CString::new(topic.as_str()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| PyValueError::new_err("a topic's name holds a zero"))?;
        // SAFETY: a list of our own; each element is filled before the next one may move it.
        unsafe {
            let list = (api.topic_partition_list_new)(places.len() as c_int);
            for (name, (_, partition, offset, text)) in names.iter().zip(places) {
                let element = (api.topic_partition_list_add)(list, name.as_ptr(), *partition);
                (*element).offset = *offset;
                if let Some(text) = text.as_ref().filter(|text| !text.is_empty()) {
                    let size = text.len() + 1;
                    let memory = (api.mem_malloc)(std::ptr::null_mut(), size).cast::<u8>();
                    std::ptr::copy_nonoverlapping(text.as_ptr(), memory, text.len());
                    *memory.add(text.len()) = 0;
                    (*element).metadata = memory.cast();
                    (*element).metadata_size = size;
                }
            }
            Ok(Self { api, list })
        }
    }

    pub fn of_topics(api: &'static Functions, topics: Vec<String>) -> PyResult<Self> {
        let places: Vec<Place> = topics
            .into_iter()
            .map(|topic| (topic, ffi::PARTITION_UA, 0, None))
            .collect();
        Self::new(api, &places)
    }

    pub fn as_ptr(&self) -> *mut PartitionList {
        self.list
    }

    pub fn answers(&self) -> Vec<Answer> {
        // SAFETY: the list lives as long as `self`.
        unsafe { answers(self.list) }
    }
}

impl Drop for Partitions {
    fn drop(&mut self) {
        // SAFETY: nobody else has the list.
        unsafe { (self.api.topic_partition_list_destroy)(self.list) }
    }
}

/// # Safety
/// `list` is null, or a living list.
unsafe fn elements<'a>(list: *const PartitionList) -> &'a [ffi::Partition] {
    // SAFETY: as the caller says; a list without elements may have no memory for them.
    unsafe {
        match list.as_ref() {
            Some(list) if list.count > 0 => {
                std::slice::from_raw_parts(list.elements, list.count as usize)
            }
            _ => &[],
        }
    }
}

/// # Safety
/// `list` is null, or a living list.
pub unsafe fn names(list: *const PartitionList) -> Vec<(String, i32)> {
    // SAFETY: as the caller says; the topics of a list are texts that end.
    unsafe {
        elements(list)
            .iter()
            .map(|each| (text_of(each.topic), each.partition))
            .collect()
    }
}

/// # Safety
/// `list` is null, or a living list.
pub unsafe fn answers(list: *const PartitionList) -> Vec<Answer> {
    // SAFETY: as the caller says; a text of `metadata_size` bytes.
    unsafe {
        elements(list)
            .iter()
            .map(|each| {
                let text = (!each.metadata.is_null()).then(|| {
                    let bytes =
                        std::slice::from_raw_parts(each.metadata.cast::<u8>(), each.metadata_size);
                    let end = bytes
                        .iter()
                        .position(|byte| *byte == 0)
                        .unwrap_or(bytes.len());
                    String::from_utf8_lossy(&bytes[..end]).into_owned()
                });
                (
                    text_of(each.topic),
                    each.partition,
                    each.offset,
                    text,
                    each.err,
                )
            })
            .collect()
    }
}
