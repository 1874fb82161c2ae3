//! Data sets: files read to rows ([`read`], [`load`]), slices of them ([`Slice`]), what a row teaches ([`Shape`], [`Example`]), what is
//! held out ([`hold_out`]), an example in tokens ([`Encoder`], [`Sample`]), rows of several ([`pack()`], [`pack_texts`]), and threads that
//! do all that ahead ([`prefetch()`]). What is learned of a sample: [`pieces`]. What is wrong
//! with a data set before a run is spent on it: [`mod@check`].
//!
//! Nothing is dropped in silence: a row that cannot be read or has not the shape of the others is an error that names its file
//! and line.

pub mod check;
mod encode;
mod example;
mod files;
#[cfg(test)]
mod letters;
mod pack;
mod prefetch;
mod preview;
mod sample;
mod slice;
mod source;
mod split;
mod template;
#[cfg(test)]
mod tests;

pub use encode::{Encoded, Encoder, EncoderSettings, Truncation, end_of_text};
pub use example::{Example, Message, Shape};
pub use files::{Place, Row, read};
pub use pack::{PackedRow, pack, pack_texts};
pub use prefetch::{Prefetch, prefetch};
pub use preview::{Piece, pieces};
pub use sample::Sample;
pub use slice::Slice;
pub use source::{load, load_each};
pub use split::{Split, hold_out, labels};
pub use template::TextTemplate;
