//! Writes GGUF files of a tiny llama: 1 layer, hidden 8, 2 query heads and 1 key/value head of width 4, inner 16.

use std::collections::BTreeMap;
use std::io::Write;

use rootstock_formats::gguf::{Array, Value};

use crate::{Checkpoint, ModelError};

/// ggml's code of F32 and F16.
pub(super) const F32: u32 = 0;
pub(super) const F16: u32 = 1;

pub(super) struct File {
    pub(super) metadata: BTreeMap<String, Value>,
    /// Shape, outermost first, and type.
    pub(super) tensors: BTreeMap<String, (Vec<usize>, u32)>,
}

impl File {
    pub(super) fn tiny() -> Self {
        let text = |text: &str| Value::String(text.to_owned());
        let texts = |items: &[&str]| Value::Array(Array::String(items.iter().map(|&item| item.to_owned()).collect()));
        let metadata = [
            ("general.architecture", text("llama")),
            ("llama.block_count", Value::U32(1)),
            ("llama.context_length", Value::U32(64)),
            ("llama.embedding_length", Value::U32(8)),
            ("llama.feed_forward_length", Value::U32(16)),
            ("llama.attention.head_count", Value::U32(2)),
            ("llama.attention.head_count_kv", Value::U32(1)),
            ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
            ("tokenizer.ggml.model", text("gpt2")),
            ("tokenizer.ggml.pre", text("smollm")),
            (
                "tokenizer.ggml.tokens",
                texts(&["h", "i", "hi", "<|im_end|>", "<|endoftext|>"]),
            ),
            (
                "tokenizer.ggml.token_type",
                Value::Array(Array::I32(vec![1, 1, 1, 3, 3])),
            ),
            ("tokenizer.ggml.merges", texts(&["h i"])),
            ("tokenizer.ggml.eos_token_id", Value::U32(2)),
        ];
        let shapes: [(&str, &[usize]); 11] = [
            ("token_embd.weight", &[6, 8]),
            ("output_norm.weight", &[8]),
            ("blk.0.attn_norm.weight", &[8]),
            ("blk.0.ffn_norm.weight", &[8]),
            ("blk.0.attn_q.weight", &[8, 8]),
            ("blk.0.attn_k.weight", &[4, 8]),
            ("blk.0.attn_v.weight", &[4, 8]),
            ("blk.0.attn_output.weight", &[8, 8]),
            ("blk.0.ffn_gate.weight", &[16, 8]),
            ("blk.0.ffn_up.weight", &[16, 8]),
            ("blk.0.ffn_down.weight", &[8, 16]),
        ];
        Self {
            metadata: metadata.map(|(key, value)| (key.to_owned(), value)).into(),
            tensors: shapes
                .map(|(name, shape)| (name.to_owned(), (shape.to_vec(), F32)))
                .into(),
        }
    }

    pub(super) fn set(&mut self, key: &str, value: Value) {
        self.metadata.insert(key.to_owned(), value);
    }

    pub(super) fn tensor(&mut self, name: &str, shape: &[usize], code: u32) {
        self.tensors.insert(name.to_owned(), (shape.to_vec(), code));
    }

    pub(super) fn open(&self) -> Result<Checkpoint, ModelError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&self.bytes()).unwrap();
        Checkpoint::open(file.path())
    }

    /// The file; element i of every tensor is the number i.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut header = b"GGUF".to_vec();
        header.extend(3u32.to_le_bytes());
        header.extend((self.tensors.len() as u64).to_le_bytes());
        header.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            header.extend(string(key));
            let (code, bytes) = encode(value);
            header.extend(code.to_le_bytes());
            header.extend(bytes);
        }
        let mut data: Vec<u8> = Vec::new();
        for (name, (shape, code)) in &self.tensors {
            header.extend(string(name));
            header.extend((shape.len() as u32).to_le_bytes());
            shape
                .iter()
                .rev()
                .for_each(|&size| header.extend((size as u64).to_le_bytes()));
            header.extend(code.to_le_bytes());
            header.extend((data.len() as u64).to_le_bytes());
            for index in 0..shape.iter().product::<usize>() {
                match *code {
                    F16 => data.extend([0; 2]),
                    _ => data.extend((index as f32).to_le_bytes()),
                }
            }
            data.resize(data.len().next_multiple_of(32), 0);
        }
        header.resize(header.len().next_multiple_of(32), 0);
        header.extend(data);
        header
    }
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn encode(value: &Value) -> (u32, Vec<u8>) {
    match value {
        Value::U32(number) => (4, number.to_le_bytes().to_vec()),
        Value::F32(number) => (6, number.to_le_bytes().to_vec()),
        Value::Bool(truth) => (7, vec![u8::from(*truth)]),
        Value::String(text) => (8, string(text)),
        Value::Array(Array::I32(items)) => (9, array(5, items.iter().map(|item| item.to_le_bytes().to_vec()))),
        Value::Array(Array::String(items)) => (9, array(8, items.iter().map(|item| string(item)))),
        other => unreachable!("no test writes {other:?}"),
    }
}

fn array(code: u32, items: impl ExactSizeIterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut bytes = code.to_le_bytes().to_vec();
    bytes.extend((items.len() as u64).to_le_bytes());
    items.for_each(|item| bytes.extend(item));
    bytes
}
