//! From what a request says to token ids: tokenizing prompts, rendering conversations.

use std::borrow::Cow;

use rootstock_model::adapter::AdapterDefaults;
use rootstock_model::text::{ChatTemplate, TokenId, Tokenizer};
use serde_json::{Map, Value, json};

use crate::base::Base;
use crate::error::{ApiError, ApiResult};
use crate::wire::chat::{Conversation, Tail};
use crate::wire::completions::Prompt;

/// Ids of a completion prompt.
pub(crate) fn encode(prompt: &Prompt, base: &Base, add_special: bool) -> ApiResult<Vec<TokenId>> {
    match prompt {
        Prompt::Text(text) => {
            check_length(text, base)?;
            encode_text(text, &base.tokenizer, add_special)
        }
        Prompt::Ids(ids) => Ok(ids.clone()),
    }
}

/// Ids of a conversation that is to be answered.
pub(crate) fn encode_chat(
    conversation: &Conversation,
    base: &Base,
    defaults: &AdapterDefaults,
) -> ApiResult<Vec<TokenId>> {
    let text = render(conversation, base, defaults)?;
    check_length(&text, base)?;
    encode_text(&text, &base.tokenizer, conversation.add_special_tokens)
}

/// Ids of a text, however long.
pub(crate) fn encode_text(text: &str, tokenizer: &Tokenizer, add_special: bool) -> ApiResult<Vec<TokenId>> {
    let encoded = tokenizer.encode(text, add_special);
    encoded.map_err(|error| ApiError::Tokenize(error.to_string()))
}

/// Refuses texts that exceed the context even in the longest tokens, before seconds are spent on tokenizing them.
fn check_length(text: &str, base: &Base) -> ApiResult<()> {
    let fewest = text.len().div_ceil(base.longest_token.max(1));
    let limit = base.max_context;
    if fewest <= limit {
        return Ok(());
    }
    Err(ApiError::ContextLength(format!(
        "this model's context holds {limit} tokens; the prompt has more than {fewest}"
    )))
}

/// The text of a conversation as the chat template of the adapter, else of the base, puts it. The adapter's system prompt
/// stands first where the conversation has none.
pub(crate) fn render(conversation: &Conversation, base: &Base, defaults: &AdapterDefaults) -> ApiResult<String> {
    let template = base.templates.choose(defaults)?;
    let messages = with_system_prompt(&conversation.messages, defaults.system_prompt.as_deref());
    let mut text = apply(conversation, &messages, &template)?;
    if conversation.tail == Tail::OpenMessage {
        open_last_message(&mut text, conversation)?;
    }
    match text.is_empty() {
        true => Err(ApiError::ChatTemplate("it gives an empty prompt".to_owned())),
        false => Ok(text),
    }
}

/// The messages, with the system prompt first if none of them instructs the model already.
pub fn with_system_prompt<'a>(messages: &'a [Value], prompt: Option<&str>) -> Cow<'a, [Value]> {
    let instructs = |message: &Value| matches!(message["role"].as_str(), Some("system" | "developer"));
    match prompt {
        Some(prompt) if !messages.iter().any(instructs) => {
            let system = json!({"role": "system", "content": prompt});
            Cow::Owned(std::iter::once(system).chain(messages.iter().cloned()).collect())
        }
        _ => Cow::Borrowed(messages),
    }
}

fn apply(conversation: &Conversation, messages: &[Value], template: &ChatTemplate) -> ApiResult<String> {
    let with = |arguments: &Map<String, Value>| {
        let generation_prompt = conversation.tail == Tail::GenerationPrompt;
        let rendered = template.render(messages, generation_prompt, arguments);
        rendered.map_err(|error| ApiError::ChatTemplate(error.to_string()))
    };
    let mut arguments = conversation.template_arguments.clone();
    let plain = with(&arguments)?;
    let Some(tools) = &conversation.tools else {
        return Ok(plain);
    };
    arguments.insert("tools".to_owned(), Value::Array(tools.clone()));
    let text = with(&arguments)?;
    match text == plain {
        true => Err(ApiError::unsupported(
            "tools",
            "is not used by this model's chat template",
        )),
        false => Ok(text),
    }
}

/// Cuts the text after the last message's content.
fn open_last_message(text: &mut String, conversation: &Conversation) -> ApiResult<()> {
    let content = conversation
        .messages
        .last()
        .and_then(|message| message["content"].as_str())
        .unwrap_or_default();
    // Templates may trim contents.
    let end = [content, content.trim()]
        .iter()
        .filter(|content| !content.is_empty())
        .find_map(|content| Some(text.rfind(content)? + content.len()));
    match end {
        Some(end) => text.truncate(end),
        None => {
            let problem = "needs a last message whose content the chat template shows";
            return Err(ApiError::invalid("continue_final_message", problem));
        }
    }
    Ok(())
}
