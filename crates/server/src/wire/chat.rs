//! `/v1/chat/completions`: the request as it was meant, and the shape of answers and chunks.

use rootstock_model::text::TokenId;
use serde::Serialize;
use serde_json::{Map, Value};

use super::fields::{Fields, wrong_type};
use super::logprobs::ChatLogprobs;
use super::options::{Bounds, MAX_TOP_LOGPROBS, Options};
use super::{Head, StopReason, Usage};
use crate::error::{ApiError, ApiResult};
use crate::generation::Ask;

/// What is rendered into a prompt.
#[derive(Debug, Clone)]
pub(crate) struct Conversation {
    /// At least one; contents are strings (or null beside tool calls), other fields as they came.
    pub(crate) messages: Vec<Value>,
    pub(crate) tail: Tail,
    pub(crate) template_arguments: Map<String, Value>,
    pub(crate) tools: Option<Vec<Value>>,
    pub(crate) add_special_tokens: bool,
}

/// How the rendered prompt ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tail {
    /// Where the assistant's turn begins.
    GenerationPrompt,
    /// After the last message's end of turn.
    LastMessage,
    /// Inside the last message, which the model continues.
    OpenMessage,
}

impl Conversation {
    /// Takes the fields that chat and tokenize share.
    pub(crate) fn take(fields: &mut Fields) -> ApiResult<Self> {
        let messages = fields.array("messages")?.ok_or(ApiError::Missing("messages"))?;
        if messages.is_empty() {
            return Err(ApiError::invalid("messages", "may not be empty"));
        }
        Ok(Self {
            messages: messages
                .into_iter()
                .enumerate()
                .map(|(index, item)| message(index, item))
                .collect::<ApiResult<_>>()?,
            tail: tail(fields)?,
            template_arguments: fields.object("chat_template_kwargs")?.unwrap_or_default(),
            tools: tools(fields)?,
            add_special_tokens: fields.flag("add_special_tokens")?,
        })
    }
}

/// A chat request, checked as far as it can be without rendering it.
#[derive(Debug, Clone)]
pub(crate) struct ChatRequest {
    pub(crate) conversation: Conversation,
    pub(crate) options: Options,
    /// Most likely tokens reported per position; `None` for no logprobs.
    pub(crate) logprobs: Option<usize>,
}

impl Ask for ChatRequest {
    fn options(&self) -> &Options {
        &self.options
    }

    fn parse(body: &[u8], bounds: Bounds) -> ApiResult<Self> {
        let mut fields = Fields::parse(body)?;
        let request = Self {
            conversation: Conversation::take(&mut fields)?,
            options: Options::take(&mut fields, bounds, 1)?,
            logprobs: logprobs(&mut fields)?,
        };
        if fields.flag("echo")? {
            return Err(ApiError::unsupported("echo", "is only supported by /v1/completions"));
        }
        fields.finish()?;
        Ok(request)
    }
}

fn message(index: usize, item: Value) -> ApiResult<Value> {
    let param = |field: &str| format!("messages[{index}]{field}");
    let Value::Object(mut fields) = item else {
        return Err(wrong_type(param(""), "an object with a role and a content", &item));
    };
    match fields.get("role") {
        Some(Value::String(_)) => {}
        Some(other) => return Err(wrong_type(param(".role"), "a string", other)),
        None => return Err(ApiError::invalid(param(""), "has no role")),
    }
    match fields.get("content").filter(|content| !content.is_null()) {
        Some(Value::String(_)) => {}
        Some(Value::Array(parts)) => {
            let text = parts.iter().map(|part| text_part(param(".content"), part));
            // As vLLM joins them for templates that want text.
            let text = text.collect::<ApiResult<Vec<_>>>()?.join("\n");
            fields.insert("content".to_owned(), Value::String(text));
        }
        Some(other) => {
            let expected = "a string or an array of text parts";
            return Err(wrong_type(param(".content"), expected, other));
        }
        None if fields.contains_key("tool_calls") => {}
        None => return Err(ApiError::invalid(param(""), "has no content")),
    }
    Ok(Value::Object(fields))
}

fn text_part(param: String, part: &Value) -> ApiResult<&str> {
    match (part.get("type").and_then(Value::as_str), part.get("text")) {
        (Some("text"), Some(Value::String(text))) => Ok(text),
        (Some("text") | None, _) => Err(wrong_type(
            param,
            "parts of the form {\"type\": \"text\", \"text\"}",
            part,
        )),
        (Some(_), _) => Err(ApiError::unsupported(param, "may only hold parts of type \"text\"")),
    }
}

fn tail(fields: &mut Fields) -> ApiResult<Tail> {
    let open = fields.flag("continue_final_message")?;
    match (open, fields.optional_flag("add_generation_prompt")?) {
        (true, Some(true)) => {
            let problem = "cannot be true together with 'add_generation_prompt'";
            Err(ApiError::invalid("continue_final_message", problem))
        }
        (true, _) => Ok(Tail::OpenMessage),
        (false, Some(false)) => Ok(Tail::LastMessage),
        (false, _) => Ok(Tail::GenerationPrompt),
    }
}

/// Tools go to the template; a call cannot be forced, because that needs constrained output.
fn tools(fields: &mut Fields) -> ApiResult<Option<Vec<Value>>> {
    let tools = fields.array("tools")?.filter(|tools| !tools.is_empty());
    match fields.take("tool_choice") {
        None => Ok(tools),
        Some(Value::String(choice)) if choice == "auto" => Ok(tools),
        Some(Value::String(choice)) if choice == "none" => Ok(None),
        Some(_) => Err(ApiError::unsupported(
            "tool_choice",
            "supports only \"auto\" and \"none\"",
        )),
    }
}

fn logprobs(fields: &mut Fields) -> ApiResult<Option<usize>> {
    let wanted = fields.flag("logprobs")?;
    match (wanted, fields.count("top_logprobs", 0..=MAX_TOP_LOGPROBS)?) {
        (true, top) => Ok(Some(top.unwrap_or(0))),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => Err(ApiError::invalid("top_logprobs", "needs logprobs=true")),
    }
}

/// An answer (`C` is [`ChatChoice`]) or one chunk of a stream ([`ChunkChoice`]).
#[derive(Debug, Serialize)]
pub(crate) struct ChatCompletion<'a, C> {
    #[serde(flatten)]
    pub(crate) head: &'a Head,
    pub(crate) choices: Vec<C>,
    /// In streams only where it was asked for, null before the last chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) usage: Option<Option<Usage>>,
    /// Where vLLM has it; each choice carries it too, as with completions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prompt_token_ids: Option<Vec<TokenId>>,
}

/// A whole choice.
#[derive(Debug, Serialize)]
pub(crate) struct ChatChoice {
    pub(crate) index: usize,
    pub(crate) message: ChatMessage,
    #[serde(flatten)]
    pub(crate) rest: ChoiceFields,
}

/// What a chunk adds to a choice.
#[derive(Debug, Serialize)]
pub(crate) struct ChunkChoice {
    pub(crate) index: usize,
    pub(crate) delta: Delta,
    #[serde(flatten)]
    pub(crate) rest: ChoiceFields,
}

/// Fields that whole choices and chunks share.
#[derive(Debug, Default, Serialize)]
pub(crate) struct ChoiceFields {
    pub(crate) logprobs: Option<ChatLogprobs>,
    pub(crate) finish_reason: Option<&'static str>,
    pub(crate) stop_reason: Option<StopReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prompt_token_ids: Option<Vec<TokenId>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_ids: Option<Vec<TokenId>>,
}

#[derive(Debug, Serialize)]
pub(crate) struct ChatMessage {
    pub(crate) role: &'static str,
    pub(crate) content: String,
    /// OpenAI's clients expect the key.
    pub(crate) refusal: Option<String>,
}

#[derive(Debug, Default, Serialize)]
pub(crate) struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content: Option<String>,
}
