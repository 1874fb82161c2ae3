//! Fine-tuning: from data files to adapters. This crate owns what a training run is made of; it knows the model only through
//! `rootstock-model`, and no server.

pub mod adapter;
pub mod dataset;
mod error;
mod files;
pub mod metrics;
pub mod optimizer;
mod random;
pub mod records;
pub mod run;
pub mod schedule;

pub use error::TrainError;
pub use random::Random;
