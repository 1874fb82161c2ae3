//! Ids with the part of the text that each stands for, which is how a loss mask finds the tokens of a completion.

use std::iter::repeat_n;
use std::ops::Range;

use tokenizers::tokenizer::OffsetType;
use tokenizers::{Encoding as Words, Model, PreTokenizer};

use super::{TokenId, Tokenizer, cannot_encode};
use crate::ModelError;

/// A text in tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoding {
    /// The tokens, as [`Tokenizer::encode`] gives them.
    pub ids: Vec<TokenId>,
    /// For each token the bytes of the text that it stands for. Tokens of parts of a character share its bytes; what the
    /// tokenizer adds by itself stands for no bytes, at the beginning or the end.
    pub offsets: Vec<Range<usize>>,
    /// How many tokens the tokenizer put before the text.
    pub prefix: usize,
    /// How many it put after the text.
    pub suffix: usize,
}

impl Tokenizer {
    /// As [`Self::encode`], with where in `text` each token comes from.
    ///
    /// # Errors
    /// As [`Self::encode`], and a tokenizer whose post-processing repeats the text.
    pub fn encode_with_offsets(&self, text: &str, add_special: bool) -> Result<Encoding, ModelError> {
        let words = self.words(text).map_err(cannot_encode)?;
        // Taken before post-processing, which takes the spaces around a word out of its offsets.
        let own: Vec<_> = words.get_offsets().iter().map(|&(start, end)| start..end).collect();
        let whole = self.pipeline.post_process(words, None, add_special);
        let whole = whole.map_err(cannot_encode)?;
        let beside = whole.len().checked_sub(own.len()).ok_or_else(repeated)?;
        let mask = whole.get_special_tokens_mask();
        let before = mask.iter().take_while(|&&added| added != 0).count().min(beside);
        if mask[before..before + own.len()].iter().any(|&added| added != 0) {
            return Err(repeated());
        }
        let mut encoding = Encoding {
            ids: whole.get_ids().to_vec(),
            offsets: Vec::new(),
            prefix: before,
            suffix: beside - before,
        };
        if add_special {
            let (prefix, suffix) = (&self.parts.prefix, &self.parts.suffix);
            encoding.ids = [prefix, encoding.ids.as_slice(), suffix].concat();
            encoding.prefix += prefix.len();
            encoding.suffix += suffix.len();
        }
        let (start, end) = (0..0, text.len()..text.len());
        let around = repeat_n(start, encoding.prefix)
            .chain(own)
            .chain(repeat_n(end, encoding.suffix));
        encoding.offsets = around.collect();
        encoding.ids = self.usable(encoding.ids)?;
        Ok(encoding)
    }

    /// The tokens of the text itself.
    fn words(&self, text: &str) -> tokenizers::Result<Words> {
        let added = self.pipeline.get_added_vocabulary();
        let mut words = added.extract_and_normalize(self.pipeline.get_normalizer(), text);
        if let Some(cut) = self.pipeline.get_pre_tokenizer() {
            cut.pre_tokenize(&mut words)?;
        }
        words.tokenize(|word| self.pipeline.get_model().tokenize(word.get()))?;
        words.into_encoding(None, 0, OffsetType::Byte)
    }
}

fn repeated() -> ModelError {
    ModelError::Text("tokenizer: its post-processing does not leave the text in one piece".to_owned())
}
