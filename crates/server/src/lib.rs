//! HTTP over the engine: OpenAI wire types, routes, adapter endpoints, admission, metrics. Never sees a tensor.

mod app;
mod auth;
mod body;
mod error;
mod flight;
mod generation;
mod half_close;
mod listener;
mod metrics;
mod prompt;
mod routes;
mod target;
#[cfg(test)]
mod tests;
mod waits;
mod wire;

use std::path::PathBuf;
use std::sync::Arc;

pub use listener::serve;

use rootstock_engine::Engine;
use rootstock_engine::adapters::AdapterStore;
use rootstock_model::text::{ChatTemplate, Tokenizer};

/// Everything the routes work with.
pub struct Service {
    /// Runs requests.
    pub engine: Engine,
    /// Adapters by name.
    pub adapters: AdapterStore,
    /// Of the base.
    pub tokenizer: Arc<Tokenizer>,
    /// Of the base; without one, chat is refused.
    pub chat_template: Option<ChatTemplate>,
    /// Id of the base in `model` and `/v1/models`.
    pub base_name: String,
    /// Longest sequence in tokens.
    pub max_context: usize,
    /// Adapters are loaded over HTTP only from below these folders.
    pub adapter_roots: Vec<PathBuf>,
    /// Keys of which one must come as a bearer token; empty for none.
    pub api_keys: Vec<String>,
    /// Bounds of HTTP itself.
    pub limits: HttpLimits,
}

/// Bounds of HTTP itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpLimits {
    /// Largest request body in bytes.
    pub body_bytes: usize,
    /// Most choices (`n` times prompts) of one request.
    pub choices: usize,
}
