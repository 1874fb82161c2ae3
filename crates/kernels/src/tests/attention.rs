use std::num::NonZeroUsize;

use crate::kv::Storage;
use crate::testing::{Random, assert_close, contexts};
use crate::{
    AttentionHeads, BLOCK_TOKENS, Context, HeadTransform, KvCache, KvPrecision, KvShape, NormFormula, NormWeights,
    Places, RotaryTable, RowNorms, attend, rotate_and_store,
};

const BASE: f32 = 10_000.0;
const EPSILON: f32 = 1e-5;

/// An attention layer, and what it does to its heads.
struct Layer {
    heads: AttentionHeads,
    /// Pairs that are rotated.
    pairs: usize,
    magnitude: f32,
    norms: Option<(Vec<f32>, Vec<f32>)>,
}

impl Layer {
    /// Rotates whole heads, sees everything.
    fn plain(heads: usize, kv_heads: usize, head_dim: usize) -> Self {
        Self {
            heads: AttentionHeads {
                heads,
                kv_heads,
                head_dim,
                scale: 1.0 / (head_dim as f32).sqrt(),
                window: None,
            },
            pairs: head_dim / 2,
            magnitude: 1.0,
            norms: None,
        }
    }

    fn seeing(mut self, window: usize) -> Self {
        self.heads.window = NonZeroUsize::new(window);
        self
    }

    fn frequencies(&self) -> Vec<f32> {
        (0..self.pairs)
            .map(|i| 1.0 / BASE.powf(i as f32 / self.pairs as f32))
            .collect()
    }
}

fn rms(weight: &[f32]) -> RowNorms<'_> {
    RowNorms {
        formula: NormFormula::Rms,
        epsilon: EPSILON,
        weights: NormWeights { weight, bias: &[] },
        own: &[],
    }
}

/// A pool of two layers.
fn cache((blocks, kv_heads, head_dim): (usize, usize, usize), precision: KvPrecision) -> KvCache {
    let shape = KvShape {
        layers: 2,
        blocks,
        kv_heads,
        head_dim,
    };
    KvCache::new(shape, precision).unwrap()
}

/// Runs rows `range` of a sequence (`qkv` holds all of it) and returns their outputs.
fn step(
    context: &mut Context,
    layer: &Layer,
    cache: &mut KvCache,
    qkv: &[f32],
    (range, blocks): (std::ops::Range<usize>, &[u32]),
) -> Vec<f32> {
    let heads = &layer.heads;
    let table = RotaryTable::new(&layer.frequencies(), layer.magnitude, qkv.len() / heads.qkv_width());
    let transform = HeadTransform {
        norms: layer.norms.as_ref().map(|(query, key)| (rms(query), rms(key))),
        rotary: (layer.pairs > 0).then_some(&table),
    };
    let mut places = Places::default();
    let used = range.end.div_ceil(BLOCK_TOKENS);
    places.push(range.start, range.len(), blocks[..used].iter().copied());
    let mut rows = qkv[range.start * heads.qkv_width()..range.end * heads.qkv_width()].to_vec();
    let mut out = vec![0.0; range.len() * heads.width()];
    rotate_and_store(context, heads, transform, &places, (cache, 1), &mut rows);
    attend(context, heads, &places, (cache, 1), &rows, &mut out);
    out
}

/// The same in f64, keys and values rounded as the cache keeps them.
fn reference(layer: &Layer, qkv: &[f32], precision: KvPrecision) -> Vec<f64> {
    let heads = &layer.heads;
    let (width, dim) = (heads.qkv_width(), heads.head_dim);
    let tokens = qkv.len() / width;
    let kept = |v: f64| match precision {
        KvPrecision::F16 => half::f16::from_f64(v).to_f64(),
        KvPrecision::F32 => v,
    };
    let rotated = |token: usize, head: usize| -> Vec<f64> {
        let mut x: Vec<f64> = qkv[token * width + head * dim..][..dim]
            .iter()
            .map(|&v| v.into())
            .collect();
        if let Some((query, key)) = &layer.norms {
            let root = (x.iter().map(|v| v * v).sum::<f64>() / dim as f64 + f64::from(EPSILON)).sqrt();
            let weight = if head < heads.heads { query } else { key };
            x.iter_mut().zip(weight).for_each(|(x, w)| *x *= f64::from(*w) / root);
        }
        let mut out = x.clone();
        for (i, frequency) in layer.frequencies().iter().enumerate() {
            let angle = f64::from(token as f32 * frequency);
            let (cos, sin) = (
                angle.cos() * f64::from(layer.magnitude),
                angle.sin() * f64::from(layer.magnitude),
            );
            out[i] = x[i] * cos - x[i + layer.pairs] * sin;
            out[i + layer.pairs] = x[i + layer.pairs] * cos + x[i] * sin;
        }
        out
    };
    let first = |token: usize| {
        heads
            .window
            .map_or(0, |window| (token + 1).saturating_sub(window.get()))
    };
    let mut out = Vec::new();
    for token in 0..tokens {
        for head in 0..heads.heads {
            let kv = head / (heads.heads / heads.kv_heads);
            let q = rotated(token, head);
            let scores: Vec<f64> = (first(token)..=token)
                .map(|t| {
                    let k = rotated(t, heads.heads + kv);
                    f64::from(heads.scale) * q.iter().zip(&k).map(|(a, b)| a * kept(*b)).sum::<f64>()
                })
                .collect();
            let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|s| (s - top).exp()).sum();
            for d in 0..dim {
                let v = |t: usize| {
                    kept(f64::from(
                        qkv[t * width + (heads.heads + heads.kv_heads + kv) * dim + d],
                    ))
                };
                out.push(
                    scores
                        .iter()
                        .enumerate()
                        .map(|(t, s)| (s - top).exp() / total * v(first(token) + t))
                        .sum(),
                );
            }
        }
    }
    out
}

#[test]
fn attention_matches_the_reference_in_any_chunking() {
    let mut random = Random(21);
    let mut normed = Layer::plain(4, 1, 48);
    normed.norms = Some((random.numbers(48), random.numbers(48)));
    let partial = Layer {
        pairs: 12,
        magnitude: 1.25,
        ..Layer::plain(2, 2, 64).seeing(20)
    };
    let unrotated = Layer {
        pairs: 0,
        ..Layer::plain(3, 1, 16)
    };
    let layers = [
        Layer::plain(9, 3, 64),
        Layer::plain(4, 4, 16),
        Layer::plain(8, 1, 32),
        Layer::plain(5, 1, 80),
        Layer::plain(12, 2, 48),
        Layer::plain(4, 2, 16).seeing(16),
        Layer::plain(2, 1, 32).seeing(1),
        Layer::plain(2, 1, 32).seeing(37),
        Layer::plain(1, 1, 16).seeing(2),
        Layer::plain(3, 1, 16).seeing(3),
        Layer::plain(12, 1, 32).seeing(5),
        Layer::plain(7, 1, 16),
        Layer::plain(13, 1, 16),
        Layer::plain(25, 1, 16).seeing(18),
        normed,
        partial,
        unrotated,
    ];
    for layer in layers {
        check(&mut random, &layer, 53, &[1, 5, 16, 53]);
    }
}

/// Contexts of every number of pages that tiles of several pages leave over.
#[test]
fn a_longer_context_matches_the_reference_in_any_chunking() {
    let mut random = Random(22);
    for layer in [
        Layer::plain(1, 1, 16),
        Layer::plain(6, 2, 64),
        Layer::plain(4, 1, 16).seeing(70),
    ] {
        check(&mut random, &layer, 167, &[1, 7, 64, 167]);
    }
}

/// Asserts that the layer comes close to the reference and gives the same bits in all chunkings, on all instruction sets.
fn check(random: &mut Random, layer: &Layer, tokens: usize, chunks: &[usize]) {
    let heads = layer.heads;
    let qkv = random.numbers(tokens * heads.qkv_width());
    let blocks = [7, 0, 3, 8, 10, 2, 9, 1, 6, 4, 11];
    for precision in [KvPrecision::F16, KvPrecision::F32] {
        let expected = reference(layer, &qkv, precision);
        let tolerance = if precision == KvPrecision::F16 { 2e-3 } else { 2e-6 };
        let mut bits: Option<Vec<f32>> = None;
        for mut context in contexts() {
            for &chunk in chunks {
                let mut cache = stale((12, heads.kv_heads, heads.head_dim), precision);
                let mut got = Vec::new();
                for start in (0..tokens).step_by(chunk) {
                    let range = start..(start + chunk).min(tokens);
                    got.extend(step(&mut context, layer, &mut cache, &qkv, (range, &blocks)));
                }
                assert_close(&got, &expected, tolerance, context.isa.name());
                let first = bits.get_or_insert_with(|| got.clone());
                assert_eq!(&got, first, "chunks of {chunk} on {}", context.isa.name());
            }
        }
    }
}

/// A pool full of what must not be seen.
fn stale(shape: (usize, usize, usize), precision: KvPrecision) -> KvCache {
    let mut cache = cache(shape, precision);
    match &mut cache.storage {
        Storage::F16 { keys, values } => {
            keys.fill(half::f16::NAN.to_bits());
            values.fill(half::f16::INFINITY.to_bits());
        }
        Storage::F32 { keys, values } => {
            keys.fill(f32::NAN);
            values.fill(f32::INFINITY);
        }
    }
    cache
}

/// Sequences of one batch: at their start, one row further on, and a chunk in the middle.
#[test]
fn sequences_of_a_batch_get_the_bits_they_get_alone() {
    let mut random = Random(23);
    for layer in [Layer::plain(9, 3, 64), Layer::plain(8, 2, 16).seeing(19)] {
        let heads = layer.heads;
        let unchanged = HeadTransform {
            norms: None,
            rotary: None,
        };
        let sequences = [(0..5, [7, 0, 3]), (20..21, [1, 8, 2]), (21..47, [5, 4, 6])];
        let inputs = sequences
            .clone()
            .map(|(range, _)| random.numbers(range.end * heads.qkv_width()));
        for mut context in contexts() {
            let mut cache = stale((9, heads.kv_heads, heads.head_dim), KvPrecision::F16);
            let mut run = |parts: &[(usize, std::ops::Range<usize>)]| {
                let (mut places, mut rows) = (Places::default(), Vec::new());
                for (index, range) in parts {
                    places.push(range.start, range.len(), sequences[*index].1.into_iter());
                    rows.extend(&inputs[*index][range.start * heads.qkv_width()..range.end * heads.qkv_width()]);
                }
                let mut out = vec![0.0; places.rows().len() * heads.width()];
                rotate_and_store(&mut context, &heads, unchanged, &places, (&mut cache, 1), &mut rows);
                attend(&mut context, &heads, &places, (&cache, 1), &rows, &mut out);
                out
            };
            let mut alone = Vec::new();
            for (index, (range, _)) in sequences.iter().enumerate() {
                run(&[(index, 0..range.start)]);
                alone.extend(run(&[(index, range.clone())]));
            }
            let parts: Vec<_> = sequences.iter().map(|(range, _)| range.clone()).enumerate().collect();
            assert!(alone.iter().all(|v| v.is_finite()));
            assert_eq!(run(&parts), alone);
        }
    }
}

#[test]
#[should_panic(expected = "two rows of a batch write")]
fn two_rows_cannot_write_one_slot() {
    let mut places = Places::default();
    places.push(3, 1, [4].into_iter());
    places.push(3, 1, [4].into_iter());
}

#[test]
#[should_panic(expected = "blocks cover")]
fn a_row_needs_its_block() {
    Places::default().push(16, 1, [4].into_iter());
}

#[test]
#[should_panic(expected = "blocks cover")]
fn a_position_beyond_counting_is_refused() {
    Places::default().push(usize::MAX, 2, [4].into_iter());
}

#[test]
fn a_pool_beyond_counting_is_refused() {
    let refused = |layers, blocks, head_dim| {
        let shape = KvShape {
            layers,
            blocks,
            kv_heads: 4,
            head_dim,
        };
        KvCache::new(shape, KvPrecision::F16).is_err()
    };
    assert!(refused(1 << 30, 1 << 30, 64) && refused(1, 1, 24));
}

#[test]
#[should_panic(expected = "query heads")]
fn query_heads_must_share_out() {
    let layer = Layer::plain(5, 2, 16);
    let mut cache = cache((1, 2, 16), KvPrecision::F16);
    let qkv = vec![0.0; layer.heads.qkv_width()];
    step(&mut contexts()[0], &layer, &mut cache, &qkv, (0..1, &[0]));
}

#[test]
#[should_panic(expected = "without a bias")]
fn heads_are_normalised_without_a_bias() {
    let (layer, context) = (Layer::plain(1, 1, 16), &mut contexts()[0]);
    let ones = [1.0; 16];
    let mut biased = rms(&ones);
    biased.weights.bias = &ones;
    let transform = HeadTransform {
        norms: Some((rms(&ones), biased)),
        rotary: None,
    };
    let shape = KvShape {
        layers: 1,
        blocks: 1,
        kv_heads: 1,
        head_dim: 16,
    };
    let mut cache = KvCache::new(shape, KvPrecision::F32).unwrap();
    let mut places = Places::default();
    places.push(0, 1, [0].into_iter());
    rotate_and_store(
        context,
        &layer.heads,
        transform,
        &places,
        (&mut cache, 0),
        &mut [1.0; 48],
    );
}
