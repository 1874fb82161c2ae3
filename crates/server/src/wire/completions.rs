//! `/v1/completions`: the request as it was meant, and the shape of answers and chunks.

use rootstock_model::text::TokenId;
use serde::Serialize;
use serde_json::Value;

use super::fields::{Fields, wrong_type};
use super::logprobs::CompletionLogprobs;
use super::options::{Bounds, MAX_TOP_LOGPROBS, Options, token_ids};
use super::{Head, StopReason, Usage};
use crate::error::{ApiError, ApiResult};
use crate::generation::Ask;

/// OpenAI's default for `max_tokens`.
pub(crate) const DEFAULT_MAX_TOKENS: usize = 16;

/// One prompt of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Prompt {
    Text(String),
    Ids(Vec<TokenId>),
}

/// A completion request, checked as far as it can be without tokenizing.
#[derive(Debug, Clone)]
pub(crate) struct CompletionRequest {
    /// At least one.
    pub(crate) prompts: Vec<Prompt>,
    pub(crate) options: Options,
    /// Most likely tokens reported per position.
    pub(crate) logprobs: Option<usize>,
    pub(crate) echo: bool,
    pub(crate) add_special_tokens: bool,
}

impl Ask for CompletionRequest {
    fn options(&self) -> &Options {
        &self.options
    }

    fn parse(body: &[u8], bounds: Bounds) -> ApiResult<Self> {
        let mut fields = Fields::parse(body)?;
        let echo = fields.flag("echo")?;
        let request = Self {
            prompts: prompts(&mut fields, bounds)?,
            options: Options::take(&mut fields, bounds, usize::from(!echo))?,
            logprobs: fields.count("logprobs", 0..=MAX_TOP_LOGPROBS)?,
            echo,
            add_special_tokens: fields.optional_flag("add_special_tokens")?.unwrap_or(true),
        };
        fields.finish()?;
        if request.prompts.len().saturating_mul(request.options.n) > bounds.choices {
            let problem = format!("times the number of prompts may be at most {}", bounds.choices);
            return Err(ApiError::invalid("n", problem));
        }
        Ok(request)
    }
}

const PROMPT_TYPES: &str = "a string, an array of strings, token ids or an array of token-id arrays";

fn prompts(fields: &mut Fields, bounds: Bounds) -> ApiResult<Vec<Prompt>> {
    let value = fields.take("prompt").ok_or(ApiError::Missing("prompt"))?;
    let prompts = match value {
        Value::String(text) => vec![Prompt::Text(text)],
        Value::Array(items) => match items.first() {
            None => return Err(ApiError::invalid("prompt", "may not be empty")),
            Some(Value::Number(_)) => vec![Prompt::Ids(token_ids("prompt", &items, bounds)?)],
            Some(_) if items.len() > bounds.choices => {
                let problem = format!("may hold at most {} prompts", bounds.choices);
                return Err(ApiError::invalid("prompt", problem));
            }
            Some(_) => items
                .into_iter()
                .enumerate()
                .map(|(index, item)| listed_prompt(index, item, bounds))
                .collect::<ApiResult<_>>()?,
        },
        other => return Err(wrong_type("prompt", PROMPT_TYPES, &other)),
    };
    let empty = |prompt: &Prompt| match prompt {
        Prompt::Text(text) => text.is_empty(),
        Prompt::Ids(ids) => ids.is_empty(),
    };
    match prompts.iter().any(empty) {
        true => Err(ApiError::invalid("prompt", "may not be empty")),
        false => Ok(prompts),
    }
}

fn listed_prompt(index: usize, item: Value, bounds: Bounds) -> ApiResult<Prompt> {
    let param = format!("prompt[{index}]");
    match item {
        Value::String(text) => Ok(Prompt::Text(text)),
        Value::Array(ids) => Ok(Prompt::Ids(token_ids(&param, &ids, bounds)?)),
        other => Err(wrong_type(param, PROMPT_TYPES, &other)),
    }
}

/// An answer, or one chunk of a stream.
#[derive(Debug, Serialize)]
pub(crate) struct Completion<'a> {
    #[serde(flatten)]
    pub(crate) head: &'a Head,
    pub(crate) choices: Vec<CompletionChoice>,
    /// In streams only where it was asked for, null before the last chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) usage: Option<Option<Usage>>,
}

/// One choice, or what a chunk adds to it.
#[derive(Debug, Default, Serialize)]
pub(crate) struct CompletionChoice {
    pub(crate) index: usize,
    pub(crate) text: String,
    pub(crate) logprobs: Option<CompletionLogprobs>,
    pub(crate) finish_reason: Option<&'static str>,
    pub(crate) stop_reason: Option<StopReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prompt_token_ids: Option<Vec<TokenId>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_ids: Option<Vec<TokenId>>,
}
