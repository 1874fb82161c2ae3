//! The roles that tensors play in a model, and where a container keeps the tensor of a role.

use std::fmt;
use std::ops::Range;

use super::hf::Int4Place;
use crate::{ArchSpec, NormKind, NormSite, Projection, RowOrder};

/// What a tensor is to the architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// `[vocab_size, hidden_size]`
    Embedding,
    /// `[positions, hidden_size]`
    Positions,
    /// `[vocab_size, hidden_size]`
    Output,
    /// `[outputs, inputs]`
    Weight {
        /// Layer index from 0.
        layer: usize,
        /// Which map of the layer.
        projection: Projection,
    },
    /// `[outputs]`
    Bias {
        /// Layer index from 0.
        layer: usize,
        /// Which map of the layer.
        projection: Projection,
    },
    /// `[width]`
    Norm(NormSite),
    /// `[width]`
    NormBias(NormSite),
}

/// Where a container keeps the names of its tensors.
pub(super) trait NameTable {
    /// Where the tensor of a role lies.
    fn place(&self, role: Role) -> Place;

    /// Whether a tensor has no role because its content is known otherwise (rotary tables that the metadata repeats,
    /// causal masks) or already read into the architecture.
    fn is_implied(&self, name: &str) -> bool;
}

/// Where the tensor of a role lies.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Place {
    /// In a tensor of numbers or blocks.
    Tensor(TensorPlace),
    /// In the several tensors of a module quantized by GPTQ, AWQ or compressed-tensors.
    Int4(Int4Place),
}

/// Where in one tensor.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TensorPlace {
    /// The tensor's name.
    pub(super) name: String,
    /// Rows (outputs) of the role within a tensor that several roles share, and the rows of the whole.
    pub(super) part: Option<Part>,
    /// Order of the rows.
    pub(super) order: RowOrder,
    /// The file keeps `[inputs, outputs]` (GPT-2's Conv1D).
    pub(super) transposed: bool,
    /// Added to every value of a vector (Gemma stores its norms minus one).
    pub(super) offset: f32,
}

/// Some rows of a fused tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) rows: Range<usize>,
    pub(super) of: usize,
}

impl TensorPlace {
    /// The whole tensor, as it is.
    pub(super) fn whole(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            part: None,
            order: RowOrder::Natural,
            transposed: false,
            offset: 0.0,
        }
    }
}

impl Role {
    /// Every role of an architecture.
    pub fn all(spec: &ArchSpec) -> Vec<Self> {
        let mut roles = vec![Self::Embedding];
        roles.extend(spec.position_embeddings.map(|_| Self::Positions));
        roles.extend((!spec.tied_output).then_some(Self::Output));
        let mut norms = Vec::new();
        for (layer, shape) in spec.layers.iter().enumerate() {
            for projection in shape.projections() {
                roles.push(Self::Weight { layer, projection });
                roles.extend(
                    shape
                        .biases
                        .contains(projection)
                        .then_some(Self::Bias { layer, projection }),
                );
            }
            norms.extend(shape.norms(layer));
        }
        norms.push(NormSite::Final);
        roles.extend(norms.iter().copied().map(Self::Norm));
        if spec.norm.kind == NormKind::Layer {
            roles.extend(norms.into_iter().map(Self::NormBias));
        }
        roles
    }

    /// The shape that the architecture asks for; empty for a role it does not have.
    pub fn shape(self, spec: &ArchSpec) -> Vec<usize> {
        let layer_shape = |layer: usize, projection| Some(spec.layers.get(layer)?.shape(projection, spec.hidden_size));
        match self {
            Self::Embedding | Self::Output => vec![spec.vocab_size, spec.hidden_size],
            Self::Positions => vec![spec.position_embeddings.unwrap_or(0), spec.hidden_size],
            Self::Weight { layer, projection } => {
                layer_shape(layer, projection).map_or_else(Vec::new, |(inputs, outputs)| vec![outputs, inputs])
            }
            Self::Bias { layer, projection } => {
                layer_shape(layer, projection).map_or_else(Vec::new, |(_, outputs)| vec![outputs])
            }
            Self::Norm(site) | Self::NormBias(site) => spec.norm_width(site).into_iter().collect(),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
