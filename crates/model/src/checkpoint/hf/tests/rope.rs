//! Rotary embeddings; the expected angles are transformers 5.23's, in single precision.

use serde_json::json;

use super::*;
use crate::Position;

fn rotary(spec: &ArchSpec, layer: usize) -> (Vec<f32>, f32) {
    match &spec.layers[layer].attention.position {
        Position::Rotary {
            inverse_frequencies,
            magnitude,
        } => (inverse_frequencies.to_vec(), *magnitude),
        Position::None => panic!("no rotary embedding"),
    }
}

fn assert_close(name: &str, got: &(Vec<f32>, f32), angles: &[f32], magnitude: f32) {
    assert_eq!(got.0.len(), angles.len(), "{name}");
    let close = |a: f32, b: f32| (a - b).abs() <= 4.0 * f32::EPSILON * b.abs();
    assert!(got.0.iter().zip(angles).all(|(a, b)| close(*a, *b)), "{name}: {got:?}");
    assert!(close(got.1, magnitude), "{name}: {}", got.1);
}

fn yarn(extra: &Value) -> Value {
    let mut parameters =
        json!({"rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0, "original_max_position_embeddings": 64});
    parameters
        .as_object_mut()
        .unwrap()
        .extend(extra.as_object().unwrap().clone());
    parameters
}

#[test]
fn every_scaling_gives_the_angles_of_transformers() {
    let yarn_angles = [
        1.0,
        0.223_994_66,
        0.041_666_664,
        0.003_952_847_3,
        0.00125,
        0.000_395_284_73,
        0.000_125,
        3.952_847_3e-5,
    ];
    let softer = [
        1.0,
        0.287_408_6,
        0.042_441_797,
        0.003_952_847_3,
        0.00125,
        0.000_395_284_73,
        0.000_125,
        3.952_847_3e-5,
    ];
    let plain = [
        1.0,
        0.316_227_77,
        0.1,
        0.031_622_776,
        0.01,
        0.003_162_277_7,
        0.001,
        0.000_316_227_77,
    ];
    let llama3 = [
        1.0,
        0.079_403_01,
        0.004_700_754,
        0.000_911_583_1,
        0.000_176_776_68,
        3.428_102_4e-5,
        6.647_87e-6,
        1.289_173_2e-6,
    ];
    let three = json!({"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64});
    let betas = json!({"beta_fast": 4.0, "beta_slow": 0.5, "truncate": false, "mscale": 0.7, "mscale_all_dim": 1.2});
    let table = [
        (
            "linear",
            json!({"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}),
            plain.map(|angle| angle / 4.0),
            1.0,
        ),
        ("llama3", three, llama3, 1.0),
        ("yarn", yarn(&json!({})), yarn_angles, 1.207_944_2),
        (
            "yarn, factor from the positions",
            yarn(&json!({"factor": null})),
            yarn_angles,
            1.207_944_2,
        ),
        ("yarn, betas and scales", yarn(&betas), softer, 0.916_791_26),
        (
            "yarn, stated factor",
            yarn(&json!({"attention_factor": 1.5})),
            yarn_angles,
            1.5,
        ),
    ];
    for (name, parameters, angles, magnitude) in table {
        let spec = Model::tiny("llama-bias").set("rope_parameters", parameters).spec();
        assert_eq!(spec.context_length, 512);
        assert_close(name, &rotary(&spec, 3), &angles, magnitude);
    }
}

#[test]
fn longrope_serves_the_original_positions_with_the_short_factors() {
    let parameters = |kind: &str| {
        json!({"rope_type": kind, "rope_theta": 10000.0, "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5],
            "long_factor": [2, 2, 2, 2, 2, 2], "partial_rotary_factor": 0.75})
    };
    let angles = [
        1.0,
        0.195_857_69,
        0.038_679_9,
        0.007_692_308,
        0.001_538_881_6,
        0.000_309_439_32,
    ];
    for kind in ["longrope", "su"] {
        let model = Model::tiny("phi3").set("rope_parameters", parameters(kind));
        let spec = model.set("original_max_position_embeddings", json!(64)).spec();
        assert_eq!(spec.context_length, 64);
        assert_close(kind, &rotary(&spec, 0), &angles, 1.224_744_9);
        let model = Model::tiny("phi3").set("rope_parameters", parameters(kind));
        let none = model.set("original_max_position_embeddings", json!(0.5)).refusal();
        assert!(none.contains("original_max_position_embeddings: 0.5 is not"), "{none}");
    }
    let contradiction = Model::tiny("phi3").set("rope_parameters", {
        let mut parameters = parameters("longrope");
        parameters["original_max_position_embeddings"] = json!(64);
        parameters
    });
    let refusal = contradiction.refusal();
    assert!(
        refusal.contains("original_max_position_embeddings: 4096 contradicts 64"),
        "{refusal}"
    );
}

#[test]
fn both_styles_of_files_say_the_same() {
    let old = |name: &str, theta: f64, scaling: Value| {
        Model::tiny(name)
            .without("rope_parameters")
            .set("rope_theta", json!(theta))
            .set("rope_scaling", scaling)
    };
    let scaling = json!({"type": "llama3", "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64});
    assert_eq!(
        old("llama3-rope", 500_000.0, scaling).spec(),
        Model::tiny("llama3-rope").spec()
    );
    assert_eq!(old("qwen3", 10_000.0, json!(null)).spec(), Model::tiny("qwen3").spec());
    assert_eq!(
        Model::tiny("smollm3").without("rope_parameters").spec(),
        Model::tiny("smollm3").spec()
    );
    let gemma = old("gemma3", 1e6, json!(null)).set("rope_local_base_freq", json!(10_000.0));
    assert_eq!(gemma.spec(), Model::tiny("gemma3").spec());
    assert_eq!(
        Model::tiny("gemma3").without("rope_parameters").spec(),
        Model::tiny("gemma3").spec()
    );
    let scaled = old("gemma3", 1e6, json!({"rope_type": "linear", "factor": 8.0})).spec();
    assert_close("full", &(vec![rotary(&scaled, 2).0[0]], 1.0), &[0.125], 1.0);
    assert_close("sliding", &(vec![rotary(&scaled, 1).0[0]], 1.0), &[1.0], 1.0);
}

#[test]
fn what_contradicts_or_is_not_served_is_refused() {
    let table = [
        (
            "llama-bias",
            "rope_theta",
            json!(5000.0),
            "rope_theta: 5000 contradicts 10000",
        ),
        (
            "llama-bias",
            "rope_scaling",
            json!({"type": "linear", "factor": 2.0}),
            "contradicts rope_parameters",
        ),
        (
            "gemma3",
            "rope_scaling",
            json!({"type": "linear", "factor": 2.0}),
            "contradicts rope_parameters",
        ),
        (
            "gemma3",
            "rope_local_base_freq",
            json!(5.0),
            "rope_local_base_freq: 5 contradicts 10000",
        ),
        (
            "gemma3",
            "rope_parameters",
            json!({"rope_type": "default"}),
            "field \"rope_type\"",
        ),
        (
            "qwen2",
            "rope_parameters",
            json!({"rope_type": "dynamic", "factor": 2.0}),
            "rope_type: \"dynamic\" is not supported",
        ),
        (
            "qwen2",
            "rope_parameters",
            json!({"rope_type": "linear", "type": "yarn"}),
            "type: yarn contradicts rope_type",
        ),
        (
            "qwen2",
            "rope_parameters",
            json!({"rope_type": "linear"}),
            "rope_parameters: factor is missing",
        ),
        (
            "qwen2",
            "rope_parameters",
            json!({"rope_type": "linear", "factor": 0}),
            "factor: expected a positive number, got 0",
        ),
        (
            "qwen2",
            "rope_parameters",
            json!({"rope_type": "default", "factor": 2.0}),
            "field \"factor\" (2.0) is not known",
        ),
        (
            "qwen2",
            "rope_parameters",
            json!({"rope_theta": 1.0}),
            "rope_theta: 1 is not supported (supported: above 1)",
        ),
        (
            "qwen2",
            "rope_parameters",
            json!([1]),
            "rope_parameters: expected an object, got [1]",
        ),
        (
            "qwen2",
            "partial_rotary_factor",
            json!(0.5),
            "partial_rotary_factor: 0.5 is not supported (supported: 1)",
        ),
        (
            "phi3",
            "partial_rotary_factor",
            json!(0.5),
            "partial_rotary_factor: 0.5 contradicts 1",
        ),
        (
            "phi3",
            "rope_parameters",
            json!({"partial_rotary_factor": 0.2}),
            "supported: up to 1, an even part of a head",
        ),
        (
            "phi3",
            "rope_parameters",
            json!({"rope_type": "yarn", "factor": 2.0}),
            "supported: default, longrope, su",
        ),
        (
            "phi3",
            "rope_parameters",
            json!({"rope_type": "longrope"}),
            "long_factor is missing",
        ),
        (
            "phi3",
            "rope_parameters",
            json!({"rope_type": "longrope", "long_factor": [1, 2]}),
            "one factor for each of 8 pairs",
        ),
        (
            "phi3",
            "rope_parameters",
            json!({"rope_type": "longrope", "long_factor": [1, "2"]}),
            "a list of positive numbers",
        ),
    ];
    for (name, field, value, expected) in table {
        let refusal = Model::tiny(name).set(field, value.clone()).refusal();
        assert!(refusal.contains(expected), "{name}: {field} = {value}: {refusal}");
    }
}
