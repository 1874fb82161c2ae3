//! Second moments of what maps are given: the weights of an importance matrix, and Hessians for GPTQ.

use rootstock_kernels::{Context, Gemm, Right, View, gemm};

/// Sums over the rows that a map is given.
#[derive(Debug, Clone, Default)]
pub struct Moments {
    rows: u64,
    /// Sum of squares of each input.
    squares: Vec<f64>,
    /// Sum of absolute values of each input.
    magnitudes: Vec<f64>,
}

impl Moments {
    /// Adds rows of `width` inputs.
    pub fn add(&mut self, rows: &[f32], width: usize) {
        self.squares.resize(width, 0.0);
        self.magnitudes.resize(width, 0.0);
        for row in rows.chunks_exact(width) {
            self.rows += 1;
            let sums = self.squares.iter_mut().zip(&mut self.magnitudes);
            for ((squares, magnitudes), &value) in sums.zip(row) {
                *squares += f64::from(value) * f64::from(value);
                *magnitudes += f64::from(value.abs());
            }
        }
    }

    /// Mean square of each input: the weight of its error.
    pub fn mean_squares(&self) -> Vec<f32> {
        self.mean(&self.squares)
    }

    /// Mean magnitude of each input.
    pub fn mean_magnitudes(&self) -> Vec<f32> {
        self.mean(&self.magnitudes)
    }

    fn mean(&self, sums: &[f64]) -> Vec<f32> {
        let rows = self.rows.max(1) as f64;
        sums.iter().map(|sum| (sum / rows) as f32).collect()
    }
}

/// `X^T X` of the rows that a map is given, `[inputs, inputs]`, added up.
#[derive(Debug, Clone)]
pub struct Hessian {
    /// Row by row.
    pub values: Vec<f32>,
    /// Inputs.
    pub width: usize,
}

impl Hessian {
    /// Nothing yet.
    pub fn new(width: usize) -> Self {
        Self {
            values: vec![0.0; width * width],
            width,
        }
    }

    /// Adds rows.
    pub fn add(&mut self, context: &mut Context, rows: &[f32]) {
        let rows = View::new(rows, self.width);
        let product = Gemm {
            accumulate: true,
            ..Gemm::new(rows.transposed(), Right::Dense(rows))
        };
        gemm(context, &product, &mut self.values);
    }

    /// `sum(row H row^T)` over rows: the squares of what maps of these rows give.
    pub fn energy(&self, context: &mut Context, rows: &[f32]) -> f64 {
        let mut images = vec![0.0; rows.len()];
        let square = View::new(&self.values, self.width);
        let product = Gemm::new(View::new(rows, self.width), Right::Dense(square));
        gemm(context, &product, &mut images);
        let products = rows.iter().zip(&images);
        products.map(|(row, image)| f64::from(*row) * f64::from(*image)).sum()
    }
}
