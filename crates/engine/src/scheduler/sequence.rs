//! One sequence as the scheduler sees it: tokens, how far their KV is computed, and the blocks that hold it.

use std::sync::Arc;

use rootstock_model::text::TokenId;

use crate::kv::{BlockTable, PrefixKey};
use crate::runner::{AppliedAdapter, OutputRows};

/// Identity of a sequence for the lifetime of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(pub u64);

/// What the scheduler needs to know of a new sequence.
pub struct NewSequence {
    /// Its identity, never used before.
    pub id: SequenceId,
    /// Prompt, at least one token and at most the scheduler's limit.
    pub prompt: Vec<TokenId>,
    /// Adapters in the order their deltas are added.
    pub adapters: Vec<AppliedAdapter>,
    /// Place of the first prompt token that is scored, if any is.
    pub score_from: Option<usize>,
    /// Whose turn it uses up.
    pub tenant: Arc<str>,
}

/// Which work a sequence has next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Several rows to compute before the next token can be chosen.
    Prefill,
    /// One row.
    Decode,
}

pub(super) struct Sequence {
    pub(super) tokens: Vec<TokenId>,
    pub(super) prompt: usize,
    pub(super) adapters: Vec<AppliedAdapter>,
    pub(super) root: PrefixKey,
    pub(super) tenant: Arc<str>,
    /// First row whose logits score a token of the prompt, the one after it; all that follow are wanted too.
    pub(super) first_scored: Option<usize>,
    /// Blocks while it runs.
    pub(super) table: Option<BlockTable>,
    /// Tokens from the start whose KV is in the blocks.
    pub(super) computed: usize,
    /// Prompt tokens found in the prefix cache at the first admission.
    pub(super) cached: Option<usize>,
}

impl Sequence {
    pub(super) fn new(new: NewSequence) -> Self {
        let last = new.prompt.len().saturating_sub(1);
        Self {
            first_scored: new.score_from.map(|from| from.saturating_sub(1).min(last)),
            prompt: new.prompt.len(),
            tokens: new.prompt,
            root: PrefixKey::root(&new.adapters),
            adapters: new.adapters,
            tenant: new.tenant,
            table: None,
            computed: 0,
            cached: None,
        }
    }

    /// Tokens from the start whose KV is that of a prompt.
    pub(super) fn read_tokens(&self, prompts_apart: bool) -> usize {
        if prompts_apart { self.prompt } else { usize::MAX }
    }

    pub(super) fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }

    pub(super) fn phase(&self) -> Phase {
        if self.pending() > 1 {
            Phase::Prefill
        } else {
            Phase::Decode
        }
    }

    /// Tokens from the start that the prefix cache may stand for: up to the first row whose logits are wanted, and with it.
    pub(super) fn cacheable(&self) -> &[TokenId] {
        match self.first_scored {
            Some(row) => &self.tokens[..=row],
            None => &self.tokens,
        }
    }

    /// Most rows that may run next as one chunk: no more than `scored` of those that all want logits, and none of these behind
    /// others.
    pub(super) fn chunk_rows(&self, scored: usize) -> usize {
        let prompt = self.computed < self.prompt;
        let alike = if prompt { self.prompt } else { self.tokens.len() };
        match self.first_scored {
            Some(row) if self.computed < row => row - self.computed,
            Some(_) => (alike - self.computed).min(scored),
            None => alike - self.computed,
        }
    }

    /// Which rows need logits if the next `rows` are run.
    pub(super) fn outputs(&self, rows: usize) -> OutputRows {
        if self.first_scored.is_some_and(|row| self.computed >= row) {
            OutputRows::All
        } else if rows == self.pending() {
            OutputRows::Last
        } else {
            OutputRows::None
        }
    }
}
