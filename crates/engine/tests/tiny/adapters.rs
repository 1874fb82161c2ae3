//! Adapters of every kind (tests/fixtures/tiny-adapters) against peft, as trained and at a factor of 0.5.

use std::fs;
use std::path::Path;

use crate::model::{ARCHITECTURES, Expected, Model, assert_near, distance, fixture};

fn check(name: &str, arch: &str) {
    let dir = fixture("tiny-adapters").join(name);
    let expected = Expected::read(&dir.join("expected.safetensors"));
    let base = Expected::of(arch);
    let (whole, half) = (expected.floats("logits"), expected.floats("half"));
    assert!(distance(&whole, &base.floats("logits")) > 0.1);
    let mut model = Model::exact(arch);
    let mut applied = [model.adapter(&dir, 1.0)];
    assert_near(name, &model.logits(&base.ids(), &applied), &whole);
    applied[0].scale = 0.5;
    assert_near(&format!("{name} at 0.5"), &model.logits(&base.ids(), &applied), &half);
    // The base is as it was.
    assert_near(arch, &model.logits(&base.ids(), &[]), &base.floats("logits"));
}

/// Folders whose use is another test's.
const ELSEWHERE: [&str; 3] = ["pissa", "sum-first", "sum-second"];

macro_rules! adapters {
    ($($test:ident $name:literal on $arch:literal)*) => {
        $(#[test] fn $test() { check($name, $arch); })*

        /// Every adapter with its base.
        pub const ALL: &[(&str, &str)] = &[$(($name, $arch)),*];

        #[test]
        fn every_adapter_is_checked() {
            let mut checked = [&[$($name),*][..], &ELSEWHERE].concat();
            let mut folders: Vec<String> = fs::read_dir(fixture("tiny-adapters")).unwrap()
                .map(|entry| entry.unwrap()).filter(|entry| entry.path().is_dir())
                .map(|entry| entry.file_name().into_string().unwrap()).collect();
            checked.sort_unstable();
            folders.sort_unstable();
            assert_eq!(checked, folders);
        }
    };
}

adapters! {
    dora "dora" on "llama3-rope"
    dora_on_the_head "dora-head" on "llama3-rope"
    dora_on_embedding_and_head "dora-embedding-head" on "llama3-rope"
    dora_with_biases_and_rslora "dora-bias" on "llama-bias"
    dora_on_conv1d "dora-conv1d" on "gpt2"
    dora_on_fused_projections "dora-fused" on "phi3"
    fused_projections_of_some_layers "fused-some" on "phi3"
    all_linear "all-linear" on "phi3"
    head_and_embedding_of_a_tied_base "head-embedding-tied" on "qwen3"
    head_and_embedding_of_an_untied_base "head-embedding-untied" on "llama3-rope"
    embedding_beside_conv1d "embedding-conv1d" on "gpt2"
    scaled_embedding "embedding-scaled" on "gemma3"
    base_weights_saved_beside_the_pair "embedding-base-beside" on "llama3-rope"
    saved_head_embedding_and_norm "saved-modules" on "llama3-rope"
    saved_head_of_a_tied_base "saved-head-tied" on "qwen3"
    saved_embedding_that_is_scaled "saved-embedding-scaled" on "gemma3"
    saved_norms_with_an_offset "saved-norms" on "gemma3"
    saved_norms_of_heads "saved-head-norms" on "qwen3"
    saved_layer_norms "saved-layer-norms" on "gpt2"
    saved_projections "saved-projection" on "qwen2"
    every_bias "bias-all" on "llama-bias"
    biases_of_the_targets "bias-only" on "qwen2"
    every_bias_of_conv1d_and_norms "bias-all-conv1d" on "gpt2"
    bias_of_the_pair "lora-bias" on "qwen2"
    bias_of_the_pair_on_fused_projections "lora-bias-fused" on "phi3"
    patterns_on_some_layers "layers" on "smollm3"
    converted_pissa "pissa-converted" on "qwen2"
}

#[test]
fn pissa_is_converted_with_its_initial_pairs_and_refused_without() {
    let dir = fixture("tiny-adapters/pissa");
    let (expected, base) = (Expected::read(&dir.join("expected.safetensors")), Expected::of("qwen2"));
    let mut model = Model::exact("qwen2");
    let applied = [model.adapter(&dir, 1.0)];
    assert_near(
        "pissa",
        &model.logits(&base.ids(), &applied),
        &expected.floats("logits"),
    );
    // Without, nothing tells what was subtracted from the base.
    let alone = tempfile::tempdir().unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(dir.join(file), alone.path().join(file)).unwrap();
    }
    let Err(error) = model.try_adapter(alone.path()) else {
        panic!("a PiSSA adapter without its initial pairs was accepted");
    };
    assert_eq!(error.code.as_str(), "adapter_unsupported_field", "{error}");
    assert!(error.to_string().contains("init_lora_weights"), "{error}");
}

/// Copies an adapter of F32 tensors with every B halved.
fn with_halved_b(from: &Path, to: &Path) {
    fs::copy(from.join("adapter_config.json"), to.join("adapter_config.json")).unwrap();
    let mut file = fs::read(from.join("adapter_model.safetensors")).unwrap();
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&file[8..8 + length]).unwrap();
    for (name, info) in header.as_object().unwrap() {
        if !name.ends_with(".lora_B.weight") {
            continue;
        }
        assert_eq!(info["dtype"], "F32");
        let at = |index: usize| 8 + length + info["data_offsets"][index].as_u64().unwrap() as usize;
        for word in file[at(0)..at(1)].chunks_exact_mut(4) {
            let value = f32::from_le_bytes(word.try_into().unwrap());
            word.copy_from_slice(&(value / 2.0).to_le_bytes());
        }
    }
    fs::write(to.join("adapter_model.safetensors"), file).unwrap();
}

#[test]
fn half_the_scale_is_half_of_b() {
    for arch in ARCHITECTURES {
        let ids = Expected::of(arch).ids();
        let dir = fixture("tiny").join(arch).join("adapter");
        let halved = tempfile::tempdir().unwrap();
        with_halved_b(&dir, halved.path());
        let mut model = Model::exact(arch);
        let by_scale = [model.adapter(&dir, 0.5)];
        let by_hand = [model.adapter(halved.path(), 1.0)];
        let (by_scale, by_hand) = (model.logits(&ids, &by_scale), model.logits(&ids, &by_hand));
        assert!(distance(&by_scale, &by_hand) <= 1e-5, "{arch}");
        assert!(
            distance(&by_scale, &Expected::of(arch).floats("logits")) > 0.1,
            "{arch}"
        );
    }
}
