//! Fine-tuning: from data files to adapters. This crate owns what a training run is made of; it knows the model only through
//! `rootstock-model`, and no server.

pub mod adapter;
pub mod dataset;
pub mod disk;
pub mod display;
mod error;
pub mod files;
pub mod full;
mod lines;
pub mod memory;
pub mod metrics;
pub mod optimizer;
mod random;
pub mod records;
pub mod report;
pub mod run;
pub mod schedule;
pub mod search;

pub use error::TrainError;
pub use random::Random;
