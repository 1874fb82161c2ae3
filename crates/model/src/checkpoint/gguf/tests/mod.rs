mod file;
mod parts;
mod refusals;
mod rotary;
mod text;

use rootstock_formats::gguf::{Array, Value};

use self::file::{F16, F32, File};
use crate::{Checkpoint, FeedForward, MatrixView, NormKind, NormSite, Position, Projection, RowOrder};

fn refusal(change: impl FnOnce(&mut File)) -> String {
    refusal_of(File::tiny(), change)
}

fn refusal_of(mut file: File, change: impl FnOnce(&mut File)) -> String {
    change(&mut file);
    file.open().err().expect("a refusal").to_string()
}

fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

fn projection(model: &Checkpoint, projection: Projection) -> MatrixView<'_> {
    model.projection(0, projection).unwrap()
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
    assert_eq!((spec.norm.kind, spec.norm.epsilon), (NormKind::Rms, 1e-5));
    assert_eq!(
        (spec.layers[0].attention.head_dim, spec.layers[0].attention.scale),
        (4, 0.5)
    );
    assert!(matches!(
        spec.layers[0].feed_forward,
        FeedForward::Gated { inner_size: 16, .. }
    ));
    let numbers: Vec<f32> = (0..8).map(|i| i as f32).collect();
    assert_eq!(model.norm(NormSite::Final).weight, numbers);
    let down = projection(&model, Projection::Down);
    assert_eq!((down.rows, down.cols, first(down.row(3))), (8, 16, 48.0));
}

#[test]
fn every_family_opens_with_the_tensors_it_names() {
    for family in super::architectures() {
        let model = File::of(family, 7)
            .open()
            .unwrap_or_else(|error| panic!("{family}: {error}"));
        assert_eq!((model.spec().family.as_str(), model.spec().layers.len()), (family, 7));
    }
}

#[test]
fn a_bias_is_added_where_the_file_has_one() {
    let mut file = File::of("llama", 2);
    file.tensor("blk.1.attn_q.bias", &[8], F32);
    file.tensor("blk.1.ffn_down.bias", &[8], F16);
    let model = file.open().unwrap();
    // Interleaved as the rows of the weight are: stored 0 1 2 3 is 0 2 1 3 of the model.
    let expected = [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0];
    assert_eq!(model.bias(1, Projection::Query).unwrap(), expected);
    assert_eq!(model.bias(1, Projection::Down).unwrap(), [0.0; 8]);
    assert_eq!(
        (model.bias(1, Projection::Key), model.bias(0, Projection::Query)),
        (None, None)
    );
}

#[test]
fn maps_that_share_a_tensor_are_its_rows_in_order() {
    let model = File::of("phi3", 1).open().unwrap();
    let first_of = |map| first(projection(&model, map).row(0));
    let rows = [Projection::Query, Projection::Key, Projection::Value].map(first_of);
    assert_eq!(rows, [0.0, 8.0 * 8.0, 12.0 * 8.0]);
    assert_eq!([Projection::Gate, Projection::Up].map(first_of), [0.0, 16.0 * 8.0]);
    let model = File::of("gpt2", 1).open().unwrap();
    assert_eq!(model.bias(0, Projection::Value).unwrap(), [12.0, 13.0, 14.0, 15.0]);
}

#[test]
fn heads_and_widths_may_differ_by_layer() {
    let mut file = File::of("llama", 2);
    file.set("llama.attention.head_count", Value::Array(Array::U32(vec![2, 4])));
    file.set("llama.attention.head_count_kv", Value::Array(Array::I32(vec![1, 2])));
    file.set("llama.feed_forward_length", Value::Array(Array::U32(vec![16, 32])));
    for (name, shape) in [
        ("attn_q", [16, 8]),
        ("attn_k", [8, 8]),
        ("attn_v", [8, 8]),
        ("attn_output", [8, 16]),
        ("ffn_gate", [32, 8]),
        ("ffn_up", [32, 8]),
        ("ffn_down", [8, 32]),
    ] {
        file.tensor(&format!("blk.1.{name}.weight"), &shape, F32);
    }
    let model = file.open().unwrap();
    let heads = |layer: usize| {
        (
            &model.spec().layers[layer].attention.heads,
            model.spec().layers[layer].attention.kv_heads,
        )
    };
    assert_eq!((heads(0), heads(1)), ((&2, 1), (&4, 2)));
    assert_eq!(model.spec().layers[1].feed_forward.inner_size(), 32);
    let key = "llama.feed_forward_length";
    let short = refusal_of(file, |file| file.set(key, Value::Array(Array::U32(vec![16, 32, 16]))));
    assert!(short.contains("an array of 3") && short.contains(key), "{short}");
}

#[test]
fn windows_follow_the_pattern() {
    let windows = |family: &str, changes: &[(&str, Value)]| -> Vec<Option<usize>> {
        let mut file = File::of(family, 7);
        for (key, value) in changes {
            file.set(&format!("{family}.attention.{key}"), value.clone());
        }
        let model = file.open().unwrap();
        model.spec().layers.iter().map(|layer| layer.attention.window).collect()
    };
    let window = ("sliding_window", Value::U32(16));
    let mut sixth = vec![Some(16); 7];
    sixth[5] = None;
    assert_eq!(windows("gemma3", std::slice::from_ref(&window)), sixth);
    assert_eq!(windows("gemma3", &[("sliding_window", Value::U32(0))]), [None; 7]);
    assert_eq!(windows("gemma3", &[]), [None; 7]);
    let thirds = windows("gemma3", &[window.clone(), ("sliding_window_pattern", Value::U32(3))]);
    assert_eq!(thirds, [Some(16), Some(16), None, Some(16), Some(16), None, Some(16)]);
    let mut only_first = vec![false; 7];
    only_first[0] = true;
    let pattern = ("sliding_window_pattern", Value::Array(Array::Bool(only_first)));
    let mut expected = vec![None; 7];
    expected[0] = Some(16);
    assert_eq!(windows("gemma3", &[window.clone(), pattern]), expected);
    let lone = |pattern: Value| {
        let mut file = File::of("gemma3", 1);
        file.set("gemma3.attention.sliding_window", Value::U32(16));
        file.set("gemma3.attention.sliding_window_pattern", pattern);
        file.open().unwrap().spec().layers[0].attention.window
    };
    assert_eq!(lone(Value::Array(Array::Bool(vec![true]))), Some(16), "a flag");
    assert_eq!(lone(Value::U32(1)), None, "a period");
    for family in ["llama", "phi3"] {
        assert_eq!(windows(family, std::slice::from_ref(&window)), [Some(16); 7]);
    }
}

#[test]
fn every_fourth_layer_of_smollm3_has_no_rotary_embedding_and_interleaved_rows_all_the_same() {
    let model = File::of("smollm3", 7).open().unwrap();
    let none = model
        .spec()
        .layers
        .iter()
        .map(|layer| layer.attention.position == Position::None);
    assert_eq!(
        none.collect::<Vec<_>>(),
        [false, false, false, true, false, false, false]
    );
    for layer in 0..7 {
        let order = model.projection(layer, Projection::Query).unwrap().row_order;
        assert_eq!(order, RowOrder::InterleavedHalves { head_dim: 4 });
    }
}

#[test]
fn gemma_3_27b_scales_attention_by_its_share_of_the_residual_stream() {
    let scale = |layers: usize| {
        let mut file = File::of("gemma3", layers);
        file.set("gemma3.attention.key_length", Value::U32(2));
        file.set("gemma3.attention.value_length", Value::U32(2));
        for layer in 0..layers {
            for (name, shape) in [("q", [4, 8]), ("k", [2, 8]), ("v", [2, 8]), ("output", [8, 4])] {
                file.tensor(&format!("blk.{layer}.attn_{name}.weight"), &shape, F32);
            }
            for name in ["q_norm", "k_norm"] {
                file.tensor(&format!("blk.{layer}.attn_{name}.weight"), &[2], F32);
            }
        }
        file.open().unwrap().spec().layers[0].attention.scale
    };
    assert_eq!((scale(1), scale(62)), ((1.0 / 2f64.sqrt()) as f32, 0.5));
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
    assert_eq!(file.open().unwrap().output().unwrap().rows, 6);
    file.tensor("output.weight", &[6, 8], F16);
    let model = file.open().unwrap();
    assert!(!model.spec().tied_output);
    assert_eq!(model.output().unwrap().dtype, rootstock_formats::DType::F16);
}

/// llama.cpp's converter: `weights.reshape(heads, 2, head_dim / 2, inputs).swapaxes(1, 2)`.
#[test]
fn query_and_key_rows_are_found_where_the_converter_put_them() {
    let model = File::tiny().open().unwrap();
    let query = projection(&model, Projection::Query);
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
    assert_ne!(projection(&model, Projection::Key).row_order, RowOrder::Natural);
    assert_eq!(projection(&model, Projection::Value).row_order, RowOrder::Natural);
    let halves = File::of("qwen3", 1).open().unwrap();
    assert_eq!(projection(&halves, Projection::Query).row_order, RowOrder::Natural);
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
