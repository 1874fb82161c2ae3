//! A model written as a GGUF file, which llama.cpp and [`Checkpoint::open`] read. Which type each tensor has is the caller's choice,
//! and so are its bytes: they come from an [`EncodedSource`], a tensor at a time.

mod architecture;
mod metadata;
#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::path::Path;

use rootstock_formats::gguf::{Header, NewTensor, Value};
use rootstock_formats::{DType, PartFile};

use self::metadata::Described;
use crate::checkpoint::{Additions, Checkpoint, Role, StoredTensor, TextSource};
use crate::text::TokenId;
use crate::text::hf::PROBE;
use crate::{ArchSpec, ModelError, RowOrder};

/// The key of the chat template, and what those of templates for special cases begin with.
const TEMPLATE: &str = "tokenizer.chat_template";

/// Where the encoded weights of a model come from.
pub trait EncodedSource {
    /// The tensor of a role as `dtype`: row after row in the model's own order, `[outputs, inputs]`; the factors of a
    /// normalisation as they take effect.
    ///
    /// # Errors
    /// A tensor that cannot be read, or not be had in that type.
    fn encoded(&mut self, role: Role, dtype: DType) -> Result<Vec<u8>, ModelError>;
}

/// A model's file without the values of its weights.
#[derive(Debug, Clone)]
pub struct GgufFile {
    spec: ArchSpec,
    metadata: Vec<(String, Value)>,
    tensors: Vec<StoredTensor>,
    /// What has no role: factors of rotary embeddings.
    constants: Vec<(NewTensor, Vec<u8>)>,
    /// What the file must be read as, where it was not read from one.
    expected: Option<Expected>,
}

/// A model as it was read before it was written in another format.
#[derive(Debug, Clone)]
struct Expected {
    spec: ArchSpec,
    /// Tokens of [`PROBE`].
    probe: Vec<TokenId>,
}

impl GgufFile {
    /// The file of a model with the architecture and the text of `checkpoint`. What a GGUF file says of itself is kept, but for how
    /// it was quantized and into how many parts it was split.
    ///
    /// # Errors
    /// An architecture or a tokenizer that no GGUF file describes.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self, ModelError> {
        Self::with(checkpoint, Additions::default())
    }

    /// The same for a model with more tensors than `checkpoint`.
    ///
    /// # Errors
    /// As [`Self::of`], and for biases that files of the family have no place for.
    pub fn with(checkpoint: &Checkpoint, additions: Additions) -> Result<Self, ModelError> {
        let described = Described::of(checkpoint, additions).map_err(|refusal| refusal.at(&checkpoint.path))?;
        let expected = match checkpoint.text {
            TextSource::Gguf(_) => None,
            TextSource::Folder(_) => Some(Expected {
                spec: described.spec.clone(),
                probe: checkpoint.tokenizer()?.encode(PROBE, true)?,
            }),
        };
        Ok(Self {
            spec: described.spec,
            metadata: described.metadata,
            tensors: described.tensors,
            constants: described.constants,
            expected,
        })
    }

    /// The architecture that the file describes.
    pub fn spec(&self) -> &ArchSpec {
        &self.spec
    }

    /// Puts a chat template in the place of the model's own.
    pub fn set_chat_template(&mut self, source: &str) {
        self.metadata.retain(|(key, _)| !key.starts_with(TEMPLATE));
        self.metadata
            .push((TEMPLATE.to_owned(), Value::String(source.to_owned())));
    }

    /// Its tensors, but for those without a role.
    pub fn tensors(&self) -> &[StoredTensor] {
        &self.tensors
    }

    /// Bytes of the whole file, for `types` of its tensors in their order.
    ///
    /// # Errors
    /// A type that a tensor's rows are no whole number of blocks of.
    pub fn bytes(&self, types: &[DType]) -> Result<u64, ModelError> {
        let header = self.header(types)?;
        Ok(header.places.last().map_or(header.bytes.len(), |place| place.end) as u64)
    }

    /// Writes the file, which has its name only when it is complete. `types` are those of the tensors in their order.
    ///
    /// # Errors
    /// A type that does not fit a tensor, weights that cannot be read, or whatever keeps the file from being written; what was
    /// there before is untouched then.
    pub fn write(&self, path: &Path, types: &[DType], source: &mut dyn EncodedSource) -> Result<(), ModelError> {
        let header = self.header(types)?;
        let failed = |error| ModelError::Write {
            path: path.to_owned(),
            error,
        };
        let mut to = PartFile::create(path).map_err(failed)?;
        to.write_all(&header.bytes).map_err(failed)?;
        let mut places = header.places.iter();
        let mut at = header.bytes.len();
        for (_, bytes) in &self.constants {
            put(&mut to, &mut at, places.next(), bytes).map_err(failed)?;
        }
        for (tensor, &dtype) in self.tensors.iter().zip(types) {
            for (index, &(role, order)) in tensor.parts.iter().enumerate() {
                let rows = in_order(source.encoded(role, dtype)?, order, tensor, index);
                let place = if index == 0 { places.next() } else { None };
                put(&mut to, &mut at, place, &rows).map_err(failed)?;
            }
        }
        if places.next().is_some() {
            return Err(failed(io::Error::other("a type is missing for a tensor")));
        }
        if let Some(expected) = &self.expected {
            expected.check(to.so_far().map_err(failed)?)?;
        }
        to.finish().map_err(failed)
    }

    fn header(&self, types: &[DType]) -> Result<Header, ModelError> {
        let typed = self.tensors.iter().zip(types).map(|(tensor, &dtype)| NewTensor {
            name: tensor.name.clone(),
            dtype,
            shape: tensor.shape.clone(),
        });
        let constants = self.constants.iter().map(|(tensor, _)| tensor.clone());
        let tensors: Vec<NewTensor> = constants.chain(typed).collect();
        let mut metadata = self.metadata.clone();
        metadata.extend(metadata::precision(&tensors));
        // What is about the file stands before what is about the model.
        metadata.sort_by_key(|(key, _)| !key.starts_with("general."));
        Header::new(&metadata, &tensors).map_err(|error| ModelError::Text(error.to_string()))
    }
}

impl Expected {
    /// Reads a file back: keys that say less than the model was would give another model without a word.
    fn check(&self, path: &Path) -> Result<(), ModelError> {
        let read = Checkpoint::open(path)?;
        let spec = ArchSpec {
            family: self.spec.family.clone(),
            ..read.spec.clone()
        };
        let what = if spec != self.spec {
            "its architecture"
        } else if read.tokenizer()?.encode(PROBE, true)? != self.probe {
            "its tokenizer"
        } else {
            return Ok(());
        };
        Err(ModelError::Unsupported {
            path: path.to_owned(),
            reason: format!("{what} cannot be said in a GGUF file: it would be read as another one"),
        })
    }
}

/// Writes bytes at a place, with zeros before it; without a place, where the last ones ended.
fn put(to: &mut PartFile, at: &mut usize, place: Option<&std::ops::Range<usize>>, bytes: &[u8]) -> io::Result<()> {
    if let Some(place) = place {
        to.write_all(&vec![0; place.start - *at])?;
        *at = place.start;
    }
    *at += bytes.len();
    to.write_all(bytes)
}

/// Rows of one part of a tensor, put into the order that the file keeps them in.
fn in_order(rows: Vec<u8>, order: RowOrder, tensor: &StoredTensor, part: usize) -> Vec<u8> {
    if order == RowOrder::Natural {
        return rows;
    }
    let count = tensor.part_rows(part);
    let stride = rows.len() / count.max(1);
    let mut ordered = vec![0; rows.len()];
    for (row, bytes) in rows.chunks_exact(stride.max(1)).enumerate() {
        ordered[order.stored_row(row) * stride..][..stride].copy_from_slice(bytes);
    }
    ordered
}
