//! What runs next and on which adapter: sequences, scheduler, paged KV with prefix cache, adapter store, sampler,
//! the [`Runner`] trait and the native runner. Knows nothing of HTTP; callers submit a [`Request`] and read [`Event`]s.

pub mod adapters;
mod engine;
mod error;
#[cfg(test)]
mod fake;
mod kv;
pub mod native;
pub mod request;
pub mod runner;
pub mod sampling;
mod scheduler;

pub use engine::{Engine, EngineSettings, EngineStats};
pub use error::{EngineError, SubmitError};
pub use request::{Event, FinishReason, Graft, PromptScoring, Request, TokenLogprobs, Usage};
pub use runner::Runner;
