//! AdapterHub's `adapter_config.json`, as its library `adapters` saves a bottleneck adapter (Houlsby et al., 2019; Pfeiffer et al., 2020).
//! As with [`crate::peft`], every field is known by name or refused.

mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Map, Value};

use crate::FormatError;
use crate::peft::Rule;
pub use table::BOTTLENECK_FIELDS;

/// A bottleneck may be wider than the stream, but a small file must not ask for any amount of memory.
const LEAST_REDUCTION: f64 = 1.0 / 16.0;

/// Fields beside `config`.
const OUTER: [&str; 10] = [
    "config",
    "config_id",
    "hidden_size",
    "model_class",
    "model_name",
    "model_type",
    "name",
    "rootstock_base_hash",
    "type",
    "version",
];

/// The configuration of a bottleneck adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct BottleneckConfig {
    /// `name`, which is part of the tensors' names.
    pub name: String,
    /// `model_name`; the same base has many names.
    pub base_model: Option<String>,
    /// `rootstock_base_hash`, our own optional field: BLAKE3 of the base model's file.
    pub base_hash: Option<[u8; 32]>,
    /// `hidden_size` of the base.
    pub hidden_size: Option<usize>,
    /// `mh_adapter`: one after the attention of every layer.
    pub after_attention: bool,
    /// `output_adapter`: one after the feed-forward of every layer.
    pub after_feed_forward: bool,
    /// `original_ln_before`: it sees the sum that the block's output becomes part of, not that output alone.
    pub sees_sum: bool,
    /// `non_linearity`, in lower case.
    pub non_linearity: String,
    /// `scaling`: factor on what the bottleneck gives.
    pub scaling: f32,
    reductions: Reductions,
    left_out: Vec<usize>,
}

/// `reduction_factor`: by how much a bottleneck is narrower than the stream.
#[derive(Debug, Clone, PartialEq)]
struct Reductions {
    default: Option<f64>,
    layers: BTreeMap<usize, f64>,
}

/// Fields by which the two libraries' files are told apart.
#[derive(Deserialize)]
struct Marks {
    config: Option<IgnoredAny>,
    peft_type: Option<IgnoredAny>,
}

/// Whether an `adapter_config.json` is AdapterHub's.
pub fn is_adapterhub(json: &[u8]) -> bool {
    let marks: Result<Marks, _> = serde_json::from_slice(json);
    marks.is_ok_and(|marks| marks.config.is_some() && marks.peft_type.is_none())
}

impl BottleneckConfig {
    /// Reads `adapter_config.json`.
    ///
    /// # Errors
    /// Not JSON, a field that is missing or of the wrong type, one that is not known and not empty, or a value that is not supported.
    pub fn parse(json: &[u8]) -> Result<Self, FormatError> {
        let outer: Map<String, Value> = serde_json::from_slice(json)
            .map_err(|error| FormatError::malformed("adapter_config.json", "a JSON object", error))?;
        let unknown = outer
            .iter()
            .find(|(name, value)| !OUTER.contains(&name.as_str()) && !is_empty(value));
        if let Some((name, value)) = unknown {
            return Err(unsupported(
                name,
                value,
                "null, false or empty, for a field that is not known",
            ));
        }
        let Some(Value::Object(config)) = outer.get("config") else {
            let got = outer.get("config").unwrap_or(&Value::Null);
            return Err(FormatError::malformed(
                "config",
                "the fields of a bottleneck adapter",
                got,
            ));
        };
        check_names(config)?;
        let fields = Fields(config);
        let read = Self {
            name: Fields(&outer).required("name", "a string")?,
            base_model: Fields(&outer)
                .read::<String>("model_name", "a string")?
                .filter(|name| !name.is_empty()),
            base_hash: base_hash(&outer)?,
            hidden_size: Fields(&outer).read("hidden_size", "a whole number")?,
            after_attention: fields.required("mh_adapter", "a boolean")?,
            after_feed_forward: fields.required("output_adapter", "a boolean")?,
            sees_sum: fields.read("original_ln_before", "a boolean")?.unwrap_or(false),
            non_linearity: fields.required::<String>("non_linearity", "a string")?.to_lowercase(),
            scaling: fields.scaling()?,
            reductions: fields.reductions()?,
            left_out: fields.read("leave_out", "a list of layers")?.unwrap_or_default(),
        };
        fields.check_residuals(read.sees_sum)?;
        Ok(read)
    }

    /// Width of the bottlenecks of a layer of a model of this width; `None` where the layer has none.
    ///
    /// # Errors
    /// `reduction_factor` has no value for the layer.
    pub fn width(&self, layer: usize, hidden_size: usize) -> Result<Option<usize>, FormatError> {
        if self.left_out.contains(&layer) {
            return Ok(None);
        }
        let of_layer = self.reductions.layers.get(&layer).copied();
        let factor = of_layer.or(self.reductions.default).ok_or_else(|| {
            let expected = format!("a value for layer {layer} or a default");
            FormatError::malformed("reduction_factor", expected, "neither")
        })?;
        let hidden = hidden_size as f64;
        // The floor of the exact quotient, which division alone may have rounded up.
        let whole = ((hidden - hidden % factor) / factor).round();
        Ok(Some((whole as usize).max(1)))
    }

    /// `leave_out`.
    pub fn left_out(&self) -> &[usize] {
        &self.left_out
    }
}

fn check_names(config: &Map<String, Value>) -> Result<(), FormatError> {
    for (name, value) in config {
        let known = BOTTLENECK_FIELDS.iter().find(|field| field.name == name);
        match known.map(|field| field.rule) {
            Some(Rule::Read | Rule::Informative) => {}
            _ if is_empty(value) => {}
            Some(_) => return Err(unsupported(name, value, "null, false or empty")),
            None => {
                return Err(unsupported(
                    name,
                    value,
                    "null, false or empty, for a field that is not known",
                ));
            }
        }
    }
    Ok(())
}

struct Fields<'a>(&'a Map<String, Value>);

impl Fields<'_> {
    fn read<T: DeserializeOwned>(&self, name: &str, expected: &str) -> Result<Option<T>, FormatError> {
        let value = self.0.get(name).unwrap_or(&Value::Null);
        Option::<T>::deserialize(value).map_err(|_| FormatError::malformed(name, expected, value))
    }

    fn required<T: DeserializeOwned>(&self, name: &str, expected: &str) -> Result<T, FormatError> {
        let missing = || FormatError::malformed(name, expected, "none");
        self.read(name, expected)?.ok_or_else(missing)
    }

    fn scaling(&self) -> Result<f32, FormatError> {
        match self.0.get("scaling") {
            None => Ok(1.0),
            Some(Value::Number(number)) => Ok(number.as_f64().unwrap_or(f64::NAN) as f32),
            Some(other) => Err(unsupported("scaling", other, "a number")),
        }
    }

    fn reductions(&self) -> Result<Reductions, FormatError> {
        let (name, expected) = ("reduction_factor", "a number from 1/16 on, or numbers by layer");
        let value = self.0.get(name).unwrap_or(&Value::Null);
        let wrong = || FormatError::malformed(name, expected, value);
        let number = |value: &Value| {
            value
                .as_f64()
                .filter(|factor| *factor >= LEAST_REDUCTION)
                .ok_or_else(wrong)
        };
        let mut read = Reductions {
            default: None,
            layers: BTreeMap::new(),
        };
        match value {
            Value::Object(by_layer) => {
                for (layer, factor) in by_layer {
                    let factor = number(factor)?;
                    match layer.as_str() {
                        "default" => read.default = Some(factor),
                        layer => {
                            read.layers.insert(layer.parse().map_err(|_| wrong())?, factor);
                        }
                    }
                }
            }
            value => read.default = Some(number(value)?),
        }
        Ok(read)
    }

    /// The stream, the block's output and what the bottleneck makes must each be part of the sum once. Other settings mean something
    /// only where a block ends with a normalisation.
    fn check_residuals(&self, sees_sum: bool) -> Result<(), FormatError> {
        let yes = Value::Bool(true);
        let after = self.0.get("original_ln_after").unwrap_or(&yes);
        if *after != yes {
            return Err(unsupported("original_ln_after", after, "true"));
        }
        let before = self.0.get("residual_before_ln").unwrap_or(&yes);
        if sees_sum && *before != yes {
            return Err(unsupported(
                "residual_before_ln",
                before,
                "true, with original_ln_before",
            ));
        }
        Ok(())
    }
}

fn base_hash(outer: &Map<String, Value>) -> Result<Option<[u8; 32]>, FormatError> {
    let (name, expected) = ("rootstock_base_hash", "64 hexadecimal digits");
    let text: Option<String> = Fields(outer).read(name, expected)?;
    let hash = text.map(|text| {
        let hash = blake3::Hash::from_hex(text.as_bytes());
        hash.map_err(|_| FormatError::malformed(name, expected, &text))
    });
    Ok(hash.transpose()?.map(Into::into))
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(_) => false,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

fn unsupported(name: &str, value: &Value, supported: &str) -> FormatError {
    FormatError::unsupported(name, value, supported)
}
