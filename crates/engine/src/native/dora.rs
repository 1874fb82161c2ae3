//! DoRA (Liu et al., 2024): `y = m / |W + t B A| * (W + t B A) x`, norms over the inputs of each output, t the adapter's
//! scale times the request's factor (peft's `set_scale`).
//!
//! The norm under any t comes from three numbers per output, measured once: `|W + t B A|^2 = |W|^2 + 2 t <W, B A> +
//! t^2 |B A|^2`.

use std::borrow::Cow;

use rootstock_kernels::{
    Activations, Context, LowRankBatch, PackedMatrix, Part, Precision, Source, Then, linear, prepare,
};

/// The magnitude on one map.
pub(super) struct Magnitude {
    /// The adapter's own scale.
    scale: f32,
    magnitudes: Vec<f32>,
    norms: Vec<Norms>,
    /// Factors where the request's factor is 1.
    unit: Vec<f32>,
}

/// What the norm of one output under any scale is made of.
struct Norms {
    /// `|W|^2`
    base: f64,
    /// `<W, B A>`
    cross: f64,
    /// `|B A|^2`
    delta: f64,
}

impl Magnitude {
    /// Measures a map with weights `matrix` under the pair `a` of `[rank, inputs]`, `b` of `[outputs, rank]`. `None` if a
    /// row of `W + scale B A` has no norm to divide by.
    pub fn measure(
        context: &mut Context,
        matrix: &PackedMatrix,
        (a, b): (&[f32], &[f32]),
        scale: f32,
        magnitudes: Vec<f32>,
    ) -> Option<Self> {
        let rank = a.len() / matrix.inputs();
        let products = products(context, matrix, a, rank);
        let gram = gram(a, rank);
        let mut row = vec![0.0; matrix.inputs()];
        let measure_output = |output: usize| {
            matrix.dequantize_row(output, &mut row);
            let b = &b[output * rank..(output + 1) * rank];
            let cross = (0..rank).map(|r| f64::from(b[r]) * f64::from(products[r * matrix.outputs() + output]));
            let pairs = (0..rank * rank).map(|at| f64::from(b[at / rank]) * f64::from(b[at % rank]) * gram[at]);
            Norms {
                base: row.iter().map(|&w| f64::from(w) * f64::from(w)).sum(),
                cross: cross.sum(),
                delta: pairs.sum(),
            }
        };
        let mut measured = Self {
            scale,
            magnitudes,
            norms: (0..matrix.outputs()).map(measure_output).collect(),
            unit: Vec::new(),
        };
        measured.unit = measured.factors(1.0).into_owned();
        measured
            .unit
            .iter()
            .all(|factor| factor.is_finite())
            .then_some(measured)
    }

    /// `m / |W + t B A|` for every output under the request's factor.
    pub fn factors(&self, request: f32) -> Cow<'_, [f32]> {
        if request == 1.0 && !self.unit.is_empty() {
            return Cow::Borrowed(&self.unit);
        }
        let t = f64::from(self.scale) * f64::from(request);
        let factor = |(magnitude, norms): (&f32, &Norms)| {
            let squared = norms.base + 2.0 * t * norms.cross + t * t * norms.delta;
            (f64::from(*magnitude) / squared.sqrt()) as f32
        };
        self.magnitudes.iter().zip(&self.norms).map(factor).collect()
    }

    pub fn bytes(&self) -> usize {
        self.magnitudes.len() * (2 * size_of::<f32>() + size_of::<Norms>())
    }
}

/// `A W^T`, `[rank, outputs]`.
fn products(context: &mut Context, matrix: &PackedMatrix, a: &[f32], rank: usize) -> Vec<f32> {
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
    let mut out = vec![0.0; rank * matrix.outputs()];
    linear(
        context,
        &rows,
        &[part],
        &none,
        Then::Store,
        (&mut out, matrix.outputs()),
    );
    out
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
