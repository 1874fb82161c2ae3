//! GGUF files, versions 2 and 3, little endian: metadata and tensor table, as llama.cpp reads them.
//! A model may come in parts ([`Part`]), each a file of its own.
//! Layout: magic, version, counts | metadata pairs | tensor table | padding | tensor data at offsets from there.

mod cursor;
mod split;
mod table;
#[cfg(test)]
mod tests;
mod types;
mod value;
mod write;

use std::collections::BTreeMap;

use cursor::Cursor;
pub use split::Part;
pub use types::{refused_tensor_types, tensor_types};
pub use value::{Array, Value};
pub use write::{Header, NewTensor};

use crate::{FormatError, TensorInfo};

/// Alignment of the tensor data unless `general.alignment` says otherwise, in bytes.
const DEFAULT_ALIGNMENT: usize = 32;
/// Fewest bytes a metadata pair takes: key length, value type, one byte of value.
const SMALLEST_PAIR: usize = 8 + 4 + 1;

/// The header of a GGUF file.
#[derive(Debug, Clone, PartialEq)]
pub struct Gguf {
    /// 2 or 3.
    pub version: u32,
    /// Alignment of the tensor data, in bytes.
    pub alignment: usize,
    metadata: BTreeMap<String, Value>,
    tensors: BTreeMap<String, TensorInfo>,
}

impl Gguf {
    /// Reads the header of the file `bytes` (the whole file, e.g. mapped) and checks that every tensor lies within it.
    ///
    /// # Errors
    /// [`FormatError::Malformed`] for contradictions, truncation, duplicate names and overlapping tensors;
    /// [`FormatError::Unsupported`] for other versions, big-endian files and tensor types this build does not read.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        Self::parse_start(bytes, bytes.len())
    }

    /// [`Self::parse`] from the start of a file of `file_len` bytes, for one that is neither mapped nor read whole. A
    /// start that is too short for the header looks like a truncated file.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_start(start: &[u8], file_len: usize) -> Result<Self, FormatError> {
        let mut cursor = Cursor::new(start, file_len);
        let magic = cursor.take(4, "magic")?;
        if magic != b"GGUF" {
            return Err(FormatError::malformed("magic", "GGUF", magic.escape_ascii()));
        }
        let version = checked_version(cursor.u32("version")?)?;
        let tensor_count = cursor.count("tensor count", table::SMALLEST_ENTRY)?;
        let pair_count = cursor.count("metadata count", SMALLEST_PAIR)?;
        let metadata = read_metadata(&mut cursor, pair_count)?;
        let alignment = alignment(&metadata)?;
        let tensors = table::read(&mut cursor, tensor_count, alignment)?;
        Ok(Self {
            version,
            alignment,
            metadata,
            tensors,
        })
    }

    /// Every metadata value by key.
    pub fn metadata(&self) -> &BTreeMap<String, Value> {
        &self.metadata
    }

    /// Every tensor by name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    /// The tensor `name`.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// The metadata value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// The string at `key`; `None` if the key is absent.
    ///
    /// # Errors
    /// [`FormatError::Malformed`] if the value has another type. So for every accessor below.
    pub fn get_str(&self, key: &str) -> Result<Option<&str>, FormatError> {
        self.typed(key, "a string", Value::as_str)
    }

    /// The integer at `key`, stored in any integer type and not negative.
    ///
    /// # Errors
    /// As [`Self::get_str`].
    pub fn get_u64(&self, key: &str) -> Result<Option<u64>, FormatError> {
        self.typed(key, "a non-negative integer", Value::as_u64)
    }

    /// [`Self::get_u64`] as a size of this machine.
    ///
    /// # Errors
    /// As [`Self::get_str`].
    pub fn get_usize(&self, key: &str) -> Result<Option<usize>, FormatError> {
        self.typed(key, "a size", |value| usize::try_from(value.as_u64()?).ok())
    }

    /// The floating-point number at `key`.
    ///
    /// # Errors
    /// As [`Self::get_str`].
    pub fn get_f32(&self, key: &str) -> Result<Option<f32>, FormatError> {
        self.typed(key, "a floating-point number", Value::as_f32)
    }

    /// The boolean at `key`.
    ///
    /// # Errors
    /// As [`Self::get_str`].
    pub fn get_bool(&self, key: &str) -> Result<Option<bool>, FormatError> {
        self.typed(key, "a boolean", Value::as_bool)
    }

    /// The array of strings at `key`.
    ///
    /// # Errors
    /// As [`Self::get_str`].
    pub fn get_strings(&self, key: &str) -> Result<Option<&[String]>, FormatError> {
        self.typed(key, "an array of strings", |value| match value {
            Value::Array(Array::String(items)) => Some(items.as_slice()),
            _ => None,
        })
    }

    /// The array of f32 at `key`.
    ///
    /// # Errors
    /// As [`Self::get_str`].
    pub fn get_f32s(&self, key: &str) -> Result<Option<&[f32]>, FormatError> {
        self.typed(key, "an array of f32", |value| match value {
            Value::Array(Array::F32(items)) => Some(items.as_slice()),
            _ => None,
        })
    }

    /// The array of i32 at `key`.
    ///
    /// # Errors
    /// As [`Self::get_str`].
    pub fn get_i32s(&self, key: &str) -> Result<Option<&[i32]>, FormatError> {
        self.typed(key, "an array of i32", |value| match value {
            Value::Array(Array::I32(items)) => Some(items.as_slice()),
            _ => None,
        })
    }

    /// The non-negative integers at `key`: an array, or one of them alone.
    ///
    /// # Errors
    /// As [`Self::get_str`].
    pub fn get_u64s(&self, key: &str) -> Result<Option<Vec<u64>>, FormatError> {
        self.typed(key, "non-negative integers", Value::as_u64s)
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        view: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, FormatError> {
        let Some(value) = self.metadata.get(key) else {
            return Ok(None);
        };
        match view(value) {
            Some(typed) => Ok(Some(typed)),
            None => Err(FormatError::malformed(key, expected, value.describe())),
        }
    }
}

/// Turns an absent metadata value into an error that names its key: `required("llama.block_count", gguf.get_usize(..)?)`.
///
/// # Errors
/// [`FormatError::Malformed`] if `value` is `None`.
pub fn required<T>(key: &str, value: Option<T>) -> Result<T, FormatError> {
    value.ok_or_else(|| FormatError::malformed(key, "a value", "no such key"))
}

fn checked_version(version: u32) -> Result<u32, FormatError> {
    match version {
        2 | 3 => Ok(version),
        _ if (1..=3).contains(&version.swap_bytes()) => Err(FormatError::unsupported(
            "byte order",
            "big endian",
            "little endian; convert the file with gguf-convert-endian",
        )),
        _ => Err(FormatError::unsupported("version", version, "2, 3")),
    }
}

fn read_metadata(cursor: &mut Cursor<'_>, count: usize) -> Result<BTreeMap<String, Value>, FormatError> {
    let mut metadata = BTreeMap::new();
    for index in 0..count {
        let key = cursor.string(format_args!("key of metadata pair {index}"))?;
        if metadata.contains_key(key) {
            return Err(FormatError::malformed(
                format_args!("metadata key {key}"),
                "once",
                "twice",
            ));
        }
        let value = Value::read(cursor, key)?;
        metadata.insert(key.to_owned(), value);
    }
    Ok(metadata)
}

fn alignment(metadata: &BTreeMap<String, Value>) -> Result<usize, FormatError> {
    let key = "general.alignment";
    let Some(value) = metadata.get(key) else {
        return Ok(DEFAULT_ALIGNMENT);
    };
    match value {
        Value::U32(n) if n.is_power_of_two() => Ok(*n as usize),
        Value::U32(n) => Err(FormatError::malformed(key, "a power of two", n)),
        other => Err(FormatError::malformed(key, "a u32", other.describe())),
    }
}
