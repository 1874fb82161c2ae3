//! A base model on disk: architecture, tensors by role, tokenizer and chat template.

mod family;
mod metadata;
mod tensors;
#[cfg(test)]
mod tests;
mod vocabulary;

use std::fmt::Display;
use std::path::{Path, PathBuf};

use rootstock_formats::gguf::Gguf;
use rootstock_formats::mmap::MappedFile;
use rootstock_formats::{FormatError, TensorInfo};

use self::family::Family;
use self::tensors::Tensors;
use crate::text::{ChatTemplate, Tokenizer};
use crate::{ArchSpec, ContentHash, MatrixView, ModelError, Projection, RowOrder, Site};

/// The normalisations of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NormSite {
    /// Before attention of a layer.
    Attention(usize),
    /// Before the feed-forward of a layer.
    FeedForward(usize),
    /// Before the output projection.
    Final,
}

/// An opened base model. The file stays mapped until it is dropped.
pub struct Checkpoint {
    path: PathBuf,
    file: MappedFile,
    hash: ContentHash,
    gguf: Gguf,
    family: &'static Family,
    spec: ArchSpec,
    tensors: Tensors,
}

impl Checkpoint {
    /// Opens a GGUF file and checks that every tensor the architecture needs is there with its shape, and no other.
    ///
    /// # Errors
    /// Unreadable files, unknown architectures or fields that would change the numbers, missing, misshapen or
    /// superfluous tensors.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        Self::read(path).map_err(|refusal| refusal.at(path))
    }

    fn read(path: &Path) -> Result<Self, Refusal> {
        let file = MappedFile::open(path)?;
        let gguf = Gguf::parse(&file)?;
        let family = metadata::family(&gguf)?;
        let spec = metadata::spec(&gguf, family)?;
        let tensors = Tensors::find(&file, &gguf, family, &spec)?;
        Ok(Self {
            path: path.to_owned(),
            hash: ContentHash(*blake3::hash(&file).as_bytes()),
            file,
            gguf,
            family,
            spec,
            tensors,
        })
    }

    /// The architecture.
    pub fn spec(&self) -> &ArchSpec {
        &self.spec
    }

    /// Hash of the file's content.
    pub fn hash(&self) -> ContentHash {
        self.hash
    }

    /// Token embedding, `[vocab_size, hidden_size]`.
    pub fn embedding(&self) -> MatrixView<'_> {
        self.view(&self.tensors.embedding, RowOrder::Natural)
    }

    /// Output projection, `[vocab_size, hidden_size]`; the embedding itself where they are tied.
    pub fn output(&self) -> MatrixView<'_> {
        let tensor = self.tensors.output.as_ref().unwrap_or(&self.tensors.embedding);
        self.view(tensor, RowOrder::Natural)
    }

    /// Weight of a linear map, `[outputs, inputs]`.
    ///
    /// # Panics
    /// If the layer does not exist.
    pub fn projection(&self, site: Site) -> MatrixView<'_> {
        let rotary = matches!(site.projection, Projection::Query | Projection::Key);
        let row_order = if rotary && self.family.interleaved_rotary {
            let head_dim = self.spec.layers[site.layer].attention.head_dim;
            RowOrder::InterleavedHalves { head_dim }
        } else {
            RowOrder::Natural
        };
        self.view(self.tensors.projection(site.layer, site.projection), row_order)
    }

    /// Weights of a normalisation, `[hidden_size]`.
    ///
    /// # Panics
    /// If the layer does not exist.
    pub fn norm(&self, site: NormSite) -> Vec<f32> {
        self.tensors.norm(site).to_vec()
    }

    /// The tokenizer the file embeds.
    ///
    /// # Errors
    /// For a kind that is not supported or is inconsistent.
    pub fn tokenizer(&self) -> Result<Tokenizer, ModelError> {
        let vocabulary = vocabulary::read(&self.gguf, self.spec.vocab_size);
        Tokenizer::from_bpe(&vocabulary.map_err(|refusal| refusal.at(&self.path))?)
    }

    /// The chat template the file embeds, if any.
    ///
    /// # Errors
    /// [`ModelError::Text`] if it does not parse.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>, ModelError> {
        let template = vocabulary::chat_template(&self.gguf).map_err(|refusal| refusal.at(&self.path))?;
        template
            .map(|(source, markers)| ChatTemplate::new(source, markers))
            .transpose()
    }

    fn view(&self, tensor: &TensorInfo, row_order: RowOrder) -> MatrixView<'_> {
        MatrixView {
            dtype: tensor.dtype,
            rows: tensor.shape[0],
            cols: tensor.shape[1],
            bytes: &self.file[tensor.range.clone()],
            row_order,
        }
    }
}

/// Longest message about a file, in characters: names in it may be of any length.
const LONGEST_REASON: usize = 400;

/// Why a file is not a base model, before its path is known.
enum Refusal {
    Format(FormatError),
    Unsupported(String),
}

impl Refusal {
    fn unsupported(reason: impl Display) -> Self {
        Self::Unsupported(reason.to_string().chars().take(LONGEST_REASON).collect())
    }

    fn at(self, path: &Path) -> ModelError {
        let path = path.to_owned();
        match self {
            Self::Format(source) => ModelError::Format { path, source },
            Self::Unsupported(reason) => ModelError::Unsupported { path, reason },
        }
    }
}

impl From<FormatError> for Refusal {
    fn from(error: FormatError) -> Self {
        Self::Format(error)
    }
}
