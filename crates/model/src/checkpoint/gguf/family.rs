//! Families of checkpoints as data: what `general.architecture` says beyond the metadata, as llama.cpp's converter and
//! graphs have it.

use crate::Projection::{self, Down, Key, Output, Query, Up, Value};
use crate::{Activation, NormKind};

/// Checkpoints that share one layout, named as `general.architecture` names them.
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) norm: NormKind,
    pub(super) activation: Activation,
    pub(super) feed_forward: FeedForwardLayout,
    /// Files that are written keep queries, keys and values in one tensor; whatever a file has is read.
    pub(super) shares_qkv: bool,
    pub(super) positions: Positions,
    /// Every layer of this number, counted from 1, has no rotary embedding.
    pub(super) without_rotary: Option<usize>,
    /// Which layers `attention.sliding_window` is for, unless the metadata says.
    pub(super) windows: Windows,
    /// Queries and keys are normalised per head.
    pub(super) head_norms: bool,
    /// What attention and the feed-forward give is normalised.
    pub(super) post_norms: bool,
    /// Maps that always have a bias; any other has one where the file has a tensor for it.
    pub(super) biases: &'static [Projection],
    /// Token embeddings are multiplied with the root of their width.
    pub(super) scaled_embedding: bool,
    /// Number of layers of the model that scales attention by the width of the residual stream per head, not by the
    /// width of a head.
    pub(super) scaled_by_share: Option<usize>,
}

/// How a file keeps the feed-forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FeedForwardLayout {
    /// `ffn_gate`, `ffn_up`, `ffn_down`.
    Gated,
    /// `ffn_up` holds the rows of the gate, then those of the map itself.
    GateInUp,
    /// `ffn_up`, `ffn_down`.
    Plain,
}

/// How positions enter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Positions {
    /// `position_embd` is added to the input.
    Learned,
    /// Rotary over pairs of neighbours (llama.cpp's NORM): the converter interleaved the halves of the rows of queries
    /// and keys, and of their biases.
    Interleaved,
    /// Rotary over halves (llama.cpp's NEOX), rows as in the original checkpoint.
    Halves,
}

/// Which layers see a window only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Windows {
    /// All of them, with one rotary embedding for the model.
    Every,
    /// All but each of this number, counted from 1; those with a window have a rotary embedding of their own base.
    AllBut(usize),
}

impl Family {
    /// The family that `general.architecture` names.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        FAMILIES.iter().find(|family| family.name == name)
    }
}

/// Every name that [`Family::named`] knows.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().map(|family| family.name)
}

const LLAMA: Family = Family {
    name: "llama",
    norm: NormKind::Rms,
    activation: Activation::Silu,
    feed_forward: FeedForwardLayout::Gated,
    shares_qkv: false,
    positions: Positions::Interleaved,
    without_rotary: None,
    windows: Windows::Every,
    head_norms: false,
    post_norms: false,
    biases: &[],
    scaled_embedding: false,
    scaled_by_share: None,
};

const FAMILIES: &[Family] = &[
    LLAMA,
    Family {
        name: "qwen2",
        positions: Positions::Halves,
        biases: &[Query, Key, Value],
        ..LLAMA
    },
    Family {
        name: "qwen3",
        positions: Positions::Halves,
        head_norms: true,
        ..LLAMA
    },
    Family {
        name: "gemma3",
        activation: Activation::GeluTanh,
        positions: Positions::Halves,
        windows: Windows::AllBut(6),
        head_norms: true,
        post_norms: true,
        scaled_embedding: true,
        // The 27B.
        scaled_by_share: Some(62),
        ..LLAMA
    },
    Family {
        name: "phi3",
        feed_forward: FeedForwardLayout::GateInUp,
        shares_qkv: true,
        positions: Positions::Halves,
        ..LLAMA
    },
    Family {
        name: "smollm3",
        without_rotary: Some(4),
        ..LLAMA
    },
    Family {
        name: "gpt2",
        norm: NormKind::Layer,
        activation: Activation::GeluTanh,
        feed_forward: FeedForwardLayout::Plain,
        shares_qkv: true,
        positions: Positions::Learned,
        biases: &[Query, Key, Value, Output, Up, Down],
        ..LLAMA
    },
];

/// Metadata below a family's name that has an effect only at other values than these.
pub(super) const FIXED: &[(&str, Fixed)] = &[
    ("attention.causal", Fixed::Truth(true)),
    ("attention.clamp_kqv", Fixed::Number(0.0)),
    ("attention.max_alibi_bias", Fixed::Number(0.0)),
    ("attn_logit_softcapping", Fixed::Number(0.0)),
    ("expert_count", Fixed::Integer(0)),
    ("expert_group_count", Fixed::Integer(0)),
    ("expert_group_used_count", Fixed::Integer(0)),
    ("expert_shared_count", Fixed::Integer(0)),
    ("expert_used_count", Fixed::Integer(0)),
    ("final_logit_softcapping", Fixed::Number(0.0)),
    ("nextn_predict_layers", Fixed::Integer(0)),
    ("rope.scaling.yarn_log_multiplier", Fixed::Number(0.0)),
    ("use_parallel_residual", Fixed::Truth(false)),
];

/// Metadata below a family's name that never changes the numbers: whether the scaling was trained, the layout of the
/// original weights, and how an embedding model would pool.
pub(super) const INERT: &[&str] = &["pooling_type", "rope.scaling.finetuned", "tensor_data_layout"];

/// The one value at which a metadata key is accepted.
pub(super) enum Fixed {
    Integer(u64),
    Number(f32),
    Truth(bool),
}
