//! PiSSA (Meng et al., 2024): pairs begin as the largest singular components of the weights that they lie beside, which keep the
//! rest. The weights here stay as they are stored, and what a pair began with is subtracted from what it gives: the same sum.
//! Written out, the trained pair and the one it began as stand side by side in a plain pair of twice the rank, for the
//! unchanged base.

use rootstock_decoder::{FrozenModel, LowRank, Parameter, ParameterKind};
use rootstock_kernels::{Components, Context, Isa, ThreadPool, View, components};
use rootstock_model::adapter::{ModuleMap, Modules};
use serde_json::{Value, json};

use super::whole::each_row;
use super::{Attached, Initialisation};
use crate::{Random, TrainError};

/// Gives every pair the values of its weight's largest components.
///
/// # Errors
/// A rank that a weight does not have, DoRA, or no threads.
pub fn begin_as_components(
    attached: &mut Attached,
    model: &FrozenModel,
    initialisation: Initialisation,
    (seed, threads): (u64, usize),
) -> Result<(), TrainError> {
    let Initialisation::Pissa { iterations } = initialisation else {
        return Ok(());
    };
    let mut context = Context {
        pool: ThreadPool::new(threads).map_err(rootstock_decoder::DecoderError::from)?,
        isa: Isa::detect().map_err(rootstock_decoder::DecoderError::from)?,
    };
    for (path, map) in Modules::of(model.spec()).iter().flat_map(Modules::maps) {
        let training = map
            .parts
            .first()
            .and_then(|part| attached.trained.sites.get(&part.site));
        let Some(pair) = training.and_then(|training| training.pair.clone()) else {
            continue;
        };
        if training.is_some_and(|training| training.magnitude.is_some()) {
            let reason = "pissa moves what a magnitude is the length of; take it without use_dora";
            return Err(TrainError::setting("init_lora_weights", reason));
        }
        check_rank(path, map, attached.parameters.get(pair.a).shape[0])?;
        let mut random = Random::new(seed, &format!("components of {path}"));
        let mut weight = Vec::with_capacity(map.inputs * map.outputs);
        each_row(model, map, &mut |row| weight.extend_from_slice(row));
        let weight = View::new(&weight, map.inputs);
        begin(attached, &pair, |rank| {
            let start = || f64::from(random.uniform()) - 0.5;
            components(&mut context, weight, rank, iterations, start)
        });
    }
    Ok(())
}

fn check_rank(path: &str, map: &ModuleMap, rank: usize) -> Result<(), TrainError> {
    let most = map.inputs.min(map.outputs);
    match rank <= most {
        true => Ok(()),
        false => Err(TrainError::setting(
            "lora_r",
            format!("{path}: expected at most {most}, the singular values that its weight has, got {rank}"),
        )),
    }
}

/// `A = sqrt(S / scale) V^T`, `B = U sqrt(S / scale)`, so that `scale * B A` is the components' sum.
fn begin(attached: &mut Attached, pair: &LowRank, components: impl FnOnce(usize) -> Components) {
    let (a, b) = (pair.a, pair.b.id);
    let rank = attached.parameters.get(a).shape[0];
    let found = components(rank);
    let roots: Vec<f64> = found
        .values
        .iter()
        .map(|value| (value / f64::from(pair.scale)).sqrt())
        .collect();
    let (inputs, outputs) = (found.right.len() / rank, found.left.len() / rank);
    let of_a = (0..rank * inputs).map(|at| (found.right[at] * roots[at / inputs]) as f32);
    let of_b = (0..outputs * rank).map(|at| (found.left[at % rank * outputs + at / rank] * roots[at % rank]) as f32);
    for (id, values) in [(a, of_a.collect::<Vec<f32>>()), (b, of_b.collect())] {
        let parameter = attached.parameters.get_mut(id);
        parameter.initial = Some(values.clone());
        parameter.values = values;
    }
}

/// A tensor of a pair with its beginning beside it, and its shape: A over A0, B beside -B0. Others are as they are.
pub(super) fn doubled(parameter: &Parameter) -> (Vec<usize>, Vec<f32>) {
    let (values, shape) = (&parameter.values, &parameter.shape);
    let Some(initial) = &parameter.initial else {
        return (shape.clone(), values.clone());
    };
    if parameter.kind == ParameterKind::LowRankA {
        return (vec![2 * shape[0], shape[1]], [values.as_slice(), initial].concat());
    }
    let rows = values.chunks_exact(shape[1]).zip(initial.chunks_exact(shape[1]));
    let beside = rows.flat_map(|(row, initial)| row.iter().copied().chain(initial.iter().map(|value| -value)));
    (vec![shape[0], 2 * shape[1]], beside.collect())
}

/// The configuration of the pairs that are written: twice the rank at the same factors.
pub fn doubled_config(config: &Value) -> Value {
    let mut config = config.clone();
    let root = config["use_rslora"] == json!(true);
    // alpha / rank and alpha / sqrt(rank) stay what they are.
    let by = if root { std::f64::consts::SQRT_2 } else { 2.0 };
    let rank = |value: &Value| value.as_u64().map_or(Value::Null, |rank| json!(2 * rank));
    let alpha = |value: &Value| {
        value
            .as_f64()
            .map_or(Value::Null, |alpha| super::config::number(by * alpha))
    };
    config["r"] = rank(&config["r"]);
    config["lora_alpha"] = alpha(&config["lora_alpha"]);
    if let Some(patterns) = config["rank_pattern"].as_object_mut() {
        patterns.values_mut().for_each(|value| *value = rank(value));
    }
    if let Some(patterns) = config["alpha_pattern"].as_object_mut() {
        patterns.values_mut().for_each(|value| *value = alpha(value));
    }
    config
}
