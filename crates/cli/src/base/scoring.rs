//! How likely a base or one of its adapters finds given tokens: their log-probabilities, without generating any.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rootstock_engine::sampling::SamplingParams;
use rootstock_engine::{Event, PromptScoring, Request};
use rootstock_model::text::TokenId;
use tokio::sync::mpsc::{self, UnboundedReceiver};

use super::{Base, Held};

/// Tokens to be scored.
pub struct Score {
    /// The whole sequence.
    pub tokens: Vec<TokenId>,
    /// Place of the first token whose log-probability is wanted.
    pub from: usize,
    /// Adapter, if any.
    pub held: Held,
    /// Whose turn it uses up: the engine is fair between tenants.
    pub tenant: &'static str,
}

/// A scoring that runs. Dropping it cancels it.
pub struct Scoring {
    events: UnboundedReceiver<Event>,
    from: usize,
}

impl Base {
    /// Starts to score.
    ///
    /// # Errors
    /// The tokens do not fit the context, or too many requests wait.
    pub fn start_scoring(&self, score: Score) -> Result<Scoring> {
        let (sender, events) = mpsc::unbounded_channel();
        self.engine.submit(Request {
            prompt: score.tokens,
            grafts: score.held.grafts,
            sampling: SamplingParams::default(),
            max_tokens: 0,
            stop_tokens: Vec::new(),
            logprobs: None,
            prompt_logprobs: Some(PromptScoring {
                from: score.from,
                top: 0,
            }),
            tenant: Arc::from(score.tenant),
            events: sender,
        })?;
        Ok(Scoring {
            events,
            from: score.from,
        })
    }
}

impl Scoring {
    /// Waits for the log-probabilities, natural log, of the tokens from the first that is wanted on. Nothing predicts
    /// the first token of a sequence: where it is wanted, the list begins with the second.
    ///
    /// # Errors
    /// A step fails.
    pub async fn finish(mut self) -> Result<Vec<f32>> {
        while let Some(event) = self.events.recv().await {
            match event {
                Event::PromptLogprobs(scores) => {
                    let wanted = scores.into_iter().skip(self.from).flatten();
                    return Ok(wanted.map(|score| score.logprob).collect());
                }
                Event::Failed(error) => return Err(error).context("the scoring failed"),
                Event::Started { .. } | Event::Token { .. } | Event::Finished { .. } => {}
            }
        }
        bail!("the engine stopped before the scoring ended")
    }
}
