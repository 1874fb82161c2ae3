//! Fields of config.json: defaults, refusals by name, and that no change of a file panics.

use proptest::prelude::*;
use serde_json::json;

use super::*;

#[test]
fn fields_that_would_change_the_numbers_are_refused_by_name() {
    let table = [
        (
            "llama-bias",
            "model_type",
            json!("llama4"),
            "model_type: \"llama4\" is not supported (supported: llama, mistral,",
        ),
        ("llama-bias", "model_type", json!(null), "model_type is missing"),
        (
            "gemma3",
            "model_type",
            json!("gemma3"),
            "model_type: \"gemma3\" is not supported",
        ),
        (
            "llama-bias",
            "hidden_act",
            json!("relu"),
            "hidden_act: \"relu\" is not supported (supported: silu, swish,",
        ),
        (
            "llama-bias",
            "hidden_size",
            json!("64"),
            "hidden_size: expected an integer from 1 to 16777216, got \"64\"",
        ),
        (
            "llama-bias",
            "hidden_size",
            json!(-1),
            "hidden_size: expected an integer",
        ),
        ("llama-bias", "vocab_size", json!(null), "vocab_size is missing"),
        (
            "llama-bias",
            "vocab_size",
            json!(255),
            "tensor model.embed_tokens.weight: expected shape [255, 64]",
        ),
        (
            "llama-bias",
            "num_hidden_layers",
            json!(1_000_000),
            "at most the 66 tensors of the checkpoint",
        ),
        ("llama-bias", "num_hidden_layers", json!(3), "tensor \"model.layers.3."),
        (
            "llama-bias",
            "num_key_value_heads",
            json!(3),
            "num_key_value_heads: 3 is not supported (supported: a divisor of",
        ),
        (
            "llama-bias",
            "head_dim",
            json!(15),
            "head_dim: 15 is not supported (supported: an even width)",
        ),
        (
            "llama-bias",
            "rms_norm_eps",
            json!(0),
            "rms_norm_eps: expected a positive number",
        ),
        (
            "llama-bias",
            "rms_norm_eps",
            json!(1e-60),
            "rms_norm_eps: 0 is not supported",
        ),
        (
            "llama-bias",
            "attention_bias",
            json!("yes"),
            "attention_bias: expected true or false, got \"yes\"",
        ),
        (
            "llama-bias",
            "attention_bias",
            json!(false),
            "_proj.bias\": the architecture has no place for it",
        ),
        (
            "llama-bias",
            "rope_interleaved",
            json!(true),
            "rope_interleaved: true is not supported (supported: false)",
        ),
        (
            "llama-bias",
            "is_encoder_decoder",
            json!(true),
            "is_encoder_decoder: true",
        ),
        (
            "llama-bias",
            "query_pre_attn_scalar",
            json!(64),
            "field \"query_pre_attn_scalar\" (64) is not known",
        ),
        (
            "gemma3",
            "query_pre_attn_scalar",
            json!(1e-300),
            "query_pre_attn_scalar: ",
        ),
        ("llama-bias", "n_ctx", json!(512), "field \"n_ctx\" (512) is not known"),
        (
            "llama-bias",
            "logit_scale",
            json!(0.5),
            "field \"logit_scale\" (0.5) is not known and may change the numbers",
        ),
        (
            "llama-bias",
            "sliding_window",
            json!(16),
            "field \"sliding_window\" (16) is not known",
        ),
        (
            "llama-bias",
            "quantization_config",
            json!({"quant_method": "fp8"}),
            "quant_method: \"fp8\" is not supported",
        ),
        (
            "mistral",
            "sliding_window",
            json!(0),
            "sliding_window: expected an integer from 1",
        ),
        (
            "mistral",
            "layer_types",
            json!(["full_attention"]),
            "field \"layer_types\"",
        ),
        (
            "qwen2",
            "attention_bias",
            json!(false),
            "attention_bias: false is not supported (supported: true)",
        ),
        (
            "qwen2",
            "layer_types",
            json!(["full_attention"]),
            "layer_types: a list of 1 is not supported",
        ),
        (
            "qwen2",
            "layer_types",
            json!([1, 2, 3, 4]),
            "layer_types: 1 is not supported",
        ),
        (
            "qwen3",
            "layer_types",
            json!([
                "sliding_attention",
                "full_attention",
                "full_attention",
                "full_attention"
            ]),
            "layer_types: sliding_attention is not supported",
        ),
        (
            "gemma3",
            "final_logit_softcapping",
            json!(30.0),
            "field \"final_logit_softcapping\" (30.0) is not known",
        ),
        (
            "gemma3",
            "attn_logit_softcapping",
            json!(50.0),
            "field \"attn_logit_softcapping\" (50.0)",
        ),
        (
            "gemma3",
            "use_bidirectional_attention",
            json!(true),
            "use_bidirectional_attention: true",
        ),
        (
            "gemma3",
            "hidden_activation",
            json!("gelu"),
            "hidden_activation: \"gelu\" is not supported",
        ),
        (
            "gemma3",
            "sliding_window",
            json!(null),
            "layer_types: sliding_attention is not supported",
        ),
        ("phi3", "lm_head_bias", json!(true), "lm_head_bias: true"),
        (
            "smollm3",
            "no_rope_layers",
            json!([1, 1, 1]),
            "no_rope_layers: a list of 3 is not supported",
        ),
        (
            "smollm3",
            "no_rope_layers",
            json!([1, 1, 1, 2]),
            "no_rope_layers: 2 is not supported (supported: 0 and 1)",
        ),
        (
            "gpt2",
            "scale_attn_weights",
            json!(false),
            "scale_attn_weights: false is not supported (supported: true)",
        ),
        (
            "gpt2",
            "scale_attn_by_inverse_layer_idx",
            json!(true),
            "scale_attn_by_inverse_layer_idx: true",
        ),
        ("gpt2", "add_cross_attention", json!(true), "add_cross_attention: true"),
        (
            "gpt2",
            "n_head",
            json!(5),
            "n_head: 5 is not supported (supported: a divisor of the hidden size, 64)",
        ),
        (
            "gpt2",
            "hidden_size",
            json!(64),
            "field \"hidden_size\" (64) is not known",
        ),
        (
            "gpt2",
            "n_inner",
            json!(255),
            "tensor transformer.h.0.mlp.c_fc.weight: expected shape [64, 255], got [64, 256]",
        ),
        ("gpt2", "n_ctx", json!(256), "n_ctx: 256 contradicts"),
    ];
    for (name, field, value, expected) in table {
        let refusal = Model::tiny(name).set(field, value.clone()).refusal();
        assert!(refusal.contains(expected), "{name}: {field} = {value}: {refusal}");
    }
}

#[test]
fn fields_without_effect_are_accepted() {
    let table = [
        ("llama-bias", "pretraining_tp", json!(2)),
        ("llama-bias", "attention_dropout", json!(0.5)),
        ("llama-bias", "torch_dtype", json!("bfloat16")),
        ("llama-bias", "sliding_window", json!(null)),
        ("llama-bias", "not_known_but_null", json!(null)),
        ("llama-bias", "hidden_act", json!("swish")),
        ("qwen2", "use_sliding_window", json!(false)),
        ("qwen2", "sliding_window", json!(7)),
        ("qwen2", "max_window_layers", json!(0)),
        (
            "phi3",
            "auto_map",
            json!({"AutoConfig": "configuration_phi3.Phi3Config"}),
        ),
        ("phi3", "original_max_position_embeddings", json!(64)),
        ("smollm3", "max_window_layers", json!(28)),
        ("gemma3", "cache_implementation", json!("hybrid")),
        ("gemma3", "sliding_window_pattern", json!(2)),
        ("gpt2", "n_ctx", json!(512)),
        ("gpt2", "n_inner", json!(256)),
    ];
    for (name, field, value) in table {
        assert_eq!(
            Model::tiny(name).set(field, value).spec(),
            Model::tiny(name).spec(),
            "{name}: {field}"
        );
    }
}

#[test]
fn what_is_not_there_is_what_transformers_takes() {
    let defaults = [
        ("llama-bias", &["rms_norm_eps", "hidden_act", "head_dim"][..]),
        ("gemma3", &["tie_word_embeddings", "hidden_activation"]),
        (
            "smollm3",
            &[
                "no_rope_layers",
                "no_rope_layer_interval",
                "layer_types",
                "tie_word_embeddings",
            ],
        ),
        (
            "gpt2",
            &[
                "activation_function",
                "layer_norm_epsilon",
                "n_inner",
                "tie_word_embeddings",
            ],
        ),
        ("phi3", &["rms_norm_eps", "tie_word_embeddings"]),
    ];
    for (name, fields) in defaults {
        let bare = fields
            .iter()
            .fold(Model::tiny(name), |model, field| model.without(field));
        assert_eq!(bare.spec(), Model::tiny(name).spec(), "{name}");
    }
    let windows = |model: Model| -> Vec<_> {
        let spec = model.spec();
        spec.layers.iter().map(|layer| layer.attention.window).collect()
    };
    assert_eq!(
        windows(Model::tiny("mistral").without("sliding_window")),
        [Some(4096); 4]
    );
    assert_eq!(
        windows(Model::tiny("mistral").set("sliding_window", json!(null))),
        [None; 4]
    );
    assert_eq!(
        windows(Model::tiny("phi3").set("sliding_window", json!(9))),
        [Some(9); 4]
    );
    let window = Some(16);
    let gemma = || Model::tiny("gemma3").without("layer_types");
    assert_eq!(windows(gemma()), [window; 4]);
    let refusal = gemma().set("sliding_window_pattern", json!(2)).refusal();
    assert!(
        refusal.contains("_sliding_window_pattern: 6 contradicts a pattern of 2"),
        "{refusal}"
    );
    let every_second = gemma()
        .without("_sliding_window_pattern")
        .set("sliding_window_pattern", json!(2));
    assert_eq!(windows(every_second), [window, None, window, None]);
    let qwen = |first: usize| {
        let model = Model::tiny("qwen2")
            .without("layer_types")
            .set("use_sliding_window", json!(true));
        model
            .set("sliding_window", json!(16))
            .set("max_window_layers", json!(first))
    };
    assert_eq!(windows(qwen(2)), [None, None, window, window]);
    assert_eq!(windows(qwen(28)), [None; 4]);
    let smol = Model::tiny("smollm3")
        .without("layer_types")
        .set("use_sliding_window", json!(true));
    assert_eq!(
        windows(smol.set("sliding_window", json!(16))),
        [None, None, None, window]
    );
}

#[test]
fn a_head_may_be_wider_than_its_share_and_scores_scaled_otherwise() {
    let spec = Model::tiny("gemma3").set("query_pre_attn_scalar", json!(64)).spec();
    assert!(spec.layers.iter().all(|layer| layer.attention.scale == 0.125));
    let refusal = Model::tiny("qwen3").set("head_dim", json!(32)).refusal();
    assert!(
        refusal.contains("q_proj.weight: expected shape [128, 64], got [64, 64]"),
        "{refusal}"
    );
    let refusal = Model::tiny("qwen3").without("head_dim").refusal();
    assert!(refusal.contains("expected shape [512, 64]"), "{refusal}");
}

/// Values that a hostile or confused file might hold.
fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-3i64..70).prop_map(Value::from),
        "[a-z_0-9]{0,8}".prop_map(Value::from),
        prop::collection::vec(-1i64..5, 0..6).prop_map(Value::from),
        Just(json!({"rope_type": "yarn", "factor": 1e300, "original_max_position_embeddings": 1})),
        Just(json!({"rope_type": "llama3", "factor": 1e-300, "low_freq_factor": 1, "high_freq_factor": 2})),
        Just(json!({"full_attention": {"rope_theta": 2}, "sliding_attention": null})),
        Just(json!({"quant_method": "gptq", "bits": 4, "group_size": 1})),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever a field is changed to, the folder is opened or refused, and a model that opens gives its tensors.
    #[test]
    fn a_changed_configuration_never_panics(
        name in prop::sample::select(vec!["gemma3", "gpt2", "llama-bias", "phi3", "qwen2", "smollm3"]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), value()), 1..4),
    ) {
        let config = std::fs::read(fixture(name).join("config.json")).unwrap();
        let mut config: Map<String, Value> = serde_json::from_slice(&config).unwrap();
        for (index, value) in changes {
            let extra = ["rope_theta", "rope_scaling", "quantization_config", "partial_rotary_factor"];
            let fields: Vec<String> = config.keys().cloned().chain(extra.map(str::to_owned)).collect();
            config.insert(index.get(&fields).clone(), value);
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), serde_json::to_vec(&config).unwrap()).unwrap();
        std::os::unix::fs::symlink(fixture(name).join("model.safetensors"), dir.path().join("model.safetensors")).unwrap();
        if let Ok(checkpoint) = Checkpoint::open(dir.path()) {
            for (layer, shape) in checkpoint.spec().layers.iter().enumerate() {
                for projection in shape.projections() {
                    prop_assert!(checkpoint.projection(layer, projection).is_ok());
                }
            }
        }
    }

    /// Neither do changed bytes of any file.
    #[test]
    fn changed_bytes_never_panic(
        edits in prop::collection::vec((0usize..1500, any::<u8>()), 1..6),
        in_config in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        for file in ["config.json", "model.safetensors"] {
            let mut bytes = std::fs::read(fixture("phi3").join(file)).unwrap();
            if (file == "config.json") == in_config {
                edits.iter().for_each(|(at, byte)| bytes.get_mut(*at).into_iter().for_each(|old| *old = *byte));
            }
            std::fs::write(dir.path().join(file), bytes).unwrap();
        }
        let _ = Checkpoint::open(dir.path());
    }
}
