//! `{% generation %}`: a template's own marks around what the assistant writes, which training learns from. They become a pair
//! of noncharacters in a second compilation of the template, and ranges of the text once they are taken out again.

use std::ops::Range;

use minijinja::{Environment, Error};
use serde_json::{Map, Value};

use super::dialect::{self, Generation};
use super::{ChatTemplate, NAME, compile};
use crate::ModelError;

/// Name of the template that marks turns.
const MARKED: &str = "marked";
const FILTER: &str = "generated_text";
/// Before and after what is marked. Unicode promises that they are no characters of any text.
const MARKS: [char; 2] = ['\u{FDD0}', '\u{FDD1}'];

/// A conversation's text with what the template marks in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkedText {
    /// The whole text.
    pub text: String,
    /// Byte ranges of it that the template encloses in `{% generation %}`, in order.
    pub spans: Vec<Range<usize>>,
}

/// Compiles `source` a second time if it marks turns, and says whether it does.
pub(super) fn add(environment: &mut Environment<'static>, source: &str) -> Result<bool, Error> {
    let filtered = Generation::Filtered(FILTER);
    let marks_turns = dialect::respelled(source, filtered) != dialect::respelled(source, Generation::Plain);
    if marks_turns {
        environment.add_filter(FILTER, |text: String| format!("{}{text}{}", MARKS[0], MARKS[1]));
        compile::add(environment, MARKED, source, filtered)?;
    }
    Ok(marks_turns)
}

impl ChatTemplate {
    /// The text of a whole conversation, as [`Self::render`] without a generation prompt, with the template's marks; `None` if
    /// it has none.
    ///
    /// # Errors
    /// As [`Self::render`], and [`ModelError::Text`] if the marks change the text.
    pub fn render_marked(&self, messages: &[Value]) -> Result<Option<MarkedText>, ModelError> {
        if !self.marks_turns {
            return Ok(None);
        }
        let plain = self.evaluate(NAME, messages, false, &Map::new())?;
        let marked = self.evaluate(MARKED, messages, false, &Map::new())?;
        match taken_out(&marked) {
            Some(marked) if marked.text == plain => Ok(Some(marked)),
            _ => Err(ModelError::Text(
                "chat template: its {% generation %} blocks cannot be followed: the text is another with them"
                    .to_owned(),
            )),
        }
    }
}

/// The text without marks and the ranges they stood around; `None` if they are no pairs side by side.
fn taken_out(marked: &str) -> Option<MarkedText> {
    let (mut text, mut spans, mut rest) = (String::with_capacity(marked.len()), Vec::new(), marked);
    while let Some((before, after)) = rest.split_once(MARKS[0]) {
        let (inside, after) = after.split_once(MARKS[1])?;
        text.push_str(before);
        let start = text.len();
        text.push_str(inside);
        spans.push(start..text.len());
        rest = after;
    }
    text.push_str(rest);
    (!text.contains(MARKS)).then_some(MarkedText { text, spans })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::text::Markers;

    fn marked(source: &str, messages: Value) -> Result<Option<(String, Vec<String>)>, String> {
        let template = ChatTemplate::new(source, Markers::default()).unwrap();
        let marked = template
            .render_marked(messages.as_array().unwrap())
            .map_err(|error| error.to_string())?;
        Ok(marked.map(|MarkedText { text, spans }| {
            let parts = spans.into_iter().map(|span| text[span].to_owned()).collect();
            (text, parts)
        }))
    }

    const TEMPLATE: &str = "\
{%- for m in messages %}
[{{ m.role }}]
  {% if m.role == 'assistant' %}
  {% generation %}
{{ m.content }}!
  {%- endgeneration %}
  {% else %}
{{ m.content }}
  {% endif %}
{% endfor %}";

    #[test]
    fn marks_give_the_assistants_text_and_leave_the_whole_as_it_is() {
        let messages = json!([
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "yes"},
            {"role": "user", "content": "no"},
            {"role": "assistant", "content": "{}"},
        ]);
        let (text, parts) = marked(TEMPLATE, messages.clone()).unwrap().unwrap();
        assert_eq!(parts, ["yes!", "{}!"]);
        let template = ChatTemplate::new(TEMPLATE, Markers::default()).unwrap();
        let plain = template.render(messages.as_array().unwrap(), false, &Map::new());
        assert_eq!(text, plain.unwrap());
    }

    #[test]
    fn a_template_without_marks_says_so() {
        let messages = json!([{"role": "assistant", "content": "yes"}]);
        assert_eq!(marked("{{ messages[0].content }}", messages), Ok(None));
    }

    #[test]
    fn contents_that_look_like_marks_are_refused() {
        let messages = json!([{"role": "assistant", "content": "a\u{FDD1}b"}]);
        let error = marked("{% generation %}{{ messages[0].content }}{% endgeneration %}", messages).unwrap_err();
        assert!(error.contains("cannot be followed"), "{error}");
    }
}
