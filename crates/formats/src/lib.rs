//! Bytes to typed views: GGUF, safetensors, configurations of adapters. Parses untrusted input without panicking and
//! without allocating more than a constant times the input's size; computes nothing.

pub mod adapterhub;
mod dtype;
mod error;
pub mod gguf;
pub mod mmap;
pub mod peft;
pub mod safetensors;
mod tensor;

pub use dtype::DType;
pub use error::FormatError;
pub use tensor::TensorInfo;
