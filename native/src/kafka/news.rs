//! What librdkafka says by callbacks, kept until Python asks for it.
//!
//! Owns the queue between librdkafka's callbacks and the thread that owns the client.
//!
//! - A callback only writes down; it never calls Python, and never answers a rebalance.
//! - Lines and errors are bounded: what does not fit is counted. Rebalances need no bound: librdkafka waits for the answer
//!   to one before it tells the next.
//! - Of failed deliveries the number and the first are kept.

use std::collections::VecDeque;
use std::ffi::{c_char, c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::errors::text_of;
use super::ffi::{self, Client, Code, Message, PartitionList};
use super::library;

/// Lines and errors kept at most, each.
const KEPT_MAX: usize = 1000;

/// What a fatal error's text may take.
const FATAL_TEXT_BYTES: usize = 512;

pub struct Line {
    pub level: c_int,
    pub facility: String,
    pub name: String,
    pub text: String,
}

pub struct ClientError {
    pub code: Code,
    pub reason: String,
    pub is_fatal: bool,
}

pub struct Rebalance {
    /// `assign`, `revoke` or `lost`.
    pub kind: &'static str,
    pub partitions: Vec<(String, i32)>,
}

pub struct Failures {
    pub count: u64,
    pub code: Code,
    pub topic: String,
}

/// All that waits.
#[derive(Default)]
pub struct Waiting {
    pub rebalances: Vec<Rebalance>,
    pub errors: VecDeque<ClientError>,
    pub lines: VecDeque<Line>,
    pub statistics: Option<String>,
    pub lost: u64,
    pub failures: Option<Failures>,
}

#[derive(Default)]
pub struct News {
    has_some: AtomicBool,
    /// Whether a poll for one message runs, which alone may be cut short.
    pub is_polling: AtomicBool,
    /// Whether the client is on its way out: nobody will answer a rebalance any more.
    pub is_leaving: AtomicBool,
    waiting: Mutex<Waiting>,
}

impl News {
    pub fn has_some(&self) -> bool {
        self.has_some.load(Ordering::Acquire)
    }

    pub fn take(&self) -> Waiting {
        let mut waiting = self.lock();
        self.has_some.store(false, Ordering::Release);
        std::mem::take(&mut waiting)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, note: impl FnOnce(&mut Waiting)) {
        let mut waiting = self.lock();
        note(&mut waiting);
        self.has_some.store(true, Ordering::Release);
    }

    fn keep<T>(&self, queue: impl FnOnce(&mut Waiting) -> &mut VecDeque<T>, item: T) {
        self.write(|waiting| {
            let kept = queue(waiting);
            if kept.len() < KEPT_MAX {
                kept.push_back(item);
            } else {
                waiting.lost += 1;
            }
        });
    }
}

/// The news of the client whose callback runs.
///
/// # Safety
/// `opaque` is what `Handle` gave its configuration, or null; a `Handle` destroys its client before its news.
unsafe fn of<'a>(opaque: *mut c_void) -> Option<&'a News> {
    // SAFETY: see above.
    unsafe { opaque.cast::<News>().as_ref() }
}

/// `log_cb`: any thread.
pub unsafe extern "C" fn on_line(
    client: *const Client,
    level: c_int,
    facility: *const c_char,
    text: *const c_char,
) {
    let Ok(api) = library::functions() else {
        return;
    };
    if client.is_null() {
        return;
    }
    // SAFETY: librdkafka gives a living client and texts that end.
    unsafe {
        let Some(news) = of((api.opaque)(client)) else {
            return;
        };
        let name = text_of((api.name)(client));
        news.keep(
            |waiting| &mut waiting.lines,
            Line {
                level,
                facility: text_of(facility),
                name,
                text: text_of(text),
            },
        );
    }
}

/// `error_cb`: inside a poll.
pub unsafe extern "C" fn on_error(
    client: *mut Client,
    code: c_int,
    reason: *const c_char,
    opaque: *mut c_void,
) {
    let Ok(api) = library::functions() else {
        return;
    };
    // SAFETY: librdkafka gives a living client and a text that ends; the buffer is as long as is said.
    unsafe {
        let Some(news) = of(opaque) else { return };
        let mut error = ClientError {
            code,
            reason: text_of(reason),
            is_fatal: code == ffi::ERR_FATAL,
        };
        if error.is_fatal {
            let mut told: [c_char; FATAL_TEXT_BYTES] = [0; FATAL_TEXT_BYTES];
            error.code = (api.fatal_error)(client, told.as_mut_ptr(), told.len());
            error.reason = text_of(told.as_ptr());
        }
        let is_fatal = error.is_fatal;
        news.keep(|waiting| &mut waiting.errors, error);
        if is_fatal && news.is_polling.load(Ordering::Relaxed) {
            (api.r#yield)(client);
        }
    }
}

/// `stats_cb`: inside a poll. Zero lets librdkafka free the text.
pub unsafe extern "C" fn on_statistics(
    _: *mut Client,
    text: *mut c_char,
    _: usize,
    opaque: *mut c_void,
) -> c_int {
    // SAFETY: a text that ends.
    unsafe {
        if let Some(news) = of(opaque) {
            let text = text_of(text);
            news.write(|waiting| waiting.statistics = Some(text));
        }
    }
    0
}

/// `dr_msg_cb`: inside a poll or a flush, only for what could not be stored.
pub unsafe extern "C" fn on_delivery(_: *mut Client, message: *const Message, opaque: *mut c_void) {
    let Ok(api) = library::functions() else {
        return;
    };
    // SAFETY: librdkafka gives a living message of a living topic.
    unsafe {
        let Some(news) = of(opaque) else { return };
        let (code, topic) = ((*message).err, (*message).topic);
        if code == ffi::NO_ERROR {
            return;
        }
        news.write(|waiting| match &mut waiting.failures {
            Some(failures) => failures.count += 1,
            None => {
                let topic = text_of((api.topic_name)(topic));
                waiting.failures = Some(Failures {
                    count: 1,
                    code,
                    topic,
                });
            }
        });
    }
}

/// `rebalance_cb`: inside a poll. The owner answers it, by `incremental_assign` or `incremental_unassign`.
pub unsafe extern "C" fn on_rebalance(
    client: *mut Client,
    code: Code,
    partitions: *mut PartitionList,
    opaque: *mut c_void,
) {
    let Ok(api) = library::functions() else {
        return;
    };
    // SAFETY: librdkafka gives a living client and list.
    unsafe {
        let Some(news) = of(opaque) else { return };
        if news.is_leaving.load(Ordering::Relaxed) {
            (api.assign)(client, std::ptr::null());
            return;
        }
        let kind = match code {
            ffi::ERR_ASSIGN_PARTITIONS => "assign",
            _ if (api.assignment_lost)(client) != 0 => "lost",
            _ => "revoke",
        };
        let partitions = super::partitions::names(partitions);
        news.write(|waiting| waiting.rebalances.push(Rebalance { kind, partitions }));
        if news.is_polling.load(Ordering::Relaxed) {
            // Never in a batch: librdkafka would lose the message that comes next.
            (api.r#yield)(client);
        }
    }
}
