//! `--text_template`: text with columns in braces, `### Question: {question}\n### Answer: {answer}`.

use serde_json::Value;

use super::Row;
use crate::TrainError;

/// A template over the columns of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextTemplate(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Column(String),
}

impl TextTemplate {
    /// Parses a template; `{{` and `}}` are braces.
    ///
    /// # Errors
    /// A brace without its partner, or a template that names no column.
    pub fn parse(template: &str) -> Result<Self, TrainError> {
        let fault = |what: &str| TrainError::Dataset(format!("text template {template:?}: {what}"));
        let (mut parts, mut text, mut rest) = (Vec::new(), String::new(), template);
        while let Some(at) = rest.find(['{', '}']) {
            text.push_str(&rest[..at]);
            let (brace, after) = rest[at..].split_at(1);
            if after.starts_with(brace) {
                text.push_str(brace);
                rest = &after[1..];
                continue;
            }
            if brace == "}" {
                return Err(fault("expected { before }"));
            }
            let name = after
                .split_once('}')
                .filter(|(name, _)| !name.is_empty() && !name.contains('{'));
            let (name, after) = name.ok_or_else(|| fault("expected a column's name and } after {"))?;
            parts.push(Part::Text(std::mem::take(&mut text)));
            parts.push(Part::Column(name.to_owned()));
            rest = after;
        }
        text.push_str(rest);
        parts.push(Part::Text(text));
        parts.retain(|part| !matches!(part, Part::Text(text) if text.is_empty()));
        if !parts.iter().any(|part| matches!(part, Part::Column(_))) {
            return Err(fault("expected a column in braces, found none"));
        }
        Ok(Self(parts))
    }

    /// Parses a template as it is typed on a command line, where `\n`, `\t` and `\\` stand for a line break, a tab and a backslash.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn typed(template: &str) -> Result<Self, TrainError> {
        let mut text = String::with_capacity(template.len());
        let mut letters = template.chars();
        while let Some(letter) = letters.next() {
            let escaped = if letter == '\\' { letters.clone().next() } else { None };
            let stands_for = match escaped {
                Some('n') => '\n',
                Some('t') => '\t',
                Some('\\') => '\\',
                _ => {
                    text.push(letter);
                    continue;
                }
            };
            text.push(stands_for);
            letters.next();
        }
        Self::parse(&text)
    }

    /// The text of a row.
    ///
    /// # Errors
    /// A column that the row lacks, or one that is neither text nor a number.
    pub fn render(&self, row: &Row) -> Result<String, TrainError> {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Text(part) => text.push_str(part),
                Part::Column(name) => match row.fields.get(name) {
                    Some(Value::String(value)) => text.push_str(value),
                    Some(value @ (Value::Number(_) | Value::Bool(_))) => text.push_str(&value.to_string()),
                    Some(other) => {
                        let kind = super::files::kind_of(other);
                        return Err(row.place.error(format!("expected text in column {name:?}, got {kind}")));
                    }
                    None => {
                        let columns: Vec<_> = row.fields.keys().map(String::as_str).collect();
                        let known = columns.join(", ");
                        return Err(row
                            .place
                            .error(format!("the text template names column {name:?}; this row has {known}")));
                    }
                },
            }
        }
        Ok(text)
    }
}
