//! A base model on disk: architecture, tensors by role, tokenizer and chat template.

use std::path::Path;

use crate::text::{ChatTemplate, Tokenizer};
use crate::{ArchSpec, ContentHash, MatrixView, ModelError, Site};

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

/// An opened base model.
pub struct Checkpoint {}

impl Checkpoint {
    /// Opens a GGUF file and checks that every tensor the architecture needs is there with its shape.
    ///
    /// # Errors
    /// Unreadable files, unknown architectures or fields that would change the numbers, missing or misshapen tensors.
    pub fn open(_path: &Path) -> Result<Self, ModelError> {
        todo!()
    }

    /// The architecture.
    pub fn spec(&self) -> &ArchSpec {
        todo!()
    }

    /// Hash of the file's content.
    pub fn hash(&self) -> ContentHash {
        todo!()
    }

    /// Token embedding, `[vocab_size, hidden_size]`.
    pub fn embedding(&self) -> MatrixView<'_> {
        todo!()
    }

    /// Output projection, `[vocab_size, hidden_size]`; the embedding itself where they are tied.
    pub fn output(&self) -> MatrixView<'_> {
        todo!()
    }

    /// Weight of a linear map, `[outputs, inputs]`.
    pub fn projection(&self, _site: Site) -> MatrixView<'_> {
        todo!()
    }

    /// Weights of a normalisation, `[hidden_size]`.
    pub fn norm(&self, _site: NormSite) -> Vec<f32> {
        todo!()
    }

    /// The tokenizer the file embeds.
    ///
    /// # Errors
    /// [`ModelError::Text`] for a kind that is not supported or is inconsistent.
    pub fn tokenizer(&self) -> Result<Tokenizer, ModelError> {
        todo!()
    }

    /// The chat template the file embeds, if any.
    ///
    /// # Errors
    /// [`ModelError::Text`] if it does not parse.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>, ModelError> {
        todo!()
    }
}
