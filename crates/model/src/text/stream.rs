//! Token ids in, text deltas out: never half a UTF-8 character, never any of a stop string.

use std::sync::Arc;

use super::{TokenId, Tokenizer};

/// Incremental decoder of one generation.
pub struct TextStream {}

/// What one more token brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextUpdate {
    /// Text that is now final; empty while a character or a possible stop string is incomplete.
    pub text: String,
    /// Index of the stop string that was completed; nothing follows it.
    pub stopped: Option<usize>,
}

impl TextStream {
    /// A stream that ends at any of `stop` (non-empty strings).
    pub fn new(_tokenizer: Arc<Tokenizer>, _stop: Vec<String>, _skip_special: bool) -> Self {
        todo!()
    }

    /// Feeds one token.
    pub fn push(&mut self, _id: TokenId) -> TextUpdate {
        todo!()
    }

    /// The generation ended without a stop string: releases what was held back.
    pub fn finish(&mut self) -> String {
        todo!()
    }
}
