//! The tokenizer and chat template that a GGUF file embeds, as the text module takes them.

use rootstock_formats::FormatError;
use rootstock_formats::gguf::{Gguf, required};

use super::Refusal;
use crate::text::{BpeVocabulary, Cut, Markers, TokenId, TokenKind};

/// Metadata that names a token which ends a generation.
const END_KEYS: [&str; 3] = [
    "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.eom_token_id",
];

/// Control tokens that end a text or a turn, whatever the metadata says.
const END_TOKENS: [&str; 8] = [
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|end|>",
    "<end_of_turn>",
    "</s>",
];

/// The tokenizer's vocabulary, which the embedding's `vocab_size` rows must cover.
pub(super) fn read(gguf: &Gguf, vocab_size: usize) -> Result<BpeVocabulary, Refusal> {
    one_of(gguf, "tokenizer.ggml.model", ["gpt2"].into_iter(), |name| {
        (name == "gpt2").then_some(())
    })?;
    let cut = one_of(gguf, "tokenizer.ggml.pre", Cut::gguf_names(), Cut::from_gguf_name)?;
    let tokens = strings(gguf, "tokenizer.ggml.tokens")?;
    if tokens.len() > vocab_size {
        let count = tokens.len();
        return Err(Refusal::unsupported(format_args!(
            "tokenizer.ggml.tokens: {count} tokens, but the embedding has {vocab_size} rows"
        )));
    }
    let kinds = kinds(gguf)?;
    Ok(BpeVocabulary {
        end_tokens: end_tokens(gguf, tokens, &kinds)?,
        tokens: tokens.to_vec(),
        kinds,
        merges: merges(gguf)?,
        cut,
        prefix: prefix(gguf)?,
    })
}

/// The template's source and the spelling of the tokens it refers to.
pub(super) fn chat_template(gguf: &Gguf) -> Result<Option<(&str, Markers)>, Refusal> {
    let Some(source) = gguf.get_str("tokenizer.chat_template")? else {
        return Ok(None);
    };
    let tokens = strings(gguf, "tokenizer.ggml.tokens")?;
    let spelling = |key| -> Result<_, Refusal> {
        Ok(id(gguf, key)?
            .and_then(|id| tokens.get(id as usize))
            .cloned()
            .unwrap_or_default())
    };
    let markers = Markers {
        bos: spelling("tokenizer.ggml.bos_token_id")?,
        eos: spelling("tokenizer.ggml.eos_token_id")?,
    };
    Ok(Some((source, markers)))
}

fn one_of<T>(
    gguf: &Gguf,
    key: &str,
    mut supported: impl Iterator<Item = &'static str>,
    known: impl FnOnce(&str) -> Option<T>,
) -> Result<T, Refusal> {
    let name = required(key, gguf.get_str(key)?)?;
    known(name).ok_or_else(|| {
        let supported = supported.by_ref().collect::<Vec<_>>().join(", ");
        Refusal::unsupported(format_args!(
            "{key}: {name:?} is not supported (supported: {supported})"
        ))
    })
}

fn strings<'a>(gguf: &'a Gguf, key: &str) -> Result<&'a [String], FormatError> {
    required(key, gguf.get_strings(key)?)
}

fn id(gguf: &Gguf, key: &str) -> Result<Option<TokenId>, Refusal> {
    match gguf.get_u64(key)?.map(TokenId::try_from) {
        Some(Err(_)) => Err(Refusal::unsupported(format_args!("{key}: not a token id"))),
        Some(Ok(id)) => Ok(Some(id)),
        None => Ok(None),
    }
}

/// llama.cpp's token types: 3 is a control token, 4 one that was added by the user. The rest is reached by merging.
fn kinds(gguf: &Gguf) -> Result<Vec<TokenKind>, Refusal> {
    let key = "tokenizer.ggml.token_type";
    let types = required(key, gguf.get_i32s(key)?)?;
    let kind = |&code: &i32| match code {
        3 => TokenKind::Special,
        4 => TokenKind::Added,
        _ => TokenKind::Normal,
    };
    Ok(types.iter().map(kind).collect())
}

fn merges(gguf: &Gguf) -> Result<Vec<(String, String)>, Refusal> {
    let key = "tokenizer.ggml.merges";
    let pair = |(index, line): (usize, &String)| match line.split_once(' ') {
        Some((left, right)) if !right.contains(' ') => Ok((left.to_owned(), right.to_owned())),
        _ => Err(Refusal::unsupported(format_args!(
            "{key}: entry {index} is not a pair of tokens"
        ))),
    };
    strings(gguf, key)?.iter().enumerate().map(pair).collect()
}

fn prefix(gguf: &Gguf) -> Result<Option<TokenId>, Refusal> {
    let suffix_key = "tokenizer.ggml.add_eos_token";
    if gguf.get_bool(suffix_key)? == Some(true) {
        return Err(Refusal::unsupported(format_args!(
            "{suffix_key}: true is not supported (supported: false)"
        )));
    }
    match gguf.get_bool("tokenizer.ggml.add_bos_token")? {
        Some(true) => {
            let key = "tokenizer.ggml.bos_token_id";
            Ok(Some(required(key, id(gguf, key)?)?))
        }
        _ => Ok(None),
    }
}

fn end_tokens(gguf: &Gguf, tokens: &[String], kinds: &[TokenKind]) -> Result<Vec<TokenId>, Refusal> {
    let mut ends = Vec::new();
    for key in END_KEYS {
        ends.extend(id(gguf, key)?);
    }
    let control = (0..)
        .zip(tokens.iter().zip(kinds))
        .filter(|(_, (_, kind))| **kind == TokenKind::Special);
    ends.extend(
        control
            .filter(|(_, (token, _))| END_TOKENS.contains(&token.as_str()))
            .map(|(id, _)| id),
    );
    ends.sort_unstable();
    ends.dedup();
    Ok(ends)
}
