//! Whether the embedding may go on serving as the output projection of a base that ties them.

use rootstock_model::Site;
use rootstock_model::adapter::{Adapter, Effect, LowRank};

/// Whether an adapter changes both ends of the tie alike, or neither.
pub(super) fn stays_tied(adapter: &Adapter) -> bool {
    let (mut embedding, mut output) = (on(adapter, Site::Embedding), on(adapter, Site::Output));
    loop {
        match (embedding.next(), output.next()) {
            (None, None) => return true,
            (Some(embedding), Some(output)) if alike(embedding, output) => {}
            _ => return false,
        }
    }
}

/// What it does to a matrix.
fn on(adapter: &Adapter, at: Site) -> impl Iterator<Item = &Effect> {
    adapter.effects.iter().filter(move |effect| match effect {
        Effect::LowRank(pair) => pair.site == at,
        Effect::Matrix(matrix) => matrix.site == at,
        Effect::Bias(_) | Effect::Norm(_) | Effect::Bottleneck(_) => false,
    })
}

fn alike(embedding: &Effect, output: &Effect) -> bool {
    match (embedding, output) {
        (Effect::Matrix(embedding), Effect::Matrix(output)) => embedding.values.to_f32() == output.values.to_f32(),
        (Effect::LowRank(embedding), Effect::LowRank(output)) => turned(embedding, output),
        _ => false,
    }
}

/// Whether a pair of the output is that of the embedding turned, which adds the same to the table.
fn turned(embedding: &LowRank, output: &LowRank) -> bool {
    let plain = embedding.magnitude.is_none() && output.magnitude.is_none();
    let transposed = |values: Vec<f32>, cols: usize| -> Vec<f32> {
        let rows = values.len() / cols.max(1);
        (0..values.len())
            .map(|at| values[at % rows * cols + at / rows])
            .collect()
    };
    plain
        && embedding.scale == output.scale
        && transposed(embedding.b.to_f32(), embedding.b.cols) == output.a.to_f32()
        && transposed(embedding.a.to_f32(), embedding.a.cols) == output.b.to_f32()
}
