//! Training steps on candle's devices: the walk of [`rootstock_decoder::layer`] over candle's tensors, and its autograd for the
//! way back. Knows no data set, no optimizer and no file; gradients end in f32 on the host, as those of our own kernels do.
//!
//! What candle 0.11 has no backward pass for (its fused normalisations, softmax and rotary positions) is made of operations
//! that have one; what it computes too much of, the gradients of frozen weights, is left out by `frozen`. Autograd goes back
//! a layer at a time, so that its store of gradients, which keeps those of constants too, is never larger than a layer's.

mod attention;
mod bottleneck;
mod device;
mod embedding;
mod engine;
mod entropy;
mod frozen;
mod groups;
mod leaves;
mod map;
mod walk;
mod weights;

pub use device::{Settings, Target};
pub use engine::CandleEngine;

/// A failure of candle as the decoder's. Drivers say only in words that memory is short.
fn failed(error: candle_core::Error) -> rootstock_decoder::DecoderError {
    let said = error.to_string();
    let words = said.to_lowercase();
    match words.contains("out of memory") || words.contains("out_of_memory") {
        true => rootstock_decoder::DecoderError::OutOfMemory(said),
        false => rootstock_decoder::DecoderError::Device(said),
    }
}
