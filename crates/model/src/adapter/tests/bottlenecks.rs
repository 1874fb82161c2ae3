//! AdapterHub folders: what becomes a bottleneck, and what is refused.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::folders::*;
use crate::adapter::*;
use crate::{Activation, ArchSpec, Block, BlockSite, Site};

/// A folder, right until a test makes it wrong: Houlsby's two bottlenecks of width 4 in each of two layers of 8.
struct Hub {
    dir: TempDir,
    spec: ArchSpec,
    file: Value,
    tensors: BTreeMap<String, Stored>,
}

impl Hub {
    fn new() -> Self {
        let file = json!({
            "config": {
                "mh_adapter": true, "output_adapter": true, "reduction_factor": 2, "non_linearity": "swish", "original_ln_before": false,
                "original_ln_after": true, "residual_before_ln": true, "scaling": 2.0, "is_parallel": false, "leave_out": [],
            },
            "hidden_size": 8, "model_class": "LlamaForCausalLM", "model_name": "some/model", "model_type": "llama", "name": "mine",
            "version": "adapters.1.3.0",
        });
        let mut hub = Self {
            dir: TempDir::new().unwrap(),
            spec: tiny(),
            file,
            tensors: BTreeMap::new(),
        };
        for layer in 0..2 {
            hub = hub
                .bottleneck(layer, "attention_adapters")
                .bottleneck(layer, "output_adapters");
        }
        hub
    }

    fn bottleneck(mut self, layer: usize, block: &str) -> Self {
        let path = format!("model.layers.{layer}.{block}.adapters.mine.adapter_");
        for (part, shape) in [
            ("down.0.weight", &[4, 8][..]),
            ("down.0.bias", &[4]),
            ("up.weight", &[8, 4]),
            ("up.bias", &[8]),
        ] {
            self.tensors.insert(format!("{path}{part}"), numbered(shape));
        }
        self
    }

    fn config(mut self, field: &str, value: Value) -> Self {
        self.file["config"][field] = value;
        self
    }

    fn field(mut self, field: &str, value: Value) -> Self {
        self.file[field] = value;
        self
    }

    fn rebased(self, spec: ArchSpec) -> Self {
        Self { spec, ..self }
    }

    fn write(self) -> Self {
        fs::write(self.dir.path().join("adapter_config.json"), self.file.to_string()).unwrap();
        fs::write(self.dir.path().join("adapter.safetensors"), safetensors(&self.tensors)).unwrap();
        self
    }

    fn head(self, name: &str, shape: &[usize]) -> Self {
        let head = BTreeMap::from([(name.to_owned(), numbered(shape))]);
        fs::write(self.dir.path().join("model_head.safetensors"), safetensors(&head)).unwrap();
        self
    }

    fn loaded(self) -> Adapter {
        let hub = self.write();
        let adapter = load(hub.dir.path(), &hub.spec).unwrap();
        let summary = inspect(hub.dir.path(), &hub.spec).unwrap();
        let bytes: usize = adapter.effects.iter().map(bytes_of).sum();
        assert_eq!(
            (summary.max_rank, summary.tensor_bytes),
            (adapter.max_rank, bytes as u64)
        );
        adapter.effects.iter().for_each(|effect| assert_fits(effect, &hub.spec));
        adapter
    }

    #[track_caller]
    fn refused(self, code: AdapterErrorCode, facts: &[&str]) {
        let hub = self.write();
        assert_refusal(&load(hub.dir.path(), &hub.spec).map(|_| ()).unwrap_err(), code, facts);
    }
}

fn bottlenecks(adapter: &Adapter) -> Vec<&Bottleneck> {
    let all = adapter.effects.iter().filter_map(|effect| match effect {
        Effect::Bottleneck(bottleneck) => Some(bottleneck),
        _ => None,
    });
    all.collect()
}

#[test]
fn a_folder_becomes_bottlenecks_in_the_order_of_a_pass() {
    let adapter = Hub::new().loaded();
    let sites: Vec<_> = bottlenecks(&adapter).iter().map(|bottleneck| bottleneck.site).collect();
    let all = (0..2).flat_map(|layer| Block::ALL.map(|block| BlockSite { layer, block }));
    assert_eq!(sites, all.collect::<Vec<_>>());
    assert_eq!(
        (adapter.max_rank, adapter.base_model.as_deref()),
        (4, Some("some/model"))
    );
    let first = bottlenecks(&adapter)[0];
    assert_eq!(
        (first.input, first.activation, first.scale),
        (BottleneckInput::Output, Activation::Silu, 2.0)
    );
    assert_eq!(values(&first.down), rows(0..4, 8));
    assert_eq!(values(&first.up), rows(0..8, 4));
}

#[test]
fn layers_and_blocks_that_are_left_out_have_none_and_widths_are_their_own() {
    let mut hub = Hub::new()
        .config("mh_adapter", json!(false))
        .config("original_ln_before", json!(true))
        .config("leave_out", json!([0]));
    hub.tensors.retain(|name, _| name.contains("layers.1.output_adapters"));
    let adapter = hub.loaded();
    let [only] = bottlenecks(&adapter)[..] else {
        panic!("expected one")
    };
    let expected = BlockSite {
        layer: 1,
        block: Block::FeedForward,
    };
    assert_eq!((only.site, only.input), (expected, BottleneckInput::Sum));
    Hub::new()
        .config("reduction_factor", json!({"1": 4, "default": 2}))
        .refused(
            AdapterErrorCode::ShapeMismatch,
            &["layers.1.attention_adapters", "expected shape [2, 8], got [4, 8]"],
        );
}

#[test]
fn names_without_the_models_first_part_mean_the_same() {
    let hub = Hub::new();
    let bare = hub
        .tensors
        .iter()
        .map(|(name, tensor)| (name.strip_prefix("model.").unwrap().to_owned(), tensor.clone()));
    let bare = bare.collect();
    assert_eq!(Hub { tensors: bare, ..hub }.loaded().hash, Hub::new().loaded().hash);
}

#[test]
fn a_head_replaces_the_output_layer_and_what_is_tied_to_it() {
    let sites = |tied| {
        let mut spec = tiny();
        spec.tied_output = tied;
        let adapter = Hub::new().rebased(spec).head("lm_head.weight", &[32, 8]).loaded();
        let all = adapter.effects.iter().filter_map(|effect| match effect {
            Effect::Matrix(matrix) => Some((matrix.site, values(&matrix.values))),
            _ => None,
        });
        all.collect::<Vec<_>>()
    };
    assert_eq!(sites(false), [(Site::Output, rows(0..32, 8))]);
    assert_eq!(
        sites(true),
        [(Site::Embedding, rows(0..32, 8)), (Site::Output, rows(0..32, 8))]
    );
    let code = AdapterErrorCode::UnmappedTensor;
    Hub::new()
        .head("heads.spam.0.weight", &[2, 8])
        .refused(code, &["model_head.safetensors", "other tasks"]);
    Hub::new()
        .head("lm_head.weight", &[33, 8])
        .refused(AdapterErrorCode::ShapeMismatch, &["[32, 8]", "[33, 8]"]);
}

#[test]
fn the_hash_follows_all_that_changes_numbers() {
    let hash = |hub: Hub| hub.loaded().hash;
    let original = hash(Hub::new());
    assert_eq!(
        original,
        hash(
            Hub::new()
                .config("dropout", json!(0.5))
                .field("model_name", json!("other"))
        )
    );
    assert_eq!(original, hash(Hub::new().config("non_linearity", json!("SiLU"))));
    assert_ne!(original, hash(Hub::new().config("non_linearity", json!("relu"))));
    assert_ne!(original, hash(Hub::new().config("scaling", json!(1.0))));
    assert_ne!(original, hash(Hub::new().config("original_ln_before", json!(true))));
    let mut other = Hub::new();
    other.tensors.insert(
        "model.layers.0.output_adapters.adapters.mine.adapter_up.bias".to_owned(),
        numbered(&[8]),
    );
    assert_eq!(original, hash(other));
    let mut other = Hub::new();
    other.tensors.insert(
        "model.layers.0.output_adapters.adapters.mine.adapter_up.bias".to_owned(),
        f32s([8, 1], 0.5).flat(),
    );
    assert_ne!(original, hash(other));
}

#[test]
fn what_is_not_served_is_refused_by_name() {
    use AdapterErrorCode as Code;
    for (field, value) in [
        ("is_parallel", json!(true)),
        ("use_gating", json!(true)),
        ("phm_layer", json!(true)),
        ("architecture", json!("prefix_tuning")),
        ("non_linearity", json!("gelu")),
    ] {
        Hub::new()
            .config(field, value.clone())
            .refused(Code::UnsupportedField, &[field, &value.to_string()]);
    }
    let gemma = || of_family("gemma3", |layer| layer.post_norms = true);
    Hub::new()
        .rebased(gemma())
        .refused(Code::UnsupportedType, &["bottleneck", "gemma3", "llama"]);
    Hub::new()
        .field("hidden_size", json!(16))
        .refused(Code::ShapeMismatch, &["hidden_size: expected the base's 8, got 16"]);
    let hash = json!("00".repeat(32));
    Hub::new()
        .field("rootstock_base_hash", hash)
        .refused(Code::WrongBase, &["rootstock_base_hash"]);
    Hub::new()
        .config("reduction_factor", json!(0.1))
        .refused(Code::RankTooLarge, &["at most 64, got 79"]);
    Hub::new()
        .config("scaling", json!(0.0))
        .refused(Code::ZeroDelta, &["scaling", "4 bottlenecks"]);
}

#[test]
fn tensors_are_there_exactly_once_as_the_configuration_says() {
    use AdapterErrorCode as Code;
    let up = "model.layers.1.output_adapters.adapters.mine.adapter_up.weight";
    let mut hub = Hub::new();
    hub.tensors.remove(up);
    hub.refused(Code::HalfPair, &["adapter.safetensors", up, "got none"]);
    let mut hub = Hub::new();
    hub.tensors.insert(up.replace("mine", "yours"), numbered(&[8, 4]));
    hub.refused(Code::UnmappedTensor, &["adapters.yours.adapter_up"]);
    let mut hub = Hub::new();
    hub.tensors.insert(up.to_owned(), f32s([8, 4], f32::NAN));
    hub.refused(Code::NotFinite, &[up]);
}

#[test]
fn pickles_are_refused_with_the_way_out() {
    let hub = Hub::new().write();
    let weights = hub.dir.path().join("adapter.safetensors");
    fs::rename(&weights, hub.dir.path().join("pytorch_adapter.bin")).unwrap();
    let refused = || load(hub.dir.path(), &hub.spec).map(|_| ()).unwrap_err();
    assert_refusal(
        &refused(),
        AdapterErrorCode::Pickle,
        &["pytorch_adapter.bin", "use_safetensors=True"],
    );
    fs::rename(hub.dir.path().join("pytorch_adapter.bin"), &weights).unwrap();
    fs::write(hub.dir.path().join("pytorch_model_head.bin"), b"PK").unwrap();
    assert_refusal(&refused(), AdapterErrorCode::Pickle, &["pytorch_model_head.bin"]);
}
