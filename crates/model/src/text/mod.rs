//! Between text and token ids: tokenizer, chat template, and the incremental decoder with stop strings.

mod stream;
mod template;
mod tokenizer;

pub use stream::{TextStream, TextUpdate};
pub use template::ChatTemplate;
pub use tokenizer::{TokenId, Tokenizer};
