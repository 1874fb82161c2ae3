//! Token ids in, text deltas out: never half a UTF-8 character, never any of a stop string.

use std::sync::Arc;

use super::stop::StopMatcher;
use super::{TokenId, Tokenizer};

/// Incremental decoder of one generation.
pub struct TextStream {
    tokenizer: Arc<Tokenizer>,
    skip_special: bool,
    /// Nothing was read so far: SentencePiece's first space is not part of the text.
    at_start: bool,
    /// With each stop string's index in the request.
    stops: Vec<(usize, StopMatcher)>,
    /// Bytes of a character that is not complete.
    partial: Vec<u8>,
    /// Text whose end may be the beginning of a stop string.
    held: String,
    stopped: Option<usize>,
}

/// What one more token brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextUpdate {
    /// Text that is now final; empty while a character or a possible stop string is incomplete.
    pub text: String,
    /// Index of the stop string that was completed; nothing follows it.
    pub stopped: Option<usize>,
}

impl TextStream {
    /// A stream that ends at any of `stop`: at the one that is complete first, and of those that are complete at the
    /// same character at the longest. Empty strings are never found. With `skip_special`, special tokens have no text.
    pub fn new(tokenizer: Arc<Tokenizer>, stop: Vec<String>, skip_special: bool) -> Self {
        Self {
            tokenizer,
            skip_special,
            at_start: true,
            stops: (0..)
                .zip(&stop)
                .filter_map(|(which, text)| Some((which, StopMatcher::new(text)?)))
                .collect(),
            partial: Vec::new(),
            held: String::new(),
            stopped: None,
        }
    }

    /// The same for a text that goes on where another ended (a completion): its first token reads as in the middle
    /// of a text, with the space before its word.
    #[must_use]
    pub fn continuing(self) -> Self {
        Self {
            at_start: false,
            ..self
        }
    }

    /// Feeds one token. After a stop string was found, tokens have no effect.
    pub fn push(&mut self, id: TokenId) -> TextUpdate {
        if self.stopped.is_none() && !(self.skip_special && self.tokenizer.is_special(id)) {
            let bytes = self.tokenizer.read(id, &mut self.at_start);
            self.partial.extend_from_slice(bytes);
            let complete = take_complete(&mut self.partial);
            self.scan(&complete);
        }
        let undecided = match self.stopped {
            Some(_) => 0,
            None => self.stops.iter().map(|(_, stop)| stop.matched()).max().unwrap_or(0),
        };
        let kept = self.held.split_off(self.held.len() - undecided);
        TextUpdate {
            text: std::mem::replace(&mut self.held, kept),
            stopped: self.stopped,
        }
    }

    /// The generation ended without a stop string: releases what was held back.
    pub fn finish(&mut self) -> String {
        let partial = std::mem::take(&mut self.partial);
        if self.stopped.is_none() {
            self.held.push_str(&String::from_utf8_lossy(&partial));
        }
        std::mem::take(&mut self.held)
    }

    /// Appends `text` up to the first stop string, which is cut off.
    fn scan(&mut self, text: &str) {
        for (index, &byte) in text.as_bytes().iter().enumerate() {
            let mut longest: Option<(usize, usize)> = None;
            for (which, stop) in &mut self.stops {
                if stop.advance(byte) && longest.is_none_or(|(_, length)| stop.matched() > length) {
                    longest = Some((*which, stop.matched()));
                }
            }
            if let Some((which, length)) = longest {
                self.stopped = Some(which);
                self.held.push_str(&text[..=index]);
                self.held.truncate(self.held.len() - length);
                return;
            }
        }
        self.held.push_str(text);
    }
}

/// Removes from `bytes` all but a trailing character that more bytes may complete. What can no longer become UTF-8
/// is replaced exactly as `String::from_utf8_lossy` would replace it in the whole text.
fn take_complete(bytes: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut taken = 0;
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        taken += chunk.valid().len();
        let invalid = chunk.invalid();
        let undecided = taken + invalid.len() == bytes.len() && is_incomplete(invalid);
        if !invalid.is_empty() && !undecided {
            text.push(char::REPLACEMENT_CHARACTER);
            taken += invalid.len();
        }
    }
    bytes.drain(..taken);
    text
}

fn is_incomplete(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests;
