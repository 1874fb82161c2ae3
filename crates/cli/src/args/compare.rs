//! What can be typed after `compare`.

use std::path::PathBuf;

use clap::Args;

use super::Activations;

/// Arguments of `compare`.
#[derive(Debug, Clone, Args)]
pub struct CompareArgs {
    /// Settings file (TOML, keys as the flags)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What is compared, the source first: GGUF files, Hugging Face folders or names of pulled models, each alone or with the
    /// PEFT folder, GGUF file or name of an adapter on it
    #[arg(value_name = "MODEL[+ADAPTER]")]
    pub models: Vec<String>,
    /// The same, before those without a flag (repeatable)
    #[arg(long, value_name = "MODEL[+ADAPTER]")]
    pub model: Vec<String>,
    /// Folder of pulled models [default: rootstock/models in the user's data folder]
    #[arg(long, value_name = "DIR")]
    pub models_dir: Option<PathBuf>,
    /// Catalog to use in place of the built-in one
    #[arg(long, value_name = "FILE")]
    pub catalog: Option<PathBuf>,
    /// Folder with a subfolder or GGUF file per adapter
    #[arg(long, value_name = "DIR")]
    pub adapters: Option<PathBuf>,
    /// Text to compare on
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,
    /// Tokens of a window; each is read from its own beginning
    #[arg(long, value_name = "TOKENS", default_value_t = 512)]
    pub length: usize,
    /// Most tokens of the text
    #[arg(long, value_name = "N", default_value_t = 4096)]
    pub tokens: usize,
    /// Worker threads [default: the CPUs this process may use]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Precision of activations in quantized products: f32 shows what the weights are worth, and is slow; int16-prompts takes a
    /// tenth of the time and is off by some thousandths of a nat; auto is what is served
    #[arg(long, value_name = "KIND", value_enum, default_value_t = Activations::F32)]
    pub activations: Activations,
    /// Leave the speed out
    #[arg(long)]
    pub no_speed: bool,
    /// Exit with 1 if the mean KL of one is above this, in nats
    #[arg(long, value_name = "KL")]
    pub max_kl: Option<f64>,
    /// Print JSON in place of a table
    #[arg(long)]
    pub json: bool,
    /// Write the table and plots to a page
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}
