//! Losses, gradients and trained tensors in f32: against those of torch + peft ([`golden`], on every instruction set:
//! [`instructions`]; of all weights of a model: [`full`]; of pairs that begin as components: [`pissa`]; of [`bottlenecks`]), and
//! against each other where they must be the same ([`properties`]); the same on candle ([`candle`]), also in float16 ([`halves`])
//! and where a device's memory is short ([`shortage`]).

mod bottlenecks;
mod candle;
mod cases;
mod faulty;
mod full;
mod golden;
mod halves;
mod instructions;
mod pissa;
mod properties;
mod shortage;
