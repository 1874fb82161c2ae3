//! GPTQ (Frantar et al., 2022): inputs are rounded one after another, and what is lost on one is made up for by those that are
//! left, such that what the map gives on the calibration text changes least.
//!
//! ```text
//! grids of all blocks from the weights as they are; U with H^-1 = U^T U, H = X^T X + damping
//! inputs in the order of falling H[j][j]:
//!   q[j] = nearest(w[j]);  e = (w[j] - q[j]) / U[j][j];  w[k] -= e U[j][k] for every k after j
//! ```
//!
//! Grids are fixed first, so that inputs may come in an order of their own and still lie in the file's. Rows do not know of each
//! other: they are taken a slice at a time. Within [`CHUNK`] inputs the feedback is row by row, beyond them a product.

use rootstock_kernels::{Context, Gemm, Grid, Right, View, gemm};

use super::cholesky::inverse_factor;
use crate::calibrate::Hessian;

/// Added to the diagonal of H, as a share of its mean.
const DAMPING: f32 = 0.01;
/// Times the damping is multiplied by ten where rounding has left H without an inverse.
const ATTEMPTS: u32 = 6;
/// Inputs between two products.
const CHUNK: usize = 128;

/// What feedback for the maps of one input needs to know.
pub(super) struct Feedback {
    /// Inputs in the order in which they are rounded.
    order: Vec<usize>,
    /// U in that order, row by row.
    factor: Vec<f32>,
    /// Mean square of each input, in the order of the inputs.
    pub(super) importance: Vec<f32>,
}

impl Feedback {
    /// From `X^T X` over `rows` rows. `None` if nothing was ever given to the map.
    pub(super) fn new(context: &mut Context, hessian: &Hessian, rows: u64) -> Option<Self> {
        let width = hessian.width;
        let diagonal: Vec<f32> = (0..width).map(|at| hessian.values[at * width + at]).collect();
        let mean = (diagonal.iter().map(|&value| f64::from(value)).sum::<f64>() / width as f64) as f32;
        if !(mean.is_finite() && mean > 0.0) {
            return None;
        }
        let mut order: Vec<usize> = (0..width).collect();
        order.sort_by(|&a, &b| diagonal[b].total_cmp(&diagonal[a]));
        let ordered = |damping: f32| {
            let mut matrix = Vec::with_capacity(width * width);
            for (place, &row) in order.iter().enumerate() {
                let from = &hessian.values[row * width..][..width];
                matrix.extend(order.iter().map(|&column| from[column]));
                matrix[place * width + place] += damping;
            }
            matrix
        };
        let mut damping = DAMPING * mean;
        let factor = (0..ATTEMPTS).find_map(|_| {
            let mut matrix = ordered(damping);
            damping *= 10.0;
            inverse_factor(context, &mut matrix, width).map(|()| matrix)
        })?;
        let importance = diagonal.iter().map(|value| value / rows.max(1) as f32).collect();
        Some(Self {
            order,
            factor,
            importance,
        })
    }

    /// Rounds rows to the grids of their blocks of `block` inputs, which follow each other row by row; gives every input's quant, in
    /// the order of the inputs.
    pub(super) fn round(&self, context: &mut Context, rows: &[f32], (grids, block): (&[Grid], usize)) -> Vec<u8> {
        let width = self.order.len();
        let count = rows.len() / width;
        let mut left: Vec<f32> = rows
            .chunks_exact(width)
            .flat_map(|row| self.order.iter().map(|&input| row[input]))
            .collect();
        let mut quants = vec![0; rows.len()];
        let of_row = width / block;
        let mut errors = vec![0f32; count * CHUNK];
        for start in (0..width).step_by(CHUNK) {
            let size = CHUNK.min(width - start);
            let threads = context.pool.threads();
            let share = count.div_ceil(threads).max(1);
            std::thread::scope(|scope| {
                let parts = left.chunks_mut(share * width).zip(quants.chunks_mut(share * width));
                let parts = parts
                    .zip(errors.chunks_mut(share * CHUNK))
                    .zip(grids.chunks(share * of_row));
                for (((left, quants), errors), grids) in parts {
                    scope.spawn(move || {
                        let rows = left.chunks_exact_mut(width).zip(quants.chunks_exact_mut(width));
                        let rows = rows.zip(errors.chunks_exact_mut(CHUNK)).zip(grids.chunks_exact(of_row));
                        for (((left, quants), errors), grids) in rows {
                            self.round_chunk((start, size), left, quants, errors, (grids, block));
                        }
                    });
                }
            });
            self.pass_on(context, (start, size), &errors, &mut left);
        }
        quants
    }

    /// Rounds one row's inputs of a chunk, with feedback within it; `errors` are what those after it are to make up for.
    fn round_chunk(
        &self,
        (start, size): (usize, usize),
        left: &mut [f32],
        quants: &mut [u8],
        errors: &mut [f32],
        (grids, block): (&[Grid], usize),
    ) {
        let width = self.order.len();
        for place in start..start + size {
            let input = self.order[place];
            let (quant, value) = grids[input / block].nearest(input % block, left[place]);
            quants[input] = quant;
            let factors = &self.factor[place * width + place..(place * width + start + size)];
            let error = (left[place] - value) / factors[0];
            errors[place - start] = error;
            let rest = left[place + 1..start + size].iter_mut().zip(&factors[1..]);
            rest.for_each(|(left, factor)| *left -= error * factor);
        }
    }

    /// Has the inputs after a chunk make up for its errors.
    fn pass_on(&self, context: &mut Context, (start, size): (usize, usize), errors: &[f32], left: &mut [f32]) {
        let width = self.order.len();
        let (end, count) = (start + size, errors.len() / CHUNK);
        if end == width {
            return;
        }
        let factors = View::strided(&self.factor[start * width + end..], size, width - end, width);
        let errors = View::strided(errors, count, size, CHUNK);
        let mut sums = vec![0.0; count * (width - end)];
        gemm(context, &Gemm::new(errors, Right::Dense(factors)), &mut sums);
        for (row, sums) in left.chunks_exact_mut(width).zip(sums.chunks_exact(width - end)) {
            row[end..].iter_mut().zip(sums).for_each(|(left, sum)| *left -= sum);
        }
    }
}
