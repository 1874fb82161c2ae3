//! Files of rows: JSON, JSONL, CSV, Parquet, text, and folders of them.

mod parquet;

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::TrainError;

/// Where a row stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// Path of the file, as it was given.
    #[serde(serialize_with = "as_text")]
    pub file: Arc<str>,
    /// Line of JSONL and CSV, number of the row in others; from 1.
    pub line: usize,
}

/// One row: named fields.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The fields, in the order of the file.
    pub fields: Map<String, Value>,
    /// For messages about it.
    pub place: Place,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

fn as_text<S: serde::Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

impl Place {
    /// An error about the row here.
    pub fn error(&self, reason: impl Into<String>) -> TrainError {
        TrainError::Row {
            file: self.file.to_string(),
            line: self.line,
            reason: reason.into(),
        }
    }
}

/// Kinds of files, by extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// An array of objects, or objects one per line.
    Json,
    /// An object per line.
    JsonLines,
    /// A header, then a row per record.
    Csv,
    /// Columns, read as rows.
    Parquet,
    /// The whole file is the field `text` of one row.
    Text,
}

/// Written by some programs at the beginning of a file; no part of its text.
const BYTE_ORDER_MARK: char = '\u{FEFF}';

const KINDS: &str = ".json, .jsonl, .csv, .parquet, .txt or .md";

impl Kind {
    fn of(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        Some(match extension.as_str() {
            "json" => Self::Json,
            "jsonl" | "ndjson" => Self::JsonLines,
            "csv" => Self::Csv,
            "parquet" => Self::Parquet,
            "txt" | "md" => Self::Text,
            _ => return None,
        })
    }
}

/// Rows in the order of their files, each read or with what is wrong with it.
pub(super) type Rows = Vec<Result<Row, TrainError>>;

/// Reads every row of a file, or of the files of a folder in the order of their names.
///
/// # Errors
/// A file that cannot be read or is of no known kind, a folder without any, or a row that is not an object.
pub fn read(path: &Path) -> Result<Vec<Row>, TrainError> {
    read_files(path, &files(path)?)?.into_iter().collect()
}

/// Reads these files of `path`.
pub(super) fn read_files(path: &Path, files: &[PathBuf]) -> Result<Rows, TrainError> {
    let mut rows = Vec::new();
    for file in files {
        read_file(file, &mut rows)?;
    }
    if rows.is_empty() {
        return Err(TrainError::Dataset(format!(
            "{}: expected rows, found none",
            path.display()
        )));
    }
    Ok(rows)
}

/// The file itself, or those of a folder; what describes the folder is none of them.
pub(super) fn files(path: &Path) -> Result<Vec<PathBuf>, TrainError> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = path
        .read_dir()
        .and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    let entries = entries.map_err(|error| TrainError::io(path, error))?;
    let mut files: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    let describes = |file: &Path| {
        file.file_name()
            .is_some_and(|name| name.eq_ignore_ascii_case("README.md"))
    };
    files.retain(|file| file.is_file() && Kind::of(file).is_some() && !describes(file));
    files.sort();
    match files.is_empty() {
        false => Ok(files),
        true => Err(TrainError::Dataset(format!(
            "{}: expected files that end in {KINDS}, found none",
            path.display()
        ))),
    }
}

fn read_file(path: &Path, rows: &mut Rows) -> Result<(), TrainError> {
    let Some(kind) = Kind::of(path) else {
        return Err(TrainError::Dataset(format!(
            "{}: expected a file that ends in {KINDS}",
            path.display()
        )));
    };
    let file = File::open(path).map_err(|error| TrainError::io(path, error))?;
    let name: Arc<str> = path.display().to_string().into();
    let place = |line: usize| Place {
        file: Arc::clone(&name),
        line,
    };
    match kind {
        Kind::Text => {
            let text = read_text(path, file)?;
            rows.push(Ok(Row {
                fields: Map::from_iter([("text".to_owned(), Value::String(text))]),
                place: place(1),
            }));
            Ok(())
        }
        Kind::Parquet => {
            parquet::read(file, place, rows);
            Ok(())
        }
        Kind::Csv => read_csv(file, place, rows),
        Kind::JsonLines => read_lines(path, BufReader::new(file), place, rows),
        Kind::Json => read_json(&read_text(path, file)?, path, place, rows),
    }
}

fn read_text(path: &Path, file: File) -> Result<String, TrainError> {
    let text = std::io::read_to_string(file).map_err(|error| TrainError::io(path, error))?;
    Ok(text.strip_prefix(BYTE_ORDER_MARK).map(str::to_owned).unwrap_or(text))
}

fn read_csv(file: File, place: impl Fn(usize) -> Place, rows: &mut Rows) -> Result<(), TrainError> {
    let mut reader = csv::Reader::from_reader(file);
    let refused = |error: csv::Error| {
        let line = error.position().map_or(1, |position| position.line() as usize);
        place(line).error(error.to_string())
    };
    let headers = reader.headers().map_err(refused)?.clone();
    for record in reader.records() {
        let record = match record {
            // The file itself fails: no record after it would be read.
            Err(error) if error.is_io_error() => return Err(refused(error)),
            record => record.map_err(refused),
        };
        rows.push(record.map(|record| {
            let field = |(name, value): (&str, &str)| (name.to_owned(), Value::String(value.to_owned()));
            Row {
                fields: headers.iter().zip(&record).map(field).collect(),
                place: place(record.position().map_or(1, |position| position.line() as usize)),
            }
        }));
    }
    Ok(())
}

fn read_lines(
    path: &Path,
    file: impl BufRead,
    place: impl Fn(usize) -> Place,
    rows: &mut Rows,
) -> Result<(), TrainError> {
    for (index, line) in file.lines().enumerate() {
        let place = place(index + 1);
        let line = match line {
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                rows.push(Err(place.error("expected UTF-8 text")));
                continue;
            }
            line => line.map_err(|error| TrainError::io(path, error))?,
        };
        let line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&line);
        if line.trim().is_empty() {
            continue;
        }
        let value = serde_json::from_str(line).map_err(|error| place.error(format!("expected JSON: {error}")));
        rows.push(value.and_then(|value| row(value, place)));
    }
    Ok(())
}

/// An array of objects. Many files of this name are lines of objects; those are read as such.
fn read_json(text: &str, path: &Path, place: impl Fn(usize) -> Place, rows: &mut Rows) -> Result<(), TrainError> {
    if !text.trim_start().starts_with('[') {
        return read_lines(path, text.as_bytes(), place, rows);
    }
    let values: Vec<Value> = serde_json::from_str(text)
        .map_err(|error| place(error.line()).error(format!("expected an array of JSON objects: {error}")))?;
    let numbered = values.into_iter().enumerate();
    rows.extend(numbered.map(|(index, value)| row(value, place(index + 1))));
    Ok(())
}

fn row(value: Value, place: Place) -> Result<Row, TrainError> {
    match value {
        Value::Object(fields) => Ok(Row { fields, place }),
        other => Err(place.error(format!("expected an object of named fields, got {}", kind_of(&other)))),
    }
}

/// What JSON calls it.
pub(super) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
