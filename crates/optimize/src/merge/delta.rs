//! What one adapter adds to one tensor of its base, in f32: the same as [`Effect`] says of what a runner adds to its output.

use rootstock_kernels::{Context, Gemm, Right, View, gemm};
use rootstock_model::Site;
use rootstock_model::adapter::{Adapter, BiasEffect, BiasKind, Effect, LowRank};
use rootstock_model::checkpoint::Role;

/// The difference that an adapter makes to the tensor of a role whose values are `base`, under a factor on its effect; `None`
/// where it leaves the tensor as it is.
///
/// # Errors
/// A magnitude over a row whose length is zero or no number.
pub(super) fn delta(
    context: &mut Context,
    adapter: &Adapter,
    role: Role,
    base: &[f32],
    factor: f32,
) -> Result<Option<Vec<f32>>, String> {
    match role {
        Role::Embedding => of_matrix(context, adapter, Site::Embedding, base, factor),
        Role::Output => of_matrix(context, adapter, Site::Output, base, factor),
        Role::Weight { layer, projection } => {
            of_matrix(context, adapter, Site::Layer { layer, projection }, base, factor)
        }
        Role::Bias { layer, projection } => {
            let site = Site::Layer { layer, projection };
            let change = |effect: &Effect| bias_change(effect, site, base);
            Ok(of_vector(adapter, base.len(), change, factor))
        }
        Role::Norm(_) | Role::NormBias(_) => {
            let change = |effect: &Effect| norm_change(effect, role, base);
            Ok(of_vector(adapter, base.len(), change, factor))
        }
        Role::Positions => Ok(None),
    }
}

fn of_matrix(
    context: &mut Context,
    adapter: &Adapter,
    site: Site,
    base: &[f32],
    factor: f32,
) -> Result<Option<Vec<f32>>, String> {
    let mut delta = None;
    for effect in &adapter.effects {
        match effect {
            Effect::LowRank(pair) if pair.site == site => {
                let delta = delta.get_or_insert_with(|| vec![0.0; base.len()]);
                add_product(context, pair, factor, delta);
                direct(pair, base, delta)?;
            }
            Effect::Matrix(matrix) if matrix.site == site => {
                let delta = delta.get_or_insert_with(|| vec![0.0; base.len()]);
                let values = matrix.values.to_f32();
                for ((delta, value), base) in delta.iter_mut().zip(values).zip(base) {
                    *delta += factor * (value - base);
                }
            }
            _ => {}
        }
    }
    Ok(delta)
}

/// `delta += factor * scale * B A`, as the table of the site has it.
fn add_product(context: &mut Context, pair: &LowRank, factor: f32, delta: &mut [f32]) {
    let (a, b) = (pair.a.to_f32(), pair.b.to_f32());
    let (a, b) = (View::new(&a, pair.a.cols), View::new(&b, pair.b.cols));
    let (left, right) = match pair.site {
        // A table has a row for each input, not for each output.
        Site::Embedding => (a.transposed(), b.transposed()),
        Site::Layer { .. } | Site::Output => (b, a),
    };
    let product = Gemm {
        scale: factor * pair.scale,
        accumulate: true,
        ..Gemm::new(left, Right::Dense(right))
    };
    gemm(context, &product, delta);
}

/// DoRA: `delta` becomes `m / |W + delta| * (W + delta) - W`, with the length over the inputs of each output.
fn direct(pair: &LowRank, base: &[f32], delta: &mut [f32]) -> Result<(), String> {
    let Some(magnitude) = &pair.magnitude else {
        return Ok(());
    };
    let magnitude = magnitude.to_f32();
    let (inputs, outputs) = (pair.a.cols, pair.b.rows);
    let output = |at: usize| match pair.site {
        Site::Embedding => at % outputs,
        Site::Layer { .. } | Site::Output => at / inputs,
    };
    let mut squares = vec![0.0f64; outputs];
    for (at, (base, delta)) in base.iter().zip(&*delta).enumerate() {
        squares[output(at)] += (f64::from(*base) + f64::from(*delta)).powi(2);
    }
    let factors = magnitude
        .iter()
        .zip(&squares)
        .map(|(&m, square)| f64::from(m) / square.sqrt());
    let factors: Vec<f64> = factors.collect();
    if let Some(row) = factors.iter().position(|factor| !factor.is_finite()) {
        return Err(format!(
            "the magnitude divides by the length of output {row} of W + BA, which is zero or not finite"
        ));
    }
    for (at, (base, delta)) in base.iter().zip(delta).enumerate() {
        let base = f64::from(*base);
        *delta = (factors[output(at)] * (base + f64::from(*delta)) - base) as f32;
    }
    Ok(())
}

/// The sum of what effects change of a vector.
fn of_vector(
    adapter: &Adapter,
    length: usize,
    change: impl Fn(&Effect) -> Option<Vec<f32>>,
    factor: f32,
) -> Option<Vec<f32>> {
    let changes: Vec<_> = adapter.effects.iter().filter_map(change).collect();
    let sum = |at: usize| factor * changes.iter().map(|change| change[at]).sum::<f32>();
    (!changes.is_empty()).then(|| (0..length).map(sum).collect())
}

fn bias_change(effect: &Effect, at: Site, base: &[f32]) -> Option<Vec<f32>> {
    let Effect::Bias(BiasEffect { site, kind, values }) = effect else {
        return None;
    };
    let values = values.to_f32().into_iter();
    (*site == at).then(|| match kind {
        BiasKind::Replaces => values.zip(base).map(|(value, base)| value - base).collect(),
        BiasKind::Adds(scale) => values.map(|value| scale * value).collect(),
    })
}

fn norm_change(effect: &Effect, role: Role, base: &[f32]) -> Option<Vec<f32>> {
    let Effect::Norm(norm) = effect else { return None };
    let values = match role {
        Role::Norm(site) if site == norm.site => norm.weight.as_ref(),
        Role::NormBias(site) if site == norm.site => norm.bias.as_ref(),
        _ => None,
    };
    Some(values?.iter().zip(base).map(|(value, base)| value - base).collect())
}
