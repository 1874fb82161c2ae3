//! The text of a GGUF file as the files of a Hugging Face folder: the pipeline that was rebuilt from it is written out with
//! what it does not hold here, its decoder and the tokens around a text.

use rootstock_formats::gguf::Gguf;
use serde_json::{Map, Value, json};

use super::fields::{self, Fields};
use super::{BUILDERS, tokenizer};
use crate::ModelError;
use crate::text::{TokenId, Tokenizer};

/// Text as a folder has it.
#[derive(Debug, Clone, Default)]
pub struct SavedText {
    /// Files by their names.
    pub files: Vec<(String, Vec<u8>)>,
    /// What config.json says of special tokens.
    pub ids: Map<String, Value>,
}

/// What `tokenizer.ggml.model` says where there is none.
const NO_TOKENIZER: &str = "none";

/// Special tokens by the names that transformers has for them, and by the metadata's.
const SPECIAL: [(&str, &str); 4] = [
    ("bos_token", "tokenizer.ggml.bos_token_id"),
    ("eos_token", "tokenizer.ggml.eos_token_id"),
    ("unk_token", "tokenizer.ggml.unknown_token_id"),
    ("pad_token", "tokenizer.ggml.padding_token_id"),
];

/// What a folder needs of the file's tokenizer and chat template, for an embedding of `rows` and sequences of `context` tokens at
/// most. Nothing, where the file says that it has no tokenizer.
///
/// # Errors
/// As [`tokenizer`].
pub fn saved(gguf: &Gguf, rows: usize, context: usize) -> Result<SavedText, ModelError> {
    if fields::text(gguf.get_str("tokenizer.ggml.model"))? == Some(NO_TOKENIZER) {
        return Ok(SavedText::default());
    }
    let fields = Fields::read(gguf)?;
    let tokenizer = tokenizer(gguf, rows)?;
    let mut settings = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "clean_up_tokenization_spaces": false,
    });
    let mut ids = Map::new();
    for (name, key) in SPECIAL {
        if let Some(id) = fields.id(key)? {
            settings[name] = fields.tokens[id as usize].as_str().into();
            ids.insert(format!("{name}_id"), id.into());
        }
    }
    let mut generation = ids.clone();
    generation.remove("unk_token_id");
    generation.insert("eos_token_id".to_owned(), json!(tokenizer.end_tokens()));
    let mut files = vec![
        ("tokenizer.json".to_owned(), json(&pipeline(&fields, &tokenizer)?)),
        ("tokenizer_config.json".to_owned(), json(&settings)),
        ("generation_config.json".to_owned(), json(&Value::Object(generation))),
    ];
    for (name, key) in [
        ("chat_template.jinja", "tokenizer.chat_template"),
        (
            "additional_chat_templates/tool_use.jinja",
            "tokenizer.chat_template.tool_use",
        ),
    ] {
        if let Some(template) = fields::text(gguf.get_str(key))? {
            files.push((name.to_owned(), template.as_bytes().to_vec()));
        }
    }
    Ok(SavedText { files, ids })
}

fn json(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

/// tokenizer.json.
fn pipeline(fields: &Fields<'_>, tokenizer: &Tokenizer) -> Result<Value, ModelError> {
    let name = fields::text(fields.gguf.get_str("tokenizer.ggml.model"))?;
    let decoder = match BUILDERS.iter().find(|(known, _)| Some(*known) == name) {
        Some((_, build)) => serde_json::to_value(build(fields)?.decoder),
        None => Ok(json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true})),
    };
    let (mut pipeline, [prefix, suffix]) = tokenizer.written()?;
    pipeline["decoder"] = decoder.map_err(|error| ModelError::Text(format!("tokenizer: {error}")))?;
    if !prefix.is_empty() || !suffix.is_empty() {
        pipeline["post_processor"] = around(fields.tokens, prefix, suffix);
    }
    Ok(pipeline)
}

/// A step that puts tokens around a text.
fn around(tokens: &[String], prefix: &[TokenId], suffix: &[TokenId]) -> Value {
    let spelled = |id: &TokenId| tokens[*id as usize].as_str();
    let special = |id: &TokenId, kind: u8| json!({"SpecialToken": {"id": spelled(id), "type_id": kind}});
    let sequence = |name: &str, kind: u8| {
        let before = prefix.iter().map(|id| special(id, kind));
        let text = json!({"Sequence": {"id": name, "type_id": kind}});
        let after = suffix.iter().map(|id| special(id, kind));
        before.chain([text]).chain(after).collect::<Vec<_>>()
    };
    let known = prefix.iter().chain(suffix).map(|id| {
        let token = json!({"id": spelled(id), "ids": [id], "tokens": [spelled(id)]});
        (spelled(id).to_owned(), token)
    });
    let (single, pair) = (sequence("A", 0), [sequence("A", 0), sequence("B", 1)].concat());
    json!({
        "type": "TemplateProcessing",
        "single": single,
        "pair": pair,
        "special_tokens": known.collect::<Map<_, _>>(),
    })
}
