use std::ops::Range;

use crate::isa::Kernel;
use crate::simd::{LANES, Simd, exp};
use crate::testing::{Random, assert_close, contexts};
use crate::{
    Activations, Isa, LowRankBatch, NormFormula, NormWeights, Precision, RowNorms, Source, add_normed, prepare,
};

struct Exp(Vec<f32>);

impl Kernel for Exp {
    type Output = Vec<f32>;
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) -> Vec<f32> {
        for chunk in self.0.chunks_exact_mut(LANES) {
            // SAFETY: a chunk has sixteen elements.
            unsafe { s.store(chunk.as_mut_ptr(), exp(s, s.load(chunk.as_ptr()))) };
        }
        self.0
    }
}

#[test]
fn exponential_is_accurate_and_the_same_everywhere() {
    let inputs: Vec<f32> = (0..160_000).map(|i| -90.0 + i as f32 * (180.0 / 160_000.0)).collect();
    let mut bits: Option<Vec<f32>> = None;
    for isa in Isa::available() {
        let got = isa.run(Exp(inputs.clone()));
        for (x, y) in inputs.iter().zip(&got) {
            let expected = f64::from(x.clamp(-87.0, 88.0)).exp();
            assert!(
                (f64::from(*y) / expected - 1.0).abs() < 3e-7,
                "exp({x}) = {y}, expected {expected}"
            );
        }
        assert_eq!(&got, bits.get_or_insert_with(|| got.clone()), "{}", isa.name());
    }
}

struct Halves(Vec<f32>);

impl Kernel for Halves {
    type Output = (Vec<u16>, Vec<f32>);
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Self::Output {
        let (mut halves, mut back) = (vec![0u16; self.0.len()], vec![0f32; self.0.len()]);
        for at in (0..self.0.len()).step_by(LANES) {
            // SAFETY: lengths are multiples of sixteen.
            unsafe {
                s.store_f16(halves.as_mut_ptr().add(at), s.load(self.0.as_ptr().add(at)));
                s.store(back.as_mut_ptr().add(at), s.load_f16(halves.as_ptr().add(at)));
            }
        }
        (halves, back)
    }
}

#[test]
fn halves_round_alike() {
    let mut random = Random(11);
    let values: Vec<f32> = (0..4096).map(|i| random.number() * 2f32.powi(i % 40 - 26)).collect();
    let expected: Vec<u16> = values.iter().map(|v| half::f16::from_f32(*v).to_bits()).collect();
    for isa in Isa::available() {
        let (halves, back) = isa.run(Halves(values.clone()));
        assert_eq!(halves, expected, "{}", isa.name());
        assert!(
            back.iter()
                .zip(&expected)
                .all(|(v, bits)| *v == half::f16::from_bits(*bits).to_f32())
        );
    }
}

fn rms<'a>(weight: &'a [f32], bias: &'a [f32], own: &'a [(Range<usize>, NormWeights<'a>)]) -> RowNorms<'a> {
    RowNorms {
        formula: NormFormula::Rms,
        epsilon: 1e-5,
        weights: NormWeights { weight, bias },
        own,
    }
}

/// The same in f64.
fn normalised(norms: &RowNorms<'_>, row: usize, x: &[f32]) -> Vec<f64> {
    let own = norms.own.iter().find(|(rows, _)| rows.contains(&row));
    let weights = own.map_or(norms.weights, |(_, weights)| *weights);
    let size = x.len() as f64;
    let mean = match norms.formula {
        NormFormula::Rms => 0.0,
        NormFormula::Layer => x.iter().map(|&v| f64::from(v)).sum::<f64>() / size,
    };
    let variance = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / size;
    let bias = |at: usize| weights.bias.get(at).map_or(0.0, |&bias| f64::from(bias));
    let normed = |(at, &v): (usize, &f32)| {
        (f64::from(v) - mean) / (variance + f64::from(norms.epsilon)).sqrt() * f64::from(weights.weight[at]) + bias(at)
    };
    x.iter().enumerate().map(normed).collect()
}

#[test]
fn every_formula_normalises_rows_by_their_own_weights() {
    let mut random = Random(15);
    let (rows, width) = (7, 96);
    let (x, to) = (random.numbers(rows * width), random.numbers(rows * width));
    let tables: Vec<Vec<f32>> = (0..4).map(|_| random.numbers(width)).collect();
    let own_weights = NormWeights {
        weight: &tables[2],
        bias: &tables[3],
    };
    let own = [(2..4, own_weights)];
    for (formula, bias) in [(NormFormula::Rms, &[][..]), (NormFormula::Layer, &tables[1])] {
        let norms = RowNorms {
            formula,
            ..rms(&tables[0], bias, &own)
        };
        let expected: Vec<Vec<f64>> = x
            .chunks(width)
            .enumerate()
            .map(|(row, x)| normalised(&norms, row, x))
            .collect();
        let mut bits: Option<Vec<f32>> = None;
        for mut context in contexts() {
            let mut prepared = Activations::new(Precision::F32);
            let source = Source::dense(&x, width, Some(norms));
            prepare(&mut context, source, rows, &mut prepared, &mut LowRankBatch::default());
            assert_close(&prepared.values, &expected.concat(), 1e-5, context.isa.name());
            let mut added = to.clone();
            add_normed(&mut context, norms, rows, &x, &mut added);
            let sums: Vec<f32> = prepared
                .values
                .iter()
                .zip(&to)
                .map(|(normed, to)| to + normed)
                .collect();
            assert_eq!(added, sums, "added rows are the prepared ones plus what was there");
            assert_eq!(
                &added,
                bits.get_or_insert_with(|| added.clone()),
                "{}",
                context.isa.name()
            );
        }
    }
}

#[test]
fn rows_are_normalised_and_rounded_alike() {
    let mut random = Random(12);
    let (x, weight) = (random.numbers(5 * 96), random.numbers(96));
    let mut expected = Vec::new();
    for row in x.chunks_exact(96) {
        let mean = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / 96.0;
        expected.extend(
            row.iter()
                .zip(&weight)
                .map(|(v, w)| f64::from(*v) / (mean + 1e-5).sqrt() * f64::from(*w)),
        );
    }
    let mut bits: Option<(Vec<f32>, Vec<i8>)> = None;
    for mut context in contexts() {
        let mut to = Activations::new(Precision::Int8);
        let source = Source {
            keep: true,
            ..Source::dense(&x, 96, Some(rms(&weight, &[], &[])))
        };
        prepare(&mut context, source, 5, &mut to, &mut LowRankBatch::default());
        assert_close(&to.values, &expected, 1e-6, context.isa.name());
        for (block, (values, quants)) in to.values.chunks(32).zip(to.quants.chunks(32)).enumerate() {
            let scale = to.blocks[block];
            assert_eq!(scale.sum, quants.iter().map(|q| i32::from(*q)).sum::<i32>());
            for (value, quant) in values.iter().zip(quants) {
                assert!((value - scale.scale * f32::from(*quant)).abs() <= scale.scale * 0.500_01);
            }
        }
        let got = (to.values.clone(), to.quants.clone());
        assert_eq!(&got, bits.get_or_insert_with(|| got.clone()), "{}", context.isa.name());
    }
}

#[test]
fn a_row_of_zeros_rounds_to_zeros() {
    for mut context in contexts() {
        let mut to = Activations::new(Precision::Int8);
        let source = Source::dense(&[0.0; 64], 64, None);
        prepare(&mut context, source, 1, &mut to, &mut LowRankBatch::default());
        assert!(to.quants.iter().all(|q| *q == 0) && to.blocks.iter().all(|b| b.scaled_sum == 0.0));
    }
}
