//! A sample as text again, in pieces of what is learned and what is not, for people to look at.

use rootstock_model::text::{TokenId, Tokenizer};
use serde::Serialize;

use super::Sample;

/// Tokens side by side that are all learned or all not, and all special or all not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Piece {
    /// What they read as; special tokens as they are spelled.
    pub text: String,
    /// The tokens.
    pub ids: Vec<TokenId>,
    /// Whether the loss counts them.
    pub learned: bool,
    /// Whether they are control tokens.
    pub special: bool,
}

/// The pieces of a sample, in order.
pub fn pieces(tokenizer: &Tokenizer, sample: &Sample) -> Vec<Piece> {
    let tokens: Vec<_> = sample
        .ids
        .iter()
        .zip(&sample.learned)
        .map(|(&id, &learned)| (id, (learned, tokenizer.is_special(id))))
        .collect();
    let piece = |run: &[(TokenId, (bool, bool))]| {
        let ids: Vec<TokenId> = run.iter().map(|&(id, _)| id).collect();
        // Put together first: a character may be spread over tokens.
        let bytes = ids.iter().filter_map(|&id| tokenizer.token_bytes(id));
        let bytes: Vec<u8> = bytes.flatten().copied().collect();
        let (learned, special) = run[0].1;
        Piece {
            text: String::from_utf8_lossy(&bytes).into_owned(),
            ids,
            learned,
            special,
        }
    };
    tokens.chunk_by(|one, next| one.1 == next.1).map(piece).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::Example;
    use crate::dataset::letters::{BOS, EOS, encoder};

    #[test]
    fn pieces_part_where_the_mask_or_the_kind_of_token_changes() {
        let encoder = encoder(Some(BOS), 20);
        let example = Example::Completion {
            prompt: "ab".to_owned(),
            completion: " cd".to_owned(),
        };
        let sample = encoder.encode(&example).unwrap().sample;
        let piece = |text: &str, ids: &[TokenId], learned, special| Piece {
            text: text.to_owned(),
            ids: ids.to_vec(),
            learned,
            special,
        };
        let expected = [
            piece("<s>", &[BOS], false, true),
            piece("ab", &[0, 1], false, false),
            piece(" cd", &[26, 2, 3], true, false),
            piece("</s>", &[EOS], true, true),
        ];
        assert_eq!(pieces(encoder.tokenizer(), &sample), expected);
        assert_eq!(pieces(encoder.tokenizer(), &Sample::default()), []);
    }
}
