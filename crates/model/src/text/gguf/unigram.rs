//! SentencePiece Unigram as GGUF embeds it: pieces with log-probabilities and the table that normalises characters.

use rootstock_formats::gguf::{Array, Value};
use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{Precompiled, Replace, Sequence, Strip};
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper, Tokenizer as Pipeline};

use super::fields::{Fields, refuse};
use super::{Around, Built};
use crate::ModelError;
use crate::text::charsmap;
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
    let spaces = Spaces::read(fields)?;
    let normalizer = spaces.normalizer(table(fields)?)?;
    pipeline.with_normalizer(normalizer).map_err(cannot_build)?;
    pipeline.with_pre_tokenizer(Some(spaces.pre_tokenizer()));
    add_whole(&mut pipeline, &tokens, &kinds, |_| false)?;
    Ok(Built {
        pipeline,
        decoder: Decoder::metaspace(SPACE, spaces.prefix),
        kinds,
        tokens,
        around: Around {
            end: true,
            ..Around::default()
        },
    })
}

/// What happens to spaces.
struct Spaces {
    /// One is put before the text.
    prefix: bool,
    /// Those at the ends go away, and runs of them become one.
    squeezed: bool,
}

impl Spaces {
    fn read(fields: &Fields<'_>) -> Result<Self, ModelError> {
        Ok(Self {
            prefix: fields.flag("tokenizer.ggml.add_space_prefix", true)?,
            squeezed: fields.flag("tokenizer.ggml.remove_extra_whitespaces", true)?,
        })
    }

    /// Hugging Face cuts at every space where each word gets one of its own.
    fn cut(&self) -> bool {
        self.prefix && self.squeezed
    }

    fn normalizer(&self, table: Option<Precompiled>) -> Result<Option<NormalizerWrapper>, ModelError> {
        let mut steps: Vec<NormalizerWrapper> = table.into_iter().map(Into::into).collect();
        if self.squeezed && !self.cut() {
            steps.push(Strip::new(true, true).into());
            let runs = ReplacePattern::Regex(" {2,}".to_owned());
            steps.push(Replace::new(runs, " ").map_err(cannot_build)?.into());
        }
        Ok((!steps.is_empty()).then(|| NormalizerWrapper::from(Sequence::new(steps))))
    }

    fn pre_tokenizer(&self) -> PreTokenizerWrapper {
        let prepend = if self.prefix {
            PrependScheme::Always
        } else {
            PrependScheme::Never
        };
        let words = PreTokenizerWrapper::from(Metaspace::new(SPACE, prepend, true));
        if !self.cut() {
            return words;
        }
        PreTokenizers::new(vec![WhitespaceSplit.into(), words]).into()
    }
}

/// The table that normalises characters, if the file has one.
fn table(fields: &Fields<'_>) -> Result<Option<Precompiled>, ModelError> {
    let key = "tokenizer.ggml.precompiled_charsmap";
    let bytes: Vec<u8> = match fields.gguf.get(key) {
        None => return Ok(None),
        Some(Value::Array(Array::U8(bytes))) => bytes.clone(),
        Some(Value::Array(Array::I8(bytes))) => bytes.iter().map(|&byte| byte as u8).collect(),
        Some(_) => return Err(refuse(key, "is not an array of bytes")),
    };
    if bytes.is_empty() {
        return Ok(None);
    }
    charsmap::check(&bytes).map_err(|reason| refuse(key, reason))?;
    Precompiled::from(&bytes).map(Some).map_err(|error| refuse(key, error))
}
