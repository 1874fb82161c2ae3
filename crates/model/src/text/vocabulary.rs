//! A byte-level BPE vocabulary as data, however a file spells it, and the Hugging Face pipeline that reads it.

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::{AddedToken, Tokenizer as Pipeline};

use super::TokenId;
use super::byte_level::ByteAlphabet;
use super::cut::Cut;
use super::spelling::Token;
use crate::ModelError;

/// What a token is, apart from its spelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// Reached by merging bytes; spelled in the byte-level alphabet.
    Normal,
    /// Matched whole before merging, and ordinary text otherwise.
    Added,
    /// Matched whole, and a control symbol that is not text.
    Special,
}

/// A byte-level BPE vocabulary; a token's id is its index.
#[derive(Debug, Clone)]
pub struct BpeVocabulary {
    /// Spelling of every token.
    pub tokens: Vec<String>,
    /// Kind of every token.
    pub kinds: Vec<TokenKind>,
    /// Pairs in the order they are merged.
    pub merges: Vec<(String, String)>,
    /// How text is cut before merging.
    pub cut: Cut,
    /// Put before a text that is encoded with special tokens.
    pub prefix: Option<TokenId>,
    /// Ids that end a generation.
    pub end_tokens: Vec<TokenId>,
}

impl BpeVocabulary {
    /// The pipeline that turns text into ids.
    pub(super) fn pipeline(&self) -> Result<Pipeline, ModelError> {
        self.check()?;
        let merging = BPE::builder()
            .vocab_and_merges(ids(&self.tokens)?, self.merges.clone())
            .ignore_merges(self.cut.takes_words_whole())
            .build()
            .map_err(cannot_build)?;
        let mut pipeline = Pipeline::new(merging);
        pipeline.with_normalizer(self.cut.normalizer()).map_err(cannot_build)?;
        pipeline.with_pre_tokenizer(Some(self.cut.steps()?));
        add_whole(&mut pipeline, &self.tokens, &self.kinds, |_| false)?;
        Ok(pipeline)
    }

    /// What every token reads as.
    pub(super) fn readings(&self) -> Vec<Option<Token>> {
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
        self.tokens
            .iter()
            .zip(&self.kinds)
            .map(|entry| Some(token(entry)))
            .collect()
    }

    fn check(&self) -> Result<(), ModelError> {
        let (tokens, kinds) = (self.tokens.len(), self.kinds.len());
        if kinds != tokens {
            return Err(ModelError::Text(format!(
                "tokenizer: {tokens} tokens, but {kinds} token types"
            )));
        }
        match self
            .prefix
            .iter()
            .chain(&self.end_tokens)
            .find(|&&id| id as usize >= tokens)
        {
            Some(id) => Err(ModelError::Text(format!(
                "tokenizer: special id {id}, but only {tokens} tokens"
            ))),
            None => Ok(()),
        }
    }
}

/// Makes the pipeline match added and special tokens whole; of those that `strips` names, with the spaces after them.
pub(super) fn add_whole(
    pipeline: &mut Pipeline,
    tokens: &[String],
    kinds: &[TokenKind],
    strips: impl Fn(&str) -> bool,
) -> Result<(), ModelError> {
    let whole = |kind, special| {
        let tokens = tokens.iter().zip(kinds).filter(|&(_, &k)| k == kind);
        let added = |(token, _): (&String, _)| {
            let added = AddedToken::from(token.clone(), special).normalized(false);
            added.rstrip(strips(token))
        };
        tokens.map(added).collect::<Vec<_>>()
    };
    pipeline
        .add_special_tokens(whole(TokenKind::Special, true))
        .and_then(|_| pipeline.add_tokens(whole(TokenKind::Added, false)))
        .map_err(cannot_build)?;
    Ok(())
}

/// The id of every token, which must be distinct.
pub(super) fn ids(tokens: &[String]) -> Result<Vocab, ModelError> {
    let mut ids = Vocab::with_capacity(tokens.len());
    for (id, token) in (0..).zip(tokens) {
        if token.is_empty() {
            return Err(ModelError::Text(format!("tokenizer: token {id} is empty")));
        }
        if let Some(other) = ids.insert(token.clone(), id) {
            return Err(ModelError::Text(format!(
                "tokenizer: tokens {other} and {id} are both {token:?}"
            )));
        }
    }
    Ok(ids)
}

pub(super) fn cannot_build(error: tokenizers::Error) -> ModelError {
    ModelError::Text(format!("tokenizer: {error}"))
}
