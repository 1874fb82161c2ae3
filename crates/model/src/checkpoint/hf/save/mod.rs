//! A model written as a Hugging Face folder, which transformers and [`Checkpoint::open`] read: config.json, the weights under
//! transformers' names, and what belongs to the text. The weights come from a [`WeightSource`]: a checkpoint, or what training
//! has made of one.

mod config;
mod groups;
mod rope;
mod text;
mod weights;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use rootstock_formats::DType;
use serde_json::{Map, Value};

pub use self::groups::{GroupLayout, Grouping};
use self::weights::Source;
use super::folder::CONFIG;
use crate::checkpoint::{Additions, Checkpoint, EncodedSource, Role, StoredTensor, TextSource};
use crate::files::{write, write_folder};
use crate::{ModelError, packing};

/// Element types that weights are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FloatType {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// Upper half of an IEEE single.
    Bf16,
}

/// Fields of config.json that name tokens.
const TOKEN_IDS: [&str; 3] = ["bos_token_id", "eos_token_id", "pad_token_id"];

/// Where the weights of a model come from.
pub trait WeightSource {
    /// Appends the elements of a tensor as the architecture has it: a matrix row by row, `[outputs, inputs]`; the factors of a
    /// normalisation as they take effect.
    ///
    /// # Errors
    /// A tensor that cannot be read.
    fn append(&self, role: Role, to: &mut Vec<f32>) -> Result<(), ModelError>;

    /// Lets go of what reading tensors has left in memory.
    fn release(&self) {}

    /// The same of some rows of a matrix of `rows`; cheaper than the whole where the source reads row by row.
    ///
    /// # Errors
    /// As [`Self::append`].
    fn append_rows(&self, role: Role, wanted: Range<usize>, rows: usize, to: &mut Vec<f32>) -> Result<(), ModelError> {
        let mut all = Vec::new();
        self.append(role, &mut all)?;
        let width = all.len() / rows.max(1);
        to.extend_from_slice(&all[wanted.start * width..wanted.end * width]);
        Ok(())
    }
}

/// How a folder is written.
#[derive(Debug, Clone, Copy)]
pub struct SaveSettings<'a> {
    /// Element type of the weights.
    pub float: FloatType,
    /// Most bytes of a file of weights; a tensor that is larger has a file of its own.
    pub shard_bytes: u64,
    /// `README.md`, a model card.
    pub card: &'a str,
}

impl SaveSettings<'_> {
    /// Bytes of a file of weights as transformers cuts them.
    pub const SHARD_BYTES: u64 = 5_000_000_000;
}

/// A model's folder without the values of its weights.
#[derive(Debug, Clone)]
pub struct ModelFolder {
    config: Map<String, Value>,
    tensors: Vec<StoredTensor>,
    /// Tokenizer, chat template and settings of generation, by their names.
    texts: Vec<(String, Vec<u8>)>,
}

impl ModelFolder {
    /// The folder of a model with the architecture and the text of `checkpoint`. A folder's own config.json is kept; that of a
    /// GGUF file is made from its architecture, and read back to be sure that it says the same.
    ///
    /// # Errors
    /// An architecture that no config.json describes, or a tokenizer that cannot be read.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self, ModelError> {
        Self::with(checkpoint, Additions::default())
    }

    /// The same for a model with more tensors than `checkpoint`.
    ///
    /// # Errors
    /// As [`Self::of`], and for additions that the family's config.json cannot state.
    pub fn with(checkpoint: &Checkpoint, additions: Additions) -> Result<Self, ModelError> {
        let named = |refusal: super::Refusal| refusal.at(&checkpoint.path);
        let spec = &checkpoint.spec;
        let (described, texts) = match &checkpoint.text {
            TextSource::Gguf(gguf) => {
                let mut described = config::of(spec, additions).map_err(named)?;
                let text = crate::text::gguf::saved(gguf, spec.vocab_size, spec.context_length)?;
                // Without a field transformers takes the family's own token, which this vocabulary may not have.
                let ids = TOKEN_IDS.map(|field| (field.to_owned(), text.ids.get(field).cloned().unwrap_or_default()));
                described.config.extend(ids);
                (described, text.files)
            }
            TextSource::Folder(dir) => {
                let config = super::folder::config(dir).map_err(named)?;
                let described = config::of_folder(config, spec, additions).map_err(named)?;
                (described, text::of_folder(dir)?)
            }
        };
        Ok(Self {
            tensors: weights::stored(described.family, &described.spec).map_err(named)?,
            config: described.config,
            texts,
        })
    }

    /// Puts a chat template in the place of the model's own.
    pub fn set_chat_template(&mut self, source: &str) {
        self.texts.retain(|(name, _)| !text::is_template(name));
        self.texts.push((text::TEMPLATE.to_owned(), source.as_bytes().to_vec()));
    }

    /// Tensors that are written.
    pub fn tensors(&self) -> usize {
        self.tensors.len()
    }

    /// Bytes of the weights.
    pub fn weight_bytes(&self, float: FloatType) -> u64 {
        self.tensors.iter().map(|tensor| weights::bytes(tensor, float)).sum()
    }

    /// Writes the folder. It has its name only when it is complete; what was there before is gone then.
    ///
    /// # Errors
    /// Whatever keeps files from being written, or weights from being read; nothing is left of the folder then.
    pub fn write(&self, dir: &Path, weights: &dyn WeightSource, settings: &SaveSettings<'_>) -> Result<(), ModelError> {
        let mut source = Source { weights, grouped: None };
        write_folder(dir, |part| self.fill(part, &mut source, settings))
    }

    /// The folder with the maps of its layers as integers.
    ///
    /// # Errors
    /// Bits or groups that are not written, or maps that cannot be kept so.
    pub fn grouped(mut self, grouping: Grouping) -> Result<GroupedFolder, ModelError> {
        let refused = |reason: String| Err(ModelError::Text(reason));
        if let Some(misfit) = grouping.misfit() {
            return refused(misfit);
        }
        let maps = || self.tensors.iter().filter(|tensor| groups::is_map(tensor));
        let floats: Vec<&str> = maps()
            .filter(|tensor| !grouping.takes(tensor))
            .map(groups::module)
            .collect();
        let size = grouping.group_size;
        match (grouping.layout, floats.as_slice()) {
            (_, []) => {}
            (GroupLayout::Gptq, [first, ..]) => {
                return refused(format!(
                    "{first}: its inputs are no whole number of groups of {size}, and in GPTQ's layout all maps are \
                     integers; take smaller groups or compressed-tensors"
                ));
            }
            _ if floats.len() == maps().count() => {
                return refused(format!(
                    "no map of a layer can be kept in groups of {size}; take smaller groups"
                ));
            }
            _ => {}
        }
        let ignored = [&["lm_head"], floats.as_slice()].concat();
        let config = grouping.config(&ignored);
        self.config.insert("quantization_config".to_owned(), config);
        Ok(GroupedFolder { folder: self, grouping })
    }

    fn fill(&self, dir: &Path, source: &mut Source<'_>, settings: &SaveSettings<'_>) -> Result<(), ModelError> {
        weights::write(dir, &self.tensors, source, settings)?;
        for (name, bytes) in &self.texts {
            write(&dir.join(name), bytes)?;
        }
        write(&dir.join("README.md"), settings.card.as_bytes())?;
        let mut config = self.config.clone();
        // Newer files call it `dtype`.
        let field = if config.contains_key("dtype") {
            "dtype"
        } else {
            "torch_dtype"
        };
        config.insert(field.to_owned(), settings.float.torch_name().into());
        write(&dir.join(CONFIG), format!("{:#}\n", Value::Object(config)).as_bytes())
    }
}

/// A model's folder whose maps are integers in groups, without the values of its weights.
#[derive(Debug, Clone)]
pub struct GroupedFolder {
    folder: ModelFolder,
    grouping: Grouping,
}

impl GroupedFolder {
    /// All tensors of the model.
    pub fn tensors(&self) -> &[StoredTensor] {
        &self.folder.tensors
    }

    /// Those that become integers.
    pub fn modules(&self) -> impl Iterator<Item = &StoredTensor> {
        let tensors = self.folder.tensors.iter();
        tensors.filter(|tensor| self.grouping.takes(tensor))
    }

    /// The types that these are asked for in.
    pub fn types(&self) -> BTreeMap<Role, DType> {
        let roles = self.modules().flat_map(|tensor| tensor.parts.iter());
        roles.map(|&(role, _)| (role, self.grouping.dtype())).collect()
    }

    /// As [`ModelFolder::write`], with maps of layers from `maps`: as blocks that share the scale and the zero point of their group.
    ///
    /// # Errors
    /// Those of [`ModelFolder::write`].
    pub fn write(
        &self,
        dir: &Path,
        weights: &dyn WeightSource,
        maps: &mut dyn EncodedSource,
        settings: &SaveSettings<'_>,
    ) -> Result<(), ModelError> {
        let mut source = Source {
            weights,
            grouped: Some((self.grouping, maps)),
        };
        write_folder(dir, |part| self.folder.fill(part, &mut source, settings))
    }
}

impl FloatType {
    fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
        }
    }
}

impl WeightSource for Checkpoint {
    fn release(&self) {
        self.tensors.shards().release();
    }

    fn append(&self, role: Role, to: &mut Vec<f32>) -> Result<(), ModelError> {
        if let Some(values) = self.tensors.vector(role) {
            to.extend_from_slice(values);
            return Ok(());
        }
        let rows = self.matrix(role)?.rows;
        self.append_rows(role, 0..rows, rows, to)
    }

    fn append_rows(&self, role: Role, wanted: Range<usize>, _: usize, to: &mut Vec<f32>) -> Result<(), ModelError> {
        let view = self.matrix(role)?;
        packing::append_rows(&view, wanted, to).map_err(|error| ModelError::Unsupported {
            path: self.path.clone(),
            reason: format!("{role}: {error}"),
        })
    }
}
