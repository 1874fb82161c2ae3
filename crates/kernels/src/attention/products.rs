//! The two products of attention over pages: queries by keys, weights by values.
//!
//! Q queries by W vectors make a register tile of independent sums: a key or value is converted once for Q products, a
//! query or weight broadcast once for W. On AVX-512 12 by 2 fills the registers; few queries take 4 vectors, because
//! the latency of the products would show.

use std::ops::Range;

use super::tile::{Lanes, Pages};
use crate::kv::{BLOCK_TOKENS, KvElement};
use crate::simd::{CacheLevel, LANES, Simd, prefetch};

/// Pages ahead whose values are brought near.
const AHEAD: usize = 4;

/// Scores `[pages][Q][16]` of Q packed queries over `pages`: one chain of additions along the dimensions each.
#[inline(always)]
pub(super) fn score<S: Simd, E: KvElement, const Q: usize, const W: usize>(
    s: S,
    pages: &Pages<'_, E>,
    range: Range<usize>,
    queries: &[Lanes],
    scores: &mut [Lanes],
) {
    assert!(queries.len() * LANES * LANES == pages.page * Q && scores.len() >= range.end * Q);
    let mut page = range.start;
    while page < range.end {
        // SAFETY: queries and scores are as long as asserted.
        unsafe {
            if page + 1 == range.end {
                score_pages::<S, E, Q, 1>(s, pages, page..range.end, queries, scores);
                page += 1;
            } else {
                score_pages::<S, E, Q, W>(s, pages, page..range.end, queries, scores);
                page += W;
            }
        }
    }
}

/// The first W pages of `range`; beyond the last it is computed again and left out. Meanwhile the next keys are brought
/// near, and after the last ones the first values.
///
/// # Safety
/// There are Q queries of the pages' width.
#[inline(always)]
unsafe fn score_pages<S: Simd, E: KvElement, const Q: usize, const W: usize>(
    s: S,
    pages: &Pages<'_, E>,
    range: Range<usize>,
    queries: &[Lanes],
    scores: &mut [Lanes],
) {
    let mut keys = [std::ptr::null(); W];
    let mut next = [std::ptr::null(); W];
    for w in 0..W {
        let ahead = range.start + W + w;
        keys[w] = pages.at(pages.keys, range.start + w);
        next[w] = if ahead < range.end {
            pages.at(pages.keys, ahead)
        } else {
            pages.at(pages.values, ahead - range.end)
        };
    }
    let mut sums = [[s.splat(0.0); W]; Q];
    for queries in queries.chunks_exact(Q) {
        for dim in 0..LANES {
            let mut key = [s.splat(0.0); W];
            for w in 0..W {
                // SAFETY: a page holds sixteen elements per dimension, and there are as many dimensions as queries have.
                key[w] = unsafe { E::load(s, keys[w].add(dim * BLOCK_TOKENS)) };
                prefetch(next[w].wrapping_add(dim * BLOCK_TOKENS), CacheLevel::First);
            }
            for q in 0..Q {
                // SAFETY: a chunk has Q vectors of sixteen.
                let query = s.splat(unsafe { *queries.get_unchecked(q).0.get_unchecked(dim) });
                for w in 0..W {
                    sums[q][w] = s.mul_add(query, key[w], sums[q][w]);
                }
            }
        }
        for w in 0..W {
            keys[w] = keys[w].wrapping_add(LANES * BLOCK_TOKENS);
            next[w] = next[w].wrapping_add(LANES * BLOCK_TOKENS);
        }
    }
    let scores = &mut scores[range.start * Q..range.end * Q];
    for (scores, w) in scores.chunks_exact_mut(Q).zip(0..W) {
        for q in 0..Q {
            scores[q].set(s, sums[q][w]);
        }
    }
}

/// Adds the values of `tokens`, weighted, to the sums `[dims / 16][Q][16]` of the N queries from `first` on; `weights`
/// are `[pages][Q][16]`. One chain of additions along the tokens each.
#[inline(always)]
pub(super) fn weigh<S: Simd, E: KvElement, const Q: usize, const N: usize, const W: usize>(
    s: S,
    pages: &Pages<'_, E>,
    tokens: Range<usize>,
    (first, weights): (usize, &[Lanes]),
    sums: &mut [Lanes],
) {
    if tokens.is_empty() {
        return;
    }
    let vectors = pages.page / LANES / BLOCK_TOKENS;
    assert!(first + N <= Q && sums.len() == vectors * Q && weights.len() >= tokens.end.div_ceil(BLOCK_TOKENS) * Q);
    let mut vector = 0;
    while vector < vectors {
        // SAFETY: weights and sums are as long as asserted, and the vectors exist.
        unsafe {
            if vector + W <= vectors {
                weigh_vectors::<S, E, Q, N, W>(s, pages, tokens.clone(), (first, weights), (vector, sums));
                vector += W;
            } else {
                weigh_vectors::<S, E, Q, N, 1>(s, pages, tokens.clone(), (first, weights), (vector, sums));
                vector += 1;
            }
        }
    }
}

/// W vectors of dimensions from `vector` on.
///
/// # Safety
/// There are as many vectors and weights for all tokens.
#[inline(always)]
unsafe fn weigh_vectors<S: Simd, E: KvElement, const Q: usize, const N: usize, const W: usize>(
    s: S,
    pages: &Pages<'_, E>,
    tokens: Range<usize>,
    (first, weights): (usize, &[Lanes]),
    (vector, sums): (usize, &mut [Lanes]),
) {
    let head_dim = pages.page / BLOCK_TOKENS;
    let mut acc = [[s.splat(0.0); W]; N];
    for n in 0..N {
        for w in 0..W {
            acc[n][w] = sums[(vector + w) * Q + first + n].get(s);
        }
    }
    for page in tokens.start / BLOCK_TOKENS..tokens.end.div_ceil(BLOCK_TOKENS) {
        let before = page * BLOCK_TOKENS;
        let (start, end) = (
            tokens.start.max(before) - before,
            (tokens.end - before).min(BLOCK_TOKENS),
        );
        let values = pages.at(pages.values, page).wrapping_add(vector * LANES);
        let next = pages.at(pages.values, page + AHEAD).wrapping_add(vector * LANES);
        let weights = &weights[page * Q + first..][..N];
        for token in start..end {
            let mut value = [s.splat(0.0); W];
            for w in 0..W {
                // SAFETY: a page holds `head_dim` elements per token, and the vectors exist.
                value[w] = unsafe { E::load(s, values.add(token * head_dim + w * LANES)) };
                prefetch(next.wrapping_add(token * head_dim + w * LANES), CacheLevel::First);
            }
            for n in 0..N {
                // SAFETY: N vectors of sixteen.
                let weight = s.splat(unsafe { *weights.get_unchecked(n).0.get_unchecked(token) });
                for w in 0..W {
                    acc[n][w] = s.mul_add(weight, value[w], acc[n][w]);
                }
            }
        }
    }
    for n in 0..N {
        for w in 0..W {
            sums[(vector + w) * Q + first + n].set(s, acc[n][w]);
        }
    }
}
