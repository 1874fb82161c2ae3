//! A generation on a base or one of its adapters, from its start to its text. `generate` and `chat` show text as it
//! comes, `eval` has many running at once.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rootstock_engine::{Event, FinishReason, Graft, Request, Usage};
use rootstock_model::adapter::AdapterDefaults;
use rootstock_model::text::{TextStream, TokenId};
use tokio::sync::mpsc::{self, UnboundedReceiver};

use super::Base;
use crate::settings::GenerationSettings;

/// Whose turn the commands' requests use up.
pub(super) const TENANT: &str = "local";

/// An adapter for the length of a generation.
#[derive(Clone, Default)]
pub struct Held {
    pub(super) grafts: Vec<Graft>,
    /// What it sets where nobody else does.
    pub defaults: Arc<AdapterDefaults>,
}

/// One generation.
pub struct Call<'a> {
    /// Prompt.
    pub prompt: Vec<TokenId>,
    /// Whether the text goes on where the prompt's ends: a completion, not a reply.
    pub continues: bool,
    /// Adapter, if any.
    pub held: Held,
    /// How tokens are chosen and when it ends.
    pub settings: &'a GenerationSettings,
}

/// What came of a generation.
#[derive(Debug)]
pub struct Completion {
    /// Text without any stop text.
    pub text: String,
    /// As the API spells it.
    pub finish_reason: &'static str,
    /// Tokens.
    pub usage: Usage,
}

/// A generation that runs. Dropping it cancels it.
pub struct Generation {
    events: UnboundedReceiver<Event>,
    text: TextStream,
    completion: Completion,
}

impl Base {
    /// Starts a generation on one adapter or the base.
    ///
    /// # Errors
    /// The prompt does not fit, or too many wait.
    pub fn start_generation(&self, call: Call<'_>) -> Result<Generation> {
        let settled = call.settings.settle(&call.held.defaults.sampling);
        let text = TextStream::new(self.tokenizer.clone(), settled.stop, true);
        let completion = Completion::of(call.prompt.len());
        let (sender, events) = mpsc::unbounded_channel();
        self.engine.submit(Request {
            prompt: call.prompt,
            grafts: call.held.grafts,
            sampling: settled.sampling,
            max_tokens: settled.max_tokens,
            stop_tokens: self.tokenizer.end_tokens().to_vec(),
            logprobs: None,
            prompt_logprobs: None,
            tenant: Arc::from(TENANT),
            events: sender,
        })?;
        Ok(Generation {
            events,
            text: if call.continues { text.continuing() } else { text },
            completion,
        })
    }
}

impl Generation {
    /// Waits for the end, handing out text as it becomes final.
    ///
    /// # Errors
    /// A step fails, or `on_text` does.
    pub async fn finish(mut self, mut on_text: impl FnMut(&str) -> Result<()>) -> Result<Completion> {
        let completion = &mut self.completion;
        while let Some(event) = self.events.recv().await {
            match event {
                Event::Started { cached_tokens } => completion.usage.cached_tokens = cached_tokens,
                Event::PromptLogprobs(_) => {}
                Event::Token { id, .. } => {
                    let update = self.text.push(id);
                    on_text(&update.text)?;
                    completion.text.push_str(&update.text);
                    completion.usage.completion_tokens += 1;
                    if update.stopped.is_some() {
                        // Dropping the receiver is what ends the generation.
                        return Ok(self.completion);
                    }
                }
                Event::Finished { reason, usage } => {
                    let rest = self.text.finish();
                    on_text(&rest)?;
                    completion.text.push_str(&rest);
                    completion.usage = usage;
                    if reason == FinishReason::Length {
                        completion.finish_reason = "length";
                    }
                    return Ok(self.completion);
                }
                Event::Failed(error) => return Err(error).context("the generation failed"),
            }
        }
        bail!("the engine stopped before the generation ended")
    }
}

impl Completion {
    /// Nothing yet, of a prompt of so many tokens; ended by a stop unless it turns out otherwise.
    fn of(prompt_tokens: usize) -> Self {
        let usage = Usage {
            prompt_tokens,
            ..Usage::default()
        };
        Self {
            text: String::new(),
            finish_reason: "stop",
            usage,
        }
    }
}
