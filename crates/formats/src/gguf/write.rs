//! The header of a file to be written: metadata and tensor table in the order they are given, and where each tensor goes.

use std::ops::Range;

use super::value::Kind;
use super::{Array, DEFAULT_ALIGNMENT, Value, types};
use crate::{DType, FormatError};

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTensor {
    /// Unique in the file.
    pub name: String,
    /// One of [`super::tensor_types`].
    pub dtype: DType,
    /// Dimensions, outermost first; quantized blocks run along the last.
    pub shape: Vec<usize>,
}

/// The start of a file, and where its tensors go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Everything before the first tensor's data, padding included.
    pub bytes: Vec<u8>,
    /// Bytes of each tensor within the whole file, in the order they were given. Between them are zeros.
    pub places: Vec<Range<usize>>,
}

impl Header {
    /// Lays a file of version 3 out, with tensor data at multiples of 32 bytes.
    ///
    /// # Errors
    /// [`FormatError::Unsupported`] for a type that GGUF has no code for, [`FormatError::Malformed`] for a tensor whose rows are no
    /// whole number of blocks.
    pub fn new(metadata: &[(String, Value)], tensors: &[NewTensor]) -> Result<Self, FormatError> {
        let mut bytes = [b"GGUF".as_slice(), &3u32.to_le_bytes()].concat();
        bytes.extend((tensors.len() as u64).to_le_bytes());
        bytes.extend((metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata {
            write_string(key, &mut bytes);
            bytes.extend(kind(value).code().to_le_bytes());
            write_value(value, &mut bytes);
        }
        let (mut offset, mut places) = (0, Vec::with_capacity(tensors.len()));
        for tensor in tensors {
            let size = write_entry(tensor, offset, &mut bytes)?;
            places.push(offset..offset + size);
            offset = (offset + size).next_multiple_of(DEFAULT_ALIGNMENT);
        }
        bytes.resize(bytes.len().next_multiple_of(DEFAULT_ALIGNMENT), 0);
        let start = bytes.len();
        let places = places.into_iter().map(|place| place.start + start..place.end + start);
        Ok(Self {
            places: places.collect(),
            bytes,
        })
    }
}

/// Appends an entry of the table; gives the tensor's size in bytes.
fn write_entry(tensor: &NewTensor, offset: usize, to: &mut Vec<u8>) -> Result<usize, FormatError> {
    let NewTensor { name, dtype, shape } = tensor;
    let what = format_args!("tensor {name}");
    let Some(size) = dtype.tensor_bytes(shape) else {
        let expected = format_args!("rows of whole blocks of {} elements", dtype.block().0);
        return Err(FormatError::malformed(what, expected, format_args!("{shape:?}")));
    };
    let code = types::code(*dtype, name)?;
    write_string(name, to);
    to.extend((shape.len() as u32).to_le_bytes());
    // Innermost first.
    shape
        .iter()
        .rev()
        .for_each(|&size| to.extend((size as u64).to_le_bytes()));
    to.extend(code.to_le_bytes());
    to.extend((offset as u64).to_le_bytes());
    Ok(size)
}

fn write_string(text: &str, to: &mut Vec<u8>) {
    to.extend((text.len() as u64).to_le_bytes());
    to.extend(text.as_bytes());
}

fn kind(value: &Value) -> Kind {
    match value {
        Value::U8(_) => Kind::U8,
        Value::I8(_) => Kind::I8,
        Value::U16(_) => Kind::U16,
        Value::I16(_) => Kind::I16,
        Value::U32(_) => Kind::U32,
        Value::I32(_) => Kind::I32,
        Value::F32(_) => Kind::F32,
        Value::Bool(_) => Kind::Bool,
        Value::String(_) => Kind::String,
        Value::Array(_) => Kind::Array,
        Value::U64(_) => Kind::U64,
        Value::I64(_) => Kind::I64,
        Value::F64(_) => Kind::F64,
    }
}

fn write_value(value: &Value, to: &mut Vec<u8>) {
    match value {
        Value::U8(n) => to.push(*n),
        Value::I8(n) => to.extend(n.to_le_bytes()),
        Value::U16(n) => to.extend(n.to_le_bytes()),
        Value::I16(n) => to.extend(n.to_le_bytes()),
        Value::U32(n) => to.extend(n.to_le_bytes()),
        Value::I32(n) => to.extend(n.to_le_bytes()),
        Value::U64(n) => to.extend(n.to_le_bytes()),
        Value::I64(n) => to.extend(n.to_le_bytes()),
        Value::F32(x) => to.extend(x.to_le_bytes()),
        Value::F64(x) => to.extend(x.to_le_bytes()),
        Value::Bool(yes) => to.push(u8::from(*yes)),
        Value::String(text) => write_string(text, to),
        Value::Array(array) => write_array(array, to),
    }
}

fn write_array(array: &Array, to: &mut Vec<u8>) {
    to.extend(item_kind(array).code().to_le_bytes());
    to.extend((array.len() as u64).to_le_bytes());
    match array {
        Array::U8(items) => to.extend(items),
        Array::I8(items) => numbers(items, i8::to_le_bytes, to),
        Array::U16(items) => numbers(items, u16::to_le_bytes, to),
        Array::I16(items) => numbers(items, i16::to_le_bytes, to),
        Array::U32(items) => numbers(items, u32::to_le_bytes, to),
        Array::I32(items) => numbers(items, i32::to_le_bytes, to),
        Array::U64(items) => numbers(items, u64::to_le_bytes, to),
        Array::I64(items) => numbers(items, i64::to_le_bytes, to),
        Array::F32(items) => numbers(items, f32::to_le_bytes, to),
        Array::F64(items) => numbers(items, f64::to_le_bytes, to),
        Array::Bool(items) => to.extend(items.iter().map(|&yes| u8::from(yes))),
        Array::String(items) => items.iter().for_each(|text| write_string(text, to)),
        Array::Array(items) => items.iter().for_each(|items| write_array(items, to)),
    }
}

/// The type of the items.
fn item_kind(array: &Array) -> Kind {
    match array {
        Array::U8(_) => Kind::U8,
        Array::I8(_) => Kind::I8,
        Array::U16(_) => Kind::U16,
        Array::I16(_) => Kind::I16,
        Array::U32(_) => Kind::U32,
        Array::I32(_) => Kind::I32,
        Array::F32(_) => Kind::F32,
        Array::Bool(_) => Kind::Bool,
        Array::String(_) => Kind::String,
        Array::Array(_) => Kind::Array,
        Array::U64(_) => Kind::U64,
        Array::I64(_) => Kind::I64,
        Array::F64(_) => Kind::F64,
    }
}

fn numbers<T: Copy, const N: usize>(items: &[T], encode: fn(T) -> [u8; N], to: &mut Vec<u8>) {
    items.iter().for_each(|item| to.extend(encode(*item)));
}
