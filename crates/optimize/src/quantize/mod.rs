//! A model in fewer bits.

mod auto;
mod cholesky;
mod gptq;
mod plan;
mod rounding;
mod scaling;
mod source;

pub use auto::{Budget, Chosen, choose};
pub use plan::{BLOCK_TYPES, Exception, FLOAT_TYPES, Recipe, plan, tensor_type};
pub use scaling::Scaled;
pub use source::{Method, Quantizer, TensorReport};
