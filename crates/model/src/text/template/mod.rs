//! Chat templates rendered as Hugging Face renders them (jinja2 with trim_blocks and lstrip_blocks).

mod clock;
mod compile;
mod dialect;
mod json;
mod marks;

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior};
use serde::Serialize;
use serde_json::{Map, Value};

use self::dialect::Generation;
pub use self::marks::MarkedText;
use crate::ModelError;

/// Most instructions one rendering may take: a long conversation takes thousands. It bounds time, not the text that a
/// hostile template could build; messages alone cannot make a template run longer than they are.
const FUEL: u64 = 10_000_000;
/// The template's name in its environment.
const NAME: &str = "chat_template";
/// Name of the template for conversations with tools.
const TOOL_USE: &str = "tool_use";

/// A compiled chat template, and the one for conversations with tools if there are two.
#[derive(Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    has_tool_use: bool,
    /// It has `{% generation %}` blocks.
    marks_turns: bool,
}

/// Spelling of the special tokens that templates refer to; empty ones are undefined in the template.
#[derive(Debug, Clone, Default)]
pub struct Markers {
    /// `bos_token`
    pub bos: String,
    /// `eos_token`
    pub eos: String,
    /// The others, such as `unk_token`, with their variable's name.
    pub others: Vec<(String, String)>,
}

/// The variables a template sees. Hugging Face passes tools and documents always, as `none` if there are not any.
#[derive(Serialize)]
struct Variables<'a> {
    messages: &'a [Value],
    add_generation_prompt: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    tools: Option<()>,
    #[serde(skip_serializing_if = "Option::is_none")]
    documents: Option<()>,
    #[serde(flatten)]
    extra: &'a Map<String, Value>,
}

impl ChatTemplate {
    /// Compiles `source`.
    ///
    /// # Errors
    /// [`ModelError::Text`] if it does not parse or is longer than 128 KiB.
    pub fn new(source: &str, markers: Markers) -> Result<Self, ModelError> {
        Self::with_tool_use(source, None, markers)
    }

    /// Compiles `source`, and the template that stands in for it where a conversation has tools.
    ///
    /// # Errors
    /// [`ModelError::Text`] if one of them does not parse or is longer than 128 KiB.
    pub fn with_tool_use(source: &str, tool_use: Option<&str>, markers: Markers) -> Result<Self, ModelError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(refused)?);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        dialect::adapt(&mut environment);
        environment.add_filter("tojson", json::tojson);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        let named = [
            ("bos_token".to_owned(), markers.bos),
            ("eos_token".to_owned(), markers.eos),
        ];
        for (name, spelling) in named.into_iter().chain(markers.others) {
            if !spelling.is_empty() {
                environment.add_global(name, spelling);
            }
        }
        for (name, source) in [(NAME, Some(source)), (TOOL_USE, tool_use)] {
            if let Some(source) = source {
                compile::add(&mut environment, name, source, Generation::Plain).map_err(refused)?;
            }
        }
        let marks_turns = marks::add(&mut environment, source).map_err(refused)?;
        Ok(Self {
            environment,
            has_tool_use: tool_use.is_some(),
            marks_turns,
        })
    }

    /// The prompt text for `messages` (OpenAI's shape), ending where the assistant's turn begins
    /// if `add_generation_prompt`. `extra` adds variables (tools, documents, template arguments).
    ///
    /// # Errors
    /// [`ModelError::Text`] with the template's own message, e.g. from `raise_exception`.
    pub fn render(
        &self,
        messages: &[Value],
        add_generation_prompt: bool,
        extra: &Map<String, Value>,
    ) -> Result<String, ModelError> {
        let with_tools = extra.get("tools").is_some_and(|tools| !tools.is_null());
        let name = if with_tools && self.has_tool_use {
            TOOL_USE
        } else {
            NAME
        };
        self.evaluate(name, messages, add_generation_prompt, extra)
    }

    fn evaluate(
        &self,
        name: &str,
        messages: &[Value],
        add_generation_prompt: bool,
        extra: &Map<String, Value>,
    ) -> Result<String, ModelError> {
        let messages = &*named_alike(messages);
        let absent = |name: &str| (!extra.contains_key(name)).then_some(());
        let variables = Variables {
            messages,
            add_generation_prompt,
            tools: absent("tools"),
            documents: absent("documents"),
            extra,
        };
        let template = self.environment.get_template(name).map_err(refused)?;
        // minijinja panics on some expressions that jinja2 evaluates; a request must not take its thread with it.
        let rendered = catch_unwind(AssertUnwindSafe(|| template.render(Serde(&variables))));
        rendered
            .unwrap_or_else(|_| {
                Err(Error::new(
                    ErrorKind::InvalidOperation,
                    "the template cannot be evaluated",
                ))
            })
            .map_err(refused)
    }
}

/// Names under which a message carries reasoning; templates read the first or the second.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// `messages` with reasoning under both names that templates read, as transformers gives it to them.
fn named_alike(messages: &[Value]) -> Cow<'_, [Value]> {
    let reasoning = |message: &Value| {
        let fields = REASONING.iter().filter_map(|name| message.get(name));
        fields.into_iter().find(|value| !value.is_null()).cloned()
    };
    if messages.iter().all(|message| reasoning(message).is_none()) {
        return Cow::Borrowed(messages);
    }
    let mut messages = messages.to_vec();
    for message in &mut messages {
        if let (Some(reasoning), Some(fields)) = (reasoning(message), message.as_object_mut()) {
            fields.entry(REASONING[1]).or_insert_with(|| reasoning.clone());
            fields.insert(REASONING[0].to_owned(), reasoning);
        }
    }
    Cow::Owned(messages)
}

fn refused(error: Error) -> ModelError {
    ModelError::Text(format!("chat template: {error}"))
}

fn raise_exception(message: String) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

fn strftime_now(format: &str) -> Result<String, Error> {
    clock::strftime(SystemTime::now(), format).map_err(|reason| Error::new(ErrorKind::InvalidOperation, reason))
}

#[cfg(test)]
mod tests;
