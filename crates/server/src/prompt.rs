//! From what a request says to token ids: tokenizing prompts, rendering conversations.

use rootstock_model::text::{ChatTemplate, TokenId, Tokenizer};
use serde_json::{Map, Value};

use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::wire::chat::{Conversation, Tail};
use crate::wire::completions::Prompt;

/// Ids of a completion prompt.
pub(crate) fn encode(prompt: &Prompt, app: &App, add_special: bool) -> ApiResult<Vec<TokenId>> {
    match prompt {
        Prompt::Text(text) => {
            check_length(text, app)?;
            encode_text(text, &app.tokenizer, add_special)
        }
        Prompt::Ids(ids) => Ok(ids.clone()),
    }
}

/// Ids of a conversation that is to be answered.
pub(crate) fn encode_chat(conversation: &Conversation, app: &App) -> ApiResult<Vec<TokenId>> {
    let text = render(conversation, app.chat_template.as_ref())?;
    check_length(&text, app)?;
    encode_text(&text, &app.tokenizer, conversation.add_special_tokens)
}

/// Ids of a text, however long.
pub(crate) fn encode_text(text: &str, tokenizer: &Tokenizer, add_special: bool) -> ApiResult<Vec<TokenId>> {
    let encoded = tokenizer.encode(text, add_special);
    encoded.map_err(|error| ApiError::Tokenize(error.to_string()))
}

/// Refuses texts that exceed the context even in the longest tokens, before seconds are spent on tokenizing them.
fn check_length(text: &str, app: &App) -> ApiResult<()> {
    let fewest = text.len().div_ceil(app.longest_token.max(1));
    if fewest <= app.max_context {
        return Ok(());
    }
    let limit = app.max_context;
    Err(ApiError::ContextLength(format!(
        "this model's context holds {limit} tokens; the prompt has more than {fewest}"
    )))
}

/// The text of a conversation as the chat template puts it.
pub(crate) fn render(conversation: &Conversation, template: Option<&ChatTemplate>) -> ApiResult<String> {
    let mut text = apply(conversation, template.ok_or(ApiError::NoChatTemplate)?)?;
    if conversation.tail == Tail::OpenMessage {
        open_last_message(&mut text, conversation)?;
    }
    match text.is_empty() {
        true => Err(ApiError::ChatTemplate("it gives an empty prompt".to_owned())),
        false => Ok(text),
    }
}

fn apply(conversation: &Conversation, template: &ChatTemplate) -> ApiResult<String> {
    let with = |arguments: &Map<String, Value>| {
        let generation_prompt = conversation.tail == Tail::GenerationPrompt;
        let rendered = template.render(&conversation.messages, generation_prompt, arguments);
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
