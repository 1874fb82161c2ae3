//! DoRA (Liu et al., 2024): an output's weights, base and pair together, are brought to a trained length.
//!
//! The length of `w + s * b A` of an output comes from three numbers: `|w|^2`, measured once; `w . (b A)`, from one product of
//! the frozen weights with the rows of A; `|b A|^2`, from the Gram matrix of A. As in the paper's section 4.3 the length
//! counts as a constant for the gradient.

use std::collections::HashMap;

use rootstock_kernels::training::{column_sums, multiply_columns};
use rootstock_kernels::{Gemm, Right, View, gemm};
use rootstock_model::Site;

use super::{Scaled, Tape};

/// Squared lengths of the outputs' frozen weights.
#[derive(Debug, Default)]
pub struct WeightNorms(HashMap<Site, Vec<f64>>);

impl WeightNorms {
    fn of(&mut self, model: &crate::FrozenModel, site: Site) -> &[f64] {
        self.0.entry(site).or_insert_with(|| {
            let matrix = model.matrix(site);
            let mut row = vec![0.0; matrix.inputs()];
            let length = |output| {
                matrix.dequantize_row(output, &mut row);
                row.iter().map(|&value| f64::from(value) * f64::from(value)).sum()
            };
            (0..matrix.outputs()).map(length).collect()
        })
    }
}

impl Tape<'_, '_> {
    /// Lengths of the outputs' weights as they are now.
    pub(super) fn weight_lengths(&mut self, site: Site) -> Vec<f32> {
        let machine = &mut *self.machine;
        let squares = machine.norms.of(machine.model, site);
        let Some(pair) = machine
            .trained
            .sites
            .get(&site)
            .and_then(|training| training.pair.as_ref())
        else {
            return squares.iter().map(|square| square.sqrt() as f32).collect();
        };
        let a = machine.parameters.get(pair.a);
        let (rank, inputs) = (a.shape[0], a.shape[1]);
        let rows = View::new(&a.values, inputs);
        let mut with_weights = vec![0.0; rank * squares.len()];
        gemm(
            machine.context,
            &Gemm::new(rows, Right::Forward(machine.model.matrix(site))),
            &mut with_weights,
        );
        let mut gram = vec![0.0; rank * rank];
        gemm(
            machine.context,
            &Gemm::new(rows, Right::Dense(rows.transposed())),
            &mut gram,
        );
        let b = machine.parameters.rows(&pair.b);
        let scale = f64::from(pair.scale);
        let length = |(output, (square, b)): (usize, (&f64, &[f32]))| {
            let mixed = (0..rank).map(|r| f64::from(b[r]) * f64::from(with_weights[r * squares.len() + output]));
            let of_pair = (0..rank).flat_map(|r| (0..rank).map(move |other| (r, other)));
            let of_pair =
                of_pair.map(|(r, other)| f64::from(b[r]) * f64::from(b[other]) * f64::from(gram[r * rank + other]));
            (square + 2.0 * scale * mixed.sum::<f64>() + scale * scale * of_pair.sum::<f64>())
                .max(0.0)
                .sqrt() as f32
        };
        squares
            .iter()
            .zip(b.chunks_exact(rank))
            .enumerate()
            .map(length)
            .collect()
    }

    /// Brings a map's outputs to their trained lengths.
    pub(super) fn scale_by_magnitude(&mut self, site: Site, to: &mut [f32]) -> Option<Scaled> {
        let trained = self.machine.trained;
        let magnitude = trained.sites.get(&site)?.magnitude.as_ref()?;
        let norms = self.weight_lengths(site);
        let before = self.machine.memory.copy(to);
        let before = self.push(before, norms.len(), false);
        let factors = factors(self.machine.parameters.rows(magnitude), &norms);
        multiply_columns(self.machine.context, &factors, to);
        Some(Scaled { norms, before })
    }

    /// Adds to the magnitude's gradient, and turns that of the outputs into that of the outputs before.
    pub(super) fn magnitude_backward(&mut self, site: Site, scaled: &Scaled, gradient: &mut [f32]) {
        let trained = self.machine.trained;
        let Some(magnitude) = trained
            .sites
            .get(&site)
            .and_then(|training| training.magnitude.as_ref())
        else {
            return;
        };
        let mut sums = vec![0.0; scaled.norms.len()];
        self.restore(scaled.before);
        column_sums(gradient, Some(self.values(scaled.before)), &mut sums);
        self.release(scaled.before);
        let to = self.machine.parameters.gradient_of(magnitude).iter_mut();
        to.zip(&sums)
            .zip(&scaled.norms)
            .for_each(|((to, sum), norm)| *to += sum / norm);
        let factors = factors(self.machine.parameters.rows(magnitude), &scaled.norms);
        multiply_columns(self.machine.context, &factors, gradient);
    }
}

fn factors(magnitudes: &[f32], norms: &[f32]) -> Vec<f32> {
    magnitudes
        .iter()
        .zip(norms)
        .map(|(magnitude, norm)| magnitude / norm)
        .collect()
}
