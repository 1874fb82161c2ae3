//! The largest singular values of a matrix and their vectors, by subspace iteration (Halko, Martinsson & Tropp, 2011, section
//! 4.5) with Rayleigh and Ritz's step. Products are in f32, whose bits do not depend on threads or instructions, and everything
//! between them in f64, so that a seed gives the same components everywhere.

use crate::{Context, Gemm, Right, View, gemm};

/// Vectors beside the ones that are asked for, at the least: they make the others settle sooner.
const BESIDE: usize = 8;
/// Iterations until the vectors are taken as they are.
const MOST_ITERATIONS: usize = 500;
/// How far the image of a settled vector may be from its multiple, relative to the largest value.
const SETTLED: f64 = 3e-6;
/// Sweeps of Jacobi's method; it needs six to ten.
const SWEEPS: usize = 30;

/// `left[i] * values[i] * right[i]` summed up is near the matrix.
#[derive(Debug, Clone)]
pub struct Components {
    /// Singular values, largest first.
    pub values: Vec<f64>,
    /// `[rank, outputs]`
    pub left: Vec<f64>,
    /// `[rank, inputs]`
    pub right: Vec<f64>,
}

/// The `rank` largest components of a matrix `[outputs, inputs]`; after `iterations` if that is given, else once they are settled.
/// `start` draws numbers from a range around 0, which the vectors begin as.
///
/// # Panics
/// If `rank` is 0 or more than the matrix has.
pub fn components(
    context: &mut Context,
    matrix: View<'_>,
    rank: usize,
    iterations: Option<usize>,
    start: impl FnMut() -> f64,
) -> Components {
    let (outputs, inputs) = (matrix.rows, matrix.columns);
    let most = outputs.min(inputs);
    assert!(rank > 0 && rank <= most, "{rank} components of {outputs} x {inputs}");
    let width = (rank + BESIDE.max(rank / 2)).min(most);
    let mut right: Vec<f64> = std::iter::repeat_with(start).take(width * inputs).collect();
    orthonormalise(&mut right, inputs);
    let mut left = iterations.unwrap_or(MOST_ITERATIONS);
    loop {
        let images = product(context, View::new(&floats(&right), inputs), matrix.transposed());
        let (values, turn) = eigen(&gram(&images, outputs), width);
        let (images, turned) = (combine(&turn, &images, outputs), combine(&turn, &right, inputs));
        let back = product(context, View::new(&floats(&images), outputs), matrix);
        if left == 0 || (iterations.is_none() && settled(&back, &turned, &values[..rank], inputs)) {
            return ends(&values[..rank], images, turned, [outputs, inputs]);
        }
        right = back;
        orthonormalise(&mut right, inputs);
        left -= 1;
    }
}

/// What the images' lengths make of them.
fn ends(squares: &[f64], mut left: Vec<f64>, mut right: Vec<f64>, [outputs, inputs]: [usize; 2]) -> Components {
    left.truncate(squares.len() * outputs);
    right.truncate(squares.len() * inputs);
    let values: Vec<f64> = squares.iter().map(|square| square.max(0.0).sqrt()).collect();
    for (row, value) in left.chunks_exact_mut(outputs).zip(&values) {
        let by = if *value > 0.0 { 1.0 / value } else { 0.0 };
        row.iter_mut().for_each(|element| *element *= by);
    }
    Components { values, left, right }
}

/// Whether every vector's image under the matrix and back is its multiple.
fn settled(back: &[f64], right: &[f64], squares: &[f64], inputs: usize) -> bool {
    let rows = back.chunks_exact(inputs).zip(right.chunks_exact(inputs));
    let most = SETTLED * squares[0].max(f64::MIN_POSITIVE);
    rows.zip(squares).all(|((back, right), square)| {
        let apart = back.iter().zip(right).map(|(back, right)| back - square * right);
        apart.map(|apart| apart * apart).sum::<f64>().sqrt() <= most
    })
}

fn floats(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&value| value as f32).collect()
}

fn product(context: &mut Context, left: View<'_>, right: View<'_>) -> Vec<f64> {
    let mut to = vec![0.0; left.rows * right.columns];
    gemm(context, &Gemm::new(left, Right::Dense(right)), &mut to);
    to.into_iter().map(f64::from).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Products of all rows with all rows.
fn gram(rows: &[f64], width: usize) -> Vec<f64> {
    let rows: Vec<&[f64]> = rows.chunks_exact(width).collect();
    rows.iter().flat_map(|a| rows.iter().map(|b| dot(a, b))).collect()
}

/// `turn * rows`
fn combine(turn: &[f64], rows: &[f64], width: usize) -> Vec<f64> {
    let count = rows.len() / width;
    let mut to = vec![0.0; rows.len()];
    for (factors, to) in turn.chunks_exact(count).zip(to.chunks_exact_mut(width)) {
        for (factor, row) in factors.iter().zip(rows.chunks_exact(width)) {
            to.iter_mut().zip(row).for_each(|(to, value)| *to += factor * value);
        }
    }
    to
}

/// Gram and Schmidt's method, twice, which is enough (Giraud et al., 2005). A row that the others leave nothing of becomes zero.
fn orthonormalise(rows: &mut [f64], width: usize) {
    for at in 0..rows.len() / width {
        let (before, rest) = rows.split_at_mut(at * width);
        let row = &mut rest[..width];
        let whole = dot(row, row).sqrt();
        for _ in 0..2 {
            for other in before.chunks_exact(width) {
                let along = dot(row, other);
                row.iter_mut()
                    .zip(other)
                    .for_each(|(value, other)| *value -= along * other);
            }
        }
        let length = dot(row, row).sqrt();
        let by = if length > whole * 1e-9 { 1.0 / length } else { 0.0 };
        row.iter_mut().for_each(|value| *value *= by);
    }
}

/// Eigenvalues of a symmetric matrix, largest first, and their vectors as rows: Jacobi's method.
fn eigen(matrix: &[f64], size: usize) -> (Vec<f64>, Vec<f64>) {
    let mut matrix = matrix.to_vec();
    let mut vectors: Vec<f64> = (0..size * size)
        .map(|at| f64::from(u8::from(at % size == at / size)))
        .collect();
    for _ in 0..SWEEPS {
        let off: f64 = (0..size * size)
            .filter(|at| at % size != at / size)
            .map(|at| matrix[at].abs())
            .sum();
        let on: f64 = (0..size).map(|at| matrix[at * (size + 1)].abs()).sum();
        if off <= 1e-14 * on {
            break;
        }
        for p in 0..size {
            for q in p + 1..size {
                rotate(&mut matrix, &mut vectors, size, [p, q]);
            }
        }
    }
    let mut order: Vec<usize> = (0..size).collect();
    order.sort_by(|&a, &b| matrix[b * (size + 1)].total_cmp(&matrix[a * (size + 1)]));
    let values = order.iter().map(|&at| matrix[at * (size + 1)]).collect();
    let vectors = order.iter().flat_map(|&at| vectors[at * size..][..size].to_vec());
    (values, vectors.collect())
}

/// Brings element `(p, q)` to zero.
fn rotate(matrix: &mut [f64], vectors: &mut [f64], size: usize, [p, q]: [usize; 2]) {
    let off = matrix[p * size + q];
    if off == 0.0 {
        return;
    }
    let theta = (matrix[q * (size + 1)] - matrix[p * (size + 1)]) / (2.0 * off);
    let tangent = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
    let cosine = 1.0 / (tangent * tangent + 1.0).sqrt();
    let sine = tangent * cosine;
    let turn = |values: &mut [f64], a: usize, b: usize| {
        let (x, y) = (values[a], values[b]);
        (values[a], values[b]) = (cosine * x - sine * y, sine * x + cosine * y);
    };
    (0..size).for_each(|k| turn(matrix, k * size + p, k * size + q));
    (0..size).for_each(|k| turn(matrix, p * size + k, q * size + k));
    (0..size).for_each(|k| turn(vectors, p * size + k, q * size + k));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;
    use crate::{Isa, ThreadPool};

    fn context(threads: usize) -> Context {
        Context {
            pool: ThreadPool::new(threads).unwrap(),
            isa: Isa::detect().unwrap(),
        }
    }

    fn random(rows: usize, columns: usize) -> Vec<f32> {
        Random(3).numbers(rows * columns).iter().map(|x| x / 2.0).collect()
    }

    fn of(matrix: &[f32], columns: usize, rank: usize, threads: usize) -> Components {
        let mut random = Random(1);
        let matrix = View::new(matrix, columns);
        components(&mut context(threads), matrix, rank, None, || random.number().into())
    }

    #[test]
    fn all_components_make_up_the_matrix() {
        for [rows, columns] in [[24, 40], [40, 24], [1, 7], [7, 1]] {
            let matrix = random(rows, columns);
            let rank = rows.min(columns);
            let found = of(&matrix, columns, rank, 2);
            assert!(found.values.is_sorted_by(|a, b| a >= b));
            for (at, &element) in matrix.iter().enumerate() {
                let (row, column) = (at / columns, at % columns);
                let term = |k: usize| found.left[k * rows + row] * found.values[k] * found.right[k * columns + column];
                let sum: f64 = (0..rank).map(term).sum();
                assert!(
                    (sum - f64::from(element)).abs() < 1e-5,
                    "{rows} x {columns}: {sum}, expected {element}"
                );
            }
        }
    }

    #[test]
    fn the_largest_components_are_those_of_all() {
        let matrix = random(48, 64);
        let (some, all) = (of(&matrix, 64, 3, 1), of(&matrix, 64, 48, 1));
        for k in 0..3 {
            assert!((some.values[k] / all.values[k] - 1.0).abs() < 1e-6);
            let along = dot(&some.right[k * 64..][..64], &all.right[k * 64..][..64]);
            assert!((along.abs() - 1.0).abs() < 1e-6, "component {k}: {along}");
        }
    }

    #[test]
    fn threads_change_no_bit() {
        let matrix = random(64, 96);
        let (one, three) = (of(&matrix, 96, 4, 1), of(&matrix, 96, 4, 3));
        assert_eq!(
            (one.values, one.left, one.right),
            (three.values, three.left, three.right)
        );
    }

    #[test]
    fn a_matrix_of_less_rank_has_zeros_for_the_rest() {
        let matrix: Vec<f32> = (0..32 * 32)
            .map(|at| ((at / 32) as f32 - 15.0) * ((at % 32) as f32 + 1.0))
            .collect();
        let found = of(&matrix, 32, 2, 1);
        assert!(found.values[1] < 1e-3 * found.values[0]);
        assert!(found.left.iter().chain(&found.right).all(|value| value.is_finite()));
    }
}
