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
    /// Rows of the table of learned position embeddings; `None` where positions enter in attention.
    pub position_embeddings: Option<usize>,
    /// Normalisation of the residual stream, and of heads where a layer has that.
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
    /// `(x - mean) / sqrt(variance + epsilon) * w + b` (Ba et al., 2016); every normalisation has a bias.
    Layer,
}

/// One decoder layer.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerSpec {
    /// Self-attention.
    pub attention: AttentionSpec,
    /// Feed-forward block.
    pub feed_forward: FeedForward,
    /// What attention and the feed-forward give is normalised before it joins the residual stream (Gemma).
    pub post_norms: bool,
    /// Maps that add a bias.
    pub biases: ProjectionSet,
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
    /// Tokens that a position sees, itself included; `None` for all before it.
    pub window: Option<usize>,
    /// Queries and keys are normalised per head before positions enter.
    pub head_norms: bool,
}

/// How positions enter attention.
#[derive(Debug, Clone, PartialEq)]
pub enum Position {
    /// Not in attention: the layer has none, or the model adds learned embeddings to its input.
    None,
    /// Rotary embedding over half-split pairs (i, i + n) of the first 2n elements of a head; Su et al., 2021.
    Rotary {
        /// Angle per position of each of the n pairs, `n <= head_dim / 2`; any scaling is folded in.
        inverse_frequencies: Arc<[f32]>,
        /// Factor on the rotated elements (YaRN's attention factor), 1 without scaling.
        magnitude: f32,
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
    /// `down(activation(up(x)))`.
    Plain {
        /// Width between the projections.
        inner_size: usize,
        /// Applied to what `up` gives.
        activation: Activation,
    },
}

/// Activation functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))` (Hendrycks & Gimpel, 2016).
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
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
    /// Every projection that a layer can have, in order of use.
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

/// Some of a layer's projections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProjectionSet(u8);

impl ProjectionSet {
    /// No projection.
    pub const NONE: Self = Self(0);

    /// These and `projection`.
    #[must_use]
    pub const fn with(self, projection: Projection) -> Self {
        Self(self.0 | 1 << projection as u8)
    }

    /// Whether `projection` is among them.
    pub const fn contains(self, projection: Projection) -> bool {
        self.0 & 1 << projection as u8 != 0
    }
}

impl FromIterator<Projection> for ProjectionSet {
    fn from_iter<I: IntoIterator<Item = Projection>>(projections: I) -> Self {
        projections.into_iter().fold(Self::NONE, Self::with)
    }
}

/// One linear map of the model that an adapter can change, in the order of a forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Site {
    /// Token ids to the residual stream: a map from a vocabulary of one-hot inputs.
    Embedding,
    /// A map of a layer.
    Layer {
        /// Layer index from 0.
        layer: usize,
        /// Which map of the layer.
        projection: Projection,
    },
    /// The residual stream to logits.
    Output,
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedding => f.write_str("embedding"),
            Self::Layer { layer, projection } => write!(f, "layer {layer} {projection:?}"),
            Self::Output => f.write_str("output"),
        }
    }
}

/// The parts of a layer, each of which adds what it gives to the residual stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Block {
    /// Self-attention, its output projection included.
    Attention,
    /// The feed-forward.
    FeedForward,
}

impl Block {
    /// Both, in order of use.
    pub const ALL: [Self; 2] = [Self::Attention, Self::FeedForward];
}

/// One block of one layer, in the order of a forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockSite {
    /// Layer index from 0.
    pub layer: usize,
    /// Which block of the layer.
    pub block: Block,
}

impl fmt::Display for BlockSite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "layer {} {:?}", self.layer, self.block)
    }
}

/// The normalisations of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NormSite {
    /// Of the input of a layer's attention.
    Attention(usize),
    /// Of each query head, `[head_dim]`.
    Query(usize),
    /// Of each key head, `[head_dim]`.
    Key(usize),
    /// Of what a layer's attention gives.
    PostAttention(usize),
    /// Of the input of a layer's feed-forward.
    FeedForward(usize),
    /// Of what a layer's feed-forward gives.
    PostFeedForward(usize),
    /// Before the output projection.
    Final,
}

impl FeedForward {
    /// Width between the projections.
    pub fn inner_size(&self) -> usize {
        match *self {
            Self::Gated { inner_size, .. } | Self::Plain { inner_size, .. } => inner_size,
        }
    }

    /// Applied between the projections.
    pub fn activation(&self) -> Activation {
        match *self {
            Self::Gated { activation, .. } | Self::Plain { activation, .. } => activation,
        }
    }
}

impl LayerSpec {
    /// The projections this layer has, in order of use.
    pub fn projections(&self) -> impl Iterator<Item = Projection> + use<> {
        let gated = matches!(self.feed_forward, FeedForward::Gated { .. });
        let all = Projection::ALL.into_iter();
        all.filter(move |&projection| gated || projection != Projection::Gate)
    }

    /// Shape of a projection as (inputs, outputs), given the width of the residual stream.
    pub fn shape(&self, projection: Projection, hidden_size: usize) -> (usize, usize) {
        let attention = &self.attention;
        let inner_size = self.feed_forward.inner_size();
        match projection {
            Projection::Query => (hidden_size, attention.heads * attention.head_dim),
            Projection::Key | Projection::Value => (hidden_size, attention.kv_heads * attention.head_dim),
            Projection::Output => (attention.heads * attention.head_dim, hidden_size),
            Projection::Gate | Projection::Up => (hidden_size, inner_size),
            Projection::Down => (inner_size, hidden_size),
        }
    }

    /// The normalisations of this layer as number `layer`, in order of use.
    pub fn norms(&self, layer: usize) -> impl Iterator<Item = NormSite> + use<> {
        let (heads, post) = (self.attention.head_norms, self.post_norms);
        let all = [
            (true, NormSite::Attention(layer)),
            (heads, NormSite::Query(layer)),
            (heads, NormSite::Key(layer)),
            (post, NormSite::PostAttention(layer)),
            (true, NormSite::FeedForward(layer)),
            (post, NormSite::PostFeedForward(layer)),
        ];
        all.into_iter().filter(|(exists, _)| *exists).map(|(_, site)| site)
    }
}

impl ArchSpec {
    /// Shape of the map at a site as (inputs, outputs); `None` if the model has no such map.
    pub fn shape(&self, site: Site) -> Option<(usize, usize)> {
        match site {
            Site::Embedding => Some((self.vocab_size, self.hidden_size)),
            Site::Output => Some((self.hidden_size, self.vocab_size)),
            Site::Layer { layer, projection } => {
                let layer = self.layers.get(layer)?;
                let exists = layer.projections().any(|existing| existing == projection);
                exists.then(|| layer.shape(projection, self.hidden_size))
            }
        }
    }

    /// Elements of a normalisation; `None` if the model has no such one.
    pub fn norm_width(&self, site: NormSite) -> Option<usize> {
        let of_layer = |layer: usize| {
            let spec = self.layers.get(layer)?;
            spec.norms(layer).any(|existing| existing == site).then_some(spec)
        };
        match site {
            NormSite::Final => Some(self.hidden_size),
            NormSite::Query(layer) | NormSite::Key(layer) => Some(of_layer(layer)?.attention.head_dim),
            NormSite::Attention(layer)
            | NormSite::PostAttention(layer)
            | NormSite::FeedForward(layer)
            | NormSite::PostFeedForward(layer) => of_layer(layer).map(|_| self.hidden_size),
        }
    }

    /// Every linear map, in the order of a forward pass.
    pub fn sites(&self) -> impl Iterator<Item = Site> {
        let layers = self.layers.iter().enumerate().flat_map(|(layer, spec)| {
            spec.projections()
                .map(move |projection| Site::Layer { layer, projection })
        });
        std::iter::once(Site::Embedding)
            .chain(layers)
            .chain(std::iter::once(Site::Output))
    }
}
