//! Models of random weights in the shapes of larger ones, as GGUF files that peers read, too. The tokenizer is another
//! model's, padded to the vocabulary; what such a model says means nothing, how long it takes does.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::ValueEnum;
use rootstock_formats::gguf::{Array, Gguf, Value};

use super::gguf::{self, Tensor};

/// Whose shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ModelShape {
    /// 16 layers of 2048, inner 8192, vocabulary 128,256
    #[value(name = "llama-3.2-1b")]
    Llama1b,
    /// 28 layers of 1024, inner 3072, vocabulary 151,936
    #[value(name = "qwen3-0.6b")]
    Qwen06b,
}

/// How the layers' weights are stored; the embedding, which is the output projection too, is in Q8_0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "not every bench makes both")]
pub enum Encoding {
    Q4_0,
    Q4_1,
}

struct Sizes {
    family: &'static str,
    name: &'static str,
    layers: usize,
    hidden: usize,
    inner: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    vocabulary: usize,
    head_norms: bool,
    rope_base: f32,
}

const F32: u32 = 0;
const Q8_0: u32 = 8;

impl ModelShape {
    fn sizes(self) -> Sizes {
        match self {
            Self::Llama1b => Sizes {
                family: "llama",
                name: "llama-3.2-1b",
                layers: 16,
                hidden: 2048,
                inner: 8192,
                heads: 32,
                kv_heads: 8,
                head_dim: 64,
                vocabulary: 128_256,
                head_norms: false,
                rope_base: 500_000.0,
            },
            Self::Qwen06b => Sizes {
                family: "qwen3",
                name: "qwen3-0.6b",
                layers: 28,
                hidden: 1024,
                inner: 3072,
                heads: 16,
                kv_heads: 8,
                head_dim: 128,
                vocabulary: 151_936,
                head_norms: true,
                rope_base: 1e6,
            },
        }
    }
}

/// Writes the model with the tokenizer of `tokenizer`, a GGUF file; returns its path. One that is there already is kept.
///
/// # Errors
/// The tokenizer's file cannot be read, or the model's cannot be written.
pub fn write(folder: &Path, shape: ModelShape, encoding: Encoding, tokenizer: &Path) -> Result<PathBuf> {
    let sizes = shape.sizes();
    let path = folder.join(format!("{}.{encoding:?}.gguf", sizes.name));
    if path.exists() {
        return Ok(path);
    }
    let bytes = std::fs::read(tokenizer).with_context(|| tokenizer.display().to_string())?;
    let metadata = metadata(&sizes, encoding, &Gguf::parse(&bytes)?);
    let tensors = tensors(&sizes, encoding);
    let partial = path.with_extension("partial");
    let mut random = fastrand::Rng::with_seed(1);
    gguf::write(&partial, &metadata, &tensors, |index| {
        values(&tensors[index], sizes.hidden, &mut random)
    })?;
    std::fs::rename(&partial, &path)?;
    Ok(path)
}

fn metadata(sizes: &Sizes, encoding: Encoding, donor: &Gguf) -> Vec<(String, Value)> {
    let numbers = [
        ("block_count", sizes.layers),
        ("context_length", 32_768),
        ("embedding_length", sizes.hidden),
        ("feed_forward_length", sizes.inner),
        ("attention.head_count", sizes.heads),
        ("attention.head_count_kv", sizes.kv_heads),
        ("attention.key_length", sizes.head_dim),
        ("attention.value_length", sizes.head_dim),
        ("rope.dimension_count", sizes.head_dim),
        ("vocab_size", sizes.vocabulary),
    ];
    let named = |key: &str, value| (format!("{}.{key}", sizes.family), value);
    let mut pairs: Vec<(String, Value)> = numbers
        .map(|(key, number)| named(key, Value::U32(number as u32)))
        .into();
    pairs.push(named("rope.freq_base", Value::F32(sizes.rope_base)));
    pairs.push(named("attention.layer_norm_rms_epsilon", Value::F32(1e-5)));
    let string = |text: &str| Value::String(text.to_owned());
    let file_type = if encoding == Encoding::Q4_0 { 2 } else { 3 };
    pairs.extend([
        ("general.architecture".to_owned(), string(sizes.family)),
        ("general.name".to_owned(), string(sizes.name)),
        ("general.file_type".to_owned(), Value::U32(file_type)),
        ("general.quantization_version".to_owned(), Value::U32(2)),
    ]);
    let tokenizer = donor.metadata().iter().filter(|(key, _)| key.starts_with("tokenizer."));
    pairs.extend(tokenizer.map(|(key, value)| (key.clone(), padded(key, value, sizes.vocabulary))));
    pairs
}

/// Tokens and their types, filled up to the vocabulary with tokens that no text contains.
fn padded(key: &str, value: &Value, vocabulary: usize) -> Value {
    match (key, value) {
        ("tokenizer.ggml.tokens", Value::Array(Array::String(tokens))) => {
            let more = (tokens.len()..vocabulary).map(|id| format!("<unused-{id}>"));
            Value::Array(Array::String(tokens.iter().cloned().chain(more).collect()))
        }
        ("tokenizer.ggml.token_type", Value::Array(Array::I32(kinds))) => {
            let mut kinds = kinds.clone();
            kinds.resize(vocabulary, 1);
            Value::Array(Array::I32(kinds))
        }
        _ => value.clone(),
    }
}

fn tensors(sizes: &Sizes, encoding: Encoding) -> Vec<Tensor> {
    let kind = if encoding == Encoding::Q4_0 { 2 } else { 3 };
    let mut all = vec![
        tensor("token_embd".into(), &[sizes.hidden, sizes.vocabulary], Q8_0),
        tensor("output_norm".into(), &[sizes.hidden], F32),
    ];
    let (queries, keys) = (sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim);
    for layer in 0..sizes.layers {
        let mut push = |name: &str, dimensions: &[usize], kind| {
            all.push(tensor(format!("blk.{layer}.{name}"), dimensions, kind));
        };
        push("attn_norm", &[sizes.hidden], F32);
        push("ffn_norm", &[sizes.hidden], F32);
        if sizes.head_norms {
            push("attn_q_norm", &[sizes.head_dim], F32);
            push("attn_k_norm", &[sizes.head_dim], F32);
        }
        push("attn_q", &[sizes.hidden, queries], kind);
        push("attn_k", &[sizes.hidden, keys], kind);
        push("attn_v", &[sizes.hidden, keys], kind);
        push("attn_output", &[queries, sizes.hidden], kind);
        push("ffn_gate", &[sizes.hidden, sizes.inner], kind);
        push("ffn_up", &[sizes.hidden, sizes.inner], kind);
        push("ffn_down", &[sizes.inner, sizes.hidden], kind);
    }
    all
}

fn tensor(name: String, dimensions: &[usize], kind: u32) -> Tensor {
    let elements: usize = dimensions.iter().product();
    Tensor {
        name: format!("{name}.weight"),
        dimensions: dimensions.to_vec(),
        kind,
        bytes: block(kind).map_or(elements * 4, |bytes| elements / 32 * bytes),
    }
}

/// Bytes of a block of 32 weights; `None` for f32.
fn block(kind: u32) -> Option<usize> {
    match kind {
        F32 => None,
        2 => Some(18),
        3 => Some(20),
        _ => Some(34),
    }
}

/// Ones for norms, else random weights that keep the size of what they are applied to.
fn values(tensor: &Tensor, hidden: usize, random: &mut fastrand::Rng) -> Vec<u8> {
    let Some(block) = block(tensor.kind) else {
        return 1f32.to_le_bytes().repeat(tensor.bytes / 4);
    };
    let mut bytes = vec![0; tensor.bytes];
    random.fill(&mut bytes);
    let spread = (hidden as f32).sqrt().recip();
    let step = if tensor.kind == Q8_0 {
        spread / 73.0
    } else {
        spread / 4.6
    };
    for block in bytes.chunks_exact_mut(block) {
        block[..2].copy_from_slice(&half::f16::from_f32(step).to_le_bytes());
        if tensor.kind == 3 {
            block[2..4].copy_from_slice(&half::f16::from_f32(-7.5 * step).to_le_bytes());
        }
    }
    bytes
}
