//! Identity of the KV in a full block: everything that went into computing it, and nothing else.

use rootstock_model::text::TokenId;

use crate::runner::AppliedAdapter;

/// Key of a full block: a BLAKE3 chain over the adapters' content and scales, in order, and over every token up to
/// the block's end, and which of those are of a prompt: what was generated is computed in another way than what was read.
/// Names do not enter, so equal content is shared under any name and a replaced adapter never is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PrefixKey([u8; 32]);

impl PrefixKey {
    /// Start of the chain for a list of adapters; empty for the base.
    pub fn root(adapters: &[AppliedAdapter]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"root");
        for adapter in adapters {
            hasher.update(&adapter.weights.content_hash().0);
            hasher.update(&adapter.scale.to_bits().to_le_bytes());
        }
        Self(*hasher.finalize().as_bytes())
    }

    /// Key of the block that follows this one and holds `tokens`, the first `prompt` of which are of a prompt.
    pub fn next(&self, tokens: &[TokenId], prompt: usize) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"link");
        hasher.update(&self.0);
        hasher.update(&(prompt.min(tokens.len()) as u64).to_le_bytes());
        for token in tokens {
            hasher.update(&token.to_le_bytes());
        }
        Self(*hasher.finalize().as_bytes())
    }
}
