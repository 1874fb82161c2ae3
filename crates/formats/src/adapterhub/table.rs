//! What every field of a bottleneck adapter's configuration may hold and what becomes of it, as data.

use crate::peft::{Field, Rule};

const fn field(name: &'static str, rule: Rule, note: &'static str) -> Field {
    Field { name, rule, note }
}

/// Every field of `config` that is known, with the names, defaults and meanings of `BnConfig` (adapters 1.3). One that is not must be
/// null, false or empty.
pub const BOTTLENECK_FIELDS: [Field; 34] = [
    field("mh_adapter", Rule::Read, "a bottleneck after attention"),
    field("output_adapter", Rule::Read, "a bottleneck after the feed-forward"),
    field(
        "reduction_factor",
        Rule::Read,
        "a number, or numbers by layer with a default",
    ),
    field("non_linearity", Rule::Read, "relu, silu, swish and GELU by tanh"),
    field(
        "original_ln_before",
        Rule::Read,
        "the bottleneck sees the residual stream with what it is after",
    ),
    field("original_ln_after", Rule::Read, "true: the stream goes on"),
    field(
        "residual_before_ln",
        Rule::Read,
        "true, or anything without original_ln_before",
    ),
    field("scaling", Rule::Read, "a number"),
    field("leave_out", Rule::Read, "layers without bottlenecks"),
    field("ln_before", Rule::Off, "a normalisation of its own"),
    field("ln_after", Rule::Off, "a normalisation of its own"),
    field("is_parallel", Rule::Off, "parallel adapters"),
    field("use_gating", Rule::Off, "gates"),
    field("cross_adapter", Rule::Off, "a decoder has no cross-attention"),
    field("inv_adapter", Rule::Off, "invertible adapters"),
    field("phm_layer", Rule::Off, "Compacter"),
    field(
        "architecture",
        Rule::Off,
        "prefix tuning, LoRA in this library's own layout, unions of methods",
    ),
    field(
        "adapter_residual_before_ln",
        Rule::Informative,
        "acts only with ln_after",
    ),
    field(
        "inv_adapter_reduction_factor",
        Rule::Informative,
        "acts only with inv_adapter",
    ),
    field("dropout", Rule::Informative, "training only"),
    field("stochastic_depth", Rule::Informative, "training only"),
    field("init_weights", Rule::Informative, "the beginning of training"),
    field("init_weights_seed", Rule::Informative, "the beginning of training"),
    field("phm_dim", Rule::Informative, "acts only with phm_layer"),
    field("phm_rank", Rule::Informative, "acts only with phm_layer"),
    field("phm_bias", Rule::Informative, "acts only with phm_layer"),
    field("phm_c_init", Rule::Informative, "acts only with phm_layer"),
    field("phm_init_range", Rule::Informative, "acts only with phm_layer"),
    field("learn_phm", Rule::Informative, "acts only with phm_layer"),
    field("factorized_phm_W", Rule::Informative, "acts only with phm_layer"),
    field("factorized_phm_rule", Rule::Informative, "acts only with phm_layer"),
    field("shared_W_phm", Rule::Informative, "acts only with phm_layer"),
    field("shared_phm_rule", Rule::Informative, "acts only with phm_layer"),
    field(
        "hypercomplex_nonlinearity",
        Rule::Informative,
        "acts only with phm_layer",
    ),
];
