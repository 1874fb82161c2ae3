//! The server over HTTP, on a runner that counts instead of a model.

mod adapters;
mod chat;
mod choices;
mod completions;
mod connections;
mod counter;
mod fuzz;
mod life;
mod refusals;
mod streams;
mod world;
