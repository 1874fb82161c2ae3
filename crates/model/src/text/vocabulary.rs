//! A byte-level BPE vocabulary as data, however a file spells it, and the Hugging Face pipeline that reads it.

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, Tokenizer as Pipeline};

use super::TokenId;
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

/// How text is cut into words before bytes are merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// GPT-2's words.
    Gpt2,
    /// Every digit alone, then GPT-2's words.
    DigitsThenGpt2,
}

/// GGUF's names for the ways of cutting.
const CUT_NAMES: [(&str, Cut); 2] = [("gpt-2", Cut::Gpt2), ("smollm", Cut::DigitsThenGpt2)];

impl Cut {
    /// The way of cutting that GGUF's `tokenizer.ggml.pre` names; `None` if it is not supported.
    pub fn from_gguf_name(name: &str) -> Option<Self> {
        CUT_NAMES.iter().find(|(known, _)| *known == name).map(|&(_, cut)| cut)
    }

    /// Every name that [`Cut::from_gguf_name`] knows.
    pub fn gguf_names() -> impl Iterator<Item = &'static str> {
        CUT_NAMES.iter().map(|&(name, _)| name)
    }

    fn steps(self) -> PreTokenizerWrapper {
        let words = PreTokenizerWrapper::from(ByteLevel::new(false, true, true));
        match self {
            Self::Gpt2 => words,
            Self::DigitsThenGpt2 => Sequence::new(vec![Digits::new(true).into(), words]).into(),
        }
    }
}

impl BpeVocabulary {
    /// The pipeline that turns text into ids.
    pub(super) fn pipeline(&self) -> Result<Pipeline, ModelError> {
        self.check()?;
        let merging = BPE::builder()
            .vocab_and_merges(self.ids()?, self.merges.clone())
            .build()
            .map_err(|error| ModelError::Text(format!("tokenizer: {error}")))?;
        let mut pipeline = Pipeline::new(merging);
        pipeline.with_pre_tokenizer(Some(self.cut.steps()));
        let whole = |kind, special| {
            let tokens = self.tokens.iter().zip(&self.kinds).filter(move |&(_, &k)| k == kind);
            tokens
                .map(move |(token, _)| AddedToken::from(token.clone(), special).normalized(false))
                .collect::<Vec<_>>()
        };
        pipeline
            .add_special_tokens(whole(TokenKind::Special, true))
            .and_then(|_| pipeline.add_tokens(whole(TokenKind::Added, false)))
            .map_err(|error| ModelError::Text(format!("tokenizer: {error}")))?;
        Ok(pipeline)
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

    fn ids(&self) -> Result<Vocab, ModelError> {
        let mut ids = Vocab::with_capacity(self.tokens.len());
        for (id, token) in (0..).zip(&self.tokens) {
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
}
