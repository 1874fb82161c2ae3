//! A vocabulary of letters for tests, in which every token can be read.

use std::sync::Arc;

use rootstock_model::text::{BpeVocabulary, Cut, TokenId, TokenKind, Tokenizer};

use super::{Encoder, EncoderSettings, Truncation};

/// `<s>`; the ids before it are the letters and a space.
pub(super) const BOS: TokenId = 27;
/// `</s>`.
pub(super) const EOS: TokenId = 28;

/// A tokenizer of one token a letter, with `prefix` before every text.
pub(super) fn letters(prefix: Option<TokenId>) -> Arc<Tokenizer> {
    let mut tokens: Vec<String> = ('a'..='z').chain(['Ġ']).map(String::from).collect();
    let mut kinds = vec![TokenKind::Normal; tokens.len()];
    tokens.extend(["<s>".to_owned(), "</s>".to_owned()]);
    kinds.extend([TokenKind::Special; 2]);
    let vocabulary = BpeVocabulary {
        tokens,
        kinds,
        merges: Vec::new(),
        cut: Cut::DigitsThenGpt2,
        prefix,
        end_tokens: vec![EOS],
    };
    Arc::new(Tokenizer::from_bpe(&vocabulary).unwrap())
}

/// An encoder that ends completions and texts with [`EOS`] and has no chat template.
pub(super) fn encoder(prefix: Option<TokenId>, max_length: usize) -> Encoder {
    let settings = EncoderSettings {
        max_length,
        end: Some(EOS),
        truncation: Truncation::PromptStart,
    };
    Encoder::new(letters(prefix), None, settings).unwrap()
}
