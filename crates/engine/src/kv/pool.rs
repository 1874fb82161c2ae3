//! The block pool and its leases. A block is in exactly one of three states: empty, held by one or more tables,
//! or idle: held by none, with a published prefix, and taken for new content when no empty block is left,
//! least recently used first.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use rootstock_model::text::TokenId;

use super::PrefixKey;
use crate::runner::BlockId;

/// All KV blocks of a runner. Single-threaded: it lives with the scheduler on the engine thread.
pub struct BlockPool {
    state: Rc<RefCell<State>>,
    block_tokens: usize,
    total: usize,
}

struct State {
    blocks: Vec<Block>,
    empty: Vec<BlockId>,
    /// Idle blocks by the time they were let go.
    idle: BTreeMap<u64, BlockId>,
    published: HashMap<PrefixKey, BlockId>,
    clock: u64,
}

#[derive(Clone, Default)]
struct Block {
    holders: u32,
    key: Option<PrefixKey>,
    /// Its place in `idle`; meaningful only there.
    idle_since: u64,
}

/// The blocks of one sequence, in order of position. Gives them back when dropped.
pub struct BlockTable {
    state: Rc<RefCell<State>>,
    block_tokens: usize,
    blocks: Vec<BlockId>,
    /// Blocks from the start whose key is settled: matched, published, or found published by another sequence.
    keyed: usize,
    /// Key of the last of them, or the root.
    key: PrefixKey,
}

impl BlockPool {
    /// A pool of `total` empty blocks of `block_tokens` tokens each.
    pub fn new(total: usize, block_tokens: usize) -> Self {
        let id = |index: usize| BlockId(u32::try_from(index).unwrap_or(u32::MAX));
        let state = State {
            blocks: vec![Block::default(); total],
            empty: (0..total).rev().map(id).collect(),
            idle: BTreeMap::new(),
            published: HashMap::new(),
            clock: 0,
        };
        Self {
            state: Rc::new(RefCell::new(state)),
            block_tokens,
            total,
        }
    }

    /// Tokens per block.
    pub fn block_tokens(&self) -> usize {
        self.block_tokens
    }

    /// Blocks in the pool.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Blocks that can be had without taking one from a sequence.
    pub fn available(&self) -> usize {
        let state = self.state.borrow();
        state.empty.len() + state.idle.len()
    }

    /// Blocks that hold a prefix and no sequence.
    pub fn idle(&self) -> usize {
        self.state.borrow().idle.len()
    }

    /// A table without blocks.
    pub fn table(&self, root: PrefixKey) -> BlockTable {
        BlockTable {
            state: Rc::clone(&self.state),
            block_tokens: self.block_tokens,
            blocks: Vec::new(),
            keyed: 0,
            key: root,
        }
    }

    /// A table that starts with the published blocks of the longest known prefix of `tokens`. Never all of them:
    /// the last token has to be computed for its logits, and goes to a block that no other sequence sees. The first `prompt`
    /// tokens are those that were not generated.
    pub fn matching(&self, root: PrefixKey, tokens: &[TokenId], prompt: usize) -> BlockTable {
        let mut table = self.table(root);
        let before_last = tokens.len().saturating_sub(1);
        for content in tokens[..before_last].chunks_exact(self.block_tokens) {
            let key = table.key.next(content, prompt.saturating_sub(table.capacity()));
            let Some(id) = self.state.borrow_mut().hold_published(&key) else {
                break;
            };
            table.blocks.push(id);
            table.keyed += 1;
            table.key = key;
        }
        table
    }
}

impl BlockTable {
    /// The blocks.
    pub fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }

    /// Tokens that fit in the blocks.
    pub fn capacity(&self) -> usize {
        self.blocks.len() * self.block_tokens
    }

    /// Takes blocks until `tokens` fit; takes none and returns false if the pool has too few.
    #[must_use]
    pub fn reserve(&mut self, tokens: usize) -> bool {
        let missing = tokens.div_ceil(self.block_tokens).saturating_sub(self.blocks.len());
        let mut state = self.state.borrow_mut();
        if missing > state.empty.len() + state.idle.len() {
            return false;
        }
        self.blocks.extend((0..missing).map_while(|_| state.take()));
        true
    }

    /// Makes the full blocks of `computed`, the tokens whose KV has been written, available to other sequences. The first
    /// `prompt` of them are those that were not generated.
    pub fn publish(&mut self, computed: &[TokenId], prompt: usize) {
        let mut state = self.state.borrow_mut();
        for content in computed.chunks_exact(self.block_tokens).skip(self.keyed) {
            self.key = self
                .key
                .next(content, prompt.saturating_sub(self.keyed * self.block_tokens));
            state.publish(self.blocks[self.keyed], self.key);
            self.keyed += 1;
        }
    }

    /// Withdraws the blocks from further sharing, because a step that failed may have left anything in them.
    pub fn forget(&mut self) {
        let mut state = self.state.borrow_mut();
        for &id in &self.blocks {
            state.withdraw(id);
        }
    }
}

impl Drop for BlockTable {
    fn drop(&mut self) {
        let mut state = self.state.borrow_mut();
        // From the end, so that the tail of a prefix is reused for other content before its head.
        for &id in self.blocks.iter().rev() {
            state.release(id);
        }
    }
}

impl State {
    /// An empty block, else the idle one unused for longest; held once.
    fn take(&mut self) -> Option<BlockId> {
        let id = match self.empty.pop() {
            Some(id) => id,
            None => {
                let (_, id) = self.idle.pop_first()?;
                self.withdraw(id);
                id
            }
        };
        self.blocks[id.0 as usize].holders = 1;
        Some(id)
    }

    fn hold_published(&mut self, key: &PrefixKey) -> Option<BlockId> {
        let id = *self.published.get(key)?;
        let block = &mut self.blocks[id.0 as usize];
        if block.holders == 0 {
            self.idle.remove(&block.idle_since);
        }
        block.holders += 1;
        Some(id)
    }

    /// The first block of a content stays the published one; a second copy lives only as long as its sequence.
    fn publish(&mut self, id: BlockId, key: PrefixKey) {
        if let std::collections::hash_map::Entry::Vacant(entry) = self.published.entry(key) {
            entry.insert(id);
            self.blocks[id.0 as usize].key = Some(key);
        }
    }

    fn withdraw(&mut self, id: BlockId) {
        if let Some(key) = self.blocks[id.0 as usize].key.take() {
            self.published.remove(&key);
        }
    }

    fn release(&mut self, id: BlockId) {
        let block = &mut self.blocks[id.0 as usize];
        block.holders -= 1;
        if block.holders > 0 {
            return;
        }
        if block.key.is_some() {
            self.clock += 1;
            block.idle_since = self.clock;
            self.idle.insert(self.clock, id);
        } else {
            self.empty.push(id);
        }
    }
}

#[cfg(test)]
impl BlockPool {
    /// Panics unless every block is in exactly one state and `holders` says how many tables hold it.
    pub(super) fn check(&self, holders: &HashMap<BlockId, u32>) {
        let state = self.state.borrow();
        let mut seen = vec![0; self.total];
        for id in &state.empty {
            seen[id.0 as usize] += 1;
            assert!(
                state.blocks[id.0 as usize].key.is_none(),
                "an empty block has no content"
            );
        }
        for (since, id) in &state.idle {
            seen[id.0 as usize] += 1;
            assert_eq!(state.blocks[id.0 as usize].idle_since, *since);
            assert!(state.blocks[id.0 as usize].key.is_some(), "an idle block has content");
        }
        for (index, block) in state.blocks.iter().enumerate() {
            let id = BlockId(index as u32);
            let held = holders.get(&id).copied().unwrap_or(0);
            assert_eq!(block.holders, held, "holders of {id:?}");
            assert_eq!(seen[index] + u32::from(held > 0), 1, "{id:?} is in exactly one state");
            if let Some(key) = block.key {
                assert_eq!(state.published.get(&key), Some(&id));
            }
        }
        let keyed = state.blocks.iter().filter(|block| block.key.is_some()).count();
        assert_eq!(state.published.len(), keyed);
    }
}
