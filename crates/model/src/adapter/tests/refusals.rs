//! What else is refused, each by its code and with the facts to act on.

use proptest::prelude::*;
use serde_json::json;

use super::folders::*;
use crate::adapter::AdapterErrorCode as Code;
use crate::{Projection, ProjectionSet};

const HEAD: &str = "base_model.model.lm_head";

#[test]
fn parts_that_belong_to_a_pair_must_be_there() {
    let dora = FolderBuilder::on(tiny(), json!(["0.self_attn.q_proj"]))
        .pair(Q0, [2, 8], [8, 2])
        .field("use_dora", json!(true));
    let fact = format!("tensor {Q0}.lora_magnitude_vector: expected beside {Q0}.lora_A.weight, got none");
    dora.refused(Code::HalfPair, &[&fact]);
    let bias = FolderBuilder::on(tiny(), json!(["0.self_attn.q_proj"]))
        .pair(Q0, [2, 8], [8, 2])
        .field("lora_bias", json!(true));
    bias.refused(Code::HalfPair, &[&format!("tensor {Q0}.lora_B.bias: expected beside")]);
    let qwen = of_family("qwen2", |layer| {
        layer.biases = ProjectionSet::NONE.with(Projection::Query)
    });
    let trained = FolderBuilder::on(qwen, json!(["0.self_attn.q_proj"]))
        .pair(Q0, [2, 8], [8, 2])
        .field("bias", json!("lora_only"));
    trained.refused(
        Code::HalfPair,
        &[&format!("tensor {Q0}.base_layer.bias"), "bias", "\"none\""],
    );
    let saved = FolderBuilder::new().field("modules_to_save", json!(["lm_head"]));
    saved.refused(
        Code::HalfPair,
        &[&format!("tensor {HEAD}.weight: expected because of modules_to_save")],
    );
}

#[test]
fn tensors_that_the_configuration_does_not_ask_for_are_refused() {
    for (name, shape) in [
        (format!("{Q0}.lora_magnitude_vector"), vec![8]),
        (format!("{Q0}.lora_B.bias"), vec![8]),
        (format!("{Q0}.bias"), vec![8]),
        (format!("{Q0}.base_layer.bias"), vec![8]),
        (format!("{Q0}.base_layer.weight"), vec![8, 8]),
        (format!("{Q0}.weight"), vec![8, 8]),
        (format!("{HEAD}.bias"), vec![32]),
        ("base_model.model.model.norm.weight".to_owned(), vec![8]),
        ("base_model.model.model.norm.bias".to_owned(), vec![8]),
        (format!("{HEAD}.lora_embedding_A"), vec![2, 8]),
        (
            "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta".to_owned(),
            vec![1, 8],
        ),
        (format!("{Q0}.lora_A.default.weight"), vec![2, 8]),
        (format!("{Q0}.ia3_l"), vec![8]),
    ] {
        let shape_fact = format!("{shape:?}");
        let folder = FolderBuilder::new().tensor(&name, numbered(&shape));
        folder.refused(
            Code::UnmappedTensor,
            &[&format!("tensor {name}: expected"), &shape_fact],
        );
    }
}

#[test]
fn leftovers_and_repeated_tensors_are_refused() {
    let leftover = format!("{HEAD}.original_module.weight");
    FolderBuilder::new().tensor(&leftover, numbered(&[32, 8])).refused(
        Code::UnmappedTensor,
        &[&leftover, "a copy of the base's own module", "save_pretrained"],
    );
    FolderBuilder::new()
        .field("modules_to_save", json!(["lm_head"]))
        .tensor(&format!("{HEAD}.weight"), numbered(&[32, 8]))
        .tensor(&format!("{HEAD}.modules_to_save.weight"), numbered(&[32, 8]))
        .refused(Code::Malformed, &[&format!("{HEAD}.weight"), "expected once"]);
}

#[test]
fn modules_of_other_bases_and_tasks_are_refused() {
    for (name, fact) in [
        ("score", "another task"),
        ("classifier", "another task"),
        ("c_fc", "matches none"),
    ] {
        FolderBuilder::new()
            .field("modules_to_save", json!([name]))
            .refused(Code::UnmappedTensor, &["modules_to_save", name, fact]);
    }
    for field in ["target_modules", "modules_to_save"] {
        FolderBuilder::on(gpt2(), json!(["c_fc"]))
            .field(field, json!(["wpe"]))
            .refused(Code::UnmappedTensor, &["transformer.wpe", "positions"]);
    }
    FolderBuilder::on(of_family("phi3", |_| {}), json!(["q_proj"]))
        .refused(Code::UnmappedTensor, &["target_modules", "qkv_proj"]);
    FolderBuilder::on(of_family("unheard", |_| {}), json!(["q_proj"]))
        .refused(Code::UnmappedTensor, &["family unheard"]);
}

#[test]
fn shapes_of_every_kind_must_fit() {
    let misfit = |folder: FolderBuilder, fact: &str| folder.refused(Code::ShapeMismatch, &[fact]);
    let dora = FolderBuilder::on(tiny(), json!(["0.self_attn.q_proj"]))
        .pair(Q0, [2, 8], [8, 2])
        .field("use_dora", json!(true));
    misfit(
        dora.tensor(&format!("{Q0}.lora_magnitude_vector"), numbered(&[1, 8])),
        "expected shape [8], got [1, 8]",
    );
    let saved = || FolderBuilder::new().field("modules_to_save", json!(["lm_head", "model.norm"]));
    let norm = "base_model.model.model.norm.weight";
    let resized = saved()
        .tensor(&format!("{HEAD}.weight"), numbered(&[33, 8]))
        .tensor(norm, numbered(&[8]));
    misfit(
        resized,
        "expected shape [32, 8] (the base's vocabulary; a resized one is not supported), got [33, 8]",
    );
    let wide = saved()
        .tensor(&format!("{HEAD}.weight"), numbered(&[32, 8]))
        .tensor(norm, numbered(&[9]));
    misfit(wide, "model.norm.weight: expected shape [8], got [9]");
    // Conv1D stores what linear maps store turned.
    let conv1d = FolderBuilder::on(gpt2(), json!([])).field("modules_to_save", json!(["h.0.mlp.c_fc"]));
    let conv1d = conv1d.tensor("base_model.model.transformer.h.0.mlp.c_fc.weight", numbered(&[12, 8]));
    misfit(conv1d, "expected shape [8, 12], got [12, 8]");
}

#[test]
fn fields_that_contradict_the_base_or_each_other_are_refused() {
    FolderBuilder::new()
        .field("fan_in_fan_out", json!(true))
        .refused(Code::UnsupportedField, &["fan_in_fan_out", "Conv1D"]);
    let both = FolderBuilder::new()
        .field("use_dora", json!(true))
        .field("lora_bias", json!(true));
    both.refused(Code::UnsupportedField, &["lora_bias", "use_dora"]);
    FolderBuilder::on(tiny(), json!(["embed_tokens"]))
        .field("lora_bias", json!(true))
        .tensor(
            "base_model.model.model.embed_tokens.lora_embedding_A",
            numbered(&[2, 32]),
        )
        .tensor(
            "base_model.model.model.embed_tokens.lora_embedding_B",
            numbered(&[8, 2]),
        )
        .refused(Code::UnsupportedField, &["lora_bias", "embed_tokens"]);
    FolderBuilder::on(tiny(), json!(["lm_head"]))
        .field("use_dora", json!(true))
        .pair(HEAD, [2, 8], [32, 2])
        .tensor(&format!("{HEAD}.lora_magnitude_vector"), numbered(&[32]))
        .tensor(&format!("{HEAD}.base_layer.weight"), numbered(&[32, 8]))
        .refused(
            Code::UnsupportedField,
            &["base_layer.weight", "use_dora", "save_embedding_layers=False"],
        );
}

#[test]
fn values_of_every_kind_must_be_finite_and_magnitudes_there() {
    let mut infinite = numbered(&[8]);
    infinite.2[4..8].copy_from_slice(&f32::INFINITY.to_le_bytes());
    let norm = FolderBuilder::new()
        .field("modules_to_save", json!(["model.norm"]))
        .tensor("base_model.model.model.norm.weight", infinite.clone());
    norm.write()
        .refused_on_load(Code::NotFinite, &["model.norm.weight", "[1, 0]"]);
    let dora = |magnitude| {
        let folder = FolderBuilder::on(tiny(), json!(["0.self_attn.q_proj"])).pair(Q0, [2, 8], [8, 2]);
        folder
            .field("use_dora", json!(true))
            .tensor(&format!("{Q0}.lora_magnitude_vector"), magnitude)
            .write()
    };
    dora(infinite).refused_on_load(Code::NotFinite, &["lora_magnitude_vector"]);
    dora(f32s([8, 1], 0.0).flat()).refused_on_load(Code::Malformed, &["lora_magnitude_vector", "got zeros"]);
}

#[test]
fn an_adapter_that_changes_nothing_is_refused_whatever_it_holds() {
    let nothing = FolderBuilder::on(tiny(), json!(["0.self_attn.q_proj"]))
        .field("lora_bias", json!(true))
        .pair(Q0, [2, 8], [8, 2])
        .tensor(&format!("{Q0}.lora_B.weight"), f32s([8, 2], 0.0))
        .tensor(&format!("{Q0}.lora_B.bias"), f32s([8, 1], -0.0).flat());
    nothing.write().refused_on_load(Code::ZeroDelta, &["expected a delta"]);
    FolderBuilder::on(tiny(), json!([])).refused(Code::ZeroDelta, &["expected modules to change", "changes nothing"]);
}

/// Words of configurations and names, so that mutations meet what is read.
const WORDS: [&str; 14] = [
    "true",
    "false",
    "null",
    "[]",
    "{}",
    "\"all\"",
    "\"lora_only\"",
    "\"pissa\"",
    "[\"lm_head\"]",
    "[\"norm\"]",
    "\"all-linear\"",
    "[\"embed_tokens\", \"lm_head\"]",
    "0",
    "3",
];
const FIELDS: [&str; 12] = [
    "use_dora",
    "lora_bias",
    "bias",
    "modules_to_save",
    "ensure_weight_tying",
    "fan_in_fan_out",
    "init_lora_weights",
    "target_modules",
    "r",
    "rank_pattern",
    "layers_to_transform",
    "use_rslora",
];
const NAMES: [&str; 12] = [
    "lm_head.weight",
    "lm_head.lora_A.weight",
    "lm_head.lora_B.weight",
    "lm_head.base_layer.weight",
    "model.norm.weight",
    "model.embed_tokens.lora_embedding_A",
    "model.embed_tokens.lora_embedding_B",
    "model.embed_tokens.weight",
    "model.layers.0.self_attn.q_proj.lora_magnitude_vector",
    "model.layers.0.self_attn.q_proj.lora_B.bias",
    "model.layers.0.input_layernorm.weight",
    "model.layers.1.mlp.down_proj.modules_to_save.default.weight",
];

proptest! {
    #[test]
    fn mutated_configurations_and_tables_never_panic_and_only_bring_effects_that_fit(
        fields in prop::collection::vec((0usize..FIELDS.len(), 0usize..WORDS.len()), 0..4),
        names in prop::collection::vec((0usize..NAMES.len(), prop::collection::vec(0usize..4, 0..4)), 0..4),
        family in 0usize..5,
    ) {
        let sizes = [0, 2, 8, 32];
        let families = ["llama", "gemma3", "phi3", "gpt2", "qwen2"];
        let spec = if families[family] == "gpt2" { gpt2() } else { of_family(families[family], |_| {}) };
        let mut folder = FolderBuilder::new().rebased(spec.clone());
        for (field, word) in fields {
            folder = folder.field(FIELDS[field], serde_json::from_str(WORDS[word]).unwrap());
        }
        for (name, shape) in names {
            let shape: Vec<usize> = shape.into_iter().map(|size| sizes[size]).collect();
            folder = folder.tensor(&format!("base_model.model.{}", NAMES[name]), numbered(&shape));
        }
        let folder = folder.write();
        if let Ok(adapter) = folder.load() {
            for effect in &adapter.effects {
                assert_fits(effect, &spec);
            }
        }
    }
}
