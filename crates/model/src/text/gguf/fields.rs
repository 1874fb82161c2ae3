//! The `tokenizer.ggml.*` fields that every kind of tokenizer has.

use std::fmt::Display;

use rootstock_formats::FormatError;
use rootstock_formats::gguf::{Gguf, required};

use super::{Around, Id};
use crate::ModelError;
use crate::text::TokenId;
use crate::text::ends::ends_turn;
use crate::text::vocabulary::TokenKind;

/// Metadata that names a token which ends a generation.
const END_KEYS: [&str; 3] = [
    "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.eom_token_id",
];

/// Longest value that an error spells out, in characters.
const LONGEST_VALUE: usize = 80;

/// What every vocabulary has.
pub(super) struct Fields<'a> {
    pub(super) gguf: &'a Gguf,
    pub(super) tokens: &'a [String],
    pub(super) kinds: Vec<TokenKind>,
}

/// An error of the container as one of the text.
pub(super) fn text<T>(result: Result<T, FormatError>) -> Result<T, ModelError> {
    result.map_err(|error| ModelError::Text(error.to_string()))
}

/// Names a value that is not among the `supported` ones.
pub(super) fn not_supported<'a>(key: &str, value: &str, supported: impl Iterator<Item = &'a str>) -> ModelError {
    let value: String = value.chars().take(LONGEST_VALUE).collect();
    let supported = supported.collect::<Vec<_>>().join(", ");
    refuse(key, format_args!("{value:?} is not supported (supported: {supported})"))
}

/// Names a field and what is wrong with it.
pub(super) fn refuse(key: &str, reason: impl Display) -> ModelError {
    ModelError::Text(format!("{key}: {reason}"))
}

impl<'a> Fields<'a> {
    pub(super) fn read(gguf: &'a Gguf) -> Result<Self, ModelError> {
        let key = "tokenizer.ggml.tokens";
        let tokens = text(required(key, text(gguf.get_strings(key))?))?;
        let kinds = kinds(gguf, tokens.len())?;
        Ok(Self { gguf, tokens, kinds })
    }

    /// The token that `key` names by its id, which must exist.
    pub(super) fn id(&self, key: &str) -> Result<Id, ModelError> {
        let Some(id) = text(self.gguf.get_u64(key))? else {
            return Ok(None);
        };
        match TokenId::try_from(id) {
            Ok(id) if (id as usize) < self.tokens.len() => Ok(Some(id)),
            _ => Err(refuse(
                key,
                format_args!("special id {id}, but only {} tokens", self.tokens.len()),
            )),
        }
    }

    /// Spelling of the token that `key` names; empty if it names none.
    pub(super) fn spelling(&self, key: &str) -> Result<String, ModelError> {
        let id = self.id(key)?;
        Ok(id.map(|id| self.tokens[id as usize].clone()).unwrap_or_default())
    }

    /// Whether `key` is true, or `default` if it is absent.
    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool, ModelError> {
        Ok(text(self.gguf.get_bool(key))?.unwrap_or(default))
    }

    /// Score of every token.
    pub(super) fn scores(&self) -> Result<&'a [f32], ModelError> {
        let key = "tokenizer.ggml.scores";
        let scores = text(required(key, text(self.gguf.get_f32s(key))?))?;
        let (found, expected) = (scores.len(), self.tokens.len());
        if found != expected {
            return Err(refuse(key, format_args!("{found} scores, but {expected} tokens")));
        }
        match scores.iter().position(|score| !score.is_finite()) {
            Some(id) => Err(refuse(
                key,
                format_args!("the score of token {id} is not a finite number"),
            )),
            None => Ok(scores),
        }
    }

    /// Pairs in the order they are merged.
    pub(super) fn merges(&self) -> Result<Vec<(String, String)>, ModelError> {
        let key = "tokenizer.ggml.merges";
        let lines = text(required(key, text(self.gguf.get_strings(key))?))?;
        let pair = |(index, line): (usize, &String)| match line.split_once(' ') {
            Some((left, right)) if !right.contains(' ') => Ok((left.to_owned(), right.to_owned())),
            _ => Err(refuse(key, format_args!("entry {index} is not a pair of tokens"))),
        };
        lines.iter().enumerate().map(pair).collect()
    }

    /// Tokens put before and after a text.
    pub(super) fn around(&self, default: Around) -> Result<(Vec<TokenId>, Vec<TokenId>), ModelError> {
        let side = |flag, default, keys: &[&str]| {
            let wanted = self.flag(flag, default)?;
            let ids = keys.iter().map(|key| self.id(key)).collect::<Result<Vec<_>, _>>()?;
            match ids.into_iter().flatten().next() {
                Some(id) => Ok(Vec::from_iter(wanted.then_some(id))),
                None if wanted => Err(refuse(keys[0], format_args!("is missing, but {flag} asks for it"))),
                None => Ok(Vec::new()),
            }
        };
        let prefix = side(
            "tokenizer.ggml.add_bos_token",
            default.begin,
            &["tokenizer.ggml.bos_token_id", "tokenizer.ggml.cls_token_id"],
        )?;
        let suffix = if default.separated {
            side(
                "tokenizer.ggml.add_sep_token",
                true,
                &["tokenizer.ggml.seperator_token_id", "tokenizer.ggml.eos_token_id"],
            )?
        } else {
            side(
                "tokenizer.ggml.add_eos_token",
                default.end,
                &["tokenizer.ggml.eos_token_id"],
            )?
        };
        Ok((prefix, suffix))
    }

    /// Tokens that end a generation: those the metadata names, and the control tokens known to.
    pub(super) fn end_tokens(&self) -> Result<Vec<TokenId>, ModelError> {
        let mut ends = Vec::new();
        for key in END_KEYS {
            ends.extend(self.id(key)?);
        }
        let tokens = (0..).zip(self.tokens.iter().zip(&self.kinds));
        let control = tokens.filter(|(_, (_, kind))| **kind == TokenKind::Special);
        ends.extend(control.filter(|(_, (token, _))| ends_turn(token)).map(|(id, _)| id));
        ends.sort_unstable();
        ends.dedup();
        Ok(ends)
    }
}

/// llama.cpp's token types: 2 is the unknown token, 3 a control token, 4 one that was added. The rest is ordinary.
fn kinds(gguf: &Gguf, count: usize) -> Result<Vec<TokenKind>, ModelError> {
    let key = "tokenizer.ggml.token_type";
    let types = text(required(key, text(gguf.get_i32s(key))?))?;
    if types.len() != count {
        return Err(refuse(
            key,
            format_args!("{count} tokens, but {} token types", types.len()),
        ));
    }
    let kind = |&code: &i32| match code {
        2 | 3 => TokenKind::Special,
        4 => TokenKind::Added,
        _ => TokenKind::Normal,
    };
    Ok(types.iter().map(kind).collect())
}
