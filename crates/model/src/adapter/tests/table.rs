//! The table of what is supported agrees with what the readers do.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::folders::*;
use crate::adapter::{AdapterErrorCode as Code, Verdict, support};

fn rows(group: &str) -> Vec<(String, Verdict)> {
    let rows = support().into_iter().filter(|row| row.group == group);
    rows.map(|row| (row.kind, row.verdict)).collect()
}

#[test]
fn a_line_is_there_once_and_says_something() {
    let mut seen = BTreeSet::new();
    for row in support() {
        assert!(!row.kind.is_empty() && !row.note.is_empty(), "{row:?}");
        assert!(seen.insert((row.group, row.kind.clone())), "{row:?} twice");
    }
}

#[test]
fn fields_that_the_table_refuses_are_refused_and_no_others() {
    for (field, verdict) in rows("adapter_config.json") {
        let known = field != "any other field";
        let name = if known { field.as_str() } else { "field_of_the_future" };
        let error = FolderBuilder::new().field(name, json!({"x": 1})).write().load().err();
        let unsupported =
            error.is_some_and(|error| error.code == Code::UnsupportedField && error.message.contains(name));
        // These take only a few values.
        let checked = ["bias", "init_lora_weights"].contains(&name);
        assert_eq!(unsupported, verdict == Verdict::Refused || checked, "{name}");
    }
}

#[test]
fn initialisations_have_the_verdict_of_the_table() {
    for (value, verdict) in rows("init_lora_weights") {
        let value: Value = serde_json::from_str(&value).unwrap_or(json!(value));
        let loaded = FolderBuilder::new()
            .field("init_lora_weights", value.clone())
            .write()
            .load();
        // Alone, what could be converted is refused.
        assert_eq!(loaded.is_ok(), verdict == Verdict::Served, "{value}");
    }
}
