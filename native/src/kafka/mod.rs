//! The Kafka client over contiguous buffers.
//!
//! Owns nothing but its parts: `library` opens librdkafka, `ffi` names its functions, `handle` keeps a client alive while
//! it is used, `news` keeps what it says, `consumer` with `fetch` and `columns` reads, `producer` with `outgoing` and
//! `produce` writes.
//!
//! - No record is ever a Python object.
//! - The rules about groups and transactions are in Python, once for this client and the one of confluent-kafka.

mod columns;
mod consumer;
mod errors;
mod fetch;
mod ffi;
mod handle;
mod library;
mod news;
mod outgoing;
mod partitions;
mod produce;
mod producer;

use pyo3::prelude::*;

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(library::open_librdkafka, module)?)?;
    module.add_class::<consumer::KafkaConsumer>()?;
    module.add_class::<producer::KafkaProducer>()
}
