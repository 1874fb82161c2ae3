//! End-to-end tests: the real binary and the real model, over HTTP and as commands. One module per workflow, one link step.
//! The model is found as `server::model` says; a test that misses something it needs fails with the reason.

mod adapter_files;
mod adapters;
mod answers;
mod api;
mod bad_input;
mod base_replacement;
mod bits;
mod bottlenecks;
mod clients;
mod commands;
mod dataset;
mod defaults;
mod eval;
mod finetune_command;
mod finetune_tasks;
mod folders;
mod gemma;
mod gguf_lora;
mod golden;
mod hot_swap;
mod http;
mod kinds;
mod many_adapters;
mod merging;
mod preemption;
mod prefix;
mod pull;
mod reference;
mod search;
mod server;
mod settings;
mod tiny;
mod training;
