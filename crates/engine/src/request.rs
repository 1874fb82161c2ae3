//! What callers submit and what they get back.

use std::sync::Arc;

use rootstock_model::text::TokenId;
use tokio::sync::mpsc::UnboundedSender;

use crate::adapters::AdapterLease;
use crate::error::EngineError;
use crate::sampling::SamplingParams;

/// One generation.
pub struct Request {
    /// Prompt, at least one token.
    pub prompt: Vec<TokenId>,
    /// Adapters, in the order their deltas are added; empty for the base.
    pub grafts: Vec<Graft>,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// Most tokens to generate; 0 only scores the prompt.
    pub max_tokens: usize,
    /// Tokens that end the generation; they are not part of the output.
    pub stop_tokens: Vec<TokenId>,
    /// For each generated token, report this many most likely ones beside the chosen one.
    pub logprobs: Option<usize>,
    /// Report log-probabilities of the prompt, before the first token.
    pub prompt_logprobs: Option<PromptScoring>,
    /// Whose turn it uses up; the scheduler is fair between tenants.
    pub tenant: Arc<str>,
    /// Where events go. A dropped receiver cancels the request at the next step.
    pub events: UnboundedSender<Event>,
}

/// Which log-probabilities of a prompt are reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PromptScoring {
    /// Place of the first token that is scored. What lies before it is only read, and found in the prefix cache where
    /// it is there.
    pub from: usize,
    /// Report this many most likely tokens per place.
    pub top: usize,
}

/// An adapter held in memory for the length of a request, at a scale.
#[derive(Clone)]
pub struct Graft {
    /// Keeps the generation resident.
    pub lease: AdapterLease,
    /// Factor on the adapter's delta; 1 is the adapter as trained.
    pub scale: f32,
}

/// Progress of a request, in order; the first is `Started` (unless it fails before), the last `Finished` or `Failed`.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The request has left the queue; sent once, also if it is preempted and starts over.
    Started {
        /// Prompt tokens found in the prefix cache, as in [`Usage::cached_tokens`].
        cached_tokens: usize,
    },
    /// One entry per prompt token; `None` for the first, which nothing predicts, and for those that are not scored.
    PromptLogprobs(Vec<Option<TokenLogprobs>>),
    /// A generated token.
    Token {
        /// The token.
        id: TokenId,
        /// Present if the request asked for them.
        logprobs: Option<TokenLogprobs>,
    },
    /// The generation ended.
    Finished {
        /// Why.
        reason: FinishReason,
        /// What it used.
        usage: Usage,
    },
    /// The generation was lost.
    Failed(EngineError),
}

/// Log-probability of a token beside the most likely ones, natural log, from the raw logits (before penalties and
/// temperature).
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// The token of this position.
    pub id: TokenId,
    /// Its log-probability.
    pub logprob: f32,
    /// Most likely tokens, best first; ties by smaller id.
    pub top: Vec<(TokenId, f32)>,
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// One of the stop tokens was chosen.
    Stop(TokenId),
    /// `max_tokens` or the context was reached.
    Length,
}

/// Tokens a request used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Of these, found in the prefix cache.
    pub cached_tokens: usize,
    /// Tokens generated.
    pub completion_tokens: usize,
}
