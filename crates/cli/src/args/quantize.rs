//! What can be typed after `quantize`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use rootstock_optimize::quantize::Exception;

use super::{ModelArgs, OutputArgs, SaveDtype};

/// Arguments of `quantize`.
#[derive(Debug, Clone, Args)]
pub struct QuantizeArgs {
    /// Settings file (TOML, keys as the flags)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    /// What is written [default: gguf for a name that ends in .gguf, else compressed-tensors]
    #[arg(long, value_name = "NAME", value_enum)]
    pub format: Option<QuantizedFormat>,
    /// In a folder: bits of a weight, 4 or 8 (symmetric only) [default: 4]
    #[arg(long, value_name = "N")]
    pub bits: Option<usize>,
    /// In a folder: inputs that share a scale, a multiple of 32 [default: 128]
    #[arg(long, value_name = "N")]
    pub group_size: Option<usize>,
    /// In a folder: groups have zero points of their own
    #[arg(long)]
    pub asymmetric: bool,
    /// In a folder: element type of what is not quantized, embedding and output among it [default: f16]
    #[arg(long, value_name = "TYPE", value_enum)]
    pub dtype: Option<SaveDtype>,
    /// In a GGUF file: type of the weights: q4_0, q4_1, q5_0, q5_1, q8_0, q2_k to q6_k, q4_k_m, q5_k_m, f16, bf16 or f32. Embedding and output get
    /// q6_k at the least, or q8_0 where rows are no multiple of 256; maps of such rows get the next type in blocks of 32
    #[arg(long = "type", value_name = "TYPE", default_value = "q4_k_m")]
    pub recipe: String,
    /// In a GGUF file: another type for some tensors, by name with * for any characters, or `embedding` or `output` (repeatable; the last that
    /// names a tensor counts)
    #[arg(long, value_name = "TENSOR=TYPE")]
    pub tensor_type: Vec<Exception>,
    /// In a GGUF file: choose the type of each map of a layer by what it costs on the calibration text: the smallest file within --max-kl; embedding
    /// and output keep what --type and --tensor-type say
    #[arg(long, requires = "max_kl", requires = "calibration")]
    pub auto: bool,
    /// With --auto: most nats per token that the output may be away from the source (KL), with values rounded to the nearest
    #[arg(long, value_name = "KL")]
    pub max_kl: Option<f64>,
    /// How values are rounded [default: gptq with a calibration text, else nearest]
    #[arg(long, value_name = "NAME", value_enum)]
    pub method: Option<RoundingMethod>,
    /// Scale inputs that matter up before rounding, and what gives them down (AWQ), where that costs less; needs a calibration text
    #[arg(long)]
    pub scale_inputs: bool,
    /// Text that the model is run on, to weigh what errors matter
    #[arg(long, value_name = "FILE")]
    pub calibration: Option<PathBuf>,
    /// Most tokens of it
    #[arg(long, value_name = "N", default_value_t = 32768)]
    pub calibration_tokens: usize,
    /// Tokens of a sequence of it
    #[arg(long, value_name = "TOKENS", default_value_t = 512)]
    pub calibration_length: usize,
    /// Worker threads [default: the CPUs this process may use]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Text to compare the file with its source on: perplexity, KL, speed
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,
    /// Most tokens of it
    #[arg(long, value_name = "N", default_value_t = 8192)]
    pub tokens: usize,
    /// Write the report to a page
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Print JSON in place of a table
    #[arg(long)]
    pub json: bool,
}

/// Containers of quantized models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum QuantizedFormat {
    /// A GGUF file
    Gguf,
    /// A Hugging Face folder of integers in groups, as compressed-tensors packs them
    CompressedTensors,
    /// A Hugging Face folder of integers in groups, in the layout of GPTQ (of any --method)
    Gptq,
}

/// How values are rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RoundingMethod {
    /// To the nearest that their block can have; blocks are chosen by the importance of their inputs if there is a calibration
    /// text (an importance matrix)
    Nearest,
    /// One after another, those that are left making up for what is lost (GPTQ); needs a calibration text
    Gptq,
}
