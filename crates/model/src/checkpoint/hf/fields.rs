//! Typed access to a JSON object of a checkpoint: every message names file and field, and what nobody asked for is refused.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Display;

use serde_json::{Map, Value};

use super::super::Refusal;

/// Sizes above this are refused: no model has them, and products of two stay far from overflow.
pub(super) const LARGEST_SIZE: usize = 1 << 24;
/// Longest value quoted in a message, in characters.
const LONGEST_QUOTE: usize = 80;

/// A value that a table gives for a field.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Literal {
    Truth(bool),
    Integer(u64),
    Real(f64),
    Text(&'static str),
}

/// An object, with a record of the fields that were asked for.
pub(super) struct Fields {
    /// File, and the path of the object within it.
    path: String,
    object: Map<String, Value>,
    /// How the object spells fields that are asked for by another name.
    aliases: &'static [(&'static str, &'static str)],
    read: RefCell<BTreeSet<String>>,
}

impl Fields {
    pub(super) fn new(path: impl Into<String>, object: Map<String, Value>) -> Self {
        Self {
            path: path.into(),
            object,
            aliases: &[],
            read: RefCell::default(),
        }
    }

    /// The same object, its fields spelled in another way and with values where it has none.
    pub(super) fn spelled(
        mut self,
        aliases: &'static [(&'static str, &'static str)],
        defaults: &[(&str, Literal)],
    ) -> Self {
        for (field, value) in defaults {
            if !self.object.contains_key(*field) {
                self.object.insert((*field).to_owned(), Value::from(*value));
            }
        }
        self.aliases = aliases;
        self
    }

    /// The value of a field; null is none.
    pub(super) fn value(&self, field: &str) -> Option<&Value> {
        let field = self.spelling(field);
        self.read.borrow_mut().insert(field.to_owned());
        self.object.get(field).filter(|value| !value.is_null())
    }

    pub(super) fn size(&self, field: &str) -> Result<usize, Refusal> {
        self.required(field, self.optional_size(field)?)
    }

    pub(super) fn optional_size(&self, field: &str) -> Result<Option<usize>, Refusal> {
        let expected = format_args!("an integer from 1 to {LARGEST_SIZE}");
        self.typed(field, expected, |value| {
            let size = usize::try_from(value.as_u64()?).ok()?;
            (1..=LARGEST_SIZE).contains(&size).then_some(size)
        })
    }

    pub(super) fn positive(&self, field: &str) -> Result<f64, Refusal> {
        self.required(field, self.optional_positive(field)?)
    }

    pub(super) fn optional_positive(&self, field: &str) -> Result<Option<f64>, Refusal> {
        self.typed(field, "a positive number", positive)
    }

    pub(super) fn flag(&self, field: &str) -> Result<bool, Refusal> {
        Ok(self.typed(field, "true or false", Value::as_bool)?.unwrap_or(false))
    }

    pub(super) fn text(&self, field: &str) -> Result<&str, Refusal> {
        self.required(field, self.optional_text(field)?)
    }

    pub(super) fn optional_text(&self, field: &str) -> Result<Option<&str>, Refusal> {
        self.typed(field, "a string", Value::as_str)
    }

    /// A list of positive numbers.
    pub(super) fn positives(&self, field: &str) -> Result<Option<Vec<f64>>, Refusal> {
        self.typed(field, "a list of positive numbers", |value| {
            value.as_array()?.iter().map(positive).collect()
        })
    }

    pub(super) fn list(&self, field: &str) -> Result<Option<&[Value]>, Refusal> {
        self.typed(field, "a list", |value| Some(value.as_array()?.as_slice()))
    }

    /// The fields there are.
    pub(super) fn names(&self) -> Vec<String> {
        self.object.keys().cloned().collect()
    }

    pub(super) fn object(&self, field: &str) -> Result<Option<Self>, Refusal> {
        let object = self.typed(field, "an object", Value::as_object)?;
        Ok(object.map(|object| Self::new(format!("{}: {}", self.path, self.spelling(field)), object.clone())))
    }

    /// Refuses a field that was neither asked for nor is known to have no effect (`inert`, or a value of `fixed`).
    pub(super) fn refuse_unread(&self, fixed: &[(&str, Literal)], inert: &[&[&str]]) -> Result<(), Refusal> {
        for (field, only) in fixed {
            let only = Value::from(*only);
            match self.value(field) {
                Some(value) if !same(value, &only) => return Err(self.unsupported(field, value, only)),
                _ => {}
            }
        }
        let read = self.read.borrow();
        let known = |field: &String| read.contains(field) || inert.iter().any(|list| list.contains(&field.as_str()));
        match self
            .object
            .iter()
            .find(|(field, value)| !value.is_null() && !known(field))
        {
            Some((field, value)) => Err(Refusal::unsupported(format_args!(
                "{}: field {field:?} ({}) is not known and may change the numbers; remove it if it has no effect",
                self.path,
                quoted(value)
            ))),
            None => Ok(()),
        }
    }

    pub(super) fn unsupported(&self, field: &str, got: impl Display, supported: impl Display) -> Refusal {
        Refusal::unsupported(format_args!(
            "{}: {}: {} is not supported (supported: {supported})",
            self.path,
            self.spelling(field),
            quoted(got)
        ))
    }

    pub(super) fn contradiction(&self, field: &str, got: impl Display, elsewhere: impl Display) -> Refusal {
        Refusal::unsupported(format_args!(
            "{}: {}: {} contradicts {elsewhere}",
            self.path,
            self.spelling(field),
            quoted(got)
        ))
    }

    pub(super) fn required<T>(&self, field: &str, value: Option<T>) -> Result<T, Refusal> {
        value.ok_or_else(|| Refusal::unsupported(format_args!("{}: {} is missing", self.path, self.spelling(field))))
    }

    fn typed<'v, T>(
        &'v self,
        field: &str,
        expected: impl Display,
        read: impl FnOnce(&'v Value) -> Option<T>,
    ) -> Result<Option<T>, Refusal> {
        let Some(value) = self.value(field) else {
            return Ok(None);
        };
        read(value).map(Some).ok_or_else(|| {
            Refusal::unsupported(format_args!(
                "{}: {}: expected {expected}, got {}",
                self.path,
                self.spelling(field),
                quoted(value)
            ))
        })
    }

    fn spelling<'f>(&self, field: &'f str) -> &'f str {
        let alias = self.aliases.iter().find(|(asked, _)| *asked == field);
        alias.map_or(field, |(_, spelled)| spelled)
    }
}

impl From<Literal> for Value {
    fn from(literal: Literal) -> Self {
        match literal {
            Literal::Truth(truth) => truth.into(),
            Literal::Integer(number) => number.into(),
            Literal::Real(number) => number.into(),
            Literal::Text(text) => text.into(),
        }
    }
}

fn positive(value: &Value) -> Option<f64> {
    value.as_f64().filter(|number| *number > 0.0 && number.is_finite())
}

/// Equality of values; 1 and 1.0 are the same.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

fn quoted(value: impl Display) -> String {
    let text = value.to_string();
    let mut short: String = text.chars().take(LONGEST_QUOTE).collect();
    if short.len() < text.len() {
        short.push_str("...");
    }
    short
}
