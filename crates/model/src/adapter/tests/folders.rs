//! Adapter folders built on disk, right until a test makes one thing wrong, and what a refusal must say.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::super::*;
use crate::{Activation, AttentionSpec, FeedForward, LayerSpec, NormKind, NormSpec, Position, ProjectionSet, Site};

pub(super) const LIMITS: AdapterLimits = AdapterLimits {
    max_rank: 64,
    max_bytes: 64 << 20,
};
pub(super) const HASH: ContentHash = ContentHash([7; 32]);
pub(super) const Q0: &str = "base_model.model.model.layers.0.self_attn.q_proj";
pub(super) const DOWN1: &str = "base_model.model.model.layers.1.mlp.down_proj";

pub(super) fn spec(layers: usize, hidden_size: usize, heads: usize, kv_heads: usize, inner_size: usize) -> ArchSpec {
    let head_dim = hidden_size / heads;
    let layer = LayerSpec {
        attention: AttentionSpec {
            heads,
            kv_heads,
            head_dim,
            scale: 1.0,
            position: Position::Rotary {
                inverse_frequencies: Arc::from(vec![1.0; head_dim / 2]),
                magnitude: 1.0,
            },
            window: None,
            head_norms: false,
        },
        feed_forward: FeedForward::Gated {
            inner_size,
            activation: Activation::Silu,
        },
        post_norms: false,
        biases: ProjectionSet::NONE,
    };
    ArchSpec {
        family: "llama".to_owned(),
        vocab_size: 32,
        hidden_size,
        context_length: 64,
        embedding_scale: 1.0,
        position_embeddings: None,
        norm: NormSpec {
            kind: NormKind::Rms,
            epsilon: 1e-5,
        },
        tied_output: true,
        layers: vec![layer; layers],
    }
}

/// [`tiny`] of another family.
pub(super) fn of_family(family: &str, change: impl Fn(&mut LayerSpec)) -> ArchSpec {
    let mut spec = tiny();
    spec.family = family.to_owned();
    spec.layers.iter_mut().for_each(change);
    spec
}

/// GPT-2's kind: plain feed-forward, biases everywhere, layer norms, learned positions, eight key/value channels.
pub(super) fn gpt2() -> ArchSpec {
    let mut spec = of_family("gpt2", |layer| {
        layer.attention.kv_heads = 2;
        layer.attention.position = Position::None;
        layer.feed_forward = FeedForward::Plain {
            inner_size: 12,
            activation: Activation::GeluTanh,
        };
        layer.biases = layer.projections().collect();
    });
    spec.norm.kind = NormKind::Layer;
    spec.position_embeddings = Some(64);
    spec
}

/// Two layers: hidden 8, two heads of 4, one key/value head, inner 12.
pub(super) fn tiny() -> ArchSpec {
    spec(2, 8, 2, 1, 12)
}

/// A tensor to be written: type, shape, bytes.
#[derive(Clone)]
pub(super) struct Stored(pub(super) &'static str, pub(super) Vec<usize>, pub(super) Vec<u8>);

impl Stored {
    /// As a vector.
    pub(super) fn flat(self) -> Self {
        Self(self.0, vec![self.1.iter().product()], self.2)
    }
}

pub(super) fn f32s(shape: [usize; 2], value: f32) -> Stored {
    singles(&shape, |_| value)
}

/// Numbered values, so that a tensor that is cut, turned or put elsewhere can be told.
pub(super) fn numbered(shape: &[usize]) -> Stored {
    singles(shape, |index| index as f32 + 1.0)
}

fn singles(shape: &[usize], value: impl Fn(usize) -> f32) -> Stored {
    let count = shape.iter().product();
    let bytes = (0..count).flat_map(|index| value(index).to_le_bytes());
    Stored("F32", shape.to_vec(), bytes.collect())
}

/// An adapter folder, right until a test makes it wrong: rank 2 on q_proj of both layers and on down_proj of layer 1.
pub(super) struct FolderBuilder {
    pub(super) dir: TempDir,
    spec: ArchSpec,
    config: Value,
    pub(super) tensors: BTreeMap<String, Stored>,
}

impl FolderBuilder {
    pub(super) fn new() -> Self {
        let targets = json!(["q_proj", "layers.1.mlp.down_proj"]);
        Self::on(tiny(), targets)
            .pair(Q0, [2, 8], [8, 2])
            .pair(&Q0.replace("layers.0", "layers.1"), [2, 8], [8, 2])
            .pair(DOWN1, [2, 12], [8, 2])
    }

    /// Rank 2 on the given modules of a base, without tensors yet.
    pub(super) fn on(spec: ArchSpec, targets: Value) -> Self {
        Self {
            dir: TempDir::new().unwrap(),
            spec,
            config: json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": targets}),
            tensors: BTreeMap::new(),
        }
    }

    pub(super) fn pair(self, module: &str, a: [usize; 2], b: [usize; 2]) -> Self {
        self.tensor(&format!("{module}.lora_A.weight"), f32s(a, 0.5))
            .tensor(&format!("{module}.lora_B.weight"), f32s(b, 0.25))
    }

    /// The same files for another base.
    pub(super) fn rebased(self, spec: ArchSpec) -> Self {
        Self { spec, ..self }
    }

    pub(super) fn field(mut self, name: &str, value: Value) -> Self {
        self.config[name] = value;
        self
    }

    pub(super) fn tensor(mut self, name: &str, tensor: Stored) -> Self {
        self.tensors.insert(name.to_owned(), tensor);
        self
    }

    pub(super) fn without(mut self, name: &str) -> Self {
        assert!(self.tensors.remove(name).is_some(), "{name}");
        self
    }

    pub(super) fn weights_path(&self) -> PathBuf {
        self.dir.path().join("adapter_model.safetensors")
    }

    pub(super) fn write(self) -> Self {
        fs::write(self.dir.path().join("adapter_config.json"), self.config.to_string()).unwrap();
        fs::write(self.weights_path(), safetensors(&self.tensors)).unwrap();
        self
    }

    pub(super) fn load(&self) -> Result<Adapter, AdapterError> {
        load(self.dir.path(), &self.spec)
    }

    /// Writes the folder and expects both readers to take it.
    pub(super) fn loaded(self) -> Adapter {
        let folder = self.write();
        let adapter = folder.load().unwrap();
        let summary = inspect(folder.dir.path(), &folder.spec).unwrap();
        assert_eq!(summary.max_rank, adapter.max_rank);
        let bytes: usize = adapter.effects.iter().map(bytes_of).sum();
        assert_eq!(summary.tensor_bytes, bytes as u64);
        adapter
    }

    /// Writes the folder and expects both readers to refuse it with `code` and every one of `facts` in the message.
    pub(super) fn refused(self, code: AdapterErrorCode, facts: &[&str]) {
        let folder = self.write();
        let inspected = inspect(folder.dir.path(), &folder.spec).map(|_| ()).unwrap_err();
        assert_refusal(&inspected, code, facts);
        folder.refused_on_load(code, facts);
    }

    /// For what only the values tell.
    pub(super) fn refused_on_load(&self, code: AdapterErrorCode, facts: &[&str]) {
        assert_refusal(&self.load().map(|_| ()).unwrap_err(), code, facts);
    }
}

pub(super) fn safetensors(tensors: &BTreeMap<String, Stored>) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, Stored(dtype, shape, bytes)) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        header.insert(
            name.clone(),
            json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}),
        );
        data.extend_from_slice(bytes);
    }
    let header = Value::Object(header).to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()
}

#[track_caller]
pub(super) fn assert_refusal(error: &AdapterError, code: AdapterErrorCode, facts: &[&str]) {
    assert_eq!(error.code, code, "{error}");
    for fact in facts {
        assert!(error.message.contains(fact), "{fact:?} is not in {:?}", error.message);
    }
}

pub(super) fn base(spec: &ArchSpec) -> Base<'_> {
    Base { spec, hash: HASH }
}

pub(super) fn load(dir: &Path, spec: &ArchSpec) -> Result<Adapter, AdapterError> {
    load_adapter(dir, base(spec), LIMITS)
}

pub(super) fn inspect(dir: &Path, spec: &ArchSpec) -> Result<AdapterSummary, AdapterError> {
    inspect_adapter(dir, base(spec), LIMITS)
}

pub(super) fn low_rank(effect: &Effect) -> &LowRank {
    match effect {
        Effect::LowRank(pair) => pair,
        other => panic!("expected a low-rank pair, got {other:?}"),
    }
}

/// Down, its bias, up, its bias.
pub(super) fn tensors_of(bottleneck: &Bottleneck) -> [&AdapterTensor; 4] {
    [
        &bottleneck.down,
        &bottleneck.down_bias,
        &bottleneck.up,
        &bottleneck.up_bias,
    ]
}

/// What a summary counts for an effect.
pub(super) fn bytes_of(effect: &Effect) -> usize {
    match effect {
        Effect::LowRank(pair) => {
            let magnitude = pair.magnitude.as_ref().map_or(0, |tensor| tensor.bytes.len());
            pair.a.bytes.len() + pair.b.bytes.len() + magnitude
        }
        Effect::Bias(bias) => bias.values.bytes.len(),
        Effect::Matrix(matrix) => matrix.values.bytes.len(),
        Effect::Bottleneck(bottleneck) => tensors_of(bottleneck).iter().map(|tensor| tensor.bytes.len()).sum(),
        Effect::Norm(norm) => {
            4 * [&norm.weight, &norm.bias]
                .into_iter()
                .flatten()
                .map(Vec::len)
                .sum::<usize>()
        }
    }
}

/// A tensor's shape and values.
pub(super) fn values(tensor: &AdapterTensor) -> (usize, usize, Vec<f32>) {
    (tensor.rows, tensor.cols, tensor.to_f32())
}

/// Values of rows of `numbered(&[_, cols])`.
pub(super) fn rows(range: std::ops::Range<usize>, cols: usize) -> (usize, usize, Vec<f32>) {
    let values = (range.start * cols..range.end * cols).map(|index| index as f32 + 1.0);
    (range.len(), cols, values.collect())
}

/// Values of `numbered(&[stored_rows, stored_cols])`, turned, from row `range.start` to `range.end`.
pub(super) fn turned(range: std::ops::Range<usize>, stored: [usize; 2]) -> (usize, usize, Vec<f32>) {
    let value = |row: usize, col: usize| (col * stored[1] + row) as f32 + 1.0;
    let values = range.clone().flat_map(|row| (0..stored[0]).map(move |col| (row, col)));
    (
        range.len(),
        stored[0],
        values.map(|(row, col)| value(row, col)).collect(),
    )
}

/// Every tensor of an effect has the shape that its site asks for.
pub(super) fn assert_fits(effect: &Effect, spec: &ArchSpec) {
    let whole = |tensor: &AdapterTensor| {
        assert_eq!(
            Some(tensor.bytes.len()),
            tensor.dtype.tensor_bytes(&[tensor.rows, tensor.cols])
        );
        (tensor.rows, tensor.cols)
    };
    match effect {
        Effect::LowRank(pair) => {
            let (inputs, outputs) = spec.shape(pair.site).unwrap();
            let ((rank, cols), (rows, inner)) = (whole(&pair.a), whole(&pair.b));
            assert_eq!((cols, rows, inner), (inputs, outputs, rank), "{}", pair.site);
            assert!(pair.magnitude.iter().all(|magnitude| whole(magnitude) == (outputs, 1)));
        }
        Effect::Bias(bias) => assert_eq!(whole(&bias.values), (spec.shape(bias.site).unwrap().1, 1)),
        Effect::Matrix(matrix) => {
            let (inputs, outputs) = spec.shape(matrix.site).unwrap();
            let by_input = matrix.site == Site::Embedding;
            let expected = if by_input { (inputs, outputs) } else { (outputs, inputs) };
            assert_eq!(whole(&matrix.values), expected, "{}", matrix.site);
        }
        Effect::Bottleneck(bottleneck) => {
            let (width, hidden) = (bottleneck.down.rows, spec.hidden_size);
            assert_eq!(
                tensors_of(bottleneck).map(whole),
                [(width, hidden), (width, 1), (hidden, width), (hidden, 1)]
            );
        }
        Effect::Norm(norm) => {
            let width = spec.norm_width(norm.site).unwrap();
            assert!(
                [&norm.weight, &norm.bias]
                    .into_iter()
                    .flatten()
                    .all(|values| values.len() == width)
            );
        }
    }
}
