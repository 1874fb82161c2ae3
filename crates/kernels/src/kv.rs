//! Keys and values in pages: blocks of [`BLOCK_TOKENS`] tokens, f16, one pool for all sequences.
//!
//! ```text
//! keys   [layer][block][kv head][dim][token]    sixteen tokens of one dimension are one vector: scores need no reduction
//! values [layer][block][kv head][token][dim]
//! ```

use std::collections::HashSet;

use crate::matrix::ShapeError;
use crate::simd::LANES;

/// Tokens per block: one vector of scores.
pub const BLOCK_TOKENS: usize = LANES;

/// The pool. Memory is touched, and so resident, only once a block is used.
pub struct KvCache {
    layers: usize,
    blocks: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) keys: Vec<u16>,
    pub(crate) values: Vec<u16>,
}

impl KvCache {
    /// A pool of `blocks` blocks for every layer.
    ///
    /// # Errors
    /// A head width that is not a multiple of 16, or more elements than can be counted.
    pub fn new(layers: usize, blocks: usize, kv_heads: usize, head_dim: usize) -> Result<Self, ShapeError> {
        if head_dim == 0 || !head_dim.is_multiple_of(LANES) {
            return Err(ShapeError(format!(
                "expected a head width in multiples of {LANES}, got {head_dim}"
            )));
        }
        let sizes = [blocks, kv_heads, head_dim, BLOCK_TOKENS];
        let len = sizes.into_iter().try_fold(layers, usize::checked_mul).ok_or_else(|| {
            ShapeError(format!(
                "{layers} layers of {blocks} blocks of {kv_heads} x {head_dim} are beyond counting"
            ))
        })?;
        Ok(Self {
            layers,
            blocks,
            kv_heads,
            head_dim,
            keys: vec![0; len],
            values: vec![0; len],
        })
    }

    /// Bytes that one block takes over all layers.
    pub fn block_bytes(layers: usize, kv_heads: usize, head_dim: usize) -> usize {
        2 * 2 * layers * kv_heads * head_dim * BLOCK_TOKENS
    }

    /// Blocks in the pool.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Elements of one head in one block.
    pub(crate) fn page(&self) -> usize {
        self.head_dim * BLOCK_TOKENS
    }

    /// First element of a head's page in `keys` and `values`.
    pub(crate) fn page_start(&self, layer: usize, block: u32, kv_head: usize) -> usize {
        ((layer * self.blocks + block as usize) * self.kv_heads + kv_head) * self.page()
    }

    pub(crate) fn check(&self, layer: usize, places: &Places) {
        assert!(layer < self.layers, "layer {layer} of {}", self.layers);
        assert!(
            places.tables.iter().all(|&block| (block as usize) < self.blocks),
            "a block beyond the pool"
        );
    }
}

/// Where one row of a batch stands: its position and its sequence's block table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Position in the sequence, from 0.
    pub position: u32,
    /// Start of the sequence's table in [`Places`].
    table: u32,
}

/// Where every row of a batch stands.
#[derive(Debug, Default)]
pub struct Places {
    rows: Vec<Place>,
    tables: Vec<u32>,
    /// Slots that the rows write, as block * 16 + slot: threads write them at the same time, so none may occur twice.
    written: HashSet<u64>,
}

impl Places {
    /// Forgets all rows.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.tables.clear();
        self.written.clear();
    }

    /// Adds `rows` rows of one sequence, the first at `position`; `blocks` covers the sequence up to its last row.
    ///
    /// # Panics
    /// If it does not, or if two rows would write the same slot of a block.
    pub fn push(&mut self, position: usize, rows: usize, blocks: impl Iterator<Item = u32>) {
        let table = self.tables.len();
        self.tables.extend(blocks);
        // Positions and tables are kept as u32.
        let covered = ((self.tables.len() - table) * BLOCK_TOKENS).min(u32::MAX as usize);
        let end = position.saturating_add(rows);
        assert!(end <= covered, "blocks cover {covered} tokens of {end}");
        assert!(u32::try_from(table).is_ok(), "too many blocks in a batch");
        for at in position..end {
            let block = u64::from(self.tables[table + at / BLOCK_TOKENS]);
            let fresh = self
                .written
                .insert(block * BLOCK_TOKENS as u64 + (at % BLOCK_TOKENS) as u64);
            assert!(fresh, "two rows of a batch write position {at} of block {block}");
        }
        let place = |row: usize| Place {
            position: (position + row) as u32,
            table: table as u32,
        };
        self.rows.extend((0..rows).map(place));
    }

    /// One entry per row.
    pub fn rows(&self) -> &[Place] {
        &self.rows
    }

    /// Blocks of the sequence of `place`, up to the one of its position.
    pub(crate) fn blocks(&self, place: Place) -> &[u32] {
        &self.tables[place.table as usize..][..place.position as usize / BLOCK_TOKENS + 1]
    }
}
