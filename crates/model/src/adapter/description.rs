//! What an adapter's files say of it without a base to check it against: for those who look at one.

use std::collections::BTreeMap;
use std::path::Path;

use rootstock_formats::TensorInfo;
use rootstock_formats::gguf::{Gguf, Value as Metadata};
use serde_json::{Map, Value, json};

use super::container::{Contents, Files};
use super::file::read_small;
use super::{AdapterError, AdapterLimits, CONFIG};

/// Configurations are read twice; the first reading has bounded them.
const LARGEST_CONFIG: u64 = 1 << 20;

/// In which library's layout an adapter comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdapterKind {
    /// A folder of peft.
    Peft,
    /// A folder of AdapterHub's library.
    AdapterHub,
    /// A file for llama.cpp.
    Gguf,
}

/// An adapter by itself.
#[derive(Debug, Clone)]
pub struct AdapterDescription {
    /// Its layout.
    pub kind: AdapterKind,
    /// What it records as its base.
    pub base_model: Option<String>,
    /// What its configuration states and is not empty; of a GGUF file, its metadata.
    pub settings: Map<String, Value>,
    /// Its tensors by name, those of a head's file included.
    pub tensors: BTreeMap<String, TensorInfo>,
}

/// Reads the configuration and the tensor headers of the adapter at `path`, as [`super::inspect_adapter`] takes it.
///
/// # Errors
/// Files that are missing, unreadable or pickles, and a configuration with fields that are not known or not supported.
pub fn describe_adapter(path: &Path) -> Result<AdapterDescription, AdapterError> {
    let files = Files::open(path, AdapterLimits::NONE)?;
    let (kind, header, settings) = match &files.main.contents {
        Contents::Peft { header, .. } => (AdapterKind::Peft, header.tensors(), stated(path)?),
        Contents::AdapterHub { header, .. } => (AdapterKind::AdapterHub, header.tensors(), stated(path)?),
        Contents::Gguf(gguf) => (AdapterKind::Gguf, gguf.tensors(), recorded(gguf)),
    };
    let mut tensors = header.clone();
    if let Some(head) = &files.head {
        tensors.extend(head.header.tensors().clone());
    }
    Ok(AdapterDescription {
        kind,
        base_model: files.base_model(),
        settings,
        tensors,
    })
}

/// The fields of a folder's configuration, those of an inner `config` among them.
fn stated(dir: &Path) -> Result<Map<String, Value>, AdapterError> {
    let json = read_small(&dir.join(CONFIG), CONFIG, LARGEST_CONFIG)?;
    let mut fields: Map<String, Value> = serde_json::from_slice(&json).unwrap_or_default();
    if let Some(Value::Object(inner)) = fields.remove("config") {
        fields.extend(inner);
    }
    fields.retain(|_, value| !is_empty(value));
    Ok(fields)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) | Value::Number(_) => false,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

/// The metadata of a file that is a text, a number or a switch.
fn recorded(gguf: &Gguf) -> Map<String, Value> {
    let metadata = gguf.metadata().iter();
    metadata
        .filter_map(|(key, value)| Some((key.clone(), scalar(value)?)))
        .collect()
}

fn scalar(value: &Metadata) -> Option<Value> {
    let text = value.as_str().map(|text| json!(text));
    let text = text.or_else(|| value.as_bool().map(|switch| json!(switch)));
    let text = text.or_else(|| value.as_u64().map(|number| json!(number)));
    text.or_else(|| value.as_f32().map(|number| json!(number)))
}
