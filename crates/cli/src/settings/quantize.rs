//! What `quantize` runs with: arguments checked before anything is loaded.

use std::path::{Path, PathBuf};

use rootstock_model::adapter::is_gguf;
use rootstock_model::{FloatType, GroupLayout, Grouping};
use rootstock_optimize::quantize::{Exception, Method, Recipe};

use super::artefacts::{file_to_write, folder_to_write};
use super::finetune::float;
use super::{CompareSettings, Contender, Result, usage, within, worker_threads};
use crate::args::{Activations, QuantizeArgs, QuantizedFormat, RoundingMethod, SaveDtype};
use crate::models::{Located, Models};
use crate::side_by_side::Cut;

/// What `quantize` runs with.
#[derive(Debug, Clone)]
pub struct QuantizeSettings {
    /// The source.
    pub model: Located,
    /// The file or the folder to write.
    pub output: PathBuf,
    /// Which of them, and its weights.
    pub target: QuantizeTarget,
    /// The text that decides how weights are rounded.
    pub calibration: Option<CalibrationSettings>,
    /// The file beside its source on a text.
    pub comparison: Option<CompareSettings>,
    /// Threads.
    pub threads: usize,
    /// Whether JSON is wanted.
    pub json: bool,
}

/// What weights become.
#[derive(Debug, Clone)]
pub enum QuantizeTarget {
    /// Tensors of a GGUF file.
    Gguf {
        /// Types of tensors.
        recipe: Recipe,
        /// Other ones.
        exceptions: Vec<Exception>,
        /// Most nats per token that the output may be away, where types are chosen by that.
        max_kl: Option<f64>,
    },
    /// Modules of a Hugging Face folder.
    Folder {
        /// Their integers.
        grouping: Grouping,
        /// Element type of the other weights.
        float: FloatType,
    },
}

/// A calibration text and what is done with it.
#[derive(Debug, Clone)]
pub struct CalibrationSettings {
    /// The file.
    pub text: PathBuf,
    /// Most tokens.
    pub tokens: usize,
    /// Tokens of a sequence.
    pub length: usize,
    /// How values are rounded.
    pub method: Method,
    /// Whether inputs are scaled before.
    pub scales: bool,
}

impl QuantizeSettings {
    /// Resolves and checks the arguments.
    ///
    /// # Errors
    /// A model or a text that is not there, an output that is, or options that contradict each other.
    pub fn new(args: &QuantizeArgs) -> Result<Self> {
        let model = Models::new(&args.model)?.locate(args.model.model.as_deref())?;
        let target = target(args)?;
        let inputs = [model.path.as_path()].into_iter();
        let output = match (&target, &args.output.output) {
            (QuantizeTarget::Gguf { .. }, Some(file)) => {
                file_to_write("--output", file, args.output.overwrite, inputs)?
            }
            _ => folder_to_write(&args.output, inputs)?,
        };
        Ok(Self {
            comparison: args
                .text
                .as_ref()
                .map(|text| comparison(args, text, &model, &output))
                .transpose()?,
            model,
            output,
            target,
            calibration: calibration(args)?,
            threads: worker_threads(args.threads)?,
            json: args.json,
        })
    }
}

/// What is written, by its format or by the name of the output.
fn target(args: &QuantizeArgs) -> Result<QuantizeTarget> {
    let Some(output) = &args.output.output else {
        return Err(usage(
            "--output is missing; give the file (.gguf) or the folder to write",
        ));
    };
    let by_name = match is_gguf(output) {
        true => QuantizedFormat::Gguf,
        false => QuantizedFormat::CompressedTensors,
    };
    let layout = match args.format.unwrap_or(by_name) {
        QuantizedFormat::Gguf => return gguf(args),
        QuantizedFormat::CompressedTensors => GroupLayout::CompressedTensors,
        QuantizedFormat::Gptq => GroupLayout::Gptq,
    };
    if args.auto || !args.tensor_type.is_empty() {
        return Err(usage(
            "--auto and --tensor-type choose types of a GGUF file; give an --output that ends in .gguf",
        ));
    }
    Ok(QuantizeTarget::Folder {
        grouping: Grouping {
            layout,
            bits: args.bits.unwrap_or(4),
            group_size: args.group_size.unwrap_or(128),
            symmetric: !args.asymmetric,
        },
        float: float(args.dtype.unwrap_or(SaveDtype::F16)),
    })
}

fn gguf(args: &QuantizeArgs) -> Result<QuantizeTarget> {
    if args.bits.is_some() || args.group_size.is_some() || args.asymmetric || args.dtype.is_some() {
        return Err(usage(
            "--bits, --group-size, --asymmetric and --dtype are for a folder; the types of a GGUF file are those of --type",
        ));
    }
    Ok(QuantizeTarget::Gguf {
        recipe: Recipe::named(&args.recipe).map_err(|reason| usage(format!("--type: {reason}")))?,
        exceptions: args.tensor_type.clone(),
        max_kl: args.max_kl.filter(|_| args.auto).map(max_kl).transpose()?,
    })
}

/// The file as it will be, beside its source.
fn comparison(args: &QuantizeArgs, text: &Path, model: &Located, output: &Path) -> Result<CompareSettings> {
    if !text.is_file() {
        return Err(usage(format!("--text: {} is not a file", text.display())));
    }
    let contender = |model: &Located| Contender {
        name: model.name.clone(),
        model: model.clone(),
        adapter: None,
    };
    let written = Located {
        path: output.to_owned(),
        name: output.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
    };
    Ok(CompareSettings {
        source: contender(model),
        others: vec![contender(&written)],
        text: text.to_owned(),
        cut: Cut {
            length: 512,
            most: within("tokens", args.tokens, 2, 1 << 40)?,
        },
        threads: worker_threads(args.threads)?,
        activations: Activations::F32,
        speed: true,
        max_kl: None,
    })
}

fn max_kl(kl: f64) -> Result<f64> {
    match kl.is_finite() && kl > 0.0 {
        true => Ok(kl),
        false => Err(usage(format!("--max-kl: expected a number above 0, got {kl}"))),
    }
}

fn calibration(args: &QuantizeArgs) -> Result<Option<CalibrationSettings>> {
    let Some(text) = args.calibration.clone() else {
        if args.method == Some(RoundingMethod::Gptq) {
            return Err(usage(
                "--method gptq needs a text to calibrate on; give one with --calibration",
            ));
        }
        if args.scale_inputs {
            return Err(usage(
                "--scale-inputs needs a text to calibrate on; give one with --calibration",
            ));
        }
        return Ok(None);
    };
    if !text.is_file() {
        return Err(usage(format!("--calibration: {} is not a file", text.display())));
    }
    Ok(Some(CalibrationSettings {
        text,
        tokens: within("calibration-tokens", args.calibration_tokens, 16, 1 << 30)?,
        length: within("calibration-length", args.calibration_length, 16, 1 << 20)?,
        method: match args.method.unwrap_or(RoundingMethod::Gptq) {
            RoundingMethod::Nearest => Method::Rounding,
            RoundingMethod::Gptq => Method::Gptq,
        },
        scales: args.scale_inputs,
    }))
}
