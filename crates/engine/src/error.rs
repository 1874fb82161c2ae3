//! What can go wrong with a request after it was understood.

/// A request was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The waiting queue is at its bound.
    #[error("the queue is full ({bound} requests wait); try again later")]
    QueueFull {
        /// The bound.
        bound: usize,
    },
    /// The prompt does not fit the context or the KV pool.
    #[error("the prompt has {tokens} tokens and {limit} fit, with at least one to generate")]
    PromptTooLong {
        /// Prompt tokens.
        tokens: usize,
        /// Tokens that fit.
        limit: usize,
    },
    /// A prompt without tokens; nothing could predict the first one.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// A prompt token outside the vocabulary.
    #[error("token {token} is outside the vocabulary of {vocab_size}")]
    UnknownToken {
        /// The token.
        token: u32,
        /// Tokens of the vocabulary.
        vocab_size: usize,
    },
    /// The engine is draining or has stopped.
    #[error("the server is shutting down")]
    ShuttingDown,
}

/// An accepted request failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The step this request was part of failed.
    #[error("{0}")]
    Runner(String),
    /// The engine stopped before the request ended.
    #[error("the engine stopped before the request ended")]
    Stopped,
}
