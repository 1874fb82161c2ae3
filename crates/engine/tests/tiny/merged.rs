//! Adapters in the weights of their base (`rootstock-optimize`): the folder that is written gives by itself the logits that base
//! and adapter give together.

use std::path::{Path, PathBuf};

use rootstock_model::adapter::{AdapterLimits, Base, load_adapter};
use rootstock_model::{Checkpoint, FloatType, ModelFolder, SaveSettings};
use rootstock_optimize::merge::{Blend, Change, Merged, Part};

use crate::adapters;
use crate::model::{ARCHITECTURES, EXACT, Expected, Model, assert_near, distance, fixture};

/// Writes the base `arch` with adapters in its weights.
fn merge(arch: &str, adapters: &[(PathBuf, f32)], blend: Blend, to: &Path) -> Result<Vec<Change>, String> {
    let checkpoint = Checkpoint::open(&fixture("tiny").join(arch)).unwrap();
    let base = Base {
        spec: checkpoint.spec(),
        hash: checkpoint.hash(),
    };
    let limits = AdapterLimits {
        max_rank: 64,
        max_bytes: 1 << 24,
    };
    let parts = adapters.iter().map(|(dir, weight)| Part {
        name: dir.display().to_string(),
        adapter: load_adapter(dir, base, limits).unwrap_or_else(|error| panic!("{}: {error}", dir.display())),
        weight: *weight,
    });
    let merged = Merged::new(&checkpoint, parts.collect(), blend, 2).map_err(|error| error.to_string())?;
    let folder = ModelFolder::with(&checkpoint, merged.additions()).map_err(|error| error.to_string())?;
    let settings = SaveSettings {
        float: FloatType::F32,
        shard_bytes: SaveSettings::SHARD_BYTES,
        card: "",
    };
    folder
        .write(to, &merged, &settings)
        .map_err(|error| error.to_string())?;
    Ok(merged.into_changes())
}

/// The logits of what is written.
fn logits(arch: &str, adapters: &[(PathBuf, f32)]) -> Vec<f32> {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("merged");
    let changes = merge(arch, adapters, Blend::Linear, &to).unwrap_or_else(|error| panic!("{arch}: {error}"));
    assert!(
        !changes.is_empty()
            && changes
                .iter()
                .all(|change| change.delta > 0.0 && change.delta.is_finite())
    );
    Model::at(&to, EXACT).logits(&Expected::of(arch).ids(), &[])
}

/// Adapters whose biases no config.json of their base's family can state.
const WITHOUT_PLACE: [&str; 2] = ["lora-bias", "lora-bias-fused"];

#[test]
fn every_kind_of_adapter_gives_peft_s_logits_from_the_weights_alone() {
    for &(name, arch) in adapters::ALL.iter().filter(|(name, _)| !WITHOUT_PLACE.contains(name)) {
        let dir = fixture("tiny-adapters").join(name);
        let expected = Expected::read(&dir.join("expected.safetensors"));
        for (weight, values) in [(1.0, "logits"), (0.5, "half")] {
            let got = logits(arch, &[(dir.clone(), weight)]);
            assert_near(&format!("{name} at {weight} merged"), &got, &expected.floats(values));
        }
    }
}

#[test]
fn every_architecture_takes_its_adapter_into_its_weights() {
    for arch in ARCHITECTURES {
        let got = logits(arch, &[(fixture("tiny").join(arch).join("adapter"), 1.0)]);
        assert_near(
            &format!("{arch} merged"),
            &got,
            &Expected::of(arch).floats("adapter_logits"),
        );
    }
}

#[test]
fn a_weighted_sum_is_what_a_request_for_it_gets() {
    for (sum, arch, parts) in [
        ("lora-lora", "mistral", [("sum-first", 0.7), ("sum-second", -0.4)]),
        ("dora-saved", "llama3-rope", [("dora", 0.7), ("saved-modules", 0.6)]),
        ("dora-dora", "llama3-rope", [("dora", 0.5), ("dora-head", 0.8)]),
        ("bias-dora", "llama-bias", [("bias-all", 0.5), ("dora-bias", 0.25)]),
    ] {
        let expected = Expected::read(&fixture(&format!("tiny-adapters/sum-of-{sum}.safetensors")));
        let parts = parts.map(|(name, weight)| (fixture("tiny-adapters").join(name), weight));
        assert_near(sum, &logits(arch, &parts), &expected.floats("logits"));
    }
}

#[test]
fn an_initial_adapter_is_subtracted() {
    let dir = fixture("tiny-adapters/pissa");
    let expected = Expected::read(&dir.join("expected.safetensors")).floats("logits");
    assert_near("pissa merged", &logits("qwen2", &[(dir, 1.0)]), &expected);
}

#[test]
fn biases_are_added_where_config_json_can_say_so_and_refused_elsewhere() {
    // Llama's has a field for those of attention and one for those of the feed-forward; the adapter fits it as it fits Qwen 2.
    let dir = fixture("tiny-adapters/lora-bias");
    let mut model = Model::exact("llama3-rope");
    let applied = [model.adapter(&dir, 1.0)];
    let ids = Expected::of("llama3-rope").ids();
    let together = model.logits(&ids, &applied);
    assert!(distance(&together, &model.logits(&ids, &[])) > 0.1);
    assert_near(
        "bias of a pair merged",
        &logits("llama3-rope", &[(dir.clone(), 1.0)]),
        &together,
    );
    for (name, arch) in [("lora-bias", "qwen2"), ("lora-bias-fused", "phi3")] {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("merged");
        let refused = merge(arch, &[(fixture("tiny-adapters").join(name), 1.0)], Blend::Linear, &to);
        let error = refused.expect_err(name);
        assert!(error.contains(arch) && error.contains("cannot say"), "{error}");
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            0,
            "{name} left something"
        );
    }
}

#[test]
fn an_untied_output_is_a_tensor_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("merged");
    let adapter = fixture("tiny-adapters/saved-head-tied");
    let changes = merge("qwen3", &[(adapter, 1.0)], Blend::Linear, &to).unwrap();
    assert!(changes.iter().any(|change| change.tensor == "output"));
    assert!(Checkpoint::open(&fixture("tiny/qwen3")).unwrap().spec().tied_output);
    assert!(!Checkpoint::open(&to).unwrap().spec().tied_output);
}

#[test]
fn a_bottleneck_is_refused_by_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let adapter = fixture("bottleneck/houlsby");
    let refused = merge(
        "llama3-rope",
        &[(adapter, 1.0)],
        Blend::Linear,
        &dir.path().join("merged"),
    );
    let error = refused.expect_err("a bottleneck was merged");
    assert!(error.contains("not linear") && error.contains("layer 0"), "{error}");
}
