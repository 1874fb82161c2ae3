use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const Q3: &str = "model.layers.3.self_attn.q_proj";
const DOWN3: &str = "model.layers.3.mlp.down_proj";
const DOWN13: &str = "model.layers.13.mlp.down_proj";

fn config(fields: Value) -> Result<AdapterConfig, ConfigError> {
    let mut all = json!({"peft_type": "LORA", "target_modules": ["q_proj", "down_proj"]});
    for (name, value) in fields.as_object().unwrap() {
        all[name] = value.clone();
    }
    AdapterConfig::parse(all.to_string().as_bytes())
}

fn accepted(fields: Value) -> AdapterConfig {
    config(fields).unwrap()
}

fn refusal(fields: Value) -> String {
    config(fields).unwrap_err().to_string()
}

/// What peft 0.21 writes for a LoRA on a causal model.
fn as_peft_writes() -> Value {
    json!({
        "alora_invocation_tokens": null, "alpha_pattern": {}, "arrow_config": null, "auto_mapping": null,
        "base_model_name_or_path": "some/base", "bias": "none", "corda_config": null, "ensure_weight_tying": false,
        "eva_config": null, "exclude_modules": null, "fan_in_fan_out": false, "inference_mode": true,
        "init_lora_weights": true, "kasa_config": null, "layer_replication": null, "layers_pattern": null,
        "layers_to_transform": null, "loftq_config": {}, "lora_alpha": 16, "lora_bias": false, "lora_dropout": 0.05,
        "lora_ga_config": null, "megatron_config": null, "megatron_core": "megatron.core", "modules_to_save": null,
        "monteclora_config": null, "peft_type": "LORA", "peft_version": "0.21.2", "qalora_group_size": 16, "r": 4,
        "rank_pattern": {}, "revision": null, "target_modules": ["q_proj"], "target_parameters": null,
        "task_type": "CAUSAL_LM", "trainable_token_indices": null, "use_bdlora": null, "use_dora": false,
        "use_qalora": false, "use_rslora": false, "velora_config": null
    })
}

#[test]
fn what_peft_writes_is_read() {
    let config = accepted(as_peft_writes());
    assert_eq!(config.base_model.as_deref(), Some("some/base"));
    assert_eq!((config.rank_for(Q3), config.scale_for(Q3)), (4, 4.0));
    assert!(config.targets(Q3, ModuleKind::Linear) && !config.targets(DOWN3, ModuleKind::Linear));
}

#[test]
fn defaults_are_pefts() {
    let config = accepted(json!({}));
    assert_eq!((config.rank_for(Q3), config.scale_for(Q3)), (8, 1.0));
    assert_eq!((config.base_model, config.base_hash), (None, None));
}

#[test]
fn every_field_that_changes_the_numbers_is_refused_by_name() {
    let cases = [
        ("use_qalora", json!(true)),
        ("bias", json!("some")),
        ("trainable_token_indices", json!({"embed_tokens": [1]})),
        ("target_parameters", json!(["experts.down_proj"])),
        ("layer_replication", json!([[0, 4], [2, 5]])),
        ("alora_invocation_tokens", json!([1, 2])),
        ("megatron_config", json!({"x": 1})),
        ("use_bdlora", json!({})),
        ("arrow_config", json!({})),
        ("kasa_config", json!({})),
        ("velora_config", json!({})),
        ("monteclora_config", json!({})),
        ("init_lora_weights", json!("lora_of_the_future")),
        ("init_lora_weights", json!(1)),
        ("a_field_of_the_future", json!(true)),
        ("a_field_of_the_future", json!(0)),
        ("a_field_of_the_future", json!("x")),
        ("a_field_of_the_future", json!([null])),
    ];
    for (name, value) in cases {
        let error = config(json!({name: value})).unwrap_err();
        assert!(
            matches!(&error, ConfigError::Format(FormatError::Unsupported { what, .. }) if what == name),
            "{name}: {error}"
        );
        assert!(error.to_string().contains(&value.to_string()), "{error}");
    }
}

#[test]
fn fields_at_rest_are_accepted_known_or_not() {
    for value in [json!(null), json!(false), json!([]), json!({}), json!("")] {
        accepted(json!({"a_field_of_the_future": value, "modules_to_save": value}));
    }
    accepted(json!({"use_bdlora": false, "arrow_config": null, "init_lora_weights": "gaussian", "bias": null}));
    accepted(json!({"runtime_config": {"ephemeral_gpu_offload": true}, "qalora_group_size": 32, "task_type": null}));
    accepted(json!({"auto_mapping": {"unsloth_fixed": true}, "revision": "main", "megatron_core": "other"}));
    let spaced = br#"{"peft_type": "LORA", "target_modules": ["q_proj"], "loftq_config": { }, "modules_to_save": [ ]}"#;
    AdapterConfig::parse(spaced).unwrap();
}

#[test]
fn another_method_is_refused_before_its_fields() {
    let error = config(json!({"peft_type": "IA3", "feedforward_modules": ["x"]})).unwrap_err();
    assert!(
        matches!(&error, ConfigError::PeftType(got) if got == "\"IA3\""),
        "{error}"
    );
    assert!(matches!(AdapterConfig::parse(b"{}"), Err(ConfigError::PeftType(_))));
}

#[test]
fn wrong_types_name_field_expected_and_got() {
    assert_eq!(refusal(json!({"r": 0})), "r: expected a positive integer, got 0");
    assert_eq!(refusal(json!({"r": -1})), "r: expected a positive integer, got -1");
    assert_eq!(
        refusal(json!({"lora_alpha": "16"})),
        "lora_alpha: expected a number, got \"16\""
    );
    assert_eq!(
        refusal(json!({"use_rslora": 1})),
        "use_rslora: expected a boolean, got 1"
    );
    assert!(refusal(json!({"rank_pattern": {"q_proj": 0}})).starts_with("rank_pattern: expected positive integers"));
    assert!(refusal(json!({"rank_pattern": [1]})).starts_with("rank_pattern: expected positive integers"));
    assert!(
        refusal(json!({"target_modules": 1})).starts_with("target_modules: expected a string or a list of strings")
    );
    assert!(refusal(json!({"target_modules": null})).starts_with("target_modules: expected a list of names"));
    assert!(refusal(json!({"rootstock_base_hash": "ab"})).starts_with("rootstock_base_hash: expected 64 hexadecimal"));
}

#[test]
fn a_repeated_key_is_refused() {
    let twice = br#"{"peft_type": "LORA", "r": 4, "r": 8, "target_modules": ["q_proj"]}"#;
    assert!(
        AdapterConfig::parse(twice)
            .unwrap_err()
            .to_string()
            .contains("\"r\" twice")
    );
}

#[test]
fn scales_follow_alpha_rank_and_rslora() {
    assert_eq!(accepted(json!({"r": 16, "lora_alpha": 32})).scale_for(Q3), 2.0);
    assert_eq!(
        accepted(json!({"r": 16, "lora_alpha": 32, "use_rslora": true})).scale_for(Q3),
        8.0
    );
    assert_eq!(accepted(json!({"r": 4, "lora_alpha": 0.5})).scale_for(Q3), 0.125);
    let patterns = accepted(json!({
        "r": 4, "lora_alpha": 8, "use_rslora": true, "rank_pattern": {"down_proj": 16}, "alpha_pattern": {"down_proj": 24}
    }));
    assert_eq!((patterns.rank_for(DOWN3), patterns.scale_for(DOWN3)), (16, 6.0));
    assert_eq!((patterns.rank_for(Q3), patterns.scale_for(Q3)), (4, 4.0));
}

#[test]
fn pattern_keys_match_as_pefts_get_pattern_key() {
    let rank = |key: &str, module| accepted(json!({"r": 1, "rank_pattern": {key: 2}})).rank_for(module) == 2;
    let cases = [
        ("down_proj", DOWN3, true),
        ("own_proj", DOWN3, false),
        ("mlp.down_proj", DOWN3, true),
        ("mlp", DOWN3, false),
        (DOWN3, DOWN3, true),
        ("^model.layers.3.mlp.down_proj", DOWN3, true),
        ("^layers.3.mlp.down_proj", DOWN3, false),
        (r"layers\.3\.mlp\.down_proj", DOWN13, false),
        (r"layers\.[0-9]+\.mlp\.down_proj", DOWN13, true),
        ("layers.3.*", DOWN3, true),
        ("layers.3.*", DOWN13, false),
        // A dot of a plain name is the expression's "any character".
        ("layers.13.mlp.down.proj", DOWN13, true),
        ("(q|down)_proj", DOWN3, true),
        ("", DOWN3, false),
    ];
    for (key, module, expected) in cases {
        assert_eq!(rank(key, module), expected, "{key} on {module}");
    }
}

#[test]
fn the_first_matching_pattern_of_the_file_wins() {
    let parse = |patterns: &str| {
        let json = format!(r#"{{"peft_type": "LORA", "target_modules": ["q_proj"], "rank_pattern": {patterns}}}"#);
        AdapterConfig::parse(json.as_bytes()).unwrap()
    };
    assert_eq!(parse(r#"{"q_proj": 2, "layers.3.*": 4}"#).rank_for(Q3), 2);
    assert_eq!(parse(r#"{"layers.3.*": 4, "q_proj": 2}"#).rank_for(Q3), 4);
}

#[test]
fn target_lists_match_whole_names_at_the_end() {
    let targets = |list: Value, module| accepted(json!({"target_modules": list})).targets(module, ModuleKind::Linear);
    assert!(targets(json!(["q_proj"]), Q3));
    assert!(targets(json!(["self_attn.q_proj"]), Q3));
    assert!(targets(json!([Q3]), Q3));
    assert!(!targets(json!(["proj"]), Q3));
    assert!(!targets(json!(["3.mlp.down_proj"]), DOWN13));
    assert!(!targets(json!([".*q_proj"]), Q3));
    assert!(names_module("q_proj", Q3) && names_module(Q3, Q3) && !names_module("_proj", Q3));
}

#[test]
fn target_expressions_match_the_whole_path() {
    let targets = |text: &str, module| accepted(json!({"target_modules": text})).targets(module, ModuleKind::Linear);
    assert!(targets(r".*\.(q|v)_proj", Q3));
    assert!(!targets(r".*\.(q|v)_proj", DOWN3));
    assert!(!targets("q_proj", Q3));
    assert!(!targets("model", Q3));
    assert!(targets("q_proj|.*down_proj", DOWN3) && !targets("q_proj|.*down_proj", Q3));
    assert!(targets("all-linear", Q3) && targets("All-Linear", DOWN3));
}

#[test]
fn excluded_modules_are_not_targeted() {
    let listed = accepted(json!({"exclude_modules": ["layers.3.mlp.down_proj"]}));
    assert!(
        !listed.targets(DOWN3, ModuleKind::Linear)
            && listed.targets(DOWN13, ModuleKind::Linear)
            && listed.targets(Q3, ModuleKind::Linear)
    );
    let matched = accepted(json!({"target_modules": "all-linear", "exclude_modules": r".*\.3\..*"}));
    assert!(!matched.targets(DOWN3, ModuleKind::Linear) && matched.targets(DOWN13, ModuleKind::Linear));
}

#[test]
fn layers_to_transform_selects_by_the_first_index() {
    let one = accepted(json!({"layers_to_transform": 3}));
    assert!(one.targets(DOWN3, ModuleKind::Linear) && !one.targets(DOWN13, ModuleKind::Linear));
    let two = accepted(json!({"layers_to_transform": [13, 3], "layers_pattern": "layers"}));
    assert!(
        two.targets(DOWN3, ModuleKind::Linear)
            && two.targets(DOWN13, ModuleKind::Linear)
            && !two.targets("model.layers.4.mlp.down_proj", ModuleKind::Linear)
    );
    assert_eq!(two.target_layers(), Some([3, 13].as_slice()));
    let other = accepted(json!({"layers_to_transform": [3], "layers_pattern": ["h", "blocks"]}));
    assert!(!other.targets(DOWN3, ModuleKind::Linear));
    // peft takes a full path as it is.
    let full = accepted(json!({"target_modules": [DOWN13, "q_proj"], "layers_to_transform": [3]}));
    assert!(full.targets(DOWN13, ModuleKind::Linear) && full.targets(Q3, ModuleKind::Linear));
    assert!(accepted(json!({"layers_to_transform": []})).targets(DOWN13, ModuleKind::Linear));
    assert!(refusal(json!({"layers_pattern": "layers"})).contains("without layers_to_transform"));
    assert!(refusal(json!({"layers_to_transform": 3, "target_modules": ".*"})).contains("layers_to_transform"));
}

#[test]
fn expressions_are_bounded_and_python_only_ones_refused() {
    assert!(refusal(json!({"target_modules": "(?<!a)q_proj"})).contains("without look-around"));
    assert!(refusal(json!({"target_modules": r"(a)\1"})).starts_with("target_modules: "));
    assert!(refusal(json!({"target_modules": "a)|(b"})).starts_with("target_modules: "));
    assert!(refusal(json!({"rank_pattern": {"a)|(b": 2}})).starts_with("rank_pattern: "));
    assert!(refusal(json!({"target_modules": "(a{1000}){1000}"})).contains("size limit"));
    assert!(refusal(json!({"target_modules": "a".repeat(2000)})).contains("at most 64 regular expressions"));
    let many: serde_json::Map<_, _> = (0..65).map(|n| (format!("({n})"), json!(2))).collect();
    assert!(refusal(json!({"rank_pattern": many})).contains("at most 64 regular expressions"));
    let names: serde_json::Map<_, _> = (0..1000).map(|n| (format!("layers.{n}.q_proj"), json!(2))).collect();
    accepted(json!({"rank_pattern": names}));
}

/// Path-like text over a small alphabet, so that names meet.
fn path() -> impl Strategy<Value = String> {
    "[ab1]{1,2}(\\.[ab1]{1,2}){0,4}"
}

proptest! {
    #[test]
    fn plain_pattern_keys_mean_what_the_expression_means(key in "[ab1.]{0,6}", module in path()) {
        let config = accepted(json!({"r": 1, "rank_pattern": {&key: 2}}));
        let reference = regex::Regex::new(&format!(r"\A(.*\.)?({key})$")).unwrap();
        prop_assert_eq!(config.rank_for(&module) == 2, reference.is_match(&module));
    }

    #[test]
    fn lists_mean_what_peft_means(names in prop::collection::vec(path(), 1..4), module in path()) {
        let config = accepted(json!({"target_modules": names}));
        let reference = names.iter().any(|name| &module == name || module.ends_with(&format!(".{name}")));
        prop_assert_eq!(config.targets(&module, ModuleKind::Linear), reference);
        prop_assert_eq!(names.iter().any(|name| names_module(name, &module)), reference);
    }

    #[test]
    fn layers_are_found_as_peft_finds_them(layer in 0u64..3, module in path()) {
        let config = accepted(json!({"target_modules": ["a", "b", "1"], "layers_to_transform": layer}));
        let listed = accepted(json!({"target_modules": ["a", "b", "1"]})).targets(&module, ModuleKind::Linear);
        let index = regex::Regex::new(r"\A.*?\.[^.]*\.(\d+)\.").unwrap();
        let found = index.captures(&module).is_some_and(|found| found[1].parse() == Ok(layer));
        let exact = ["a", "b", "1"].contains(&module.as_str());
        prop_assert_eq!(config.targets(&module, ModuleKind::Linear), exact || (listed && found));
    }

    #[test]
    fn random_text_and_random_values_never_panic(text in "\\PC{0,200}", field in 0usize..12, value in "[a-z0-9(){}|.*\\[\\]\",:-]{0,24}") {
        let _ = AdapterConfig::parse(text.as_bytes());
        let fields = ["r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules", "exclude_modules", "bias",
            "layers_to_transform", "layers_pattern", "use_rslora", "rootstock_base_hash", "unknown"];
        let name = fields[field];
        let _ = AdapterConfig::parse(format!("{{\"peft_type\": \"LORA\", \"{name}\": {value}}}").as_bytes());
        if let Ok(config) = config(json!({name: value})) {
            let _ = (config.targets(Q3, ModuleKind::Linear), config.scale_for(Q3));
        }
    }
}
