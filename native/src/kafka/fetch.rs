//! One fetch: from librdkafka's messages to columns.
//!
//! Owns the messages that a call to librdkafka hands over, for as long as they are copied.
//!
//! - Only the first message is waited for.
//! - A fetch ends when there is no more, when it has enough rows or bytes, or when the group has news.
//! - Every message is destroyed after it was copied, and all messages of a piece live until then: so a topic's pointer
//!   means one topic throughout a piece.

use std::collections::HashMap;
use std::ffi::CStr;
use std::ptr::null_mut;
use std::sync::atomic::Ordering;

use super::columns::{Measure, TopicColumns};
use super::errors::text_of;
use super::ffi::{self, Code, Functions, Message, Queue, Topic};
use super::handle::Handle;

/// Messages taken at once: few enough to stay in the processor's cache until they are copied.
const PIECE_MESSAGES: usize = 512;

/// An error among the messages.
pub struct Trouble {
    pub code: Code,
    pub reason: String,
    pub topic: Option<String>,
    pub partition: i32,
    pub offset: i64,
}

#[derive(Clone, Copy)]
pub struct Limits {
    pub rows: usize,
    pub bytes: usize,
    pub wait_ms: i32,
}

#[derive(Default)]
pub struct Fetched {
    pub topics: Vec<TopicColumns>,
    pub troubles: Vec<Trouble>,
    rows: usize,
    bytes: usize,
}

/// What the fetches before took, by topic.
#[derive(Default)]
pub struct Expectations(HashMap<String, Measure>);

impl Expectations {
    fn of(&self, topic: &str) -> Measure {
        self.0.get(topic).copied().unwrap_or_default()
    }

    fn learn(&mut self, fetched: &Fetched) {
        for columns in &fetched.topics {
            self.0.insert(columns.topic.clone(), columns.measure());
        }
    }
}

/// Messages, destroyed when this goes.
struct Piece<'a> {
    api: &'a Functions,
    messages: &'a mut [*mut Message],
}

impl Drop for Piece<'_> {
    fn drop(&mut self) {
        for message in self.messages.iter() {
            // SAFETY: a message of librdkafka's, that was handed over and is destroyed once.
            unsafe { (self.api.message_destroy)(*message) }
        }
    }
}

/// Fetches from the consumer's queue.
///
/// # Safety
/// `queue` is the consumer queue of the client of `handle`, a consumer.
pub unsafe fn fetch(
    handle: &Handle,
    queue: *mut Queue,
    limits: Limits,
    expected: &mut Expectations,
) -> Fetched {
    let (api, mut fetched) = (handle.api, Fetched::default());
    let mut room: [*mut Message; PIECE_MESSAGES] = [null_mut(); PIECE_MESSAGES];
    // SAFETY: a consumer, as the caller says.
    unsafe { room[0] = first(handle, limits.wait_ms) };
    let mut count = usize::from(!room[0].is_null());
    let mut wanted = 1;
    while count > 0 {
        let piece = Piece {
            api,
            messages: &mut room[..count],
        };
        // SAFETY: the messages live as long as the piece.
        unsafe { fetched.take(api, piece.messages, expected) };
        drop(piece);
        if count < wanted || fetched.is_enough(limits) || handle.news.has_some() {
            break;
        }
        wanted = fetched.next_piece(limits);
        // SAFETY: the queue as the caller says, and room for as many as are asked for.
        let came = unsafe { (api.consume_batch_queue)(queue, 0, room.as_mut_ptr(), wanted) };
        count = usize::try_from(came).unwrap_or(0);
    }
    expected.learn(&fetched);
    fetched
}

/// The first message, waited for; null when none came, or when something else happened.
///
/// # Safety
/// The client of `handle` is a consumer.
pub unsafe fn first(handle: &Handle, wait_ms: i32) -> *mut Message {
    let polling = &handle.news.is_polling;
    polling.store(true, Ordering::Relaxed);
    // SAFETY: a consumer, as the caller says.
    let message = unsafe { (handle.api.consumer_poll)(handle.client, wait_ms) };
    polling.store(false, Ordering::Relaxed);
    message
}

impl Fetched {
    fn is_enough(&self, limits: Limits) -> bool {
        self.rows >= limits.rows || self.bytes >= limits.bytes
    }

    /// How many messages to ask for: no more than are wanted, nor than should fit.
    fn next_piece(&self, limits: Limits) -> usize {
        let mean_bytes = (self.bytes / self.rows.max(1)).max(1);
        let fitting = (limits.bytes - self.bytes) / mean_bytes;
        (limits.rows - self.rows)
            .min(fitting)
            .clamp(1, PIECE_MESSAGES)
    }

    /// Copies the messages of a piece.
    ///
    /// # Safety
    /// They are living messages of a consumer.
    unsafe fn take(&mut self, api: &Functions, messages: &[*mut Message], expected: &Expectations) {
        let (mut known, mut place): (*mut Topic, usize) = (null_mut(), 0);
        for &each in messages {
            // SAFETY: as the caller says; the memory of key and value is the message's.
            unsafe {
                let message = &*each;
                if message.err != ffi::NO_ERROR {
                    self.troubles.push(trouble(api, message));
                    continue;
                }
                if message.topic != known {
                    known = message.topic;
                    place = self.place_of(text_of((api.topic_name)(known)), expected);
                }
                let (key, value) = (
                    bytes(message.key.cast(), message.key_len),
                    bytes(message.payload.cast(), message.len),
                );
                let timestamp = (api.message_timestamp)(message, null_mut());
                let columns = &mut self.topics[place];
                columns.push(message.partition, message.offset, timestamp, key, value);
                let header_bytes = push_headers(api, message, columns);
                columns.end_row();
                self.rows += 1;
                self.bytes += message.key_len + message.len + header_bytes;
            }
        }
    }

    fn place_of(&mut self, topic: String, expected: &Expectations) -> usize {
        if let Some(place) = self
            .topics
            .iter()
            .position(|columns| columns.topic == topic)
        {
            return place;
        }
        let measure = expected.of(&topic);
        self.topics.push(TopicColumns::new(topic, measure));
        self.topics.len() - 1
    }
}

/// # Safety
/// `start` is null, or the beginning of `length` bytes that live for `'a`.
#[inline]
unsafe fn bytes<'a>(start: *const u8, length: usize) -> Option<&'a [u8]> {
    // SAFETY: as the caller says.
    (!start.is_null()).then(|| unsafe { std::slice::from_raw_parts(start, length) })
}

/// Adds a message's headers to its row; their size.
///
/// # Safety
/// A living message.
#[inline]
unsafe fn push_headers(api: &Functions, message: &Message, columns: &mut TopicColumns) -> usize {
    let mut headers = null_mut();
    // SAFETY: a living message; the headers live as long as it does.
    unsafe {
        if (api.message_headers)(message, &mut headers) != ffi::NO_ERROR {
            return 0;
        }
        let (mut index, mut size) = (0, 0);
        let (mut name, mut value, mut length) = (std::ptr::null(), std::ptr::null(), 0);
        while (api.header_get_all)(headers, index, &mut name, &mut value, &mut length)
            == ffi::NO_ERROR
        {
            let name_bytes = CStr::from_ptr(name).to_bytes();
            columns.push_header(name_bytes, bytes(value.cast(), length));
            size += name_bytes.len() + length;
            index += 1;
        }
        size
    }
}

/// # Safety
/// A living message with an error.
unsafe fn trouble(api: &Functions, message: &Message) -> Trouble {
    // SAFETY: as the caller says; not every error is about a topic.
    unsafe {
        Trouble {
            code: message.err,
            reason: text_of((api.message_errstr)(message)),
            topic: (!message.topic.is_null()).then(|| text_of((api.topic_name)(message.topic))),
            partition: message.partition,
            offset: message.offset,
        }
    }
}
