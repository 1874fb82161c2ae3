//! `rootstock.toml` beside an adapter's weights: what requests of the adapter get where they say nothing themselves.
//! Names and bounds are those of the HTTP API; the file belongs to the generation that was loaded with it.

use std::ffi::OsStr;
use std::ops::RangeInclusive;
use std::path::{Component, Path};

use toml::{Table, Value};

use super::error::{AdapterError, AdapterErrorCode as Code, clipped};
use super::file::{open_regular, read_small};
use crate::text::{ChatTemplate, Markers};

/// The file's name.
pub(super) const FILE: &str = "rootstock.toml";
/// Of the file and of a template beside it, in bytes.
const LARGEST: u64 = 1 << 20;
/// Parts of the path of a template file, as far down as adapters are watched.
const DEEPEST: usize = 2;

/// Defaults of one adapter.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AdapterDefaults {
    /// System message of a chat that brings none.
    pub system_prompt: Option<String>,
    /// Source of a chat template in place of the base's (inline or read from `chat_template_file`); it compiles.
    pub chat_template: Option<String>,
    /// How to sample and when to stop.
    pub sampling: SamplingDefaults,
}

/// The table `[sampling]`; `None` leaves a setting to the server's own default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SamplingDefaults {
    /// 0 to 2.
    pub temperature: Option<f32>,
    /// Above 0, at most 1.
    pub top_p: Option<f32>,
    /// -1 and 0 mean all tokens.
    pub top_k: Option<i64>,
    /// 0 to 1.
    pub min_p: Option<f32>,
    /// -2 to 2.
    pub presence_penalty: Option<f32>,
    /// -2 to 2.
    pub frequency_penalty: Option<f32>,
    /// 0.01 to 100.
    pub repetition_penalty: Option<f32>,
    /// Start of the random sequence.
    pub seed: Option<i64>,
    /// At least 1.
    pub max_tokens: Option<usize>,
    /// Stop strings, none of them empty: at most 16 of at most 1024 bytes.
    pub stop: Option<Vec<String>>,
}

impl AdapterDefaults {
    /// Reads the file of the folder `dir`; without one there are no defaults.
    pub(super) fn read(dir: &Path) -> Result<Self, AdapterError> {
        match read_small(&dir.join(FILE), FILE, LARGEST) {
            Ok(text) => Self::parse(&utf8(FILE, text)?, dir),
            Err(error) if error.code == Code::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// Reads the text of the file; `dir` is where a template file is looked for.
    pub(super) fn parse(text: &str, dir: &Path) -> Result<Self, AdapterError> {
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            AdapterError::new(
                Code::Malformed,
                format_args!("{FILE}: expected TOML: {}", error.message()),
            )
        })?;
        let mut fields = Fields { prefix: "", table };
        let system_prompt = fields.string("system_prompt")?;
        let inline = fields.string("chat_template")?;
        let chat_template = match (inline, fields.string("chat_template_file")?) {
            (Some(_), Some(_)) => {
                let got = "chat_template beside it";
                return Err(malformed("chat_template_file", "to be the only template", got));
            }
            (None, Some(file)) => Some(template_file(dir, &file)?),
            (inline, None) => inline,
        };
        if let Some(source) = &chat_template {
            ChatTemplate::new(source, Markers::default())
                .map_err(|error| AdapterError::new(Code::Malformed, format_args!("{FILE}: {error}")))?;
        }
        let sampling = match fields.table.remove("sampling") {
            None => SamplingDefaults::default(),
            Some(Value::Table(table)) => SamplingDefaults::take(Fields {
                prefix: "sampling.",
                table,
            })?,
            Some(other) => return Err(malformed("sampling", "a table", &other)),
        };
        fields.finish()?;
        Ok(Self {
            system_prompt,
            chat_template,
            sampling,
        })
    }
}

/// What the fields may hold, in a request as in a default.
impl SamplingDefaults {
    /// Bounds of `temperature`.
    pub const TEMPERATURE: RangeInclusive<f32> = 0.0..=2.0;
    /// Bounds of `top_p`; the smallest positive number keeps 0 out.
    pub const TOP_P: RangeInclusive<f32> = f32::MIN_POSITIVE..=1.0;
    /// Bounds of `top_k`.
    pub const TOP_K: RangeInclusive<i64> = -1..=i64::MAX;
    /// Bounds of `min_p`.
    pub const MIN_P: RangeInclusive<f32> = 0.0..=1.0;
    /// Bounds of `presence_penalty` and `frequency_penalty`.
    pub const PENALTY: RangeInclusive<f32> = -2.0..=2.0;
    /// Bounds of `repetition_penalty`.
    pub const REPETITION_PENALTY: RangeInclusive<f32> = 0.01..=100.0;
    /// Most stop strings; OpenAI allows 4.
    pub const MOST_STOPS: usize = 16;
    /// Most bytes of a stop string; a stream holds back that much text.
    pub const LONGEST_STOP: usize = 1024;

    fn take(mut fields: Fields<'_>) -> Result<Self, AdapterError> {
        let sampling = Self {
            temperature: fields.number("temperature", Self::TEMPERATURE)?,
            top_p: fields.number("top_p", Self::TOP_P)?,
            top_k: fields.integer("top_k", Self::TOP_K)?,
            min_p: fields.number("min_p", Self::MIN_P)?,
            presence_penalty: fields.number("presence_penalty", Self::PENALTY)?,
            frequency_penalty: fields.number("frequency_penalty", Self::PENALTY)?,
            repetition_penalty: fields.number("repetition_penalty", Self::REPETITION_PENALTY)?,
            seed: fields.integer("seed", i64::MIN..=i64::MAX)?,
            max_tokens: fields
                .integer("max_tokens", 1..=i64::MAX)?
                .and_then(|count| count.try_into().ok()),
            stop: fields.stops()?,
        };
        fields.finish()?;
        Ok(sampling)
    }
}

/// The fields of a table, taken one by one; what is left is not known.
struct Fields<'a> {
    prefix: &'a str,
    table: Table,
}

impl Fields<'_> {
    fn string(&mut self, name: &str) -> Result<Option<String>, AdapterError> {
        match self.table.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(name, "a string", &other)),
        }
    }

    fn number(&mut self, name: &str, range: RangeInclusive<f32>) -> Result<Option<f32>, AdapterError> {
        let (value, number) = match self.table.remove(name) {
            None => return Ok(None),
            Some(Value::Float(number)) => (Value::Float(number), number),
            Some(Value::Integer(number)) => (Value::Integer(number), number as f64),
            Some(other) => return Err(self.wrong(name, "a number", &other)),
        };
        let within = Some(number as f32).filter(|number| range.contains(number));
        let expected = || match *range.start() {
            f32::MIN_POSITIVE => format!("a number above 0, up to {}", range.end()),
            start => format!("a number from {start} to {}", range.end()),
        };
        within.map(Some).ok_or_else(|| self.wrong(name, &expected(), &value))
    }

    fn integer(&mut self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, AdapterError> {
        match self.table.remove(name) {
            None => Ok(None),
            Some(Value::Integer(number)) if range.contains(&number) => Ok(Some(number)),
            Some(other) => {
                let expected = match *range.end() {
                    i64::MAX => format!("an integer from {}", range.start()),
                    end => format!("an integer from {} to {end}", range.start()),
                };
                Err(self.wrong(name, &expected, &other))
            }
        }
    }

    fn stops(&mut self) -> Result<Option<Vec<String>>, AdapterError> {
        let (most, longest) = (SamplingDefaults::MOST_STOPS, SamplingDefaults::LONGEST_STOP);
        let expected = format!("at most {most} strings of 1 to {longest} bytes");
        let Some(value) = self.table.remove("stop") else {
            return Ok(None);
        };
        let strings = match &value {
            Value::String(text) => Some(vec![text.clone()]),
            Value::Array(items) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
            _ => None,
        };
        let fits = |text: &String| (1..=longest).contains(&text.len());
        let strings = strings.filter(|strings: &Vec<String>| strings.len() <= most && strings.iter().all(fits));
        strings.map(Some).ok_or_else(|| self.wrong("stop", &expected, &value))
    }

    fn finish(self) -> Result<(), AdapterError> {
        let Some((name, _)) = self.table.iter().next() else {
            return Ok(());
        };
        let message = format!(
            "{FILE}: {}{}: is not known; see the documentation of rootstock.toml for what it may hold",
            self.prefix,
            clipped(name)
        );
        Err(AdapterError::new(Code::UnsupportedField, message))
    }

    fn wrong(&self, name: &str, expected: &str, got: &Value) -> AdapterError {
        malformed(&format!("{}{name}", self.prefix), expected, got)
    }
}

fn malformed(field: &str, expected: &str, got: impl std::fmt::Display) -> AdapterError {
    let got = clipped(&got.to_string());
    AdapterError::new(
        Code::Malformed,
        format_args!("{FILE}: {field}: expected {expected}, got {got}"),
    )
}

/// The text of a template that lies in the folder, links followed.
fn template_file(dir: &Path, name: &str) -> Result<String, AdapterError> {
    let field = "chat_template_file";
    let expected =
        "a path relative to the adapter's folder that stays inside it, at most one subfolder deep and not hidden";
    let path = Path::new(name);
    let hidden = |part: &OsStr| part.as_encoded_bytes().starts_with(b".");
    let plain = |part| match part {
        Component::Normal(part) => !hidden(part),
        part => part == Component::CurDir,
    };
    let depth = path.components().filter(|&part| part != Component::CurDir).count();
    // Deeper and hidden files are not watched, so a change of one would go unseen.
    if !(1..=DEEPEST).contains(&depth) || !path.components().all(plain) {
        return Err(malformed(field, expected, name));
    }
    let found = dir.join(path);
    let inside = match (dir.canonicalize(), found.canonicalize()) {
        (Ok(dir), Ok(found)) => found.starts_with(dir),
        _ => {
            return Err(AdapterError::new(
                Code::NotFound,
                format_args!("{FILE}: {field}: {name}: expected a file, got none"),
            ));
        }
    };
    if !inside {
        return Err(malformed(field, expected, format_args!("{name}, a link to elsewhere")));
    }
    let (file, _) = open_regular(&found, name)?;
    utf8(name, super::file::read_at_most(file, name, LARGEST)?)
}

fn utf8(name: &str, bytes: Vec<u8>) -> Result<String, AdapterError> {
    let refused = |_| AdapterError::new(Code::Malformed, format_args!("{name}: expected UTF-8, got other bytes"));
    String::from_utf8(bytes).map_err(refused)
}
