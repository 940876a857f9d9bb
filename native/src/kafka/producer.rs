//! A producer, as Python sees it.
//!
//! Owns one producer of librdkafka and the topics that it has written to.
//!
//! - No call holds the interpreter's lock while it waits or copies.
//! - A call that is given up by its caller holds the client until it comes back; `free` waits for nobody.

use std::collections::HashMap;
use std::ffi::CString;
use std::ptr::null_mut;
use std::sync::{Mutex, PoisonError};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use super::errors::KafkaFailure;
use super::ffi::{self, Client, Failure, Functions, Topic};
use super::handle::{Handle, Kind, Slot, c_string, told};
use super::outgoing::{BytesColumn, Columns, GivenHeaders};
use super::partitions::{Partitions, Place};
use super::produce::{Target, queue};
use crate::buffer::View;

struct Inner {
    handle: Handle,
    topics: Mutex<HashMap<String, TopicHandle>>,
}

#[derive(Clone, Copy)]
struct TopicHandle(*mut Topic);
// SAFETY: librdkafka's functions may be called from any thread.
unsafe impl Send for TopicHandle {}
// SAFETY: the same.
unsafe impl Sync for TopicHandle {}

impl TopicHandle {
    fn pointer(&self) -> *mut Topic {
        self.0
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for topic in self
            .topics
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
        {
            // SAFETY: the topic is ours; its client lives until the handle goes, after this.
            unsafe { (self.handle.api.topic_destroy)(topic.0) }
        }
    }
}

impl Inner {
    /// The topic's handle, made when it is written to for the first time.
    fn topic(&self, name: &str) -> PyResult<TopicHandle> {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = topics.get(name) {
            return Ok(*known);
        }
        let text =
            CString::new(name).map_err(|_| PyValueError::new_err("a topic's name holds a zero"))?;
        let api = self.handle.api;
        // SAFETY: a living producer and a text that ends.
        let topic = unsafe { (api.topic_new)(self.handle.client, text.as_ptr(), null_mut()) };
        if topic.is_null() {
            // SAFETY: takes nothing.
            let code = unsafe { (api.last_error)() };
            let outcome = KafkaFailure::of_code(api, code, "Unable to create topic object");
            return Err(Python::attach(|py| match outcome {
                Err(failure) => failure.raised(py),
                Ok(()) => PyValueError::new_err("no topic was made"),
            }));
        }
        topics.insert(name.to_owned(), TopicHandle(topic));
        Ok(TopicHandle(topic))
    }
}

#[pyclass(frozen, module = "headrace_native")]
pub struct KafkaProducer(Slot<Inner>);

#[pymethods]
impl KafkaProducer {
    #[new]
    fn new(py: Python<'_>, settings: Vec<(String, String)>) -> PyResult<Self> {
        let handle = Handle::new(py, Kind::Producer, &settings)?;
        Ok(Self(Slot::new(Inner {
            handle,
            topics: Mutex::default(),
        })))
    }

    /// Queues the rows that are sent from `start` to `stop`, in `order` where there is one, of columns with `rows` rows:
    /// where it stopped, and the code and text of a refusal.
    #[pyo3(signature = (topic, rows, start, stop, value, key, partition, timestamp, headers, order, may_repartition))]
    #[allow(clippy::too_many_arguments)]
    fn produce(
        &self,
        py: Python<'_>,
        topic: &str,
        rows: usize,
        start: usize,
        stop: usize,
        value: BytesColumn,
        key: Option<BytesColumn>,
        partition: Option<Bound<'_, PyAny>>,
        timestamp: Option<Bound<'_, PyAny>>,
        headers: Option<GivenHeaders<'_>>,
        order: Option<Bound<'_, PyAny>>,
        may_repartition: bool,
    ) -> PyResult<(usize, i32, String)> {
        let headers =
            headers.map(|(ends, names, values)| PyResult::Ok((View::of(&ends)?, names, values)));
        let columns = Columns {
            rows,
            value: &value,
            key: key.as_ref(),
            partition: partition.as_ref().map(View::of).transpose()?,
            timestamp: timestamp.as_ref().map(View::of).transpose()?,
            headers: headers.transpose()?,
            order: order.as_ref().map(View::of).transpose()?,
            may_repartition,
        };
        let checked = columns.checked(start, stop)?;
        let topic = self.0.get()?.topic(topic)?;
        let queued = self.0.call(py, |inner| {
            let to = Target {
                api: inner.handle.api,
                client: inner.handle.client,
                topic: topic.pointer(),
            };
            // SAFETY: a living producer and its topic.
            unsafe { queue(&checked, to) }
        })?;
        Ok(match queued.refused {
            None => (queued.stop, ffi::NO_ERROR, String::new()),
            Some(failure) => (queued.stop, failure.code, failure.reason),
        })
    }

    /// How many partitions a topic has; asks.
    fn partitions(&self, py: Python<'_>, topic: String, timeout_ms: i32) -> PyResult<i32> {
        let topic = c_string(Some(topic))?;
        self.0.try_call(py, |inner| {
            inner
                .handle
                .described(topic.as_ref(), timeout_ms, |answer| {
                    answer.partitions_of_first()
                })
        })
    }

    fn has_news(&self) -> PyResult<bool> {
        Ok(self.0.get()?.handle.news.has_some())
    }

    /// What was said meanwhile.
    fn news<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        told(py, self.0.get()?.handle.news.take())
    }

    fn init_transactions(&self, py: Python<'_>, timeout_ms: i32) -> PyResult<()> {
        self.step(py, |api, client| {
            // SAFETY: a living producer.
            unsafe { (api.init_transactions)(client, timeout_ms) }
        })
    }

    fn begin_transaction(&self, py: Python<'_>) -> PyResult<()> {
        self.step(py, |api, client| {
            // SAFETY: a living producer.
            unsafe { (api.begin_transaction)(client) }
        })
    }

    fn commit_transaction(&self, py: Python<'_>, timeout_ms: i32) -> PyResult<()> {
        self.step(py, |api, client| {
            // SAFETY: a living producer.
            unsafe { (api.commit_transaction)(client, timeout_ms) }
        })
    }

    fn abort_transaction(&self, py: Python<'_>, timeout_ms: i32) -> PyResult<()> {
        self.step(py, |api, client| {
            // SAFETY: a living producer.
            unsafe { (api.abort_transaction)(client, timeout_ms) }
        })
    }

    /// `group` is what `KafkaConsumer.group_metadata` gave.
    fn send_offsets(
        &self,
        py: Python<'_>,
        places: Vec<Place>,
        group: Bound<'_, PyBytes>,
        timeout_ms: i32,
    ) -> PyResult<()> {
        let list = Partitions::new(self.0.get()?.handle.api, &places)?;
        let group = group.as_bytes().to_vec();
        self.step(py, |api, client| {
            let mut metadata = null_mut();
            // SAFETY: bytes as long as is said; what is made here is destroyed here.
            unsafe {
                let unread = (api.consumer_group_metadata_read)(
                    &mut metadata,
                    group.as_ptr().cast(),
                    group.len(),
                );
                if !unread.is_null() {
                    return unread;
                }
                let refused =
                    (api.send_offsets_to_transaction)(client, list.as_ptr(), metadata, timeout_ms);
                (api.consumer_group_metadata_destroy)(metadata);
                refused
            }
        })
    }

    /// Waits until all is stored, or no longer; the number of records that are not.
    fn flush(&self, py: Python<'_>, timeout_ms: i32) -> PyResult<i32> {
        self.0.call(py, |inner| {
            let (api, client) = (inner.handle.api, inner.handle.client);
            // SAFETY: a living producer.
            unsafe {
                (api.flush)(client, timeout_ms);
                (api.outq_len)(client)
            }
        })
    }

    /// Serves the client for a while; the number of events.
    fn poll(&self, py: Python<'_>, timeout_ms: i32) -> PyResult<i32> {
        // SAFETY: a living producer.
        self.0.call(py, |inner| unsafe {
            (inner.handle.api.poll)(inner.handle.client, timeout_ms)
        })
    }

    /// Drops what is queued and on its way.
    fn purge(&self, py: Python<'_>) -> PyResult<()> {
        self.0.call(py, |inner| {
            // SAFETY: a living producer.
            unsafe { (inner.handle.api.purge)(inner.handle.client, ffi::PURGE_QUEUE_AND_FLIGHT) };
        })
    }

    /// Asks how many brokers there are, and learns of the topic's partitions by the way.
    fn brokers(&self, py: Python<'_>, topic: Option<String>, timeout_ms: i32) -> PyResult<i32> {
        let topic = c_string(topic)?;
        self.0
            .try_call(py, |inner| inner.handle.brokers(topic.as_ref(), timeout_ms))
    }

    /// Ends the client, once its last call is over. Idempotent.
    fn free(&self, py: Python<'_>) {
        self.0.free(py);
    }
}

impl KafkaProducer {
    /// A call of a transaction.
    fn step(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&Functions, *mut Client) -> *mut Failure + Send,
    ) -> PyResult<()> {
        self.0.try_call(py, |inner| {
            let api = inner.handle.api;
            // SAFETY: the object is handed over by the call.
            unsafe { KafkaFailure::take(api, call(api, inner.handle.client)) }
        })
    }
}
