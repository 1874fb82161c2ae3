//! What the commands run with: arguments resolved to files and checked for sense, before anything is loaded.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rootstock_engine::EngineSettings;
use rootstock_engine::native::{ActivationPrecision, WeightPrecision};
use rootstock_server::HttpLimits;

use crate::UsageError;
use crate::args::{Activations, ModelArgs, Quantize, RunArgs, ServeArgs};
use crate::models::{Located, Models, Replacements};

mod artefacts;
mod compare;
mod device;
mod evaluation;
mod finetune;
mod generation;
mod measure;
mod quantize;
mod search;
#[cfg(test)]
mod tests;
mod trained;

pub use artefacts::{ConvertSettings, Converted, ExtractSettings, MergeSettings, MergedFile};
pub use compare::{CompareSettings, Contender};
pub use evaluation::EvalSettings;
pub use finetune::{FinetuneSettings, Resume};
pub use generation::{DEFAULT_MAX_TOKENS, GenerationSettings};
pub use measure::{Bound, Evidence, Measure, Objective};
pub use quantize::{CalibrationSettings, QuantizeSettings, QuantizeTarget};
pub use search::{SearchSettings, trial_folder};
pub use trained::{kv_bytes, measured, served_base};

type Result<T> = anyhow::Result<T>;

/// A number of bytes, written as `1073741824`, `512MB` or `1.5GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteSize(pub u64);

const UNITS: [(&str, u64); 10] = [
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("b", 1),
    ("", 1),
];

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let refuse = || format!("expected a size such as 512MB, 1GiB or a number of bytes, got {text:?}");
        let digits = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let unit = unit.trim().to_ascii_lowercase();
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(refuse)?;
        let bytes = number.parse::<f64>().map_err(|_| refuse())? * *factor as f64;
        if bytes > i64::MAX as f64 {
            return Err(format!("{text:?} is more than a machine can address"));
        }
        Ok(Self(bytes as u64))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes >= 1 << 30 => write!(f, "{:.1} GiB", bytes as f64 / (1u64 << 30) as f64),
            bytes if bytes >= 1 << 20 => write!(f, "{:.1} MiB", bytes as f64 / (1u64 << 20) as f64),
            bytes => write!(f, "{bytes} bytes"),
        }
    }
}

/// The base model and how it is run.
#[derive(Debug, Clone)]
pub struct BaseSettings {
    /// GGUF file or Hugging Face folder.
    pub model: PathBuf,
    /// Catalog name, or that of the file or folder.
    pub name: String,
    /// Worker threads.
    pub threads: usize,
    /// Longest sequence, if limited below the architecture's.
    pub max_context: Option<usize>,
    /// Bytes of the KV pool.
    pub kv_bytes: usize,
    /// Bytes of resident adapters.
    pub adapter_bytes: usize,
    /// Highest rank of an adapter.
    pub max_rank: usize,
    /// Precision of activations.
    pub activations: ActivationPrecision,
    /// Precision of the weights.
    pub weights: WeightPrecision,
    /// The output projection takes 4 bits in any case.
    pub four_bit_output: bool,
    /// Bounds of the engine.
    pub engine: EngineSettings,
}

/// Bounds for one conversation at a time.
pub const SINGLE: EngineSettings = EngineSettings {
    max_sequences: 1,
    max_waiting: 1,
    max_batch_rows: 512,
    prefix_cache: true,
    decode_slowdown: f64::INFINITY,
};

impl BaseSettings {
    /// Resolves and checks the arguments.
    ///
    /// # Errors
    /// No model, a model that is not there, or a number out of range; the message says what to do.
    pub fn new(model: ModelArgs, run: &RunArgs, engine: EngineSettings) -> Result<Self> {
        let Located { path: model, name } = Models::new(&model)?.locate(model.model.as_deref())?;
        Ok(Self {
            model,
            name,
            threads: worker_threads(run.threads)?,
            max_context: run
                .max_model_len
                .map(|length| within("max-model-len", length, 1, 1 << 24))
                .transpose()?,
            kv_bytes: memory("kv-memory", run.kv_memory)?,
            adapter_bytes: memory("adapter-memory", run.adapter_memory)?,
            max_rank: within("max-lora-rank", run.max_lora_rank, 1, 1 << 16)?,
            activations: activation_precision(run.activations),
            weights: weight_precision(run.quantize),
            four_bit_output: run.four_bit_output,
            engine,
        })
    }
}

/// As many as are asked for, else as the CPUs that this process may use.
fn worker_threads(given: Option<usize>) -> Result<usize> {
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    within("threads", given.unwrap_or(available), 1, 1024)
}

/// What the engine calls a precision of activations.
pub fn activation_precision(activations: Activations) -> ActivationPrecision {
    match activations {
        Activations::Auto => ActivationPrecision::Auto,
        Activations::Int8 => ActivationPrecision::Int8,
        Activations::Int16Prompts => ActivationPrecision::Int16Prompts,
        Activations::F32 => ActivationPrecision::F32,
    }
}

/// What the engine calls a way to quantize.
pub fn weight_precision(quantize: Quantize) -> WeightPrecision {
    match quantize {
        Quantize::None => WeightPrecision::Stored,
        Quantize::Eight => WeightPrecision::Eight,
        Quantize::Four => WeightPrecision::Four,
        Quantize::Nf4 => WeightPrecision::Nf4,
    }
}

/// What `serve` runs with.
#[derive(Debug, Clone)]
pub struct ServeSettings {
    /// The base; its name is the served one.
    pub base: BaseSettings,
    /// Folder of adapters to serve and watch.
    pub adapters: Option<PathBuf>,
    /// Folders that adapters may be loaded from over HTTP, that of `adapters` included.
    pub adapter_roots: Vec<PathBuf>,
    /// Bases that may be loaded over HTTP.
    pub replacements: Replacements,
    /// Where to listen.
    pub address: SocketAddr,
    /// Accepted keys; none for an open server.
    pub api_keys: Vec<String>,
    /// Bounds of HTTP.
    pub limits: HttpLimits,
}

impl ServeSettings {
    /// Resolves and checks the arguments.
    ///
    /// # Errors
    /// As [`BaseSettings::new`], and for folders that are not there or an empty key.
    pub fn new(args: ServeArgs) -> Result<Self> {
        let engine = EngineSettings {
            max_sequences: within("max-num-seqs", args.max_num_seqs, 1, 4096)?,
            max_waiting: within("max-queue", args.max_queue, 1, 1 << 20)?,
            max_batch_rows: within("max-batch-tokens", args.max_batch_tokens, 16, 1 << 16)?,
            prefix_cache: !args.no_prefix_cache,
            decode_slowdown: within("decode-slowdown", args.decode_slowdown, 1.0, 1e6)?,
        };
        let adapters = args.adapters.map(|path| folder("adapters", &path)).transpose()?;
        let further = args.adapter_root.iter().map(|path| folder("adapter-root", path));
        let adapter_roots = adapters.iter().cloned().map(Ok).chain(further).collect::<Result<_>>()?;
        if args.api_key.iter().any(|key| key.trim().is_empty()) {
            return Err(usage("--api-key: a key is empty, which every caller would know"));
        }
        let model_roots = args.model_root.iter().map(|path| folder("model-root", path));
        let model_roots = model_roots.collect::<Result<Vec<_>>>()?;
        let models = Models::new(&args.model)?;
        let mut base = BaseSettings::new(args.model, &args.run, engine)?;
        if let Some(name) = args.served_model_name {
            base.name = served_name(name)?;
        }
        Ok(Self {
            replacements: Replacements::new(models, &base.model, model_roots),
            base,
            adapters,
            adapter_roots,
            address: SocketAddr::new(args.host, args.port),
            api_keys: args.api_key,
            limits: HttpLimits {
                body_bytes: memory("max-body", args.max_body)?,
                choices: 128,
            },
        })
    }
}

/// A name that requests, logs and metrics can carry. Unlike an adapter's it may have slashes, as in `org/model`.
fn served_name(name: String) -> Result<String> {
    let is_special = |character: char| character == ',' || character.is_control();
    if name.is_empty() || name.len() > 256 || name.chars().any(is_special) {
        let expected = "expected 1 to 256 bytes without commas and control characters";
        return Err(usage(format!("--served-model-name: {expected}, got {name:?}")));
    }
    Ok(name)
}

/// A factor on an adapter's effect.
pub fn adapter_scale(scale: f32) -> Result<f32> {
    match scale.is_finite() {
        true => Ok(scale),
        false => Err(usage(format!("--adapter-scale: expected a finite number, got {scale}"))),
    }
}

/// An existing folder in its canonical form. A missing one is an error: created silently, a mistyped path would serve nothing.
pub fn folder(option: &str, path: &Path) -> Result<PathBuf> {
    let shown = path.display();
    let canonical = path
        .canonicalize()
        .map_err(|error| usage(format!("--{option}: {shown}: {error}")))?;
    if !canonical.is_dir() {
        return Err(usage(format!("--{option}: {shown} is not a folder")));
    }
    Ok(canonical)
}

fn memory(option: &str, size: ByteSize) -> Result<usize> {
    match usize::try_from(size.0) {
        Ok(0) => Err(usage(format!("--{option}: expected more than 0 bytes"))),
        Ok(bytes) => Ok(bytes),
        Err(_) => Err(usage(format!(
            "--{option}: {size} is more than this machine can address"
        ))),
    }
}

fn within<T: PartialOrd + fmt::Display>(option: &str, value: T, least: T, most: T) -> Result<T> {
    // Written so that NaN, which compares with nothing, is refused too.
    if value >= least && value <= most {
        return Ok(value);
    }
    Err(usage(format!("--{option}: expected {least} to {most}, got {value}")))
}

fn usage(message: impl Into<String>) -> anyhow::Error {
    UsageError(message.into()).into()
}
