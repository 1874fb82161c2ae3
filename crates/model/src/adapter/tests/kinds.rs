//! Every kind of change that a PEFT folder can make, on small bases of the families that name or store it differently.

use serde_json::json;

use super::folders::*;
use crate::adapter::{Adapter, BiasKind, Effect};
use crate::{NormSite, Projection, ProjectionSet, Site};

const HEAD: &str = "base_model.model.lm_head";
const EMBEDDING: &str = "base_model.model.model.embed_tokens";

/// As [`values`] gives them.
type Values = (usize, usize, Vec<f32>);

fn at(layer: usize, projection: Projection) -> Site {
    Site::Layer { layer, projection }
}

fn biases(adapter: &Adapter) -> Vec<(Site, BiasKind, Values)> {
    let bias = |effect: &Effect| match effect {
        Effect::Bias(bias) => Some((bias.site, bias.kind, values(&bias.values))),
        _ => None,
    };
    adapter.effects.iter().filter_map(bias).collect()
}

fn matrices(adapter: &Adapter) -> Vec<(Site, Values)> {
    let matrix = |effect: &Effect| match effect {
        Effect::Matrix(matrix) => Some((matrix.site, values(&matrix.values))),
        _ => None,
    };
    adapter.effects.iter().filter_map(matrix).collect()
}

type NormValues = (NormSite, Option<Vec<f32>>, Option<Vec<f32>>);

fn norms(adapter: &Adapter) -> Vec<NormValues> {
    let norm = |effect: &Effect| match effect {
        Effect::Norm(norm) => Some((norm.site, norm.weight.clone(), norm.bias.clone())),
        _ => None,
    };
    adapter.effects.iter().filter_map(norm).collect()
}

#[test]
fn a_fused_map_becomes_a_pair_for_each_part() {
    let module = "base_model.model.model.layers.1.self_attn.qkv_proj";
    let gate_up = "base_model.model.model.layers.1.mlp.gate_up_proj";
    let adapter = FolderBuilder::on(
        of_family("phi3", |_| {}),
        json!(["layers.1.self_attn.qkv_proj", "1.mlp.gate_up_proj"]),
    )
    .field("rank_pattern", json!({"gate_up_proj": 3}))
    .tensor(&format!("{module}.lora_A.weight"), numbered(&[2, 8]))
    .tensor(&format!("{module}.lora_B.weight"), numbered(&[16, 2]))
    .tensor(&format!("{gate_up}.lora_A.weight"), numbered(&[3, 8]))
    .tensor(&format!("{gate_up}.lora_B.weight"), numbered(&[24, 3]))
    .loaded();
    let found: Vec<_> = adapter
        .effects
        .iter()
        .map(low_rank)
        .map(|pair| (pair.site, values(&pair.b)))
        .collect();
    assert_eq!(
        found,
        [
            (at(1, Projection::Query), rows(0..8, 2)),
            (at(1, Projection::Key), rows(8..12, 2)),
            (at(1, Projection::Value), rows(12..16, 2)),
            (at(1, Projection::Gate), rows(0..12, 3)),
            (at(1, Projection::Up), rows(12..24, 3)),
        ]
    );
    assert!(
        adapter.effects[..3]
            .iter()
            .all(|effect| values(&low_rank(effect).a) == rows(0..2, 8))
    );
    assert_eq!((adapter.max_rank, low_rank(&adapter.effects[4]).scale), (3, 4.0 / 3.0));
}

#[test]
fn dora_brings_a_magnitude_for_each_output() {
    let spec = of_family("phi3", |_| {});
    for suffix in ["lora_magnitude_vector", "lora_magnitude_vector.weight"] {
        let module = "base_model.model.model.layers.0.self_attn.qkv_proj";
        let folder = FolderBuilder::on(spec.clone(), json!(["0.self_attn.qkv_proj"]))
            .field("use_dora", json!(true))
            .pair(module, [2, 8], [16, 2])
            .tensor(&format!("{module}.{suffix}"), numbered(&[16]));
        let adapter = folder.loaded();
        let magnitudes = adapter
            .effects
            .iter()
            .map(|effect| values(low_rank(effect).magnitude.as_ref().unwrap()));
        assert_eq!(
            magnitudes.collect::<Vec<_>>(),
            [rows(0..8, 1), rows(8..12, 1), rows(12..16, 1)]
        );
    }
}

#[test]
fn a_dora_adapter_without_delta_still_changes_magnitudes() {
    let folder = FolderBuilder::on(tiny(), json!(["0.self_attn.q_proj"]))
        .field("use_dora", json!(true))
        .tensor(&format!("{Q0}.lora_A.weight"), f32s([2, 8], 0.0))
        .tensor(&format!("{Q0}.lora_B.weight"), f32s([8, 2], 0.0))
        .tensor(&format!("{Q0}.lora_magnitude_vector"), numbered(&[8]));
    assert_eq!(folder.loaded().effects.len(), 1);
}

#[test]
fn embedding_and_output_layer_take_pairs() {
    let adapter = FolderBuilder::on(tiny(), json!(["embed_tokens", "lm_head"]))
        .tensor(&format!("{EMBEDDING}.lora_embedding_A"), numbered(&[2, 32]))
        .tensor(&format!("{EMBEDDING}.lora_embedding_B"), numbered(&[8, 2]))
        .pair(HEAD, [2, 8], [32, 2])
        .loaded();
    let sites: Vec<_> = adapter.effects.iter().map(|effect| low_rank(effect).site).collect();
    assert_eq!(sites, [Site::Embedding, Site::Output]);
    let pair = low_rank(&adapter.effects[0]);
    assert_eq!((values(&pair.a), values(&pair.b)), (rows(0..2, 32), rows(0..8, 2)));
}

#[test]
fn all_linear_means_neither_the_output_layer_nor_embeddings() {
    let mut folder = FolderBuilder::on(tiny(), json!("all-linear")).field("layers_to_transform", json!(null));
    for layer in 0..2 {
        let module = |name: &str| format!("base_model.model.model.layers.{layer}.{name}");
        for (name, inputs, outputs) in [
            ("self_attn.q_proj", 8, 8),
            ("self_attn.k_proj", 8, 4),
            ("self_attn.v_proj", 8, 4),
            ("self_attn.o_proj", 8, 8),
            ("mlp.gate_proj", 8, 12),
            ("mlp.up_proj", 8, 12),
            ("mlp.down_proj", 12, 8),
        ] {
            folder = folder.pair(&module(name), [2, inputs], [outputs, 2]);
        }
    }
    assert_eq!(folder.loaded().effects.len(), 14);
}

#[test]
fn ties_that_are_to_stay_give_both_ends_the_same() {
    let tied = |targets| {
        FolderBuilder::on(tiny(), targets)
            .field("ensure_weight_tying", json!(true))
            .tensor(&format!("{EMBEDDING}.lora_embedding_A"), numbered(&[2, 32]))
            .tensor(&format!("{EMBEDDING}.lora_embedding_B"), numbered(&[8, 2]))
    };
    for targets in [json!(["embed_tokens"]), json!(["lm_head"])] {
        let adapter = tied(targets).loaded();
        let output = low_rank(&adapter.effects[1]);
        assert_eq!(output.site, Site::Output);
        assert_eq!(values(&output.a), turned(0..2, [8, 2]));
        assert_eq!(values(&output.b), turned(0..32, [2, 32]));
    }
    // What peft writes repeats the pair.
    let repeated = tied(json!(["embed_tokens"])).pair(HEAD, [2, 8], [32, 2]).loaded();
    assert_eq!(values(&low_rank(&repeated.effects[1]).a).2, vec![0.5; 16]);
    // A base that does not tie them has nothing to keep.
    let mut untied = tiny();
    untied.tied_output = false;
    let folder = FolderBuilder::on(untied, json!(["embed_tokens"]))
        .field("ensure_weight_tying", json!(true))
        .tensor(&format!("{EMBEDDING}.lora_embedding_A"), numbered(&[2, 32]))
        .tensor(&format!("{EMBEDDING}.lora_embedding_B"), numbered(&[8, 2]));
    assert_eq!(folder.loaded().effects.len(), 1);

    let saved = FolderBuilder::on(tiny(), json!([]))
        .field("ensure_weight_tying", json!(true))
        .field("modules_to_save", json!(["embed_tokens"]))
        .tensor(&format!("{EMBEDDING}.weight"), numbered(&[32, 8]))
        .loaded();
    assert_eq!(
        matrices(&saved),
        [(Site::Embedding, rows(0..32, 8)), (Site::Output, rows(0..32, 8))]
    );
    assert_eq!(saved.max_rank, 0);
}

#[test]
fn base_weights_beside_a_pair_replace_the_bases() {
    let folder = |spec| {
        FolderBuilder::on(spec, json!(["embed_tokens"]))
            .tensor(&format!("{EMBEDDING}.lora_embedding_A"), numbered(&[2, 32]))
            .tensor(&format!("{EMBEDDING}.lora_embedding_B"), numbered(&[8, 2]))
            .tensor(&format!("{EMBEDDING}.base_layer.weight"), numbered(&[32, 8]))
    };
    let mut untied = tiny();
    untied.tied_output = false;
    assert_eq!(matrices(&folder(untied).loaded()), [(Site::Embedding, rows(0..32, 8))]);
    // In a base that ties them they are one tensor.
    let both = [(Site::Embedding, rows(0..32, 8)), (Site::Output, rows(0..32, 8))];
    assert_eq!(matrices(&folder(tiny()).loaded()), both);
    // So it is for weights that are saved without a pair on them.
    let resaved = FolderBuilder::new()
        .tensor(&format!("{HEAD}.weight"), numbered(&[32, 8]))
        .loaded();
    assert_eq!(matrices(&resaved), both);
}

#[test]
fn saved_modules_are_kept_in_full_under_every_spelling() {
    for infix in ["", ".modules_to_save", ".modules_to_save.default"] {
        let adapter = FolderBuilder::new()
            .field("modules_to_save", json!(["lm_head", "0.mlp.up_proj"]))
            .tensor(&format!("{HEAD}{infix}.weight"), numbered(&[32, 8]))
            .tensor(
                &format!("base_model.model.model.layers.0.mlp.up_proj{infix}.weight"),
                numbered(&[12, 8]),
            )
            .loaded();
        assert_eq!(
            matrices(&adapter),
            [(at(0, Projection::Up), rows(0..12, 8)), (Site::Output, rows(0..32, 8))]
        );
        assert_eq!(adapter.effects.len(), 5);
    }
}

#[test]
fn a_saved_module_takes_no_pair() {
    let adapter = FolderBuilder::on(tiny(), json!(["q_proj"]))
        .field("modules_to_save", json!(["0.self_attn.q_proj"]))
        .tensor(&format!("{Q0}.weight"), numbered(&[8, 8]))
        .pair(&Q0.replace("layers.0", "layers.1"), [2, 8], [8, 2])
        .loaded();
    assert_eq!(low_rank(&adapter.effects[0]).site, at(1, Projection::Query));
    assert_eq!(matrices(&adapter), [(at(0, Projection::Query), rows(0..8, 8))]);
}

#[test]
fn a_saved_block_is_all_its_maps() {
    let mlp = "base_model.model.model.layers.1.mlp";
    let adapter = FolderBuilder::on(tiny(), json!(["0.self_attn.q_proj"]))
        .field("modules_to_save", json!(["layers.1.mlp"]))
        .pair(Q0, [2, 8], [8, 2])
        .tensor(&format!("{mlp}.gate_proj.weight"), numbered(&[12, 8]))
        .tensor(&format!("{mlp}.up_proj.weight"), numbered(&[12, 8]))
        .tensor(&format!("{mlp}.down_proj.weight"), numbered(&[8, 12]))
        .loaded();
    assert_eq!(matrices(&adapter).len(), 3);
}

#[test]
fn conv1d_weights_are_turned_and_cut() {
    let module = "base_model.model.transformer.h.0.attn.c_attn";
    let adapter = FolderBuilder::on(gpt2(), json!(["0.mlp.c_fc"]))
        .field("fan_in_fan_out", json!(true))
        .field("modules_to_save", json!(["h.0.attn.c_attn"]))
        .pair("base_model.model.transformer.h.0.mlp.c_fc", [2, 8], [12, 2])
        .tensor(&format!("{module}.weight"), numbered(&[8, 24]))
        .tensor(&format!("{module}.bias"), numbered(&[24]))
        .loaded();
    let parts = [Projection::Query, Projection::Key, Projection::Value]
        .into_iter()
        .zip([0..8, 8..16, 16..24]);
    let (weights, replaced): (Vec<_>, Vec<_>) = parts
        .map(|(projection, outputs)| {
            let site = at(0, projection);
            (
                (site, turned(outputs.clone(), [8, 24])),
                (site, BiasKind::Replaces, rows(outputs, 1)),
            )
        })
        .unzip();
    assert_eq!(matrices(&adapter), weights);
    assert_eq!(biases(&adapter), replaced);
    // The pair itself is stored as everywhere.
    assert_eq!(
        (
            low_rank(&adapter.effects[0]).a.cols,
            low_rank(&adapter.effects[0]).b.rows
        ),
        (8, 12)
    );
}

#[test]
fn the_two_c_proj_of_gpt2_are_apart() {
    let module = |name: &str| format!("base_model.model.transformer.h.1.{name}");
    let adapter = FolderBuilder::on(gpt2(), json!(["c_proj"]))
        .field("layers_to_transform", json!([1]))
        .pair(&module("attn.c_proj"), [2, 8], [8, 2])
        .pair(&module("mlp.c_proj"), [2, 12], [8, 2])
        .loaded();
    let sites: Vec<_> = adapter.effects.iter().map(|effect| low_rank(effect).site).collect();
    assert_eq!(sites, [at(1, Projection::Output), at(1, Projection::Down)]);
}

#[test]
fn biases_of_the_targets_replace_the_bases() {
    let spec = of_family("qwen2", |layer| {
        layer.biases = ProjectionSet::NONE
            .with(Projection::Query)
            .with(Projection::Key)
            .with(Projection::Value);
    });
    for name in ["base_layer.bias", "bias"] {
        let adapter = FolderBuilder::on(spec.clone(), json!(["0.self_attn.q_proj", "0.self_attn.o_proj"]))
            .field("bias", json!("lora_only"))
            .pair(Q0, [2, 8], [8, 2])
            .pair(&Q0.replace("q_proj", "o_proj"), [2, 8], [8, 2])
            .tensor(&format!("{Q0}.{name}"), numbered(&[8]))
            .loaded();
        assert_eq!(
            biases(&adapter),
            [(at(0, Projection::Query), BiasKind::Replaces, rows(0..8, 1))]
        );
    }
    // A base without biases has none to train.
    FolderBuilder::new().field("bias", json!("all")).loaded();
}

#[test]
fn all_biases_are_those_of_maps_and_normalisations() {
    let mut folder = FolderBuilder::on(gpt2(), json!(["c_attn"])).field("bias", json!("all"));
    for layer in 0..2 {
        let name = |name: &str| format!("base_model.model.transformer.h.{layer}.{name}");
        folder = folder
            .pair(&name("attn.c_attn"), [2, 8], [24, 2])
            .tensor(&name("attn.c_attn.base_layer.bias"), numbered(&[24]))
            .tensor(&name("attn.c_proj.bias"), numbered(&[8]))
            .tensor(&name("mlp.c_fc.bias"), numbered(&[12]))
            .tensor(&name("mlp.c_proj.bias"), numbered(&[8]))
            .tensor(&name("ln_1.bias"), numbered(&[8]))
            .tensor(&name("ln_2.bias"), numbered(&[8]));
    }
    let adapter = folder
        .tensor("base_model.model.transformer.ln_f.bias", numbered(&[8]))
        .loaded();
    assert_eq!(biases(&adapter).len(), 12);
    assert_eq!(norms(&adapter).len(), 5);
    assert_eq!(norms(&adapter)[4], (NormSite::Final, None, Some(rows(0..8, 1).2)));
}

#[test]
fn the_bias_of_a_pair_is_added_at_its_scale() {
    let adapter = FolderBuilder::on(tiny(), json!(["0.self_attn.q_proj"]))
        .field("lora_bias", json!(true))
        .pair(Q0, [2, 8], [8, 2])
        .tensor(&format!("{Q0}.lora_B.bias"), numbered(&[8]))
        .loaded();
    assert_eq!(
        biases(&adapter),
        [(at(0, Projection::Query), BiasKind::Adds(2.0), rows(0..8, 1))]
    );
}

#[test]
fn saved_normalisations_are_given_as_the_runner_wants_them() {
    let name = |name: &str| format!("base_model.model.model.layers.0.{name}");
    let gemma = of_family("gemma3", |layer| {
        layer.post_norms = true;
        layer.attention.head_norms = true;
    });
    let adapter = FolderBuilder::on(gemma, json!([]))
        .field(
            "modules_to_save",
            json!(["0.post_attention_layernorm", "0.self_attn.k_norm", "model.norm"]),
        )
        .tensor(&name("post_attention_layernorm.weight"), numbered(&[8]))
        .tensor(&name("self_attn.k_norm.weight"), numbered(&[4]))
        .tensor("base_model.model.model.norm.weight", numbered(&[8]))
        .loaded();
    let plus_one = |count: usize| Some((0..count).map(|index| index as f32 + 2.0).collect::<Vec<_>>());
    assert_eq!(
        norms(&adapter),
        [
            (NormSite::Key(0), plus_one(4), None),
            (NormSite::PostAttention(0), plus_one(8), None),
            (NormSite::Final, plus_one(8), None)
        ]
    );
    let llama = FolderBuilder::on(tiny(), json!([]))
        .field("modules_to_save", json!(["0.post_attention_layernorm"]))
        .tensor(&name("post_attention_layernorm.weight"), numbered(&[8]))
        .loaded();
    assert_eq!(norms(&llama), [(NormSite::FeedForward(0), Some(rows(0..8, 1).2), None)]);
    let layer_norm = FolderBuilder::on(gpt2(), json!([]))
        .field("modules_to_save", json!(["ln_f"]))
        .tensor("base_model.model.transformer.ln_f.weight", numbered(&[8]))
        .tensor("base_model.model.transformer.ln_f.modules_to_save.bias", numbered(&[8]))
        .loaded();
    let vector = Some(rows(0..8, 1).2);
    assert_eq!(norms(&layer_norm), [(NormSite::Final, vector.clone(), vector)]);
}

#[test]
fn the_text_model_of_a_larger_one_is_found_under_its_prefix() {
    for (stack, head) in [
        ("model.layers", "lm_head"),
        ("model.language_model.layers", "lm_head"),
        ("language_model.model.layers", "language_model.lm_head"),
    ] {
        let adapter = FolderBuilder::on(
            of_family("gemma3", |_| {}),
            json!(format!(r".*0\.self_attn\.q_proj|{head}")),
        )
        .pair(&format!("base_model.model.{stack}.0.self_attn.q_proj"), [2, 8], [8, 2])
        .pair(&format!("base_model.model.{head}"), [2, 8], [32, 2])
        .loaded();
        let sites: Vec<_> = adapter.effects.iter().map(|effect| low_rank(effect).site).collect();
        assert_eq!(sites, [at(0, Projection::Query), Site::Output], "{stack}");
    }
}

#[test]
fn the_hash_covers_every_effect() {
    let with = |name: &str, stored: Stored| {
        let folder = FolderBuilder::on(gpt2(), json!(["0.attn.c_attn"]))
            .field("modules_to_save", json!(["lm_head", "ln_f"]))
            .field("bias", json!("lora_only"))
            .field("use_dora", json!(true))
            .pair("base_model.model.transformer.h.0.attn.c_attn", [2, 8], [24, 2])
            .tensor(
                "base_model.model.transformer.h.0.attn.c_attn.lora_magnitude_vector",
                numbered(&[24]),
            )
            .tensor(
                "base_model.model.transformer.h.0.attn.c_attn.base_layer.bias",
                numbered(&[24]),
            )
            .tensor("base_model.model.transformer.ln_f.weight", numbered(&[8]))
            .tensor("base_model.model.transformer.ln_f.bias", numbered(&[8]))
            .tensor("base_model.model.lm_head.weight", numbered(&[32, 8]));
        folder.tensor(name, stored).loaded().hash
    };
    let name = |name: &str| format!("base_model.model.transformer.{name}");
    let original = with(&name("ln_f.bias"), numbered(&[8]));
    let others = [
        with(
            &name("h.0.attn.c_attn.lora_magnitude_vector"),
            f32s([24, 1], 2.0).flat(),
        ),
        with(&name("h.0.attn.c_attn.base_layer.bias"), f32s([24, 1], 2.0).flat()),
        with(&name("ln_f.weight"), f32s([8, 1], 2.0).flat()),
        with(&name("ln_f.bias"), f32s([8, 1], 2.0).flat()),
        with("base_model.model.lm_head.weight", f32s([32, 8], 2.0)),
    ];
    for (index, other) in others.iter().enumerate() {
        assert_ne!(*other, original, "{index}");
        assert!(others[..index].iter().all(|earlier| earlier != other));
    }
}
