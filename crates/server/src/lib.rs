//! HTTP over the engine: OpenAI wire types, routes, adapter endpoints, admission, metrics. Never sees a tensor.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

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

/// Serves until `shutdown` resolves, then refuses new requests, lets accepted ones end, and returns.
/// `on_bound` is called once with the address.
///
/// # Errors
/// The address cannot be bound.
pub async fn serve(
    _service: Service,
    _address: SocketAddr,
    _on_bound: impl FnOnce(SocketAddr) + Send,
    _shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    todo!()
}
