//! Causal grouped-query attention over paged keys and values.
//!
//! A task is a few consecutive rows of one sequence and one key/value head, about [`TASK_QUERIES`] queries, so that a key or
//! a value is converted once for all of them. [`tile`] does a task in three steps: scores of all pages, one softmax
//! per query, the weighted sum of the values. Every output has one order of additions, whatever rows lie beside it:
//! scores along the dimensions, values along the tokens, so that neither chunking nor the batch changes bits.

mod products;
mod softmax;
mod tile;

use std::cell::RefCell;
use std::cmp::Reverse;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::Context;
use crate::disjoint::Disjoint;
use crate::kv::{KvCache, KvElement, KvShape, Places, Storage};
use tile::{Lanes, Pages, Seen, Task};

/// Queries of a task, if its rows give as many: the largest tile of an instruction set.
const TASK_QUERIES: usize = 12;

/// Shape of an attention layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionHeads {
    /// Query heads, a multiple of `kv_heads`.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Factor on q·k.
    pub scale: f32,
    /// Tokens that a position sees, itself included; `None` for all before it.
    pub window: Option<NonZeroUsize>,
}

impl AttentionHeads {
    /// Elements of a row of queries, keys and values.
    pub fn qkv_width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Elements of an output row.
    pub fn width(&self) -> usize {
        self.heads * self.head_dim
    }
}

/// Attention of every row over its sequence up to and including itself. `qkv` rows are `[queries | keys | values]`,
/// rotated and stored; `out` rows are `[heads * head_dim]`.
///
/// # Panics
/// On shapes that do not fit together.
pub fn attend(
    context: &mut Context,
    heads: &AttentionHeads,
    places: &Places,
    (cache, layer): (&KvCache, usize),
    qkv: &[f32],
    out: &mut [f32],
) {
    let rows = places.rows().len();
    cache.check(layer, places);
    assert!(cache.shape.kv_heads == heads.kv_heads && cache.shape.head_dim == heads.head_dim);
    assert!(
        heads.kv_heads > 0 && heads.heads.is_multiple_of(heads.kv_heads),
        "{} query heads on {} key/value heads",
        heads.heads,
        heads.kv_heads
    );
    assert!(qkv.len() == rows * heads.qkv_width() && out.len() == rows * heads.width());
    match &cache.storage {
        Storage::F16 { keys, values } => {
            attend_to(context, heads, places, (cache.shape, layer, keys, values), qkv, out)
        }
        Storage::F32 { keys, values } => {
            attend_to(context, heads, places, (cache.shape, layer, keys, values), qkv, out)
        }
    }
}

/// [`attend`] for one kind of element; shapes are checked.
fn attend_to<E: KvElement>(
    context: &mut Context,
    heads: &AttentionHeads,
    places: &Places,
    (shape, layer, keys, values): (KvShape, usize, &[E], &[E]),
    qkv: &[f32],
    out: &mut [f32],
) {
    let isa = context.isa;
    let out = Disjoint::new(out);
    let shares = shares(heads, places);
    let next = AtomicUsize::new(0);
    context.pool.run(|_| {
        MEMORY.with_borrow_mut(|memory| {
            while let Some(Share { rows, kv_head }) = shares.get(next.fetch_add(1, Ordering::Relaxed)).cloned() {
                let (first, last) = (places.rows()[rows.start], places.rows()[rows.end - 1]);
                let seen = Seen::new(heads, first.position as usize);
                isa.run(Task {
                    heads,
                    kv_head,
                    pages: Pages {
                        start: shape.page_start(layer, 0, kv_head),
                        stride: shape.kv_heads * shape.page(),
                        page: shape.page(),
                        keys,
                        values,
                        blocks: &places.blocks(last)[seen.first_page()..],
                    },
                    seen,
                    qkv: &qkv[rows.start * heads.qkv_width()..rows.end * heads.qkv_width()],
                    rows,
                    memory,
                    out: &out,
                });
            }
        });
    });
}

/// Consecutive rows of one sequence and a key/value head: a task.
#[derive(Clone)]
struct Share {
    rows: Range<usize>,
    kv_head: usize,
}

/// All tasks. The longest sequences come first, and of each its last rows, which see most, so that threads end together;
/// one head after another, because its pages fit in a core's cache.
fn shares(heads: &AttentionHeads, places: &Places) -> Vec<Share> {
    let rows = (TASK_QUERIES * heads.kv_heads / heads.heads.max(1)).max(1);
    let mut sequences: Vec<Range<usize>> = places.sequences().collect();
    sequences.sort_by_key(|sequence| Reverse(places.rows()[sequence.end - 1].position));
    let mut shares = Vec::with_capacity((places.rows().len() / rows + sequences.len()) * heads.kv_heads);
    for sequence in sequences {
        for kv_head in 0..heads.kv_heads {
            for first in sequence.clone().step_by(rows).rev() {
                let rows = first..(first + rows).min(sequence.end);
                shares.push(Share { rows, kv_head });
            }
        }
    }
    shares
}

thread_local! {
    /// Queries, scores and sums of one tile.
    static MEMORY: RefCell<Vec<Lanes>> = const { RefCell::new(Vec::new()) };
}
