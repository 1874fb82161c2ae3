//! Every operation against a plain one in f64, and every way back against differences of that one.

use std::num::NonZeroUsize;

use super::*;
use crate::testing::Random;
use crate::{Activation, AttentionHeads, Context, Isa, NormFormula, NormWeights, RotaryTable, ThreadPool};

/// Runs a check on every instruction set with one and three threads; all give the same bits.
fn everywhere(run: impl Fn(&mut Context) -> Vec<f32>) -> Vec<f32> {
    let mut first: Option<Vec<f32>> = None;
    for isa in Isa::available() {
        for threads in [1, 3] {
            let pool = ThreadPool::new(threads).unwrap();
            let got = run(&mut Context { pool, isa });
            let first = first.get_or_insert_with(|| got.clone());
            let same = got.iter().zip(&*first).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{} with {threads} threads", isa.name());
        }
    }
    first.unwrap()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

fn dot(a: &[f64], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * f64::from(*b)).sum()
}

/// Central differences of a number by each of its inputs.
fn differences(inputs: &[f32], function: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let mut at = wide(inputs);
    let step = 1e-5;
    (0..at.len())
        .map(|index| {
            let before = at[index];
            at[index] = before + step;
            let above = function(&at);
            at[index] = before - step;
            let below = function(&at);
            at[index] = before;
            (above - below) / (2.0 * step)
        })
        .collect()
}

#[track_caller]
fn assert_close(got: &[f32], expected: &[f64]) {
    assert_eq!(got.len(), expected.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let error = norm(
        &mut got
            .iter()
            .zip(expected)
            .map(|(got, expected)| f64::from(*got) - expected),
    );
    let size = norm(&mut expected.iter().copied());
    assert!(error <= 3e-6 * size, "error {error} of {size}");
}

fn normed(formula: NormFormula, x: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
    let count = weight.len() as f64;
    x.chunks(weight.len())
        .flat_map(|x| {
            let mean = match formula {
                NormFormula::Rms => 0.0,
                NormFormula::Layer => x.iter().sum::<f64>() / count,
            };
            let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
            let factor = 1.0 / (variance + 1e-5).sqrt();
            let bias = |at: usize| bias.get(at).copied().unwrap_or(0.0);
            let normed = x.iter().zip(weight).enumerate();
            normed
                .map(|(at, (x, w))| (x - mean) * factor * w + bias(at))
                .collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn norms_and_their_gradients_are_those_of_the_reference() {
    let mut random = Random(1);
    let (width, rows) = (48, 5);
    for formula in [NormFormula::Rms, NormFormula::Layer] {
        let [x, gradient] = [(); 2].map(|()| random.numbers(width * rows));
        let weight = random.numbers(width);
        let bias = match formula {
            NormFormula::Rms => Vec::new(),
            NormFormula::Layer => random.numbers(width),
        };
        let weights = NormWeights {
            weight: &weight,
            bias: &bias,
        };
        let got = everywhere(|context| {
            let mut to = vec![0.0; x.len()];
            norm_rows(context, (formula, 1e-5), weights, &x, &mut to);
            to
        });
        assert_close(&got, &normed(formula, &wide(&x), &wide(&weight), &wide(&bias)));
        let got = everywhere(|context| {
            let (mut to_x, mut to_weight, mut to_bias) = (gradient.clone(), vec![1.0; width], vec![2.0; bias.len()]);
            let backward = NormBackward {
                x: &x,
                gradient: &gradient,
                to_x: &mut to_x,
                to_weights: Some((&mut to_weight, &mut to_bias)),
            };
            norm_backward(context, (formula, 1e-5), weights, backward);
            [to_x, to_weight, to_bias].concat()
        });
        let (wx, ww, wb) = (wide(&x), wide(&weight), wide(&bias));
        let by_x = differences(&x, |x| dot(&normed(formula, x, &ww, &wb), &gradient));
        let by_weight = differences(&weight, |w| dot(&normed(formula, &wx, w, &wb), &gradient));
        let by_bias = differences(&bias, |b| dot(&normed(formula, &wx, &ww, b), &gradient));
        let added = by_x.iter().zip(&gradient).map(|(a, b)| a + f64::from(*b));
        let added = added
            .chain(by_weight.iter().map(|x| x + 1.0))
            .chain(by_bias.iter().map(|x| x + 2.0));
        assert_close(&got, &added.collect::<Vec<_>>());
    }
}

fn activated(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        }
        Activation::Relu => x.max(0.0),
    }
}

#[test]
fn activations_and_their_gradients_are_those_of_the_reference() {
    let mut random = Random(2);
    let count = 1024 + 48;
    let scaled = |values: Vec<f32>| values.into_iter().map(|value| value * 4.0).collect::<Vec<_>>();
    for activation in [Activation::Silu, Activation::GeluTanh, Activation::Relu] {
        let [gate, up, gradient] = [(); 3].map(|()| scaled(random.numbers(count)));
        let product = |gate: &[f64], up: &[f64]| {
            let pairs = gate.iter().zip(up);
            pairs
                .map(|(gate, up)| activated(activation, *gate) * up)
                .collect::<Vec<_>>()
        };
        let ones = vec![1.0; count];
        let got = everywhere(|context| {
            let [mut both, mut alone] = [(); 2].map(|()| vec![0.0; count]);
            gated(context, activation, &gate, &up, &mut both);
            activate(context, activation, &gate, &mut alone);
            [both, alone].concat()
        });
        let (wide_gate, wide_up) = (wide(&gate), wide(&up));
        assert_close(
            &got,
            &[product(&wide_gate, &wide_up), product(&wide_gate, &ones)].concat(),
        );
        let got = everywhere(|context| {
            let [mut to_gate, mut to_up, mut alone] = [(); 3].map(|()| vec![0.0; count]);
            let to = ActivationGradient {
                gate: &mut to_gate,
                up: &mut to_up,
            };
            gated_backward(context, activation, (&gate, &up), &gradient, to);
            activate_backward(context, activation, &gate, &gradient, &mut alone);
            [to_gate, to_up, alone].concat()
        });
        let slope = |x: f64| (activated(activation, x + 1e-6) - activated(activation, x - 1e-6)) / 2e-6;
        let gradient = wide(&gradient);
        let by_gate = (0..count).map(|at| gradient[at] * wide_up[at] * slope(wide_gate[at]));
        let by_up = (0..count).map(|at| gradient[at] * activated(activation, wide_gate[at]));
        let alone = (0..count).map(|at| gradient[at] * slope(wide_gate[at]));
        assert_close(&got, &by_gate.chain(by_up).chain(alone).collect::<Vec<_>>());
    }
}

/// Attention in f64: queries, keys and values one after another in `inputs`.
fn attended(heads: &AttentionHeads, segments: &[std::ops::Range<usize>], inputs: &[f64]) -> Vec<f64> {
    let rows = segments.last().unwrap().end;
    let (width, kv_width) = (heads.heads * heads.head_dim, heads.kv_heads * heads.head_dim);
    let (queries, rest) = inputs.split_at(rows * width);
    let (keys, values) = rest.split_at(rows * kv_width);
    let mut out = vec![0.0; rows * width];
    for segment in segments {
        for row in segment.clone() {
            let first = heads
                .window
                .map_or(0, |window| (row + 1).saturating_sub(window.get()))
                .max(segment.start);
            for head in 0..heads.heads {
                let at = row * width + head * heads.head_dim;
                let of = |row: usize| row * kv_width + head / (heads.heads / heads.kv_heads) * heads.head_dim;
                let score = |key: usize| {
                    let pairs = (0..heads.head_dim).map(|i| queries[at + i] * keys[of(key) + i]);
                    (pairs.sum::<f64>() * f64::from(heads.scale)).exp()
                };
                let sum: f64 = (first..=row).map(score).sum();
                for key in first..=row {
                    let weight = score(key) / sum;
                    for i in 0..heads.head_dim {
                        out[at + i] += weight * values[of(key) + i];
                    }
                }
            }
        }
    }
    out
}

#[test]
fn attention_and_its_gradients_are_those_of_the_reference() {
    let mut random = Random(3);
    for (heads, kv_heads, window, segments) in [
        (4, 2, None, vec![0..7, 7..8, 8..19]),
        (3, 1, NonZeroUsize::new(4), vec![0..13, 13..13, 13..18]),
        (1, 1, None, vec![0..100, 100..101]),
    ] {
        let heads = AttentionHeads {
            heads,
            kv_heads,
            head_dim: 16,
            scale: 0.3,
            window,
        };
        let rows = segments.last().unwrap().end;
        let (width, kv_width) = (heads.width(), kv_heads * 16);
        let inputs = random.numbers(rows * (width + 2 * kv_width));
        let gradient = random.numbers(rows * width);
        let shape = AttentionShape {
            heads: &heads,
            segments: &segments,
        };
        let split = || {
            let (queries, rest) = inputs.split_at(rows * width);
            let (keys, values) = rest.split_at(rows * kv_width);
            AttentionInputs { queries, keys, values }
        };
        let got = everywhere(|context| {
            let mut out = vec![0.0; rows * width];
            attend_segments(context, shape, split(), &mut out);
            out
        });
        assert_close(&got, &attended(&heads, &segments, &wide(&inputs)));
        let got = everywhere(|context| {
            let mut to = vec![f32::NAN; inputs.len()];
            let (queries, rest) = to.split_at_mut(rows * width);
            let (keys, values) = rest.split_at_mut(rows * kv_width);
            let gradients = AttentionGradients { queries, keys, values };
            attend_segments_backward(context, shape, split(), &gradient, gradients);
            to
        });
        let expected = differences(&inputs, |inputs| dot(&attended(&heads, &segments, inputs), &gradient));
        assert_close(&got, &expected);
    }
}

#[test]
fn a_rotation_and_the_way_back_undo_each_other_and_keep_products() {
    let mut random = Random(4);
    let table = RotaryTable::new(&[1.0, 0.1, 0.01, 0.001], 1.0, 32);
    let positions = [0, 1, 2, 0, 1, 30];
    let [values, gradient] = [(); 2].map(|()| random.numbers(positions.len() * 32));
    let turn = |context: &mut Context, back: bool, values: &[f32]| {
        let mut turned = values.to_vec();
        let rotation = Rotation {
            table: &table,
            positions: &positions,
            head_dim: 16,
            back,
        };
        rotate_rows(context, rotation, &mut turned);
        turned
    };
    let there = everywhere(|context| turn(context, false, &values));
    let back = everywhere(|context| turn(context, true, &there));
    assert_close(&back, &wide(&values));
    let of_gradient = everywhere(|context| turn(context, true, &gradient));
    let (left, right) = (dot(&wide(&there), &gradient), dot(&wide(&values), &of_gradient));
    assert!((left - right).abs() < 1e-5, "{left} {right}");
    assert_eq!(there[..16], values[..16], "position 0 is not turned");
    assert_eq!(
        there[40..48],
        values[40..48],
        "what lies beyond the pairs is not turned"
    );
    assert_ne!(there[32..40], values[32..40]);
}

fn entropy_of(logits: &[f64], targets: &[u32]) -> Vec<f64> {
    let rows = logits.chunks(logits.len() / targets.len()).zip(targets);
    rows.map(|(row, &target)| row.iter().map(|x| x.exp()).sum::<f64>().ln() - row[target as usize])
        .collect()
}

#[test]
fn cross_entropy_and_its_gradient_are_those_of_the_reference() {
    let mut random = Random(5);
    let (columns, targets) = (37, [3, 36, 0, 17]);
    let logits: Vec<f32> = random
        .numbers(columns * targets.len())
        .iter()
        .map(|x| x * 5.0)
        .collect();
    let got = everywhere(|context| {
        let (mut gradient, mut losses) = (logits.clone(), vec![0.0; targets.len()]);
        let entropy = Entropy {
            targets: &targets,
            weight: 0.25,
        };
        cross_entropy(context, entropy, &mut gradient, &mut losses);
        [losses, gradient].concat()
    });
    let sum = |logits: &[f64]| entropy_of(logits, &targets).iter().sum::<f64>() * 0.25;
    let expected = [entropy_of(&wide(&logits), &targets), differences(&logits, sum)].concat();
    assert_close(&got, &expected);
}

#[test]
fn dropout_draws_the_same_elements_again_and_keeps_the_mean() {
    let ones = vec![1.0; 100_000];
    let draw = |key| {
        everywhere(|context| {
            let mut values = ones.clone();
            dropout(context, key, 0.3, &mut values);
            values
        })
    };
    let (first, other) = (draw(1), draw(2));
    assert_eq!(first, draw(1));
    assert_ne!(first, other);
    let kept = first.iter().filter(|value| **value != 0.0).count();
    assert!((69_000..71_000).contains(&kept), "{kept}");
    let both = first
        .iter()
        .zip(&other)
        .filter(|(a, b)| **a != 0.0 && **b != 0.0)
        .count();
    assert!(
        (48_000..50_000).contains(&both),
        "masks of two keys are independent: {both}"
    );
    assert!(first.iter().all(|value| *value == 0.0 || *value == 1.0 / 0.7));
}

#[test]
fn sums_and_factors_of_rows() {
    let mut random = Random(6);
    let [a, b] = [(); 2].map(|()| random.numbers(10_000));
    let factors = random.numbers(100);
    let got = everywhere(|context| {
        let mut to = a.clone();
        add_rows(context, &b, &mut to);
        multiply_columns(context, &factors, &mut to);
        let [mut sums, mut products] = [(); 2].map(|()| vec![1.0; 100]);
        column_sums(&a, None, &mut sums);
        column_sums(&a, Some(&b), &mut products);
        [to, sums, products].concat()
    });
    let (wa, wb) = (wide(&a), wide(&b));
    let scaled = (0..a.len()).map(|at| (wa[at] + wb[at]) * f64::from(factors[at % 100]));
    let sum = |term: &dyn Fn(usize) -> f64| {
        (0..100)
            .map(|c| 1.0 + (c..a.len()).step_by(100).map(term).sum::<f64>())
            .collect::<Vec<_>>()
    };
    let expected = [scaled.collect(), sum(&|at| wa[at]), sum(&|at| wa[at] * wb[at])].concat();
    assert_close(&got, &expected);
}

#[test]
fn values_are_kept_as_their_nearest_bfloat16() {
    let mut random = Random(11);
    let mut values: Vec<f32> = (0..9001).map(|_| random.number()).collect();
    values[..6].copy_from_slice(&[0.0, -0.0, f32::INFINITY, f32::NAN, f32::MAX, f32::from_bits(1)]);
    // Halfway between two: the even one.
    values[6..8].copy_from_slice(&[f32::from_bits(0x3F80_8000), f32::from_bits(0x3F81_8000)]);
    let kept = everywhere(|context| {
        let (mut bits, mut back) = (vec![0; values.len()], vec![0.0; values.len()]);
        round_values(context, &values, &mut bits);
        widen_values(context, &bits, &mut back);
        back
    });
    for (value, kept) in values.iter().zip(&kept) {
        let expected = half::bf16::from_f32(*value).to_f32();
        assert!(
            expected == *kept || expected.is_nan() && kept.is_nan(),
            "{value}: {kept}"
        );
    }
}
