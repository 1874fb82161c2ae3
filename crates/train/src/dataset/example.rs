//! What a row teaches: a completion after a prompt, turns of a conversation, or plain text. The shape is found once, from the
//! columns of the first row, and every row must have it.

use serde_json::Value;

use super::files::kind_of;
use super::{Row, TextTemplate};
use crate::TrainError;

/// One thing to learn from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Example {
    /// Loss on the completion alone.
    Completion {
        /// What is given.
        prompt: String,
        /// What is learned.
        completion: String,
    },
    /// Loss on the turns of the assistant alone.
    Conversation(Vec<Message>),
    /// Loss on everything.
    Text(String),
}

/// A turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Message {
    /// `system`, `user`, `assistant` or whatever the model's chat template knows.
    pub role: String,
    /// What is said.
    pub content: String,
}

/// How rows are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// Columns `prompt` and `completion`.
    PromptCompletion,
    /// Columns `input` and `output`.
    InputOutput,
    /// Column `messages`: objects of `role` and `content`.
    Messages,
    /// Columns `instruction`, `output` and mostly `input` (Taori et al., 2023).
    Alpaca,
    /// Column `conversations`: objects of `from` and `value`.
    ShareGpt,
    /// Column `text`.
    Text,
    /// Any columns.
    Template(TextTemplate),
}

/// Columns that tell a shape, the more particular shapes first.
const SHAPES: [(&[&str], Shape); 6] = [
    (&["prompt", "completion"], Shape::PromptCompletion),
    (&["messages"], Shape::Messages),
    (&["conversations"], Shape::ShareGpt),
    (&["instruction", "output"], Shape::Alpaca),
    (&["input", "output"], Shape::InputOutput),
    (&["text"], Shape::Text),
];

impl Shape {
    /// The shape of rows like this one.
    ///
    /// # Errors
    /// Columns of no known shape.
    pub fn of(row: &Row) -> Result<Self, TrainError> {
        let has = |columns: &[&str]| columns.iter().all(|&column| row.fields.contains_key(column));
        let found = SHAPES.into_iter().find(|(columns, _)| has(columns));
        found.map(|(_, shape)| shape).ok_or_else(|| {
            let known = SHAPES.map(|(columns, _)| format!("{{{}}}", columns.join(", ")));
            let columns: Vec<_> = row.fields.keys().map(String::as_str).collect();
            row.place.error(format!(
                "expected columns of one of {}, got {{{}}}; --text_template takes any columns",
                known.join(", "),
                columns.join(", ")
            ))
        })
    }

    /// What a row teaches.
    ///
    /// # Errors
    /// A row that lacks a column, or has something else in it.
    pub fn read(&self, row: &Row) -> Result<Example, TrainError> {
        let completion = |prompt: String, output: &str| {
            Ok(Example::Completion {
                prompt,
                completion: text(row, output)?.to_owned(),
            })
        };
        match self {
            Self::PromptCompletion => completion(text(row, "prompt")?.to_owned(), "completion"),
            Self::InputOutput => completion(text(row, "input")?.to_owned(), "output"),
            Self::Alpaca => completion(alpaca_prompt(row)?, "output"),
            Self::Messages => conversation(row, ["messages", "role", "content"], str::to_owned),
            Self::ShareGpt => conversation(row, ["conversations", "from", "value"], share_gpt_role),
            Self::Text => Ok(Example::Text(text(row, "text")?.to_owned())),
            Self::Template(template) => Ok(Example::Text(template.render(row)?)),
        }
    }
}

fn text<'a>(row: &'a Row, column: &str) -> Result<&'a str, TrainError> {
    match row.fields.get(column) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => {
            let kind = kind_of(other);
            Err(row
                .place
                .error(format!("expected text in column {column:?}, got {kind}")))
        }
        None => Err(row.place.error(format!("expected a column {column:?}, found none"))),
    }
}

/// The prompt that Alpaca's data were made for (Taori et al., 2023).
fn alpaca_prompt(row: &Row) -> Result<String, TrainError> {
    let instruction = text(row, "instruction")?;
    let input = match row.fields.get("input") {
        None | Some(Value::Null) => "",
        Some(_) => text(row, "input")?,
    };
    Ok(if input.is_empty() {
        format!(
            "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n\
             ### Instruction:\n{instruction}\n\n### Response:\n"
        )
    } else {
        format!(
            "Below is an instruction that describes a task, paired with an input that provides further context. Write a response \
             that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
        )
    })
}

fn conversation(
    row: &Row,
    [column, role, content]: [&str; 3],
    rename: fn(&str) -> String,
) -> Result<Example, TrainError> {
    let fault = |what: String| row.place.error(format!("column {column:?}: {what}"));
    let Some(Value::Array(turns)) = row.fields.get(column) else {
        let got = row.fields.get(column).map_or("no such column", kind_of);
        return Err(fault(format!("expected an array of turns, got {got}")));
    };
    if turns.is_empty() {
        return Err(fault("expected turns, found none".to_owned()));
    }
    let message = |(index, turn): (usize, &Value)| {
        let part = |name: &str| match turn.get(name) {
            Some(Value::String(text)) => Ok(text.as_str()),
            other => {
                let got = other.map_or("none", kind_of);
                Err(fault(format!(
                    "turn {}: expected text in {name:?}, got {got}",
                    index + 1
                )))
            }
        };
        Ok(Message {
            role: rename(part(role)?),
            content: part(content)?.to_owned(),
        })
    };
    let messages = turns.iter().enumerate().map(message);
    messages.collect::<Result<_, _>>().map(Example::Conversation)
}

/// ShareGPT's names of roles, as chat templates call them.
fn share_gpt_role(from: &str) -> String {
    match from {
        "human" => "user",
        "gpt" | "chatgpt" | "bard" | "bing" => "assistant",
        other => other,
    }
    .to_owned()
}
