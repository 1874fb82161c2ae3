//! What a training step computes beside its products: each operation forward and backward, over rows of f32.
//!
//! Backward operations *add* to the gradients of their inputs where several operations can read an input, and say so. Sums
//! over rows (gradients of weights of norms) go in order of rows, so that no result depends on the number of threads.

mod activation;
mod attention;
mod entropy;
mod norm;
mod rotary;
mod rounding;
pub(crate) mod rows;
#[cfg(test)]
mod tests;

pub use activation::{ActivationGradient, activate, activate_backward, gated, gated_backward};
pub use attention::{AttentionGradients, AttentionInputs, AttentionShape, attend_segments, attend_segments_backward};
pub use entropy::{Entropy, cross_entropy};
pub use norm::{NormBackward, norm_backward, norm_rows};
pub use rotary::{Rotation, rotate_rows};
pub use rounding::{round_values, widen_values};
pub use rows::{add_rows, column_sums, dropout, multiply_columns};
