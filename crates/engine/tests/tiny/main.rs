//! Random checkpoints of nine architectures (tests/fixtures/tiny) on the native runner, against the logits that transformers
//! and peft gave for them, and bit for bit against themselves.

mod adapters;
mod bits;
mod gguf_lora;
mod int4;
mod limits;
mod logits;
mod merged;
mod model;
mod quantized;
mod sums;
