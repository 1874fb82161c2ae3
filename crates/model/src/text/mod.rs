//! Between text and token ids: tokenizer, chat template, and the incremental decoder with stop strings.
//! [`gguf`] and [`hf`] read tokenizer and template from the two containers; everything else does not know them.

mod byte_level;
mod charsmap;
mod cut;
mod ends;
pub mod gguf;
pub mod hf;
mod spelling;
mod stop;
mod stream;
mod template;
mod tokenizer;
mod vocabulary;

pub use cut::{Cut, SUPPORTED_PRE_TOKENIZERS};
pub use gguf::SUPPORTED_MODELS;
pub use stream::{TextStream, TextUpdate};
pub use template::{ChatTemplate, MarkedText, Markers};
pub use tokenizer::{Encoding, TokenId, Tokenizer};
pub use vocabulary::{BpeVocabulary, TokenKind};

#[cfg(test)]
mod tests;
