//! Parquet, read by rows: as `pyarrow`, `datasets` and `polars` write it, compressed with snappy, gzip, zstd or not at all.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};

use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row as Record};
use serde_json::{Map, Value, json};

use super::{Place, Row, Rows};

/// Reads every row; they are numbered from 1. At the first that cannot be read it ends.
pub(super) fn read(file: File, place: impl Fn(usize) -> Place, rows: &mut Rows) {
    let before = rows.len();
    // The library panics on some malformed files where it should return an error.
    let outcome = catch_unwind(AssertUnwindSafe(|| read_rows(file, &place, rows)));
    let here = place(rows.len() - before + 1);
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(error)) => rows.push(Err(here.error(reason(&error)))),
        Err(_) => rows.push(Err(here.error("expected Parquet: a part of the file is malformed"))),
    }
}

fn read_rows(file: File, place: impl Fn(usize) -> Place, rows: &mut Rows) -> Result<(), ParquetError> {
    let reader = SerializedFileReader::new(file)?;
    for (index, record) in reader.get_row_iter(None)?.enumerate() {
        rows.push(Ok(Row {
            fields: fields(&record?),
            place: place(index + 1),
        }));
    }
    Ok(())
}

fn reason(error: &ParquetError) -> String {
    match error {
        ParquetError::General(what) if what.contains("Disabled feature") => {
            format!("expected Parquet compressed with snappy, gzip or zstd: {what}")
        }
        _ => format!("expected Parquet: {error}"),
    }
}

fn fields(record: &Record) -> Map<String, Value> {
    let columns = record.get_column_iter();
    columns.map(|(name, field)| (name.clone(), value(field))).collect()
}

/// A field as JSON has it. Dates and decimals are text; bytes that are no text become an object that only says how many they are,
/// so that a column of pictures beside the text does no harm.
fn value(field: &Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(value) => json!(value),
        Field::Byte(value) => json!(value),
        Field::Short(value) => json!(value),
        Field::Int(value) => json!(value),
        Field::Long(value) => json!(value),
        Field::UByte(value) => json!(value),
        Field::UShort(value) => json!(value),
        Field::UInt(value) => json!(value),
        Field::ULong(value) => json!(value),
        Field::Float16(value) => json!(f32::from(*value)),
        Field::Float(value) => json!(value),
        Field::Double(value) => json!(value),
        Field::Str(text) => json!(text),
        Field::Bytes(bytes) => match bytes.as_utf8() {
            Ok(text) => json!(text),
            Err(_) => json!({"bytes": bytes.len()}),
        },
        Field::Group(record) => Value::Object(fields(record)),
        Field::ListInternal(list) => list.elements().iter().map(value).collect(),
        Field::MapInternal(map) => map
            .entries()
            .iter()
            .map(|(key, field)| (text(key), value(field)))
            .collect(),
        other => json!(other.to_string()),
    }
}

/// The key of a map.
fn text(key: &Field) -> String {
    match key {
        Field::Str(text) => text.clone(),
        other => other.to_string(),
    }
}
