//! Families of checkpoints as data: which metadata describes one, and where it keeps its tensors.

use crate::{Activation, NormKind, Projection};

/// Checkpoints that share one layout, named as `general.architecture` names them.
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) norm: NormKind,
    pub(super) activation: Activation,
    /// Query and key rows lie in pairs for pairwise rotary, as llama.cpp's converter permutes them.
    pub(super) interleaved_rotary: bool,
    /// Metadata below `NAME.` that has an effect only at other values than these.
    pub(super) fixed: &'static [(&'static str, Fixed)],
    pub(super) tensors: &'static TensorNames,
}

/// The one value at which a metadata key is accepted.
pub(super) enum Fixed {
    Text(&'static str),
    Integer(u64),
    Truth(bool),
}

/// Tensor names; `{}` stands for the layer.
pub(super) struct TensorNames {
    pub(super) embedding: &'static str,
    pub(super) output: &'static str,
    pub(super) final_norm: &'static str,
    pub(super) attention_norm: &'static str,
    pub(super) feed_forward_norm: &'static str,
    pub(super) projection: fn(Projection) -> &'static str,
}

impl Family {
    /// The family that `general.architecture` names.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        FAMILIES.iter().find(|family| family.name == name)
    }

    /// Every name that [`Family::named`] knows, for messages.
    pub(super) fn names() -> String {
        FAMILIES.iter().map(|family| family.name).collect::<Vec<_>>().join(", ")
    }
}

const FAMILIES: [Family; 1] = [Family {
    name: "llama",
    norm: NormKind::Rms,
    activation: Activation::Silu,
    interleaved_rotary: true,
    fixed: &[
        ("attention.causal", Fixed::Truth(true)),
        ("expert_count", Fixed::Integer(0)),
        ("expert_used_count", Fixed::Integer(0)),
        ("rope.scaling.type", Fixed::Text("none")),
    ],
    tensors: &GGUF_NAMES,
}];

const GGUF_NAMES: TensorNames = TensorNames {
    embedding: "token_embd.weight",
    output: "output.weight",
    final_norm: "output_norm.weight",
    attention_norm: "blk.{}.attn_norm.weight",
    feed_forward_norm: "blk.{}.ffn_norm.weight",
    projection: |projection| match projection {
        Projection::Query => "blk.{}.attn_q.weight",
        Projection::Key => "blk.{}.attn_k.weight",
        Projection::Value => "blk.{}.attn_v.weight",
        Projection::Output => "blk.{}.attn_output.weight",
        Projection::Gate => "blk.{}.ffn_gate.weight",
        Projection::Up => "blk.{}.ffn_up.weight",
        Projection::Down => "blk.{}.ffn_down.weight",
    },
};
