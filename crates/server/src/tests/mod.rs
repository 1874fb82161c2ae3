//! The server over HTTP, on a runner that counts instead of a model.

mod adapters;
mod bases;
mod chat;
mod choices;
mod completions;
mod connections;
mod counter;
mod defaults;
mod fuzz;
mod life;
mod refusals;
mod streams;
mod world;
