//! The difference of two checkpoints as an adapter on the first: the largest singular components of what each linear map gained,
//! as pairs, and on demand whole what pairs cannot hold. Works module by module.

mod rest;
#[cfg(test)]
mod tests;

use rootstock_formats::peft::{ModuleKind, names_module};
use rootstock_kernels::{Components, Context, Isa, ThreadPool, View, components};
use rootstock_model::adapter::save::{ModulePair, PeftFolder};
use rootstock_model::adapter::{AdapterTensor, ModuleMap, ModuleRole};
use rootstock_model::checkpoint::Role;
use rootstock_model::{ArchSpec, Checkpoint, Site, WeightSource};

use crate::OptimizeError;
use crate::random::uniforms;
pub use rest::Left;

/// What is taken out.
#[derive(Debug, Clone)]
pub struct ExtractSettings {
    /// Components of each map; fewer where a map has no more.
    pub rank: usize,
    /// Modules that get pairs, by name or the end of their path; empty for every linear map of the layers.
    pub targets: Vec<String>,
    /// What pairs cannot hold is put whole into `modules_to_save`, biases into `bias`.
    pub save_rest: bool,
    /// Threads of the products.
    pub threads: usize,
}

/// How much of a module's difference its pair holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Captured {
    /// The module as transformers names it.
    pub module: String,
    /// Rank of the pair.
    pub rank: usize,
    /// Frobenius norm of the difference.
    pub delta: f64,
    /// Frobenius norm of the base's weight.
    pub base: f64,
    /// Share of the squared difference that the pair holds.
    pub energy: f64,
}

/// What was taken out.
#[derive(Debug)]
pub struct Extracted {
    /// To be written.
    pub folder: PeftFolder,
    /// The pairs.
    pub captured: Vec<Captured>,
    /// Differences beside them.
    pub left: Vec<Left>,
}

/// Two checkpoints of one architecture, tensor by tensor.
struct Models<'a> {
    base: &'a Checkpoint,
    tuned: &'a Checkpoint,
}

/// Takes the difference of `tuned` from `base`. `reached` is told how many of how many modules are done.
///
/// # Errors
/// Models of different architectures, targets that name nothing, two models without a difference that pairs can hold, or files that
/// cannot be read.
pub fn extract(
    base: &Checkpoint,
    tuned: &Checkpoint,
    settings: &ExtractSettings,
    mut reached: impl FnMut(usize, usize),
) -> Result<Extracted, OptimizeError> {
    check_architectures(base.spec(), tuned.spec())?;
    let models = Models { base, tuned };
    let mut folder = PeftFolder::new(base.spec())?;
    folder.base_hash = Some(base.hash());
    check_targets(&folder, base.spec(), settings)?;
    let unusable = |error: String| setting("--threads", error);
    let mut context = Context {
        pool: ThreadPool::new(settings.threads).map_err(|error| unusable(error.to_string()))?,
        isa: Isa::detect().map_err(|error| unusable(error.to_string()))?,
    };
    let (mut pairs, mut captured) = (Vec::new(), Vec::new());
    let all = folder.modules().iter().count();
    for (index, module) in folder.modules().iter().enumerate() {
        if let ModuleRole::Map(map) = &module.role
            && is_target(settings, &module.path, map)
            && let Some((pair, share)) = pair(&models, &mut context, (&module.path, map), settings.rank)?
        {
            pairs.push(pair);
            captured.push(share);
        }
        reached(index + 1, all);
    }
    if pairs.is_empty() {
        let reason =
            "expected weights of linear maps that differ from those of --model, got the same in all that are targeted";
        return Err(setting("--tuned", reason));
    }
    folder.pairs = pairs;
    let left = rest::find(&models, &mut folder, settings.save_rest)?;
    Ok(Extracted { folder, captured, left })
}

fn setting(field: &str, reason: impl Into<String>) -> OptimizeError {
    OptimizeError::Setting {
        field: field.to_owned(),
        reason: reason.into(),
    }
}

/// Both must have the same tensors, but for an output projection that only one of them has apart from its embedding.
fn check_architectures(base: &ArchSpec, tuned: &ArchSpec) -> Result<(), OptimizeError> {
    let comparable = |spec: &ArchSpec| {
        let mut spec = spec.clone();
        // Files of one model may be told otherwise, and lengths are no tensors.
        (spec.family, spec.context_length, spec.tied_output) = (String::new(), 0, false);
        spec
    };
    if comparable(base) == comparable(tuned) {
        return Ok(());
    }
    let shown = |spec: &ArchSpec| {
        let (family, layers) = (&spec.family, spec.layers.len());
        format!(
            "{family} with {layers} layers of {} and a vocabulary of {}",
            spec.hidden_size, spec.vocab_size
        )
    };
    let reason = format!(
        "expected the architecture of --model ({}), got another ({}); sizes, positions, norms and biases must be the same",
        shown(base),
        shown(tuned)
    );
    Err(setting("--tuned", reason))
}

fn check_targets(folder: &PeftFolder, spec: &ArchSpec, settings: &ExtractSettings) -> Result<(), OptimizeError> {
    if settings.rank == 0 {
        return Err(setting("--rank", "expected 1 or more, got 0"));
    }
    for name in &settings.targets {
        let mut meant = folder
            .modules()
            .maps()
            .filter(|(path, _)| names_module(name, path))
            .peekable();
        if meant.peek().is_none() {
            let paths: Vec<&str> = folder.modules().maps().map(|(path, _)| path).collect();
            let example = paths.get(1).copied().unwrap_or_default();
            let reason = format!("expected names of linear maps (as in {example}), got {name:?}, which matches none");
            return Err(setting("--target-modules", reason));
        }
        if spec.tied_output && meant.any(|(_, map)| map.kind != ModuleKind::Linear) {
            let reason =
                format!("{name}: this base ties embedding and output layer; --save-rest keeps them whole instead");
            return Err(setting("--target-modules", reason));
        }
    }
    Ok(())
}

fn is_target(settings: &ExtractSettings, path: &str, map: &ModuleMap) -> bool {
    match settings.targets.is_empty() {
        true => map.kind == ModuleKind::Linear,
        false => settings.targets.iter().any(|name| names_module(name, path)),
    }
}

impl Models<'_> {
    /// A module's weight in both, `[outputs, inputs]`, for an embedding `[inputs, outputs]`.
    fn weights(&self, map: &ModuleMap) -> Result<Both, OptimizeError> {
        let mut both = Both::default();
        for part in &map.parts {
            append(self.base, part.site, &mut both.base)?;
            append(self.tuned, part.site, &mut both.tuned)?;
        }
        Ok(both)
    }
}

/// A tensor in both models.
#[derive(Default)]
struct Both {
    base: Vec<f32>,
    tuned: Vec<f32>,
}

impl Both {
    fn difference(&self) -> Vec<f32> {
        let pairs = self.tuned.iter().zip(&self.base);
        pairs.map(|(tuned, base)| tuned - base).collect()
    }
}

/// The weight of a site, where the embedding serves as output projection that one.
fn append(checkpoint: &Checkpoint, site: Site, to: &mut Vec<f32>) -> Result<(), OptimizeError> {
    let role = match site {
        Site::Layer { layer, projection } => Role::Weight { layer, projection },
        Site::Output if !checkpoint.spec().tied_output => Role::Output,
        Site::Output | Site::Embedding => Role::Embedding,
    };
    Ok(checkpoint.append(role, to)?)
}

/// The pair of a module, if it differs at all.
fn pair(
    models: &Models<'_>,
    context: &mut Context,
    (path, map): (&str, &ModuleMap),
    rank: usize,
) -> Result<Option<(ModulePair, Captured)>, OptimizeError> {
    let both = models.weights(map)?;
    let delta = both.difference();
    let whole = squared(&delta);
    if whole == 0.0 {
        return Ok(None);
    }
    if !whole.is_finite() {
        return Err(OptimizeError::Tensor {
            tensor: path.to_owned(),
            reason: "expected finite weights in both models, got NaN or infinity".to_owned(),
        });
    }
    let rank = rank.min(map.inputs).min(map.outputs);
    // A table has a row for each input, not for each output.
    let matrix = match map.kind {
        ModuleKind::Embedding => View::new(&delta, map.outputs).transposed(),
        ModuleKind::Linear | ModuleKind::Output => View::new(&delta, map.inputs),
    };
    let mut random = uniforms(path.len() as u64);
    let found = components(context, matrix, rank, None, || random() - 0.5);
    let held: f64 = found.values.iter().map(|value| value * value).sum();
    let captured = Captured {
        module: path.to_owned(),
        rank,
        delta: whole.sqrt(),
        base: squared(&both.base).sqrt(),
        energy: (held / whole).min(1.0),
    };
    Ok(Some((balanced(path, map, &found), captured)))
}

/// `A = sqrt(S) V^T`, `B = U sqrt(S)` at a scale of 1.
fn balanced(path: &str, map: &ModuleMap, found: &Components) -> ModulePair {
    let rank = found.values.len();
    let roots: Vec<f64> = found.values.iter().map(|value| value.sqrt()).collect();
    let (inputs, outputs) = (map.inputs, map.outputs);
    let a = (0..rank * inputs).map(|at| found.right[at] * roots[at / inputs]);
    let b = (0..outputs * rank).map(|at| found.left[at % rank * outputs + at / rank] * roots[at % rank]);
    ModulePair {
        path: path.to_owned(),
        scale: 1.0,
        a: tensor(a, [rank, inputs]),
        b: tensor(b, [outputs, rank]),
    }
}

fn tensor(values: impl Iterator<Item = f64>, [rows, cols]: [usize; 2]) -> AdapterTensor {
    AdapterTensor {
        dtype: rootstock_formats::DType::F32,
        rows,
        cols,
        bytes: values.flat_map(|value| (value as f32).to_le_bytes()).collect(),
    }
}

fn squared(values: &[f32]) -> f64 {
    values.iter().map(|&x| f64::from(x) * f64::from(x)).sum()
}
