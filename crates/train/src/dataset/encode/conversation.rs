//! Which parts of a rendered conversation the assistant says. The template's own marks (`{% generation %}`) decide where it has
//! them. Otherwise a turn begins where the text of what is before it, with a generation prompt, ends; so a served model is
//! asked exactly there. It ends with the first token behind its content that ends a turn; without such a token, where the text
//! of the conversation up to it ends. (A template may write earlier turns otherwise than the last one, without its thoughts;
//! then the turn ends with its content.)
//!
//! A line break behind the token that ends the turn is never generated, and is not learned.

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
    /// What the assistant says, in order.
    spans: Vec<Span>,
}

/// Bytes of the text.
#[derive(Debug, PartialEq, Eq)]
enum Span {
    /// What the template marks, all of which is learned.
    Marked(Range<usize>),
    /// A turn, and where its content ends in it.
    Turn { range: Range<usize>, content_end: usize },
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
            let spans = spans.into_iter().map(Span::Marked).collect();
            return Ok(Self { text, spans });
        }
        let text = template.render(&values, false, &Map::new())?;
        let assistants = (0..messages.len()).filter(|&index| messages[index].role == ASSISTANT);
        let spans = assistants.map(|index| turn(template, &values[..=index], &text));
        let spans: Vec<Span> = spans.collect::<Result<_, TrainError>>()?;
        if spans.windows(2).any(|pair| pair[0].range().end > pair[1].range().start) {
            let reason = "chat template: turns of the assistant overlap in its text, so that they cannot be told apart";
            return Err(TrainError::Encode(reason.to_owned()));
        }
        Ok(Self { text, spans })
    }

    /// Which tokens of the text are learned; `ends` says which end a turn.
    pub(super) fn learned(&self, encoding: &Encoding, ends: impl Fn(TokenId) -> bool) -> Vec<bool> {
        let mut learned = vec![false; encoding.ids.len()];
        for span in &self.spans {
            let range = span.range();
            let first = encoding.offsets.partition_point(|offsets| offsets.end <= range.start);
            let behind = encoding.offsets.partition_point(|offsets| offsets.start < range.end);
            let last = match span {
                Span::Marked(_) => behind,
                Span::Turn { content_end, .. } => {
                    let content = encoding.offsets.partition_point(|offsets| offsets.end <= *content_end);
                    self.end_of_turn(encoding, content..behind, &ends)
                }
            };
            learned[first.min(last)..last].fill(true);
        }
        learned
    }

    /// Index behind the token that ends a turn: the first of these tokens, which are behind its content, that does, or the one
    /// behind them if only whitespace is before it.
    fn end_of_turn(&self, encoding: &Encoding, rest: Range<usize>, ends: impl Fn(TokenId) -> bool) -> usize {
        let blank = |at: usize| self.text[encoding.offsets[at].clone()].trim().is_empty();
        let outside = |at: usize| at >= rest.end && !blank(at);
        let found = (rest.start..encoding.ids.len()).find(|&at| ends(encoding.ids[at]) || outside(at));
        match found {
            Some(at) if ends(encoding.ids[at]) => at + 1,
            _ => rest.end,
        }
    }
}

impl Span {
    fn range(&self) -> &Range<usize> {
        match self {
            Self::Marked(range) | Self::Turn { range, .. } => range,
        }
    }
}

/// The turn that the last of these messages is.
fn turn(template: &ChatTemplate, until: &[Value], text: &str) -> Result<Span, TrainError> {
    let start = start(template, &until[..until.len() - 1], text)?;
    let whole = template.render(until, false, &Map::new());
    let end = whole
        .ok()
        .filter(|whole| whole.len() >= start && text.starts_with(whole))
        .map(|whole| whole.len());
    let content = until.last().and_then(|message| message["content"].as_str());
    let content = content.unwrap_or_default().trim();
    // Templates trim contents, and some leave thoughts out of earlier turns.
    let shown = content
        .rsplit_once("</think>")
        .map_or(content, |(_, shown)| shown.trim());
    let within = &text[start..end.unwrap_or(text.len())];
    let found = [content, shown]
        .into_iter()
        .find_map(|content| Some(within.find(content)? + content.len()));
    let content_end = found.map(|at| start + at);
    match (content_end, end) {
        (Some(content_end), Some(end)) => Ok(Span::Turn {
            range: start..end,
            content_end,
        }),
        (Some(content_end), None) if !shown.is_empty() => Ok(Span::Turn {
            range: start..content_end,
            content_end,
        }),
        _ => Err(TrainError::Encode(format!(
            "chat template: it does not show what message {}, of the assistant, says: expected {:?} after {:?}",
            until.len(),
            excerpt(content, 0),
            excerpt(text, start.saturating_sub(EXCERPT)),
        ))),
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
