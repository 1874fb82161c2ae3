//! Text to ids and back, equal to what Hugging Face's tokenizers give.

use crate::ModelError;

/// Index into the vocabulary.
pub type TokenId = u32;

/// A tokenizer and the ids that end a turn.
pub struct Tokenizer {}

impl Tokenizer {
    /// Token ids of `text`. With `parse_special`, spelled-out special tokens become their ids (chat templates need it).
    /// `add_special` adds what the tokenizer adds by itself (a BOS, if it has one).
    ///
    /// # Errors
    /// [`ModelError::Text`] if the tokenizer fails.
    pub fn encode(&self, _text: &str, _add_special: bool) -> Result<Vec<TokenId>, ModelError> {
        todo!()
    }

    /// Text of `ids`; bytes that do not form UTF-8 become U+FFFD.
    pub fn decode(&self, _ids: &[TokenId], _skip_special: bool) -> String {
        todo!()
    }

    /// The bytes a single token stands for; `None` outside the vocabulary.
    pub fn token_bytes(&self, _id: TokenId) -> Option<&[u8]> {
        todo!()
    }

    /// Whether `id` is a special (control) token.
    pub fn is_special(&self, _id: TokenId) -> bool {
        todo!()
    }

    /// Ids that end a generation unless the request says otherwise: end of sequence and end of turn.
    pub fn end_tokens(&self) -> &[TokenId] {
        todo!()
    }

    /// Size of the vocabulary.
    pub fn vocab_size(&self) -> usize {
        todo!()
    }
}
