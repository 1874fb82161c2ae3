//! DoRA (Liu et al., 2024): `y = m / |W + t B A| * (W + t B A) x`, norms over the inputs of each output, t the adapter's
//! scale times the request's factor (peft's `set_scale`).
//!
//! The norm under any t comes from three numbers per output, measured once: `|W + t B A|^2 = |W|^2 + 2 t <W, B A> +
//! t^2 |B A|^2`.

use std::sync::Arc;

use parking_lot::Mutex;
use rootstock_kernels::{
    Activations, Context, LowRankBatch, PackedMatrix, Part, Precision, Source, Then, linear, prepare,
};

/// The magnitude on one map.
pub(super) struct Magnitude {
    /// The adapter's own scale.
    scale: f32,
    norms: Vec<Norms>,
    /// Factors where the request's factor is 1.
    unit: Arc<[f32]>,
    /// Another request's factor and the factors under it: every step of a request asks for the same.
    recent: Mutex<(f32, Arc<[f32]>)>,
}

/// What the factor on one output under any scale is made of.
struct Norms {
    magnitude: f32,
    /// `|W|^2`
    base: f64,
    /// `<W, B A>`
    cross: f64,
    /// `|B A|^2`
    delta: f64,
}

/// Inner products of a map's weights with themselves and with A.
pub(super) struct Products {
    /// `|W|^2` of every output.
    base: Vec<f64>,
    /// `A W^T`, `[rank, outputs]`.
    with_a: Vec<f32>,
}

impl Magnitude {
    /// The magnitude on a map whose weights have `products` under the pair `a` of `[rank, inputs]`, `b` of `[outputs, rank]`.
    /// `None` if a row of `W + scale B A` has no norm to divide by.
    pub fn new(products: Products, (a, b): (&[f32], &[f32]), scale: f32, magnitudes: Vec<f32>) -> Option<Self> {
        let outputs = products.base.len();
        let rank = b.len() / outputs;
        let gram = gram(a, rank);
        let norms = products
            .base
            .iter()
            .zip(magnitudes)
            .enumerate()
            .map(|(output, (&base, magnitude))| {
                let b = &b[output * rank..(output + 1) * rank];
                let cross = (0..rank).map(|r| f64::from(b[r]) * f64::from(products.with_a[r * outputs + output]));
                let pairs = (0..rank * rank).map(|at| f64::from(b[at / rank]) * f64::from(b[at % rank]) * gram[at]);
                Norms {
                    magnitude,
                    base,
                    cross: cross.sum(),
                    delta: pairs.sum(),
                }
            });
        let norms: Vec<Norms> = norms.collect();
        let unit = norms.iter().map(|norms| norms.factor(f64::from(scale)));
        let unit: Arc<[f32]> = unit.collect::<Option<_>>()?;
        Some(Self {
            scale,
            recent: Mutex::new((1.0, unit.clone())),
            unit,
            norms,
        })
    }

    /// `m / |W + t B A|` for every output under the request's factor. A row that the factor makes zero has no direction: it
    /// stays zero.
    pub fn factors(&self, request: f32) -> Arc<[f32]> {
        if request == 1.0 {
            return self.unit.clone();
        }
        let mut recent = self.recent.lock();
        if recent.0 != request {
            *recent = (request, self.measured(request));
        }
        recent.1.clone()
    }

    fn measured(&self, request: f32) -> Arc<[f32]> {
        let t = f64::from(self.scale) * f64::from(request);
        self.norms.iter().map(|norms| norms.factor(t).unwrap_or(0.0)).collect()
    }

    pub fn bytes(&self) -> usize {
        size_of_val(&self.norms[..]) + 2 * size_of_val(&self.unit[..])
    }
}

impl Norms {
    /// `m / |W + t B A|`; `None` where that is no number.
    fn factor(&self, t: f64) -> Option<f32> {
        let squared = self.base + 2.0 * t * self.cross + t * t * self.delta;
        let factor = (f64::from(self.magnitude) / squared.sqrt()) as f32;
        factor.is_finite().then_some(factor)
    }
}

impl Products {
    /// Of a linear map with weights `matrix`, `[outputs, inputs]`.
    pub fn of_map(context: &mut Context, matrix: &PackedMatrix, a: &[f32]) -> Self {
        let rank = a.len() / matrix.inputs();
        let mut rows = Activations::new(Precision::F32);
        let mut none = LowRankBatch::default();
        prepare(
            context,
            Source::dense(a, matrix.inputs(), None),
            rank,
            &mut rows,
            &mut none,
        );
        let part = Part {
            matrix,
            bias: None,
            column: 0,
        };
        let mut with_a = vec![0.0; rank * matrix.outputs()];
        linear(
            context,
            &rows,
            &[part],
            &none,
            Then::Store,
            (&mut with_a, matrix.outputs()),
        );
        let mut row = vec![0.0; matrix.inputs()];
        let squared = |output: usize| {
            matrix.dequantize_row(output, &mut row);
            row.iter().map(|&w| f64::from(w) * f64::from(w)).sum()
        };
        Self {
            base: (0..matrix.outputs()).map(squared).collect(),
            with_a,
        }
    }

    /// Of the embedding, whose table `[vocab_size, hidden_size]` holds the weights of a map from one-hot tokens by column.
    pub fn of_embedding(table: &PackedMatrix, a: &[f32]) -> Self {
        let (tokens, hidden) = (table.outputs(), table.inputs());
        let rank = a.len() / tokens;
        let (mut base, mut with_a) = (vec![0.0f64; hidden], vec![0.0f64; rank * hidden]);
        let mut row = vec![0.0; hidden];
        for token in 0..tokens {
            table.dequantize_row(token, &mut row);
            base.iter_mut()
                .zip(&row)
                .for_each(|(base, &w)| *base += f64::from(w) * f64::from(w));
            for (component, sums) in with_a.chunks_exact_mut(hidden).enumerate() {
                let a = f64::from(a[component * tokens + token]);
                sums.iter_mut().zip(&row).for_each(|(sum, &w)| *sum += a * f64::from(w));
            }
        }
        Self {
            base,
            with_a: with_a.into_iter().map(|sum| sum as f32).collect(),
        }
    }
}

/// `A A^T`, `[rank, rank]`.
fn gram(a: &[f32], rank: usize) -> Vec<f64> {
    let width = a.len() / rank.max(1);
    let row = |r: usize| &a[r * width..(r + 1) * width];
    let dot = |(i, j): (usize, usize)| {
        row(i)
            .iter()
            .zip(row(j))
            .map(|(x, y)| f64::from(*x) * f64::from(*y))
            .sum()
    };
    (0..rank * rank).map(|at| dot((at / rank, at % rank))).collect()
}

#[cfg(test)]
mod tests {
    use super::{Magnitude, Products};

    /// Two outputs of two inputs, the second a row of zeros in W: `B A` has the rows (3, 0) and (0, 4).
    fn magnitude(second: f64) -> Option<Magnitude> {
        let products = Products {
            base: vec![1.0, second],
            with_a: vec![1.0, 0.0, 0.0, 0.0],
        };
        let (a, b) = ([1.0, 0.0, 0.0, 1.0], [3.0, 0.0, 0.0, 4.0]);
        Magnitude::new(products, (&a, &b), 1.0, vec![8.0, 12.0])
    }

    #[test]
    fn a_row_that_a_factor_makes_zero_stays_zero() {
        let magnitude = magnitude(0.0).unwrap();
        assert_eq!(*magnitude.factors(1.0), [2.0, 3.0]);
        assert_eq!(*magnitude.factors(0.0), [8.0, 0.0]);
        let kept = magnitude.factors(0.0);
        assert_eq!(*magnitude.factors(0.5), [3.2, 6.0]);
        assert_eq!((&*kept, &*magnitude.factors(1.0)), (&[8.0, 0.0][..], &[2.0, 3.0][..]));
    }

    #[test]
    fn rows_without_a_norm_under_the_adapters_own_scale_are_refused() {
        assert!(magnitude(-16.0).is_none());
        assert!(magnitude(f64::NAN).is_none());
    }
}
