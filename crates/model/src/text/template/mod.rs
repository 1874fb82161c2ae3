//! Chat templates rendered as Hugging Face renders them (jinja2 with trim_blocks and lstrip_blocks).

mod clock;
mod generation;
mod json;

use std::time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::ModelError;

/// Most instructions one rendering may take: a long conversation takes thousands. It bounds time, not the text that a
/// hostile template could build; messages alone cannot make a template run longer than they are.
const FUEL: u64 = 10_000_000;
/// The template's name in its environment.
const NAME: &str = "chat_template";

/// A compiled chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
}

/// Spelling of the special tokens that templates refer to; empty if the tokenizer has none.
#[derive(Debug, Clone, Default)]
pub struct Markers {
    /// `bos_token`
    pub bos: String,
    /// `eos_token`
    pub eos: String,
}

/// The variables a template sees.
#[derive(Serialize)]
struct Variables<'a> {
    messages: &'a [Value],
    add_generation_prompt: bool,
    #[serde(flatten)]
    extra: &'a Map<String, Value>,
}

impl ChatTemplate {
    /// Compiles `source`.
    ///
    /// # Errors
    /// [`ModelError::Text`] if it does not parse.
    pub fn new(source: &str, markers: Markers) -> Result<Self, ModelError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(refused)?);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", json::tojson);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_global("bos_token", markers.bos);
        environment.add_global("eos_token", markers.eos);
        environment
            .add_template_owned(NAME, generation::without_blocks(source))
            .map_err(refused)?;
        Ok(Self { environment })
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
        let variables = Variables {
            messages,
            add_generation_prompt,
            extra,
        };
        let template = self.environment.get_template(NAME);
        template
            .and_then(|template| template.render(Serde(&variables)))
            .map_err(refused)
    }
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
