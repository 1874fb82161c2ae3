//! What a text does to a model: its residual stream, layer by layer, and the inputs that every map sees. No more than one layer's
//! weights are in memory at a time.

mod moments;
mod walk;

pub use moments::{Hessian, Moments};
pub use walk::{Walk, WalkSettings, input_site};
