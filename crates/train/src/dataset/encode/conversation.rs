//! Which parts of a rendered conversation the assistant says. The template's own marks (`{% generation %}`) decide where it has
//! them. Otherwise a turn begins where the text of what is before it, with a generation prompt, ends; so a served model is
//! asked exactly there. It ends where the text up to it ends; where a template writes earlier turns otherwise than the last
//! (without its thoughts), behind its content.
//!
//! Of what follows the content only the token that ends the turn is learned: a line break behind it is never generated.

use std::ops::Range;

use rootstock_model::text::{ChatTemplate, Encoding, MarkedText, TokenId};
use serde_json::{Map, Value, json};

use crate::TrainError;
use crate::dataset::Message;

const ASSISTANT: &str = "assistant";

/// A conversation as text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Turns {
    /// The whole of it.
    pub(super) text: String,
    /// Bytes of the assistant's turns, in order.
    spans: Vec<Range<usize>>,
    /// The template marks exactly what is learned.
    marked: bool,
}

impl Turns {
    /// Renders a conversation.
    ///
    /// # Errors
    /// The template refuses it, or writes the assistant's turns otherwise than it asks for them.
    pub(super) fn of(template: &ChatTemplate, messages: &[Message]) -> Result<Self, TrainError> {
        let values: Vec<Value> = messages
            .iter()
            .map(|message| json!({"role": message.role, "content": message.content}))
            .collect();
        if let Some(MarkedText { text, spans }) = template.render_marked(&values)? {
            return Ok(Self {
                text,
                spans,
                marked: true,
            });
        }
        let text = template.render(&values, false, &Map::new())?;
        let assistants = (0..messages.len()).filter(|&index| messages[index].role == ASSISTANT);
        let spans = assistants.map(|index| {
            let start = start(template, &values[..index], &text)?;
            let end = end(template, &values[..=index], &text, start)?;
            Ok(start..end)
        });
        let spans: Vec<Range<usize>> = spans.collect::<Result<_, TrainError>>()?;
        if spans.windows(2).any(|pair| pair[0].end > pair[1].start) {
            let reason = "chat template: turns of the assistant overlap in its text, so that they cannot be told apart";
            return Err(TrainError::Encode(reason.to_owned()));
        }
        Ok(Self {
            text,
            spans,
            marked: false,
        })
    }

    /// Which tokens of the text are learned; `ends` says which end a turn.
    pub(super) fn learned(&self, encoding: &Encoding, ends: impl Fn(TokenId) -> bool) -> Vec<bool> {
        let mut learned = vec![false; encoding.ids.len()];
        for span in &self.spans {
            let first = encoding.offsets.partition_point(|offsets| offsets.end <= span.start);
            let mut last = encoding.offsets.partition_point(|offsets| offsets.start < span.end);
            if !self.marked {
                last = self.end_of_turn(encoding, first..last, &ends);
            }
            learned[first.min(last)..last].fill(true);
        }
        learned
    }

    /// Index behind the token that ends the turn of these tokens: the last of them that does, or the next one if only
    /// whitespace is before it.
    fn end_of_turn(&self, encoding: &Encoding, turn: Range<usize>, ends: impl Fn(TokenId) -> bool) -> usize {
        if let Some(at) = turn.clone().rev().find(|&at| ends(encoding.ids[at])) {
            return at + 1;
        }
        let blank = |at: &usize| self.text[encoding.offsets[*at].clone()].trim().is_empty();
        let next = (turn.end..encoding.ids.len()).find(|at| ends(encoding.ids[*at]) || !blank(at));
        match next {
            Some(at) if ends(encoding.ids[at]) => at + 1,
            _ => turn.end,
        }
    }
}

/// Where the turn after these messages begins.
fn start(template: &ChatTemplate, before: &[Value], text: &str) -> Result<usize, TrainError> {
    let asked = template.render(before, true, &Map::new())?;
    match text.starts_with(&asked) {
        true => Ok(asked.len()),
        false => {
            let at = common(&asked, text);
            Err(TrainError::Encode(format!(
                "chat template: message {}, of the assistant, is written otherwise than it is asked for, so that its tokens \
                 cannot be told apart: expected {:?}, got {:?}; give {{prompt, completion}} rows, one turn per row, or a template with \
                 {{% generation %}} marks",
                before.len() + 1,
                excerpt(&asked, at),
                excerpt(text, at),
            )))
        }
    }
}

/// Where the last of these messages ends.
fn end(template: &ChatTemplate, until: &[Value], text: &str, start: usize) -> Result<usize, TrainError> {
    let whole = template.render(until, false, &Map::new());
    if let Some(whole) = whole
        .ok()
        .filter(|whole| whole.len() >= start && text.starts_with(whole))
    {
        return Ok(whole.len());
    }
    let content = until.last().and_then(|message| message["content"].as_str());
    let content = content.unwrap_or_default().trim();
    // Templates trim contents, and some leave thoughts out of earlier turns.
    let shown = content
        .rsplit_once("</think>")
        .map_or(content, |(_, shown)| shown.trim());
    let found = [content, shown].into_iter().find_map(|content| {
        let at = text[start..].find(content)?;
        (!content.is_empty()).then_some(start + at + content.len())
    });
    found.ok_or_else(|| {
        TrainError::Encode(format!(
            "chat template: it does not show what message {}, of the assistant, says; expected {:?} after {:?}",
            until.len(),
            excerpt(content, 0),
            excerpt(text, start.saturating_sub(EXCERPT)),
        ))
    })
}

/// Bytes that two texts begin with alike.
fn common(one: &str, other: &str) -> usize {
    let pairs = one.bytes().zip(other.bytes());
    pairs.take_while(|(a, b)| a == b).count()
}

/// Bytes of an excerpt.
const EXCERPT: usize = 40;

/// A few characters from about `at`.
fn excerpt(text: &str, at: usize) -> &str {
    let start = text.floor_char_boundary(at.min(text.len()));
    &text[start..text.floor_char_boundary(start + EXCERPT)]
}
