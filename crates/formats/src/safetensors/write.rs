//! The beginning of a safetensors file that is written: what follows it are the tensors' bytes in the order they are named in.

use serde_json::{Map, Value, json};

use super::PREFIX;

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its element type as headers spell it, e.g. `BF16`.
    pub dtype: &'static str,
    /// Elements by dimension, the slowest first.
    pub shape: Vec<usize>,
    /// Bytes that it takes.
    pub bytes: usize,
}

/// What stands before the tensors' bytes: the header's length and the header, filled up to a multiple of 8 bytes.
pub fn header(entries: &[Entry], metadata: &[(&str, &str)]) -> Vec<u8> {
    let metadata: Map<String, Value> = metadata
        .iter()
        .map(|&(key, value)| (key.to_owned(), value.into()))
        .collect();
    let mut header = Map::from_iter([("__metadata__".to_owned(), Value::Object(metadata))]);
    let mut start = 0;
    for entry in entries {
        let end = start + entry.bytes;
        let info = json!({"dtype": entry.dtype, "shape": entry.shape, "data_offsets": [start, end]});
        header.insert(entry.name.clone(), info);
        start = end;
    }
    let mut text = Value::Object(header).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(PREFIX as usize), b' ');
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut text);
    bytes
}
