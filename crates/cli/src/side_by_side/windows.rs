//! A text as a model reads it to be measured: cut into windows of tokens, each read from its own beginning.

use anyhow::{Result, bail};
use rootstock_model::text::{TokenId, Tokenizer};

/// Bytes of text for a token that is wanted: tokens are shorter but for few, so that a long text is not read to its end.
const BYTES_PER_TOKEN: usize = 64;

/// How a text is cut.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    /// Tokens of a window, those included that the tokenizer puts before every text.
    pub length: usize,
    /// Most tokens of the text; the rest of it is not read.
    pub most: usize,
}

/// Windows of tokens.
#[derive(Debug, Clone)]
pub struct Windows {
    /// What the tokenizer puts before every text.
    prefix: Vec<TokenId>,
    tokens: Vec<TokenId>,
    /// Tokens of the text in a window.
    stride: usize,
}

impl Windows {
    /// Cuts a text. Special tokens that are spelled out in it stay text.
    ///
    /// # Errors
    /// A tokenizer that fails, windows without room for two tokens of the text, or a text without that many.
    pub fn of(text: &str, tokenizer: &Tokenizer, cut: Cut) -> Result<Self> {
        let mut tokens = tokenizer.encode_plain(start_of(text, cut.most.saturating_mul(BYTES_PER_TOKEN)))?;
        tokens.truncate(cut.most);
        let prefix = prefix(tokenizer)?;
        let stride = cut.length.saturating_sub(prefix.len());
        if stride < 2 || tokens.len() < 2 {
            let (length, count) = (cut.length, tokens.len());
            bail!("expected two tokens of text in a window at least, got a text of {count} in windows of {length}");
        }
        Ok(Self { prefix, tokens, stride })
    }

    /// The windows in the order of the text, each of two tokens at least.
    pub fn iter(&self) -> impl Iterator<Item = Vec<TokenId>> {
        let windows = self.tokens.chunks(self.stride);
        let windows = windows.map(|tokens| [&self.prefix, tokens].concat());
        windows.filter(|window| window.len() > 1)
    }

    /// Tokens of the longest window.
    pub fn longest(&self) -> usize {
        self.prefix.len() + self.stride.min(self.tokens.len())
    }

    /// Tokens that are predicted: all but the first of each window.
    pub fn predicted(&self) -> u64 {
        self.iter().map(|window| window.len() as u64 - 1).sum()
    }
}

/// The first so many bytes of a text, fewer where they would end within a character.
fn start_of(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len()))
        .rev()
        .find(|&end| text.is_char_boundary(end));
    &text[..end.unwrap_or(0)]
}

/// What a tokenizer puts before a text.
fn prefix(tokenizer: &Tokenizer) -> Result<Vec<TokenId>> {
    let mut with = tokenizer.encode("a", true)?;
    let without = tokenizer.encode("a", false)?;
    let start = with.windows(without.len().max(1)).position(|part| part == without);
    with.truncate(start.unwrap_or(0));
    Ok(with)
}
