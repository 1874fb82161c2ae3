//! The tokenizer and chat template of a Hugging Face folder: tokenizer.json, and what lies beside it.

mod as_gguf;
mod settings;
mod template;
#[cfg(test)]
mod tests;

use std::fmt::Display;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::{AddedToken, Tokenizer as Pipeline};

pub use self::as_gguf::{PROBE, gguf_fields};
use self::settings::Settings;
use super::charsmap;
use super::ends::ends_turn;
use super::spelling::{Decoder, Spelling};
use super::tokenizer::Parts;
use super::{ChatTemplate, Markers, TokenId, Tokenizer};
use crate::ModelError;

/// The file that holds the vocabulary and the pipeline.
const TOKENIZER: &str = "tokenizer.json";

/// What tokenizer.json may hold, beyond what the pipeline itself reads.
#[derive(Deserialize)]
struct File {
    decoder: Option<Decoder>,
    #[serde(default)]
    normalizer: Value,
}

/// The tokenizer. Tokens beyond the `vocab_size` rows of the embedding stay in the vocabulary (Gemma's has one), but
/// a text that has them is refused. What is put around a text is what tokenizer.json says: transformers 5 does not
/// heed `add_bos_token` and `add_eos_token` of tokenizer_config.json beside it.
///
/// # Errors
/// [`ModelError::Unsupported`] with the file and field for what is missing, malformed or not supported.
pub fn tokenizer(dir: &Path, vocab_size: usize) -> Result<Tokenizer, ModelError> {
    let path = dir.join(TOKENIZER);
    let bytes = std::fs::read(&path).map_err(|error| {
        let reason = format!("{error} (a tokenizer without {TOKENIZER} must be saved by transformers first)");
        refuse(&path, reason)
    })?;
    let file: File = serde_json::from_slice(&bytes).map_err(|error| refuse(&path, error))?;
    check_normalizer(&file.normalizer).map_err(|reason| refuse(&path, reason))?;
    let mut pipeline = pipeline(&bytes).map_err(|error| refuse(&path, error))?;
    let settings = Settings::read(dir)?;
    pipeline.with_padding(None);
    pipeline.with_truncation(None).map_err(|error| refuse(&path, error))?;
    add_tokens(&mut pipeline, &settings, dir)?;
    let tokens = vocabulary(&pipeline);
    let decoder = file.decoder.unwrap_or(Decoder::Spaced);
    let end_tokens = end_tokens(&tokens, &settings);
    let parts = Parts {
        spelling: Spelling::by(&decoder, tokens).map_err(|reason| refuse(&path, reason))?,
        prefix: Vec::new(),
        suffix: Vec::new(),
        end_tokens,
        rows: vocab_size,
    };
    Ok(Tokenizer::new(pipeline, parts))
}

/// The chat template, if the folder has one: chat_template.jinja, chat_template.json or tokenizer_config.json.
///
/// # Errors
/// [`ModelError::Unsupported`] if a file is malformed, [`ModelError::Text`] if the template does not parse.
pub fn chat_template(dir: &Path) -> Result<Option<ChatTemplate>, ModelError> {
    let settings = Settings::read(dir)?;
    let Some(sources) = template::find(dir, &settings)? else {
        return Ok(None);
    };
    ChatTemplate::with_tool_use(&sources.default, sources.tool_use.as_deref(), settings.markers()).map(Some)
}

/// Spelling of the special tokens that templates refer to, those of adapters too.
///
/// # Errors
/// [`ModelError::Unsupported`] if a file is malformed.
pub fn markers(dir: &Path) -> Result<Markers, ModelError> {
    Ok(Settings::read(dir)?.markers())
}

/// The library panics on some decoders and normalizers that are malformed, where it should return an error.
fn pipeline(json: &[u8]) -> Result<Pipeline, String> {
    let read = std::panic::catch_unwind(|| Pipeline::from_bytes(json));
    let malformed = |_| "a part of it is malformed".to_owned();
    read.map_err(malformed)?.map_err(|error| error.to_string())
}

/// Names a file and what is wrong with it.
fn refuse(path: &Path, reason: impl Display) -> ModelError {
    ModelError::Unsupported {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

/// Checks the tables of characters that a normalizer, or one of a sequence of them, holds.
fn check_normalizer(normalizer: &Value) -> Result<(), String> {
    const TABLE: &str = "precompiled_charsmap";
    let steps = normalizer.get("normalizers").and_then(Value::as_array);
    steps.into_iter().flatten().try_for_each(check_normalizer)?;
    let Some(text) = normalizer.get(TABLE).and_then(Value::as_str) else {
        return Ok(());
    };
    let bytes = charsmap::from_base64(text).ok_or_else(|| format!("{TABLE}: not base 64"))?;
    charsmap::check(&bytes).map_err(|reason| format!("{TABLE}: {reason}"))
}

/// Adds what tokenizer_config.json lists beyond tokenizer.json, and makes the tokens it names special.
fn add_tokens(pipeline: &mut Pipeline, settings: &Settings, dir: &Path) -> Result<(), ModelError> {
    for (id, token) in settings.added_tokens(dir)? {
        if pipeline.token_to_id(&token.content).is_some() {
            continue;
        }
        let content = token.content.clone();
        let added = pipeline.add_tokens([token]);
        added.map_err(|error| refuse(&dir.join(settings::CONFIG), error))?;
        let given = pipeline.token_to_id(&content);
        if given != Some(id) {
            let reason = format!("added_tokens_decoder: {content:?} has id {id}, but the next free one is {given:?}");
            return Err(refuse(&dir.join(settings::CONFIG), reason));
        }
    }
    let special = settings.special_tokens();
    let known: Vec<AddedToken> = special
        .filter(|token| is_not_special(pipeline, &token.content))
        .collect();
    let added = pipeline.add_special_tokens(known);
    added.map_err(|error| refuse(&dir.join(settings::CONFIG), error))?;
    Ok(())
}

/// Whether a token of the vocabulary is not special so far.
fn is_not_special(pipeline: &Pipeline, content: &str) -> bool {
    pipeline.token_to_id(content).is_some() && !pipeline.get_added_vocabulary().is_special_token(content)
}

/// Spelling of every token and whether it is special, by id.
fn vocabulary(pipeline: &Pipeline) -> Vec<Option<(String, bool)>> {
    let ids: Vec<TokenId> = pipeline.get_vocab(true).into_values().collect();
    let mut tokens = vec![None; ids.iter().max().map_or(0, |&last| last as usize + 1)];
    let added = pipeline.get_added_vocabulary();
    for id in ids {
        if let Some(token) = pipeline.id_to_token(id) {
            let special = added
                .get_added_tokens_decoder()
                .get(&id)
                .is_some_and(|token| token.special);
            tokens[id as usize] = Some((token, special));
        }
    }
    tokens
}

/// Tokens that end a generation: those the folder names, and the special tokens known to.
fn end_tokens(tokens: &[Option<(String, bool)>], settings: &Settings) -> Vec<TokenId> {
    let mut ends = settings.end_ids();
    let eos = settings.special("eos_token");
    let named = (0..).zip(tokens).filter(|(_, token)| {
        let token = token.as_ref();
        token.is_some_and(|(token, special)| Some(token.as_str()) == eos || (*special && ends_turn(token)))
    });
    ends.extend(named.map(|(id, _)| id));
    ends.retain(|&id| (id as usize) < tokens.len());
    ends.sort_unstable();
    ends.dedup();
    ends
}
