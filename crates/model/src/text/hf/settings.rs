//! What lies beside tokenizer.json: tokenizer_config.json, special_tokens_map.json, generation_config.json, config.json.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::refuse;
use crate::ModelError;
use crate::text::{Markers, TokenId};

/// The file with the tokenizer's settings.
pub(super) const CONFIG: &str = "tokenizer_config.json";

/// Special tokens that have a name of their own.
const NAMES: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// Files that name the ids which end a generation.
const END_FILES: [&str; 2] = ["generation_config.json", "config.json"];

/// The settings of a folder; what is absent says nothing.
pub(super) struct Settings {
    pub(super) config: Config,
    /// special_tokens_map.json, which the configuration overrides.
    map: Map<String, Value>,
    /// The files of [`END_FILES`].
    ends: [Ends; 2],
}

/// tokenizer_config.json.
#[derive(Default, Deserialize)]
pub(super) struct Config {
    #[serde(default)]
    added_tokens_decoder: BTreeMap<String, Value>,
    pub(super) chat_template: Option<Value>,
    /// The special tokens among it, and much that has no effect on ids and text.
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// What names the ends of a generation.
#[derive(Default, Deserialize)]
struct Ends {
    eos_token_id: Option<Ids>,
    /// Models of several kinds of input keep the language model's settings here.
    text_config: Option<Box<Ends>>,
}

/// One id or several.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Ids {
    One(TokenId),
    Several(Vec<TokenId>),
}

/// Reads a file of JSON; what a folder does not have is `None`.
pub(super) fn json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ModelError> {
    let Some(text) = text(path)? else {
        return Ok(None);
    };
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|error| refuse(path, error))
}

/// Reads a text file; what a folder does not have is `None`.
pub(super) fn text(path: &Path) -> Result<Option<String>, ModelError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(refuse(path, error)),
    }
}

impl Settings {
    pub(super) fn read(dir: &Path) -> Result<Self, ModelError> {
        let [generation, model] = END_FILES.map(|name| json(&dir.join(name)));
        Ok(Self {
            config: json(&dir.join(CONFIG))?.unwrap_or_default(),
            map: json(&dir.join("special_tokens_map.json"))?.unwrap_or_default(),
            ends: [generation?.unwrap_or_default(), model?.unwrap_or_default()],
        })
    }

    /// Spelling of the special token with a name.
    pub(super) fn special(&self, name: &str) -> Option<&str> {
        spelling(self.value(name)?)
    }

    fn value(&self, name: &str) -> Option<&Value> {
        let given = |from: &'_ Map<String, Value>| from.get(name).filter(|value| !value.is_null()).is_some();
        let from = if given(&self.config.rest) {
            &self.config.rest
        } else {
            &self.map
        };
        from.get(name)
    }

    /// Every special token that the folder names.
    pub(super) fn special_tokens(&self) -> impl Iterator<Item = AddedToken> {
        let named = NAMES.iter().filter_map(|name| self.value(name));
        let lists = ["additional_special_tokens", "extra_special_tokens"].map(|name| self.value(name));
        let listed = lists.into_iter().flatten().flat_map(|list| match list {
            Value::Array(items) => items.iter().collect::<Vec<_>>(),
            Value::Object(named) => named.values().collect(),
            _ => Vec::new(),
        });
        named.chain(listed).filter_map(special_token)
    }

    /// The tokens of `added_tokens_decoder` by id.
    pub(super) fn added_tokens(&self, dir: &Path) -> Result<Vec<(TokenId, AddedToken)>, ModelError> {
        let parse = |(id, value): (&String, &Value)| {
            let wrong = || {
                refuse(
                    &dir.join(CONFIG),
                    format!("added_tokens_decoder: {id:?} is not a token"),
                )
            };
            let id = id.parse().map_err(|_| wrong())?;
            let token = serde_json::from_value(value.clone()).map_err(|_| wrong())?;
            Ok((id, token))
        };
        let mut tokens = self
            .config
            .added_tokens_decoder
            .iter()
            .map(parse)
            .collect::<Result<Vec<_>, _>>()?;
        tokens.sort_by_key(|&(id, _)| id);
        Ok(tokens)
    }

    /// Ids that end a generation.
    pub(super) fn end_ids(&self) -> Vec<TokenId> {
        let mut ids = Vec::new();
        for file in &self.ends {
            let nested = file.text_config.as_deref().and_then(|text| text.eos_token_id.as_ref());
            for ends in [file.eos_token_id.as_ref(), nested].into_iter().flatten() {
                match ends {
                    Ids::One(id) => ids.push(*id),
                    Ids::Several(several) => ids.extend(several),
                }
            }
        }
        ids
    }

    /// What templates call the special tokens.
    pub(super) fn markers(&self) -> Markers {
        let spelled = |name: &str| self.special(name).unwrap_or_default().to_owned();
        let others = NAMES.iter().skip(2).map(|&name| (name.to_owned(), spelled(name)));
        Markers {
            bos: spelled("bos_token"),
            eos: spelled("eos_token"),
            others: others.collect(),
        }
    }
}

/// A token's spelling, which is text or an object with it.
fn spelling(value: &Value) -> Option<&str> {
    match value {
        Value::String(text) => Some(text),
        Value::Object(token) => token.get("content")?.as_str(),
        _ => None,
    }
}

fn special_token(value: &Value) -> Option<AddedToken> {
    let flag = |name| value.get(name).and_then(Value::as_bool).unwrap_or(false);
    let token = AddedToken::from(spelling(value)?, true).normalized(flag("normalized"));
    Some(
        token
            .lstrip(flag("lstrip"))
            .rstrip(flag("rstrip"))
            .single_word(flag("single_word")),
    )
}
