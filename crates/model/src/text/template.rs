//! Chat templates rendered as Hugging Face renders them (jinja2 with trim_blocks and lstrip_blocks).

use serde_json::Value;

use crate::ModelError;

/// A compiled chat template.
pub struct ChatTemplate {}

impl ChatTemplate {
    /// The prompt text for `messages` (OpenAI's shape), ending where the assistant's turn begins
    /// if `add_generation_prompt`. `extra` adds variables (tools, documents, template arguments).
    ///
    /// # Errors
    /// [`ModelError::Text`] with the template's own message, e.g. from `raise_exception`.
    pub fn render(
        &self,
        _messages: &[Value],
        _add_generation_prompt: bool,
        _extra: &serde_json::Map<String, Value>,
    ) -> Result<String, ModelError> {
        todo!()
    }
}
