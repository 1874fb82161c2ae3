//! `rootstock quantize`: a model in fewer bits, tensor by tensor, and what became of each.

mod outcome;
mod text;

use std::collections::BTreeMap;

use anyhow::Result;
use rootstock_decoder::Batch;
use rootstock_formats::DType;
use rootstock_kernels::GroupFormat;
use rootstock_model::checkpoint::{Role, StoredTensor};
use rootstock_model::{Checkpoint, FloatType, GgufFile, Grouping, ModelError, ModelFolder, SaveSettings, WeightSource};
use rootstock_optimize::calibrate::WalkSettings;
use rootstock_optimize::quantize::{Budget, Quantizer, Scaled, TensorReport, choose, plan};

use self::outcome::Outcome;
use super::compare;
use crate::args::QuantizeArgs;
use crate::progress::{Progress, Unit};
use crate::settings::{CalibrationSettings, QuantizeSettings, QuantizeTarget};

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
    let (tensors, reports) = match &settings.target {
        QuantizeTarget::Gguf { .. } => file(&settings, &checkpoint)?,
        QuantizeTarget::Folder { grouping, float } => folder((&settings, *grouping, *float), &checkpoint)?,
    };
    let comparison = settings.comparison.as_ref().map(compare::measured).transpose()?;
    let outcome = Outcome::new(&settings, &checkpoint, (&tensors, reports), comparison)?;
    if let Some(path) = &args.html {
        compare::write(path, &outcome.html())?;
    }
    outcome.print(settings.json)
}

/// The tensors of what was written, and what became of its matrices.
type Written = (Vec<StoredTensor>, Vec<TensorReport>);

/// Writes a GGUF file.
fn file(settings: &QuantizeSettings, checkpoint: &Checkpoint) -> Result<Written> {
    let QuantizeTarget::Gguf {
        recipe,
        exceptions,
        max_kl,
    } = &settings.target
    else {
        return Ok(Written::default());
    };
    let file = GgufFile::of(checkpoint)?;
    let planned = plan(file.tensors(), checkpoint.spec(), *recipe, exceptions)?;
    let types = match (max_kl, &settings.calibration) {
        (Some(max_kl), Some(calibration)) => chosen((settings, calibration, *max_kl), checkpoint, &file, &planned)?,
        _ => planned,
    };
    let roles = file.tensors().iter().zip(&types);
    let roles = roles.flat_map(|(tensor, &dtype)| tensor.parts.iter().map(move |&(role, _)| (role, dtype)));
    let matrices = file.tensors().iter().filter(|tensor| tensor.is_matrix());
    let job = Job {
        types: roles.collect(),
        groups: None,
        weights: matrices.map(StoredTensor::elements).sum(),
        write: &|_, quantizer| file.write(&settings.output, &types, quantizer),
    };
    Ok((file.tensors().to_vec(), job.run(settings, checkpoint)?))
}

/// Writes a Hugging Face folder.
fn folder(
    (settings, grouping, float): (&QuantizeSettings, Grouping, FloatType),
    checkpoint: &Checkpoint,
) -> Result<Written> {
    let folder = ModelFolder::of(checkpoint)?.grouped(grouping)?;
    let card = outcome::card(settings, &grouping);
    let saved = SaveSettings {
        float,
        shard_bytes: SaveSettings::SHARD_BYTES,
        card: &card,
    };
    let job = Job {
        types: folder.types(),
        groups: Some(grouping.format()),
        weights: folder.modules().map(StoredTensor::elements).sum(),
        write: &|weights, quantizer| folder.write(&settings.output, weights, quantizer, &saved),
    };
    Ok((folder.tensors().to_vec(), job.run(settings, checkpoint)?))
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

/// Weights on their way into what is written.
struct Job<'a> {
    types: BTreeMap<Role, DType>,
    groups: Option<GroupFormat>,
    /// Weights that are rounded.
    weights: usize,
    /// Writes all, the plain weights and those that are rounded.
    write: &'a dyn Fn(&dyn WeightSource, &mut Quantizer<'_>) -> Result<(), ModelError>,
}

impl Job<'_> {
    /// Writes; gives what became of the matrices.
    fn run(self, settings: &QuantizeSettings, checkpoint: &Checkpoint) -> Result<Vec<TensorReport>> {
        let calibration = settings.calibration.as_ref().map(|calibration| {
            let batches = text::batches(calibration, checkpoint)?;
            Ok::<_, anyhow::Error>((calibration, batches, walk(settings, calibration, checkpoint)))
        });
        let calibration = calibration.transpose()?;
        let scaled = match &calibration {
            Some((CalibrationSettings { scales: true, .. }, batches, walk)) => {
                Some(self.scaled(checkpoint, batches, *walk)?)
            }
            _ => None,
        };
        let weights: &(dyn WeightSource + Sync) = match &scaled {
            Some(scaled) => scaled,
            None => checkpoint,
        };
        let (bar, mut done) = (Progress::start("quantizing", self.weights as u64, Unit::Weights), 0);
        let mut progress = counted(&bar, &mut done);
        let mut quantizer = Quantizer::new(checkpoint.spec(), weights, self.types, settings.threads, &mut progress);
        if let Some(groups) = self.groups {
            quantizer = quantizer.grouped(groups);
        }
        if let Some((calibration, batches, walk)) = &calibration {
            quantizer = quantizer.calibrated(batches, *walk, calibration.method)?;
        }
        (self.write)(weights, &mut quantizer)?;
        Ok(quantizer.into_reports())
    }

    /// The weights with their inputs scaled.
    fn scaled<'c>(&self, checkpoint: &'c Checkpoint, batches: &[Batch], walk: WalkSettings) -> Result<Scaled<'c>> {
        let spec = checkpoint.spec();
        let bar = Progress::start("scaling inputs", spec.layers.len() as u64, Unit::Layers);
        let mut progress = |layers: usize| bar.reached(layers as u64);
        let types = (&self.types, self.groups);
        Ok(Scaled::search(spec, checkpoint, types, batches, walk, &mut progress)?)
    }
}

/// Counts the weights of tensors that are done.
fn counted<'a>(bar: &'a Progress, done: &'a mut u64) -> impl FnMut(&TensorReport) + use<'a> {
    move |report| {
        *done += report.elements as u64;
        bar.reached(*done);
    }
}
