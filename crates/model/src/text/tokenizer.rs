//! Text to ids and back, equal to what Hugging Face's tokenizers give.

use tokenizers::tokenizer::{AddedVocabulary, OffsetType};
use tokenizers::{Model, NormalizedString, PreTokenizer, Token, Tokenizer as Pipeline};

use super::spelling::{Lead, Spelling};
use super::vocabulary::BpeVocabulary;
use crate::ModelError;

mod offsets;

pub use offsets::Encoding;

/// Index into the vocabulary.
pub type TokenId = u32;

/// A tokenizer and the ids that end a turn.
pub struct Tokenizer {
    pipeline: Pipeline,
    /// The tokens matched whole in plain text: those of the pipeline that are not special.
    plain: AddedVocabulary,
    parts: Parts,
}

/// What a pipeline does not know.
pub(super) struct Parts {
    pub(super) spelling: Spelling,
    /// Put before and after a text that is encoded with special tokens, beyond what the pipeline puts there.
    pub(super) prefix: Vec<TokenId>,
    pub(super) suffix: Vec<TokenId>,
    pub(super) end_tokens: Vec<TokenId>,
    /// Rows of the embedding: ids from here on cannot be used.
    pub(super) rows: usize,
}

impl Tokenizer {
    /// A tokenizer over a byte-level BPE vocabulary.
    ///
    /// # Errors
    /// [`ModelError::Text`] if the vocabulary contradicts itself.
    pub fn from_bpe(vocabulary: &BpeVocabulary) -> Result<Self, ModelError> {
        let spelling = Spelling::new(vocabulary.readings(), Lead::Kept);
        Ok(Self::new(
            vocabulary.pipeline()?,
            Parts {
                prefix: vocabulary.prefix.into_iter().collect(),
                suffix: Vec::new(),
                end_tokens: vocabulary.end_tokens.clone(),
                rows: spelling.len(),
                spelling,
            },
        ))
    }

    pub(super) fn new(pipeline: Pipeline, parts: Parts) -> Self {
        let mut plain = pipeline.get_added_vocabulary().clone();
        plain.set_encode_special_tokens(true);
        Self { pipeline, plain, parts }
    }

    pub(super) fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    /// The pipeline as tokenizer.json has it, and the tokens that it does not know to put before and after a text.
    pub(super) fn written(&self) -> Result<(serde_json::Value, [&[TokenId]; 2]), ModelError> {
        let text = self.pipeline.to_string(false).map_err(cannot_encode)?;
        let value = serde_json::from_str(&text).map_err(|error| ModelError::Text(format!("tokenizer: {error}")))?;
        Ok((value, [&self.parts.prefix, &self.parts.suffix]))
    }

    /// Puts `suffix` after a text that is encoded with special tokens.
    pub(super) fn followed_by(mut self, suffix: Vec<TokenId>) -> Self {
        self.parts.suffix = suffix;
        self
    }

    /// Rows of the embedding, beyond which ids cannot be used.
    pub(super) fn set_rows(&mut self, rows: usize) {
        self.parts.rows = rows;
    }

    /// Token ids of `text`. Special tokens spelled out in it become their ids (chat templates need that).
    /// `add_special` adds what the tokenizer adds by itself (a BOS, if it has one). Bytes that the vocabulary has no token
    /// for are dropped where it has no token for the unknown either (SmolLM2 lacks a few control characters).
    ///
    /// # Errors
    /// [`ModelError::Text`] if the tokenizer fails, or `text` spells out a token that the model has no embedding for.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<TokenId>, ModelError> {
        let encoding = self.pipeline.encode_fast(text, add_special).map_err(cannot_encode)?;
        let ids = encoding.get_ids();
        if !add_special {
            return self.usable(ids.to_vec());
        }
        let (prefix, suffix) = (&self.parts.prefix, &self.parts.suffix);
        self.usable([prefix, ids, suffix].concat())
    }

    /// Token ids of `text` as text only: a special token spelled out in it stays the characters it is spelled with.
    /// Added tokens that are text (runs of spaces, tags) are still matched whole, as in the training text.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_plain(&self, text: &str) -> Result<Vec<TokenId>, ModelError> {
        let mut words = self.plain.extract_and_normalize(self.pipeline.get_normalizer(), text);
        if let Some(cut) = self.pipeline.get_pre_tokenizer() {
            cut.pre_tokenize(&mut words).map_err(cannot_encode)?;
        }
        words.tokenize(|word| self.plain_word(word)).map_err(cannot_encode)?;
        let encoding = words.into_encoding(None, 0, OffsetType::None).map_err(cannot_encode)?;
        self.usable(encoding.get_ids().to_vec())
    }

    /// Tokens of one word. A vocabulary may lead to a control token by its own pieces: then the word is cut within it.
    fn plain_word(&self, word: &NormalizedString) -> tokenizers::Result<Vec<Token>> {
        let mut tokens = Vec::new();
        let mut rest = vec![word.get()];
        while let Some(part) = rest.pop() {
            let found = self.pipeline.get_model().tokenize(part)?;
            let cuts: Vec<usize> = found.iter().filter_map(|token| self.cut_within(part, token)).collect();
            if cuts.is_empty() {
                tokens.extend(found);
                continue;
            }
            let mut end = part.len();
            for &cut in cuts.iter().rev() {
                rest.push(&part[cut..end]);
                end = cut;
            }
            rest.push(&part[..end]);
        }
        Ok(tokens)
    }

    /// Where to cut `part` so that it no longer spells the control token that `token` is: after its first letter.
    fn cut_within(&self, part: &str, token: &Token) -> Option<usize> {
        let (start, end) = token.offsets;
        let spelled = part.get(start..end)?;
        // The token for what is unknown is special too, but the text it stands for does not spell it.
        if !self.is_special(token.id) || !self.plain.is_special_token(spelled) {
            return None;
        }
        let letter = spelled.chars().next()?.len_utf8();
        (letter < spelled.len()).then_some(start + letter)
    }

    fn usable(&self, ids: Vec<TokenId>) -> Result<Vec<TokenId>, ModelError> {
        match ids.iter().find(|&&id| id as usize >= self.parts.rows) {
            None => Ok(ids),
            Some(id) => Err(ModelError::Text(format!(
                "tokenizer: the text has token {id} ({:?}), but the model has embeddings for {} tokens only",
                self.token_text(*id),
                self.parts.rows
            ))),
        }
    }

    /// Text of `ids`; bytes that do not form UTF-8 become U+FFFD. Ids outside the vocabulary have no text.
    pub fn decode(&self, ids: &[TokenId], skip_special: bool) -> String {
        let shown = ids.iter().filter(|&&id| !(skip_special && self.is_special(id)));
        let mut bytes = Vec::new();
        let mut at_start = true;
        for &id in shown {
            bytes.extend_from_slice(self.read(id, &mut at_start));
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The bytes of the next token of a text; `at_start` is whether it would be the first one.
    pub(super) fn read(&self, id: TokenId, at_start: &mut bool) -> &[u8] {
        let bytes = if *at_start {
            self.parts.spelling.first_bytes(id)
        } else {
            self.token_bytes(id)
        };
        *at_start &= bytes.is_none();
        bytes.unwrap_or_default()
    }

    /// The bytes a single token stands for within a text; `None` outside the vocabulary.
    pub fn token_bytes(&self, id: TokenId) -> Option<&[u8]> {
        Some(&self.parts.spelling.token(id)?.bytes)
    }

    /// Text of a single token; bytes that do not form UTF-8 by themselves become U+FFFD. Empty outside the vocabulary.
    pub fn token_text(&self, id: TokenId) -> String {
        String::from_utf8_lossy(self.token_bytes(id).unwrap_or_default()).into_owned()
    }

    /// Whether `id` is a special (control) token.
    pub fn is_special(&self, id: TokenId) -> bool {
        self.parts.spelling.token(id).is_some_and(|token| token.special)
    }

    /// The token that is spelled so, control tokens included.
    pub fn token_id(&self, spelling: &str) -> Option<TokenId> {
        self.pipeline.token_to_id(spelling)
    }

    /// Ids that end a generation unless the request says otherwise: end of sequence and end of turn.
    pub fn end_tokens(&self) -> &[TokenId] {
        &self.parts.end_tokens
    }

    /// Size of the vocabulary: one more than the highest id.
    pub fn vocab_size(&self) -> usize {
        self.parts.spelling.len()
    }
}

fn cannot_encode(error: tokenizers::Error) -> ModelError {
    ModelError::Text(format!("tokenizer: {error}"))
}

#[cfg(test)]
mod tests;
