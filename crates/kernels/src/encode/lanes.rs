//! Sixteen groups of weights side by side, one to a lane, and what a search asks of them: quants, sums and errors on a grid.
//!
//! Sums have one order, that of [`Simd::sum`] over a group alone, so a group's grid depends neither on the lane, nor on
//! its neighbours, nor on the instruction set.

use crate::simd::{LANES, Simd};

/// A number per lane.
pub(super) type Row = [f32; LANES];

#[inline(always)]
pub(super) fn load<S: Simd>(s: S, row: &Row) -> S::F {
    // SAFETY: a row has sixteen elements.
    unsafe { s.load(row.as_ptr()) }
}

#[inline(always)]
pub(super) fn store<S: Simd>(s: S, value: S::F) -> Row {
    let mut row = [0.0; LANES];
    // SAFETY: a row has sixteen elements.
    unsafe { s.store(row.as_mut_ptr(), value) };
    row
}

/// The values that a lane can take: `step * q + minimum`, q in 0..=most.
#[derive(Clone, Copy)]
pub(super) struct Grids<S: Simd> {
    pub step: S::F,
    pub minimum: S::F,
}

impl<S: Simd> Grids<S> {
    /// Those of this where `a < b`, of the other where not.
    #[inline(always)]
    pub(super) fn where_less(self, s: S, a: S::F, b: S::F, other: Self) -> Self {
        Self {
            step: s.select_less(a, b, self.step, other.step),
            minimum: s.select_less(a, b, self.minimum, other.minimum),
        }
    }

    /// `1 / step`; 0 for a step of zero, which has all values at the minimum.
    #[inline(always)]
    fn inverse(self, s: S) -> S::F {
        let zero = s.splat(0.0);
        s.select_less(zero, s.abs(self.step), s.div(s.splat(1.0), self.step), zero)
    }
}

/// Sums over a group, of weights w, quants q and values x.
pub(super) struct Sums<S: Simd> {
    /// w q.
    pub q: S::F,
    /// w q q.
    pub qq: S::F,
    /// w q x.
    pub qx: S::F,
}

/// Groups of equally many values, whose errors have weights.
pub(super) struct Lanes {
    values: Vec<Row>,
    weights: Vec<Row>,
    /// The largest quant.
    most: f32,
}

impl Lanes {
    /// Room for groups of `len` values, a multiple of sixteen.
    pub(super) fn new(len: usize, most: u8) -> Self {
        Self {
            values: vec![[0.0; LANES]; len],
            weights: vec![[0.0; LANES]; len],
            most: f32::from(most),
        }
    }

    /// Takes the group of a lane, and the weights of its errors, times `sqrt(1 + scale * value^2)`.
    ///
    /// What is clipped errs towards zero, as the value's sign has it, and such errors add up over the inputs of a product where
    /// those of rounding cancel out. So large values weigh more than the error of each input alone would have it.
    pub(super) fn set(&mut self, lane: usize, values: &[f32], weights: &[f32], scale: f32) {
        let rows = self.values.iter_mut().zip(&mut self.weights);
        for ((to, to_weight), (value, weight)) in rows.zip(values.iter().zip(weights)) {
            to[lane] = *value;
            to_weight[lane] = weight * (1.0 + scale * value * value).sqrt();
        }
    }

    /// Leaves zeros in the lanes from this one on.
    pub(super) fn clear(&mut self, from: usize) {
        self.values.iter_mut().for_each(|row| row[from..].fill(0.0));
    }

    #[inline(always)]
    pub(super) fn most<S: Simd>(&self, s: S) -> S::F {
        s.splat(self.most)
    }

    /// The smallest and the largest value.
    #[inline(always)]
    pub(super) fn range<S: Simd>(&self, s: S) -> [S::F; 2] {
        let first = load(s, &self.values[0]);
        let mut range = [first; 2];
        for row in &self.values[1..] {
            let value = load(s, row);
            range = [s.min(range[0], value), s.max(range[1], value)];
        }
        range
    }

    /// The value of the largest magnitude, the first of several.
    #[inline(always)]
    pub(super) fn largest<S: Simd>(&self, s: S) -> S::F {
        let mut largest = s.splat(0.0);
        for row in &self.values {
            let value = load(s, row);
            largest = s.select_less(s.abs(largest), s.abs(value), value, largest);
        }
        largest
    }

    /// Sums of the weights, and of the weighted values.
    #[inline(always)]
    pub(super) fn totals<S: Simd>(&self, s: S) -> [S::F; 2] {
        let mut terms = [[s.splat(0.0); LANES]; 2];
        for (values, weights) in self.sixteens() {
            for i in 0..LANES {
                let weight = load(s, &weights[i]);
                terms[0][i] = s.add(terms[0][i], weight);
                terms[1][i] = s.mul_add(weight, load(s, &values[i]), terms[1][i]);
            }
        }
        [fold(s, terms[0]), fold(s, terms[1])]
    }

    /// Sums with quants less `zero`.
    #[inline(always)]
    pub(super) fn sums<S: Simd>(&self, s: S, grids: Grids<S>, zero: S::F) -> Sums<S> {
        let inverse = grids.inverse(s);
        let mut terms = [[s.splat(0.0); LANES]; 3];
        for (values, weights) in self.sixteens() {
            for i in 0..LANES {
                let value = load(s, &values[i]);
                let q = s.sub(self.quant(s, grids, inverse, value), zero);
                let weighted = s.mul(load(s, &weights[i]), q);
                terms[0][i] = s.add(terms[0][i], weighted);
                terms[1][i] = s.mul_add(weighted, q, terms[1][i]);
                terms[2][i] = s.mul_add(weighted, value, terms[2][i]);
            }
        }
        let [q, qq, qx] = terms;
        Sums {
            q: fold(s, q),
            qq: fold(s, qq),
            qx: fold(s, qx),
        }
    }

    /// Weighted squared errors; infinite where the grid is not of finite numbers.
    #[inline(always)]
    pub(super) fn errors<S: Simd>(&self, s: S, grids: Grids<S>) -> S::F {
        let inverse = grids.inverse(s);
        let mut terms = [s.splat(0.0); LANES];
        for (values, weights) in self.sixteens() {
            for i in 0..LANES {
                let value = load(s, &values[i]);
                let quant = self.quant(s, grids, inverse, value);
                let error = s.sub(s.mul_add(grids.step, quant, grids.minimum), value);
                terms[i] = s.mul_add(s.mul(load(s, &weights[i]), error), error, terms[i]);
            }
        }
        let (sum, infinite) = (fold(s, terms), s.splat(f32::INFINITY));
        s.select_less(sum, infinite, sum, infinite)
    }

    /// Values and weights, sixteen of each group at a time.
    #[inline(always)]
    fn sixteens(&self) -> impl Iterator<Item = (&[Row; LANES], &[Row; LANES])> {
        self.values.as_chunks().0.iter().zip(self.weights.as_chunks().0)
    }

    /// The nearest quants of values, ties to even.
    #[inline(always)]
    fn quant<S: Simd>(&self, s: S, grids: Grids<S>, inverse: S::F, value: S::F) -> S::F {
        let quant = s.mul(s.sub(value, grids.minimum), inverse);
        s.to_f32(s.round(s.min(s.max(quant, s.splat(0.0)), s.splat(self.most))))
    }
}

/// Sums over terms, halves folded onto each other.
#[inline(always)]
fn fold<S: Simd>(s: S, mut terms: [S::F; LANES]) -> S::F {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            terms[i] = s.add(terms[i], terms[i + half]);
        }
    }
    terms[0]
}
