//! One choice as the engine generates it: events in; text, tokens and the reason of the end out.

use std::sync::Arc;

use rootstock_engine::{EngineError, Event, FinishReason, TokenLogprobs};
use rootstock_model::text::{TextStream, TokenId};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::metrics::Meter;
use crate::wire::StopReason;

/// A running generation. Dropping it cancels the generation.
pub(crate) struct Choice {
    pub(crate) index: usize,
    pub(crate) events: UnboundedReceiver<Event>,
    pub(crate) text: TextStream,
    pub(crate) stops: Arc<Stops>,
    pub(crate) meter: Meter,
    /// Prompt tokens found in the prefix cache, known once the engine has started.
    pub(crate) cached_tokens: usize,
    pub(crate) ended: bool,
}

/// What ends the choices of a request besides the model's own end tokens.
pub(crate) struct Stops {
    pub(crate) strings: Vec<String>,
    pub(crate) tokens: Vec<TokenId>,
}

/// What one event brought.
pub(crate) enum Step {
    /// Log-probabilities of the prompt, one entry per token; before anything else.
    Prompt(Vec<Option<TokenLogprobs>>),
    Delta(Delta),
}

/// An addition to a choice.
#[derive(Default)]
pub(crate) struct Delta {
    /// Whole characters; may lag behind the tokens.
    pub(crate) text: String,
    pub(crate) tokens: Vec<TokenId>,
    /// One entry per token if they were asked for.
    pub(crate) logprobs: Vec<TokenLogprobs>,
    /// Nothing follows it.
    pub(crate) end: Option<End>,
}

/// How a choice ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) reason: &'static str,
    pub(crate) stop_reason: Option<StopReason>,
    /// Prompt tokens found in the prefix cache.
    pub(crate) cached_tokens: usize,
}

impl Choice {
    /// The next addition; `None` after the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Step>, EngineError> {
        if self.ended {
            return Ok(None);
        }
        let mut event = self.events.recv().await;
        if let Some(Event::Started { cached_tokens }) = event {
            self.meter.start(cached_tokens);
            self.cached_tokens = cached_tokens;
            event = self.events.recv().await;
        }
        let step = match event {
            Some(Event::PromptLogprobs(entries)) => Step::Prompt(entries),
            Some(Event::Token { id, logprobs }) => Step::Delta(self.token(id, logprobs)),
            Some(Event::Finished { reason, .. }) => Step::Delta(self.finished(reason)),
            Some(Event::Failed(error)) => return Err(self.failed(error)),
            // A second start breaks the engine's promise like a missing end.
            Some(Event::Started { .. }) | None => return Err(self.failed(EngineError::Stopped)),
        };
        if let Step::Delta(Delta { end: Some(end), .. }) = &step {
            self.ended = true;
            self.meter.end(end.reason);
            // The engine must not run on behind a stop string until the whole answer is gone.
            self.events.close();
        }
        Ok(Some(step))
    }

    fn token(&mut self, id: TokenId, logprobs: Option<TokenLogprobs>) -> Delta {
        self.meter.token();
        let update = self.text.push(id);
        let end = update.stopped.map(|stop| End {
            reason: "stop",
            stop_reason: self.stops.strings.get(stop).cloned().map(StopReason::Text),
            cached_tokens: self.cached_tokens,
        });
        Delta {
            text: update.text,
            tokens: vec![id],
            logprobs: logprobs.into_iter().collect(),
            end,
        }
    }

    fn finished(&mut self, reason: FinishReason) -> Delta {
        let (reason, stop_reason) = match reason {
            FinishReason::Length => ("length", None),
            FinishReason::Stop(id) => {
                let asked_for = self.stops.tokens.contains(&id);
                ("stop", asked_for.then_some(StopReason::Token(id)))
            }
        };
        Delta {
            text: self.text.finish(),
            end: Some(End {
                reason,
                stop_reason,
                cached_tokens: self.cached_tokens,
            }),
            ..Delta::default()
        }
    }

    fn failed(&mut self, error: EngineError) -> EngineError {
        self.ended = true;
        self.meter.end("error");
        error
    }
}

/// A choice from beginning to end.
pub(crate) struct Output {
    pub(crate) index: usize,
    pub(crate) prompt_logprobs: Vec<Option<TokenLogprobs>>,
    pub(crate) text: String,
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) logprobs: Vec<TokenLogprobs>,
    pub(crate) end: End,
}

impl Choice {
    /// Waits for the end.
    pub(crate) async fn collect(mut self) -> Result<Output, EngineError> {
        let mut prompt_logprobs = Vec::new();
        let mut whole = Delta::default();
        while let Some(step) = self.next().await? {
            match step {
                Step::Prompt(entries) => prompt_logprobs = entries,
                Step::Delta(delta) => {
                    whole.text.push_str(&delta.text);
                    whole.tokens.extend(delta.tokens);
                    whole.logprobs.extend(delta.logprobs);
                    whole.end = delta.end;
                }
            }
        }
        Ok(Output {
            index: self.index,
            prompt_logprobs,
            text: whole.text,
            tokens: whole.tokens,
            logprobs: whole.logprobs,
            end: whole.end.ok_or(EngineError::Stopped)?,
        })
    }
}
