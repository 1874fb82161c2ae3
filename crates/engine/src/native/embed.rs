//! Tokens to the residual stream, with what adapters change of the embedding.

use rootstock_kernels::PackedMatrix;

use super::batch::{Segment, StepLayout};
use super::weights::PackedModel;

/// What an adapter changes of the embedding.
#[derive(Default)]
pub(super) struct EmbeddingChange {
    pub pair: Option<EmbeddingPair>,
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
        let pair = self.pair.as_ref();
        pair.map_or(0, |pair| {
            size_of_val(&pair.by_token[..]) + size_of_val(&pair.by_component[..])
        }) + self.dense.as_ref().map_or(0, PackedMatrix::bytes)
    }

    /// Adds the change for `token` to its embedding; `row` is memory of as many elements.
    fn add(&self, token: usize, factor: f32, row: &mut [f32], to: &mut [f32]) {
        if let Some(pair) = &self.pair {
            pair.add(token, factor, to);
        }
        if let Some(dense) = &self.dense {
            dense.dequantize_row(token, row);
            to.iter_mut()
                .zip(row.iter())
                .for_each(|(to, delta)| *to = factor.mul_add(*delta, *to));
        }
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
        let changes = segment
            .adapters
            .iter()
            .filter_map(|(adapter, factor)| Some((adapter.embedding.as_ref()?, *factor)));
        for (change, factor) in changes {
            for row in segment.rows.clone() {
                let to = &mut residual[row * hidden..(row + 1) * hidden];
                change.add(layout.tokens[row] as usize, factor, &mut scratch, to);
            }
        }
    }
    if model.spec.embedding_scale != 1.0 {
        residual
            .iter_mut()
            .for_each(|value| *value *= model.spec.embedding_scale);
    }
    if let Some(positions) = &model.positions {
        for (place, row) in layout.places.rows().iter().zip(residual.chunks_exact_mut(hidden)) {
            positions.dequantize_row(place.position as usize, &mut scratch);
            row.iter_mut()
                .zip(&scratch)
                .for_each(|(value, position)| *value += position);
        }
    }
}
