//! Losses, gradients and trained tensors in f32: against those of torch + peft ([`golden`], on every instruction set:
//! [`instructions`]; of all weights of a model: [`full`]; of pairs that begin as components: [`pissa`]), and against each other
//! where they must be the same ([`properties`]).

mod bottlenecks;
mod cases;
mod full;
mod golden;
mod instructions;
mod pissa;
mod properties;
