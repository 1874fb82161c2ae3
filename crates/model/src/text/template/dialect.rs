//! What jinja2, as transformers sets it up, reads differently from minijinja: templates are respelled before they are
//! compiled, and a few tests are replaced.
//!
//! - `{% generation %}` marks, for training, what the assistant wrote ([`Generation`]); in a prompt it has no effect.
//! - `for x in none` is an error, not an empty loop.
//! - `list[::-1]` of an empty list is empty; minijinja 3.0 panics.

use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind};

/// The filter that respelled loops go through.
const ITERATED: &str = "iterated";
/// Reversal by a slice, and the filter that does the same.
const REVERSED: (&str, &str) = ("[::-1]", "|reverse");

/// What becomes of `{% generation %}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Generation {
    /// Nothing: the text is a prompt.
    Plain,
    /// What it encloses goes through the filter of this name.
    Filtered(&'static str),
}

impl Generation {
    /// The statements that stand for its beginning and its end.
    fn statements(self) -> (String, &'static str) {
        match self {
            Self::Plain => ("if true".to_owned(), "endif"),
            Self::Filtered(name) => (format!("filter {name}"), "endfilter"),
        }
    }
}

/// Makes `environment` test and loop as jinja2 does.
pub(super) fn adapt(environment: &mut Environment<'_>) {
    environment.add_filter(ITERATED, iterated);
    environment.add_test("iterable", is_iterable);
    environment.add_test("sequence", is_sequence);
}

fn iterated(value: Value) -> Result<Value, Error> {
    if value.is_none() {
        return Err(Error::new(ErrorKind::InvalidOperation, "none is not iterable"));
    }
    Ok(value)
}

fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// Whatever has a length and items: text and mappings too.
fn is_sequence(value: &Value) -> bool {
    let kind = value.kind();
    matches!(
        kind,
        ValueKind::Seq | ValueKind::String | ValueKind::Map | ValueKind::Undefined
    )
}

/// `source` as minijinja must be given it.
pub(super) fn respelled(source: &str, generation: Generation) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    let mut raw = false;
    while let Some((before, open, inside)) = next_tag(rest) {
        out.push_str(before);
        out.push_str(open);
        let (body, close) = body(inside, open);
        rest = &inside[body.len() + close.len()..];
        if raw || open != "{%" {
            out.push_str(&if open == "{{" && !raw {
                reversed(body)
            } else {
                body.to_owned()
            });
        } else {
            out.push_str(&statement(body, generation));
        }
        out.push_str(close);
        if open == "{%" {
            match unmarked(body).1 {
                "raw" => raw = true,
                "endraw" => raw = false,
                _ => {}
            }
        }
    }
    out + rest
}

/// What lies before the next tag or comment, its opening, and the rest.
fn next_tag(text: &str) -> Option<(&str, &str, &str)> {
    let found = text.match_indices('{').find(|&(at, _)| {
        let kind = text.as_bytes().get(at + 1);
        matches!(kind, Some(b'%' | b'{' | b'#'))
    });
    let (at, _) = found?;
    Some((&text[..at], &text[at..at + 2], &text[at + 2..]))
}

/// The inside of a tag and its closing; strings in it may hold what closes it. A tag that does not close is all inside.
fn body<'a>(text: &'a str, open: &str) -> (&'a str, &'a str) {
    let close = match open {
        "{%" => "%}",
        "{{" => "}}",
        _ => "#}",
    };
    let end = if close == "#}" {
        text.find(close)
    } else {
        outside_strings(text)
            .find(|&(at, depth, _)| depth <= 0 && text[at..].starts_with(close))
            .map(|(at, ..)| at)
    };
    match end {
        Some(at) => (&text[..at], &text[at..at + 2]),
        None => (text, ""),
    }
}

/// Every character outside of strings with its place and how many brackets are open around it.
fn outside_strings(text: &str) -> impl Iterator<Item = (usize, i32, char)> {
    let (mut quote, mut escaped, mut depth) = (None, false, 0);
    text.char_indices().filter_map(move |(at, letter)| {
        match quote {
            Some(open) => {
                if !escaped && letter == open {
                    quote = None;
                }
                escaped = !escaped && letter == '\\';
                return None;
            }
            None if matches!(letter, '"' | '\'') => {
                quote = Some(letter);
                return None;
            }
            None => {}
        }
        let around = depth;
        depth += match letter {
            '(' | '[' | '{' => 1,
            ')' | ']' | '}' => -1,
            _ => 0,
        };
        Some((at, around.min(depth), letter))
    })
}

/// Whitespace control at the beginning, the statement itself, whitespace control at the end.
fn unmarked(body: &str) -> (&str, &str, &str) {
    let mark = |letter: char| letter == '-' || letter == '+';
    let start = usize::from(body.starts_with(mark));
    let end = body.len() - usize::from(body.len() > start && body.ends_with(mark));
    (&body[..start], body[start..end].trim(), &body[end..])
}

fn statement(body: &str, generation: Generation) -> String {
    let (start, statement, end) = unmarked(body);
    let replacement = match statement {
        "generation" => generation.statements().0,
        "endgeneration" => generation.statements().1.to_owned(),
        _ => match statement
            .strip_prefix("for")
            .filter(|rest| rest.starts_with(|c: char| c.is_whitespace() || c == '('))
        {
            Some(head) => format!("for{}", reversed(&checked_loop(head))),
            None => return reversed(body),
        },
    };
    format!("{start} {replacement} {end}")
}

/// The head of a loop with what it goes over checked. What has not its shape stays as it is, for the compiler to refuse.
fn checked_loop(head: &str) -> String {
    let words = keywords(head);
    let Some(&(start, _)) = words.iter().find(|&&(_, word)| word == "in") else {
        return head.to_owned();
    };
    let start = start + "in".len();
    let end = words
        .iter()
        .find(|&&(at, word)| at > start && (word == "if" || word == "recursive"));
    let end = end.map_or(head.len(), |&(at, _)| at);
    let over = head[start..end].trim();
    format!("{} ({over})|{ITERATED} {}", &head[..start], &head[end..])
}

/// Every word outside of brackets and strings with its place.
fn keywords(text: &str) -> Vec<(usize, &str)> {
    let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    let mut words: Vec<(usize, &str)> = Vec::new();
    let mut next = 0;
    for (at, depth, letter) in outside_strings(text) {
        if at < next || !is_word(letter) {
            continue;
        }
        let end = text[at..]
            .find(|letter| !is_word(letter))
            .map_or(text.len(), |length| at + length);
        next = end;
        if depth == 0 {
            words.push((at, &text[at..end]));
        }
    }
    words
}

/// `text` with reversal by a slice respelled, unless what follows needs the slice's binding.
fn reversed(text: &str) -> String {
    let (slice, filter) = REVERSED;
    let mut pieces = text.split(slice);
    let mut out = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let binds = piece.starts_with(['[', '.', '(']);
        out.push_str(if binds { slice } else { filter });
        out.push_str(piece);
    }
    out
}
