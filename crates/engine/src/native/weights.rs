//! The weights of a checkpoint in the layout of the kernels.

use std::num::NonZeroUsize;

use rootstock_kernels::{Activation, AttentionHeads, KvShape, PackedMatrix, Part, RotaryTable, Then};
use rootstock_model::packing::{Packing, Role, in_four_bits, pack};
use rootstock_model::{
    self as model, ArchSpec, AttentionSpec, Checkpoint, FeedForward, LayerSpec, Norm, NormSite, Position, Projection,
    Site,
};

use crate::runner::RunnerError;

/// A whole decoder, packed.
pub(super) struct PackedModel {
    pub spec: ArchSpec,
    pub layers: Vec<PackedLayer>,
    pub final_norm: Norm,
    pub embedding: PackedMatrix,
    /// Learned embeddings of positions.
    pub positions: Option<PackedMatrix>,
    /// `None` where the output projection is the embedding, as that is kept.
    output: Option<PackedMatrix>,
    /// Tables that layers share.
    rotaries: Vec<RotaryTable>,
}

/// One layer, packed.
pub(super) struct PackedLayer {
    pub heads: AttentionHeads,
    pub attention_norm: Norm,
    pub post_attention_norm: Option<Norm>,
    pub feed_forward_norm: Norm,
    pub post_feed_forward_norm: Option<Norm>,
    /// What becomes of the products at the entrance of the feed-forward.
    pub activation: Then,
    /// Weights of queries and of keys.
    pub head_norms: Option<(Norm, Norm)>,
    /// Index of the layer's table.
    rotary: Option<usize>,
    /// Indexed by projection.
    maps: Vec<Option<Map>>,
}

/// A linear map.
pub(super) struct Map {
    pub matrix: PackedMatrix,
    pub bias: Option<Vec<f32>>,
}

impl PackedModel {
    /// Packs every matrix; positions up to `max_context` get their rotary angles.
    pub fn pack(checkpoint: &Checkpoint, max_context: usize, packing: Packing) -> Result<Self, RunnerError> {
        let spec = checkpoint.spec();
        let mut rotaries = Rotaries::default();
        let layers = (0..spec.layers.len())
            .map(|layer| pack_layer(checkpoint, layer, packing, &mut rotaries))
            .collect::<Result<_, _>>()?;
        let embedding = pack(checkpoint.embedding(), Role::Vocabulary, packing)?;
        let output = (!spec.tied_output).then(|| pack(checkpoint.output(), Role::Vocabulary, packing));
        let output = match (packing.four_bit_output, output.transpose()?) {
            (true, output) => Some(in_four_bits(output.as_ref().unwrap_or(&embedding), packing)?),
            (false, output) => output,
        };
        let positions = checkpoint.position_embedding().map_err(fault)?;
        let positions = positions.map(|view| pack(Ok(view), Role::Positions, packing));
        Ok(Self {
            spec: spec.clone(),
            layers,
            final_norm: checkpoint.norm(NormSite::Final),
            embedding,
            positions: positions.transpose()?,
            output,
            rotaries: rotaries.tables(max_context),
        })
    }

    pub fn vocab_size(&self) -> usize {
        self.embedding.outputs()
    }

    pub fn output(&self) -> &PackedMatrix {
        self.output.as_ref().unwrap_or(&self.embedding)
    }

    /// The matrix of a map; `None` where the model has none or for the embedding, which is no product.
    pub fn matrix(&self, site: Site) -> Option<&PackedMatrix> {
        match site {
            Site::Embedding => None,
            Site::Layer { layer, projection } => Some(&self.layers.get(layer)?.map(projection)?.matrix),
            Site::Output => Some(self.output()),
        }
    }

    /// The bias of a map, if it has one.
    pub fn bias(&self, site: Site) -> Option<&[f32]> {
        match site {
            Site::Layer { layer, projection } => self.layers.get(layer)?.map(projection)?.bias.as_deref(),
            Site::Embedding | Site::Output => None,
        }
    }

    /// The weights of a normalisation.
    pub fn norm(&self, site: NormSite) -> Option<&Norm> {
        match site {
            NormSite::Attention(layer) => Some(&self.layers.get(layer)?.attention_norm),
            NormSite::PostAttention(layer) => self.layers.get(layer)?.post_attention_norm.as_ref(),
            NormSite::FeedForward(layer) => Some(&self.layers.get(layer)?.feed_forward_norm),
            NormSite::PostFeedForward(layer) => self.layers.get(layer)?.post_feed_forward_norm.as_ref(),
            NormSite::Final => Some(&self.final_norm),
            NormSite::Query(layer) => Some(&self.layers.get(layer)?.head_norms.as_ref()?.0),
            NormSite::Key(layer) => Some(&self.layers.get(layer)?.head_norms.as_ref()?.1),
        }
    }

    /// The layer's table of rotary positions, if positions enter there.
    pub fn rotary(&self, layer: &PackedLayer) -> Option<&RotaryTable> {
        layer.rotary.map(|index| &self.rotaries[index])
    }
}

impl PackedLayer {
    /// The map of a projection, if the layer has it.
    pub fn map(&self, projection: Projection) -> Option<&Map> {
        self.maps.get(projection as usize)?.as_ref()
    }

    /// The maps of `projections` that the layer has, side by side from column 0 on, and their width together.
    pub fn parts(&self, projections: &[Projection]) -> (Vec<(Projection, Part<'_>)>, usize) {
        let mut column = 0;
        let maps = projections
            .iter()
            .filter_map(|&projection| Some((projection, self.map(projection)?)));
        let parts = maps.map(|(projection, map)| {
            let part = Part {
                matrix: &map.matrix,
                bias: map.bias.as_deref(),
                column,
            };
            column += map.matrix.outputs();
            (projection, part)
        });
        (parts.collect(), column)
    }
}

/// Inverse frequencies and magnitudes met so far.
#[derive(Default)]
struct Rotaries {
    kinds: Vec<Position>,
}

impl Rotaries {
    /// The index of a layer's table.
    fn index(&mut self, position: &Position) -> Option<usize> {
        if *position == Position::None {
            return None;
        }
        let known = self.kinds.iter().position(|kind| kind == position);
        Some(known.unwrap_or_else(|| {
            self.kinds.push(position.clone());
            self.kinds.len() - 1
        }))
    }

    fn tables(self, positions: usize) -> Vec<RotaryTable> {
        let table = |kind| match kind {
            Position::Rotary {
                inverse_frequencies,
                magnitude,
            } => Some(RotaryTable::new(&inverse_frequencies, magnitude, positions)),
            Position::None => None,
        };
        self.kinds.into_iter().filter_map(table).collect()
    }
}

/// A KV pool of one block.
///
/// # Errors
/// An architecture that the kernels or the KV cache do not serve.
pub(super) fn kv_shape(spec: &ArchSpec) -> Result<KvShape, RunnerError> {
    check(spec)?;
    let attention = &spec.layers[0].attention;
    Ok(KvShape {
        layers: spec.layers.len(),
        blocks: 1,
        kv_heads: attention.kv_heads,
        head_dim: attention.head_dim,
    })
}

/// What the kernels and the KV cache want of an architecture.
fn check(spec: &ArchSpec) -> Result<(), RunnerError> {
    let Some(first) = spec.layers.first() else {
        return Err(RunnerError("the model has no layers".into()));
    };
    let shape = |attention: &AttentionSpec| (attention.heads, attention.kv_heads, attention.head_dim);
    for (index, layer) in spec.layers.iter().enumerate() {
        let attention = &layer.attention;
        let pairs = match &attention.position {
            Position::None => 0,
            Position::Rotary {
                inverse_frequencies, ..
            } => inverse_frequencies.len(),
        };
        let (heads, kv_heads, head_dim) = shape(attention);
        let uneven = heads == 0 || kv_heads == 0 || heads % kv_heads != 0;
        if uneven || head_dim == 0 || pairs * 2 > head_dim || attention.window == Some(0) {
            return Err(RunnerError(format!(
                "layer {index}: {attention:?} does not fit together"
            )));
        }
        if shape(attention) != shape(&first.attention) {
            return Err(RunnerError(format!(
                "layer {index} has other heads than layer 0: {attention:?}"
            )));
        }
        let widths = [spec.hidden_size, heads * head_dim, layer.feed_forward.inner_size()];
        if let Some(width) = widths.into_iter().find(|width| width % 32 != 0) {
            return Err(RunnerError(format!(
                "layer {index}: a width of {width} is not a multiple of 32"
            )));
        }
    }
    Ok(())
}

fn pack_layer(
    checkpoint: &Checkpoint,
    layer: usize,
    packing: Packing,
    rotaries: &mut Rotaries,
) -> Result<PackedLayer, RunnerError> {
    let spec = &checkpoint.spec().layers[layer];
    let maps = Projection::ALL.into_iter().map(|projection| {
        let exists = spec.projections().any(|existing| existing == projection);
        exists
            .then(|| pack_map(checkpoint, layer, projection, packing))
            .transpose()
    });
    let post = |site| spec.post_norms.then(|| checkpoint.norm(site));
    let head_norms = spec.attention.head_norms;
    Ok(PackedLayer {
        heads: heads(&spec.attention),
        attention_norm: checkpoint.norm(NormSite::Attention(layer)),
        post_attention_norm: post(NormSite::PostAttention(layer)),
        feed_forward_norm: checkpoint.norm(NormSite::FeedForward(layer)),
        post_feed_forward_norm: post(NormSite::PostFeedForward(layer)),
        activation: activation(spec),
        head_norms: head_norms.then(|| {
            (
                checkpoint.norm(NormSite::Query(layer)),
                checkpoint.norm(NormSite::Key(layer)),
            )
        }),
        rotary: rotaries.index(&spec.attention.position),
        maps: maps.collect::<Result<_, _>>()?,
    })
}

fn pack_map(
    checkpoint: &Checkpoint,
    layer: usize,
    projection: Projection,
    packing: Packing,
) -> Result<Map, RunnerError> {
    let site = Site::Layer { layer, projection };
    Ok(Map {
        matrix: pack(checkpoint.projection(layer, projection), Role::Map(site), packing)?,
        bias: checkpoint.bias(layer, projection).map(<[f32]>::to_vec),
    })
}

fn heads(attention: &AttentionSpec) -> AttentionHeads {
    AttentionHeads {
        heads: attention.heads,
        kv_heads: attention.kv_heads,
        head_dim: attention.head_dim,
        scale: attention.scale,
        window: attention.window.and_then(NonZeroUsize::new),
    }
}

/// An activation as the kernels call it.
pub(super) fn kernel(activation: model::Activation) -> Activation {
    match activation {
        model::Activation::Silu => Activation::Silu,
        model::Activation::GeluTanh => Activation::GeluTanh,
        model::Activation::Relu => Activation::Relu,
    }
}

fn activation(layer: &LayerSpec) -> Then {
    let function = kernel(layer.feed_forward.activation());
    match layer.feed_forward {
        FeedForward::Gated { .. } => Then::Gate(function),
        FeedForward::Plain { .. } => Then::Activate(function),
    }
}

/// A checkpoint's error as the runner's.
pub(super) fn fault(error: impl std::fmt::Display) -> RunnerError {
    RunnerError(error.to_string())
}
