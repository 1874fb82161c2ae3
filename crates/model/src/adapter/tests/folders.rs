//! Adapter folders built on disk, right until a test makes one thing wrong, and what a refusal must say.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::super::*;
use crate::{Activation, AttentionSpec, FeedForward, LayerSpec, NormKind, NormSpec, Position, ProjectionSet};

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

/// Two layers: hidden 8, two heads of 4, one key/value head, inner 12.
pub(super) fn tiny() -> ArchSpec {
    spec(2, 8, 2, 1, 12)
}

/// A tensor to be written: type, shape, bytes.
#[derive(Clone)]
pub(super) struct Stored(pub(super) &'static str, pub(super) Vec<usize>, pub(super) Vec<u8>);

pub(super) fn f32s(shape: [usize; 2], value: f32) -> Stored {
    let bytes = std::iter::repeat_n(value.to_le_bytes(), shape[0] * shape[1]).flatten();
    Stored("F32", shape.to_vec(), bytes.collect())
}

/// An adapter folder, right until a test makes it wrong: rank 2 on q_proj of both layers and on down_proj of layer 1.
pub(super) struct FolderBuilder {
    pub(super) dir: TempDir,
    config: Value,
    pub(super) tensors: BTreeMap<String, Stored>,
}

impl FolderBuilder {
    pub(super) fn new() -> Self {
        let config = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "layers.1.mlp.down_proj"]});
        let mut builder = Self {
            dir: TempDir::new().unwrap(),
            config,
            tensors: BTreeMap::new(),
        };
        builder.pair(Q0, [2, 8], [8, 2]);
        builder.pair(&Q0.replace("layers.0", "layers.1"), [2, 8], [8, 2]);
        builder.pair(DOWN1, [2, 12], [8, 2]);
        builder
    }

    fn pair(&mut self, module: &str, a: [usize; 2], b: [usize; 2]) {
        self.tensors.insert(format!("{module}.lora_A.weight"), f32s(a, 0.5));
        self.tensors.insert(format!("{module}.lora_B.weight"), f32s(b, 0.25));
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
        load(self.dir.path(), &tiny())
    }

    /// Writes the folder and expects both readers to refuse it with `code` and every one of `facts` in the message.
    pub(super) fn refused(self, code: AdapterErrorCode, facts: &[&str]) {
        let folder = self.write();
        let inspected = inspect(folder.dir.path(), &tiny()).map(|_| ()).unwrap_err();
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
