//! A PEFT folder: `adapter_config.json` in peft's terms and the tensors under peft's names.

use std::path::Path;

use rootstock_formats::DType;
use rootstock_formats::peft::{AdapterConfig, ModuleKind, names_module};
use rootstock_formats::safetensors::write::{Entry, header};
use serde_json::{Map as Object, Value, json};

use super::{ModulePair, commonest, module_pairs};
use crate::adapter::container::{CONFIG, WEIGHTS};
use crate::adapter::modules::{Map, Modules};
use crate::adapter::slot::Slot;
use crate::adapter::{Adapter, AdapterError, AdapterErrorCode as Code, AdapterTensor};
use crate::files::{write, write_folder};
use crate::{ArchSpec, ContentHash, ModelError};

/// What a folder holds.
#[derive(Debug)]
pub struct PeftFolder {
    modules: Modules,
    /// What the adapter records as its base.
    pub base_model: Option<String>,
    /// Hash of the base; another base refuses the adapter.
    pub base_hash: Option<ContentHash>,
    /// Pairs, by modules as transformers names them.
    pub pairs: Vec<ModulePair>,
    /// Paths of the modules that are stored whole.
    pub saved: Vec<String>,
    /// Their tensors, and biases.
    pub tensors: Vec<SavedTensor>,
    /// Every bias of the model is among the tensors.
    pub biases: bool,
    /// What is done to one end of a tie is done to both.
    pub keeps_ties: bool,
}

/// A tensor that is stored whole.
#[derive(Debug, Clone)]
pub struct SavedTensor {
    /// Path of its module.
    pub path: String,
    /// What it is to the module.
    pub slot: Slot,
    /// Elements by dimension, as transformers keeps it.
    pub shape: Vec<usize>,
    /// Values.
    pub values: Vec<f32>,
}

impl PeftFolder {
    /// A folder for bases of the architecture `spec`, with nothing in it.
    ///
    /// # Errors
    /// A family whose modules have no known names.
    pub fn new(spec: &ArchSpec) -> Result<Self, AdapterError> {
        let modules = Modules::of(spec).ok_or_else(|| {
            let message = format!("no module names are known for the family {}", spec.family);
            AdapterError::new(Code::UnsupportedType, message)
        })?;
        Ok(Self {
            modules,
            base_model: None,
            base_hash: None,
            pairs: Vec::new(),
            saved: Vec::new(),
            tensors: Vec::new(),
            biases: false,
            keeps_ties: false,
        })
    }

    /// The folder of an adapter of pairs alone.
    ///
    /// # Errors
    /// As [`Self::new`], and for anything but pairs.
    pub fn of(adapter: &Adapter, spec: &ArchSpec) -> Result<Self, AdapterError> {
        let mut folder = Self::new(spec)?;
        let pairs = module_pairs(adapter, &folder.modules, "what is converted to a PEFT folder")?;
        folder.pairs = pairs.into_iter().map(|(_, pair)| pair).collect();
        folder.base_model.clone_from(&adapter.base_model);
        Ok(folder)
    }

    /// The modules that the folder can name.
    pub fn modules(&self) -> &Modules {
        &self.modules
    }

    /// Writes the folder with a model card. It has its name only when it is complete; what was there before is gone then.
    ///
    /// # Errors
    /// Whatever keeps files from being written.
    pub fn write(&self, dir: &Path, card: &str) -> Result<(), ModelError> {
        write_folder(dir, |part| {
            write(&part.join(WEIGHTS), &self.weights())?;
            write(&part.join("README.md"), card.as_bytes())?;
            write(&part.join(CONFIG), format!("{:#}\n", self.config()).as_bytes())
        })
    }

    fn weights(&self) -> Vec<u8> {
        let mut stored = Vec::new();
        for pair in &self.pairs {
            let sides = match self.map(&pair.path).map(|map| map.kind) {
                Some(ModuleKind::Embedding) => [Slot::EmbeddingA, Slot::EmbeddingB],
                _ => [Slot::A, Slot::B],
            };
            for (slot, tensor) in sides.into_iter().zip([&pair.a, &pair.b]) {
                let AdapterTensor {
                    dtype,
                    rows,
                    cols,
                    bytes,
                } = tensor;
                stored.push((
                    slot.name(&pair.path),
                    spelled(*dtype),
                    vec![*rows, *cols],
                    bytes.clone(),
                ));
            }
        }
        for tensor in &self.tensors {
            let bytes = tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect();
            stored.push((tensor.slot.name(&tensor.path), "F32", tensor.shape.clone(), bytes));
        }
        let entries = stored.iter().map(
            |(name, dtype, shape, bytes): &(String, &'static str, Vec<usize>, Vec<u8>)| Entry {
                name: name.clone(),
                dtype,
                shape: shape.clone(),
                bytes: bytes.len(),
            },
        );
        let mut file = header(&entries.collect::<Vec<_>>(), &[("format", "pt")]);
        stored.iter().for_each(|(.., bytes)| file.extend(bytes));
        file
    }

    fn config(&self) -> Value {
        let rank = commonest(self.pairs.iter().map(ModulePair::rank)).unwrap_or(8);
        let alpha = commonest(self.pairs.iter().map(ModulePair::alpha)).unwrap_or(8.0);
        let targets: Vec<&str> = self.pairs.iter().map(|pair| pair.path.as_str()).collect();
        let saved: Vec<&str> = self.saved.iter().map(String::as_str).collect();
        let all: Vec<&str> = self.modules.iter().map(|module| module.path.as_str()).collect();
        let conv1d = |pair: &ModulePair| self.map(&pair.path).is_some_and(|map| map.conv1d);
        let saved = match saved.is_empty() {
            true => Value::Null,
            false => json!(shortened(&saved, &all, AdapterConfig::saved_name_means)),
        };
        let mut config = json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": self.base_model,
            "r": rank,
            "lora_alpha": number(alpha),
            "lora_dropout": 0.0,
            "target_modules": shortened(&targets, &all, names_module),
            "rank_pattern": self.pattern(|pair| pair.rank(), rank, |rank| json!(rank)),
            "alpha_pattern": self.pattern(ModulePair::alpha, alpha, number),
            "bias": if self.biases { "all" } else { "none" },
            "modules_to_save": saved,
            "use_rslora": false,
            "use_dora": false,
            "init_lora_weights": true,
            "fan_in_fan_out": self.pairs.iter().any(conv1d),
            "inference_mode": true,
        });
        if let Some(hash) = self.base_hash {
            config["rootstock_base_hash"] = json!(hash.to_string());
        }
        if self.keeps_ties {
            config["ensure_weight_tying"] = json!(true);
        }
        config
    }

    fn map(&self, path: &str) -> Option<&Map> {
        self.modules
            .maps()
            .find(|(other, _)| *other == path)
            .map(|(_, map)| map)
    }

    /// What differs from the usual value, by names of modules.
    fn pattern<T: PartialEq + Copy>(
        &self,
        of: impl Fn(&ModulePair) -> T,
        usual: T,
        shown: impl Fn(T) -> Value,
    ) -> Value {
        let paths: Vec<&str> = self.pairs.iter().map(|pair| pair.path.as_str()).collect();
        let mut pattern = Object::new();
        for pair in self.pairs.iter().filter(|pair| of(pair) != usual) {
            let alike = self.pairs.iter().filter(|other| of(other) == of(pair));
            let alike: Vec<&str> = alike.map(|other| other.path.as_str()).collect();
            let name = short(&pair.path, &alike, &paths, names_module);
            pattern.insert(name.to_owned(), shown(of(pair)));
        }
        Value::Object(pattern)
    }
}

/// The last part of a path where it means some of `chosen` alone among `all`, else the path.
fn short<'a>(path: &'a str, chosen: &[&str], all: &[&str], means: impl Fn(&str, &str) -> bool) -> &'a str {
    let last = path.rsplit('.').next().unwrap_or(path);
    let meant = all.iter().filter(|other| means(last, other));
    if meant.into_iter().all(|other| chosen.contains(other)) {
        last
    } else {
        path
    }
}

/// Names that mean `chosen` among `all`.
fn shortened<'a>(chosen: &[&'a str], all: &[&str], means: impl Fn(&str, &str) -> bool + Copy) -> Vec<&'a str> {
    let mut names = Vec::new();
    for path in chosen {
        let name = short(path, chosen, all, means);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Whole numbers as integers, as people write them.
fn number(value: f64) -> Value {
    match value.fract() == 0.0 && value.abs() < 1e15 {
        true => json!(value as i64),
        false => json!(value),
    }
}

/// An element type as headers spell it.
fn spelled(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "F16",
        DType::BF16 => "BF16",
        _ => "F32",
    }
}
