//! One client of librdkafka: how it is made, and how it ends.
//!
//! Owns an `rd_kafka_t` and what its callbacks write to.
//!
//! - Whoever calls into a client holds it (`Arc<Handle>`): it is destroyed after its last call came back, never inside one.
//! - It is destroyed without the interpreter's lock, for that may take a while.
//! - A forked child never destroys its parent's client: the threads that would be waited for are not there.

use std::ffi::{CString, c_char, c_int};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::errors::{KafkaFailure, Outcome, text_of};
use super::ffi::{self, Client, Conf, Functions};
use super::library;
use super::news::{self, News, Waiting};

const ERROR_TEXT_BYTES: usize = 512;

#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    Producer,
    Consumer,
}

pub struct Handle {
    pub api: &'static Functions,
    pub client: *mut Client,
    pub news: Box<News>,
    process: u32,
}

// SAFETY: librdkafka's functions may be called from any thread.
unsafe impl Send for Handle {}
// SAFETY: the same.
unsafe impl Sync for Handle {}

impl Handle {
    pub fn new(py: Python<'_>, kind: Kind, settings: &[(String, String)]) -> PyResult<Self> {
        let (api, news) = (library::functions()?, Box::<News>::default());
        let settings = settings
            .iter()
            .map(|(name, value)| Ok((CString::new(name.as_str())?, CString::new(value.as_str())?)))
            .collect::<Result<Vec<_>, std::ffi::NulError>>()
            .map_err(|_| PyValueError::new_err("a setting holds a zero"))?;
        let made = py.detach(|| {
            let conf = configured(api, kind, &settings, &news)?;
            created(api, kind, conf)
        });
        match made {
            Ok(Address(client)) => Ok(Self {
                api,
                client,
                news,
                process: std::process::id(),
            }),
            Err(failure) => Err(failure.raised(py)),
        }
    }

    /// How many brokers the cluster is said to have; asks, for a topic or in general.
    pub fn brokers(&self, topic: Option<&CString>, timeout_ms: i32) -> Outcome<i32> {
        self.described(topic, timeout_ms, |answer| answer.broker_count)
    }

    /// Asks about the cluster, and about one topic or all; `read` is given the answer.
    pub fn described<R>(
        &self,
        topic: Option<&CString>,
        timeout_ms: i32,
        read: impl FnOnce(&ffi::Metadata) -> R,
    ) -> Outcome<R> {
        let api = self.api;
        // SAFETY: the client lives; what is made here is destroyed here.
        unsafe {
            let only = match topic {
                Some(name) => (api.topic_new)(self.client, name.as_ptr(), std::ptr::null_mut()),
                None => std::ptr::null_mut(),
            };
            let mut answer = std::ptr::null();
            let all = c_int::from(topic.is_none());
            let code = (api.metadata)(self.client, all, only, &mut answer, timeout_ms);
            if !only.is_null() {
                (api.topic_destroy)(only);
            }
            KafkaFailure::of_code(api, code, "Failed to get metadata")?;
            let read = read(&*answer);
            (api.metadata_destroy)(answer);
            Ok(read)
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            return;
        }
        self.news.is_leaving.store(true, Ordering::Relaxed);
        // SAFETY: the last holder is gone, so no call is under way; `news` is dropped after this.
        unsafe { (self.api.destroy_flags)(self.client, ffi::DESTROY_NO_CONSUMER_CLOSE) }
    }
}

struct Address<T>(*mut T);
// SAFETY: only moved between threads, inside `detach`.
unsafe impl<T> Send for Address<T> {}

fn configured(
    api: &Functions,
    kind: Kind,
    settings: &[(CString, CString)],
    news: &News,
) -> Outcome<Address<Conf>> {
    // SAFETY: the configuration is ours until a client takes it over.
    unsafe {
        let conf = (api.conf_new)();
        let own = [
            (
                c"client.software.name".to_owned(),
                c"headrace-native".to_owned(),
            ),
            (
                c"client.software.version".to_owned(),
                CString::new(env!("CARGO_PKG_VERSION")).unwrap_or_default(),
            ),
        ];
        for (name, value) in own.iter().chain(settings) {
            let mut told: [c_char; ERROR_TEXT_BYTES] = [0; ERROR_TEXT_BYTES];
            let set = (api.conf_set)(
                conf,
                name.as_ptr(),
                value.as_ptr(),
                told.as_mut_ptr(),
                told.len(),
            );
            if set != ffi::CONF_OK {
                (api.conf_destroy)(conf);
                return Err(KafkaFailure::new(
                    ffi::ERR_INVALID_ARG,
                    text_of(told.as_ptr()),
                ));
            }
        }
        (api.conf_set_opaque)(conf, std::ptr::from_ref(news).cast_mut().cast());
        (api.conf_set_error_cb)(conf, news::on_error);
        (api.conf_set_log_cb)(conf, news::on_line);
        (api.conf_set_stats_cb)(conf, news::on_statistics);
        match kind {
            Kind::Producer => (api.conf_set_dr_msg_cb)(conf, news::on_delivery),
            Kind::Consumer => (api.conf_set_rebalance_cb)(conf, news::on_rebalance),
        }
        Ok(Address(conf))
    }
}

fn created(api: &Functions, kind: Kind, conf: Address<Conf>) -> Outcome<Address<Client>> {
    let (number, what) = match kind {
        Kind::Producer => (ffi::TYPE_PRODUCER, "producer"),
        Kind::Consumer => (ffi::TYPE_CONSUMER, "consumer"),
    };
    let mut told: [c_char; ERROR_TEXT_BYTES] = [0; ERROR_TEXT_BYTES];
    // SAFETY: a client that is made owns the configuration; otherwise it is still ours.
    unsafe {
        let client = (api.new)(number, conf.0, told.as_mut_ptr(), told.len());
        if client.is_null() {
            let code = (api.last_error)();
            (api.conf_destroy)(conf.0);
            let reason = format!("Failed to create {what}: {}", text_of(told.as_ptr()));
            return Err(KafkaFailure::new(code, reason));
        }
        Ok(Address(client))
    }
}

/// What a Python object holds: the client until it is freed.
pub struct Slot<T: Send + Sync>(Mutex<Option<Arc<T>>>);

impl<T: Send + Sync> Slot<T> {
    pub fn new(held: T) -> Self {
        Self(Mutex::new(Some(Arc::new(held))))
    }

    /// The client, for one call.
    pub fn get(&self) -> PyResult<Arc<T>> {
        self.lock()
            .clone()
            .ok_or_else(|| PyRuntimeError::new_err("the client is closed"))
    }

    /// Lets the client go; it ends with the last call that is under way.
    pub fn free(&self, py: Python<'_>) {
        let held = self.lock().take();
        py.detach(|| drop(held));
    }

    /// Makes a call without the interpreter's lock; what it holds is let go without the lock, too.
    pub fn call<R: Send>(&self, py: Python<'_>, call: impl FnOnce(&T) -> R + Send) -> PyResult<R> {
        let held = self.get()?;
        Ok(py.detach(move || call(&held)))
    }

    /// The same, for a call that may fail.
    pub fn try_call<R: Send>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&T) -> Outcome<R> + Send,
    ) -> PyResult<R> {
        self.call(py, call)?.map_err(|failure| failure.raised(py))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Send + Sync> Drop for Slot<T> {
    fn drop(&mut self) {
        let held = self
            .0
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if held.is_some() {
            // An object that nobody closed goes with the lock held; its client does not.
            Python::attach(|py| py.detach(|| drop(held)));
        }
    }
}

/// All that waits, as Python takes it apart (`native_events`).
pub fn told<'py>(py: Python<'py>, waiting: Waiting) -> PyResult<Bound<'py, PyTuple>> {
    let rebalances: Vec<_> = waiting
        .rebalances
        .into_iter()
        .map(|each| (each.kind, each.partitions))
        .collect();
    let errors: Vec<_> = waiting
        .errors
        .into_iter()
        .map(|each| (each.code, each.reason, each.is_fatal))
        .collect();
    let lines: Vec<_> = waiting
        .lines
        .into_iter()
        .map(|each| (each.level, each.facility, each.name, each.text))
        .collect();
    let failures = waiting
        .failures
        .map(|each| (each.count, each.code, each.topic));
    (
        rebalances,
        errors,
        lines,
        waiting.statistics,
        waiting.lost,
        failures,
    )
        .into_pyobject(py)
}

pub fn c_string(text: Option<String>) -> PyResult<Option<CString>> {
    text.map(CString::new)
        .transpose()
        .map_err(|_| PyValueError::new_err("a topic's name holds a zero"))
}
