mod file;
mod text;

use rootstock_formats::gguf::{Array, Value};

use self::file::{F16, F32, File};
use super::*;
use crate::FeedForward;

fn refusal(change: impl FnOnce(&mut File)) -> String {
    let mut file = File::tiny();
    change(&mut file);
    file.open().err().expect("a refusal").to_string()
}

fn site(projection: Projection) -> Site {
    Site { layer: 0, projection }
}

/// First element of a row of F32.
fn first(row: &[u8]) -> f32 {
    f32::from_le_bytes(*row.first_chunk().unwrap())
}

#[test]
fn a_whole_file_opens_with_its_roles() {
    let model = File::tiny().open().unwrap();
    let spec = model.spec();
    assert_eq!(
        (spec.vocab_size, spec.hidden_size, spec.context_length, spec.tied_output),
        (6, 8, 64, true)
    );
    assert_eq!(
        (spec.layers[0].attention.head_dim, spec.layers[0].attention.scale),
        (4, 0.5)
    );
    let FeedForward::Gated { inner_size, .. } = spec.layers[0].feed_forward;
    assert_eq!(inner_size, 16);
    assert_eq!(
        model.norm(NormSite::Final),
        (0..8).map(|i| i as f32).collect::<Vec<_>>()
    );
    let down = model.projection(site(Projection::Down));
    assert_eq!((down.rows, down.cols, first(down.row(3))), (8, 16, 48.0));
}

#[test]
fn the_content_hash_is_over_every_byte_of_the_file() {
    let file = File::tiny();
    let hash = file.open().unwrap().hash();
    assert_eq!(hash.to_string(), blake3::hash(&file.bytes()).to_hex().as_str());
}

#[test]
fn an_output_projection_is_used_where_there_is_one() {
    let mut file = File::tiny();
    assert_eq!(file.open().unwrap().output().rows, 6);
    file.tensor("output.weight", &[6, 8], F16);
    let model = file.open().unwrap();
    assert!(!model.spec().tied_output);
    assert_eq!(model.output().dtype, rootstock_formats::DType::F16);
}

/// llama.cpp's converter: `weights.reshape(heads, 2, head_dim / 2, inputs).swapaxes(1, 2)`.
#[test]
fn query_and_key_rows_are_found_where_the_converter_put_them() {
    let model = File::tiny().open().unwrap();
    let query = model.projection(site(Projection::Query));
    let (heads, half) = (2, 2);
    let mut stored = 0;
    for head in 0..heads {
        for pair in 0..half {
            for part in 0..2 {
                let row = head * 2 * half + part * half + pair;
                assert_eq!(first(query.row(row)), (stored * 8) as f32, "row {row}");
                stored += 1;
            }
        }
    }
    assert_ne!(model.projection(site(Projection::Key)).row_order, RowOrder::Natural);
    assert_eq!(model.projection(site(Projection::Value)).row_order, RowOrder::Natural);
}

#[test]
fn heads_may_be_wider_than_their_share_of_the_residual_stream() {
    let mut file = File::tiny();
    file.set("llama.attention.key_length", Value::U32(6));
    file.set("llama.attention.value_length", Value::U32(6));
    for (name, shape) in [("q", [12, 8]), ("k", [6, 8]), ("v", [6, 8]), ("output", [8, 12])] {
        file.tensor(&format!("blk.0.attn_{name}.weight"), &shape, F32);
    }
    assert_eq!(file.open().unwrap().spec().layers[0].attention.head_dim, 6);
}

#[test]
fn unknown_architectures_are_refused_by_name() {
    let message = refusal(|file| file.set("general.architecture", Value::String("mamba".to_owned())));
    assert!(
        message.ends_with(r#"general.architecture: "mamba" is not supported (supported: llama)"#),
        "{message}"
    );
}

#[test]
fn metadata_that_would_change_the_numbers_is_refused_by_name() {
    let scaling = |kind: &str| Value::String(kind.to_owned());
    File::tiny().open().unwrap();
    let mut plain = File::tiny();
    plain.set("llama.rope.scaling.type", scaling("none"));
    plain.set("llama.expert_count", Value::U32(0));
    plain.open().unwrap();
    for (key, value) in [
        ("llama.rope.scaling.type", scaling("linear")),
        ("llama.rope.scaling.factor", Value::F32(2.0)),
        ("llama.expert_count", Value::U32(8)),
        ("llama.attention.sliding_window", Value::U32(16)),
        ("llama.attention.causal", Value::Bool(false)),
        ("llama.attention.value_length", Value::U32(2)),
        ("llama.rope.dimension_count", Value::U32(2)),
        ("llama.vocab_size", Value::U32(5)),
        ("llama.attention.head_count_kv", Value::U32(3)),
    ] {
        let message = refusal(|file| file.set(key, value));
        assert!(message.contains(key), "{key}: {message}");
    }
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
    ] {
        let message = refusal(|file| file.set(key, Value::U32(size)));
        assert!(message.contains("llama."), "{key}: {message}");
    }
    for epsilon in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let key = "llama.attention.layer_norm_rms_epsilon";
        assert!(refusal(|file| file.set(key, Value::F32(epsilon))).contains(key));
    }
    let missing = refusal(|file| drop(file.metadata.remove("llama.block_count")));
    assert!(missing.contains("llama.block_count"), "{missing}");
}

#[test]
fn missing_and_misshapen_tensors_are_refused_by_name() {
    for name in File::tiny().tensors.keys() {
        let missing = refusal(|file| drop(file.tensors.remove(name)));
        assert!(
            missing.contains(&format!("tensor {name}")) && missing.contains("missing"),
            "{missing}"
        );
        let misshapen = refusal(|file| file.tensor(name, &[3, 5], F32));
        assert!(misshapen.contains(name), "{misshapen}");
    }
    let shape = refusal(|file| file.tensor("blk.0.ffn_up.weight", &[8, 16], F32));
    assert!(
        shape.ends_with("tensor blk.0.ffn_up.weight: expected shape [16, 8], got [8, 16]"),
        "{shape}"
    );
    let half = refusal(|file| file.tensor("output_norm.weight", &[8], F16));
    assert!(
        half.contains("output_norm.weight: F16 is not supported for a normalisation"),
        "{half}"
    );
}

#[test]
fn tensors_without_a_role_are_refused_by_name() {
    for name in ["rope_freqs.weight", "blk.0.attn_q.bias", "blk.1.attn_q.weight"] {
        let message = refusal(|file| file.tensor(name, &[8], F32));
        assert!(message.contains(name), "{message}");
    }
}

#[test]
fn a_refusal_names_the_file() {
    let error = Checkpoint::open(Path::new("no/such/model.gguf"))
        .err()
        .expect("a refusal");
    assert!(error.to_string().starts_with("no/such/model.gguf: "), "{error}");
}
