//! A tokenizer over a vocabulary of single bytes, a few merges and two special tokens, shared by the tests of this module.

use std::sync::Arc;

use super::byte_level::ByteAlphabet;
use super::{BpeVocabulary, Cut, TokenKind, Tokenizer};

/// `<end>`, a special token.
pub(super) const END: u32 = 260;
/// `<tool>`, an added token that is text.
pub(super) const TOOL: u32 = 261;

/// Ids 0 to 255 are bytes, then `he`, `ll`, `hell`, ` w`, then [`END`] and [`TOOL`].
pub(super) fn vocabulary() -> BpeVocabulary {
    let mut tokens: Vec<String> = ByteAlphabet::new()
        .letters()
        .iter()
        .map(|(_, letter)| letter.to_string())
        .collect();
    let merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("Ġ", "w")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    tokens.extend(merges.iter().map(|(a, b)| format!("{a}{b}")));
    let mut kinds = vec![TokenKind::Normal; tokens.len()];
    tokens.extend(["<end>".to_owned(), "<tool>".to_owned()]);
    kinds.extend([TokenKind::Special, TokenKind::Added]);
    BpeVocabulary {
        tokens,
        kinds,
        merges: merges.to_vec(),
        cut: Cut::DigitsThenGpt2,
        prefix: None,
        end_tokens: vec![END],
    }
}

pub(super) fn tokenizer() -> Arc<Tokenizer> {
    Arc::new(Tokenizer::from_bpe(&vocabulary()).unwrap())
}
