//! `/v1/completions`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::Request;
use axum::response::Response;
use rootstock_engine::PromptScoring;
use rootstock_model::text::TokenId;

use super::json_response;
use crate::app::App;
use crate::base::Base;
use crate::error::ApiResult;
use crate::generation::{Accepted, ChunkWriter, Finished, Hold, Order, Output, Run, Step, Style};
use crate::prompt;
use crate::wire::completions::{Completion, CompletionChoice, CompletionRequest, DEFAULT_MAX_TOKENS, Prompt};
use crate::wire::logprobs::{CompletionLogprobs, Spelling, TextOffset};
use crate::wire::options::StreamOptions;
use crate::wire::{Head, Usage, json};

/// Answers a completion request.
pub(crate) async fn completions(State(app): State<Arc<App>>, request: Request<Body>) -> ApiResult<Response> {
    let accepted = Accepted::<CompletionRequest>::receive(&app, request).await?;
    let weight = accepted.weight;
    let order = move || {
        let Accepted { ask, hold, .. } = accepted;
        let encode = |prompt| prompt::encode(prompt, &hold.base, ask.add_special_tokens);
        let prompts: Vec<Vec<TokenId>> = ask.prompts.iter().map(encode).collect::<ApiResult<_>>()?;
        let style = CompletionStyle::new(&hold, &ask, &prompts);
        let order = Order {
            hold,
            prompts,
            options: ask.options,
            default_max_tokens: DEFAULT_MAX_TOKENS,
            logprobs: ask.logprobs,
            prompt_logprobs: ask
                .logprobs
                .filter(|_| ask.echo)
                .map(|top| PromptScoring { from: 0, top }),
        };
        Ok((order, style))
    };
    let (order, style) = app.workshop.run(weight, order).await?;
    order.answer(&app, style).await
}

/// How answers to one request are written.
struct CompletionStyle {
    base: Arc<Base>,
    head: Head,
    /// Text of each prompt, if it is echoed.
    echo: Option<Vec<String>>,
    logprobs: bool,
    tokens_as_ids: bool,
    skip_special_tokens: bool,
    return_token_ids: bool,
}

impl CompletionStyle {
    fn new(hold: &Hold, request: &CompletionRequest, prompts: &[Vec<TokenId>]) -> Self {
        let text = |(prompt, ids): (&Prompt, &Vec<TokenId>)| match prompt {
            Prompt::Text(text) => text.clone(),
            Prompt::Ids(_) => hold.base.tokenizer.decode(ids, false),
        };
        let options = &request.options;
        Self {
            base: hold.base.clone(),
            head: Head::new("cmpl", "text_completion", &options.model.model),
            echo: request
                .echo
                .then(|| request.prompts.iter().zip(prompts).map(text).collect()),
            logprobs: request.logprobs.is_some(),
            tokens_as_ids: options.tokens_as_ids,
            skip_special_tokens: options.skip_special_tokens,
            return_token_ids: options.return_token_ids,
        }
    }

    fn spelling(&self) -> Spelling<'_> {
        Spelling {
            tokenizer: &self.base.tokenizer,
            as_ids: self.tokens_as_ids,
        }
    }

    fn choice(&self, output: &Output, run: &Finished) -> CompletionChoice {
        let prompt = output.index / run.n;
        let echo = self.echo.as_ref().map(|texts| texts[prompt].as_str());
        let logprobs = self.logprobs.then(|| {
            let (mut logprobs, mut offset) = (CompletionLogprobs::default(), TextOffset::new(self.skip_special_tokens));
            if echo.is_some() {
                logprobs.push_prompt(
                    &run.prompts[prompt],
                    &output.prompt_logprobs,
                    &mut offset,
                    self.spelling(),
                );
            }
            for entry in &output.logprobs {
                logprobs.push(entry, &mut offset, self.spelling());
            }
            logprobs
        });
        CompletionChoice {
            index: output.index,
            text: echo.unwrap_or_default().to_owned() + &output.text,
            logprobs,
            finish_reason: Some(output.end.reason),
            stop_reason: output.end.stop_reason.clone(),
            prompt_token_ids: self.return_token_ids.then(|| run.prompts[prompt].clone()),
            token_ids: self.return_token_ids.then(|| output.tokens.clone()),
        }
    }
}

impl Style for CompletionStyle {
    const CONTINUES_PROMPT: bool = true;

    fn whole(&self, run: Finished) -> Response {
        let choice = |output| self.choice(output, &run);
        json_response(&Completion {
            head: &self.head,
            choices: run.outputs.iter().map(choice).collect(),
            usage: Some(Some(run.usage)),
        })
    }

    fn chunks(self, run: &Run, options: StreamOptions) -> impl ChunkWriter {
        Chunks {
            offsets: vec![TextOffset::new(self.skip_special_tokens); run.choices.len()],
            opened: vec![false; run.choices.len()],
            prompts: run.prompts.clone(),
            n: run.n,
            include_usage: options.include_usage,
            style: self,
        }
    }
}

/// Writes a request's chunks.
struct Chunks {
    style: CompletionStyle,
    prompts: Arc<[Vec<TokenId>]>,
    n: usize,
    include_usage: bool,
    /// Per choice: where its next token begins.
    offsets: Vec<TextOffset>,
    /// Per choice: whether a chunk was written.
    opened: Vec<bool>,
}

impl Chunks {
    fn chunk(&self, choices: Vec<CompletionChoice>, usage: Option<Usage>) -> String {
        json(&Completion {
            head: &self.style.head,
            choices,
            usage: self.include_usage.then_some(usage),
        })
    }

    /// The first chunk of a choice carries the prompt where it was asked for.
    fn begin(&mut self, index: usize) -> CompletionChoice {
        let mut choice = CompletionChoice {
            index,
            ..CompletionChoice::default()
        };
        if !std::mem::replace(&mut self.opened[index], true) {
            let prompt = index / self.n;
            let echo = self.style.echo.as_ref();
            choice.text = echo.map(|texts| texts[prompt].clone()).unwrap_or_default();
            choice.prompt_token_ids = self.style.return_token_ids.then(|| self.prompts[prompt].clone());
        }
        choice
    }
}

impl ChunkWriter for Chunks {
    fn open(&mut self, _choice: usize) -> Option<String> {
        None
    }

    fn step(&mut self, index: usize, step: Step) -> Option<String> {
        let mut choice = self.begin(index);
        let offset = &mut self.offsets[index];
        let mut logprobs = CompletionLogprobs::default();
        match step {
            Step::Prompt(entries) => {
                let prompt = &self.prompts[index / self.n];
                logprobs.push_prompt(prompt, &entries, offset, self.style.spelling());
            }
            Step::Delta(delta) => {
                choice.text.push_str(&delta.text);
                for entry in &delta.logprobs {
                    logprobs.push(entry, offset, self.style.spelling());
                }
                let ids = delta.tokens;
                choice.token_ids = (self.style.return_token_ids && !ids.is_empty()).then_some(ids);
                if let Some(end) = delta.end {
                    choice.finish_reason = Some(end.reason);
                    choice.stop_reason = end.stop_reason;
                }
            }
        }
        choice.logprobs = (!logprobs.is_empty()).then_some(logprobs);
        let says_something = !choice.text.is_empty()
            || choice.logprobs.is_some()
            || choice.finish_reason.is_some()
            || choice.token_ids.is_some()
            || choice.prompt_token_ids.is_some();
        says_something.then(|| self.chunk(vec![choice], None))
    }

    fn usage(&mut self, usage: Usage) -> String {
        self.chunk(Vec::new(), Some(usage))
    }
}
