//! `rootstock quantize`: a model in fewer bits, tensor by tensor, and what became of each.

mod outcome;
mod text;

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};
use rootstock_decoder::Batch;
use rootstock_formats::DType;
use rootstock_model::checkpoint::{Role, StoredTensor};
use rootstock_model::{Checkpoint, GgufFile, WeightSource};
use rootstock_optimize::calibrate::WalkSettings;
use rootstock_optimize::quantize::{Budget, Quantizer, Scaled, TensorReport, choose, plan};

use self::outcome::Outcome;
use super::compare;
use crate::args::QuantizeArgs;
use crate::progress::{Progress, Unit};
use crate::settings::{CalibrationSettings, QuantizeSettings};

/// Tokens of the calibration text that types are chosen on: each tensor is tried on all of them.
const CHOOSING_TOKENS: usize = 1024;
/// Types that are chosen from, smallest first.
const CHOICES: [DType; 8] = [
    DType::Q4_K,
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_K,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q6_K,
    DType::Q8_0,
];

/// Writes the model and prints what became of it.
///
/// # Errors
/// Settings, a model or a text that cannot be used, or a file that cannot be written; nothing is left of it then.
pub fn run(args: QuantizeArgs) -> Result<()> {
    let settings = QuantizeSettings::new(&args)?;
    let checkpoint = Checkpoint::open(&settings.model.path)?;
    let file = GgufFile::of(&checkpoint)?;
    let planned = plan(file.tensors(), checkpoint.spec(), settings.recipe, &settings.exceptions)?;
    let types = match (settings.max_kl, &settings.calibration) {
        (Some(max_kl), Some(calibration)) => chosen((&settings, calibration, max_kl), &checkpoint, &file, &planned)?,
        _ => planned,
    };
    if let Some(parent) = settings.output.parent() {
        fs::create_dir_all(parent).with_context(|| format!("--output: {} cannot be made", parent.display()))?;
    }
    let tensors = written(&settings, &checkpoint, &file, &types)?;
    let comparison = settings.comparison.as_ref().map(compare::measured).transpose()?;
    let outcome = Outcome::new(&settings, &checkpoint, &file, tensors, comparison)?;
    if let Some(path) = &args.html {
        compare::write(path, &outcome.html())?;
    }
    outcome.print(settings.json)
}

/// Types by what they cost on the calibration text.
fn chosen(
    (settings, calibration, max_kl): (&QuantizeSettings, &CalibrationSettings, f64),
    checkpoint: &Checkpoint,
    file: &GgufFile,
    planned: &[DType],
) -> Result<Vec<DType>> {
    let few = CalibrationSettings {
        tokens: calibration.tokens.min(CHOOSING_TOKENS),
        ..calibration.clone()
    };
    let batches = text::batches(&few, checkpoint)?;
    let budget = Budget {
        types: &CHOICES,
        max_kl,
        batches: &batches,
        settings: walk(settings, calibration, checkpoint),
    };
    let bar = Progress::start("choosing types", file.tensors().len() as u64, Unit::Tensors);
    let mut progress = |done: usize, _: usize| bar.reached(done as u64);
    let chosen = choose(checkpoint, file.tensors(), planned, budget, &mut progress)?;
    drop(bar);
    eprintln!("types chosen: {:.4} nats per token with the nearest values", chosen.kl);
    Ok(chosen.types)
}

fn walk(settings: &QuantizeSettings, calibration: &CalibrationSettings, checkpoint: &Checkpoint) -> WalkSettings {
    WalkSettings {
        max_length: calibration.length.min(checkpoint.spec().context_length),
        threads: settings.threads,
    }
}

/// Writes the file; gives what became of its matrices.
fn written(
    settings: &QuantizeSettings,
    checkpoint: &Checkpoint,
    file: &GgufFile,
    types: &[DType],
) -> Result<Vec<TensorReport>> {
    let roles = file.tensors().iter().zip(types);
    let roles = roles.flat_map(|(tensor, &dtype)| tensor.parts.iter().map(move |&(role, _)| (role, dtype)));
    let roles: BTreeMap<Role, DType> = roles.collect();
    let Some(calibration) = &settings.calibration else {
        let (bar, mut done) = (weights_bar(file), 0);
        let mut progress = counted(&bar, &mut done);
        let mut quantizer = Quantizer::new(checkpoint.spec(), checkpoint, roles, settings.threads, &mut progress);
        file.write(&settings.output, types, &mut quantizer)?;
        return Ok(quantizer.into_reports());
    };
    let batches = text::batches(calibration, checkpoint)?;
    let walk = walk(settings, calibration, checkpoint);
    let scaled = calibration
        .scales
        .then(|| scaled(checkpoint, &roles, &batches, walk))
        .transpose()?;
    let weights: &(dyn WeightSource + Sync) = match &scaled {
        Some(scaled) => scaled,
        None => checkpoint,
    };
    let (bar, mut done) = (weights_bar(file), 0);
    let mut progress = counted(&bar, &mut done);
    let quantizer = Quantizer::new(checkpoint.spec(), weights, roles, settings.threads, &mut progress);
    let mut quantizer = quantizer.calibrated(&batches, walk, calibration.method)?;
    file.write(&settings.output, types, &mut quantizer)?;
    Ok(quantizer.into_reports())
}

/// The weights with their inputs scaled.
fn scaled<'a>(
    checkpoint: &'a Checkpoint,
    types: &BTreeMap<Role, DType>,
    batches: &[Batch],
    walk: WalkSettings,
) -> Result<Scaled<'a>> {
    let layers = checkpoint.spec().layers.len();
    let bar = Progress::start("scaling inputs", layers as u64, Unit::Layers);
    let mut progress = |layers: usize| bar.reached(layers as u64);
    let spec = checkpoint.spec();
    Ok(Scaled::search(
        spec,
        checkpoint,
        (types, None),
        batches,
        walk,
        &mut progress,
    )?)
}

fn weights_bar(file: &GgufFile) -> Progress {
    let matrices = file.tensors().iter().filter(|tensor| tensor.is_matrix());
    let weights: usize = matrices.map(StoredTensor::elements).sum();
    Progress::start("quantizing", weights as u64, Unit::Weights)
}

/// Counts the weights of tensors that are done.
fn counted<'a>(bar: &'a Progress, done: &'a mut u64) -> impl FnMut(&TensorReport) + use<'a> {
    move |report| {
        *done += report.elements as u64;
        bar.reached(*done);
    }
}
