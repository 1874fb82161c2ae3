//! Which modules a name, a regular expression or a pattern key means, exactly as peft decides it with Python's `re`.
//! Expressions come from strangers: they run in linear time and within a fixed budget of number and size.

use std::collections::BTreeSet;

use regex::bytes::{Regex, RegexBuilder};

use super::ModuleKind;
use crate::FormatError;

/// Expressions that are not plain names, per configuration.
const MOST_EXPRESSIONS: usize = 64;
/// Longest expression, in bytes.
const LONGEST_EXPRESSION: usize = 1024;
/// Compiled size of an expression, in bytes.
const LARGEST_EXPRESSION: usize = 128 << 10;

/// Compiles expressions and counts them against the budget.
#[derive(Default)]
pub(super) struct Patterns {
    compiled: usize,
}

impl Patterns {
    /// `re.fullmatch(expression, ..)`
    pub(super) fn full_match(&mut self, field: &str, expression: &str) -> Result<Regex, FormatError> {
        self.compile(field, expression, |inner| format!(r"\A(?:{inner})\z"))
    }

    /// Compiles `around(expression)`, having made sure that `expression` is one by itself and cannot close a group of `around`.
    fn compile(
        &mut self,
        field: &str,
        expression: &str,
        around: impl FnOnce(&str) -> String,
    ) -> Result<Regex, FormatError> {
        let refuse = |supported: String| FormatError::unsupported(field, format_args!("{expression:?}"), supported);
        self.compiled += 1;
        if self.compiled > MOST_EXPRESSIONS || expression.len() > LONGEST_EXPRESSION {
            return Err(refuse(format!(
                "at most {MOST_EXPRESSIONS} regular expressions of at most {LONGEST_EXPRESSION} bytes"
            )));
        }
        let build = |text: &str| {
            // Module names are ASCII; Unicode classes would only make programs large.
            RegexBuilder::new(text)
                .unicode(false)
                .size_limit(LARGEST_EXPRESSION)
                .dfa_size_limit(LARGEST_EXPRESSION)
                .nest_limit(32)
                .build()
        };
        let checked = build(expression).and_then(|_| build(&around(expression)));
        checked.map_err(|error| {
            let reason = error.to_string();
            let last = reason.lines().last().unwrap_or_default();
            refuse(format!(
                "regular expressions without look-around and backreferences; {last}"
            ))
        })
    }
}

/// The modules meant by `target_modules` or `exclude_modules`.
#[derive(Debug)]
pub(super) enum ModuleSet {
    /// Every linear map but the output layer.
    AllLinear,
    /// Those whose path is one of the names or ends in one after a dot.
    Named(BTreeSet<String>),
    /// Those whose whole path matches.
    Matching(Regex),
}

impl ModuleSet {
    pub(super) fn contains(&self, module: &str, kind: ModuleKind) -> bool {
        match self {
            Self::AllLinear => kind == ModuleKind::Linear,
            Self::Named(names) => {
                let after_dots = module.match_indices('.').map(|(dot, _)| &module[dot + 1..]);
                names.contains(module) || after_dots.into_iter().any(|end| names.contains(end))
            }
            Self::Matching(regex) => regex.is_match(module.as_bytes()),
        }
    }

    /// Whether `module` is listed by its full path.
    pub(super) fn lists(&self, module: &str) -> bool {
        matches!(self, Self::Named(names) if names.contains(module))
    }

    pub(super) fn is_list(&self) -> bool {
        matches!(self, Self::Named(_))
    }

    pub(super) fn names(&self) -> Option<impl Iterator<Item = &str>> {
        match self {
            Self::Named(names) => Some(names.iter().map(String::as_str)),
            _ => None,
        }
    }
}

/// `layers_to_transform` with `layers_pattern`.
#[derive(Debug)]
pub(super) struct LayerFilter {
    layers: Vec<u64>,
    /// One per name of a layer stack; empty: the first number in the path after at least two names.
    stacks: Vec<Regex>,
}

impl LayerFilter {
    pub(super) fn new(mut layers: Vec<u64>, stacks: &[String], patterns: &mut Patterns) -> Result<Self, FormatError> {
        layers.sort_unstable();
        layers.dedup();
        let stacks = stacks.iter().map(|stack| {
            patterns.compile("layers_pattern", stack, |inner| {
                format!(r"\A(?:(?:^|.*?\.){inner}\.(?P<index>\d+)\.)")
            })
        });
        Ok(Self {
            layers,
            stacks: stacks.collect::<Result<_, _>>()?,
        })
    }

    pub(super) fn layers(&self) -> &[u64] {
        &self.layers
    }

    pub(super) fn contains_layer_of(&self, module: &str) -> bool {
        let layer = if self.stacks.is_empty() {
            first_index(module)
        } else {
            self.stacks.iter().find_map(|stack| {
                let digits = stack.captures(module.as_bytes())?.name("index")?;
                std::str::from_utf8(digits.as_bytes()).ok()
            })
        };
        let layer = layer.and_then(|digits| digits.parse().ok());
        layer.is_some_and(|layer| self.layers.binary_search(&layer).is_ok())
    }
}

/// peft's `.*?\.[^.]*\.(?P<idx>\d+)\.`: the first part made of digits, from the third on and not the last.
fn first_index(module: &str) -> Option<&str> {
    let mut parts = module.split('.').skip(2).peekable();
    while let Some(part) = parts.next() {
        let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if digits && parts.peek().is_some() {
            return Some(part);
        }
    }
    None
}

/// `rank_pattern` or `alpha_pattern`: values by pattern, the first match in the order of the file wins.
#[derive(Debug)]
pub(super) struct PatternMap<T> {
    entries: Vec<(Key, T)>,
}

impl<T> PatternMap<T> {
    pub(super) fn new(field: &str, entries: Vec<(String, T)>, patterns: &mut Patterns) -> Result<Self, FormatError> {
        let keyed = entries
            .into_iter()
            .map(|(key, value)| Ok((Key::new(field, &key, patterns)?, value)));
        Ok(Self {
            entries: keyed.collect::<Result<_, FormatError>>()?,
        })
    }

    pub(super) fn get(&self, module: &str) -> Option<&T> {
        let entry = self.entries.iter().find(|(key, _)| key.matches(module));
        entry.map(|(_, value)| value)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().map(|(_, value)| value)
    }
}

/// A key of a pattern map: peft matches `(.*\.)?(KEY)$` from the start of the module's path.
#[derive(Debug)]
enum Key {
    /// A dotted name, as peft writes them; its dots stand for any character, as in the expression they are.
    Name(String),
    /// Anything else.
    Expression(Regex),
}

impl Key {
    fn new(field: &str, key: &str, patterns: &mut Patterns) -> Result<Self, FormatError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        if key.bytes().all(plain) {
            return Ok(Self::Name(key.to_owned()));
        }
        let around = |inner: &str| format!(r"\A(?:(.*\.)?({inner})$)");
        patterns.compile(field, key, around).map(Self::Expression)
    }

    fn matches(&self, module: &str) -> bool {
        match self {
            Self::Expression(regex) => regex.is_match(module.as_bytes()),
            Self::Name(name) => {
                let Some(start) = module.len().checked_sub(name.len()) else {
                    return false;
                };
                let (before, end) = module.as_bytes().split_at(start);
                let same = name.bytes().zip(end).all(|(key, &byte)| key == b'.' || key == byte);
                same && matches!(before.last(), None | Some(b'.'))
            }
        }
    }
}
