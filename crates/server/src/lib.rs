//! HTTP over the engine: OpenAI wire types, routes, adapter endpoints, admission, metrics. Never sees a tensor.

mod app;
mod auth;
mod base;
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

pub use base::{BaseError, BaseErrorCode, BaseLoader, BaseRequest, ServingBase};
pub use listener::serve;
pub use prompt::with_system_prompt;

/// Everything the routes work with.
pub struct Service {
    /// The base to start with.
    pub base: ServingBase,
    /// Loads those that replace it.
    pub loader: BaseLoader,
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
