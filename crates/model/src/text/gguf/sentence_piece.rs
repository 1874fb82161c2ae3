//! SentencePiece BPE as GGUF embeds it: pieces with scores and no merges. A score is the rank of the merge that makes
//! the piece, so the merges follow from the vocabulary; Hugging Face's converters order them in the same way.

use std::collections::HashMap;

use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::{Prepend, Replace, Sequence};
use tokenizers::{NormalizerWrapper, Tokenizer as Pipeline};

use super::fields::{Fields, text};
use super::{Around, Built};
use crate::ModelError;
use crate::text::spelling::{Decoder, byte_token};
use crate::text::vocabulary::{TokenKind, add_whole, cannot_build, ids};

/// What SentencePiece writes for a space.
const SPACE: &str = "\u{2581}";

/// Tokens of Phi-3 that do not take the spaces after them; every other control token of it does.
const PHI3_KEEPS: [&str; 3] = ["<unk>", "<s>", "<|endoftext|>"];

pub(super) fn build(fields: &Fields<'_>) -> Result<Built, ModelError> {
    let pieces = Pieces::read(fields)?;
    let space_prefix = fields.flag("tokenizer.ggml.add_space_prefix", true)?;
    let mut builder = BPE::builder()
        .vocab_and_merges(ids(&pieces.tokens)?, pieces.merges())
        .byte_fallback(true)
        .fuse_unk(true);
    if let Some(id) = fields.id("tokenizer.ggml.unknown_token_id")? {
        builder = builder.unk_token(pieces.tokens[id as usize].clone());
    }
    let mut pipeline = Pipeline::new(builder.build().map_err(cannot_build)?);
    pipeline
        .with_normalizer(Some(normalizer(space_prefix)?))
        .map_err(cannot_build)?;
    let phi3 = text(fields.gguf.get_str("general.architecture"))? == Some("phi3");
    add_whole(&mut pipeline, &pieces.tokens, &pieces.kinds, |token| {
        phi3 && !PHI3_KEEPS.contains(&token)
    })?;
    Ok(Built {
        pipeline,
        decoder: Decoder::sentence_piece(space_prefix),
        kinds: pieces.kinds,
        tokens: pieces.tokens,
        around: Around {
            begin: true,
            ..Around::default()
        },
    })
}

/// A vocabulary as merging takes it.
struct Pieces {
    tokens: Vec<String>,
    kinds: Vec<TokenKind>,
    /// How early each piece is made, the highest first.
    ranks: Vec<f64>,
}

impl Pieces {
    /// Gemma lists runs of spaces as added tokens without a score. As in its tokenizer.json they are reached by merging
    /// before everything else, the longest first.
    fn read(fields: &Fields<'_>) -> Result<Self, ModelError> {
        let scores = fields.scores()?;
        let mut pieces = Self {
            tokens: fields.tokens.to_vec(),
            kinds: fields.kinds.clone(),
            ranks: scores.iter().copied().map(f64::from).collect(),
        };
        for (id, token) in pieces.tokens.iter_mut().enumerate() {
            if !token.is_empty() && token.bytes().all(|byte| byte == b' ') {
                *token = token.replace(' ', SPACE);
                pieces.kinds[id] = TokenKind::Normal;
                pieces.ranks[id] = f64::MAX;
            }
        }
        Ok(pieces)
    }

    /// Whether text can become the piece by merging.
    fn is_merged(&self, id: usize) -> bool {
        self.kinds[id] == TokenKind::Normal && byte_token(&self.tokens[id]).is_none()
    }

    /// Every way to make a piece from two others, the piece with the highest rank first; of the ways to make pieces of
    /// one rank, the longest left and right parts first.
    fn merges(&self) -> Vec<(String, String)> {
        let known: HashMap<&str, usize> = (0..self.tokens.len())
            .filter(|&id| self.is_merged(id))
            .map(|id| (self.tokens[id].as_str(), id))
            .collect();
        let mut merges = Vec::new();
        for (id, token) in self.tokens.iter().enumerate().filter(|&(id, _)| self.is_merged(id)) {
            let cuts = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
            let mut local: Vec<_> = cuts
                .filter_map(|(left, right)| Some((known.get(left)?, known.get(right)?, left, right)))
                .collect();
            local.sort_unstable();
            merges.extend(local.into_iter().map(|(.., left, right)| Merge {
                rank: self.ranks[id],
                left,
                right,
            }));
        }
        // A stable sort: among equals the order of the vocabulary stays, as in the converters.
        merges.sort_by(|a, b| b.rank.total_cmp(&a.rank).then_with(|| b.lengths().cmp(&a.lengths())));
        merges
            .into_iter()
            .map(|merge| (merge.left.to_owned(), merge.right.to_owned()))
            .collect()
    }
}

/// A merge of two pieces.
struct Merge<'a> {
    rank: f64,
    left: &'a str,
    right: &'a str,
}

impl Merge<'_> {
    /// Of the two parts, in characters.
    fn lengths(&self) -> (usize, usize) {
        (self.left.chars().count(), self.right.chars().count())
    }
}

/// Spaces as [`SPACE`], one more before the text. Every stretch between control tokens is a text of its own.
fn normalizer(space_prefix: bool) -> Result<NormalizerWrapper, ModelError> {
    let prefix = space_prefix.then(|| Prepend::new(SPACE.to_owned()).into());
    let spaces = Replace::new(" ", SPACE).map_err(cannot_build)?.into();
    Ok(Sequence::new(prefix.into_iter().chain([spaces]).collect()).into())
}
