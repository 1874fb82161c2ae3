//! Writes GGUF files of tiny models: hidden 8, 2 query heads and 1 key/value head of width 4, inner 16.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use rootstock_formats::gguf::{Array, Value};

use crate::{Checkpoint, ModelError};

/// ggml's code of F32 and F16.
pub(super) const F32: u32 = 0;
pub(super) const F16: u32 = 1;

#[derive(Clone)]
pub(super) struct File {
    pub(super) metadata: BTreeMap<String, Value>,
    /// Shape, outermost first, and type.
    pub(super) tensors: BTreeMap<String, (Vec<usize>, u32)>,
}

/// Tensors of a layer of every family but GPT-2 and Phi-3.
const LAYER: [(&str, &[usize]); 9] = [
    ("attn_norm.weight", &[8]),
    ("ffn_norm.weight", &[8]),
    ("attn_q.weight", &[8, 8]),
    ("attn_k.weight", &[4, 8]),
    ("attn_v.weight", &[4, 8]),
    ("attn_output.weight", &[8, 8]),
    ("ffn_gate.weight", &[16, 8]),
    ("ffn_up.weight", &[16, 8]),
    ("ffn_down.weight", &[8, 16]),
];

/// What a family has besides, or in another shape; an empty shape stands for a tensor it does not have.
fn differences(family: &str) -> &'static [(&'static str, &'static [usize])] {
    match family {
        "qwen2" => &[("attn_q.bias", &[8]), ("attn_k.bias", &[4]), ("attn_v.bias", &[4])],
        "qwen3" => &[("attn_q_norm.weight", &[4]), ("attn_k_norm.weight", &[4])],
        "gemma3" => &[
            ("attn_q_norm.weight", &[4]),
            ("attn_k_norm.weight", &[4]),
            ("post_attention_norm.weight", &[8]),
            ("post_ffw_norm.weight", &[8]),
        ],
        "phi3" => &[
            ("attn_q.weight", &[]),
            ("attn_k.weight", &[]),
            ("attn_v.weight", &[]),
            ("attn_qkv.weight", &[16, 8]),
            ("ffn_gate.weight", &[]),
            ("ffn_up.weight", &[32, 8]),
        ],
        "gpt2" => &[
            ("attn_norm.bias", &[8]),
            ("ffn_norm.bias", &[8]),
            ("attn_q.weight", &[]),
            ("attn_k.weight", &[]),
            ("attn_v.weight", &[]),
            ("attn_qkv.weight", &[16, 8]),
            ("attn_qkv.bias", &[16]),
            ("attn_output.bias", &[8]),
            ("ffn_gate.weight", &[]),
            ("ffn_up.bias", &[16]),
            ("ffn_down.bias", &[8]),
        ],
        _ => &[],
    }
}

impl File {
    /// A llama of one layer.
    pub(super) fn tiny() -> Self {
        Self::of("llama", 1)
    }

    pub(super) fn of(family: &str, layers: usize) -> Self {
        let mut file = Self {
            metadata: tokenizer(),
            tensors: BTreeMap::new(),
        };
        file.set("general.architecture", Value::String(family.to_owned()));
        let epsilon = if family == "gpt2" {
            "layer_norm_epsilon"
        } else {
            "layer_norm_rms_epsilon"
        };
        for (key, value) in [
            ("block_count", Value::U32(layers as u32)),
            ("context_length", Value::U32(64)),
            ("embedding_length", Value::U32(8)),
            ("feed_forward_length", Value::U32(16)),
            ("attention.head_count", Value::U32(2)),
            ("attention.head_count_kv", Value::U32(1)),
            (&format!("attention.{epsilon}"), Value::F32(1e-5)),
        ] {
            file.set(&format!("{family}.{key}"), value);
        }
        file.tensor("token_embd.weight", &[6, 8], F32);
        file.tensor("output_norm.weight", &[8], F32);
        if family == "gpt2" {
            file.tensor("position_embd.weight", &[64, 8], F32);
            file.tensor("output_norm.bias", &[8], F32);
        }
        for layer in 0..layers {
            for (name, shape) in LAYER.iter().chain(differences(family)) {
                file.tensor(&format!("blk.{layer}.{name}"), shape, F32);
            }
        }
        file.tensors.retain(|_, (shape, _)| !shape.is_empty());
        file
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

    /// Writes the parts of a split model: all metadata in the first, the tensors dealt out one by one.
    pub(super) fn write_parts(&self, folder: &Path, stem: &str, count: usize) {
        for number in 0..count {
            let mut part = self.clone();
            if number > 0 {
                part.metadata.clear();
            }
            let mine = self
                .tensors
                .iter()
                .enumerate()
                .filter(|(index, _)| index % count == number);
            part.tensors = mine.map(|(_, (name, tensor))| (name.clone(), tensor.clone())).collect();
            part.set("split.no", Value::U32(number as u32));
            part.set("split.count", Value::U32(count as u32));
            part.set("split.tensors.count", Value::U32(self.tensors.len() as u32));
            part.write(folder, &format!("{stem}-{:05}-of-{count:05}.gguf", number + 1));
        }
    }

    pub(super) fn write(&self, folder: &Path, name: &str) {
        std::fs::write(folder.join(name), self.bytes()).unwrap();
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

fn tokenizer() -> BTreeMap<String, Value> {
    let text = |text: &str| Value::String(text.to_owned());
    let texts = |items: &[&str]| Value::Array(Array::String(items.iter().map(|&item| item.to_owned()).collect()));
    let metadata = [
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
    metadata.map(|(key, value)| (key.to_owned(), value)).into()
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn encode(value: &Value) -> (u32, Vec<u8>) {
    match value {
        Value::U16(number) => (2, number.to_le_bytes().to_vec()),
        Value::I32(number) => (5, number.to_le_bytes().to_vec()),
        Value::U32(number) => (4, number.to_le_bytes().to_vec()),
        Value::F32(number) => (6, number.to_le_bytes().to_vec()),
        Value::Bool(truth) => (7, vec![u8::from(*truth)]),
        Value::String(text) => (8, string(text)),
        Value::Array(Array::I32(items)) => (9, array(5, items.iter().map(|item| item.to_le_bytes().to_vec()))),
        Value::Array(Array::U32(items)) => (9, array(4, items.iter().map(|item| item.to_le_bytes().to_vec()))),
        Value::Array(Array::Bool(items)) => (9, array(7, items.iter().map(|item| vec![u8::from(*item)]))),
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
