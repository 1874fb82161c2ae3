//! One module per command, each with a `run` that takes its parsed arguments.

pub mod chat;
pub mod compare;
pub mod convert_adapter;
pub mod dataset;
pub mod eval;
pub mod extract;
pub mod finetune;
pub mod generate;
pub mod inspect;
pub mod merge;
pub mod pull;
pub mod quantize;
pub mod search;
pub mod serve;
pub mod support;
