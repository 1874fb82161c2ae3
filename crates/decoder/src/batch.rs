//! What one pass goes over: sequences one after another, without padding, each attending to itself alone.

use std::ops::Range;

/// Rows of tokens and what is learned from them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    tokens: Vec<u32>,
    positions: Vec<usize>,
    segments: Vec<Range<usize>>,
    targets: Vec<Target>,
}

/// A token to be predicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// Row whose logits predict it.
    pub row: usize,
    /// The token.
    pub token: u32,
}

impl Batch {
    /// Appends a sequence; `learned[i]` says whether the prediction of `tokens[i]` from those before it counts.
    ///
    /// # Panics
    /// On slices of different lengths.
    pub fn push(&mut self, tokens: &[u32], learned: &[bool]) {
        assert_eq!(tokens.len(), learned.len());
        let start = self.tokens.len();
        self.tokens.extend_from_slice(tokens);
        self.positions.extend(0..tokens.len());
        self.segments.push(start..self.tokens.len());
        let later = tokens.iter().zip(learned).enumerate().skip(1);
        let targets = later.filter(|(_, (_, learned))| **learned);
        self.targets.extend(targets.map(|(index, (&token, _))| Target {
            row: start + index - 1,
            token,
        }));
    }

    /// Tokens of all sequences.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Position of each token in its sequence.
    pub fn positions(&self) -> &[usize] {
        &self.positions
    }

    /// Rows of each sequence.
    pub fn segments(&self) -> &[Range<usize>] {
        &self.segments
    }

    /// What is learned, in the order of rows.
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }
}
