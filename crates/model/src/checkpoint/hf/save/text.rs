//! What a folder holds for its text, to be copied.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use crate::ModelError;

/// Files that tokenizers, chat templates and settings of generation are read from, here or by transformers.
const FILES: [&str; 14] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    TEMPLATE,
    "chat_template.json",
    "additional_chat_templates/tool_use.jinja",
    "generation_config.json",
    "preprocessor_config.json",
];

/// The chat template that is read before any other.
pub(super) const TEMPLATE: &str = "chat_template.jinja";

/// Whether a file holds nothing but chat templates.
pub(super) fn is_template(name: &str) -> bool {
    name.contains("chat_template")
}

/// Those of a folder, by their names.
pub(super) fn of_folder(dir: &Path) -> Result<Vec<(String, Vec<u8>)>, ModelError> {
    let mut files = Vec::new();
    for name in FILES {
        let path = dir.join(name);
        match fs::read(&path) {
            Ok(bytes) => files.push((name.to_owned(), bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                return Err(ModelError::Unsupported {
                    path,
                    reason: error.to_string(),
                });
            }
        }
    }
    Ok(files)
}
