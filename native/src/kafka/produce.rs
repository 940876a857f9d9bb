//! Rows of columns into librdkafka's queue.
//!
//! Owns nothing: rows are copied into messages of librdkafka's.
//!
//! - Rows are queued in order, up to the first that is refused: what is not told as queued is not queued.
//! - Neighbours for one partition go together: librdkafka walks along the messages of a partition several times, which
//!   costs a third when they lie side by side in memory.

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;

use super::errors::{KafkaFailure, text_of};
use super::ffi::{self, Argued, Argument, Client, Functions, Headers, Memory, Message, Topic};
use super::outgoing::{NOTHING, Rows, empty};

/// Rows handed over at once, in memory that stays in the processor's cache.
const PIECE_ROWS: usize = 1024;

/// How far rows were queued, and why no further.
pub struct Queued {
    pub stop: usize,
    pub refused: Option<KafkaFailure>,
}

impl Queued {
    fn up_to(stop: usize, refused: Option<KafkaFailure>) -> Self {
        Self { stop, refused }
    }
}

/// Where rows go.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    pub api: &'a Functions,
    pub client: *mut Client,
    pub topic: *mut Topic,
}

/// Queues the rows.
///
/// # Safety
/// `to` is a living producer and a topic of it.
pub unsafe fn queue(rows: &Rows<'_>, to: Target<'_>) -> Queued {
    // SAFETY: as the caller says.
    unsafe {
        if rows.timestamp.is_some() || rows.headers.is_some() {
            queue_one_by_one(rows, to)
        } else {
            queue_in_pieces(rows, to)
        }
    }
}

unsafe fn queue_in_pieces(rows: &Rows<'_>, to: Target<'_>) -> Queued {
    let mut piece = Vec::with_capacity(PIECE_ROWS.min(rows.stop - rows.start));
    let mut done = rows.start;
    while done < rows.stop {
        let partition = rows.partition(rows.at(done));
        let end = rows.stop.min(done + PIECE_ROWS);
        let same = (done..end).take_while(|place| rows.partition(rows.at(*place)) == partition);
        piece.clear();
        piece.extend(same.map(|place| message(rows, rows.at(place))));
        // SAFETY: as the caller says.
        let mut refused = unsafe { queue_piece(to, partition, &mut piece) };
        if rows.may_repartition && is_unknown_partition(&refused) {
            // The topic was made again, with fewer.
            // SAFETY: as the caller says; of these rows none was queued.
            refused = unsafe { queue_piece(to, ffi::PARTITION_UA, &mut piece) };
        }
        if let Some((row, failure)) = refused {
            return Queued::up_to(done + row, Some(failure));
        }
        done += piece.len();
    }
    Queued::up_to(rows.stop, None)
}

fn is_unknown_partition(refused: &Option<(usize, KafkaFailure)>) -> bool {
    matches!(refused, Some((_, failure)) if failure.code == ffi::ERR_UNKNOWN_PARTITION)
}

/// Queues messages for one partition; the first one refused, and why.
///
/// Of a batch with partitions of its own for each row librdkafka queues rows behind one that it refuses, and leaks that
/// one. Of a batch for one partition, or for the partitioner, it refuses all rows behind the first, unless that one is
/// too large; sizes are looked at before anything is queued.
unsafe fn queue_piece(
    to: Target<'_>,
    partition: i32,
    piece: &mut [Message],
) -> Option<(usize, KafkaFailure)> {
    let (start, count) = (piece.as_mut_ptr(), piece.len() as c_int);
    // SAFETY: as the caller says; as many messages as are said, whose bytes are copied by the call.
    let queued =
        unsafe { (to.api.produce_batch)(to.topic, partition, ffi::MSG_F_COPY, start, count) };
    if queued == count {
        return None;
    }
    let refused = piece.iter().position(|each| each.err != ffi::NO_ERROR)?;
    let code = piece[refused].err;
    // SAFETY: a text for each number, never freed.
    let reason = unsafe { text_of((to.api.err2str)(code)) };
    Some((refused, KafkaFailure::new(code, reason)))
}

fn message(rows: &Rows<'_>, row: usize) -> Message {
    let (value, key) = (rows.value.row(row), key_of(rows, row));
    Message {
        err: ffi::NO_ERROR,
        topic: null_mut(),
        partition: ffi::PARTITION_UA,
        payload: value.start.cast_mut(),
        len: value.size,
        key: key.start.cast_mut(),
        key_len: key.size,
        offset: 0,
        private: null_mut::<c_void>(),
    }
}

fn key_of(rows: &Rows<'_>, row: usize) -> Memory {
    rows.key.map_or(NOTHING, |key| key.row(row))
}

/// With timestamps or headers each row is a call.
unsafe fn queue_one_by_one(rows: &Rows<'_>, to: Target<'_>) -> Queued {
    let mut call = Call::new(to.topic);
    for place in rows.start..rows.stop {
        let row = rows.at(place);
        // SAFETY: as the caller says.
        let mut outcome = unsafe { queue_one(rows, to, row, rows.partition(row), &mut call) };
        if rows.may_repartition
            && matches!(&outcome, Err(failure) if failure.code == ffi::ERR_UNKNOWN_PARTITION)
        {
            // SAFETY: as the caller says.
            outcome = unsafe { queue_one(rows, to, row, ffi::PARTITION_UA, &mut call) };
        }
        if let Err(failure) = outcome {
            return Queued::up_to(place, Some(failure));
        }
    }
    Queued::up_to(rows.stop, None)
}

unsafe fn queue_one(
    rows: &Rows<'_>,
    to: Target<'_>,
    row: usize,
    partition: i32,
    call: &mut Call,
) -> Result<(), KafkaFailure> {
    // SAFETY: as the caller says; a list of headers is the message's once it is queued, else still ours.
    unsafe {
        let headers = headers_of(rows, to.api, row)?;
        let arguments = call.with(rows, row, partition, headers);
        let failure = (to.api.produceva)(to.client, arguments.as_ptr(), arguments.len());
        let outcome = KafkaFailure::take(to.api, failure);
        if outcome.is_err() && !headers.is_null() {
            (to.api.headers_destroy)(headers);
        }
        outcome
    }
}

/// The arguments of `produceva`, half a kilobyte: what is the same for all rows is written once.
struct Call([Argued; 7]);

impl Call {
    fn new(topic: *mut Topic) -> Self {
        let argued = |kind: c_int, argument: Argument| Argued { kind, argument };
        let int = ffi::MSG_F_COPY;
        Self([
            argued(ffi::VTYPE_RKT, Argument { topic }),
            argued(ffi::VTYPE_MSGFLAGS, Argument { int }),
            argued(ffi::VTYPE_PARTITION, Argument { int32: 0 }),
            argued(ffi::VTYPE_VALUE, Argument { memory: NOTHING }),
            argued(ffi::VTYPE_KEY, Argument { memory: NOTHING }),
            argued(ffi::VTYPE_TIMESTAMP, Argument { int64: 0 }),
            argued(
                ffi::VTYPE_HEADERS,
                Argument {
                    headers: null_mut(),
                },
            ),
        ])
    }

    /// Those of a row. The headers come last, for not every row has some.
    #[inline]
    fn with(
        &mut self,
        rows: &Rows<'_>,
        row: usize,
        partition: i32,
        headers: *mut Headers,
    ) -> &[Argued] {
        let [_, _, to, value, key, timestamp, last] = &mut self.0;
        to.argument.int32 = partition;
        value.argument.memory = rows.value.row(row);
        key.argument.memory = key_of(rows, row);
        timestamp.argument.int64 = rows.timestamp.map_or(0, |each| each[row]);
        last.argument.headers = headers;
        &self.0[..self.0.len() - usize::from(headers.is_null())]
    }
}

/// A row's headers as a list of librdkafka's; null for none.
unsafe fn headers_of(
    rows: &Rows<'_>,
    api: &Functions,
    row: usize,
) -> Result<*mut Headers, KafkaFailure> {
    let Some(columns) = &rows.headers else {
        return Ok(null_mut());
    };
    let range = columns.of(row);
    if range.is_empty() {
        return Ok(null_mut());
    }
    // SAFETY: the list is ours; names and values are copied into it.
    unsafe {
        let list = (api.headers_new)(range.len());
        for each in range {
            let (name, value) = (columns.names.row(each), columns.values.row(each));
            let start = if name.start.is_null() {
                empty()
            } else {
                name.start
            };
            let (name_size, size) = (name.size as isize, value.size as isize);
            let code = (api.header_add)(list, start.cast(), name_size, value.start, size);
            if let Err(failure) = KafkaFailure::of_code(api, code, "Unable to add message header") {
                (api.headers_destroy)(list);
                return Err(failure);
            }
        }
        Ok(list)
    }
}
