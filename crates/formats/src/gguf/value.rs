//! Typed metadata values.

use super::Cursor;
use crate::FormatError;

/// Arrays may nest this deep; files in the wild do not nest at all.
const DEEPEST: usize = 4;

/// A metadata value in the type the file gives it.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the variants are the types they are named after")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(String),
    Array(Array),
}

/// An array of values of one type.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the variants are the types they are named after")]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bool(Vec<bool>),
    String(Vec<String>),
    Array(Vec<Array>),
}

impl Value {
    /// The text, if it is a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The number, if it is an integer of any type and not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U8(n) => Some(n.into()),
            Self::U16(n) => Some(n.into()),
            Self::U32(n) => Some(n.into()),
            Self::U64(n) => Some(n),
            Self::I8(n) => n.try_into().ok(),
            Self::I16(n) => n.try_into().ok(),
            Self::I32(n) => n.try_into().ok(),
            Self::I64(n) => n.try_into().ok(),
            _ => None,
        }
    }

    /// The numbers, if it is an array of integers of any type and none is negative; an integer alone counts as one, and
    /// truth values as 0 and 1.
    pub fn as_u64s(&self) -> Option<Vec<u64>> {
        fn each<T: Copy>(items: &[T]) -> Option<Vec<u64>>
        where
            u64: TryFrom<T>,
        {
            items.iter().map(|&item| u64::try_from(item).ok()).collect()
        }
        match self {
            Self::Array(Array::U8(items)) => each(items),
            Self::Array(Array::U16(items)) => each(items),
            Self::Array(Array::U32(items)) => each(items),
            Self::Array(Array::U64(items)) => each(items),
            Self::Array(Array::I8(items)) => each(items),
            Self::Array(Array::I16(items)) => each(items),
            Self::Array(Array::I32(items)) => each(items),
            Self::Array(Array::I64(items)) => each(items),
            Self::Array(Array::Bool(items)) => each(items),
            scalar => scalar.as_u64().map(|number| vec![number]),
        }
    }

    /// The number, if it is floating-point; an f64 is rounded.
    pub fn as_f32(&self) -> Option<f32> {
        match *self {
            Self::F32(x) => Some(x),
            Self::F64(x) => Some(x as f32),
            _ => None,
        }
    }

    /// The truth value, if it is a boolean.
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Self::Bool(b) => Some(b),
            _ => None,
        }
    }

    /// The value for a message; arrays by type and length.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Array(array) => array.describe(),
            scalar => format!("{scalar:?}"),
        }
    }

    pub(super) fn read(cursor: &mut Cursor<'_>, key: &str) -> Result<Self, FormatError> {
        Ok(match Kind::read(cursor, key)? {
            Kind::U8 => Self::U8(u8::from_le_bytes(cursor.array(key)?)),
            Kind::I8 => Self::I8(i8::from_le_bytes(cursor.array(key)?)),
            Kind::U16 => Self::U16(u16::from_le_bytes(cursor.array(key)?)),
            Kind::I16 => Self::I16(i16::from_le_bytes(cursor.array(key)?)),
            Kind::U32 => Self::U32(u32::from_le_bytes(cursor.array(key)?)),
            Kind::I32 => Self::I32(i32::from_le_bytes(cursor.array(key)?)),
            Kind::U64 => Self::U64(u64::from_le_bytes(cursor.array(key)?)),
            Kind::I64 => Self::I64(i64::from_le_bytes(cursor.array(key)?)),
            Kind::F32 => Self::F32(f32::from_le_bytes(cursor.array(key)?)),
            Kind::F64 => Self::F64(f64::from_le_bytes(cursor.array(key)?)),
            Kind::Bool => Self::Bool(boolean(cursor.array(key)?, key)?),
            Kind::String => Self::String(cursor.string(key)?.to_owned()),
            Kind::Array => Self::Array(Array::read(cursor, key, 1)?),
        })
    }
}

impl Array {
    /// Number of items.
    pub fn len(&self) -> usize {
        match self {
            Self::U8(items) => items.len(),
            Self::I8(items) => items.len(),
            Self::U16(items) => items.len(),
            Self::I16(items) => items.len(),
            Self::U32(items) => items.len(),
            Self::I32(items) => items.len(),
            Self::U64(items) => items.len(),
            Self::I64(items) => items.len(),
            Self::F32(items) => items.len(),
            Self::F64(items) => items.len(),
            Self::Bool(items) => items.len(),
            Self::String(items) => items.len(),
            Self::Array(items) => items.len(),
        }
    }

    /// Whether there is no item.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn describe(&self) -> String {
        let kind = match self {
            Self::U8(_) => "u8",
            Self::I8(_) => "i8",
            Self::U16(_) => "u16",
            Self::I16(_) => "i16",
            Self::U32(_) => "u32",
            Self::I32(_) => "i32",
            Self::U64(_) => "u64",
            Self::I64(_) => "i64",
            Self::F32(_) => "f32",
            Self::F64(_) => "f64",
            Self::Bool(_) => "bool",
            Self::String(_) => "string",
            Self::Array(_) => "array",
        };
        format!("an array of {} {kind}", self.len())
    }

    fn read(cursor: &mut Cursor<'_>, key: &str, depth: usize) -> Result<Self, FormatError> {
        let kind = Kind::read(cursor, key)?;
        let count = cursor.count(format_args!("length of {key}"), kind.smallest())?;
        Ok(match kind {
            Kind::U8 => Self::U8(cursor.take(count, key)?.to_vec()),
            Kind::I8 => Self::I8(numbers(cursor, key, count, i8::from_le_bytes)?),
            Kind::U16 => Self::U16(numbers(cursor, key, count, u16::from_le_bytes)?),
            Kind::I16 => Self::I16(numbers(cursor, key, count, i16::from_le_bytes)?),
            Kind::U32 => Self::U32(numbers(cursor, key, count, u32::from_le_bytes)?),
            Kind::I32 => Self::I32(numbers(cursor, key, count, i32::from_le_bytes)?),
            Kind::U64 => Self::U64(numbers(cursor, key, count, u64::from_le_bytes)?),
            Kind::I64 => Self::I64(numbers(cursor, key, count, i64::from_le_bytes)?),
            Kind::F32 => Self::F32(numbers(cursor, key, count, f32::from_le_bytes)?),
            Kind::F64 => Self::F64(numbers(cursor, key, count, f64::from_le_bytes)?),
            Kind::Bool => Self::Bool(items(count, || boolean(cursor.array(key)?, key))?),
            Kind::String => Self::String(items(count, || Ok(cursor.string(key)?.to_owned()))?),
            Kind::Array if depth == DEEPEST => {
                let allowed = format!("arrays nested at most {DEEPEST} deep");
                return Err(FormatError::malformed(key, allowed, "deeper"));
            }
            Kind::Array => Self::Array(items(count, || Self::read(cursor, key, depth + 1))?),
        })
    }
}

/// `count` items; the caller has checked that the file can hold them.
fn items<T>(count: usize, mut next: impl FnMut() -> Result<T, FormatError>) -> Result<Vec<T>, FormatError> {
    let mut all = Vec::with_capacity(count);
    for _ in 0..count {
        all.push(next()?);
    }
    Ok(all)
}

fn numbers<T, const N: usize>(
    cursor: &mut Cursor<'_>,
    key: &str,
    count: usize,
    decode: fn([u8; N]) -> T,
) -> Result<Vec<T>, FormatError> {
    items(count, || Ok(decode(cursor.array(key)?)))
}

fn boolean([byte]: [u8; 1], key: &str) -> Result<bool, FormatError> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(FormatError::malformed(key, "a boolean (0 or 1)", other)),
    }
}

/// Value types in the order of their codes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl Kind {
    const BY_CODE: [Kind; 13] = [
        Kind::U8,
        Kind::I8,
        Kind::U16,
        Kind::I16,
        Kind::U32,
        Kind::I32,
        Kind::F32,
        Kind::Bool,
        Kind::String,
        Kind::Array,
        Kind::U64,
        Kind::I64,
        Kind::F64,
    ];

    fn read(cursor: &mut Cursor<'_>, key: &str) -> Result<Self, FormatError> {
        let code = cursor.u32(format_args!("value type of {key}"))?;
        let kind = usize::try_from(code).ok().and_then(|code| Self::BY_CODE.get(code));
        kind.copied()
            .ok_or_else(|| FormatError::malformed(format_args!("value type of {key}"), "0 to 12", code))
    }

    /// Its code in a file, by which [`Self::BY_CODE`] has it.
    pub(super) fn code(self) -> u32 {
        self as u32
    }

    /// Fewest bytes a value takes in a file.
    fn smallest(self) -> usize {
        match self {
            Kind::U8 | Kind::I8 | Kind::Bool => 1,
            Kind::U16 | Kind::I16 => 2,
            Kind::U32 | Kind::I32 | Kind::F32 => 4,
            Kind::U64 | Kind::I64 | Kind::F64 | Kind::String => 8,
            Kind::Array => 12,
        }
    }
}
