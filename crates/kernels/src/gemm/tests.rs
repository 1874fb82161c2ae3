//! Products against sums in f64, on every instruction set, for odd shapes and every encoding.

use super::*;
use crate::testing::{FORMATS, Random};
use crate::{Isa, ThreadPool};

fn context(isa: Isa, threads: usize) -> Context {
    Context {
        pool: ThreadPool::new(threads).unwrap(),
        isa,
    }
}

/// `left[rows][depth] * right[depth][columns]` in f64.
fn reference(left: &[f32], right: &[f32], [rows, depth, columns]: [usize; 3]) -> Vec<f64> {
    let mut out = vec![0.0; rows * columns];
    for (row, out) in out.chunks_exact_mut(columns).enumerate() {
        for step in 0..depth {
            let value = f64::from(left[row * depth + step]);
            for (column, out) in out.iter_mut().enumerate() {
                *out += value * f64::from(right[step * columns + column]);
            }
        }
    }
    out
}

fn assert_close(got: &[f32], expected: &[f64], tolerance: f64) {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let error = norm(
        &mut got
            .iter()
            .zip(expected)
            .map(|(got, expected)| f64::from(*got) - expected),
    );
    let size = norm(&mut expected.iter().copied());
    assert!(error <= tolerance * size, "error {error} of {size}");
}

fn transpose(values: &[f32], columns: usize) -> Vec<f32> {
    let rows = values.len() / columns;
    (0..values.len())
        .map(|at| values[at % rows * columns + at / rows])
        .collect()
}

const SHAPES: [[usize; 3]; 7] = [
    [1, 1, 1],
    [3, 32, 16],
    [7, 33, 17],
    [40, 70, 33],
    [8, 800, 8],
    [65, 2100, 40],
    [33, 64, 130],
];

#[test]
fn dense_products_are_those_of_the_reference_and_the_same_bits_everywhere() {
    let mut random = Random(1);
    for shape @ [rows, depth, columns] in SHAPES {
        let (left, right) = (random.numbers(rows * depth), random.numbers(depth * columns));
        let (turned_left, turned_right) = (transpose(&left, depth), transpose(&right, columns));
        let before = random.numbers(rows * columns);
        let mut expected = reference(&left, &right, shape);
        expected
            .iter_mut()
            .zip(&before)
            .for_each(|(x, before)| *x = 0.5 * *x + f64::from(*before));
        let mut first: Option<Vec<f32>> = None;
        for isa in Isa::available() {
            for threads in 1..=3 {
                for turned in [false, true] {
                    let (left, right) = match turned {
                        false => (View::new(&left, depth), View::new(&right, columns)),
                        true => (
                            View::new(&turned_left, rows).transposed(),
                            View::new(&turned_right, depth).transposed(),
                        ),
                    };
                    let mut out = before.clone();
                    let product = Gemm {
                        scale: 0.5,
                        accumulate: true,
                        ..Gemm::new(left, Right::Dense(right))
                    };
                    gemm(&mut context(isa, threads), &product, &mut out);
                    assert_close(&out, &expected, 1e-6);
                    let first = first.get_or_insert_with(|| out.clone());
                    assert!(
                        out.iter().zip(first).all(|(a, b)| a.to_bits() == b.to_bits()),
                        "{shape:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn packed_weights_multiply_in_both_directions() {
    let mut random = Random(2);
    let (outputs, inputs, rows) = (80, 256, 37);
    let mut matrices = Vec::from(FORMATS.map(|format| random.matrix(format, outputs, inputs)));
    matrices.push(random.nf4(outputs, inputs));
    for (matrix, weights) in matrices {
        let (x, gradient) = (random.numbers(rows * inputs), random.numbers(rows * outputs));
        let forward = reference(&x, &transpose(&weights, inputs), [rows, inputs, outputs]);
        let backward = reference(&gradient, &weights, [rows, outputs, inputs]);
        for isa in Isa::available() {
            for arithmetic in [Arithmetic::F32, Arithmetic::Bf16] {
                let tolerance = match arithmetic {
                    Arithmetic::F32 => 1e-6,
                    Arithmetic::Bf16 => 5e-3,
                };
                let run = |left, right, expected: &[f64]| {
                    let mut out = vec![f32::NAN; expected.len()];
                    let product = Gemm {
                        arithmetic,
                        ..Gemm::new(left, right)
                    };
                    gemm(&mut context(isa, 2), &product, &mut out);
                    assert_close(&out, expected, tolerance);
                };
                run(View::new(&x, inputs), Right::Forward(&matrix), &forward);
                run(View::new(&gradient, outputs), Right::Backward(&matrix), &backward);
            }
        }
    }
}

#[test]
fn rounding_to_bfloat16_is_to_nearest_even() {
    for bits in (0..=u32::MAX).step_by(65_537 / 3) {
        let value = f32::from_bits(bits);
        let (got, expected) = (round_bits(value), half::bf16::from_f32(value).to_bits());
        assert_eq!(got, expected, "{value}");
    }
}
