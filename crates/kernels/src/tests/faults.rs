//! What is no number, too large or too small: it shows in the row it belongs to, and nowhere else.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::linear::{Rounding, run};
use crate::isa::Kernel;
use crate::simd::{LANES, Simd, exp};
use crate::testing::{FORMATS, Random, contexts};
use crate::{
    Activations, AttentionHeads, BlockFormat, HeadTransform, Isa, KvCache, KvPrecision, KvShape, LowRankBatch, Places,
    Precision, Source, attend, prepare, rotate_and_store,
};

const ROUNDED: [Rounding; 2] = [Rounding::Fine, Rounding::CoarseFrom(0)];

#[test]
fn a_fault_shows_in_its_row_and_in_no_other() {
    let mut random = Random(31);
    for format in FORMATS.into_iter().filter(|format| !format.is_dense()) {
        let inputs = format.block_len().max(64);
        let (matrix, _) = random.matrix(format, 33, inputs);
        let good = random.numbers(3 * inputs);
        for mut context in contexts() {
            for rounding in ROUNDED {
                let expected = run(&mut context, rounding, &good, &matrix);
                for fault in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    for places in [vec![0], vec![17], vec![3, 19], (32..64).collect()] {
                        let mut bad = good.clone();
                        places.iter().for_each(|place| bad[inputs + place] = fault);
                        let got = run(&mut context, rounding, &bad, &matrix);
                        let what = format!(
                            "{format:?} {rounding:?} {fault} at {places:?} on {}",
                            context.isa.name()
                        );
                        assert!(got[33..66].iter().all(|v| v.is_nan()), "{what}: {:?}", &got[33..66]);
                        assert_eq!((&got[..33], &got[66..]), (&expected[..33], &expected[66..]), "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_block_too_small_to_round_counts_as_zeros() {
    let mut random = Random(32);
    for format in FORMATS.into_iter().filter(|format| !format.is_dense()) {
        let (matrix, _) = random.matrix(format, 16, format.block_len());
        for mut context in contexts() {
            for smallest in [f32::from_bits(1), 1e-40, 3e-37] {
                let mut x = vec![0.0; matrix.inputs()];
                (x[1], x[20]) = (smallest, -smallest);
                let got = ROUNDED.map(|rounding| run(&mut context, rounding, &x, &matrix));
                assert_eq!(got, [[0.0; 16]; 2], "{format:?} {smallest:e} on {}", context.isa.name());
            }
        }
    }
}

struct Exp([f32; LANES]);

impl Kernel for Exp {
    type Output = [f32; LANES];
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) -> [f32; LANES] {
        // SAFETY: the array has sixteen elements.
        unsafe { s.store(self.0.as_mut_ptr(), exp(s, s.load(self.0.as_ptr()))) };
        self.0
    }
}

#[test]
fn the_exponential_of_no_number_is_none() {
    for isa in Isa::available() {
        assert!(isa.run(Exp([f32::NAN; LANES])).iter().all(|v| v.is_nan()));
        let ends = isa.run(Exp(std::array::from_fn(|lane| {
            [f32::NEG_INFINITY, f32::INFINITY][lane % 2]
        })));
        assert!(ends.iter().all(|v| v.is_normal()), "{ends:?} on {}", isa.name());
    }
}

/// A pool of `blocks` blocks of one head in one layer.
fn pool(blocks: usize) -> KvCache {
    let shape = KvShape {
        layers: 1,
        blocks,
        kv_heads: 1,
        head_dim: 16,
    };
    KvCache::new(shape, KvPrecision::F16).unwrap()
}

/// Heads as they are.
const UNCHANGED: HeadTransform<'_> = HeadTransform {
    norms: None,
    rotary: None,
};

#[test]
fn a_key_too_large_for_its_page_shows_in_its_sequence_only() {
    let heads = AttentionHeads {
        heads: 2,
        kv_heads: 1,
        head_dim: 16,
        scale: 0.25,
        window: None,
    };
    let mut random = Random(33);
    // Two sequences of three tokens; a key of the first one's second token overflows f16.
    let mut qkv = random.numbers(6 * heads.qkv_width());
    qkv[heads.qkv_width() + heads.width() + 2] = 1e6;
    for mut context in contexts() {
        let mut cache = pool(2);
        let mut places = Places::default();
        places.push(0, 3, [1].into_iter());
        places.push(0, 3, [0].into_iter());
        let (mut rows, mut out) = (qkv.clone(), vec![0.0; 6 * heads.width()]);
        rotate_and_store(&mut context, &heads, UNCHANGED, &places, (&mut cache, 0), &mut rows);
        attend(&mut context, &heads, &places, (&cache, 0), &rows, &mut out);
        let rows: Vec<_> = out.chunks_exact(heads.width()).collect();
        // A score of minus infinity only hides the token: a head either shows the fault or does not see the key.
        let faulty = rows[1..3].iter().flat_map(|row| row.chunks_exact(16));
        let queries = |row: usize, head: usize| qkv[row * heads.qkv_width() + head * 16 + 2];
        for (index, head) in faulty.enumerate() {
            let sees = queries(1 + index / 2, index % 2) > 0.0;
            assert_eq!(
                head.iter().all(|v| v.is_nan()),
                sees,
                "head {index} on {}",
                context.isa.name()
            );
            assert_eq!(
                head.iter().all(|v| v.is_finite()),
                !sees,
                "head {index} on {}",
                context.isa.name()
            );
        }
        assert!([0, 3, 4, 5].iter().all(|&row| rows[row].iter().all(|v| v.is_finite())));
    }
}

#[test]
fn activations_that_found_no_memory_hold_no_rows() {
    let mut activations = Activations::new(Precision::Int8);
    activations.resize(2, 64, 1, true);
    let outcome = catch_unwind(AssertUnwindSafe(|| activations.resize(1 << 58, 32, 0, true)));
    assert!(outcome.is_err());
    assert_eq!(activations.rows(), 0);
}

#[test]
fn a_batch_of_no_rows_is_nothing() {
    let mut random = Random(34);
    let (matrix, _) = random.matrix(BlockFormat::Q4_1, 40, 32);
    for mut context in contexts() {
        for rounding in ROUNDED {
            assert!(run(&mut context, rounding, &[], &matrix).is_empty());
        }
        let (heads, source) = (
            AttentionHeads {
                heads: 2,
                kv_heads: 1,
                head_dim: 16,
                scale: 0.25,
                window: None,
            },
            Source::dense(&[], 32, None),
        );
        let mut cache = pool(1);
        let places = Places::default();
        rotate_and_store(&mut context, &heads, UNCHANGED, &places, (&mut cache, 0), &mut []);
        attend(&mut context, &heads, &places, (&cache, 0), &[], &mut []);
        let mut activations = Activations::new(Precision::Int8);
        prepare(&mut context, source, 0, &mut activations, &mut LowRankBatch::default());
        assert_eq!(activations.rows(), 0);
    }
}
