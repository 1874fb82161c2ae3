//! Where the lines come from: an editor with history on a terminal, plain lines from a pipe.

use std::io::{self, IsTerminal};

use anyhow::Result;
use reedline::{DefaultPrompt, DefaultPromptSegment, Reedline, Signal};

/// The user's lines.
pub enum Input {
    /// Edited on a terminal.
    Terminal(Box<Reedline>),
    /// Read from a pipe or a file.
    Lines(io::Lines<io::StdinLock<'static>>),
}

impl Input {
    /// Standard input.
    pub fn open() -> Self {
        if io::stdin().is_terminal() {
            Self::Terminal(Box::new(Reedline::create()))
        } else {
            Self::Lines(io::stdin().lines())
        }
    }

    /// Whether someone types.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }

    /// The next line, prompted for with the adapter that will answer; `None` at the end.
    ///
    /// # Errors
    /// The terminal or the pipe fails, or a piped line is not UTF-8.
    pub fn line(&mut self, adapter: Option<&str>) -> Result<Option<String>> {
        match self {
            Self::Terminal(editor) => {
                let name = DefaultPromptSegment::Basic(adapter.unwrap_or("base").to_owned());
                let prompt = DefaultPrompt::new(name, DefaultPromptSegment::Empty);
                Ok(match editor.read_line(&prompt)? {
                    Signal::Success(line) => Some(line),
                    // Drops the line that was being typed, as shells do.
                    Signal::CtrlC => Some(String::new()),
                    _ => None,
                })
            }
            Self::Lines(lines) => Ok(lines.next().transpose()?),
        }
    }
}
