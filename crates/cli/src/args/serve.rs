//! What can be typed after `serve`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;

use super::{ModelArgs, RunArgs};
use crate::settings::ByteSize;

/// Arguments of `serve`.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Settings file (TOML, keys as the flags)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub run: RunArgs,
    /// Id of the base in requests [default: the catalog name, the file's stem or the folder's name]
    #[arg(long, value_name = "NAME")]
    pub served_model_name: Option<String>,
    /// Folder with a subfolder or GGUF file per adapter, watched
    #[arg(long, value_name = "DIR")]
    pub adapters: Option<PathBuf>,
    /// Further folder that adapters may be loaded from over HTTP (repeatable)
    #[arg(long, value_name = "DIR", value_delimiter = ',')]
    pub adapter_root: Vec<PathBuf>,
    /// Further folder that a new base may be loaded from over HTTP, beside that of --model and pulled ones (repeatable)
    #[arg(long, value_name = "DIR", value_delimiter = ',')]
    pub model_root: Vec<PathBuf>,
    /// Address to listen on
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// Port to listen on; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 8000)]
    pub port: u16,
    /// Sequences that run at the same time
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub max_num_seqs: usize,
    /// Requests that may wait; more are answered with 429
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub max_queue: usize,
    /// Most tokens of one step; longer prompts are prefilled in chunks
    #[arg(long, value_name = "TOKENS", default_value_t = 512)]
    pub max_batch_tokens: usize,
    /// Beside running streams prompts are prefilled in chunks that make a step take this many times as long at most, more
    /// where more prompts than streams wait; 1 for the smallest chunks
    #[arg(long, value_name = "FACTOR", default_value_t = 2.5)]
    pub decode_slowdown: f64,
    /// Largest request body
    #[arg(long, value_name = "SIZE", default_value = "4MiB")]
    pub max_body: ByteSize,
    /// Key that requests must bring as a bearer token (repeatable)
    #[arg(long, value_name = "KEY", value_delimiter = ',', hide_env_values = true)]
    pub api_key: Vec<String>,
    /// Compute every prompt anew
    #[arg(long)]
    pub no_prefix_cache: bool,
}
