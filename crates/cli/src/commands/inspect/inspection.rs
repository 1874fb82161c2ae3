//! What was found, for people and for programs: facts, tensors in groups of equal ones or one by one, and a refusal.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};
use rootstock_formats::{DType, TensorInfo};
use rootstock_model::FileTensor;
use rootstock_report::quantity::{bytes, count, significant};
use rootstock_report::table::aligned;
use serde_json::{Map, Value, json};

/// All there is to say of a model or an adapter.
#[derive(Debug, Default)]
pub struct Inspection {
    /// By name; those in bytes are called so.
    pub facts: Map<String, Value>,
    /// By name.
    pub tensors: Vec<Tensor>,
    /// Why it is not opened.
    pub refusal: Option<Refusal>,
}

/// A tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    pub name: String,
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub bytes: u64,
}

impl From<FileTensor<'_>> for Tensor {
    fn from(tensor: FileTensor<'_>) -> Self {
        Self {
            name: tensor.name.to_owned(),
            dtype: tensor.dtype,
            shape: tensor.shape.to_vec(),
            bytes: tensor.bytes,
        }
    }
}

impl From<(&String, &TensorInfo)> for Tensor {
    fn from((name, info): (&String, &TensorInfo)) -> Self {
        Self {
            name: name.clone(),
            dtype: info.dtype,
            shape: info.shape.clone(),
            bytes: info.range.len() as u64,
        }
    }
}

/// The reason that opening gives.
#[derive(Debug)]
pub struct Refusal {
    /// Stable, of an adapter.
    pub code: Option<&'static str>,
    /// For people.
    pub reason: String,
}

/// Tensors that differ only in numbers within their names.
struct Group {
    /// The name, with a star for each number.
    name: String,
    dtype: DType,
    shape: Vec<usize>,
    count: u64,
    bytes: u64,
}

impl Inspection {
    /// Adds a fact.
    pub fn say(&mut self, name: &str, value: impl Into<Value>) {
        self.facts.insert(name.to_owned(), value.into());
    }

    /// Everything, with every tensor if they are asked for.
    pub fn json(&self, each: bool) -> Value {
        let mut object = self.facts.clone();
        let types = self.types().into_iter().map(|(dtype, (count, bytes))| {
            let value = json!({"tensors": count, "bytes": bytes});
            (dtype, value)
        });
        object.insert("types".to_owned(), Value::Object(types.collect()));
        let groups = self.groups();
        let groups = groups.iter().map(|group| {
            json!({
                "name": group.name,
                "type": group.dtype.to_string(),
                "shape": group.shape,
                "tensors": group.count,
                "bytes": group.bytes,
            })
        });
        object.insert("groups".to_owned(), groups.collect());
        if each {
            let tensors = self.tensors.iter().map(|tensor| {
                let (dtype, shape) = (tensor.dtype.to_string(), &tensor.shape);
                json!({"name": tensor.name, "type": dtype, "shape": shape, "bytes": tensor.bytes})
            });
            object.insert("tensors".to_owned(), tensors.collect());
        }
        let refusal = self.refusal.as_ref();
        let refusal = refusal.map(|refusal| json!({"code": refusal.code, "reason": refusal.reason}));
        object.insert("refused".to_owned(), json!(refusal));
        Value::Object(object)
    }

    /// Everything, in tables.
    pub fn text(&self, each: bool) -> String {
        let fact = |(name, value): (&String, &Value)| vec![name.replace('_', " "), shown(name, value)];
        let mut text = aligned(&self.facts.iter().map(fact).collect::<Vec<_>>());
        if self.tensors.is_empty() {
            return text;
        }
        let tensors = if each { self.tensor_cells() } else { self.group_cells() };
        for table in [self.type_cells(), tensors] {
            text.push('\n');
            text.push_str(&aligned(&table));
        }
        text
    }

    fn type_cells(&self) -> Vec<Vec<String>> {
        let types = self.types().into_iter();
        let rows = types.map(|(dtype, (number, size))| cells([&dtype, &count(number), &bytes(size)]));
        std::iter::once(cells(["type", "tensors", "size"]))
            .chain(rows)
            .collect()
    }

    fn tensor_cells(&self) -> Vec<Vec<String>> {
        let rows = self.tensors.iter().map(|tensor| {
            let (dtype, shape) = (tensor.dtype.to_string(), shape(&tensor.shape));
            cells([&tensor.name, &dtype, &shape, &bytes(tensor.bytes)])
        });
        std::iter::once(cells(["tensor", "type", "shape", "size"]))
            .chain(rows)
            .collect()
    }

    fn group_cells(&self) -> Vec<Vec<String>> {
        let rows = self.groups().into_iter().map(|group| {
            let (dtype, shape) = (group.dtype.to_string(), shape(&group.shape));
            cells([&group.name, &dtype, &shape, &count(group.count), &bytes(group.bytes)])
        });
        let header = cells(["tensors", "type", "shape", "number", "size"]);
        std::iter::once(header).chain(rows).collect()
    }

    /// Succeeds if there is no refusal.
    ///
    /// # Errors
    /// There is one.
    pub fn verdict(&self) -> Result<()> {
        match &self.refusal {
            None => Ok(()),
            Some(Refusal { code: None, reason }) => Err(anyhow!("{reason}")),
            Some(Refusal {
                code: Some(code),
                reason,
            }) => Err(anyhow!("{reason} ({code})")),
        }
    }

    /// Number and bytes of the tensors of each type.
    fn types(&self) -> BTreeMap<String, (u64, u64)> {
        let mut types: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for tensor in &self.tensors {
            let (count, bytes) = types.entry(tensor.dtype.to_string()).or_default();
            *count += 1;
            *bytes += tensor.bytes;
        }
        types
    }

    fn groups(&self) -> Vec<Group> {
        let mut groups: BTreeMap<(String, String, &[usize]), Group> = BTreeMap::new();
        for tensor in &self.tensors {
            let name = starred(&tensor.name);
            let key = (name.clone(), tensor.dtype.to_string(), tensor.shape.as_slice());
            let group = groups.entry(key).or_insert_with(|| Group {
                name,
                dtype: tensor.dtype,
                shape: tensor.shape.clone(),
                count: 0,
                bytes: 0,
            });
            group.count += 1;
            group.bytes += tensor.bytes;
        }
        groups.into_values().collect()
    }
}

/// `blk.*.attn_q.weight` of `blk.7.attn_q.weight`.
fn starred(name: &str) -> String {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let parts = name.split('.').map(|part| if is_number(part) { "*" } else { part });
    parts.collect::<Vec<_>>().join(".")
}

fn cells<const N: usize>(cells: [&str; N]) -> Vec<String> {
    // Names in a file may hold anything; a line stays a line.
    cells.map(|cell| cell.replace(char::is_control, " ")).to_vec()
}

fn shape(shape: &[usize]) -> String {
    let sizes: Vec<_> = shape.iter().map(usize::to_string).collect();
    sizes.join(" x ")
}

/// A fact as people read it.
fn shown(name: &str, value: &Value) -> String {
    let text = match value {
        Value::Null => "-".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Number(number) => match number.as_u64() {
            Some(number) if name == "bytes" => bytes(number),
            Some(number) => count(number),
            None => number.as_f64().map_or_else(|| number.to_string(), significant),
        },
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(|item| shown(name, item)).collect();
            items.join(", ")
        }
        Value::Object(_) => value.to_string(),
    };
    text.replace(char::is_control, " ")
}
