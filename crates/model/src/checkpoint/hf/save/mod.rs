//! A model written as a Hugging Face folder, which transformers and [`Checkpoint::open`] read: config.json, the weights under
//! transformers' names, and what belongs to the text. The weights come from a [`WeightSource`]: a checkpoint, or what training
//! has made of one.

mod config;
mod rope;
mod text;
mod weights;

use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::folder::CONFIG;
use crate::checkpoint::{Checkpoint, Role, StoredTensor, TextSource};
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
        let named = |refusal: super::Refusal| refusal.at(&checkpoint.path);
        let spec = &checkpoint.spec;
        let (family, mut config, texts) = match &checkpoint.text {
            TextSource::Gguf(gguf) => {
                let (family, mut config) = config::of(spec).map_err(named)?;
                let text = crate::text::gguf::saved(gguf, spec.vocab_size, spec.context_length)?;
                // Without a field transformers takes the family's own token, which this vocabulary may not have.
                let ids = TOKEN_IDS.map(|field| (field.to_owned(), text.ids.get(field).cloned().unwrap_or_default()));
                config.extend(ids);
                (family, config, text.files)
            }
            TextSource::Folder(dir) => {
                let config = super::folder::config(dir).map_err(named)?;
                let fields = super::Fields::new(CONFIG, config.clone());
                let family = super::config::family(&fields).map_err(named)?;
                (family, config, text::of_folder(dir)?)
            }
        };
        config.remove("quantization_config");
        let tensors = weights::stored(family, spec).map_err(named)?;
        Ok(Self { config, tensors, texts })
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
        let (part, old) = (beside(dir, "part"), beside(dir, "old"));
        [&part, &old].into_iter().try_for_each(|left| remove(left))?;
        let written = self.fill(&part, weights, settings);
        if let Err(error) = written {
            // The half of it is of no use, and why it is one is known.
            let _ = fs::remove_dir_all(&part);
            return Err(error);
        }
        if dir.exists() {
            fs::rename(dir, &old).map_err(failed(dir))?;
        }
        fs::rename(&part, dir).map_err(failed(dir))?;
        remove(&old)
    }

    fn fill(&self, dir: &Path, weights: &dyn WeightSource, settings: &SaveSettings<'_>) -> Result<(), ModelError> {
        fs::create_dir_all(dir).map_err(failed(dir))?;
        weights::write(dir, &self.tensors, weights, settings)?;
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

/// A hidden name beside a folder's.
fn beside(dir: &Path, ending: &str) -> PathBuf {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    dir.with_file_name(format!(".{name}.{ending}"))
}

fn remove(dir: &Path) -> Result<(), ModelError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(dir)(error)),
        _ => Ok(()),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), ModelError> {
    let write = || -> io::Result<()> {
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(failed(path))
}

fn failed(path: &Path) -> impl Fn(io::Error) -> ModelError {
    let path = path.to_owned();
    move |error| ModelError::Write {
        path: path.clone(),
        error,
    }
}
