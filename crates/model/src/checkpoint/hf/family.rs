//! Families of Hugging Face checkpoints as data: which fields of config.json describe one, and at which values. A new
//! Llama-like architecture is one more entry of [`FAMILIES`].

use super::fields::Literal;
use super::fields::Literal::{Integer, Real, Text, Truth};
use super::tensor_names::{GEMMA_NAMES, GPT2_NAMES, LLAMA_NAMES, PHI3_NAMES, TensorNames};
use crate::NormKind;
use crate::Projection::{self, Down, Gate, Key, Output, Query, Up, Value};

/// Checkpoints of one `model_type`.
pub(super) struct Family {
    pub(super) model_type: &'static str,
    /// Its class in transformers.
    pub(super) class: &'static str,
    /// How the family spells fields that the others call by another name.
    pub(super) aliases: &'static [(&'static str, &'static str)],
    /// What transformers takes for a field that is not there.
    pub(super) defaults: &'static [(&'static str, Literal)],
    /// Fields that have an effect only at other values than these.
    pub(super) fixed: &'static [(&'static str, Literal)],
    /// Fields that have no effect, besides those of [`INERT`].
    pub(super) inert: &'static [&'static str],
    pub(super) norm: NormKind,
    /// Added to every weight of a normalisation.
    pub(super) norm_offset: f32,
    pub(super) head_norms: bool,
    pub(super) post_norms: bool,
    /// Scores are divided by the root of this field rather than of the width of a head.
    pub(super) score_width: Option<&'static str>,
    /// Embeddings are multiplied by the root of the hidden size.
    pub(super) scaled_embedding: bool,
    /// The feed-forward has a gate.
    pub(super) gated: bool,
    pub(super) biases: &'static [BiasRule],
    pub(super) positions: Positions,
    pub(super) windows: Windows,
    pub(super) tensors: &'static TensorNames,
}

/// Which maps add a bias.
pub(super) struct BiasRule {
    /// The field that says so; `None` for always.
    pub(super) when: Option<&'static str>,
    pub(super) projections: &'static [Projection],
}

/// How positions enter.
pub(super) enum Positions {
    /// Rotary embedding, the same in every layer that has it.
    Rotary(RotaryRule),
    /// Rotary embedding, one for layers that see everything and one for those with a window.
    RotaryByWindow { full: RotaryRule, sliding: RotaryRule },
    /// A table of learned embeddings.
    Learned,
}

/// What a family takes for a rotary embedding.
pub(super) struct RotaryRule {
    /// Base when config.json has none.
    pub(super) base: f64,
    /// Only a part of a head may rotate.
    pub(super) partial: bool,
    /// Values of `rope_type`.
    pub(super) kinds: &'static [&'static str],
}

/// Which layers see a window of `sliding_window` tokens.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Windows {
    /// None.
    Never,
    /// Every one.
    Every,
    /// With `use_sliding_window`: those that `layer_types` says, or from `max_window_layers` on.
    FromLayer,
    /// With `use_sliding_window`: those that `layer_types` says, or those without rotary embedding.
    WithoutRotary,
    /// Those that `layer_types` says, or all but every `sliding_window_pattern`th.
    Interleaved,
}

impl Family {
    /// The family that `model_type` names.
    pub(super) fn named(model_type: &str) -> Option<&'static Self> {
        FAMILIES.iter().find(|family| family.model_type == model_type)
    }
}

const FULL_HEAD: RotaryRule = RotaryRule {
    base: 10_000.0,
    partial: false,
    kinds: &["default", "linear", "llama3", "yarn", "longrope"],
};

const ATTENTION_BIAS: BiasRule = BiasRule {
    when: Some("attention_bias"),
    projections: &[Query, Key, Value, Output],
};
const MLP_BIAS: BiasRule = BiasRule {
    when: Some("mlp_bias"),
    projections: &[Gate, Up, Down],
};

/// What the families share with Llama.
const LLAMA: Family = Family {
    model_type: "llama",
    class: "LlamaForCausalLM",
    aliases: &[],
    defaults: &[("rms_norm_eps", Real(1e-6)), ("hidden_act", Text("silu"))],
    fixed: &[("rope_interleaved", Truth(false))],
    inert: &[],
    norm: NormKind::Rms,
    norm_offset: 0.0,
    head_norms: false,
    post_norms: false,
    score_width: None,
    scaled_embedding: false,
    gated: true,
    biases: &[ATTENTION_BIAS, MLP_BIAS],
    positions: Positions::Rotary(FULL_HEAD),
    windows: Windows::Never,
    tensors: &LLAMA_NAMES,
};

/// Every family that is served.
pub(super) const FAMILIES: [Family; 8] = [
    LLAMA,
    Family {
        model_type: "mistral",
        class: "MistralForCausalLM",
        defaults: &[
            ("rms_norm_eps", Real(1e-6)),
            ("hidden_act", Text("silu")),
            ("num_key_value_heads", Integer(8)),
            ("sliding_window", Integer(4096)),
        ],
        fixed: &[("attention_bias", Truth(false)), ("mlp_bias", Truth(false))],
        biases: &[],
        windows: Windows::Every,
        ..LLAMA
    },
    Family {
        model_type: "qwen2",
        class: "Qwen2ForCausalLM",
        defaults: &[
            ("rms_norm_eps", Real(1e-6)),
            ("hidden_act", Text("silu")),
            ("num_key_value_heads", Integer(32)),
            ("sliding_window", Integer(4096)),
            ("max_window_layers", Integer(28)),
        ],
        fixed: &[
            ("attention_bias", Truth(true)),
            ("mlp_bias", Truth(false)),
            ("use_mrope", Truth(false)),
        ],
        biases: &[BiasRule {
            when: None,
            projections: &[Query, Key, Value],
        }],
        windows: Windows::FromLayer,
        ..LLAMA
    },
    Family {
        model_type: "qwen3",
        class: "Qwen3ForCausalLM",
        defaults: &[
            ("rms_norm_eps", Real(1e-6)),
            ("hidden_act", Text("silu")),
            ("num_key_value_heads", Integer(32)),
            ("head_dim", Integer(128)),
            ("sliding_window", Integer(4096)),
            ("max_window_layers", Integer(28)),
        ],
        fixed: &[("mlp_bias", Truth(false))],
        head_norms: true,
        biases: &[ATTENTION_BIAS],
        windows: Windows::FromLayer,
        ..LLAMA
    },
    Family {
        model_type: "gemma3_text",
        class: "Gemma3ForCausalLM",
        aliases: &[("hidden_act", "hidden_activation")],
        defaults: &[
            ("rms_norm_eps", Real(1e-6)),
            ("hidden_activation", Text("gelu_pytorch_tanh")),
            ("num_key_value_heads", Integer(4)),
            ("head_dim", Integer(256)),
            ("query_pre_attn_scalar", Integer(256)),
            ("sliding_window", Integer(4096)),
            ("sliding_window_pattern", Integer(6)),
            ("tie_word_embeddings", Truth(true)),
        ],
        fixed: &[
            ("mlp_bias", Truth(false)),
            ("use_bidirectional_attention", Truth(false)),
        ],
        norm_offset: 1.0,
        head_norms: true,
        post_norms: true,
        score_width: Some("query_pre_attn_scalar"),
        scaled_embedding: true,
        biases: &[ATTENTION_BIAS],
        positions: Positions::RotaryByWindow {
            full: RotaryRule {
                base: 1_000_000.0,
                ..FULL_HEAD
            },
            sliding: FULL_HEAD,
        },
        windows: Windows::Interleaved,
        tensors: &GEMMA_NAMES,
        ..LLAMA
    },
    Family {
        model_type: "phi3",
        class: "Phi3ForCausalLM",
        defaults: &[
            ("rms_norm_eps", Real(1e-5)),
            ("hidden_act", Text("silu")),
            ("original_max_position_embeddings", Integer(4096)),
        ],
        fixed: &[
            ("attention_bias", Truth(false)),
            ("mlp_bias", Truth(false)),
            ("lm_head_bias", Truth(false)),
            ("full_attn_mod", Integer(1)),
            ("interpolate_factor", Integer(1)),
        ],
        // Read where the rotary embedding is scaled.
        inert: &["original_max_position_embeddings"],
        biases: &[],
        positions: Positions::Rotary(RotaryRule {
            partial: true,
            kinds: &["default", "longrope", "su"],
            ..FULL_HEAD
        }),
        windows: Windows::Every,
        tensors: &PHI3_NAMES,
        ..LLAMA
    },
    Family {
        model_type: "smollm3",
        class: "SmolLM3ForCausalLM",
        defaults: &[
            ("rms_norm_eps", Real(1e-6)),
            ("hidden_act", Text("silu")),
            ("num_key_value_heads", Integer(4)),
            ("no_rope_layer_interval", Integer(4)),
            ("tie_word_embeddings", Truth(true)),
        ],
        inert: &["max_window_layers"],
        positions: Positions::Rotary(RotaryRule {
            base: 2_000_000.0,
            ..FULL_HEAD
        }),
        windows: Windows::WithoutRotary,
        ..LLAMA
    },
    Family {
        model_type: "gpt2",
        class: "GPT2LMHeadModel",
        aliases: &[
            ("hidden_size", "n_embd"),
            ("intermediate_size", "n_inner"),
            ("num_hidden_layers", "n_layer"),
            ("num_attention_heads", "n_head"),
            ("max_position_embeddings", "n_positions"),
            ("hidden_act", "activation_function"),
            ("rms_norm_eps", "layer_norm_epsilon"),
        ],
        defaults: &[
            ("layer_norm_epsilon", Real(1e-5)),
            ("activation_function", Text("gelu_new")),
            ("tie_word_embeddings", Truth(true)),
        ],
        fixed: &[
            ("scale_attn_weights", Truth(true)),
            ("scale_attn_by_inverse_layer_idx", Truth(false)),
            ("add_cross_attention", Truth(false)),
        ],
        // The former changes rounding in half precision only.
        inert: &["reorder_and_upcast_attn", "n_special", "predict_special_tokens"],
        norm: NormKind::Layer,
        gated: false,
        biases: &[BiasRule {
            when: None,
            projections: &[Query, Key, Value, Output, Up, Down],
        }],
        positions: Positions::Learned,
        tensors: &GPT2_NAMES,
        ..LLAMA
    },
];

/// Fields of config.json that have no effect on the numbers of any family.
pub(super) const INERT: &[&str] = &[
    // Where the file comes from and which code reads it.
    "_name_or_path",
    "architectures",
    "auto_map",
    "dtype",
    "is_llama_config",
    "model_type",
    "torch_dtype",
    "transformers_version",
    "transformers.js_config",
    "unsloth_fixed",
    "unsloth_version",
    // How PyTorch computes it.
    "_flash_attn_2_enabled",
    "_attn_implementation",
    "_attn_implementation_autoset",
    "attn_implementation",
    "cache_implementation",
    "chunk_size_feed_forward",
    "gradient_checkpointing",
    "low_cpu_mem_usage",
    "pretraining_tp",
    "torchscript",
    "use_bfloat16",
    "use_cache",
    // What it gives besides logits.
    "output_attentions",
    "output_hidden_states",
    "output_past",
    "return_dict",
    "tie_last_hidden_states",
    // Training.
    "attention_dropout",
    "attn_pdrop",
    "embd_pdrop",
    "initializer_range",
    "resid_pdrop",
    // Classification heads.
    "_num_labels",
    "finetuning_task",
    "id2label",
    "label2id",
    "num_labels",
    "problem_type",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    // Text and generation: read by the tokenizer, or by nobody.
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "unk_token_id",
    "sep_token_id",
    "decoder_start_token_id",
    "task_specific_params",
    "tokenizer_class",
    "do_sample",
    "max_length",
    "max_sequence_length",
    "model_max_length",
    "max_new_tokens",
    "repetition_penalty",
    "temperature",
    "top_k",
    "top_p",
];

/// Fields that other values than these would change for every family.
pub(super) const FIXED: &[(&str, Literal)] = &[("is_encoder_decoder", Truth(false))];
