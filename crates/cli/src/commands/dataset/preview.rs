//! `rootstock data preview`: rows as the text that their tokens are, with what is learned marked.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use anyhow::{Context, Result};
use clap::ColorChoice;
use rootstock_model::text::Tokenizer;
use rootstock_train::dataset::{Encoded, Encoder, Piece, Row, Shape, load_each, pieces};
use serde_json::{Value, json};

use super::{encoder, shape};
use crate::args::PreviewArgs;

/// Around what is learned where there are no colours.
const BRACKETS: [char; 2] = ['\u{27E6}', '\u{27E7}'];
/// Select Graphic Rendition: bold and green, cyan, nothing.
const LEARNED: &str = "\x1b[1;32m";
const SPECIAL: &str = "\x1b[36m";
const PLAIN: &str = "\x1b[0m";

/// Prints the first rows of a slice.
///
/// # Errors
/// The model or the data cannot be used; the message names file and line.
pub fn run(args: PreviewArgs) -> Result<()> {
    let encoder = encoder(&args.source)?;
    let rows = load_each(&args.source.data_name, &args.split)?;
    let shape = shape(&args.source, &rows)?;
    let count = rows.len();
    let mut out = io::stdout().lock();
    let mut shown = Vec::new();
    for row in rows.into_iter().take(args.rows) {
        let row = row?;
        let encoded = encoded(&row, &shape, &encoder)?;
        if args.json {
            shown.push(as_json(&row, &encoded, encoder.tokenizer()));
            continue;
        }
        let style = Style {
            colours: colours(args.color),
            ids: args.ids,
        };
        writeln!(out, "{}", style.row(&row, &encoded, encoder.tokenizer()))?;
    }
    match args.json {
        true => writeln!(
            out,
            "{}",
            json!({"split": args.split.split, "rows_in_slice": count, "rows": shown})
        )?,
        false => writeln!(out, "{} of {count} rows", args.rows.min(count))?,
    }
    Ok(())
}

fn encoded(row: &Row, shape: &Shape, encoder: &Encoder) -> Result<Encoded> {
    let example = shape.read(row)?;
    encoder.encode(&example).with_context(|| row.place.to_string())
}

/// Whether to colour: by default on a terminal that has not asked for none (no-color.org).
fn colours(choice: ColorChoice) -> bool {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => {
            let dumb = set("TERM").is_some_and(|term| term == "dumb");
            io::stdout().is_terminal() && set("NO_COLOR").is_none() && !dumb
        }
    }
}

fn as_json(row: &Row, encoded: &Encoded, tokenizer: &Tokenizer) -> Value {
    json!({
        "file": &*row.place.file,
        "line": row.place.line,
        "tokens": encoded.sample.len(),
        "learned": encoded.sample.learned_tokens(),
        "tokens_before_cutting": encoded.whole,
        "cut_before": encoded.cut_before,
        "ends": encoded.ends,
        "continues": encoded.continues,
        "pieces": pieces(tokenizer, &encoded.sample),
    })
}

/// How rows are printed.
struct Style {
    colours: bool,
    ids: bool,
}

impl Style {
    /// A row under a line with what is to be said of it, and a line break behind it.
    fn row(&self, row: &Row, encoded: &Encoded, tokenizer: &Tokenizer) -> String {
        let (tokens, learned) = (encoded.sample.len(), encoded.sample.learned_tokens());
        let mut text = format!("{}: {tokens} tokens, {learned} learned{}\n", row.place, notes(encoded));
        match self.ids {
            true => text += &self.tokens(encoded, tokenizer),
            false => {
                let pieces = pieces(tokenizer, &encoded.sample);
                pieces
                    .chunk_by(|one, next| one.learned == next.learned)
                    .for_each(|run| text += &self.run(run));
                text.push('\n');
            }
        }
        text
    }

    /// Pieces that are all learned or all not.
    fn run(&self, pieces: &[Piece]) -> String {
        let learned = pieces[0].learned;
        let text: String = pieces
            .iter()
            .map(|piece| self.coloured(&piece.text, learned, piece.special))
            .collect();
        match learned && !self.colours {
            true => format!("{}{text}{}", BRACKETS[0], BRACKETS[1]),
            false => text,
        }
    }

    fn coloured(&self, text: &str, learned: bool, special: bool) -> String {
        let text = printable(text);
        match (learned, special) {
            (true, _) if self.colours => format!("{LEARNED}{text}{PLAIN}"),
            (_, true) if self.colours => format!("{SPECIAL}{text}{PLAIN}"),
            _ => text,
        }
    }

    /// Every token on a line: its place, its id, whether it is learned, its text.
    fn tokens(&self, encoded: &Encoded, tokenizer: &Tokenizer) -> String {
        let mut lines = String::new();
        for (at, (&id, &learned)) in encoded.sample.ids.iter().zip(&encoded.sample.learned).enumerate() {
            let text = format!("{:?}", tokenizer.token_text(id));
            let text = self.coloured(&text, learned, tokenizer.is_special(id));
            let mark = if learned { '+' } else { ' ' };
            // Writing to a string cannot fail.
            let _ = writeln!(lines, "{at:6} {id:8} {mark} {text}");
        }
        lines
    }
}

/// What a reader should know of how a row became tokens.
fn notes(encoded: &Encoded) -> String {
    let mut notes = String::new();
    let behind = encoded.whole - encoded.sample.len() - encoded.cut_before;
    if encoded.cut_before > 0 {
        notes += &format!(", {} cut from the beginning of the prompt", encoded.cut_before);
    }
    if behind > 0 {
        notes += &format!(", {behind} cut from the end");
    }
    if !encoded.ends && encoded.sample.learned_tokens() > 0 {
        notes += ", no end token";
    }
    if !encoded.continues {
        notes += ", the prompt alone has other tokens";
    }
    notes
}

/// Text with line breaks shown and without what would move a terminal's cursor or change its colours.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\n' => shown.push_str("\u{21B5}\n"),
            '\t' => shown.push(letter),
            letter if letter.is_control() => shown.extend(letter.escape_default()),
            letter => shown.push(letter),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(text: &str, learned: bool, special: bool) -> Piece {
        Piece {
            text: text.to_owned(),
            ids: Vec::new(),
            learned,
            special,
        }
    }

    #[test]
    fn what_is_learned_is_in_brackets_or_in_colour() {
        let learned = [piece(" spam", true, false), piece("</s>", true, true)];
        let given = [piece("<s>", false, true), piece("It is", false, false)];
        let style = |colours| Style { colours, ids: false };
        assert_eq!(style(false).run(&learned), "\u{27E6} spam</s>\u{27E7}");
        assert_eq!(style(false).run(&given), "<s>It is");
        assert_eq!(style(true).run(&learned), "\x1b[1;32m spam\x1b[0m\x1b[1;32m</s>\x1b[0m");
        assert_eq!(style(true).run(&given), "\x1b[36m<s>\x1b[0mIt is");
    }

    #[test]
    fn data_cannot_write_to_the_terminal_what_they_like() {
        assert_eq!(
            printable("a\u{1b}[2Jb\r\n\tc\u{9b}"),
            "a\\u{1b}[2Jb\\r\u{21B5}\n\tc\\u{9b}"
        );
    }
}
