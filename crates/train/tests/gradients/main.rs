//! Losses, gradients and trained tensors in f32: against those of torch + peft ([`golden`], on every instruction set:
//! [`instructions`]), and against each other where they must be the same ([`properties`]).

mod bottlenecks;
mod cases;
mod golden;
mod instructions;
mod properties;
