use crate::testing::{Random, assert_close, contexts};
use crate::{AttentionHeads, BLOCK_TOKENS, Context, KvCache, Places, RotaryTable, attend, rotate_and_store};

const BASE: f32 = 10_000.0;

fn frequencies(head_dim: usize) -> Vec<f32> {
    (0..head_dim / 2)
        .map(|i| 1.0 / BASE.powf(2.0 * i as f32 / head_dim as f32))
        .collect()
}

/// Runs rows `range` of a sequence (`qkv` holds all of it) and returns their outputs.
fn step(
    context: &mut Context,
    heads: &AttentionHeads,
    cache: &mut KvCache,
    qkv: &[f32],
    (range, blocks): (std::ops::Range<usize>, &[u32]),
) -> Vec<f32> {
    let table = RotaryTable::new(&frequencies(heads.head_dim), qkv.len() / heads.qkv_width());
    let mut places = Places::default();
    let used = range.end.div_ceil(BLOCK_TOKENS);
    places.push(range.start, range.len(), blocks[..used].iter().copied());
    let mut rows = qkv[range.start * heads.qkv_width()..range.end * heads.qkv_width()].to_vec();
    let mut out = vec![0.0; range.len() * heads.width()];
    rotate_and_store(context, heads, &table, &places, (cache, 1), &mut rows);
    attend(context, heads, &places, (cache, 1), &rows, &mut out);
    out
}

/// The same in f64, keys and values rounded to f16 as the cache keeps them.
fn reference(heads: &AttentionHeads, qkv: &[f32]) -> Vec<f64> {
    let (width, dim) = (heads.qkv_width(), heads.head_dim);
    let tokens = qkv.len() / width;
    let half = |v: f64| half::f16::from_f64(v).to_f64();
    let rotated = |token: usize, head: usize| -> Vec<f64> {
        let head = &qkv[token * width + head * dim..][..dim];
        let mut out = vec![0.0; dim];
        for (i, frequency) in frequencies(dim).iter().enumerate() {
            let angle = f64::from(token as f32 * frequency);
            let (a, b) = (f64::from(head[i]), f64::from(head[i + dim / 2]));
            out[i] = a * angle.cos() - b * angle.sin();
            out[i + dim / 2] = b * angle.cos() + a * angle.sin();
        }
        out
    };
    let mut out = Vec::new();
    for token in 0..tokens {
        for head in 0..heads.heads {
            let kv = head / (heads.heads / heads.kv_heads);
            let q = rotated(token, head);
            let scores: Vec<f64> = (0..=token)
                .map(|t| {
                    let k = rotated(t, heads.heads + kv);
                    f64::from(heads.scale) * q.iter().zip(&k).map(|(a, b)| a * half(*b)).sum::<f64>()
                })
                .collect();
            let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|s| (s - top).exp()).sum();
            for d in 0..dim {
                let v = |t: usize| {
                    half(f64::from(
                        qkv[t * width + (heads.heads + heads.kv_heads + kv) * dim + d],
                    ))
                };
                out.push(
                    scores
                        .iter()
                        .enumerate()
                        .map(|(t, s)| (s - top).exp() / total * v(t))
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
    let shapes = [(9, 3, 64), (4, 4, 16), (8, 1, 32), (5, 1, 80), (12, 2, 48)];
    for (heads, kv_heads, head_dim) in shapes {
        let heads = AttentionHeads {
            heads,
            kv_heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
        };
        let tokens = 53;
        let qkv = random.numbers(tokens * heads.qkv_width());
        let expected = reference(&heads, &qkv);
        let mut bits: Option<Vec<f32>> = None;
        for mut context in contexts() {
            for chunk in [1, 5, 16, 53] {
                let mut cache = KvCache::new(2, 9, kv_heads, head_dim).unwrap();
                // Whatever stale blocks hold must not be seen.
                cache.keys.fill(half::f16::NAN.to_bits());
                cache.values.fill(half::f16::INFINITY.to_bits());
                let blocks = [7, 0, 3, 8];
                let mut got = Vec::new();
                for start in (0..tokens).step_by(chunk) {
                    let range = start..(start + chunk).min(tokens);
                    got.extend(step(&mut context, &heads, &mut cache, &qkv, (range, &blocks)));
                }
                assert_close(&got, &expected, 2e-3, context.isa.name());
                let first = bits.get_or_insert_with(|| got.clone());
                assert_eq!(&got, first, "chunks of {chunk} on {}", context.isa.name());
            }
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
    assert!(KvCache::new(1 << 30, 1 << 30, 4, 64).is_err());
    assert!(KvCache::new(1, 1, 1, 24).is_err());
}

#[test]
#[should_panic(expected = "query heads")]
fn query_heads_must_share_out() {
    let heads = AttentionHeads {
        heads: 5,
        kv_heads: 2,
        head_dim: 16,
        scale: 0.25,
    };
    let mut cache = KvCache::new(2, 1, 2, 16).unwrap();
    let qkv = vec![0.0; heads.qkv_width()];
    step(&mut contexts()[0], &heads, &mut cache, &qkv, (0..1, &[0]));
}
