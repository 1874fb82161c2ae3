//! Normalisation of heads, rotary positions over half-split pairs (i, i + n) of the first 2n elements of a head, and the
//! way of new keys and values into their pages.

use crate::Context;
use crate::attention::AttentionHeads;
use crate::disjoint::Disjoint;
use crate::isa::Kernel;
use crate::kv::{BLOCK_TOKENS, KvCache, KvElement, KvShape, Places, Storage};
use crate::norm::{NormFormula, RowNorm, RowNorms};
use crate::pool::share;
use crate::simd::{LANES, Simd};

/// Cosines and sines of every position, `[positions][pairs]`.
pub struct RotaryTable {
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl RotaryTable {
    /// The table for `positions` positions, cosines and sines times `magnitude`. Angles are products in f32, as the
    /// reference implementation has them.
    pub fn new(inverse_frequencies: &[f32], magnitude: f32, positions: usize) -> Self {
        let angles = (0..positions).flat_map(|position| {
            inverse_frequencies
                .iter()
                .map(move |frequency| f64::from(position as f32 * frequency))
        });
        let scaled = |value: f64| value as f32 * magnitude;
        let (cos, sin) = angles.map(|angle| (scaled(angle.cos()), scaled(angle.sin()))).unzip();
        Self {
            half: inverse_frequencies.len(),
            cos,
            sin,
        }
    }

    /// Pairs that are rotated.
    pub(crate) fn pairs(&self) -> usize {
        self.half
    }

    /// Cosines and sines of a position, one for each pair.
    ///
    /// # Panics
    /// Beyond the table's positions.
    pub fn row(&self, position: usize) -> (&[f32], &[f32]) {
        let range = position * self.half..(position + 1) * self.half;
        (&self.cos[range.clone()], &self.sin[range])
    }
}

/// What happens to queries and keys before they are used.
#[derive(Clone, Copy)]
pub struct HeadTransform<'a> {
    /// Root-mean-square normalisation of every head, of queries and of keys.
    pub norms: Option<(RowNorms<'a>, RowNorms<'a>)>,
    /// Rotary positions; `None` where positions do not enter here.
    pub rotary: Option<&'a RotaryTable>,
}

/// Normalises and rotates the queries and keys of `qkv` rows (`[queries | keys | values]`, `stride` elements each) in place and writes
/// keys and values into the pages of their places.
///
/// # Panics
/// On shapes that do not fit together.
pub fn rotate_and_store(
    context: &mut Context,
    heads: &AttentionHeads,
    transform: HeadTransform<'_>,
    places: &Places,
    (cache, layer): (&mut KvCache, usize),
    qkv: &mut [f32],
) {
    let stride = heads.qkv_width();
    cache.check(layer, places);
    let shape = cache.shape;
    assert!(shape.kv_heads == heads.kv_heads && shape.head_dim == heads.head_dim);
    assert!(transform.rotary.is_none_or(|table| table.half * 2 <= heads.head_dim));
    for norms in transform.norms.iter().flat_map(|(query, key)| [query, key]) {
        norms.check(heads.head_dim);
        assert!(
            norms.formula == NormFormula::Rms && !norms.has_bias(),
            "heads are normalised by their root mean square, without a bias"
        );
    }
    assert_eq!(qkv.len(), places.rows().len() * stride);
    match &mut cache.storage {
        Storage::F16 { keys, values } => {
            rotate_rows(context, heads, transform, places, (shape, layer, keys, values), qkv)
        }
        Storage::F32 { keys, values } => {
            rotate_rows(context, heads, transform, places, (shape, layer, keys, values), qkv)
        }
    }
}

/// [`rotate_and_store`] for one kind of element; shapes are checked.
fn rotate_rows<E: KvElement>(
    context: &mut Context,
    heads: &AttentionHeads,
    transform: HeadTransform<'_>,
    places: &Places,
    (shape, layer, keys, values): (KvShape, usize, &mut [E], &mut [E]),
    qkv: &mut [f32],
) {
    let stride = heads.qkv_width();
    let (threads, isa) = (context.pool.threads(), context.isa);
    let (keys, values) = (Disjoint::new(keys), Disjoint::new(values));
    let qkv = Disjoint::new(qkv);
    let body = |thread: usize, threads: usize| {
        for row in share(places.rows().len(), thread, threads) {
            // SAFETY: a row belongs to one thread.
            let qkv = unsafe { qkv.part(row * stride..(row + 1) * stride) };
            let place = places.rows()[row];
            let position = place.position as usize;
            let block = places.blocks(place)[position / BLOCK_TOKENS];
            let (first, len) = (shape.page_start(layer, block, 0), shape.kv_heads * shape.page());
            // SAFETY: `Places` holds no slot of a block twice, so the elements that rows write are disjoint.
            let (keys, values) = unsafe { (keys.start_of(first, len), values.start_of(first, len)) };
            isa.run(RotateRow {
                heads,
                norms: transform.norms.map(|(query, key)| (query.of(row), key.of(row))),
                angles: transform.rotary.map(|table| table.row(position)),
                slot: position % BLOCK_TOKENS,
                qkv,
                keys,
                values,
            });
        }
    };
    if places.rows().len() == 1 {
        body(0, 1)
    } else {
        context.pool.run(|thread| body(thread, threads))
    }
}

struct RotateRow<'a, E> {
    heads: &'a AttentionHeads,
    norms: Option<(RowNorm<'a>, RowNorm<'a>)>,
    angles: Option<(&'a [f32], &'a [f32])>,
    slot: usize,
    qkv: &'a mut [f32],
    keys: *mut E,
    values: *mut E,
}

impl<E: KvElement> Kernel for RotateRow<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let AttentionHeads {
            heads,
            kv_heads,
            head_dim,
            ..
        } = *self.heads;
        let (rotated, values) = self.qkv.split_at_mut((heads + kv_heads) * head_dim);
        if let Some((query, key)) = self.norms {
            let (queries, keys) = rotated.split_at_mut(heads * head_dim);
            for head in queries.chunks_exact_mut(head_dim) {
                query.apply_to_head(s, head);
            }
            for head in keys.chunks_exact_mut(head_dim) {
                key.apply_to_head(s, head);
            }
        }
        if let Some(angles) = self.angles {
            for head in rotated.chunks_exact_mut(head_dim) {
                rotate(s, &mut head[..2 * angles.0.len()], angles);
            }
        }
        let keys = &rotated[heads * head_dim..];
        for kv_head in 0..kv_heads {
            let page = kv_head * head_dim * BLOCK_TOKENS;
            for dim in (0..head_dim).step_by(LANES) {
                let from = kv_head * head_dim + dim;
                let mut key = [E::default(); LANES];
                // SAFETY: sixteen elements from `from` on exist in both rows; the page has `head_dim * 16` elements and
                // `slot` is below 16.
                unsafe {
                    E::store(s, key.as_mut_ptr(), s.load(keys[from..from + LANES].as_ptr()));
                    for (lane, &bits) in key.iter().enumerate() {
                        *self.keys.add(page + (dim + lane) * BLOCK_TOKENS + self.slot) = bits;
                    }
                    let value = s.load(values[from..from + LANES].as_ptr());
                    E::store(s, self.values.add(page + self.slot * head_dim + dim), value);
                }
            }
        }
    }
}

/// `(a, b) -> (a cos - b sin, b cos + a sin)` over the halves of a head.
#[inline(always)]
fn rotate<S: Simd>(s: S, head: &mut [f32], (cos, sin): (&[f32], &[f32])) {
    let half = head.len() / 2;
    let (first, second) = head.split_at_mut(half);
    let whole = half / LANES * LANES;
    for at in (0..whole).step_by(LANES) {
        // SAFETY: sixteen elements from `at` on exist in all four slices of `half` elements.
        unsafe {
            let (cos, sin) = (
                s.load(cos[at..at + LANES].as_ptr()),
                s.load(sin[at..at + LANES].as_ptr()),
            );
            let (a, b) = (s.load(first.as_ptr().add(at)), s.load(second.as_ptr().add(at)));
            let minus = s.sub(s.splat(0.0), s.mul(b, sin));
            s.store(first.as_mut_ptr().add(at), s.mul_add(a, cos, minus));
            s.store(second.as_mut_ptr().add(at), s.mul_add(b, cos, s.mul(a, sin)));
        }
    }
    for at in whole..half {
        let (a, b) = (first[at], second[at]);
        first[at] = a.mul_add(cos[at], -(b * sin[at]));
        second[at] = b.mul_add(cos[at], a * sin[at]);
    }
}
