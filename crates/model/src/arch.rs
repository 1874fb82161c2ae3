//! An architecture as data: everything that native inference, training and export need to know about a decoder.
//! A new Llama-like architecture is a new value of these types and a name table, never a new decoder.

use std::fmt;
use std::sync::Arc;

/// One decoder-only transformer, described layer by layer.
#[derive(Debug, Clone, PartialEq)]
pub struct ArchSpec {
    /// Family name as checkpoints spell it, e.g. `llama`.
    pub family: String,
    /// Number of rows of the token embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Longest sequence the positions were trained for, in tokens.
    pub context_length: usize,
    /// Factor applied to token embeddings (1 for Llama, sqrt(hidden) for Gemma).
    pub embedding_scale: f32,
    /// Normalisation used before attention, before the feed-forward and at the end.
    pub norm: NormSpec,
    /// The output projection reuses the token embedding.
    pub tied_output: bool,
    /// One entry per layer, first layer first.
    pub layers: Vec<LayerSpec>,
}

/// Kind and constant of a normalisation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormSpec {
    /// What is computed.
    pub kind: NormKind,
    /// Added to the variance (or mean square) before the root.
    pub epsilon: f32,
}

/// Kinds of normalisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// Root mean square: `x / rms(x) * w` (Zhang & Sennrich, 2019).
    Rms,
}

/// One decoder layer.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerSpec {
    /// Self-attention.
    pub attention: AttentionSpec,
    /// Feed-forward block.
    pub feed_forward: FeedForward,
}

/// Grouped-query attention of one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionSpec {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Factor on q·k before the softmax.
    pub scale: f32,
    /// How positions enter.
    pub position: Position,
}

/// How positions enter attention.
#[derive(Debug, Clone, PartialEq)]
pub enum Position {
    /// Rotary embedding over half-split pairs (i, i + head_dim / 2); Su et al., 2021.
    Rotary {
        /// Angle per position of each pair, `head_dim / 2` values; any scaling is folded in.
        inverse_frequencies: Arc<[f32]>,
    },
}

/// Feed-forward block of one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeedForward {
    /// `down(activation(gate(x)) * up(x))`.
    Gated {
        /// Width between the projections.
        inner_size: usize,
        /// Applied to the gate.
        activation: Activation,
    },
}

/// Activation functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
}

/// The linear maps of a layer that an adapter can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Projection {
    /// hidden -> heads * head_dim
    Query,
    /// hidden -> kv_heads * head_dim
    Key,
    /// hidden -> kv_heads * head_dim
    Value,
    /// heads * head_dim -> hidden
    Output,
    /// hidden -> inner
    Gate,
    /// hidden -> inner
    Up,
    /// inner -> hidden
    Down,
}

impl Projection {
    /// Every projection of a gated layer, in order of use.
    pub const ALL: [Projection; 7] = [
        Projection::Query,
        Projection::Key,
        Projection::Value,
        Projection::Output,
        Projection::Gate,
        Projection::Up,
        Projection::Down,
    ];
}

/// One linear map of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Site {
    /// Layer index from 0.
    pub layer: usize,
    /// Which map of the layer.
    pub projection: Projection,
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "layer {} {:?}", self.layer, self.projection)
    }
}

impl LayerSpec {
    /// Shape of a projection as (inputs, outputs), given the width of the residual stream.
    pub fn shape(&self, projection: Projection, hidden_size: usize) -> (usize, usize) {
        let attention = &self.attention;
        let FeedForward::Gated { inner_size, .. } = self.feed_forward;
        match projection {
            Projection::Query => (hidden_size, attention.heads * attention.head_dim),
            Projection::Key | Projection::Value => (hidden_size, attention.kv_heads * attention.head_dim),
            Projection::Output => (attention.heads * attention.head_dim, hidden_size),
            Projection::Gate | Projection::Up => (hidden_size, inner_size),
            Projection::Down => (inner_size, hidden_size),
        }
    }
}

impl ArchSpec {
    /// Shape of the map at a site as (inputs, outputs); `None` if the layer does not exist.
    pub fn shape(&self, site: Site) -> Option<(usize, usize)> {
        Some(self.layers.get(site.layer)?.shape(site.projection, self.hidden_size))
    }
}
