//! One module per command, each with a `run` that takes its parsed arguments.

pub mod chat;
pub mod compare;
pub mod dataset;
pub mod eval;
pub mod finetune;
pub mod generate;
pub mod inspect;
pub mod pull;
pub mod quantize;
pub mod search;
pub mod serve;
pub mod support;
