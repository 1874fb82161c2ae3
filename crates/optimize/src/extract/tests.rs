//! What was merged is taken out again.

use std::path::{Path, PathBuf};

use rootstock_model::adapter::{Adapter, AdapterLimits, Base, Effect, LowRank, load_adapter};
use rootstock_model::{Checkpoint, FloatType, ModelFolder, SaveSettings};

use super::{ExtractSettings, Extracted, extract};
use crate::OptimizeError;
use crate::merge::{Blend, Merged, Part};

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures")
        .join(path)
}

fn tiny(arch: &str) -> Checkpoint {
    Checkpoint::open(&fixture("tiny").join(arch)).unwrap()
}

fn load(checkpoint: &Checkpoint, path: &Path) -> Adapter {
    let base = Base {
        spec: checkpoint.spec(),
        hash: checkpoint.hash(),
    };
    let limits = AdapterLimits {
        max_rank: 64,
        max_bytes: 1 << 24,
    };
    load_adapter(path, base, limits).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The base with an adapter in its weights, opened.
fn merged(base: &Checkpoint, adapter: Adapter, dir: &Path) -> Checkpoint {
    let part = Part {
        name: "adapter".to_owned(),
        adapter,
        weight: 1.0,
    };
    let merged = Merged::new(base, vec![part], Blend::Linear, 1).unwrap();
    let folder = ModelFolder::with(base, merged.additions()).unwrap();
    let settings = SaveSettings {
        float: FloatType::F32,
        shard_bytes: SaveSettings::SHARD_BYTES,
        card: "",
    };
    folder.write(dir, &merged, &settings).unwrap();
    Checkpoint::open(dir).unwrap()
}

const SETTINGS: ExtractSettings = ExtractSettings {
    rank: 4,
    targets: Vec::new(),
    save_rest: false,
    threads: 2,
};

/// Takes `tuned` from `base`, and reads what is written.
fn taken_out(base: &Checkpoint, tuned: &Checkpoint, settings: &ExtractSettings, dir: &Path) -> (Extracted, Adapter) {
    let extracted = extract(base, tuned, settings, |_, _| {}).unwrap();
    extracted.folder.write(dir, "").unwrap();
    let adapter = load(base, dir);
    (extracted, adapter)
}

/// `scale * B A`.
fn product(pair: &LowRank) -> Vec<f64> {
    let (a, b, rank, cols) = (pair.a.to_f32(), pair.b.to_f32(), pair.a.rows, pair.a.cols);
    let term = |row: usize, col: usize| -> f64 {
        (0..rank)
            .map(|r| f64::from(b[row * rank + r]) * f64::from(a[r * cols + col]))
            .sum()
    };
    let all = (0..pair.b.rows).flat_map(|row| (0..cols).map(move |col| (row, col)));
    all.map(|(row, col)| f64::from(pair.scale) * term(row, col)).collect()
}

fn pairs(adapter: &Adapter) -> Vec<&LowRank> {
    let pairs = adapter.effects.iter().filter_map(|effect| match effect {
        Effect::LowRank(pair) => Some(pair),
        _ => None,
    });
    pairs.collect()
}

fn length(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}

#[test]
fn an_adapter_that_was_merged_is_recovered() {
    for arch in ["llama3-rope", "phi3", "gpt2", "gemma3"] {
        let (base, dir) = (tiny(arch), tempfile::tempdir().unwrap());
        let path = fixture("tiny").join(arch).join("adapter");
        let tuned = merged(&base, load(&base, &path), &dir.path().join("merged"));
        let (extracted, got) = taken_out(&base, &tuned, &SETTINGS, &dir.path().join("adapter"));
        assert!(extracted.left.is_empty(), "{arch}: {:?}", extracted.left);
        let expected = load(&base, &path);
        let (got, expected) = (pairs(&got), pairs(&expected));
        assert_eq!(got.len(), expected.len(), "{arch}");
        for (got, expected) in got.into_iter().zip(expected) {
            assert_eq!(got.site, expected.site);
            let (ours, theirs) = (product(got), product(expected));
            let apart = length(ours.iter().zip(&theirs).map(|(ours, theirs)| ours - theirs));
            let relative = apart / length(theirs.into_iter());
            assert!(relative < 1e-4, "{arch}, {}: {relative}", got.site);
        }
        let least = extracted
            .captured
            .iter()
            .map(|module| module.energy)
            .fold(1.0, f64::min);
        assert!(least > 1.0 - 1e-6, "{arch}: {least}");
    }
}

#[test]
fn less_rank_holds_less_and_says_how_much() {
    let (base, dir) = (tiny("qwen3"), tempfile::tempdir().unwrap());
    let adapter = load(&base, &fixture("tiny/qwen3/adapter"));
    let tuned = merged(&base, adapter, &dir.path().join("merged"));
    let settings = ExtractSettings { rank: 2, ..SETTINGS };
    let (extracted, got) = taken_out(&base, &tuned, &settings, &dir.path().join("adapter"));
    let expected = load(&base, &fixture("tiny/qwen3/adapter"));
    for ((got, expected), captured) in pairs(&got).into_iter().zip(pairs(&expected)).zip(&extracted.captured) {
        let (ours, theirs) = (product(got), product(expected));
        let lost = length(ours.iter().zip(&theirs).map(|(ours, theirs)| ours - theirs)).powi(2);
        let share = 1.0 - lost / length(theirs.into_iter()).powi(2);
        assert!(
            share < 0.999 && (share - captured.energy).abs() < 1e-3,
            "{}: {share}, told {}",
            captured.module,
            captured.energy
        );
    }
}

/// The weights of two models, tensor by tensor, are as good as the same.
fn assert_same_weights(one: &Checkpoint, other: &Checkpoint, what: &str) {
    let spec = one.spec().clone();
    let folder = |checkpoint: &Checkpoint, dir: &Path| {
        let settings = SaveSettings {
            float: FloatType::F32,
            shard_bytes: SaveSettings::SHARD_BYTES,
            card: "",
        };
        ModelFolder::of(checkpoint)
            .unwrap()
            .write(dir, checkpoint, &settings)
            .unwrap();
        std::fs::read(dir.join("model.safetensors")).unwrap()
    };
    assert_eq!(spec, *other.spec(), "{what}");
    let dir = tempfile::tempdir().unwrap();
    let [one, other] =
        [(one, "one"), (other, "other")].map(|(checkpoint, name)| folder(checkpoint, &dir.path().join(name)));
    let header = 8 + u64::from_le_bytes(one[..8].try_into().unwrap()) as usize;
    assert_eq!(one[..header], other[..header], "{what}");
    let values = |file: &[u8]| -> Vec<f32> {
        file[header..]
            .as_chunks()
            .0
            .iter()
            .map(|&x| f32::from_le_bytes(x))
            .collect()
    };
    let most = values(&one)
        .iter()
        .zip(values(&other))
        .map(|(x, y)| (x - y).abs())
        .fold(0.0, f32::max);
    assert!(most < 2e-6, "{what}: {most} apart");
}

#[test]
fn the_rest_is_told_and_kept_whole_on_demand() {
    for (name, arch, tensors) in [
        (
            "saved-norms",
            "gemma3",
            &["model.norm.weight", "model.layers.0.input_layernorm.weight"][..],
        ),
        ("saved-layer-norms", "gpt2", &["transformer.ln_f.bias"]),
        (
            "saved-modules",
            "llama3-rope",
            &["lm_head.weight", "model.embed_tokens.weight"],
        ),
        ("saved-head-tied", "qwen3", &["lm_head.weight"]),
        ("saved-embedding-scaled", "gemma3", &["model.embed_tokens.weight"]),
        ("bias-only", "qwen2", &["model.layers.0.self_attn.k_proj.bias"]),
        (
            "bias-all-conv1d",
            "gpt2",
            &["transformer.h.0.ln_1.bias", "transformer.h.1.attn.c_attn.bias"],
        ),
    ] {
        let (base, dir) = (tiny(arch), tempfile::tempdir().unwrap());
        let adapter = load(&base, &fixture("tiny-adapters").join(name));
        let tuned = merged(&base, adapter, &dir.path().join("merged"));
        let told = extract(&base, &tuned, &SETTINGS, |_, _| {}).unwrap();
        for tensor in tensors {
            let left = told.left.iter().find(|left| left.tensor == *tensor);
            let left = left.unwrap_or_else(|| panic!("{name}: {tensor} is not told: {:?}", told.left));
            assert!(!left.saved && left.delta > 0.0 && left.elements > 0, "{name}: {left:?}");
        }
        let settings = ExtractSettings {
            save_rest: true,
            ..SETTINGS
        };
        let (extracted, adapter) = taken_out(&base, &tuned, &settings, &dir.path().join("adapter"));
        assert!(extracted.left.iter().all(|left| left.saved), "{name}");
        let again = merged(&base, adapter, &dir.path().join("again"));
        assert_same_weights(&again, &tuned, name);
    }
}

#[test]
fn a_map_that_is_no_target_is_told_too() {
    let (base, dir) = (tiny("llama3-rope"), tempfile::tempdir().unwrap());
    let tuned = merged(
        &base,
        load(&base, &fixture("tiny/llama3-rope/adapter")),
        &dir.path().join("merged"),
    );
    let settings = ExtractSettings {
        targets: vec!["q_proj".to_owned(), "1.mlp.down_proj".to_owned()],
        ..SETTINGS
    };
    let (extracted, adapter) = taken_out(&base, &tuned, &settings, &dir.path().join("adapter"));
    assert_eq!(pairs(&adapter).len(), 4 + 1);
    let left: Vec<&str> = extracted.left.iter().map(|left| left.tensor.as_str()).collect();
    assert_eq!(left.len(), 4 * 7 - 5, "{left:?}");
    assert!(left.contains(&"model.layers.0.mlp.down_proj.weight"), "{left:?}");
}

#[test]
fn embedding_and_output_may_be_targets_where_they_are_not_tied() {
    let (base, dir) = (tiny("llama3-rope"), tempfile::tempdir().unwrap());
    let adapter = load(&base, &fixture("tiny-adapters/head-embedding-untied"));
    let tuned = merged(&base, adapter, &dir.path().join("merged"));
    let settings = ExtractSettings {
        targets: ["embed_tokens", "lm_head", "v_proj"].map(str::to_owned).to_vec(),
        ..SETTINGS
    };
    let (extracted, adapter) = taken_out(&base, &tuned, &settings, &dir.path().join("adapter"));
    assert!(extracted.left.is_empty());
    let again = merged(&base, adapter, &dir.path().join("again"));
    assert_same_weights(&again, &tuned, "embedding and output");
}

#[test]
fn models_that_cannot_be_compared_are_refused() {
    let refused = |base: &str, tuned: &str, settings: &ExtractSettings| {
        let error = extract(&tiny(base), &tiny(tuned), settings, |_, _| {}).expect_err("taken out");
        assert!(matches!(error, OptimizeError::Setting { .. }), "{error}");
        error.to_string()
    };
    let error = refused("qwen2", "qwen3", &SETTINGS);
    assert!(error.contains("--tuned") && error.contains("architecture"), "{error}");
    let error = refused("qwen2", "qwen2", &SETTINGS);
    assert!(error.contains("differ"), "{error}");
    let targets = |name: &str| ExtractSettings {
        targets: vec![name.to_owned()],
        ..SETTINGS
    };
    let error = refused("qwen2", "qwen2", &targets("query"));
    assert!(
        error.contains("--target-modules") && error.contains("self_attn.q_proj"),
        "{error}"
    );
    let error = refused("qwen3", "qwen3", &targets("lm_head"));
    assert!(error.contains("--save-rest"), "{error}");
}
