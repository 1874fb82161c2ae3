//! The factor of an inverse that error feedback goes by: `H^-1 = U^T U`, U upper triangular.
//!
//! `H = M M^T` with M upper triangular is Cholesky's factorisation from the last row up, and `U = M^-1`. In blocks: what is
//! within one is done in f64, what is between them are products.

use rootstock_kernels::{Context, Gemm, Right, View, gemm};

/// Rows of a block.
const BLOCK: usize = 64;

/// `U` of a symmetric `[width, width]` matrix, in its place; `None` if it is not positive definite.
pub(super) fn inverse_factor(context: &mut Context, matrix: &mut [f32], width: usize) -> Option<()> {
    // From the last row up is from the first row down with rows and columns reversed.
    matrix.reverse();
    factor(context, matrix, width)?;
    invert(context, matrix, width);
    matrix.reverse();
    Some(())
}

/// Cholesky's factorisation `L L^T` of the lower triangle; what is above it becomes 0.
fn factor(context: &mut Context, matrix: &mut [f32], width: usize) -> Option<()> {
    for start in (0..width).step_by(BLOCK) {
        let end = (start + BLOCK).min(width);
        let diagonal = factor_block(matrix, width, start..end)?;
        for row in end..width {
            solve_row(
                &diagonal,
                end - start,
                &mut matrix[row * width + start..][..end - start],
            );
        }
        let below = (end..width).flat_map(|row| matrix[row * width + start..][..end - start].to_vec());
        let below: Vec<f32> = below.collect();
        subtract_square(context, &below, end - start, matrix, width, end);
    }
    Some(())
}

/// Factors a block on the diagonal; gives it row by row in f64.
fn factor_block(matrix: &mut [f32], width: usize, block: std::ops::Range<usize>) -> Option<Vec<f64>> {
    let (start, size) = (block.start, block.len());
    let mut factor = vec![0f64; size * size];
    for row in 0..size {
        for column in 0..=row {
            let known = (0..column).map(|k| factor[row * size + k] * factor[column * size + k]);
            let rest = f64::from(matrix[(start + row) * width + start + column]) - known.sum::<f64>();
            factor[row * size + column] = if row > column {
                rest / factor[column * size + column]
            } else if rest > 0.0 {
                rest.sqrt()
            } else {
                return None;
            };
        }
        for column in 0..size {
            matrix[(start + row) * width + start + column] = factor[row * size + column] as f32;
        }
        matrix[(start + row) * width + block.end..(start + row + 1) * width].fill(0.0);
    }
    Some(factor)
}

/// `row = row L^-T` for a block L on the diagonal.
fn solve_row(diagonal: &[f64], size: usize, row: &mut [f32]) {
    let mut solved = [0f64; BLOCK];
    for column in 0..size {
        let known = (0..column).map(|k| solved[k] * diagonal[column * size + k]);
        solved[column] = (f64::from(row[column]) - known.sum::<f64>()) / diagonal[column * size + column];
        row[column] = solved[column] as f32;
    }
}

/// Subtracts `below below^T` from what is right of and below `from`.
fn subtract_square(context: &mut Context, below: &[f32], size: usize, matrix: &mut [f32], width: usize, from: usize) {
    let rows = width - from;
    if rows == 0 {
        return;
    }
    let view = View::new(below, size);
    let mut square = vec![0.0; rows * rows];
    gemm(context, &Gemm::new(view, Right::Dense(view.transposed())), &mut square);
    for (row, square) in square.chunks_exact(rows).enumerate() {
        let to = &mut matrix[(from + row) * width + from..][..rows];
        to.iter_mut().zip(square).for_each(|(to, value)| *to -= value);
    }
}

/// Inverts a lower triangle in its place.
fn invert(context: &mut Context, matrix: &mut [f32], width: usize) {
    for start in (0..width).step_by(BLOCK) {
        let end = (start + BLOCK).min(width);
        let size = end - start;
        let inverse = invert_block(matrix, width, start..end);
        // What is left of the diagonal: -inverse * (left * what is inverted already).
        if start > 0 {
            let left: Vec<f32> = (start..end)
                .flat_map(|row| matrix[row * width..][..start].to_vec())
                .collect();
            let mut product = vec![0.0; size * start];
            let done = View::strided(matrix, start, start, width);
            gemm(
                context,
                &Gemm::new(View::new(&left, start), Right::Dense(done)),
                &mut product,
            );
            let mut solved = vec![0.0; size * start];
            let negative = Gemm {
                scale: -1.0,
                ..Gemm::new(View::new(&inverse, size), Right::Dense(View::new(&product, start)))
            };
            gemm(context, &negative, &mut solved);
            for (row, solved) in solved.chunks_exact(start).enumerate() {
                matrix[(start + row) * width..][..start].copy_from_slice(solved);
            }
        }
        for (row, inverse) in inverse.chunks_exact(size).enumerate() {
            matrix[(start + row) * width + start..][..size].copy_from_slice(inverse);
        }
    }
}

/// The inverse of a lower triangle on the diagonal.
fn invert_block(matrix: &[f32], width: usize, block: std::ops::Range<usize>) -> Vec<f32> {
    let (start, size) = (block.start, block.len());
    let at = |row: usize, column: usize| f64::from(matrix[(start + row) * width + start + column]);
    let mut inverse = vec![0f64; size * size];
    for column in 0..size {
        inverse[column * size + column] = 1.0 / at(column, column);
        for row in column + 1..size {
            let known = (column..row).map(|k| at(row, k) * inverse[k * size + column]);
            inverse[row * size + column] = -known.sum::<f64>() / at(row, row);
        }
    }
    inverse.into_iter().map(|value| value as f32).collect()
}

#[cfg(test)]
mod tests {
    use rootstock_kernels::{Isa, ThreadPool};

    use super::*;

    #[test]
    fn the_factor_times_itself_is_the_inverse() {
        let mut context = Context {
            pool: ThreadPool::new(2).unwrap(),
            isa: Isa::detect().unwrap(),
        };
        for width in [1, 5, 64, 65, 200] {
            let noise = |at: usize| ((at * 2_654_435_761) % 1000) as f32 / 500.0 - 1.0;
            let rows: Vec<f32> = (0..2 * width * width).map(noise).collect();
            let rows = View::new(&rows, width);
            let mut matrix = vec![0.0; width * width];
            gemm(
                &mut context,
                &Gemm::new(rows.transposed(), Right::Dense(rows)),
                &mut matrix,
            );
            (0..width).for_each(|at| matrix[at * width + at] += 0.1 * width as f32);
            let mut factor = matrix.clone();
            inverse_factor(&mut context, &mut factor, width).unwrap();
            // U H U^T is the identity.
            let at = |row: usize, column: usize| -> f64 {
                (0..width)
                    .flat_map(|k| (0..width).map(move |l| (k, l)))
                    .map(|(k, l)| {
                        let [left, right] = [factor[row * width + k], factor[column * width + l]].map(f64::from);
                        left * f64::from(matrix[k * width + l]) * right
                    })
                    .sum()
            };
            for (row, column) in [(0, 0), (width - 1, width - 1), (0, width - 1), (width / 2, width / 3)] {
                let expected = f64::from(u8::from(row == column));
                assert!(
                    (at(row, column) - expected).abs() < 1e-3,
                    "{width}: {row}, {column}: {}",
                    at(row, column)
                );
            }
            let lower = (0..width).flat_map(|row| (0..row).map(move |column| (row, column)));
            assert!(
                lower
                    .into_iter()
                    .all(|(row, column)| factor[row * width + column] == 0.0)
            );
        }
        assert!(inverse_factor(&mut context, &mut [1.0, 2.0, 2.0, 1.0], 2).is_none());
    }
}
