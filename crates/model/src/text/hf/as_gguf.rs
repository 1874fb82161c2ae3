//! The text of a folder as `tokenizer.ggml.*` fields, for a model that is written as a GGUF file. Nothing is taken that would be read
//! as another tokenizer: whoever writes the fields compares what they give on [`PROBE`].

use std::path::Path;

use rootstock_formats::gguf::{Array, Value as Field};
use serde_json::Value;
use tokenizers::{Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Tokenizer as Pipeline};

use super::settings::{Settings, json};
use super::{TOKENIZER, refuse, template, tokenizer};
use crate::ModelError;
use crate::text::cut::{Cut, SUPPORTED_PRE_TOKENIZERS};
use crate::text::spelling::byte_token;

/// What ways of cutting a text differ on: numbers, contractions, case, composed letters, scripts, spaces, punctuation.
pub const PROBE: &str = "Hello world's 1234567 we'LL  HELLOworld e\u{301}te\u{301} \u{212b}\n\n\t  x=1;y+=22 (a/b)\r\n\u{4f60}\u{597d}\
    \u{ff0c}12\u{4e16}\u{754c} \u{43f}\u{440}\u{438}\u{432}\u{435}\u{442} \u{928}\u{92e}\u{938}\u{94d}\u{924}\u{947} \u{1f600}\u{1f468}\
    \u{200d}\u{1f469} ...!? 3.14 __init__ caf\u{e9}'s  \u{3042}\u{30ab} \u{ac00}\u{b098}  end ";

/// llama.cpp's numbers for kinds of tokens.
mod kind {
    pub(super) const NORMAL: i32 = 1;
    pub(super) const UNKNOWN: i32 = 2;
    pub(super) const CONTROL: i32 = 3;
    pub(super) const ADDED: i32 = 4;
    pub(super) const UNUSED: i32 = 5;
    pub(super) const BYTE: i32 = 6;
}

/// Special tokens by the names that a folder has for them, and by the metadata's.
const SPECIAL: [(&str, &str); 4] = [
    ("bos_token", "tokenizer.ggml.bos_token_id"),
    ("eos_token", "tokenizer.ggml.eos_token_id"),
    ("unk_token", "tokenizer.ggml.unknown_token_id"),
    ("pad_token", "tokenizer.ggml.padding_token_id"),
];

/// The fields of a folder's tokenizer and chat template, for an embedding of `rows`.
///
/// # Errors
/// A tokenizer of a kind, or with a way of cutting text, that GGUF has no name for.
pub fn gguf_fields(dir: &Path, rows: usize) -> Result<Vec<(String, Field)>, ModelError> {
    let path = dir.join(TOKENIZER);
    let file: Value = json(&path)?.ok_or_else(|| refuse(&path, "is missing"))?;
    let settings = Settings::read(dir)?;
    let read = tokenizer(dir, rows)?;
    let pipeline = read.pipeline();
    let tokens = Tokens::of(pipeline, &settings, rows);
    let mut fields = match file["model"]["type"].as_str() {
        Some("BPE") if file["model"]["byte_fallback"] == true => sentence_piece(&file, &tokens),
        Some("BPE") => byte_level(&file, pipeline).map_err(|reason| refuse(&path, reason))?,
        other => {
            let other = other.unwrap_or("none");
            return Err(refuse(
                &path,
                format_args!("a model of type {other} is not written as GGUF (BPE is)"),
            ));
        }
    };
    fields.push(put("tokenizer.ggml.token_type", Field::Array(Array::I32(tokens.kinds))));
    for (name, key) in SPECIAL {
        let id = settings.special(name).and_then(|token| pipeline.token_to_id(token));
        fields.extend(id.map(|id| put(key, Field::U32(id))));
    }
    let ends = read.end_tokens().iter().copied();
    let named = settings
        .special("eos_token")
        .and_then(|token| pipeline.token_to_id(token));
    fields.extend(
        ends.clone()
            .find(|&id| Some(id) != named)
            .map(|id| put("tokenizer.ggml.eot_token_id", Field::U32(id))),
    );
    let (plain, around) = (read.encode("a", false)?, read.encode("a", true)?);
    let begins = around.first() != plain.first();
    fields.push(put("tokenizer.ggml.add_bos_token", Field::Bool(begins)));
    fields.push(put(
        "tokenizer.ggml.add_eos_token",
        Field::Bool(around.last() != plain.last()),
    ));
    fields.push(put(
        "tokenizer.ggml.tokens",
        Field::Array(Array::String(tokens.spellings)),
    ));
    if let Some(sources) = template::find(dir, &settings)? {
        fields.push(put("tokenizer.chat_template", Field::String(sources.default)));
        let tool_use = sources
            .tool_use
            .map(|source| put("tokenizer.chat_template.tool_use", Field::String(source)));
        fields.extend(tool_use);
    }
    Ok(fields)
}

fn put(key: &str, value: Field) -> (String, Field) {
    (key.to_owned(), value)
}

/// Every row's token.
struct Tokens {
    spellings: Vec<String>,
    kinds: Vec<i32>,
}

impl Tokens {
    /// Rows without a token get one that no text has.
    fn of(pipeline: &Pipeline, settings: &Settings, rows: usize) -> Self {
        let added = pipeline.get_added_vocabulary().get_added_tokens_decoder();
        let unknown = settings.special("unk_token");
        let mut tokens = Self {
            spellings: Vec::with_capacity(rows),
            kinds: Vec::with_capacity(rows),
        };
        for id in 0..rows as u32 {
            let spelling = pipeline.id_to_token(id);
            let kind = match (&spelling, added.get(&id)) {
                (None, _) => kind::UNUSED,
                (Some(token), _) if Some(token.as_str()) == unknown => kind::UNKNOWN,
                (Some(_), Some(token)) if token.special => kind::CONTROL,
                (Some(_), Some(_)) => kind::ADDED,
                (Some(token), None) if byte_token(token).is_some() => kind::BYTE,
                (Some(_), None) => kind::NORMAL,
            };
            tokens.spellings.push(spelling.unwrap_or_else(|| format!("[PAD{id}]")));
            tokens.kinds.push(kind);
        }
        tokens
    }
}

/// The pairs of a file, in the order they are merged.
fn merges(file: &Value) -> Vec<(&str, &str)> {
    let merges = file["model"]["merges"].as_array();
    let pairs = merges.into_iter().flatten().filter_map(|merge| match merge {
        Value::String(pair) => pair.split_once(' '),
        Value::Array(parts) => Some((parts.first()?.as_str()?, parts.get(1)?.as_str()?)),
        _ => None,
    });
    pairs.collect()
}

/// Byte-level BPE: its merges, and the name of the way it cuts text.
fn byte_level(file: &Value, pipeline: &Pipeline) -> Result<Vec<(String, Field)>, String> {
    let whole = file["model"]["ignore_merges"] == true;
    let expected = cuts(pipeline.get_normalizer(), pipeline.get_pre_tokenizer())?;
    let alike = SUPPORTED_PRE_TOKENIZERS.iter().find(|(cut, _)| {
        let steps = cut.steps().ok();
        let found = steps.and_then(|steps| cuts(cut.normalizer().as_ref(), Some(&steps)).ok());
        cut.takes_words_whole() == whole && found.as_ref() == Some(&expected)
    });
    let (_, names) = alike.ok_or_else(|| {
        let known = Cut::gguf_names().collect::<Vec<_>>().join(", ");
        format!("pre_tokenizer: cuts text in a way that GGUF has no name for (known: {known})")
    })?;
    let merges = merges(file).into_iter().map(|(left, right)| format!("{left} {right}"));
    Ok(vec![
        put("tokenizer.ggml.model", Field::String("gpt2".to_owned())),
        put("tokenizer.ggml.pre", Field::String(names[0].to_owned())),
        put("tokenizer.ggml.merges", Field::Array(Array::String(merges.collect()))),
    ])
}

/// The words that [`PROBE`] is cut into.
fn cuts(normalizer: Option<&impl Normalizer>, cut: Option<&impl PreTokenizer>) -> Result<Vec<String>, String> {
    let mut probe = PreTokenizedString::from(PROBE);
    if let Some(normalizer) = normalizer {
        probe
            .normalize(|text| normalizer.normalize(text))
            .map_err(|error| format!("normalizer: {error}"))?;
    }
    if let Some(cut) = cut {
        cut.pre_tokenize(&mut probe)
            .map_err(|error| format!("pre_tokenizer: {error}"))?;
    }
    let words = probe.get_splits(OffsetReferential::Normalized, OffsetType::Byte);
    Ok(words.into_iter().map(|(word, ..)| word.to_owned()).collect())
}

/// SentencePiece BPE: the score of a piece is the place of the first merge that makes it.
fn sentence_piece(file: &Value, tokens: &Tokens) -> Vec<(String, Field)> {
    let mut ranks = std::collections::HashMap::new();
    let merges = merges(file);
    for (rank, (left, right)) in merges.iter().enumerate() {
        ranks.entry(format!("{left}{right}")).or_insert(rank);
    }
    let score = |token: &String| -(*ranks.get(token).unwrap_or(&merges.len()) as f32);
    let scores = tokens.spellings.iter().map(score).collect();
    let prefixed =
        file["normalizer"].to_string().contains("Prepend") || file["pre_tokenizer"]["prepend_scheme"] == "first";
    vec![
        put("tokenizer.ggml.model", Field::String("llama".to_owned())),
        put("tokenizer.ggml.pre", Field::String("default".to_owned())),
        put("tokenizer.ggml.scores", Field::Array(Array::F32(scores))),
        put("tokenizer.ggml.add_space_prefix", Field::Bool(prefixed)),
    ]
}
