//! `/v1/chat/completions`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::Request;
use axum::response::Response;
use rootstock_engine::TokenLogprobs;
use rootstock_model::text::TokenId;
use serde::Serialize;

use super::json_response;
use crate::app::App;
use crate::base::Base;
use crate::error::ApiResult;
use crate::generation::{Accepted, ChunkWriter, Finished, Order, Output, Run, Step, Style};
use crate::prompt;
use crate::wire::chat::{ChatChoice, ChatCompletion, ChatMessage, ChatRequest, ChoiceFields, ChunkChoice, Delta};
use crate::wire::logprobs::{ChatLogprobs, Spelling};
use crate::wire::options::StreamOptions;
use crate::wire::{Head, Usage, json};

const ROLE: &str = "assistant";

/// Answers a chat request.
pub(crate) async fn chat(State(app): State<Arc<App>>, request: Request<Body>) -> ApiResult<Response> {
    let accepted = Accepted::<ChatRequest>::receive(&app, request).await?;
    // What the adapter brings is read into tokens, or compiled, too.
    let defaults = &accepted.hold.defaults;
    let brought = [&defaults.system_prompt, &defaults.chat_template].into_iter().flatten();
    let weight = accepted.weight + brought.map(String::len).sum::<usize>();
    let order = move || {
        let Accepted { ask, hold, .. } = accepted;
        Ok(Order {
            prompts: vec![prompt::encode_chat(&ask.conversation, &hold.base, &hold.defaults)?],
            hold,
            options: ask.options,
            default_max_tokens: usize::MAX,
            logprobs: ask.logprobs,
            prompt_logprobs: None,
        })
    };
    let order = app.workshop.run(weight, order).await?;
    let style = ChatStyle::new(&order);
    order.answer(&app, style).await
}

/// How answers to one request are written.
struct ChatStyle {
    base: Arc<Base>,
    head: Head,
    logprobs: bool,
    tokens_as_ids: bool,
    return_token_ids: bool,
}

impl ChatStyle {
    fn new(order: &Order) -> Self {
        let options = &order.options;
        let object = match options.stream {
            Some(_) => "chat.completion.chunk",
            None => "chat.completion",
        };
        Self {
            base: order.hold.base.clone(),
            head: Head::new("chatcmpl", object, &options.model.model),
            logprobs: order.logprobs.is_some(),
            tokens_as_ids: options.tokens_as_ids,
            return_token_ids: options.return_token_ids,
        }
    }

    fn logprobs(&self, entries: &[TokenLogprobs]) -> ChatLogprobs {
        let spelling = Spelling {
            tokenizer: &self.base.tokenizer,
            as_ids: self.tokens_as_ids,
        };
        let mut logprobs = ChatLogprobs::default();
        for entry in entries {
            logprobs.push(entry, spelling);
        }
        logprobs
    }

    fn prompt_token_ids(&self, prompts: &[Vec<TokenId>]) -> Option<Vec<TokenId>> {
        prompts.first().filter(|_| self.return_token_ids).cloned()
    }

    fn choice(&self, output: &Output, run: &Finished) -> ChatChoice {
        ChatChoice {
            index: output.index,
            message: ChatMessage {
                role: ROLE,
                content: output.text.clone(),
                refusal: None,
            },
            rest: ChoiceFields {
                logprobs: self.logprobs.then(|| self.logprobs(&output.logprobs)),
                finish_reason: Some(output.end.reason),
                stop_reason: output.end.stop_reason.clone(),
                prompt_token_ids: self.prompt_token_ids(&run.prompts),
                token_ids: self.return_token_ids.then(|| output.tokens.clone()),
            },
        }
    }
}

impl Style for ChatStyle {
    const CONTINUES_PROMPT: bool = false;

    fn whole(&self, run: Finished) -> Response {
        let choice = |output| self.choice(output, &run);
        json_response(&ChatCompletion {
            head: &self.head,
            choices: run.outputs.iter().map(choice).collect(),
            usage: Some(Some(run.usage)),
            prompt_token_ids: self.prompt_token_ids(&run.prompts),
        })
    }

    fn chunks(self, run: &Run, options: StreamOptions) -> impl ChunkWriter {
        Chunks {
            prompts: run.prompts.clone(),
            include_usage: options.include_usage,
            style: self,
        }
    }
}

/// Writes a request's chunks.
struct Chunks {
    style: ChatStyle,
    prompts: Arc<[Vec<TokenId>]>,
    include_usage: bool,
}

impl Chunks {
    fn chunk<C: Serialize>(&self, choices: Vec<C>, usage: Option<Usage>, prompt: Option<Vec<TokenId>>) -> String {
        json(&ChatCompletion {
            head: &self.style.head,
            choices,
            usage: self.include_usage.then_some(usage),
            prompt_token_ids: prompt,
        })
    }
}

impl ChunkWriter for Chunks {
    /// The role, without waiting for the first token.
    fn open(&mut self, index: usize) -> Option<String> {
        let prompt = self.style.prompt_token_ids(&self.prompts);
        let choice = ChunkChoice {
            index,
            delta: Delta {
                role: Some(ROLE),
                content: Some(String::new()),
            },
            rest: ChoiceFields {
                prompt_token_ids: prompt.clone(),
                ..ChoiceFields::default()
            },
        };
        Some(self.chunk(vec![choice], None, prompt))
    }

    fn step(&mut self, index: usize, step: Step) -> Option<String> {
        let Step::Delta(delta) = step else {
            return None;
        };
        let says_logprobs = self.style.logprobs && !delta.logprobs.is_empty();
        let token_ids = (self.style.return_token_ids && !delta.tokens.is_empty()).then_some(delta.tokens);
        if delta.text.is_empty() && !says_logprobs && token_ids.is_none() && delta.end.is_none() {
            return None;
        }
        let choice = ChunkChoice {
            index,
            delta: Delta {
                role: None,
                content: (!delta.text.is_empty()).then_some(delta.text),
            },
            rest: ChoiceFields {
                logprobs: says_logprobs.then(|| self.style.logprobs(&delta.logprobs)),
                finish_reason: delta.end.as_ref().map(|end| end.reason),
                stop_reason: delta.end.and_then(|end| end.stop_reason),
                prompt_token_ids: None,
                token_ids,
            },
        };
        Some(self.chunk(vec![choice], None, None))
    }

    fn usage(&mut self, usage: Usage) -> String {
        self.chunk::<ChunkChoice>(Vec::new(), Some(usage), None)
    }
}
