//! Fine-tuning: from data files to adapters. This crate owns what a training run is made of; it knows the model only through
//! `rootstock-model`, and no server.

pub mod dataset;
mod error;
pub mod metrics;
mod random;

pub use error::TrainError;
pub use random::Random;
