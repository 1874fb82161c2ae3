//! The nine tiny checkpoints: what they are, and that every tensor is where its role is.

use super::*;
use crate::Projection::{Down, Gate, Key, Output, Query, Up, Value as Values};
use crate::{Activation, FeedForward, NormKind, NormSite, Position, Projection, ProjectionSet};

const NAMES: [&str; 9] = [
    "gemma3",
    "gpt2",
    "llama-bias",
    "llama3-rope",
    "mistral",
    "phi3",
    "qwen2",
    "qwen3",
    "smollm3",
];

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(&fixture(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Angle of the second pair, by which the tiny checkpoints' rotary embeddings differ.
fn second_angle(position: &Position) -> Option<f32> {
    match position {
        Position::None => None,
        Position::Rotary {
            inverse_frequencies,
            magnitude,
        } => {
            assert_eq!(
                (inverse_frequencies.len(), inverse_frequencies[0], *magnitude),
                (8, 1.0, 1.0)
            );
            Some(inverse_frequencies[1])
        }
    }
}

#[test]
fn every_tensor_is_read_with_its_shape() {
    for name in NAMES {
        let checkpoint = open(name);
        let spec = checkpoint.spec();
        assert_eq!(
            (checkpoint.embedding().unwrap().rows, checkpoint.output().unwrap().cols),
            (256, 64),
            "{name}"
        );
        assert_eq!(checkpoint.position_embedding().unwrap().is_some(), name == "gpt2");
        for (layer, shape) in spec.layers.iter().enumerate() {
            for projection in shape.projections() {
                let (inputs, outputs) = shape.shape(projection, 64);
                let matrix = checkpoint.projection(layer, projection).unwrap();
                assert_eq!((matrix.rows, matrix.cols), (outputs, inputs), "{name}");
                assert_eq!(matrix.bytes.len(), inputs * outputs * 4, "{name}");
                let bias = checkpoint.bias(layer, projection).map(<[f32]>::len);
                assert_eq!(bias, shape.biases.contains(projection).then_some(outputs), "{name}");
            }
        }
        let sites = spec
            .layers
            .iter()
            .enumerate()
            .flat_map(|(layer, shape)| shape.norms(layer));
        for site in sites.chain([NormSite::Final]) {
            let norm = checkpoint.norm(site);
            assert_eq!(Some(norm.weight.len()), spec.norm_width(site), "{name}");
            assert_eq!(
                norm.bias.map(|bias| bias.len()),
                (name == "gpt2").then_some(64),
                "{name}"
            );
        }
    }
}

#[test]
fn the_sizes_are_those_of_the_files() {
    for name in NAMES {
        let spec = open(name).spec().clone();
        assert_eq!(
            (spec.vocab_size, spec.hidden_size, spec.context_length),
            (256, 64, 512),
            "{name}"
        );
        assert_eq!(spec.layers.len(), 4, "{name}");
        assert_eq!(spec.position_embeddings, (name == "gpt2").then_some(512), "{name}");
        assert_eq!(spec.embedding_scale, if name == "gemma3" { 8.0 } else { 1.0 }, "{name}");
        let tied = !["llama3-rope", "mistral", "phi3"].contains(&name);
        assert_eq!(spec.tied_output, tied, "{name}");
        let kind = if name == "gpt2" { NormKind::Layer } else { NormKind::Rms };
        let epsilon = if ["gpt2", "phi3"].contains(&name) { 1e-5 } else { 1e-6 };
        assert_eq!((spec.norm.kind, spec.norm.epsilon), (kind, epsilon), "{name}");
        for layer in &spec.layers {
            let attention = &layer.attention;
            let kv_heads = if name == "gpt2" { 4 } else { 2 };
            assert_eq!(
                (attention.heads, attention.kv_heads, attention.head_dim),
                (4, kv_heads, 16),
                "{name}"
            );
            assert_eq!(attention.scale, 0.25, "{name}");
            assert_eq!(attention.head_norms, ["gemma3", "qwen3"].contains(&name), "{name}");
            assert_eq!(layer.post_norms, name == "gemma3");
            let (inner_size, activation) = (128, Activation::Silu);
            let expected = match name {
                "gpt2" => FeedForward::Plain {
                    inner_size: 256,
                    activation: Activation::GeluTanh,
                },
                "gemma3" => FeedForward::Gated {
                    inner_size,
                    activation: Activation::GeluTanh,
                },
                _ => FeedForward::Gated { inner_size, activation },
            };
            assert_eq!(layer.feed_forward, expected, "{name}");
        }
    }
}

#[test]
fn biases_are_those_of_the_family_or_the_file() {
    let expected: [(&str, &[Projection]); 4] = [
        ("llama-bias", &Projection::ALL),
        ("qwen2", &[Query, Key, Values]),
        ("gpt2", &[Query, Key, Values, Output, Up, Down]),
        ("qwen3", &[]),
    ];
    for (name, projections) in expected {
        let set: ProjectionSet = projections.iter().copied().collect();
        assert!(
            open(name).spec().layers.iter().all(|layer| layer.biases == set),
            "{name}"
        );
    }
    assert!(!ProjectionSet::NONE.contains(Gate));
}

#[test]
fn windows_and_rotations_are_those_of_each_layer() {
    let layers = |name: &str| -> Vec<_> {
        let layers = open(name).spec().layers.clone();
        layers
            .iter()
            .map(|layer| (layer.attention.window, second_angle(&layer.attention.position)))
            .collect()
    };
    let angle = |base: f64| Some(base.powf(-0.125) as f32);
    assert_eq!(layers("mistral"), [(Some(16), angle(1e4)); 4]);
    assert_eq!(layers("qwen2"), [(None, angle(1e4)); 4]);
    let (sliding, full) = ((Some(16), angle(1e4)), (None, angle(1e6)));
    assert_eq!(layers("gemma3"), [sliding, sliding, full, sliding]);
    let rotary = (None, angle(2e6));
    assert_eq!(layers("smollm3"), [rotary, rotary, rotary, (None, None)]);
    assert_eq!(layers("gpt2"), [(None, None); 4]);
    assert!(
        layers("llama3-rope")
            .iter()
            .all(|(_, angle)| (angle.unwrap() - 0.079_403_01).abs() < 1e-8)
    );
}

#[test]
fn norms_of_gemma_are_stored_minus_one() {
    let (model, checkpoint) = (Model::tiny("gemma3"), open("gemma3"));
    for (name, site) in [
        (
            "model.layers.2.pre_feedforward_layernorm.weight",
            NormSite::FeedForward(2),
        ),
        (
            "model.layers.2.post_attention_layernorm.weight",
            NormSite::PostAttention(2),
        ),
        ("model.layers.1.self_attn.k_norm.weight", NormSite::Key(1)),
        ("model.norm.weight", NormSite::Final),
    ] {
        let stored = floats(&model.tensors[name].2);
        let weight = checkpoint.norm(site).weight;
        assert!(
            stored
                .iter()
                .zip(&weight)
                .all(|(stored, weight)| stored + 1.0 == *weight),
            "{name}"
        );
    }
}

#[test]
fn fused_rows_are_those_of_their_maps() {
    let (model, checkpoint) = (Model::tiny("phi3"), open("phi3"));
    let fused = |name: &str| &model.tensors[&format!("model.layers.3.{name}.weight")].2;
    let (attention, mlp) = (fused("self_attn.qkv_proj"), fused("mlp.gate_up_proj"));
    let rows = [
        (Query, attention, 0..64),
        (Key, attention, 64..96),
        (Values, attention, 96..128),
        (Gate, mlp, 0..128),
        (Up, mlp, 128..256),
    ];
    for (projection, tensor, rows) in rows {
        let matrix = checkpoint.projection(3, projection).unwrap();
        assert_eq!(
            *matrix.bytes,
            tensor[rows.start * 256..rows.end * 256],
            "{projection:?}"
        );
    }
}

#[test]
fn transposed_and_fused_columns_are_rows() {
    let (model, checkpoint) = (Model::tiny("gpt2"), open("gpt2"));
    let stored = floats(&model.tensors["transformer.h.1.attn.c_attn.weight"].2);
    let bias = floats(&model.tensors["transformer.h.1.attn.c_attn.bias"].2);
    for (part, projection) in [Query, Key, Values].into_iter().enumerate() {
        let matrix = floats(&checkpoint.projection(1, projection).unwrap().bytes);
        for (index, value) in matrix.iter().enumerate() {
            let (output, input) = (index / 64, index % 64);
            assert_eq!(*value, stored[input * 192 + part * 64 + output]);
        }
        assert_eq!(
            checkpoint.bias(1, projection).unwrap(),
            &bias[part * 64..(part + 1) * 64]
        );
    }
    let stored = floats(&model.tensors["transformer.h.1.mlp.c_proj.weight"].2);
    let down = floats(&checkpoint.projection(1, Down).unwrap().bytes);
    assert_eq!((down[1], down[256]), (stored[64], stored[1]));
}
