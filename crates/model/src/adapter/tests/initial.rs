//! Adapters that began by changing the base: refused alone, converted with their initial adapter beside them.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::folders::*;
use crate::adapter::AdapterErrorCode as Code;

fn pissa() -> FolderBuilder {
    FolderBuilder::on(tiny(), json!(["0.self_attn.q_proj"]))
        .field("init_lora_weights", json!("pissa_niter_4"))
        .tensor(&format!("{Q0}.lora_A.weight"), numbered(&[2, 8]))
        .tensor(&format!("{Q0}.lora_B.weight"), numbered(&[8, 2]))
}

/// Puts an initial adapter into `folder/name`.
fn beside(folder: &FolderBuilder, name: &str, initial: FolderBuilder) {
    let initial = initial.field("init_lora_weights", json!(true)).write();
    let into = folder.dir.path().join(name);
    fs::create_dir(&into).unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(initial.dir.path().join(file), into.join(file)).unwrap();
    }
}

fn initial() -> FolderBuilder {
    pissa().pair(Q0, [2, 8], [8, 2])
}

#[test]
fn alone_they_are_refused_with_what_to_do() {
    for init in ["pissa", "PiSSA_niter_16", "olora", "corda", "lora_ga"] {
        let folder = pissa().field("init_lora_weights", json!(init));
        folder.refused(
            Code::UnsupportedField,
            &["init_lora_weights", init, "path_initial_model_for_weight_conversion"],
        );
    }
    let loftq = pissa().field("init_lora_weights", json!("loftq")).write();
    beside(&loftq, "loftq_init", initial());
    loftq.refused_on_load(Code::UnsupportedField, &["loftq", "merge it"]);
}

#[test]
fn with_the_initial_adapter_its_product_is_subtracted() {
    for name in ["pissa_init", "olora_init", "x_init"] {
        let folder = pissa().write();
        beside(&folder, name, initial());
        let adapter = folder.load().unwrap();
        let pair = low_rank(&adapter.effects[0]);
        assert_eq!((adapter.max_rank, pair.scale), (4, 2.0));
        let (_, _, mut a) = rows(0..2, 8);
        a.extend([0.5; 16]);
        assert_eq!(values(&pair.a), (4, 8, a));
        let b: Vec<f32> = (0..8)
            .flat_map(|row| [row as f32 * 2.0 + 1.0, row as f32 * 2.0 + 2.0, -0.25, -0.25])
            .collect();
        assert_eq!(values(&pair.b), (8, 4, b));
        assert_eq!(inspect(folder.dir.path(), &tiny()).unwrap().max_rank, 4);
    }
}

#[test]
fn values_of_two_types_meet_as_singles() {
    let halves = |count: usize| Stored("F16", vec![], half::f16::from_f32(0.5).to_le_bytes().repeat(count));
    let shaped = |shape: [usize; 2]| Stored("F16", shape.to_vec(), halves(shape[0] * shape[1]).2);
    let folder = pissa().write();
    let initial = initial()
        .tensor(&format!("{Q0}.lora_A.weight"), shaped([2, 8]))
        .tensor(&format!("{Q0}.lora_B.weight"), shaped([8, 2]));
    beside(&folder, "pissa_init", initial);
    let adapter = folder.load().unwrap();
    let pair = low_rank(&adapter.effects[0]);
    assert_eq!(values(&pair.b).2[..4], [1.0, 2.0, -0.5, -0.5]);
    assert_eq!(values(&pair.a).2[16..], [0.5; 16]);
}

#[test]
fn the_initial_adapter_must_fit() {
    let refused = |change: &dyn Fn(FolderBuilder) -> FolderBuilder, code, fact: &str| {
        let folder = pissa().write();
        beside(&folder, "pissa_init", change(initial()));
        folder.refused_on_load(code, &["pissa_init: ", fact]);
    };
    refused(
        &|folder| folder.field("lora_alpha", json!(5)),
        Code::ShapeMismatch,
        "rank 2 and scale 2",
    );
    let wider = |folder: FolderBuilder| folder.field("r", json!(3)).pair(Q0, [3, 8], [8, 3]);
    refused(&wider, Code::ShapeMismatch, "rank 2 and scale 2");
    let more = |folder: FolderBuilder| {
        let folder = folder.field("target_modules", json!(["q_proj"]));
        folder.pair(&Q0.replace("layers.0", "layers.1"), [2, 8], [8, 2])
    };
    refused(&more, Code::ShapeMismatch, "layer 1 Query");
    refused(
        &|folder| folder.without(&format!("{Q0}.lora_A.weight")),
        Code::HalfPair,
        "lora_A",
    );
    let folder = pissa().write();
    beside(&folder, "pissa_init", initial());
    beside(&folder, "other_init", initial());
    folder.refused_on_load(Code::Malformed, &["other_init", "pissa_init"]);
}

#[test]
fn the_limit_counts_both_pairs() {
    let folder = pissa().write();
    beside(&folder, "pissa_init", initial());
    let limited = |max_rank| {
        let (spec, limits) = (tiny(), crate::adapter::AdapterLimits { max_rank, ..LIMITS });
        crate::adapter::inspect_adapter(folder.dir.path(), base(&spec), limits).map(|_| ())
    };
    limited(4).unwrap();
    assert_refusal(&limited(3).unwrap_err(), Code::RankTooLarge, &["at most 3, got 4"]);
}

#[test]
fn an_initial_adapter_beside_one_that_needs_none_is_nobodys() {
    let folder = initial().field("init_lora_weights", json!(true)).write();
    beside(&folder, "pissa_init", initial());
    assert_eq!(folder.load().unwrap().max_rank, 2);
}

#[test]
fn pefts_own_conversion_is_the_same_delta() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tiny-adapters");
    let config: Value = serde_json::from_slice(&fs::read(fixtures.join("../tiny/qwen2/config.json")).unwrap()).unwrap();
    let size = |key: &str| config[key].as_u64().unwrap() as usize;
    let mut spec = spec(
        size("num_hidden_layers"),
        size("hidden_size"),
        size("num_attention_heads"),
        size("num_key_value_heads"),
        size("intermediate_size"),
    );
    spec.family = "qwen2".to_owned();
    let (ours, pefts) = (
        load(&fixtures.join("pissa"), &spec).unwrap(),
        load(&fixtures.join("pissa-converted"), &spec).unwrap(),
    );
    assert_eq!(ours.effects.len(), pefts.effects.len());
    for (ours, pefts) in ours.effects.iter().zip(&pefts.effects) {
        let (ours, pefts) = (low_rank(ours), low_rank(pefts));
        assert_eq!((ours.site, ours.scale), (pefts.site, pefts.scale));
        assert_eq!((values(&ours.a), values(&ours.b)), (values(&pefts.a), values(&pefts.b)));
    }
}
