//! `rootstock support`: what is served, converted or refused, as a table. Its rows come from the tables that the readers
//! themselves decide by; docs/SUPPORT.md is this command's output, and a test keeps it so.

use std::fmt::Write as _;
use std::io::{self, Write};

use anyhow::Result;
use rootstock_formats::{DType, gguf};
use rootstock_model::adapter::{self, SupportRow, Verdict};
use rootstock_model::checkpoint;
use rootstock_model::text::{self, Cut};
use serde_json::{Value, json};

use crate::args::SupportArgs;

const HEAD: &str = "\
# What is served, converted or refused

Printed by `rootstock support > docs/SUPPORT.md` from the tables that the code itself decides by; a test compares the two.
Served: it has the effect it is meant to have. Converted: it is brought into another form with the same effect. Refused: a
model or adapter with it is not loaded, and the message names it. What is not listed is refused, too.
";

/// Prints the table.
///
/// # Errors
/// Standard output cannot be written.
pub fn run(args: SupportArgs) -> Result<()> {
    let mut out = io::stdout().lock();
    match args.json {
        true => writeln!(out, "{}", as_json())?,
        false => out.write_all(as_markdown().as_bytes())?,
    }
    Ok(())
}

/// The parts of the table, each with its heading.
fn sections() -> [(&'static str, Vec<SupportRow>); 2] {
    [("Base models", bases()), ("Adapters", adapter::support())]
}

fn as_json() -> Value {
    let row = |section: &str, row: SupportRow| json!({"section": section, "group": row.group, "kind": row.kind, "verdict": word(row.verdict), "note": row.note});
    let rows = sections().into_iter();
    rows.flat_map(|(section, rows)| rows.into_iter().map(move |line| row(section, line)))
        .collect()
}

fn as_markdown() -> String {
    let mut text = HEAD.to_owned();
    for (section, rows) in sections() {
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\n## {section}\n\n| of | what | | how, or why not |\n|---|---|---|---|\n"
        );
        for alike in
            rows.chunk_by(|row, next| (row.group, row.verdict) == (next.group, next.verdict) && row.note == next.note)
        {
            let kinds: Vec<_> = alike.iter().map(|row| shown(&row.kind)).collect();
            let (group, verdict, note) = (alike[0].group, word(alike[0].verdict), cell(&alike[0].note));
            let _ = writeln!(text, "| {group} | {} | {verdict} | {note} |", kinds.join(", "));
        }
    }
    text
}

/// What a file spells stands as code.
fn shown(kind: &str) -> String {
    match kind.contains(' ') {
        true => cell(kind),
        false => format!("`{}`", cell(kind)),
    }
}

/// Bars would begin another column.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Served => "served",
        Verdict::Converted => "converted",
        Verdict::Refused => "refused",
    }
}

/// What no list of a reader says by itself.
const CONTAINERS: [(&str, Verdict, &str); 7] = [
    ("GGUF, versions 2 and 3", Verdict::Served, "little endian"),
    (
        "GGUF split into parts",
        Verdict::Served,
        "any part may be named; all lie in one folder",
    ),
    (
        "GGUF, big endian",
        Verdict::Refused,
        "convert it with gguf-convert-endian",
    ),
    (
        "Hugging Face folder",
        Verdict::Served,
        "config.json, tokenizer.json, model.safetensors or its shards",
    ),
    (
        "pytorch_model.bin",
        Verdict::Refused,
        "a pickle can run code; save it as safetensors",
    ),
    (
        "safetensors of F32, F16, BF16",
        Verdict::Served,
        "as stored, or quantized with --quantize",
    ),
    (
        "a tensor or field that is not known",
        Verdict::Refused,
        "it could change the numbers",
    ),
];

fn row(group: &'static str, kind: &str, verdict: Verdict, note: &'static str) -> SupportRow {
    SupportRow {
        group,
        kind: kind.to_owned(),
        verdict,
        note: note.into(),
    }
}

/// Rows of what is served, each by its name.
fn served(
    group: &'static str,
    names: impl Iterator<Item = &'static str>,
    note: &'static str,
) -> impl Iterator<Item = SupportRow> {
    names.map(move |name| row(group, name, Verdict::Served, note))
}

fn bases() -> Vec<SupportRow> {
    let containers = CONTAINERS
        .iter()
        .map(|&(kind, verdict, note)| row("container", kind, verdict, note));
    let tokenizers = text::gguf::SUPPORTED_MODELS;
    let json = [row(
        "Hugging Face tokenizer",
        "tokenizer.json",
        Verdict::Served,
        "with tokenizer_config.json",
    )];
    containers
        .chain(served(
            "GGUF architecture",
            checkpoint::gguf_architectures(),
            "general.architecture",
        ))
        .chain(served(
            "Hugging Face architecture",
            checkpoint::hf_architectures(),
            "model_type",
        ))
        .chain(tensor_types())
        .chain(served(
            "Hugging Face quantization",
            checkpoint::hf_quantizations(),
            "quant_method, int4",
        ))
        .chain(tokenizers.map(|(name, note)| row("GGUF tokenizer", name, Verdict::Served, note)))
        .chain(served("GGUF tokenizer.ggml.pre", Cut::gguf_names(), ""))
        .chain(json)
        .collect()
}

fn tensor_types() -> impl Iterator<Item = SupportRow> {
    const GROUP: &str = "GGUF tensor type";
    let is_list = |dtype: &DType| matches!(dtype, DType::I8 | DType::I32 | DType::I64);
    let (lists, weights): (Vec<_>, Vec<_>) = gguf::tensor_types().partition(is_list);
    let read = |types: Vec<DType>, note| {
        types
            .into_iter()
            .map(move |dtype| row(GROUP, &dtype.to_string(), Verdict::Served, note))
    };
    let convert = "convert the file with llama-quantize";
    let refused = gguf::refused_tensor_types().map(move |name| row(GROUP, name, Verdict::Refused, convert));
    read(weights, "weights")
        .chain(read(lists, "lists of numbers, never weights"))
        .chain(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_in_docs_is_what_the_command_prints() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/SUPPORT.md");
        let file = std::fs::read_to_string(path).unwrap();
        assert!(
            file == as_markdown(),
            "docs/SUPPORT.md is out of date: run `cargo run -- support > docs/SUPPORT.md`"
        );
    }

    #[test]
    fn every_row_says_what_it_is_about() {
        let rows = as_json();
        let rows = rows.as_array().unwrap();
        assert!(rows.len() > 60, "{}", rows.len());
        for row in rows {
            assert!(
                !row["kind"].as_str().unwrap().is_empty() && !row["group"].as_str().unwrap().is_empty(),
                "{row}"
            );
        }
        for verdict in ["served", "converted", "refused"] {
            assert!(rows.iter().any(|row| row["verdict"] == verdict), "{verdict}");
        }
    }
}
