//! A base model on disk: architecture, tensors by role, tokenizer and chat template, whatever container they come in.
//!
//! A container (`gguf`, `hf`) gives three things: the [`ArchSpec`] its metadata describes, its files as `Shards`, and a
//! `NameTable` that says where each role lies. Everything else is
//! shared: every tensor the architecture needs is there with its shape, and no other.

mod additions;
mod gguf;
mod hf;
mod inventory;
mod roles;
mod rotary;
mod shards;
mod stored;
mod tensors;

use std::fmt::Display;
use std::path::{Path, PathBuf};

use rootstock_formats::FormatError;

pub use self::additions::Additions;
pub use self::gguf::save::{EncodedSource, GgufFile};
pub use self::hf::save::{FloatType, GroupLayout, GroupedFolder, Grouping, ModelFolder, SaveSettings, WeightSource};
pub use self::inventory::FileTensor;
pub use self::roles::Role;
pub use self::stored::StoredTensor;
use self::tensors::Tensors;
use crate::text::{ChatTemplate, Markers, Tokenizer};
use crate::{ArchSpec, ContentHash, MatrixView, ModelError, Norm, NormSite, Projection};

/// What `general.architecture` may say in a GGUF file that is served.
pub fn gguf_architectures() -> impl Iterator<Item = &'static str> {
    gguf::architectures()
}

/// What `model_type` may say in the config.json of a Hugging Face folder that is served.
pub fn hf_architectures() -> impl Iterator<Item = &'static str> {
    hf::architectures()
}

/// What `quant_method` may say in the config.json of a Hugging Face folder that is served.
pub fn hf_quantizations() -> impl Iterator<Item = &'static str> {
    hf::quantizations()
}

/// An opened base model. Its files stay mapped until it is dropped.
pub struct Checkpoint {
    path: PathBuf,
    hash: ContentHash,
    spec: ArchSpec,
    tensors: Tensors,
    text: TextSource,
}

/// What a container tells before its tensors are looked up.
struct Opened {
    spec: ArchSpec,
    hash: ContentHash,
    shards: shards::Shards,
    names: Box<dyn roles::NameTable>,
    text: TextSource,
}

/// Where tokenizer and chat template come from.
enum TextSource {
    /// Metadata of a GGUF file.
    Gguf(Box<rootstock_formats::gguf::Gguf>),
    /// Files of a folder.
    Folder(PathBuf),
}

impl Checkpoint {
    /// Opens a GGUF file (any part of a split one) or a Hugging Face folder and checks that every tensor the
    /// architecture needs is there with its shape, and no other.
    ///
    /// # Errors
    /// Unreadable files, unknown architectures or fields that would change the numbers, missing, misshapen or
    /// superfluous tensors.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let opened = if path.is_dir() {
            hf::open(path)
        } else {
            gguf::open(path)
        };
        let found = opened.and_then(|opened| {
            let tensors = Tensors::find(opened.shards, &*opened.names, &opened.spec)?;
            Ok((opened.spec, opened.hash, tensors, opened.text))
        });
        let (spec, hash, tensors, text) = found.map_err(|refusal| refusal.at(path))?;
        Ok(Self {
            path: path.to_owned(),
            hash,
            spec,
            tensors,
            text,
        })
    }

    /// The architecture.
    pub fn spec(&self) -> &ArchSpec {
        &self.spec
    }

    /// Hash of the content: the file's bytes, or the configuration and every weight file of a folder.
    pub fn hash(&self) -> ContentHash {
        self.hash
    }

    /// Token embedding, `[vocab_size, hidden_size]`.
    ///
    /// # Errors
    /// A tensor that contradicts its encoding, as for every matrix below.
    pub fn embedding(&self) -> Result<MatrixView<'_>, ModelError> {
        self.matrix(Role::Embedding)
    }

    /// Learned embeddings of positions, `[positions, hidden_size]`, if the architecture has them.
    ///
    /// # Errors
    /// As [`Self::embedding`].
    pub fn position_embedding(&self) -> Result<Option<MatrixView<'_>>, ModelError> {
        let exists = self.spec.position_embeddings.is_some();
        exists.then(|| self.matrix(Role::Positions)).transpose()
    }

    /// Output projection, `[vocab_size, hidden_size]`; the embedding itself where they are tied.
    ///
    /// # Errors
    /// As [`Self::embedding`].
    pub fn output(&self) -> Result<MatrixView<'_>, ModelError> {
        self.matrix(if self.spec.tied_output {
            Role::Embedding
        } else {
            Role::Output
        })
    }

    /// Weight of a linear map of a layer, `[outputs, inputs]`.
    ///
    /// # Errors
    /// As [`Self::embedding`].
    ///
    /// # Panics
    /// If the architecture has no such map.
    pub fn projection(&self, layer: usize, projection: Projection) -> Result<MatrixView<'_>, ModelError> {
        self.matrix(Role::Weight { layer, projection })
    }

    /// Bias of a linear map of a layer, `[outputs]`, if it has one.
    pub fn bias(&self, layer: usize, projection: Projection) -> Option<&[f32]> {
        self.tensors.vector(Role::Bias { layer, projection })
    }

    /// Weights of a normalisation.
    ///
    /// # Panics
    /// If the architecture has no such normalisation.
    pub fn norm(&self, site: NormSite) -> Norm {
        let weight = self.tensors.vector(Role::Norm(site));
        Norm {
            weight: weight.unwrap_or_else(|| panic!("no normalisation {site:?}")).to_vec(),
            bias: self.tensors.vector(Role::NormBias(site)).map(<[f32]>::to_vec),
        }
    }

    /// The tokenizer that comes with the model.
    ///
    /// # Errors
    /// For a kind that is not supported or is inconsistent.
    pub fn tokenizer(&self) -> Result<Tokenizer, ModelError> {
        let tokenizer = match &self.text {
            TextSource::Gguf(gguf) => crate::text::gguf::tokenizer(gguf, self.spec.vocab_size),
            TextSource::Folder(dir) => crate::text::hf::tokenizer(dir, self.spec.vocab_size),
        };
        tokenizer.map_err(|error| self.named(error))
    }

    /// The chat template that comes with the model, if any.
    ///
    /// # Errors
    /// [`ModelError::Text`] if it does not parse.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>, ModelError> {
        let template = match &self.text {
            TextSource::Gguf(gguf) => crate::text::gguf::chat_template(gguf),
            TextSource::Folder(dir) => crate::text::hf::chat_template(dir),
        };
        template.map_err(|error| self.named(error))
    }

    /// An error of the text with the model it comes from.
    fn named(&self, error: ModelError) -> ModelError {
        match error {
            ModelError::Text(message) => ModelError::Text(format!("{}: {message}", self.path.display())),
            other => other,
        }
    }

    /// Spelling of the special tokens that chat templates refer to, for templates that come from elsewhere.
    ///
    /// # Errors
    /// As [`Self::tokenizer`].
    pub fn markers(&self) -> Result<Markers, ModelError> {
        match &self.text {
            TextSource::Gguf(gguf) => crate::text::gguf::markers(gguf),
            TextSource::Folder(dir) => crate::text::hf::markers(dir),
        }
    }

    fn matrix(&self, role: Role) -> Result<MatrixView<'_>, ModelError> {
        self.tensors.matrix(role).map_err(|refusal| refusal.at(&self.path))
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
            Self::Format(error) => ModelError::Format { path, error },
            Self::Unsupported(reason) => ModelError::Unsupported { path, reason },
        }
    }
}

impl From<FormatError> for Refusal {
    fn from(error: FormatError) -> Self {
        Self::Format(error)
    }
}
