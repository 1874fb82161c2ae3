//! Offline work from files to files: weights in fewer bits, chosen by what they do to a calibration text; adapters merged, taken
//! out of checkpoints and converted; and how far one model is from another. Knows no server and no training run.

pub mod calibrate;
pub mod divergence;
mod error;
pub mod extract;
pub mod merge;
pub mod quantize;
mod random;

pub use error::OptimizeError;
