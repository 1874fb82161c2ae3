//! safetensors files: a length, a JSON header, the tensors' bytes back to back.
//! Stricter than it must be: no gaps, no trailing bytes, no unknown fields, and only the element types that are served.

#[cfg(test)]
mod tests;
pub mod write;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::io::Read;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Error as _, MapAccess, Visitor};

use crate::{DType, FormatError, TensorInfo};

/// Bytes of the header's length in front of it.
const PREFIX: u64 = 8;
/// Longest header the format's own reader accepts, in bytes.
const LONGEST_HEADER: u64 = 100_000_000;
/// Most dimensions of a tensor.
const MOST_DIMENSIONS: usize = 8;

/// Element types as headers spell them.
type ElementTypes = &'static [(&'static str, DType)];
const FLOATS: ElementTypes = &[("F32", DType::F32), ("F16", DType::F16), ("BF16", DType::BF16)];
const INTEGERS: ElementTypes = &[
    ("I32", DType::I32),
    ("I64", DType::I64),
    ("U8", DType::U8),
    ("I8", DType::I8),
    // A byte too; only masks that nobody reads have it.
    ("BOOL", DType::U8),
];

/// The header of a safetensors file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SafeTensors {
    metadata: BTreeMap<String, String>,
    tensors: BTreeMap<String, TensorInfo>,
}

impl SafeTensors {
    /// Reads the header of the whole file `bytes`.
    ///
    /// # Errors
    /// As [`Self::read_header`].
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        Self::read_header(bytes, bytes.len() as u64)
    }

    /// Reads the header of the whole file `bytes`, which may hold integers beside floats, as checkpoints do.
    ///
    /// # Errors
    /// As [`Self::read_header`].
    pub fn parse_with_integers(bytes: &[u8]) -> Result<Self, FormatError> {
        Self::read(bytes, bytes.len() as u64, &[FLOATS, INTEGERS])
    }

    /// Reads the header from the start of `file`, which is `file_len` bytes long, and nothing behind it. The places of the
    /// tensors are within the whole file and fill it.
    ///
    /// # Errors
    /// [`FormatError::Malformed`] for a file that is truncated, too long or contradicts itself, with the tensor's name;
    /// [`FormatError::Unsupported`] for an element type that is not read; [`FormatError::Io`] if reading fails.
    pub fn read_header(file: impl Read, file_len: u64) -> Result<Self, FormatError> {
        Self::read(file, file_len, &[FLOATS])
    }

    fn read(mut file: impl Read, file_len: u64, types: &[ElementTypes]) -> Result<Self, FormatError> {
        let mut prefix = [0; PREFIX as usize];
        if file_len < PREFIX {
            return Err(truncated("the 8 bytes of the header's length", file_len));
        }
        file.read_exact(&mut prefix)?;
        let header_len = u64::from_le_bytes(prefix);
        if header_len > LONGEST_HEADER {
            let expected = format!("at most {LONGEST_HEADER} bytes");
            return Err(FormatError::malformed("header length", expected, header_len));
        }
        if header_len > file_len - PREFIX {
            return Err(truncated(format_args!("a header of {header_len} bytes"), file_len));
        }
        // Bounded by the file's length, just above.
        let mut json = vec![0; header_len as usize];
        file.read_exact(&mut json)?;
        let header: Header<'_> = serde_json::from_slice(&json)
            .map_err(|error| FormatError::malformed("safetensors header", "a JSON object of tensors", error))?;
        Self::checked(header, types, PREFIX + header_len..file_len)
    }

    /// The file's own notes (`__metadata__`).
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Every tensor by name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    fn checked(header: Header<'_>, types: &[ElementTypes], data: Range<u64>) -> Result<Self, FormatError> {
        let mut tensors = BTreeMap::new();
        for (name, entry) in header.tensors {
            let info = entry.checked(&name, types, &data)?;
            match tensors.entry(name) {
                Slot::Vacant(slot) => slot.insert(info),
                Slot::Occupied(slot) => {
                    let what = format!("tensor {}", slot.key());
                    return Err(FormatError::malformed(what, "once", "twice"));
                }
            };
        }
        refuse_gaps(&tensors, data.start, data.end)?;
        Ok(Self {
            metadata: header.metadata,
            tensors,
        })
    }
}

fn truncated(expected: impl std::fmt::Display, file_len: u64) -> FormatError {
    FormatError::malformed(
        "safetensors file",
        expected,
        format_args!("{file_len} bytes (truncated file)"),
    )
}

/// The data of the tensors must follow one another and end with the file.
fn refuse_gaps(tensors: &BTreeMap<String, TensorInfo>, data_start: u64, file_len: u64) -> Result<(), FormatError> {
    let mut places: Vec<_> = tensors.iter().map(|(name, info)| (&info.range, name)).collect();
    places.sort_unstable_by_key(|(range, _)| (range.start, range.end));
    let mut end = data_start;
    for (range, name) in places {
        if range.start as u64 != end {
            return Err(FormatError::malformed(
                format_args!("tensor {name}"),
                format_args!("data at offset {} (no gap, no overlap)", end - data_start),
                range.start as u64 - data_start,
            ));
        }
        end = range.end as u64;
    }
    if end != file_len {
        let got = format!("{file_len} bytes (trailing bytes)");
        return Err(FormatError::malformed(
            "safetensors file",
            format_args!("{end} bytes"),
            got,
        ));
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry<'a> {
    #[serde(borrow)]
    dtype: Cow<'a, str>,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

impl Entry<'_> {
    /// The tensor's place in the file, whose data lie at `data`.
    fn checked(self, name: &str, types: &[ElementTypes], data: &Range<u64>) -> Result<TensorInfo, FormatError> {
        let what = format_args!("tensor {name}");
        let dtype = self.dtype(name, types)?;
        let (data_start, file_len) = (data.start, data.end);
        let bytes = self.size(name, dtype)?;
        let (shape, [begin, end]) = (self.shape, self.data_offsets);
        if end.checked_sub(begin) != Some(bytes as u64) {
            let expected = format!("{bytes} bytes for {dtype} {shape:?}");
            let got = format!("offsets {begin} to {end}");
            return Err(FormatError::malformed(what, expected, got));
        }
        match data_start.checked_add(begin).zip(data_start.checked_add(end)) {
            Some((start, end)) if end <= file_len => Ok(TensorInfo {
                dtype,
                shape,
                range: start as usize..end as usize,
            }),
            _ => Err(FormatError::malformed(
                what,
                format_args!("data up to offset {end}, {data_start} bytes into the file"),
                format_args!("a file of {file_len} bytes (truncated file)"),
            )),
        }
    }

    fn dtype(&self, name: &str, types: &[ElementTypes]) -> Result<DType, FormatError> {
        let mut known = types.iter().copied().flatten();
        match known.find(|(spelling, _)| *spelling == self.dtype) {
            Some((_, dtype)) => Ok(*dtype),
            None => {
                let supported: Vec<_> = types.iter().copied().flatten().map(|(spelling, _)| *spelling).collect();
                let (what, got) = (format!("tensor {name}"), format!("type {}", self.dtype));
                Err(FormatError::unsupported(what, got, supported.join(", ")))
            }
        }
    }

    /// The bytes that the shape takes.
    fn size(&self, name: &str, dtype: DType) -> Result<usize, FormatError> {
        let what = format_args!("tensor {name}");
        if self.shape.len() > MOST_DIMENSIONS {
            let expected = format!("at most {MOST_DIMENSIONS} dimensions");
            return Err(FormatError::malformed(what, expected, self.shape.len()));
        }
        match dtype.tensor_bytes(&self.shape) {
            Some(bytes) => Ok(bytes),
            None => {
                let got = format!("shape {:?}", self.shape);
                Err(FormatError::malformed(what, "a size below 2^63", got))
            }
        }
    }
}

/// Entries in the order of the file.
struct Header<'a> {
    metadata: BTreeMap<String, String>,
    tensors: Vec<(String, Entry<'a>)>,
}

impl<'de> Deserialize<'de> for Header<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header<'de>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header<'de>, A::Error> {
        let mut metadata = None;
        let mut tensors = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name != "__metadata__" {
                let entry = map.next_value();
                let entry = entry.map_err(|error| A::Error::custom(format_args!("tensor {name}: {error}")))?;
                tensors.push((name, entry));
            } else if metadata.replace(map.next_value()?).is_some() {
                return Err(A::Error::custom("__metadata__ twice"));
            }
        }
        Ok(Header {
            metadata: metadata.unwrap_or_default(),
            tensors,
        })
    }
}
