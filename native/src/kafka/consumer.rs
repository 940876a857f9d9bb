//! A consumer, as Python sees it.
//!
//! Owns one consumer of librdkafka and its queue.
//!
//! - No call holds the interpreter's lock while it waits or copies.
//! - The group's callbacks run in Python, between `fetch` and whatever comes next; see `news`.

use std::ffi::{CString, c_void};
use std::ptr::null_mut;
use std::sync::{Mutex, PoisonError};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use super::errors::{KafkaFailure, Outcome};
use super::fetch::{Expectations, Fetched, Limits, fetch, first};
use super::ffi::{self, Client, Code, Failure, Functions, PartitionList, Queue};
use super::handle::{Handle, Kind, Slot, c_string, told};
use super::partitions::{Answer, Partitions, Place, answers, names};

/// How long a wait goes on before the interpreter may look for signals.
const WAIT_CHUNK_MS: i32 = 200;

struct Inner {
    handle: Handle,
    queue: *mut Queue,
    expected: Mutex<Expectations>,
}

// SAFETY: librdkafka's functions may be called from any thread.
unsafe impl Send for Inner {}
// SAFETY: the same.
unsafe impl Sync for Inner {}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: the queue is ours; its client lives until the handle goes, after this.
        unsafe { (self.handle.api.queue_destroy)(self.queue) }
    }
}

impl Inner {
    fn fetch(&self, limits: Limits) -> Fetched {
        let mut expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the queue is that of the client, which is a consumer.
        unsafe { fetch(&self.handle, self.queue, limits, &mut expected) }
    }

    /// A call that gives an error object.
    fn checked(&self, call: impl FnOnce(&Functions, *mut Client) -> *mut Failure) -> Outcome<()> {
        let api = self.handle.api;
        // SAFETY: the object is handed over by the call.
        unsafe { KafkaFailure::take(api, call(api, self.handle.client)) }
    }
}

#[pyclass(frozen, module = "headrace_native")]
pub struct KafkaConsumer(Slot<Inner>);

type Troubles = Vec<(Code, String, Option<String>, i32, i64)>;

#[pymethods]
impl KafkaConsumer {
    #[new]
    fn new(py: Python<'_>, settings: Vec<(String, String)>) -> PyResult<Self> {
        let handle = Handle::new(py, Kind::Consumer, &settings)?;
        // SAFETY: a living consumer; without a queue there would be no group.
        let queue = unsafe {
            (handle.api.poll_set_consumer)(handle.client);
            (handle.api.queue_get_consumer)(handle.client)
        };
        if queue.is_null() {
            return Err(PyValueError::new_err("a consumer needs a group.id"));
        }
        Ok(Self(Slot::new(Inner {
            handle,
            queue,
            expected: Mutex::default(),
        })))
    }

    /// Columns by topic, errors among the records, and whether there is other news.
    fn fetch<'py>(
        &self,
        py: Python<'py>,
        records_max: usize,
        timeout_ms: i32,
        bytes_max: usize,
    ) -> PyResult<(Vec<Bound<'py, PyTuple>>, Troubles, bool)> {
        if records_max == 0 || timeout_ms < 0 {
            return Err(PyValueError::new_err(
                "a fetch wants records, and has an end",
            ));
        }
        let mut left_ms = timeout_ms;
        let fetched = loop {
            let wait_ms = left_ms.min(WAIT_CHUNK_MS);
            let limits = Limits {
                rows: records_max,
                bytes: bytes_max,
                wait_ms,
            };
            let (fetched, has_news) = self.0.call(py, |inner| {
                (inner.fetch(limits), inner.handle.news.has_some())
            })?;
            left_ms -= wait_ms;
            if left_ms == 0
                || has_news
                || !fetched.topics.is_empty()
                || !fetched.troubles.is_empty()
            {
                break fetched;
            }
            py.check_signals()?;
        };
        let columns = fetched
            .topics
            .into_iter()
            .map(|columns| columns.into_python(py))
            .collect::<PyResult<_>>()?;
        let troubles = fetched
            .troubles
            .into_iter()
            .map(|each| {
                (
                    each.code,
                    each.reason,
                    each.topic,
                    each.partition,
                    each.offset,
                )
            })
            .collect();
        Ok((columns, troubles, self.0.get()?.handle.news.has_some()))
    }

    /// What was said meanwhile.
    fn news<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        told(py, self.0.get()?.handle.news.take())
    }

    fn subscribe(&self, py: Python<'_>, topics: Vec<String>) -> PyResult<()> {
        let list = Partitions::of_topics(self.0.get()?.handle.api, topics)?;
        self.coded(py, "Failed to set subscription", |api, client| {
            // SAFETY: a living client and list.
            unsafe { (api.subscribe)(client, list.as_ptr()) }
        })
    }

    fn assign(&self, py: Python<'_>, places: Vec<Place>) -> PyResult<()> {
        let list = self.list(&places)?;
        self.coded(py, "Failed to set assignment", |api, client| {
            // SAFETY: a living client and list.
            unsafe { (api.assign)(client, list.as_ptr()) }
        })
    }

    fn incremental_assign(&self, py: Python<'_>, places: Vec<Place>) -> PyResult<()> {
        let list = self.list(&places)?;
        self.0.try_call(py, |inner| {
            inner.checked(|api, client| {
                // SAFETY: a living client and list.
                unsafe { (api.incremental_assign)(client, list.as_ptr()) }
            })
        })
    }

    fn incremental_unassign(&self, py: Python<'_>, places: Vec<Place>) -> PyResult<()> {
        let list = self.list(&places)?;
        self.0.try_call(py, |inner| {
            inner.checked(|api, client| {
                // SAFETY: a living client and list.
                unsafe { (api.incremental_unassign)(client, list.as_ptr()) }
            })
        })
    }

    fn pause(&self, py: Python<'_>, places: Vec<Place>) -> PyResult<()> {
        let list = self.list(&places)?;
        self.coded(py, "Failed to pause partitions", |api, client| {
            // SAFETY: a living client and list.
            unsafe { (api.pause_partitions)(client, list.as_ptr()) }
        })
    }

    fn resume(&self, py: Python<'_>, places: Vec<Place>) -> PyResult<()> {
        let list = self.list(&places)?;
        self.coded(py, "Failed to resume partitions", |api, client| {
            // SAFETY: a living client and list.
            unsafe { (api.resume_partitions)(client, list.as_ptr()) }
        })
    }

    fn seek(&self, py: Python<'_>, topic: String, partition: i32, offset: i64) -> PyResult<()> {
        let name = CString::new(topic)
            .map_err(|_| PyValueError::new_err("a topic's name holds a zero"))?;
        self.coded(py, "Failed to seek", |api, client| {
            // SAFETY: a living client; the topic made here is destroyed here.
            unsafe {
                let topic = (api.topic_new)(client, name.as_ptr(), null_mut());
                if topic.is_null() {
                    return (api.last_error)();
                }
                let code = (api.seek)(topic, partition, offset, ffi::INFINITE);
                (api.topic_destroy)(topic);
                code
            }
        })
    }

    /// Topic, partition, offset, text and error of each.
    fn committed(
        &self,
        py: Python<'_>,
        places: Vec<Place>,
        timeout_ms: i32,
    ) -> PyResult<Vec<Answer>> {
        let list = self.list(&places)?;
        self.coded(py, "Failed to get committed offsets", |api, client| {
            // SAFETY: a living client and list.
            unsafe { (api.committed)(client, list.as_ptr(), timeout_ms) }
        })?;
        Ok(list.answers())
    }

    /// Waits for the answer: topic, partition, offset, text and error of each.
    fn commit(&self, py: Python<'_>, places: Vec<Place>) -> PyResult<Vec<Answer>> {
        let list = self.list(&places)?;
        let mut answer = CommitAnswer::default();
        let told = &mut answer;
        self.coded(py, "Commit failed", move |api, client| {
            let opaque: *mut c_void = std::ptr::from_mut(told).cast();
            // SAFETY: a living client and list. Without a queue the callback runs inside the call, so the answer lives.
            unsafe { (api.commit_queue)(client, list.as_ptr(), null_mut(), on_commit, opaque) }
        })?;
        self.coded(py, "Commit failed", |_, _| answer.code)?;
        Ok(answer.places)
    }

    /// The member and its generation, in librdkafka's own form.
    fn group_metadata<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let inner = self.0.get()?;
        let api = inner.handle.api;
        // SAFETY: a living client; what is made here is destroyed here, after it was copied.
        unsafe {
            let metadata = (api.consumer_group_metadata)(inner.handle.client);
            if metadata.is_null() {
                return Err(PyValueError::new_err("the consumer is in no group"));
            }
            let (mut written, mut size) = (null_mut(), 0);
            let outcome = KafkaFailure::take(
                api,
                (api.consumer_group_metadata_write)(metadata, &mut written, &mut size),
            );
            (api.consumer_group_metadata_destroy)(metadata);
            outcome.map_err(|failure| failure.raised(py))?;
            let copied = PyBytes::new(py, std::slice::from_raw_parts(written.cast(), size));
            (api.mem_free)(null_mut(), written);
            Ok(copied)
        }
    }

    /// Asks how many brokers there are.
    fn brokers(&self, py: Python<'_>, topic: Option<String>, timeout_ms: i32) -> PyResult<i32> {
        let topic = c_string(topic)?;
        self.0
            .try_call(py, |inner| inner.handle.brokers(topic.as_ref(), timeout_ms))
    }

    /// The partitions that are read.
    fn assignment(&self, py: Python<'_>) -> PyResult<Vec<(String, i32)>> {
        let mut found = Vec::new();
        let places = &mut found;
        self.coded(py, "Failed to get assignment", move |api, client| {
            let mut list = null_mut();
            // SAFETY: a living client; the list made here is destroyed here.
            unsafe {
                let code = (api.assignment)(client, &mut list);
                if code == ffi::NO_ERROR {
                    *places = names(list);
                    (api.topic_partition_list_destroy)(list);
                }
                code
            }
        })?;
        Ok(found)
    }

    /// Starts to leave the group; `is_closed` and `news` are called until it is left. False of a client that failed for
    /// good: it has no group to leave.
    fn begin_close(&self, py: Python<'_>) -> PyResult<bool> {
        self.0.call(py, |inner| {
            let begun = inner.checked(|api, client| {
                // SAFETY: a living consumer and its own queue.
                unsafe { (api.consumer_close_queue)(client, inner.queue) }
            });
            begun.is_ok()
        })
    }

    /// Serves the client for a while, unless there is news to be answered first. What it fetched is lost.
    fn is_closed(&self, py: Python<'_>, wait_ms: i32) -> PyResult<bool> {
        self.0.call(py, |inner| {
            let api = inner.handle.api;
            // SAFETY: a living consumer; the message, if any, was handed over.
            unsafe {
                if (api.consumer_closed)(inner.handle.client) != 0 {
                    return true;
                }
                let message = first(&inner.handle, wait_ms);
                if !message.is_null() {
                    (api.message_destroy)(message);
                }
                false
            }
        })
    }

    /// Ends the client, once its last call is over. Idempotent.
    fn free(&self, py: Python<'_>) {
        self.0.free(py);
    }
}

impl KafkaConsumer {
    /// A call that gives a code.
    fn coded(
        &self,
        py: Python<'_>,
        action: &str,
        call: impl FnOnce(&Functions, *mut Client) -> Code + Send,
    ) -> PyResult<()> {
        self.0.try_call(py, |inner| {
            let api = inner.handle.api;
            KafkaFailure::of_code(api, call(api, inner.handle.client), action)
        })
    }

    fn list(&self, places: &[Place]) -> PyResult<Partitions> {
        Partitions::new(self.0.get()?.handle.api, places)
    }
}

#[derive(Default)]
struct CommitAnswer {
    code: Code,
    places: Vec<Answer>,
}

/// Inside `commit_queue`.
unsafe extern "C" fn on_commit(
    _: *mut Client,
    code: Code,
    list: *mut PartitionList,
    opaque: *mut c_void,
) {
    // SAFETY: the opaque is the answer that `commit` waits for; the list is null or lives.
    unsafe {
        let answer = &mut *opaque.cast::<CommitAnswer>();
        answer.code = code;
        answer.places = if list.is_null() {
            Vec::new()
        } else {
            answers(list)
        };
    }
}
