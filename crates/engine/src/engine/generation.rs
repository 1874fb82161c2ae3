//! One accepted request on the engine thread: what it asked for, how far it is, and whom to tell.

use rootstock_model::text::TokenId;
use tokio::sync::mpsc::UnboundedSender;

use super::Slot;
use super::worker::Accepted;
use crate::error::EngineError;
use crate::request::{Event, FinishReason, Graft, TokenLogprobs, Usage};
use crate::sampling::{Sampler, Scratch, score};

/// The receiving end's promise of a last event: if none was sent, dropping this sends one.
pub(super) struct Report {
    events: UnboundedSender<Event>,
    ended: bool,
}

impl Report {
    pub(super) fn new(events: UnboundedSender<Event>) -> Self {
        Self { events, ended: false }
    }

    /// Sends progress. A receiver that is gone is noticed before the next step.
    fn progress(&self, event: Event) {
        let _ = self.events.send(event);
    }

    fn end(mut self, event: Event) {
        self.ended = true;
        let _ = self.events.send(event);
    }

    fn is_cancelled(&self) -> bool {
        self.events.is_closed()
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.events.send(Event::Failed(EngineError::Stopped));
        }
    }
}

/// The last event of a request whose memory has been given back already.
pub(super) struct Ending {
    report: Report,
    event: Event,
}

impl Ending {
    pub(super) fn send(self) {
        self.report.end(self.event);
    }
}

/// How a request ended.
pub(super) enum Outcome {
    Finished(FinishReason),
    Failed(EngineError),
}

impl Outcome {
    fn not_finite() -> Self {
        Self::Failed(EngineError::Runner(
            "the model computed logits that are not finite".to_owned(),
        ))
    }
}

/// The state of a request beside its sequence.
pub(super) struct Generation {
    sampler: Sampler,
    stop_tokens: Vec<TokenId>,
    max_tokens: usize,
    logprobs: Option<usize>,
    prompt_scores: Option<PromptScores>,
    usage: Usage,
    /// The start was reported.
    started: bool,
    report: Report,
    /// Hold the adapters' generations in memory.
    _grafts: Vec<Graft>,
    _slot: Slot,
}

/// Log-probabilities of the prompt, as far as they are computed.
struct PromptScores {
    top: usize,
    scores: Vec<Option<TokenLogprobs>>,
}

impl Generation {
    /// The request's `prompt` comes apart, it belongs to the sequence. `limit` is the most tokens of a sequence.
    pub(super) fn new(accepted: Accepted, prompt: &[TokenId], limit: usize) -> Self {
        let Accepted { request, report, slot } = accepted;
        let prompt_tokens = prompt.len();
        Self {
            sampler: Sampler::new(request.sampling, prompt),
            stop_tokens: request.stop_tokens,
            max_tokens: request.max_tokens.min(limit.saturating_sub(prompt_tokens)),
            logprobs: request.logprobs,
            prompt_scores: request.prompt_logprobs.map(|scoring| PromptScores {
                top: scoring.top,
                scores: vec![None; scoring.from.clamp(1, prompt_tokens.max(1))],
            }),
            usage: Usage {
                prompt_tokens,
                ..Usage::default()
            },
            started: false,
            report,
            _grafts: request.grafts,
            _slot: slot,
        }
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.report.is_cancelled()
    }

    /// Reports the start, if this is the first one, with the prompt tokens found in the prefix cache.
    pub(super) fn start(&mut self, cached_tokens: usize) {
        if !std::mem::replace(&mut self.started, true) {
            self.usage.cached_tokens = cached_tokens;
            self.report.progress(Event::Started { cached_tokens });
        }
    }

    /// Scores the prompt token after each row; `rows` are logits of consecutive positions from `start`. Rows that were
    /// scored before, and are computed again after a preemption, are passed over. True once the prompt is complete.
    ///
    /// # Errors
    /// There is no score: the request ends.
    pub(super) fn score_prompt<'a>(
        &mut self,
        tokens: &[TokenId],
        start: usize,
        rows: impl Iterator<Item = &'a [f32]>,
    ) -> Result<bool, Outcome> {
        let Some(PromptScores { top, scores }) = &mut self.prompt_scores else {
            return Ok(true);
        };
        let prompt = &tokens[..self.usage.prompt_tokens];
        for (position, row) in (start..).zip(rows) {
            if let Some(&next) = prompt.get(position + 1)
                && scores.len() == position + 1
            {
                scores.push(Some(score(row, next, *top).ok_or_else(Outcome::not_finite)?));
            }
        }
        if scores.len() < prompt.len() {
            return Ok(false);
        }
        let scores = std::mem::take(scores);
        self.prompt_scores = None;
        self.report.progress(Event::PromptLogprobs(scores));
        Ok(true)
    }

    /// Chooses and reports the next token.
    ///
    /// # Errors
    /// There is no next token: the request ends.
    pub(super) fn advance(&mut self, logits: &[f32], scratch: &mut Scratch) -> Result<TokenId, Outcome> {
        if self.max_tokens == 0 {
            return Err(Outcome::Finished(FinishReason::Length));
        }
        let id = self.sampler.sample(logits, scratch).ok_or_else(Outcome::not_finite)?;
        if self.stop_tokens.contains(&id) {
            return Err(Outcome::Finished(FinishReason::Stop(id)));
        }
        let logprobs = match self.logprobs {
            Some(top) => Some(score(logits, id, top).ok_or_else(Outcome::not_finite)?),
            None => None,
        };
        self.usage.completion_tokens += 1;
        self.report.progress(Event::Token { id, logprobs });
        if self.usage.completion_tokens == self.max_tokens {
            return Err(Outcome::Finished(FinishReason::Length));
        }
        Ok(id)
    }

    /// Gives back everything the request held; what remains is the last event.
    pub(super) fn end(self, outcome: Outcome) -> Ending {
        let event = match outcome {
            Outcome::Finished(reason) => Event::Finished {
                reason,
                usage: self.usage,
            },
            Outcome::Failed(error) => Event::Failed(error),
        };
        Ending {
            report: self.report,
            event,
        }
    }
}
