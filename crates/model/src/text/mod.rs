//! Between text and token ids: tokenizer, chat template, and the incremental decoder with stop strings.

mod byte_level;
mod stop;
mod stream;
mod template;
mod tokenizer;
mod vocabulary;

pub use stream::{TextStream, TextUpdate};
pub use template::{ChatTemplate, Markers};
pub use tokenizer::{TokenId, Tokenizer};
pub use vocabulary::{BpeVocabulary, Cut, TokenKind};

#[cfg(test)]
mod tests;
