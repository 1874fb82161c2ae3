//! Names of tensors in Hugging Face checkpoints, as data.

use crate::NormSite;
use crate::Projection::{self, Down, Gate, Key, Output, Query, Up, Value};

/// Tensor names; `{}` stands for the layer, and all but `output` follow one of `prefixes`.
pub(super) struct TensorNames {
    /// As transformers writes it first, then as other files do.
    pub(super) prefixes: &'static [&'static str],
    pub(super) embedding: &'static str,
    pub(super) positions: &'static str,
    pub(super) output: &'static str,
    /// What each layer's names begin with.
    pub(super) layer: &'static str,
    /// Name of a normalisation, within its layer but for the last.
    pub(super) norm: fn(NormSite) -> &'static str,
    /// Modules within a layer and the projections whose outputs they hold, first rows first.
    pub(super) modules: &'static [(&'static str, &'static [Projection])],
    /// Weights lie as `[inputs, outputs]`.
    pub(super) transposed: bool,
    /// Tensors of the model and of a layer that repeat what is known otherwise.
    pub(super) implied: &'static [&'static str],
    pub(super) implied_in_layer: &'static [&'static str],
}

pub(super) const LLAMA_NAMES: TensorNames = TensorNames {
    prefixes: &["model.", ""],
    embedding: "embed_tokens.weight",
    positions: "",
    output: "lm_head.weight",
    layer: "layers.{}.",
    norm: |site| match site {
        NormSite::Attention(_) => "input_layernorm",
        NormSite::Query(_) => "self_attn.q_norm",
        NormSite::Key(_) => "self_attn.k_norm",
        NormSite::FeedForward(_) => "post_attention_layernorm",
        NormSite::Final => "norm",
        // No family with these names has them.
        NormSite::PostAttention(_) | NormSite::PostFeedForward(_) => "",
    },
    modules: &[
        ("self_attn.q_proj", &[Query]),
        ("self_attn.k_proj", &[Key]),
        ("self_attn.v_proj", &[Value]),
        ("self_attn.o_proj", &[Output]),
        ("mlp.gate_proj", &[Gate]),
        ("mlp.up_proj", &[Up]),
        ("mlp.down_proj", &[Down]),
    ],
    transposed: false,
    implied: &["rotary_emb.inv_freq"],
    implied_in_layer: &["self_attn.rotary_emb.inv_freq"],
};

pub(super) const GEMMA_NAMES: TensorNames = TensorNames {
    norm: |site| match site {
        NormSite::PostAttention(_) => "post_attention_layernorm",
        NormSite::FeedForward(_) => "pre_feedforward_layernorm",
        NormSite::PostFeedForward(_) => "post_feedforward_layernorm",
        other => (LLAMA_NAMES.norm)(other),
    },
    ..LLAMA_NAMES
};

pub(super) const PHI3_NAMES: TensorNames = TensorNames {
    modules: &[
        ("self_attn.qkv_proj", &[Query, Key, Value]),
        ("self_attn.o_proj", &[Output]),
        ("mlp.gate_up_proj", &[Gate, Up]),
        ("mlp.down_proj", &[Down]),
    ],
    ..LLAMA_NAMES
};

pub(super) const GPT2_NAMES: TensorNames = TensorNames {
    prefixes: &["transformer.", ""],
    embedding: "wte.weight",
    positions: "wpe.weight",
    output: "lm_head.weight",
    layer: "h.{}.",
    norm: |site| match site {
        NormSite::Attention(_) => "ln_1",
        NormSite::FeedForward(_) => "ln_2",
        NormSite::Final => "ln_f",
        // GPT-2 has none of these.
        NormSite::Query(_) | NormSite::Key(_) | NormSite::PostAttention(_) | NormSite::PostFeedForward(_) => "",
    },
    modules: &[
        ("attn.c_attn", &[Query, Key, Value]),
        ("attn.c_proj", &[Output]),
        ("mlp.c_fc", &[Up]),
        ("mlp.c_proj", &[Down]),
    ],
    transposed: true,
    implied: &[],
    // Causal masks.
    implied_in_layer: &["attn.bias", "attn.masked_bias"],
};
