//! SentencePiece BPE as GGUF embeds it: pieces with scores and no merges. A score is the rank of the merge that makes
//! the piece, so the merges follow from the vocabulary; Hugging Face's converters order them in the same way.

use std::collections::HashMap;

use rootstock_formats::gguf::required;
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
    let (tokens, kinds) = respelled(fields);
    let space_prefix = fields.flag("tokenizer.ggml.add_space_prefix", true)?;
    let unknown = tokens.iter().zip(&kinds).find(|(_, kind)| **kind == TokenKind::Special);
    let unknown = match fields.spelling("tokenizer.ggml.unknown_token_id")? {
        named if !named.is_empty() => Some(named),
        _ => unknown.map(|(token, _)| token.clone()).filter(|token| token == "<unk>"),
    };
    let mut builder = BPE::builder()
        .vocab_and_merges(ids(&tokens)?, merges(&tokens, &kinds, fields.scores()?))
        .byte_fallback(true)
        .fuse_unk(true);
    if let Some(unknown) = unknown {
        builder = builder.unk_token(unknown);
    }
    let mut pipeline = Pipeline::new(builder.build().map_err(cannot_build)?);
    pipeline
        .with_normalizer(Some(normalizer(space_prefix)?))
        .map_err(cannot_build)?;
    let architecture = text(required(
        "general.architecture",
        text(fields.gguf.get_str("general.architecture"))?,
    ))?;
    let phi3 = architecture == "phi3";
    add_whole(&mut pipeline, &tokens, &kinds, |token| {
        phi3 && !PHI3_KEEPS.contains(&token)
    })?;
    Ok(Built {
        pipeline,
        decoder: Decoder::sentence_piece(space_prefix),
        kinds,
        tokens,
        around: Around {
            begin: true,
            ..Around::default()
        },
    })
}

/// Tokens and kinds as merging takes them: runs of spaces, which GGUF lists as added tokens, are reached by merging.
fn respelled(fields: &Fields<'_>) -> (Vec<String>, Vec<TokenKind>) {
    let token = |(token, &kind): (&String, &TokenKind)| {
        if !token.is_empty() && token.bytes().all(|byte| byte == b' ') {
            (token.replace(' ', SPACE), TokenKind::Normal)
        } else {
            (token.clone(), kind)
        }
    };
    fields.tokens.iter().zip(&fields.kinds).map(token).unzip()
}

/// Spaces as [`SPACE`], one more before the text. Every stretch between control tokens is a text of its own.
fn normalizer(space_prefix: bool) -> Result<NormalizerWrapper, ModelError> {
    let prefix = space_prefix.then(|| Prepend::new(SPACE.to_owned()).into());
    let spaces = Replace::new(" ", SPACE).map_err(cannot_build)?.into();
    Ok(Sequence::new(prefix.into_iter().chain([spaces]).collect()).into())
}

/// A merge of two tokens.
struct Merge<'a> {
    score: f32,
    left: &'a str,
    right: &'a str,
}

/// Every way to make a token from two others, the likeliest token first; of the ways to make tokens of one score, the
/// longest left and right parts first.
fn merges(tokens: &[String], kinds: &[TokenKind], scores: &[f32]) -> Vec<(String, String)> {
    let ordinary = |id: usize| kinds[id] != TokenKind::Special && byte_token(&tokens[id]).is_none();
    let known: HashMap<&str, usize> = (0..tokens.len())
        .filter(|&id| ordinary(id))
        .map(|id| (tokens[id].as_str(), id))
        .collect();
    let mut merges = Vec::new();
    for (id, token) in tokens.iter().enumerate().filter(|&(id, _)| ordinary(id)) {
        let cuts = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
        let mut local: Vec<_> = cuts
            .filter_map(|(left, right)| Some((known.get(left)?, known.get(right)?, left, right)))
            .collect();
        local.sort_unstable_by_key(|&(left, right, ..)| (*left, *right));
        merges.extend(local.into_iter().map(|(.., left, right)| Merge {
            score: scores[id],
            left,
            right,
        }));
    }
    // A stable sort: among equals the order of the vocabulary stays, as in the converters.
    merges.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| lengths(b).cmp(&lengths(a))));
    merges
        .into_iter()
        .map(|merge| (merge.left.to_owned(), merge.right.to_owned()))
        .collect()
}

/// Lengths in characters of the two parts.
fn lengths(merge: &Merge<'_>) -> (usize, usize) {
    (merge.left.chars().count(), merge.right.chars().count())
}
