//! SentencePiece Unigram as GGUF embeds it: pieces with log-probabilities and the table that normalises characters.

use rootstock_formats::gguf::{Array, Value};
use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{Precompiled, Replace, Sequence, Strip};
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::{NormalizerWrapper, Tokenizer as Pipeline};

use super::fields::{Fields, refuse};
use super::{Around, Built};
use crate::ModelError;
use crate::text::spelling::Decoder;
use crate::text::vocabulary::{add_whole, cannot_build, ids};

/// What SentencePiece writes for a space.
const SPACE: char = '\u{2581}';
/// The unknown token where the file names none, as llama.cpp has it.
const DEFAULT_UNKNOWN: usize = 2;

pub(super) fn build(fields: &Fields<'_>) -> Result<Built, ModelError> {
    let (tokens, kinds) = (fields.tokens.to_vec(), fields.kinds.clone());
    ids(&tokens)?;
    let key = "tokenizer.ggml.unknown_token_id";
    let unknown = fields.id(key)?.map_or(DEFAULT_UNKNOWN, |id| id as usize);
    if unknown >= tokens.len() {
        return Err(refuse(key, "is missing"));
    }
    let scores = fields.scores()?.iter().map(|&score| f64::from(score));
    let pieces = tokens.iter().cloned().zip(scores).collect();
    let model = Unigram::from(pieces, Some(unknown), false).map_err(cannot_build)?;
    let mut pipeline = Pipeline::new(model);
    pipeline
        .with_normalizer(Some(normalizer(fields)?))
        .map_err(cannot_build)?;
    let prepend = if fields.flag("tokenizer.ggml.add_space_prefix", true)? {
        PrependScheme::Always
    } else {
        PrependScheme::Never
    };
    pipeline.with_pre_tokenizer(Some(Metaspace::new(SPACE, prepend, true)));
    add_whole(&mut pipeline, &tokens, &kinds, |_| false)?;
    Ok(Built {
        pipeline,
        decoder: Decoder::metaspace(SPACE, prepend != PrependScheme::Never),
        kinds,
        tokens,
        around: Around {
            end: true,
            ..Around::default()
        },
    })
}

/// The table of characters, then spaces: those at the ends away, runs of them as one, unless the file says otherwise.
fn normalizer(fields: &Fields<'_>) -> Result<NormalizerWrapper, ModelError> {
    let key = "tokenizer.ggml.precompiled_charsmap";
    let mut steps: Vec<NormalizerWrapper> = Vec::new();
    let table: Option<Vec<u8>> = match fields.gguf.get(key) {
        None => None,
        Some(Value::Array(Array::U8(bytes))) => Some(bytes.clone()),
        Some(Value::Array(Array::I8(bytes))) => Some(bytes.iter().map(|&byte| byte as u8).collect()),
        Some(_) => return Err(refuse(key, "is not an array of bytes")),
    };
    if let Some(table) = table.filter(|table| !table.is_empty()) {
        let table = Precompiled::from(&table).map_err(|error| refuse(key, error))?;
        steps.push(table.into());
    }
    if fields.flag("tokenizer.ggml.remove_extra_whitespaces", true)? {
        steps.push(Strip::new(true, true).into());
        let runs = ReplacePattern::Regex(" {2,}".to_owned());
        steps.push(Replace::new(runs, " ").map_err(cannot_build)?.into());
    }
    Ok(Sequence::new(steps).into())
}
