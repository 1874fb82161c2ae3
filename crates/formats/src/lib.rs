//! Bytes to typed views: GGUF, safetensors, configurations of adapters. Parses untrusted input without panicking and
//! without allocating more than a constant times the input's size; computes nothing.

pub mod adapterhub;
mod dtype;
mod error;
pub mod gguf;
pub mod mmap;
mod part_file;
pub mod peft;
pub mod safetensors;
mod tensor;

pub use dtype::DType;
pub use error::FormatError;
pub use part_file::PartFile;
pub use tensor::TensorInfo;
