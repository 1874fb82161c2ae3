//! Tokens to the residual stream, with what adapters change of the embedding.

use rootstock_kernels::PackedMatrix;

use super::batch::{Segment, StepLayout};
use super::changes::column_factors;
use super::dora::Magnitude;
use super::weights::PackedModel;

/// What an adapter changes of the embedding.
#[derive(Default)]
pub(super) struct EmbeddingChange {
    pub pair: Option<EmbeddingPair>,
    /// On the pair and the base's table, one factor per element of the embedding.
    pub magnitude: Option<Magnitude>,
    /// Difference of the adapter's table from the base's, `[vocab_size, hidden_size]`.
    pub dense: Option<PackedMatrix>,
}

/// A low-rank pair on one-hot inputs: a token picks a column of A.
pub(super) struct EmbeddingPair {
    rank: usize,
    /// A by token, `[vocab_size, rank]`, the adapter's scale included.
    by_token: Vec<f32>,
    /// B by component, `[rank, hidden_size]`.
    by_component: Vec<f32>,
}

impl EmbeddingPair {
    /// From `a` of `[rank, vocab_size]` and `b` of `[hidden_size, rank]`.
    pub fn pack(a: Vec<f32>, b: Vec<f32>, rank: usize, scale: f32) -> Self {
        let (tokens, hidden) = (a.len() / rank.max(1), b.len() / rank.max(1));
        Self {
            rank,
            by_token: (0..a.len())
                .map(|at| scale * a[at % rank * tokens + at / rank])
                .collect(),
            by_component: (0..b.len()).map(|at| b[at % hidden * rank + at / hidden]).collect(),
        }
    }

    fn bytes(&self) -> usize {
        size_of_val(&self.by_token[..]) + size_of_val(&self.by_component[..])
    }

    /// Adds the pair's delta for `token`.
    fn add(&self, token: usize, factor: f32, to: &mut [f32]) {
        let components = &self.by_token[token * self.rank..(token + 1) * self.rank];
        for (component, weights) in components.iter().zip(self.by_component.chunks_exact(to.len())) {
            let component = component * factor;
            to.iter_mut()
                .zip(weights)
                .for_each(|(to, weight)| *to = component.mul_add(*weight, *to));
        }
    }
}

impl EmbeddingChange {
    pub fn bytes(&self) -> usize {
        let pair = self.pair.as_ref().map_or(0, EmbeddingPair::bytes);
        let magnitude = self.magnitude.as_ref().map_or(0, Magnitude::bytes);
        pair + magnitude + self.dense.as_ref().map_or(0, PackedMatrix::bytes)
    }
}

/// The embeddings of all rows into `residual`, `[rows, hidden_size]`: the token's, what adapters change of it, times the
/// architecture's factor, plus the position's.
pub(super) fn embed(model: &PackedModel, layout: &StepLayout, segments: &[Segment<'_>], residual: &mut [f32]) {
    let hidden = model.spec.hidden_size;
    let mut scratch = vec![0.0; hidden];
    for (&token, row) in layout.tokens.iter().zip(residual.chunks_exact_mut(hidden)) {
        model.embedding.dequantize_row(token as usize, row);
    }
    for segment in segments {
        let (rows, tokens) = (segment.rows.clone(), &layout.tokens[segment.rows.clone()]);
        let rows = &mut residual[rows.start * hidden..rows.end * hidden];
        change(segment, tokens, &mut scratch, rows);
    }
    if model.spec.embedding_scale != 1.0 {
        let scale = model.spec.embedding_scale;
        residual.iter_mut().for_each(|value| *value *= scale);
    }
    if let Some(positions) = &model.positions {
        for (place, row) in layout.places.rows().iter().zip(residual.chunks_exact_mut(hidden)) {
            positions.dequantize_row(place.position as usize, &mut scratch);
            add(&scratch, row);
        }
    }
}

/// What a segment's adapters make of the embeddings `rows` of its `tokens`; `scratch` is memory of one row.
fn change(segment: &Segment<'_>, tokens: &[u32], scratch: &mut [f32], rows: &mut [f32]) {
    let hidden = scratch.len();
    let adapters = segment.adapters.iter();
    let changes: Vec<_> = adapters
        .filter_map(|(adapter, factor)| Some((adapter.embedding.as_ref()?, *factor)))
        .collect();
    let magnitudes = changes
        .iter()
        .filter_map(|(change, factor)| Some((change.magnitude.as_ref()?, *factor)));
    if let Some(factors) = column_factors(magnitudes) {
        rows.chunks_exact_mut(hidden).for_each(|row| scale(&factors, row));
    }
    for (change, factor) in changes {
        let columns = change.magnitude.as_ref().map(|magnitude| magnitude.factors(factor));
        for (&token, row) in tokens.iter().zip(rows.chunks_exact_mut(hidden)) {
            if let Some(pair) = &change.pair {
                scratch.fill(0.0);
                pair.add(token as usize, factor, scratch);
                columns.iter().for_each(|columns| scale(columns, scratch));
                add(scratch, row);
            }
            if let Some(dense) = &change.dense {
                dense.dequantize_row(token as usize, scratch);
                row.iter_mut()
                    .zip(scratch.iter())
                    .for_each(|(to, delta)| *to = factor.mul_add(*delta, *to));
            }
        }
    }
}

fn scale(factors: &[f32], row: &mut [f32]) {
    row.iter_mut().zip(factors).for_each(|(value, factor)| *value *= factor);
}

fn add(values: &[f32], row: &mut [f32]) {
    row.iter_mut().zip(values).for_each(|(to, value)| *to += value);
}
