//! librdkafka's C interface: the part of it that is used here, bound by hand.
//!
//! Owns the layouts, constants and signatures, taken from the public header `rdkafka.h`.
//!
//! - Only what the header promises to keep is relied upon: public structs, and functions by name.
//! - Nothing is linked: the functions are found in a library that is opened at run time (`library`).

use std::ffi::{c_char, c_int, c_void};

use libloading::Library;

/// `rd_kafka_t` and the other types of which only pointers are known.
pub enum Client {}
pub enum Conf {}
pub enum Topic {}
pub enum Queue {}
pub enum Failure {}
pub enum Headers {}
pub enum GroupMetadata {}

pub type Code = c_int;

pub const NO_ERROR: Code = 0;
pub const ERR_INVALID_ARG: Code = -186;
pub const ERR_UNKNOWN_PARTITION: Code = -190;
pub const ERR_ASSIGN_PARTITIONS: Code = -175;
pub const ERR_FATAL: Code = -150;

pub const TYPE_PRODUCER: c_int = 0;
pub const TYPE_CONSUMER: c_int = 1;

pub const CONF_OK: c_int = 0;
pub const PARTITION_UA: i32 = -1;
pub const MSG_F_COPY: c_int = 0x2;
pub const PURGE_QUEUE_AND_FLIGHT: c_int = 0x1 | 0x2;
pub const DESTROY_NO_CONSUMER_CLOSE: c_int = 0x8;
pub const INFINITE: c_int = -1;

/// `rd_kafka_message_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Message {
    pub err: Code,
    pub topic: *mut Topic,
    pub partition: i32,
    pub payload: *mut c_void,
    pub len: usize,
    pub key: *mut c_void,
    pub key_len: usize,
    pub offset: i64,
    pub private: *mut c_void,
}

/// `rd_kafka_topic_partition_t`.
#[repr(C)]
pub struct Partition {
    pub topic: *mut c_char,
    pub partition: i32,
    pub offset: i64,
    pub metadata: *mut c_void,
    pub metadata_size: usize,
    pub opaque: *mut c_void,
    pub err: Code,
    pub private: *mut c_void,
}

/// `rd_kafka_topic_partition_list_t`.
#[repr(C)]
pub struct PartitionList {
    pub count: c_int,
    pub size: c_int,
    pub elements: *mut Partition,
}

/// `struct rd_kafka_metadata`, but for its end.
#[repr(C)]
pub struct Metadata {
    pub broker_count: c_int,
    brokers: *const c_void,
    topic_count: c_int,
    topics: *const MetadataTopic,
}

/// `struct rd_kafka_metadata_topic`, of which only the first of an answer is read.
#[repr(C)]
struct MetadataTopic {
    name: *const c_char,
    partition_count: c_int,
    partitions: *const c_void,
    err: Code,
}

impl Metadata {
    /// How many partitions the topic has that was asked about; none when it is not there.
    pub fn partitions_of_first(&self) -> i32 {
        if self.topic_count == 0 || self.topics.is_null() {
            return 0;
        }
        // SAFETY: librdkafka's answer has as many topics as it says.
        let first = unsafe { &*self.topics };
        if first.err == NO_ERROR {
            first.partition_count
        } else {
            0
        }
    }
}

pub const VTYPE_RKT: c_int = 2;
pub const VTYPE_PARTITION: c_int = 3;
pub const VTYPE_VALUE: c_int = 4;
pub const VTYPE_KEY: c_int = 5;
pub const VTYPE_MSGFLAGS: c_int = 7;
pub const VTYPE_TIMESTAMP: c_int = 8;
pub const VTYPE_HEADERS: c_int = 10;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Memory {
    pub start: *const c_void,
    pub size: usize,
}

/// The union in `rd_kafka_vu_t`, as large as the header says it will stay.
#[repr(C)]
#[derive(Clone, Copy)]
pub union Argument {
    pub topic: *mut Topic,
    pub int: c_int,
    pub int32: i32,
    pub int64: i64,
    pub memory: Memory,
    pub headers: *mut Headers,
    pub padding: [u8; 64],
}

/// `rd_kafka_vu_t`: one argument of `produceva`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Argued {
    pub kind: c_int,
    pub argument: Argument,
}

pub type OnRebalance = unsafe extern "C" fn(*mut Client, Code, *mut PartitionList, *mut c_void);
pub type OnError = unsafe extern "C" fn(*mut Client, c_int, *const c_char, *mut c_void);
pub type OnLine = unsafe extern "C" fn(*const Client, c_int, *const c_char, *const c_char);
pub type OnStatistics = unsafe extern "C" fn(*mut Client, *mut c_char, usize, *mut c_void) -> c_int;
pub type OnDelivery = unsafe extern "C" fn(*mut Client, *const Message, *mut c_void);
pub type OnCommit = unsafe extern "C" fn(*mut Client, Code, *mut PartitionList, *mut c_void);

/// A function by its name without `rd_kafka_`.
///
/// # Safety
/// `T` is the type that the public header gives to it.
unsafe fn found<T: Copy>(library: &Library, name: &str) -> Result<T, String> {
    let symbol = format!("rd_kafka_{}", name.trim_start_matches("r#"));
    // SAFETY: as the caller says.
    let function = unsafe { library.get::<T>(symbol.as_str()) };
    function
        .map(|each| *each)
        .map_err(|_| format!("has no {symbol}()"))
}

macro_rules! functions {
    ($(fn $name:ident($($kind:ty),*) $(-> $result:ty)?;)*) => {
        /// The functions, without the `rd_kafka_` of their names.
        pub struct Functions {
            $(pub $name: unsafe extern "C" fn($($kind),*) $(-> $result)?,)*
        }

        impl Functions {
            /// Finds all of them.
            ///
            /// # Safety
            /// The library is librdkafka, and stays open for as long as what is returned is used.
            pub unsafe fn of(library: &Library) -> Result<Self, String> {
                // SAFETY: the signatures are those of the public header.
                unsafe {
                    Ok(Self {
                        $($name: found(library, stringify!($name))?,)*
                    })
                }
            }
        }
    };
}

functions! {
    fn version() -> c_int;
    fn err2str(Code) -> *const c_char;
    fn fatal_error(*mut Client, *mut c_char, usize) -> Code;
    fn last_error() -> Code;
    fn error_code(*const Failure) -> Code;
    fn error_string(*const Failure) -> *const c_char;
    fn error_is_fatal(*const Failure) -> c_int;
    fn error_is_retriable(*const Failure) -> c_int;
    fn error_txn_requires_abort(*const Failure) -> c_int;
    fn error_destroy(*mut Failure);

    fn conf_new() -> *mut Conf;
    fn conf_destroy(*mut Conf);
    fn conf_set(*mut Conf, *const c_char, *const c_char, *mut c_char, usize) -> c_int;
    fn conf_set_opaque(*mut Conf, *mut c_void);
    fn conf_set_error_cb(*mut Conf, OnError);
    fn conf_set_log_cb(*mut Conf, OnLine);
    fn conf_set_stats_cb(*mut Conf, OnStatistics);
    fn conf_set_dr_msg_cb(*mut Conf, OnDelivery);
    fn conf_set_rebalance_cb(*mut Conf, OnRebalance);

    fn new(c_int, *mut Conf, *mut c_char, usize) -> *mut Client;
    fn destroy_flags(*mut Client, c_int);
    fn name(*const Client) -> *const c_char;
    fn opaque(*const Client) -> *mut c_void;
    fn mem_malloc(*mut Client, usize) -> *mut c_void;
    fn mem_free(*mut Client, *mut c_void);
    fn metadata(*mut Client, c_int, *mut Topic, *mut *const Metadata, c_int) -> Code;
    fn metadata_destroy(*const Metadata);
    fn topic_new(*mut Client, *const c_char, *mut c_void) -> *mut Topic;
    fn topic_destroy(*mut Topic);
    fn topic_name(*const Topic) -> *const c_char;

    fn topic_partition_list_new(c_int) -> *mut PartitionList;
    fn topic_partition_list_add(*mut PartitionList, *const c_char, i32) -> *mut Partition;
    fn topic_partition_list_destroy(*mut PartitionList);

    fn poll_set_consumer(*mut Client) -> Code;
    fn queue_get_consumer(*mut Client) -> *mut Queue;
    fn queue_destroy(*mut Queue);
    fn subscribe(*mut Client, *const PartitionList) -> Code;
    fn assign(*mut Client, *const PartitionList) -> Code;
    fn incremental_assign(*mut Client, *const PartitionList) -> *mut Failure;
    fn incremental_unassign(*mut Client, *const PartitionList) -> *mut Failure;
    fn assignment(*mut Client, *mut *mut PartitionList) -> Code;
    fn assignment_lost(*mut Client) -> c_int;
    fn pause_partitions(*mut Client, *mut PartitionList) -> Code;
    fn resume_partitions(*mut Client, *mut PartitionList) -> Code;
    fn seek(*mut Topic, i32, i64, c_int) -> Code;
    fn committed(*mut Client, *mut PartitionList, c_int) -> Code;
    fn commit_queue(*mut Client, *const PartitionList, *mut Queue, OnCommit, *mut c_void) -> Code;
    fn consumer_poll(*mut Client, c_int) -> *mut Message;
    fn consume_batch_queue(*mut Queue, c_int, *mut *mut Message, usize) -> isize;
    fn r#yield(*mut Client);
    fn consumer_close_queue(*mut Client, *mut Queue) -> *mut Failure;
    fn consumer_closed(*mut Client) -> c_int;
    fn consumer_group_metadata(*mut Client) -> *mut GroupMetadata;
    fn consumer_group_metadata_destroy(*mut GroupMetadata);
    fn consumer_group_metadata_write(*const GroupMetadata, *mut *mut c_void, *mut usize) -> *mut Failure;
    fn consumer_group_metadata_read(*mut *mut GroupMetadata, *const c_void, usize) -> *mut Failure;

    fn message_destroy(*mut Message);
    fn message_errstr(*const Message) -> *const c_char;
    fn message_timestamp(*const Message, *mut c_int) -> i64;
    fn message_headers(*const Message, *mut *mut Headers) -> Code;
    fn header_get_all(*const Headers, usize, *mut *const c_char, *mut *const c_void, *mut usize) -> Code;

    fn headers_new(usize) -> *mut Headers;
    fn headers_destroy(*mut Headers);
    fn header_add(*mut Headers, *const c_char, isize, *const c_void, isize) -> Code;
    fn produce_batch(*mut Topic, i32, c_int, *mut Message, c_int) -> c_int;
    fn produceva(*mut Client, *const Argued, usize) -> *mut Failure;
    fn poll(*mut Client, c_int) -> c_int;
    fn flush(*mut Client, c_int) -> Code;
    fn purge(*mut Client, c_int) -> Code;
    fn outq_len(*mut Client) -> c_int;
    fn init_transactions(*mut Client, c_int) -> *mut Failure;
    fn begin_transaction(*mut Client) -> *mut Failure;
    fn send_offsets_to_transaction(*mut Client, *const PartitionList, *const GroupMetadata, c_int) -> *mut Failure;
    fn commit_transaction(*mut Client, c_int) -> *mut Failure;
    fn abort_transaction(*mut Client, c_int) -> *mut Failure;
}
