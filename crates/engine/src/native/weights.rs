//! The weights of a checkpoint in the layout of the kernels.

use rootstock_formats::DType;
use rootstock_kernels::{AttentionHeads, BlockFormat, KvCache, PackedMatrix, RotaryTable};
use rootstock_model::checkpoint::NormSite;
use rootstock_model::{
    Activation, ArchSpec, Checkpoint, FeedForward, MatrixView, NormKind, Position, Projection, Site,
};

use crate::runner::RunnerError;

/// A whole decoder, packed.
pub(super) struct PackedModel {
    pub hidden_size: usize,
    pub epsilon: f32,
    pub embedding_scale: f32,
    pub heads: AttentionHeads,
    pub rotary: RotaryTable,
    pub layers: Vec<PackedLayer>,
    pub final_norm: Vec<f32>,
    embedding: PackedMatrix,
    /// `None` where the output projection is the embedding.
    output: Option<PackedMatrix>,
}

/// One layer, packed.
pub(super) struct PackedLayer {
    pub attention_norm: Vec<f32>,
    pub query: PackedMatrix,
    pub key: PackedMatrix,
    pub value: PackedMatrix,
    pub output: PackedMatrix,
    pub feed_forward_norm: Vec<f32>,
    pub gate: PackedMatrix,
    pub up: PackedMatrix,
    pub down: PackedMatrix,
}

impl PackedModel {
    /// Packs every matrix; positions up to `max_context` get their rotary angles.
    pub fn pack(checkpoint: &Checkpoint, max_context: usize) -> Result<Self, RunnerError> {
        let spec = checkpoint.spec();
        let NormKind::Rms = spec.norm.kind;
        let (heads, rotary) = attention_shape(spec, max_context)?;
        let layers = (0..spec.layers.len())
            .map(|layer| pack_layer(checkpoint, layer))
            .collect::<Result<_, _>>()?;
        let output = if spec.tied_output {
            None
        } else {
            Some(pack("output", checkpoint.output())?)
        };
        Ok(Self {
            hidden_size: spec.hidden_size,
            epsilon: spec.norm.epsilon,
            embedding_scale: spec.embedding_scale,
            heads,
            rotary,
            layers,
            final_norm: checkpoint.norm(NormSite::Final),
            embedding: pack("embedding", checkpoint.embedding())?,
            output,
        })
    }

    pub fn vocab_size(&self) -> usize {
        self.embedding.outputs()
    }

    pub fn output(&self) -> &PackedMatrix {
        self.output.as_ref().unwrap_or(&self.embedding)
    }

    /// The embedding of `token` into `to` of `hidden_size` elements.
    pub fn embed(&self, token: u32, to: &mut [f32]) {
        self.embedding.dequantize_row(token as usize, to);
        if self.embedding_scale != 1.0 {
            to.iter_mut().for_each(|value| *value *= self.embedding_scale);
        }
    }

    /// Bytes of one KV block over all layers.
    pub fn kv_block_bytes(&self) -> usize {
        KvCache::block_bytes(self.layers.len(), self.heads.kv_heads, self.heads.head_dim)
    }
}

/// Heads and positions, which this runner wants to be the same in all layers.
fn attention_shape(spec: &ArchSpec, max_context: usize) -> Result<(AttentionHeads, RotaryTable), RunnerError> {
    let Some(first) = spec.layers.first().map(|layer| &layer.attention) else {
        return Err(RunnerError("the model has no layers".into()));
    };
    if let Some(layer) = spec.layers.iter().position(|layer| layer.attention != *first) {
        return Err(RunnerError(format!(
            "layer {layer} has another attention shape than layer 0"
        )));
    }
    if let Some(layer) = spec.layers.iter().position(|layer| {
        let FeedForward::Gated {
            activation: Activation::Silu,
            inner_size,
        } = layer.feed_forward;
        inner_size % 32 != 0
    }) {
        return Err(RunnerError(format!(
            "layer {layer}: the feed-forward width is not a multiple of 32"
        )));
    }
    let heads = AttentionHeads {
        heads: first.heads,
        kv_heads: first.kv_heads,
        head_dim: first.head_dim,
        scale: first.scale,
    };
    let Position::Rotary { inverse_frequencies } = &first.position;
    let empty = first.heads == 0 || first.kv_heads == 0 || first.head_dim == 0;
    if empty || inverse_frequencies.len() * 2 != first.head_dim || first.heads % first.kv_heads != 0 {
        return Err(RunnerError(format!(
            "{} query heads, {} key/value heads and {} rotary pairs for heads of {} do not fit together",
            first.heads,
            first.kv_heads,
            inverse_frequencies.len(),
            first.head_dim
        )));
    }
    Ok((heads, RotaryTable::new(inverse_frequencies, max_context)))
}

fn pack_layer(checkpoint: &Checkpoint, layer: usize) -> Result<PackedLayer, RunnerError> {
    let matrix = |projection: Projection| {
        let site = Site { layer, projection };
        pack(&site.to_string(), checkpoint.projection(site))
    };
    Ok(PackedLayer {
        attention_norm: checkpoint.norm(NormSite::Attention(layer)),
        query: matrix(Projection::Query)?,
        key: matrix(Projection::Key)?,
        value: matrix(Projection::Value)?,
        output: matrix(Projection::Output)?,
        feed_forward_norm: checkpoint.norm(NormSite::FeedForward(layer)),
        gate: matrix(Projection::Gate)?,
        up: matrix(Projection::Up)?,
        down: matrix(Projection::Down)?,
    })
}

fn pack(name: &str, view: MatrixView<'_>) -> Result<PackedMatrix, RunnerError> {
    let format = match view.dtype {
        DType::Q4_0 => BlockFormat::Q4_0,
        DType::Q4_1 => BlockFormat::Q4_1,
        DType::Q8_0 => BlockFormat::Q8_0,
        DType::F32 | DType::F16 | DType::BF16 => {
            return Err(RunnerError(format!(
                "{name}: weights of type {:?} have no packed form (supported: Q4_0, Q4_1, Q8_0)",
                view.dtype
            )));
        }
    };
    PackedMatrix::pack(format, view.rows, view.cols, |row| view.row(row))
        .map_err(|error| RunnerError(format!("{name}: {error}")))
}
