//! Keys and values in pages: blocks of [`BLOCK_TOKENS`] tokens, f16 (or f32, for checking), one pool for all sequences.
//!
//! ```text
//! keys   [layer][block][kv head][dim][token]    sixteen tokens of one dimension are one vector: scores need no reduction
//! values [layer][block][kv head][token][dim]
//! ```

use std::collections::HashSet;
use std::ops::{Deref, DerefMut, Range};

use crate::matrix::ShapeError;
use crate::simd::{LANES, Simd};

/// Tokens per block: one vector of scores.
pub const BLOCK_TOKENS: usize = LANES;

/// Bytes.
const CACHE_LINE: usize = 64;

/// How keys and values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvPrecision {
    /// IEEE half.
    F16,
    /// IEEE single; twice the memory, for checking.
    F32,
}

/// Shape of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// Layers.
    pub layers: usize,
    /// Blocks for every layer.
    pub blocks: usize,
    /// Key/value heads of a layer.
    pub kv_heads: usize,
    /// Width of a head, a multiple of 16.
    pub head_dim: usize,
}

impl KvShape {
    /// Bytes that one block takes over all layers.
    pub fn block_bytes(&self, precision: KvPrecision) -> usize {
        let element = match precision {
            KvPrecision::F16 => 2,
            KvPrecision::F32 => 4,
        };
        2 * element * self.layers * self.kv_heads * self.page()
    }

    /// Elements of one head in one block.
    pub(crate) fn page(&self) -> usize {
        self.head_dim * BLOCK_TOKENS
    }

    /// First element of a head's page in keys and values.
    pub(crate) fn page_start(&self, layer: usize, block: u32, kv_head: usize) -> usize {
        ((layer * self.blocks + block as usize) * self.kv_heads + kv_head) * self.page()
    }

    /// Elements of all keys.
    fn elements(&self) -> Option<usize> {
        let sizes = [self.blocks, self.kv_heads, self.head_dim, BLOCK_TOKENS];
        sizes.into_iter().try_fold(self.layers, usize::checked_mul)
    }
}

/// The pool. Memory is touched, and so resident, only once a block is used.
pub struct KvCache {
    pub(crate) shape: KvShape,
    pub(crate) storage: Storage,
}

/// Keys and values, as many of each.
pub(crate) enum Storage {
    F16 { keys: Elements<u16>, values: Elements<u16> },
    F32 { keys: Elements<f32>, values: Elements<f32> },
}

/// Elements from a cache line's start on, zero at first.
pub(crate) struct Elements<E> {
    /// With room to begin on a cache line: an aligned allocation would be cleared, and so made resident, at once.
    memory: Vec<E>,
    start: usize,
    len: usize,
}

impl<E: KvElement> Elements<E> {
    fn zeroed(len: usize) -> Self {
        let spare = CACHE_LINE / size_of::<E>();
        let memory = vec![E::default(); len + spare];
        let start = memory.as_ptr().align_offset(CACHE_LINE).min(spare);
        Self { memory, start, len }
    }
}

impl<E> Deref for Elements<E> {
    type Target = [E];

    fn deref(&self) -> &[E] {
        &self.memory[self.start..][..self.len]
    }
}

impl<E> DerefMut for Elements<E> {
    fn deref_mut(&mut self) -> &mut [E] {
        &mut self.memory[self.start..][..self.len]
    }
}

/// An element of keys and values.
pub(crate) trait KvElement: Copy + Default + Send + Sync {
    /// Reads sixteen elements.
    ///
    /// # Safety
    /// They exist.
    unsafe fn load<S: Simd>(s: S, from: *const Self) -> S::F;
    /// Writes sixteen elements, rounded to nearest even.
    ///
    /// # Safety
    /// They exist.
    unsafe fn store<S: Simd>(s: S, to: *mut Self, value: S::F);
}

/// IEEE half.
impl KvElement for u16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, from: *const Self) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { s.load_f16(from) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, to: *mut Self, value: S::F) {
        // SAFETY: the caller's promise.
        unsafe { s.store_f16(to, value) }
    }
}

impl KvElement for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, from: *const Self) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { s.load(from) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, to: *mut Self, value: S::F) {
        // SAFETY: the caller's promise.
        unsafe { s.store(to, value) }
    }
}

impl KvCache {
    /// An empty pool.
    ///
    /// # Errors
    /// A head width that is not a multiple of 16, or more elements than can be counted.
    pub fn new(shape: KvShape, precision: KvPrecision) -> Result<Self, ShapeError> {
        if shape.head_dim == 0 || !shape.head_dim.is_multiple_of(LANES) {
            return Err(ShapeError(format!(
                "expected a head width in multiples of {LANES}, got {}",
                shape.head_dim
            )));
        }
        let counted = shape.elements();
        let len = counted.ok_or_else(|| ShapeError(format!("{shape:?} is beyond counting")))?;
        let storage = match precision {
            KvPrecision::F16 => Storage::F16 {
                keys: Elements::zeroed(len),
                values: Elements::zeroed(len),
            },
            KvPrecision::F32 => Storage::F32 {
                keys: Elements::zeroed(len),
                values: Elements::zeroed(len),
            },
        };
        Ok(Self { shape, storage })
    }

    /// Blocks in the pool.
    pub fn blocks(&self) -> usize {
        self.shape.blocks
    }

    pub(crate) fn check(&self, layer: usize, places: &Places) {
        assert!(layer < self.shape.layers, "layer {layer} of {}", self.shape.layers);
        assert!(
            places.tables.iter().all(|&block| (block as usize) < self.shape.blocks),
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

    /// The rows of each sequence; their positions follow each other.
    pub(crate) fn sequences(&self) -> impl Iterator<Item = Range<usize>> {
        let mut end = 0;
        self.rows.chunk_by(|a, b| a.table == b.table).map(move |rows| {
            end += rows.len();
            end - rows.len()..end
        })
    }

    /// Blocks of the sequence of `place`, up to the one of its position.
    pub(crate) fn blocks(&self, place: Place) -> &[u32] {
        &self.tables[place.table as usize..][..place.position as usize / BLOCK_TOKENS + 1]
    }
}
