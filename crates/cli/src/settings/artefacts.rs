//! What `merge`, `extract` and `convert-adapter` run with: inputs that are there, and a place for the result that loses nothing.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rootstock_model::FloatType;
use rootstock_model::adapter::{BOTTLENECK_WEIGHTS, is_gguf, save::LoraType};
use rootstock_optimize::extract::ExtractSettings as Extraction;
use rootstock_optimize::merge::{Blend, Dropping};
use rootstock_optimize::quantize::Recipe;

use super::finetune::float;
use super::{Result, usage, within, worker_threads};
use crate::args::{BlendMethod, ConvertAdapterArgs, ExtractArgs, MergeArgs, OutputArgs, SaveDtype, StoredType};
use crate::models::{Located, Models, locate_adapter};

/// What `merge` runs with.
#[derive(Debug)]
pub struct MergeSettings {
    /// The base.
    pub model: Located,
    /// At least one, each with the factor on what it adds.
    pub adapters: Vec<(Located, f32)>,
    /// How they become one.
    pub blend: Blend,
    /// What is written.
    pub output: MergedFile,
    /// Worker threads.
    pub threads: usize,
}

/// The container of a merged model.
#[derive(Debug)]
pub enum MergedFile {
    /// A Hugging Face folder, and the element type of its weights.
    Folder(PathBuf, FloatType),
    /// A GGUF file, and the types of its weights.
    Gguf(PathBuf, Recipe),
}

impl MergedFile {
    /// Where it is written.
    pub fn path(&self) -> &Path {
        match self {
            Self::Folder(path, _) | Self::Gguf(path, _) => path,
        }
    }
}

impl MergeSettings {
    /// Resolves and checks the arguments.
    ///
    /// # Errors
    /// A model or adapter that is not there, an output that would be lost, or a number out of range.
    pub fn new(args: &MergeArgs) -> Result<Self> {
        if args.adapter.is_empty() {
            return Err(usage("--adapter is missing; give the adapter that is merged"));
        }
        let adapters = args.adapter.iter().map(|text| {
            let (adapter, weight) = weighted(text);
            Ok((locate_adapter(Path::new(adapter), args.adapters.as_deref())?, weight))
        });
        let adapters = adapters.collect::<Result<Vec<_>>>()?;
        let model = Models::new(&args.model)?.locate(args.model.model.as_deref())?;
        let inputs = adapters.iter().map(|(adapter, _)| adapter).chain([&model]);
        Ok(Self {
            output: merged_file(args, inputs.map(|input| input.path.as_path()))?,
            blend: blend(args)?,
            threads: worker_threads(args.threads)?,
            model,
            adapters,
        })
    }
}

fn merged_file<'a>(args: &MergeArgs, inputs: impl Iterator<Item = &'a Path>) -> Result<MergedFile> {
    let output = args.output.output.as_deref();
    let Some(file) = output.filter(|output| is_gguf(output)) else {
        if args.recipe.is_some() {
            return Err(usage(
                "--type is for a GGUF file; give an --output that ends in .gguf, or --dtype",
            ));
        }
        let dtype = args.dtype.unwrap_or(SaveDtype::F32);
        return Ok(MergedFile::Folder(folder_to_write(&args.output, inputs)?, float(dtype)));
    };
    let Some(recipe) = &args.recipe else {
        return Err(usage(
            "--type is missing: merged weights are rounded only as you say; give the type of the GGUF file's weights",
        ));
    };
    if args.dtype.is_some() {
        return Err(usage(
            "--dtype is for a folder; the types of a GGUF file are those of --type",
        ));
    }
    let recipe = Recipe::named(recipe).map_err(|reason| usage(format!("--type: {reason}")))?;
    Ok(MergedFile::Gguf(
        file_to_write("--output", file, args.output.overwrite, inputs)?,
        recipe,
    ))
}

/// `PATH=WEIGHT` where what follows the last `=` is a number, unless that is how the path itself is called.
fn weighted(text: &str) -> (&str, f32) {
    let parts = text.rsplit_once('=').filter(|_| !Path::new(text).exists());
    let parsed = parts.and_then(|(adapter, weight)| Some((adapter, weight.parse().ok()?)));
    parsed.unwrap_or((text, 1.0))
}

fn blend(args: &MergeArgs) -> Result<Blend> {
    let (method, seed) = (args.method, args.seed);
    let density = match (args.density, method) {
        (None, BlendMethod::Linear) => return Ok(Blend::Linear),
        (Some(_), BlendMethod::Linear) => {
            return Err(usage(
                "--density: a weighted sum keeps everything; give --method ties or dare-linear",
            ));
        }
        (None, _) => {
            return Err(usage(
                "--density is missing; give the share of the values that are kept, such as 0.5",
            ));
        }
        (Some(density), _) => within("density", density, f64::MIN_POSITIVE, 1.0)?,
    };
    let dropping = Dropping { density, seed };
    Ok(match method {
        BlendMethod::Linear => Blend::Linear,
        BlendMethod::Ties => Blend::Ties { density },
        BlendMethod::DareLinear => Blend::DareLinear(dropping),
        BlendMethod::DareTies => Blend::DareTies(dropping),
    })
}

/// What `extract` runs with.
#[derive(Debug)]
pub struct ExtractSettings {
    /// The base.
    pub model: Located,
    /// What is told from it.
    pub tuned: Located,
    /// What is taken out.
    pub extraction: Extraction,
    /// Folder that is written.
    pub output: PathBuf,
}

impl ExtractSettings {
    /// Resolves and checks the arguments.
    ///
    /// # Errors
    /// As [`MergeSettings::new`].
    pub fn new(args: &ExtractArgs) -> Result<Self> {
        let models = Models::new(&args.model)?;
        let model = models.locate(args.model.model.as_deref())?;
        let Some(tuned) = &args.tuned else {
            return Err(usage(
                "--tuned is missing; give the model whose difference from --model is taken out",
            ));
        };
        let tuned = models.locate(Some(tuned)).context("--tuned")?;
        let inputs = [model.path.as_path(), tuned.path.as_path()];
        Ok(Self {
            output: folder_to_write(&args.output, inputs.into_iter())?,
            extraction: Extraction {
                rank: within("rank", args.rank, 1, 1 << 16)?,
                targets: args.target_modules.clone(),
                save_rest: args.save_rest,
                threads: worker_threads(args.threads)?,
            },
            model,
            tuned,
        })
    }
}

/// What `convert-adapter` runs with.
#[derive(Debug)]
pub struct ConvertSettings {
    /// The base that the adapter is for.
    pub model: Located,
    /// What is converted.
    pub input: Located,
    /// What it becomes.
    pub output: Converted,
}

/// The other container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Converted {
    /// A GGUF file, and what its tensors are stored in.
    Gguf(PathBuf, LoraType),
    /// A PEFT folder.
    Peft(PathBuf),
}

impl ConvertSettings {
    /// Resolves and checks the arguments.
    ///
    /// # Errors
    /// As [`MergeSettings::new`], and for an output of the same kind as the input.
    pub fn new(args: &ConvertAdapterArgs) -> Result<Self> {
        if !args.input.exists() {
            let shown = args.input.display();
            return Err(usage(format!("IN: there is no folder or GGUF file {shown}")));
        }
        let input = locate_adapter(&args.input, None)?;
        let model = Models::new(&args.model)?.locate(args.model.model.as_deref())?;
        let inputs = || [model.path.as_path(), input.path.as_path()].into_iter();
        let is_folder = input.path.join(rootstock_model::adapter::CONFIG).is_file();
        let output = match (is_folder, is_gguf(&args.output)) {
            (true, true) => {
                let file = file_to_write("OUT", &args.output, args.overwrite, inputs())?;
                Converted::Gguf(file, stored(args.stored))
            }
            (false, false) if args.stored.is_some() => {
                return Err(usage(
                    "--type: tensors of a PEFT folder stay what they are in the GGUF file",
                ));
            }
            (false, false) => {
                let output = OutputArgs {
                    output: Some(args.output.clone()),
                    overwrite: args.overwrite,
                };
                Converted::Peft(folder_to_write(&output, inputs())?)
            }
            (true, false) => {
                return Err(usage(
                    "OUT: expected a name that ends in .gguf, since IN is a PEFT folder",
                ));
            }
            (false, true) => return Err(usage("OUT: expected the name of a folder, since IN is a GGUF file")),
        };
        Ok(Self { model, input, output })
    }
}

fn stored(stored: Option<StoredType>) -> LoraType {
    match stored {
        None | Some(StoredType::F32) => LoraType::F32,
        Some(StoredType::F16) => LoraType::F16,
        Some(StoredType::Bf16) => LoraType::Bf16,
        Some(StoredType::Q8_0) => LoraType::Q8_0,
    }
}

/// Files that a folder of a model or an adapter has, of which at least one must be in what is replaced.
const MARKS: [&str; 3] = ["config.json", "adapter_config.json", BOTTLENECK_WEIGHTS];

/// The folder that is written, whole and absolute.
pub(super) fn folder_to_write<'a>(args: &OutputArgs, mut inputs: impl Iterator<Item = &'a Path>) -> Result<PathBuf> {
    let Some(output) = &args.output else {
        return Err(usage("--output is missing; give the folder that is written"));
    };
    let shown = output.display();
    let output = std::path::absolute(output).with_context(|| format!("--output: {shown}"))?;
    if !output.exists() {
        return Ok(output);
    }
    let canonical = output.canonicalize().with_context(|| format!("--output: {shown}"))?;
    let entries = fs::read_dir(&canonical).map_err(|error| usage(format!("--output: {shown}: {error}")))?;
    if entries.count() == 0 {
        return Ok(canonical);
    }
    if !args.overwrite {
        return Err(usage(format!(
            "--output: {shown} is not empty; take another folder, or --overwrite"
        )));
    }
    if !MARKS.iter().any(|mark| canonical.join(mark).is_file()) {
        let reason = "holds neither a model nor an adapter, and nothing else is replaced; take another folder";
        return Err(usage(format!("--output: {shown} {reason}")));
    }
    let is_within = |input: &Path| input.canonicalize().is_ok_and(|input| input.starts_with(&canonical));
    if inputs.any(is_within) {
        return Err(usage(format!(
            "--output: {shown} holds what is read; take another folder"
        )));
    }
    Ok(canonical)
}

/// The file that is written, absolute.
pub(super) fn file_to_write<'a>(
    option: &str,
    output: &Path,
    overwrite: bool,
    mut inputs: impl Iterator<Item = &'a Path>,
) -> Result<PathBuf> {
    let shown = output.display();
    let output = std::path::absolute(output).with_context(|| format!("{option}: {shown}"))?;
    if output.is_dir() {
        return Err(usage(format!("{option}: {shown} is a folder")));
    }
    if output.exists() && !overwrite {
        return Err(usage(format!(
            "{option}: {shown} is there already; take another name, or --overwrite"
        )));
    }
    let same = |input: &Path| matches!((input.canonicalize(), output.canonicalize()), (Ok(a), Ok(b)) if a == b);
    if inputs.any(same) {
        return Err(usage(format!("{option}: {shown} is what is read; take another name")));
    }
    if let Some(parent) = output.parent() {
        fs::create_dir_all(parent).with_context(|| format!("{option}: {} cannot be made", parent.display()))?;
    }
    Ok(output)
}
