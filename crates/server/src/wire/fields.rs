//! A JSON object taken apart field by field, so that every refusal names the field it is about.
//! What nobody took is either known to change the output, and refused, or ignored as OpenAI's clients expect.

use std::fmt;
use std::ops::RangeInclusive;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::error::{ApiError, ApiResult};

/// Fields of other servers and of OpenAI that would change the output and have no counterpart here.
/// Their neutral values (null, false, 0, empty) are accepted.
const UNSUPPORTED: &[&str] = &[
    "allowed_token_ids",
    "audio",
    "bad_words",
    "chat_template",
    "documents",
    "function_call",
    "functions",
    "grammar",
    "guided_choice",
    "guided_grammar",
    "guided_json",
    "guided_regex",
    "include_stop_str_in_output",
    "json_schema",
    "logits_processors",
    "min_tokens",
    "prompt_embeds",
    "prompt_logprobs",
    "structured_outputs",
    "suffix",
    "truncate_prompt_tokens",
    "use_beam_search",
    "web_search_options",
];

/// The fields of a request that have not been taken yet.
pub(crate) struct Fields(Map<String, Value>);

impl Fields {
    /// Parses a request body.
    pub(crate) fn parse(body: &[u8]) -> ApiResult<Self> {
        let text = std::str::from_utf8(body).map_err(|error| ApiError::InvalidUtf8(error.valid_up_to()))?;
        serde_json::from_str(text).map_err(|error| ApiError::InvalidJson(error.to_string()))
    }

    /// The field `name`; null counts as absent.
    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    pub(crate) fn string(&mut self, name: &'static str) -> ApiResult<Option<String>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong_type(name, "a string", &other)),
        }
    }

    pub(crate) fn required_string(&mut self, name: &'static str) -> ApiResult<String> {
        self.string(name)?.ok_or(ApiError::Missing(name))
    }

    /// False unless it is there and true.
    pub(crate) fn flag(&mut self, name: &'static str) -> ApiResult<bool> {
        Ok(self.optional_flag(name)?.unwrap_or(false))
    }

    pub(crate) fn optional_flag(&mut self, name: &'static str) -> ApiResult<Option<bool>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => Err(wrong_type(name, "a boolean", &other)),
        }
    }

    pub(crate) fn integer(&mut self, name: &'static str, range: RangeInclusive<i64>) -> ApiResult<Option<i64>> {
        self.take(name).map(|value| integer_in(name, &value, range)).transpose()
    }

    /// A count, which `usize` holds because the range starts at 0 or above.
    pub(crate) fn count(&mut self, name: &'static str, range: RangeInclusive<usize>) -> ApiResult<Option<usize>> {
        let range = *range.start() as i64..=i64::try_from(*range.end()).unwrap_or(i64::MAX);
        Ok(self.integer(name, range)?.map(|count| count as usize))
    }

    pub(crate) fn number(&mut self, name: &'static str, range: RangeInclusive<f32>) -> ApiResult<Option<f32>> {
        self.take(name).map(|value| number_in(name, &value, range)).transpose()
    }

    pub(crate) fn object(&mut self, name: &'static str) -> ApiResult<Option<Map<String, Value>>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(fields)),
            Some(other) => Err(wrong_type(name, "an object", &other)),
        }
    }

    pub(crate) fn array(&mut self, name: &'static str) -> ApiResult<Option<Vec<Value>>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(other) => Err(wrong_type(name, "an array", &other)),
        }
    }

    /// Ends the parse where no field of other servers is expected: refuses whatever is left.
    pub(crate) fn finish_strictly(self) -> ApiResult<()> {
        match self.0.iter().find(|(_, value)| !value.is_null()) {
            Some((name, _)) => Err(ApiError::unsupported(name, "is not known here")),
            None => Ok(()),
        }
    }

    /// Ends the parse: refuses what would change the output, ignores the rest.
    pub(crate) fn finish(self) -> ApiResult<()> {
        for (name, value) in &self.0 {
            if is_neutral(value) {
                continue;
            }
            if UNSUPPORTED.contains(&name.as_str()) {
                return Err(ApiError::unsupported(name, "is not supported by this server"));
            }
            tracing::debug!(field = name, "unknown field ignored");
        }
        Ok(())
    }
}

/// An object whose fields are all different; a plain map would keep the last of two without a word.
impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Distinct;
        impl<'de> Visitor<'de> for Distinct {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Fields, A::Error> {
                let mut fields = Map::new();
                while let Some((name, value)) = entries.next_entry::<String, Value>()? {
                    if fields.contains_key(&name) {
                        return Err(A::Error::custom(format_args!("the field {name:?} is there twice")));
                    }
                    fields.insert(name, value);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Distinct)
    }
}

/// An integer within `range`; `2.0` counts as one, as JavaScript may write it.
pub(crate) fn integer_in(param: &str, value: &Value, range: RangeInclusive<i64>) -> ApiResult<i64> {
    let is_whole = |number: &&Number| number.as_f64().is_some_and(|number| number.fract() == 0.0);
    let number = value.as_number().filter(is_whole);
    let number = number.ok_or_else(|| wrong_type(param, "an integer", value))?;
    let exact = |float: f64| (float.abs() < 9e15).then_some(float as i64);
    let integer = number.as_i64().or_else(|| number.as_f64().and_then(exact));
    integer.filter(|integer| range.contains(integer)).ok_or_else(|| {
        let bounds = match (*range.start(), *range.end()) {
            (start, i64::MAX) => format!("must be at least {start}"),
            (start, end) => format!("must be from {start} to {end}"),
        };
        ApiError::invalid(param, format!("{bounds}, got {value}"))
    })
}

/// A number within `range`, which also keeps infinities of `f32` out.
pub(crate) fn number_in(param: &str, value: &Value, range: RangeInclusive<f32>) -> ApiResult<f32> {
    let number = value.as_f64().ok_or_else(|| wrong_type(param, "a number", value))? as f32;
    if range.contains(&number) {
        return Ok(number);
    }
    let problem = format!("must be from {} to {}, got {value}", range.start(), range.end());
    Err(ApiError::invalid(param, problem))
}

pub(crate) fn wrong_type(param: impl Into<String>, expected: &'static str, got: &Value) -> ApiError {
    ApiError::WrongType {
        param: param.into(),
        expected,
        got: kind(got).to_owned(),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a number",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn is_neutral(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}
