//! The structs of the Arrow C data and stream interfaces, and taking them over from a capsule.
//!
//! Owns `Table`: the fields and batches of a stream, released when it is dropped.
//!
//! - Each struct is taken out of its capsule and released exactly once.

use std::ffi::{CStr, c_char, c_int, c_void};

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

use super::Unreadable;
use super::array::Array;
use super::field::Field;

/// `struct ArrowSchema` of the specification.
#[repr(C)]
pub struct CSchema {
    pub format: *const c_char,
    pub name: *const c_char,
    pub metadata: *const c_char,
    pub flags: i64,
    pub n_children: i64,
    pub children: *mut *mut CSchema,
    pub dictionary: *mut CSchema,
    pub release: Option<unsafe extern "C" fn(*mut CSchema)>,
    pub private_data: *mut c_void,
}

/// `struct ArrowArray` of the specification.
#[repr(C)]
pub struct CArray {
    pub length: i64,
    pub null_count: i64,
    pub offset: i64,
    pub n_buffers: i64,
    pub n_children: i64,
    pub buffers: *mut *const c_void,
    pub children: *mut *mut CArray,
    pub dictionary: *mut CArray,
    pub release: Option<unsafe extern "C" fn(*mut CArray)>,
    pub private_data: *mut c_void,
}

/// `struct ArrowArrayStream` of the specification.
#[repr(C)]
struct CStream {
    get_schema: Option<unsafe extern "C" fn(*mut CStream, *mut CSchema) -> c_int>,
    get_next: Option<unsafe extern "C" fn(*mut CStream, *mut CArray) -> c_int>,
    get_last_error: Option<unsafe extern "C" fn(*mut CStream) -> *const c_char>,
    release: Option<unsafe extern "C" fn(*mut CStream)>,
    private_data: *mut c_void,
}

/// A struct of the interface that is owned here: released when dropped, unless it was released before.
trait Released: Sized {
    /// # Safety
    /// Called once, with the struct as its producer made it.
    unsafe fn release(&mut self);
}

macro_rules! released {
    ($($name:ty),*) => {
        $(
            impl Released for $name {
                unsafe fn release(&mut self) {
                    if let Some(release) = self.release {
                        // SAFETY: the producer's own callback, not yet called: it would have cleared itself.
                        unsafe { release(self) }
                    }
                }
            }
        )*
    };
}
released!(CSchema, CArray, CStream);

struct Owned<T: Released>(Box<T>);

impl<T: Released> Owned<T> {
    /// A struct for a producer to fill; released by nature until then.
    fn empty() -> Self {
        // SAFETY: all fields are integers, raw pointers and optional functions, for which zeros are values.
        Self(Box::new(unsafe { std::mem::zeroed() }))
    }
}

impl<T: Released> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: dropped once, and the callback clears itself.
        unsafe { self.0.release() }
    }
}

// SAFETY: the structs are immutable once filled, and the specification lets them be released on any thread.
unsafe impl<T: Released> Send for Owned<T> {}
// SAFETY: as above; nothing is changed through a shared reference.
unsafe impl<T: Released> Sync for Owned<T> {}

/// Columns by name in batches of rows.
pub struct Table {
    fields: Vec<Field>,
    batches: Vec<Owned<CArray>>,
}

impl Table {
    /// Takes the columns of an object with `__arrow_c_stream__`. Raises what that raises, `ValueError` for a stream that
    /// is none of rows, `RuntimeError` for one that breaks.
    pub fn read(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let python = object.py();
        let capsule = object.call_method0(intern!(python, "__arrow_c_stream__"))?;
        let capsule = capsule.cast_into::<PyCapsule>()?;
        let mut stream = take_stream(&capsule)?;
        python.detach(|| read_all(&mut stream))
    }

    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// The columns of each batch, with its number of rows. A column that cannot be read is `Unreadable`.
    pub fn batches(&self) -> impl Iterator<Item = (usize, Vec<Result<Array<'_>, Unreadable>>)> {
        self.batches.iter().map(|batch| {
            let raw: &CArray = &batch.0;
            let rows = usize::try_from(raw.length).unwrap_or(0);
            let start = usize::try_from(raw.offset).unwrap_or(0);
            let column = |(index, field)| {
                Array::child_of(raw, index, field).and_then(|child| child.part(start, rows))
            };
            (rows, self.fields.iter().enumerate().map(column).collect())
        })
    }
}

fn take_stream(capsule: &Bound<'_, PyCapsule>) -> PyResult<Owned<CStream>> {
    let inside = capsule
        .pointer_checked(Some(c"arrow_array_stream"))?
        .cast::<CStream>();
    let mut stream = Owned::empty();
    // SAFETY: a capsule of this name holds this struct; what is left behind is marked released, as consumers must do.
    unsafe {
        std::ptr::swap(inside.as_ptr(), &raw mut *stream.0);
    }
    if stream.0.release.is_none() {
        return Err(PyValueError::new_err(
            "the stream of columns was read before",
        ));
    }
    Ok(stream)
}

fn read_all(stream: &mut Owned<CStream>) -> PyResult<Table> {
    let raw: *mut CStream = &raw mut *stream.0;
    let (Some(get_schema), Some(get_next)) = (stream.0.get_schema, stream.0.get_next) else {
        return Err(PyValueError::new_err(
            "a stream of columns without its functions",
        ));
    };
    let mut schema = Owned::<CSchema>::empty();
    // SAFETY: the producer's functions on its own stream, with structs to fill, one call at a time.
    let code = unsafe { get_schema(raw, &raw mut *schema.0) };
    check(code, stream)?;
    let fields = fields_of(&schema.0)?;
    let mut batches = Vec::new();
    loop {
        let mut batch = Owned::<CArray>::empty();
        // SAFETY: as above.
        let code = unsafe { get_next(raw, &raw mut *batch.0) };
        check(code, stream)?;
        if batch.0.release.is_none() {
            return Ok(Table { fields, batches });
        }
        if usize::try_from(batch.0.n_children) != Ok(fields.len()) || batch.0.length < 0 {
            return Err(PyValueError::new_err(
                "a batch of other columns than its stream says",
            ));
        }
        batches.push(batch);
    }
}

fn check(code: c_int, stream: &mut Owned<CStream>) -> PyResult<()> {
    if code == 0 {
        return Ok(());
    }
    let raw: *mut CStream = &raw mut *stream.0;
    // SAFETY: the text, if any, lives until the next call on the stream, and is copied before.
    let text = stream
        .0
        .get_last_error
        .map(|last_error| unsafe { last_error(raw) });
    let text = text
        .filter(|text| !text.is_null())
        .map_or_else(String::new, |text| {
            // SAFETY: a C text, as the specification has it.
            unsafe { CStr::from_ptr(text) }
                .to_string_lossy()
                .into_owned()
        });
    Err(PyRuntimeError::new_err(format!(
        "a stream of columns broke with error {code}: {text}"
    )))
}

fn fields_of(schema: &CSchema) -> PyResult<Vec<Field>> {
    match Field::of(schema) {
        Ok(Field {
            data_type: super::Type::Struct,
            children,
            ..
        }) => Ok(children),
        _ => Err(PyValueError::new_err("a stream that is none of rows")),
    }
}
