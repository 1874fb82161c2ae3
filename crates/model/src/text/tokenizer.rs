//! Text to ids and back, equal to what Hugging Face's tokenizers give.

use tokenizers::tokenizer::{OffsetType, PreTokenizedString};
use tokenizers::{Model, PreTokenizer, Tokenizer as Pipeline};

use super::byte_level::ByteAlphabet;
use super::vocabulary::{BpeVocabulary, TokenKind};
use crate::ModelError;

/// Index into the vocabulary.
pub type TokenId = u32;

/// A tokenizer and the ids that end a turn.
pub struct Tokenizer {
    pipeline: Pipeline,
    prefix: Option<TokenId>,
    end_tokens: Vec<TokenId>,
    tokens: Vec<Token>,
}

struct Token {
    bytes: Box<[u8]>,
    special: bool,
}

impl Tokenizer {
    /// A tokenizer over a byte-level BPE vocabulary.
    ///
    /// # Errors
    /// [`ModelError::Text`] if the vocabulary contradicts itself.
    pub fn from_bpe(vocabulary: &BpeVocabulary) -> Result<Self, ModelError> {
        let alphabet = ByteAlphabet::new();
        let token = |(spelling, &kind): (&String, &TokenKind)| Token {
            bytes: match kind {
                TokenKind::Normal => alphabet.bytes_of(spelling),
                TokenKind::Added | TokenKind::Special => None,
            }
            .unwrap_or_else(|| spelling.clone().into_bytes())
            .into_boxed_slice(),
            special: kind == TokenKind::Special,
        };
        Ok(Self {
            pipeline: vocabulary.pipeline()?,
            prefix: vocabulary.prefix,
            end_tokens: vocabulary.end_tokens.clone(),
            tokens: vocabulary.tokens.iter().zip(&vocabulary.kinds).map(token).collect(),
        })
    }

    /// Token ids of `text`. Special tokens spelled out in it become their ids (chat templates need that).
    /// `add_special` adds what the tokenizer adds by itself (a BOS, if it has one). Bytes that the vocabulary has no token
    /// for are dropped (SmolLM2 lacks a few control characters).
    ///
    /// # Errors
    /// [`ModelError::Text`] if the tokenizer fails.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<TokenId>, ModelError> {
        let encoding = self.pipeline.encode_fast(text, false).map_err(cannot_encode)?;
        let prefix = self.prefix.filter(|_| add_special);
        Ok(prefix.into_iter().chain(encoding.get_ids().iter().copied()).collect())
    }

    /// Token ids of `text` as text only: a special token spelled out in it stays the characters it is spelled with.
    ///
    /// # Errors
    /// [`ModelError::Text`] if the tokenizer fails.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<TokenId>, ModelError> {
        let mut words = PreTokenizedString::from(text);
        if let Some(cut) = self.pipeline.get_pre_tokenizer() {
            cut.pre_tokenize(&mut words).map_err(cannot_encode)?;
        }
        words
            .tokenize(|word| self.pipeline.get_model().tokenize(word.get()))
            .map_err(cannot_encode)?;
        let encoding = words.into_encoding(None, 0, OffsetType::None).map_err(cannot_encode)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Text of `ids`; bytes that do not form UTF-8 become U+FFFD. Ids outside the vocabulary have no text.
    pub fn decode(&self, ids: &[TokenId], skip_special: bool) -> String {
        let shown = ids.iter().filter(|&&id| !(skip_special && self.is_special(id)));
        let bytes: Vec<u8> = shown
            .filter_map(|&id| self.token_bytes(id))
            .flatten()
            .copied()
            .collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The bytes a single token stands for; `None` outside the vocabulary.
    pub fn token_bytes(&self, id: TokenId) -> Option<&[u8]> {
        Some(&self.tokens.get(id as usize)?.bytes)
    }

    /// Text of a single token; bytes that do not form UTF-8 by themselves become U+FFFD. Empty outside the vocabulary.
    pub fn token_text(&self, id: TokenId) -> String {
        String::from_utf8_lossy(self.token_bytes(id).unwrap_or_default()).into_owned()
    }

    /// Whether `id` is a special (control) token.
    pub fn is_special(&self, id: TokenId) -> bool {
        self.tokens.get(id as usize).is_some_and(|token| token.special)
    }

    /// Ids that end a generation unless the request says otherwise: end of sequence and end of turn.
    pub fn end_tokens(&self) -> &[TokenId] {
        &self.end_tokens
    }

    /// Size of the vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.tokens.len()
    }
}

fn cannot_encode(error: tokenizers::Error) -> ModelError {
    ModelError::Text(format!("tokenizer: {error}"))
}

#[cfg(test)]
mod tests;
