//! What `quantize` runs with: arguments checked before anything is loaded.

use std::path::{Path, PathBuf};

use rootstock_optimize::quantize::{Exception, Method, Recipe};

use super::{CompareSettings, Contender, Result, usage, within, worker_threads};
use crate::args::{Activations, QuantizeArgs, RoundingMethod};
use crate::models::{Located, Models};
use crate::side_by_side::Cut;

/// What `quantize` runs with.
#[derive(Debug, Clone)]
pub struct QuantizeSettings {
    /// The source.
    pub model: Located,
    /// The file to write.
    pub output: PathBuf,
    /// Types of tensors.
    pub recipe: Recipe,
    /// Other ones.
    pub exceptions: Vec<Exception>,
    /// Most nats per token that the output may be away, where types are chosen by that.
    pub max_kl: Option<f64>,
    /// The text that decides how weights are rounded.
    pub calibration: Option<CalibrationSettings>,
    /// The file beside its source on a text.
    pub comparison: Option<CompareSettings>,
    /// Threads.
    pub threads: usize,
    /// Whether JSON is wanted.
    pub json: bool,
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
        let output = args
            .output
            .clone()
            .ok_or_else(|| usage("--output is missing; give the file to write"))?;
        if output.exists() && !args.overwrite {
            let shown = output.display();
            return Err(usage(format!(
                "--output: {shown} exists; take another name or --overwrite"
            )));
        }
        let model = Models::new(&args.model)?.locate(args.model.model.as_deref())?;
        Ok(Self {
            comparison: args
                .text
                .as_ref()
                .map(|text| comparison(args, text, &model, &output))
                .transpose()?,
            model,
            output,
            recipe: Recipe::named(&args.recipe).map_err(|reason| usage(format!("--type: {reason}")))?,
            exceptions: args.tensor_type.clone(),
            max_kl: args.max_kl.filter(|_| args.auto).map(max_kl).transpose()?,
            calibration: calibration(args)?,
            threads: worker_threads(args.threads)?,
            json: args.json,
        })
    }
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
