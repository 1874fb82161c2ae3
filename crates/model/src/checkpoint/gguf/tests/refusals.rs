use std::path::Path;

use proptest::prelude::*;

use super::*;

#[test]
fn unknown_architectures_are_refused_by_name() {
    let message = refusal(|file| file.set("general.architecture", text("mamba")));
    let expected = r#"general.architecture: "mamba" is not supported (supported: llama, qwen2, qwen3, gemma3, phi3, smollm3, gpt2)"#;
    assert!(message.ends_with(expected), "{message}");
    let adapter = refusal(|file| file.set("general.type", text("adapter")));
    assert!(
        adapter.ends_with(r#"general.type: "adapter" is not a base model (supported: "model")"#),
        "{adapter}"
    );
    let mut model = File::tiny();
    model.set("general.type", text("model"));
    model.open().unwrap();
}

#[test]
fn metadata_that_would_change_the_numbers_is_refused_by_name() {
    let mut plain = File::tiny();
    plain.set("llama.rope.scaling.type", text("none"));
    plain.set("llama.expert_count", Value::U32(0));
    plain.set("llama.final_logit_softcapping", Value::F32(0.0));
    plain.set("llama.tensor_data_layout", text("Meta AI original pth"));
    plain.open().unwrap();
    for (key, value) in [
        ("llama.expert_count", Value::U32(8)),
        ("llama.attention.causal", Value::Bool(false)),
        ("llama.attention.value_length", Value::U32(2)),
        ("llama.attention.scale", Value::F32(0.1)),
        ("llama.attention.clamp_kqv", Value::F32(8.0)),
        ("llama.attention.layer_norm_epsilon", Value::F32(1e-5)),
        ("llama.attn_logit_softcapping", Value::F32(50.0)),
        ("llama.final_logit_softcapping", Value::F32(30.0)),
        ("llama.logit_scale", Value::F32(0.5)),
        ("llama.nextn_predict_layers", Value::U32(1)),
        ("llama.vocab_size", Value::U32(5)),
        ("llama.attention.head_count_kv", Value::U32(3)),
        ("llama.something.new", Value::U32(0)),
    ] {
        let message = refusal(|file| file.set(key, value));
        assert!(message.contains(key), "{key}: {message}");
    }
    let gpt2 = refusal_of(File::of("gpt2", 1), |file| {
        file.set("gpt2.rope.freq_base", Value::F32(1e4))
    });
    assert!(gpt2.contains("gpt2.rope.freq_base"), "{gpt2}");
}

#[test]
fn impossible_sizes_are_refused_by_name() {
    for (key, size) in [
        ("llama.block_count", u32::MAX),
        ("llama.block_count", 1 << 20),
        ("llama.embedding_length", 0),
        ("llama.attention.head_count", 0),
        ("llama.attention.head_count", 9),
        ("llama.attention.key_length", 3),
        ("llama.attention.sliding_window", u32::MAX),
    ] {
        let message = refusal(|file| file.set(key, Value::U32(size)));
        assert!(message.contains("llama."), "{key}: {message}");
    }
    for epsilon in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let key = "llama.attention.layer_norm_rms_epsilon";
        assert!(refusal(|file| file.set(key, Value::F32(epsilon))).contains(key));
    }
    for key in [
        "block_count",
        "feed_forward_length",
        "attention.head_count",
        "attention.layer_norm_rms_epsilon",
    ] {
        let missing = refusal(|file| drop(file.metadata.remove(&format!("llama.{key}"))));
        assert!(missing.contains(&format!("llama.{key}")), "{missing}");
    }
}

#[test]
fn missing_and_misshapen_tensors_are_refused_by_name() {
    for family in super::super::architectures() {
        for name in File::of(family, 1).tensors.keys() {
            let missing = refusal_of(File::of(family, 1), |file| drop(file.tensors.remove(name)));
            // Without a shared tensor its maps are looked for apart.
            let named = missing.contains(&format!("tensor {name}")) || name.contains("attn_qkv");
            assert!(named && missing.contains("missing"), "{family}: {missing}");
            let misshapen = refusal_of(File::of(family, 1), |file| file.tensor(name, &[3, 5], F32));
            assert!(misshapen.contains(name), "{family}: {misshapen}");
        }
    }
    let shape = refusal(|file| file.tensor("blk.0.ffn_up.weight", &[8, 16], F32));
    assert!(
        shape.ends_with("tensor blk.0.ffn_up.weight: expected shape [16, 8], got [8, 16]"),
        "{shape}"
    );
    let block = refusal(|file| file.tensor("output_norm.weight", &[32], 8));
    assert!(block.contains("output_norm.weight"), "{block}");
}

#[test]
fn tensors_without_a_role_are_refused_by_name() {
    for name in [
        "output.bias",
        "blk.0.attn_norm.bias",
        "blk.0.attn_q_norm.weight",
        "blk.1.attn_q.weight",
        "cls.weight",
    ] {
        let message = refusal(|file| file.tensor(name, &[8], F32));
        assert!(message.contains(name), "{message}");
    }
    let factors = refusal_of(File::of("gpt2", 1), |file| file.tensor("rope_freqs.weight", &[2], F32));
    assert!(factors.contains("rope_freqs.weight"), "{factors}");
    // A map cannot lie in two places.
    let twice = refusal_of(File::of("gpt2", 1), |file| {
        file.tensor("blk.0.attn_q.weight", &[8, 8], F32)
    });
    assert!(twice.contains("blk.0.attn_q.weight"), "{twice}");
}

#[test]
fn a_refusal_names_the_file() {
    let error = Checkpoint::open(Path::new("no/such/model.gguf"))
        .err()
        .expect("a refusal");
    assert!(error.to_string().starts_with("no/such/model.gguf: "), "{error}");
}

#[test]
fn a_big_endian_file_is_refused_with_what_to_do() {
    let mut bytes = File::tiny().bytes();
    bytes[4..8].reverse();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("big.gguf");
    std::fs::write(&path, bytes).unwrap();
    let message = Checkpoint::open(&path).err().expect("a refusal").to_string();
    let expected = "big endian is not supported (supported: little endian; convert the file with gguf-convert-endian)";
    assert!(message.ends_with(expected), "{message}");
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u32>().prop_map(Value::U32),
        (0u32..20).prop_map(Value::U32),
        any::<f32>().prop_map(Value::F32),
        any::<bool>().prop_map(Value::Bool),
        prop::sample::select(vec!["yarn", "linear", "longrope", "none", ""]).prop_map(text),
        prop::collection::vec(0u32..20, 0..9).prop_map(|items| Value::Array(Array::U32(items))),
        prop::collection::vec(any::<bool>(), 0..9).prop_map(|items| Value::Array(Array::Bool(items))),
    ]
}

fn any_key() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.value_length",
        "attention.layer_norm_epsilon",
        "attention.layer_norm_rms_epsilon",
        "attention.sliding_window",
        "attention.sliding_window_pattern",
        "rope.dimension_count",
        "rope.freq_base",
        "rope.freq_base_swa",
        "rope.scaling.type",
        "rope.scaling.factor",
        "rope.scaling.attn_factor",
        "rope.scaling.original_context_length",
        "rope.scaling.yarn_beta_fast",
        "rope.scaling.yarn_beta_slow",
        "vocab_size",
    ])
}

proptest! {
    #[test]
    fn mutated_metadata_opens_or_is_refused(
        family in prop::sample::select(super::super::architectures().collect::<Vec<_>>()),
        layers in 1usize..4,
        changes in prop::collection::vec((any_key(), any_value()), 1..4),
        factors in prop::option::of(prop::sample::select(super::super::rotary::TENSORS.to_vec())),
    ) {
        let mut file = File::of(family, layers);
        for (key, value) in changes {
            file.set(&format!("{family}.{key}"), value);
        }
        if let Some(name) = factors {
            file.tensor(name, &[2], F32);
        }
        if let Ok(model) = file.open() {
            for layer in 0..model.spec().layers.len() {
                for projection in model.spec().layers[layer].projections() {
                    let matrix = model.projection(layer, projection).unwrap();
                    prop_assert_eq!(matrix.row(matrix.rows - 1).len(), matrix.row_bytes());
                }
            }
        }
    }

    #[test]
    fn mutated_bytes_open_or_are_refused(
        family in prop::sample::select(super::super::architectures().collect::<Vec<_>>()),
        changes in prop::collection::vec((0usize..2500, any::<u8>()), 1..6),
    ) {
        let mut bytes = File::of(family, 1).bytes();
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        std::fs::write(&path, bytes).unwrap();
        if let Ok(model) = Checkpoint::open(&path) {
            let _ = (model.tokenizer(), model.chat_template());
            prop_assert!(model.embedding().is_ok() && model.output().is_ok());
        }
    }
}
