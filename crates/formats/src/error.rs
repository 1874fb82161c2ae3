//! Why bytes are not what their format says.

use std::fmt::Display;

/// Malformed or unsupported input. Callers add the path.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The bytes contradict the format.
    #[error("{what}: expected {expected}, got {got}")]
    Malformed {
        /// Field, tensor or offset.
        what: String,
        /// What the format asks for.
        expected: String,
        /// What was found.
        got: String,
    },
    /// Valid, but of a kind this build does not read.
    #[error("{what}: {got} is not supported (supported: {supported})")]
    Unsupported {
        /// Field or tensor.
        what: String,
        /// What was found.
        got: String,
        /// What would be read.
        supported: String,
    },
    /// Reading failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Longest piece of a file that is quoted in a message, in characters: a hostile name must not become a hostile log line.
const QUOTED: usize = 160;

impl FormatError {
    pub(crate) fn malformed(what: impl Display, expected: impl Display, got: impl Display) -> Self {
        Self::Malformed {
            what: quoted(what),
            expected: quoted(expected),
            got: quoted(got),
        }
    }

    pub(crate) fn unsupported(what: impl Display, got: impl Display, supported: impl Display) -> Self {
        Self::Unsupported {
            what: quoted(what),
            got: quoted(got),
            supported: quoted(supported),
        }
    }
}

/// `text` cut to [`QUOTED`] characters, control characters escaped.
fn quoted(text: impl Display) -> String {
    let text = text.to_string();
    let mut short: String = text.chars().take(QUOTED).flat_map(escaped).collect();
    if text.chars().nth(QUOTED).is_some() {
        short.push_str("...");
    }
    short
}

fn escaped(c: char) -> impl Iterator<Item = char> {
    let (escape, plain) = if c.is_control() {
        (Some(c.escape_default()), None)
    } else {
        (None, Some(c))
    };
    escape.into_iter().flatten().chain(plain)
}
