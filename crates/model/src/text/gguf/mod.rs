//! The tokenizer and chat template that a GGUF file embeds. What llama.cpp's names mean is rebuilt as the pipeline of
//! the tokenizer that the file was made from, so that ids are those of the original.

mod fields;
mod saved;
mod sentence_piece;
#[cfg(test)]
mod tests;
mod unigram;
mod word_piece;

use rootstock_formats::gguf::{Gguf, required};
use tokenizers::Tokenizer as Pipeline;

use self::fields::Fields;
pub use self::saved::{SavedText, saved};
use super::spelling::{Decoder, Spelling};
use super::tokenizer::Parts;
use super::vocabulary::TokenKind;
use super::{BpeVocabulary, ChatTemplate, Cut, Markers, TokenId, Tokenizer};
use crate::ModelError;

/// A pipeline, and what the rest of the tokenizer is made from.
struct Built {
    pipeline: Pipeline,
    decoder: Decoder,
    /// Kinds as the pipeline takes them.
    kinds: Vec<TokenKind>,
    /// Spellings as the pipeline takes them.
    tokens: Vec<String>,
    /// What is put around a text by default.
    around: Around,
}

/// What is put around a text unless the file says otherwise.
#[derive(Debug, Clone, Copy, Default)]
struct Around {
    /// A beginning of sequence before it.
    begin: bool,
    /// An end of sequence after it.
    end: bool,
    /// A separator after it, which is what WordPiece has for an end.
    separated: bool,
}

type Build = fn(&Fields<'_>) -> Result<Built, ModelError>;

/// Every kind but byte-level BPE by the name that `tokenizer.ggml.model` gives it.
const BUILDERS: [(&str, Build); 3] = [
    ("llama", sentence_piece::build),
    ("t5", unigram::build),
    ("bert", word_piece::build),
];

/// The name of byte-level BPE.
const BYTE_LEVEL: &str = "gpt2";

/// What `tokenizer.ggml.model` may name, with what it is.
pub const SUPPORTED_MODELS: [(&str, &str); 4] = [
    (BYTE_LEVEL, "byte-level BPE, cut as tokenizer.ggml.pre names it"),
    ("llama", "SentencePiece BPE with byte tokens"),
    ("t5", "SentencePiece Unigram"),
    ("bert", "WordPiece"),
];

/// The tokenizer, whose ids the `vocab_size` rows of the embedding must cover.
///
/// # Errors
/// [`ModelError::Text`] naming the field that is missing, contradictory or not supported.
pub fn tokenizer(gguf: &Gguf, vocab_size: usize) -> Result<Tokenizer, ModelError> {
    let key = "tokenizer.ggml.model";
    let name = fields::text(required(key, fields::text(gguf.get_str(key))?))?;
    if name != BYTE_LEVEL && !BUILDERS.iter().any(|(known, _)| *known == name) {
        let supported = SUPPORTED_MODELS.iter().map(|&(known, _)| known);
        return Err(fields::not_supported(key, name, supported));
    }
    let fields = Fields::read(gguf)?;
    let count = fields.tokens.len();
    if count > vocab_size {
        return Err(ModelError::Text(format!(
            "tokenizer.ggml.tokens: {count} tokens, but the embedding has {vocab_size} rows"
        )));
    }
    let mut tokenizer = match BUILDERS.iter().find(|(known, _)| *known == name) {
        Some((_, build)) => around(&fields, build(&fields)?)?,
        None => byte_level(&fields)?,
    };
    tokenizer.set_rows(vocab_size);
    Ok(tokenizer)
}

/// The chat template, if the file embeds one.
///
/// # Errors
/// [`ModelError::Text`] if it does not parse.
pub fn chat_template(gguf: &Gguf) -> Result<Option<ChatTemplate>, ModelError> {
    let Some(source) = fields::text(gguf.get_str("tokenizer.chat_template"))? else {
        return Ok(None);
    };
    let tool_use = fields::text(gguf.get_str("tokenizer.chat_template.tool_use"))?;
    ChatTemplate::with_tool_use(source, tool_use, markers(gguf)?).map(Some)
}

/// Spelling of the special tokens that templates refer to, those of adapters too.
///
/// # Errors
/// [`ModelError::Text`] naming the field that is malformed.
pub fn markers(gguf: &Gguf) -> Result<Markers, ModelError> {
    let fields = Fields::read(gguf)?;
    Ok(Markers {
        bos: fields.spelling("tokenizer.ggml.bos_token_id")?,
        eos: fields.spelling("tokenizer.ggml.eos_token_id")?,
        others: vec![
            (
                "unk_token".to_owned(),
                fields.spelling("tokenizer.ggml.unknown_token_id")?,
            ),
            (
                "pad_token".to_owned(),
                fields.spelling("tokenizer.ggml.padding_token_id")?,
            ),
        ],
    })
}

fn byte_level(fields: &Fields<'_>) -> Result<Tokenizer, ModelError> {
    let key = "tokenizer.ggml.pre";
    let name = fields::text(required(key, fields::text(fields.gguf.get_str(key))?))?;
    let cut = Cut::from_gguf_name(name).ok_or_else(|| fields::not_supported(key, name, Cut::gguf_names()))?;
    let default = Around {
        begin: cut.begins_by_default(),
        ..Around::default()
    };
    let (prefix, suffix) = fields.around(default)?;
    let vocabulary = BpeVocabulary {
        tokens: fields.tokens.to_vec(),
        merges: fields.merges()?,
        end_tokens: fields.end_tokens()?,
        prefix: prefix.first().copied(),
        kinds: fields.kinds.clone(),
        cut,
    };
    Ok(Tokenizer::from_bpe(&vocabulary)?.followed_by(suffix))
}

fn around(fields: &Fields<'_>, built: Built) -> Result<Tokenizer, ModelError> {
    let special = |kind: &TokenKind| *kind == TokenKind::Special;
    let tokens = built.tokens.into_iter().zip(&built.kinds);
    let tokens: Vec<_> = tokens.map(|(token, kind)| Some((token, special(kind)))).collect();
    let (prefix, suffix) = fields.around(built.around)?;
    let parts = Parts {
        rows: tokens.len(),
        spelling: Spelling::by(&built.decoder, tokens).map_err(ModelError::Text)?,
        prefix,
        suffix,
        end_tokens: fields.end_tokens()?,
    };
    Ok(Tokenizer::new(built.pipeline, parts))
}

/// A token of the metadata by its id.
type Id = Option<TokenId>;
