//! Causal grouped-query attention over paged keys and values.
//!
//! One task is one row of the batch and one key/value head; the query heads that share it go through its pages together.
//! Scores of all pages first (sixteen tokens to a vector, no reduction), then one softmax, then the weighted sum of the
//! values: pages in order, each output with one chain of additions, so that neither chunking nor the batch changes bits.

use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::Context;
use crate::disjoint::Disjoint;
use crate::isa::Kernel;
use crate::kv::{BLOCK_TOKENS, KvCache, KvElement, KvShape, Place, Places, Storage};
use crate::simd::{LANES, Simd, exp};

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
    let rows = places.rows().len();
    let isa = context.isa;
    let out = Disjoint::new(out);
    let next = AtomicUsize::new(0);
    context.pool.run(|_| {
        let group = heads.heads / heads.kv_heads;
        SCORES.with_borrow_mut(|scores| {
            loop {
                let task = next.fetch_add(1, Ordering::Relaxed);
                let (row, kv_head) = (task / heads.kv_heads, task % heads.kv_heads);
                if row >= rows {
                    break;
                }
                let queries = &qkv[row * heads.qkv_width()..][kv_head * group * heads.head_dim..];
                let queries = &queries[..group * heads.head_dim];
                let first = row * heads.width() + kv_head * group * heads.head_dim;
                // SAFETY: every task has its own row and heads.
                let out = unsafe { out.part(first..first + queries.len()) };
                let place = places.rows()[row];
                let view = KvView {
                    shape,
                    layer,
                    kv_head,
                    keys,
                    values,
                };
                isa.run(Task {
                    pages: Pages::seen(heads, view, places.blocks(place), place),
                    queries,
                    scale: heads.scale,
                    scores,
                    out,
                });
            }
        });
    });
}

thread_local! {
    /// Scores of the heads of one task, `[heads][tokens]`.
    static SCORES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// One key/value head of a layer in the pool.
struct KvView<'a, E> {
    shape: KvShape,
    layer: usize,
    kv_head: usize,
    keys: &'a [E],
    values: &'a [E],
}

/// The pages of one key/value head that a row sees.
struct Pages<'a, E> {
    view: KvView<'a, E>,
    /// From the page of the first token that the row sees on.
    blocks: &'a [u32],
    /// Tokens from the start of the first page up to the row, the row included.
    tokens: usize,
    /// Tokens at the start of the first page that lie before the window.
    before: usize,
}

impl<'a, E: KvElement> Pages<'a, E> {
    fn seen(heads: &AttentionHeads, view: KvView<'a, E>, blocks: &'a [u32], place: Place) -> Self {
        let end = place.position as usize + 1;
        let first = heads.window.map_or(0, |window| end.saturating_sub(window.get()));
        let page = first / BLOCK_TOKENS;
        Self {
            view,
            blocks: &blocks[page..],
            tokens: end - page * BLOCK_TOKENS,
            before: first % BLOCK_TOKENS,
        }
    }

    fn page(&self, of: &'a [E], index: usize) -> &'a [E] {
        let KvView {
            shape, layer, kv_head, ..
        } = self.view;
        let start = shape.page_start(layer, self.blocks[index], kv_head);
        &of[start..start + shape.page()]
    }

    /// Tokens of page `index` that the row sees: what lies beyond is another sequence's or nobody's.
    fn visible(&self, index: usize) -> usize {
        (self.tokens - index * BLOCK_TOKENS).min(BLOCK_TOKENS)
    }

    /// Tokens at the start of page `index` that the row does not see.
    fn hidden(&self, index: usize) -> usize {
        if index == 0 { self.before } else { 0 }
    }
}

struct Task<'a, E> {
    pages: Pages<'a, E>,
    queries: &'a [f32],
    scale: f32,
    scores: &'a mut Vec<f32>,
    out: &'a mut [f32],
}

impl<E: KvElement> Kernel for Task<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let head_dim = self.pages.view.shape.head_dim;
        let heads = self.queries.len() / head_dim;
        let needed = self.pages.blocks.len() * BLOCK_TOKENS * heads.min(4);
        if self.scores.len() < needed {
            self.scores.resize(needed, 0.0);
        }
        let mut head = 0;
        while head < heads {
            let count = (heads - head).min(4);
            let range = head * head_dim..(head + count) * head_dim;
            let part = (&self.pages, &self.queries[range.clone()], self.scale);
            let (scores, out) = (&mut self.scores[..needed], &mut self.out[range]);
            match count {
                1 => heads_together::<S, E, 1>(s, part, scores, out),
                2 => heads_together::<S, E, 2>(s, part, scores, out),
                3 => heads_together::<S, E, 3>(s, part, scores, out),
                _ => heads_together::<S, E, 4>(s, part, scores, out),
            }
            head += count;
        }
    }
}

#[inline(always)]
fn heads_together<S: Simd, E: KvElement, const G: usize>(
    s: S,
    (pages, queries, scale): (&Pages<'_, E>, &[f32], f32),
    scores: &mut [f32],
    out: &mut [f32],
) {
    let tokens = pages.blocks.len() * BLOCK_TOKENS;
    let head_dim = pages.view.shape.head_dim;
    assert!(queries.len() == G * head_dim && out.len() == G * head_dim && scores.len() >= G * tokens);
    let largest = score::<S, E, G>(s, pages, queries, scale, scores);
    let mut totals = [0.0; G];
    for g in 0..G {
        totals[g] = exponentials(s, pages, largest[g], &mut scores[g * tokens..(g + 1) * tokens]);
    }
    let mut dim = 0;
    while dim < head_dim {
        if dim + 4 * LANES <= head_dim {
            weigh::<S, E, G, 4>(s, pages, scores, &totals, (dim, &mut *out));
            dim += 4 * LANES;
        } else {
            weigh::<S, E, G, 1>(s, pages, scores, &totals, (dim, &mut *out));
            dim += LANES;
        }
    }
}

/// Scaled scores of all visible tokens, minus infinity for the rest; returns the largest of each head.
#[inline(always)]
fn score<S: Simd, E: KvElement, const G: usize>(
    s: S,
    pages: &Pages<'_, E>,
    queries: &[f32],
    scale: f32,
    scores: &mut [f32],
) -> [f32; G] {
    let head_dim = pages.view.shape.head_dim;
    let tokens = pages.blocks.len() * BLOCK_TOKENS;
    let mut largest = [s.splat(f32::NEG_INFINITY); G];
    for index in 0..pages.blocks.len() {
        let keys = pages.page(pages.view.keys, index);
        let mut chains = [[s.splat(0.0); 4]; G];
        for dim in (0..head_dim).step_by(4) {
            for j in 0..4 {
                // SAFETY: a page holds sixteen elements per dimension, and widths are multiples of 16.
                let key = unsafe { E::load(s, keys.as_ptr().add((dim + j) * BLOCK_TOKENS)) };
                for g in 0..G {
                    // SAFETY: `queries` has G heads.
                    let query = unsafe { *queries.get_unchecked(g * head_dim + dim + j) };
                    chains[g][j] = s.mul_add(s.splat(query), key, chains[g][j]);
                }
            }
        }
        for g in 0..G {
            let [a, b, c, d] = chains[g];
            let sum = s.mul(s.add(s.add(a, b), s.add(c, d)), s.splat(scale));
            let sum = s.keep(sum, pages.visible(index), f32::NEG_INFINITY);
            let to = &mut scores[g * tokens + index * BLOCK_TOKENS..][..BLOCK_TOKENS];
            // SAFETY: the page has sixteen scores.
            let sum = unsafe { put_seen(s, sum, pages.hidden(index), f32::NEG_INFINITY, to) };
            largest[g] = s.max(largest[g], sum);
        }
    }
    let mut result = [0.0; G];
    for g in 0..G {
        result[g] = s.maximum(largest[g]);
    }
    result
}

/// Stores a page's sixteen values, the first `hidden` of them as `fill`; returns what was stored.
///
/// # Safety
/// `to` has sixteen elements.
#[inline(always)]
unsafe fn put_seen<S: Simd>(s: S, value: S::F, hidden: usize, fill: f32, to: &mut [f32]) -> S::F {
    // SAFETY: the caller's promise.
    unsafe { s.store(to.as_mut_ptr(), value) };
    if hidden == 0 {
        return value;
    }
    to[..hidden].fill(fill);
    // SAFETY: the caller's promise.
    unsafe { s.load(to.as_ptr()) }
}

/// Replaces scores by `e^(score - largest)`, 0 beyond the visible tokens; returns their sum.
#[inline(always)]
fn exponentials<S: Simd, E: KvElement>(s: S, pages: &Pages<'_, E>, largest: f32, scores: &mut [f32]) -> f32 {
    let mut total = s.splat(0.0);
    for (index, scores) in scores.chunks_exact_mut(BLOCK_TOKENS).enumerate() {
        // SAFETY: a chunk has sixteen elements.
        unsafe {
            let value = exp(s, s.sub(s.load(scores.as_ptr()), s.splat(largest)));
            let value = s.keep(value, pages.visible(index), 0.0);
            let value = put_seen(s, value, pages.hidden(index), 0.0, scores);
            total = s.add(total, value);
        }
    }
    s.sum(total)
}

/// Dimensions `dim .. dim + W * 16` of the outputs of G heads: the values weighted and divided by the totals.
#[inline(always)]
fn weigh<S: Simd, E: KvElement, const G: usize, const W: usize>(
    s: S,
    pages: &Pages<'_, E>,
    weights: &[f32],
    totals: &[f32; G],
    (dim, out): (usize, &mut [f32]),
) {
    let head_dim = pages.view.shape.head_dim;
    let tokens = pages.blocks.len() * BLOCK_TOKENS;
    let mut sums = [[s.splat(0.0); W]; G];
    for index in 0..pages.blocks.len() {
        let values = pages.page(pages.view.values, index);
        for token in pages.hidden(index)..pages.visible(index) {
            for w in 0..W {
                // SAFETY: a page holds `head_dim` elements per token, and `dim + W * 16` is at most that.
                let value = unsafe { E::load(s, values.as_ptr().add(token * head_dim + dim + w * LANES)) };
                for g in 0..G {
                    // SAFETY: every head has `tokens` weights.
                    let weight = unsafe { *weights.get_unchecked(g * tokens + index * BLOCK_TOKENS + token) };
                    sums[g][w] = s.mul_add(s.splat(weight), value, sums[g][w]);
                }
            }
        }
    }
    for g in 0..G {
        for w in 0..W {
            // SAFETY: `out` has `head_dim` elements per head.
            unsafe {
                let to = out.as_mut_ptr().add(g * head_dim + dim + w * LANES);
                s.store(to, s.div(sums[g][w], s.splat(totals[g])));
            }
        }
    }
}
