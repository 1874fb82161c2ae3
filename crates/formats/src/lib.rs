//! Bytes to typed views: GGUF, safetensors, PEFT configurations. Parses untrusted input without panicking and
//! without allocating more than a constant times the input's size; computes nothing.

mod dtype;
mod error;

pub use dtype::DType;
pub use error::FormatError;
