//! What can be typed after `inspect`.

use std::path::PathBuf;

use clap::Args;

use super::ModelArgs;

/// Arguments of `inspect`.
#[derive(Debug, Clone, Args)]
pub struct InspectArgs {
    /// Model (GGUF file, any part of a split one, Hugging Face folder, or name of a pulled one) or adapter (PEFT or AdapterHub
    /// folder, GGUF file)
    #[arg(value_name = "PATH|NAME")]
    pub path: PathBuf,
    #[command(flatten)]
    pub base: ModelArgs,
    /// List every tensor, in place of groups of equal ones
    #[arg(long)]
    pub tensors: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
