//! Paged KV: which blocks of the runner's pool belong to which sequence, and which hold a prefix worth keeping.
//! Knows block numbers and content keys; the KV values themselves stay with the runner.

mod pool;
mod prefix;
#[cfg(test)]
mod tests;

pub use pool::{BlockPool, BlockTable};
pub use prefix::PrefixKey;
