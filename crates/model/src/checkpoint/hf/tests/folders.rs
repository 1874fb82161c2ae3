//! The files of a folder: shards, names in them, and what else may lie there.

use serde_json::json;

use super::*;

const INDEX: &str = "model.safetensors.index.json";

/// Writes a model in two files, the first layer apart, and an index that `change` may change.
fn sharded(model: &Model, change: impl FnOnce(&mut Value)) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    model.write_config(dir.path());
    let first = |name: &str| name.contains(".0.");
    let file = |name: &str| {
        if first(name) {
            "model-00001-of-00002.safetensors"
        } else {
            "model-00002-of-00002.safetensors"
        }
    };
    model.write_weights(&dir.path().join(file(".0.")), first);
    model.write_weights(&dir.path().join(file("")), |name| !first(name));
    let map: Map<String, Value> = model
        .tensors
        .keys()
        .map(|name| (name.clone(), file(name).into()))
        .collect();
    let mut index = json!({"metadata": {"total_size": 1}, "weight_map": map});
    change(&mut index);
    std::fs::write(dir.path().join(INDEX), index.to_string()).unwrap();
    dir
}

#[test]
fn shards_are_one_model() {
    let model = Model::tiny("llama-bias");
    let (whole, parts) = (
        model.open().unwrap(),
        Checkpoint::open(sharded(&model, |_| ()).path()).unwrap(),
    );
    assert_eq!(whole.spec(), parts.spec());
    for layer in 0..4 {
        for projection in crate::Projection::ALL {
            let bytes = |checkpoint: &Checkpoint| checkpoint.projection(layer, projection).unwrap().bytes.into_owned();
            assert_eq!(bytes(&whole), bytes(&parts));
        }
    }
}

#[test]
fn an_index_that_contradicts_its_files_is_refused() {
    let model = Model::tiny("llama-bias");
    let norm = "model.layers.0.input_layernorm.weight";
    let table: [(&str, Value, &str); 7] = [
        (
            norm,
            json!("model-00002-of-00002.safetensors"),
            "is in the file but not in model.safetensors.index.json",
        ),
        (
            "model.extra",
            json!("model-00001-of-00002.safetensors"),
            "\"model.extra\" is not in the file",
        ),
        (
            norm,
            json!("../model-00001-of-00002.safetensors"),
            "is not the name of a safetensors file",
        ),
        (
            norm,
            json!("/etc/model.safetensors"),
            "is not the name of a safetensors file",
        ),
        (
            norm,
            json!("model-00001-of-00002.bin"),
            "is not the name of a safetensors file",
        ),
        (norm, json!(1), "is not the name of a safetensors file"),
        (norm, json!("a\nb.safetensors"), "is not the name of a safetensors file"),
    ];
    for (tensor, file, expected) in table {
        let refusal = refusal(sharded(&model, |index| index["weight_map"][tensor] = file.clone()).path());
        assert!(refusal.contains(expected), "{file}: {refusal}");
    }
    let refusal = refusal(sharded(&model, |index| *index = json!({})).path());
    assert!(refusal.contains("weight_map: expected an object"), "{refusal}");
}

#[test]
fn weights_that_the_index_does_not_name_are_not_read() {
    let model = Model::tiny("mistral");
    let dir = sharded(&model, |_| ());
    std::fs::write(
        dir.path().join("consolidated.safetensors"),
        "the same weights by other names",
    )
    .unwrap();
    assert!(Checkpoint::open(dir.path()).is_ok_and(|checkpoint| *checkpoint.spec() == model.spec()));
}

#[test]
fn a_missing_shard_is_named() {
    let dir = sharded(&Model::tiny("qwen2"), |_| ());
    std::fs::remove_file(dir.path().join("model-00001-of-00002.safetensors")).unwrap();
    let refusal = refusal(dir.path());
    assert!(
        refusal.contains("model-00001-of-00002.safetensors: No such file"),
        "{refusal}"
    );
}

#[test]
fn an_index_beside_a_whole_file_is_refused() {
    let model = Model::tiny("qwen2");
    let dir = sharded(&model, |_| ());
    model.write_weights(&dir.path().join("model.safetensors"), |_| true);
    let refusal = refusal(dir.path());
    assert!(refusal.contains("expected one of them, got both"), "{refusal}");
}

#[test]
fn pickles_and_folders_without_a_model_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert!(refusal(dir.path()).contains("config.json is missing"));
    std::fs::write(dir.path().join("adapter_config.json"), "{}").unwrap();
    assert!(refusal(dir.path()).contains("an adapter is no base model"));
    Model::tiny("qwen2").write_config(dir.path());
    assert!(refusal(dir.path()).contains("model.safetensors is missing"));
    std::fs::write(dir.path().join("pytorch_model.bin"), "").unwrap();
    let pickle = refusal(dir.path());
    assert!(
        pickle.contains("pytorch_model.bin: pickled weights") && pickle.contains("safetensors"),
        "{pickle}"
    );
    std::fs::write(dir.path().join("config.json"), "[1]").unwrap();
    assert!(refusal(dir.path()).contains("config.json: expected a JSON object"));
}

#[test]
fn the_hash_is_that_of_configuration_and_weights() {
    let model = Model::tiny("qwen3");
    let hash = |model: &Model| model.open().unwrap().hash();
    assert_eq!(hash(&model), hash(&Model::tiny("qwen3")));
    assert_ne!(
        hash(&model),
        hash(&Model::tiny("qwen3").set("rms_norm_eps", json!(1e-5)))
    );
    let mut other = Model::tiny("qwen3");
    other.tensors.get_mut("model.norm.weight").unwrap().2[0] ^= 1;
    assert_ne!(hash(&model), hash(&other));
    assert_ne!(
        hash(&model),
        Checkpoint::open(sharded(&model, |_| ()).path()).unwrap().hash()
    );
}

#[test]
fn half_precision_is_read() {
    for (dtype, kind) in [
        (Dtype::F16, rootstock_formats::DType::F16),
        (Dtype::BF16, rootstock_formats::DType::BF16),
    ] {
        for name in ["llama-bias", "gpt2"] {
            let mut model = Model::tiny(name);
            for (stored, _, bytes) in model.tensors.values_mut() {
                *stored = dtype;
                let narrow = |value: f32| match dtype {
                    Dtype::F16 => half::f16::from_f32(value).to_le_bytes(),
                    _ => half::bf16::from_f32(value).to_le_bytes(),
                };
                *bytes = floats(bytes).into_iter().flat_map(narrow).collect();
            }
            let checkpoint = model.open().unwrap();
            let (matrix, bias) = (checkpoint.projection(0, crate::Projection::Key).unwrap(), |layer| {
                checkpoint.bias(layer, crate::Projection::Key).unwrap()[0]
            });
            assert_eq!(
                (matrix.dtype, matrix.bytes.len()),
                (kind, matrix.rows * 64 * 2),
                "{name}"
            );
            let whole = Model::tiny(name).open().unwrap();
            assert!((bias(1) - whole.bias(1, crate::Projection::Key).unwrap()[0]).abs() < 1e-3);
        }
    }
}

#[test]
fn names_may_lack_the_prefix() {
    for (name, prefix) in [("gpt2", "transformer."), ("qwen2", "model."), ("phi3", "model.")] {
        let bare = |name: &str| Some(name.strip_prefix(prefix).unwrap_or(name).to_owned());
        assert_eq!(
            Model::tiny(name).renamed(bare).spec(),
            Model::tiny(name).spec(),
            "{name}"
        );
    }
    let some = Model::tiny("qwen2").renamed(|name| Some(name.replace("model.norm", "norm")));
    assert!(
        some.refusal().contains("tensor model.norm.weight [64] is missing"),
        "{}",
        some.refusal()
    );
}

#[test]
fn tensors_that_repeat_what_is_known_are_accepted() {
    let table = |name: &str, shape: &[usize], dtype: Dtype, bytes: usize| {
        (name.to_owned(), (dtype, shape.to_vec(), vec![1; bytes]))
    };
    let llama = [
        table("model.layers.3.self_attn.rotary_emb.inv_freq", &[8], Dtype::F32, 32),
        table("model.rotary_emb.inv_freq", &[8], Dtype::F32, 32),
    ];
    let gpt2 = [
        table("transformer.h.0.attn.bias", &[1, 1, 4, 4], Dtype::BOOL, 16),
        table("transformer.h.3.attn.masked_bias", &[], Dtype::F32, 4),
    ];
    for (name, implied) in [("llama-bias", llama), ("gpt2", gpt2)] {
        let mut model = Model::tiny(name);
        model.tensors.extend(implied);
        assert_eq!(model.spec(), Model::tiny(name).spec());
    }
    for name in [
        "transformer.h.4.attn.bias",
        "transformer.attn.bias",
        "model.rotary_emb.inv_freq",
        "score.weight",
    ] {
        let (name, tensor) = table(name, &[1], Dtype::F32, 4);
        let refusal = Model::tiny("gpt2").with(&name, tensor).refusal();
        assert!(
            refusal.contains(&format!("tensor {name:?}: the architecture has no place for it")),
            "{refusal}"
        );
    }
}

#[test]
fn a_tied_output_may_be_repeated_but_not_differ() {
    let model = Model::tiny("qwen2");
    let mut output = model.tensors["model.embed_tokens.weight"].clone();
    assert_eq!(
        Model::tiny("qwen2").with("lm_head.weight", output.clone()).spec(),
        model.spec()
    );
    output.2[0] ^= 1;
    let changed = Model::tiny("qwen2").with("lm_head.weight", output);
    let refusal = changed.refusal();
    assert!(
        refusal.contains("tensor lm_head.weight: differs from model.embed_tokens.weight"),
        "{refusal}"
    );
    let untied = changed.set("tie_word_embeddings", json!(false));
    assert!(!untied.spec().tied_output);
    let refusal = model.set("tie_word_embeddings", json!(false)).refusal();
    assert!(
        refusal.contains("tensor lm_head.weight [256, 64] is missing"),
        "{refusal}"
    );
}

#[test]
fn integers_are_no_weights() {
    let mut model = Model::tiny("qwen2");
    model.tensors.get_mut("model.layers.0.mlp.up_proj.weight").unwrap().0 = Dtype::I32;
    let refusal = model.refusal();
    assert!(
        refusal.contains("tensor model.layers.0.mlp.up_proj.weight: elements of type I32"),
        "{refusal}"
    );
}
