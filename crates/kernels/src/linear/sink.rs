//! Where the products of a map go: through the row's column factors and the map's bias to the output row.

use crate::disjoint::Disjoint;
use crate::lora::ColumnFactors;
use crate::matrix::COLUMNS;
use crate::simd::Simd;

/// Factors on products before they leave.
#[derive(Clone, Copy)]
pub(super) enum Factors<'a> {
    /// One for all.
    All(f32),
    /// Those of each row, where it has any; sorted by rows.
    Rows(&'a [ColumnFactors]),
}

/// Where products go: columns from `column` on of rows of `stride` elements.
#[derive(Clone, Copy)]
pub(super) struct Sink<'a> {
    pub out: &'a Disjoint<'a, f32>,
    pub stride: usize,
    pub column: usize,
    /// Outputs of the map; products beyond them are padding.
    pub outputs: usize,
    /// Add to what is there.
    pub add: bool,
    pub factors: Factors<'a>,
    /// One value per output.
    pub bias: Option<&'a [f32]>,
}

impl Sink<'_> {
    /// Nothing happens to products on their way.
    #[inline(always)]
    fn is_plain(&self) -> bool {
        self.bias.is_none() && matches!(self.factors, Factors::Rows([]))
    }

    /// Takes the products of outputs `output .. output + 16` of one row.
    #[inline(always)]
    pub(super) fn put<S: Simd>(&self, s: S, row: usize, output: usize, value: S::F) {
        let count = self.outputs.saturating_sub(output).min(COLUMNS);
        if count == 0 {
            return;
        }
        let first = row * self.stride + self.column + output;
        // SAFETY: the columns of a pair belong to one thread, and it writes one vector at a time.
        let out = unsafe { self.out.part(first..first + count) };
        if count == COLUMNS && self.is_plain() {
            // SAFETY: `out` has 16 elements.
            unsafe {
                let value = if self.add {
                    s.add(s.load(out.as_ptr()), value)
                } else {
                    value
                };
                s.store(out.as_mut_ptr(), value);
            }
        } else {
            let mut values = [0.0; COLUMNS];
            // SAFETY: the array has 16 elements.
            unsafe { s.store(values.as_mut_ptr(), value) };
            self.put_slowly(row, output, out, &mut values);
        }
    }

    /// As [`Self::put`] for consecutive rows.
    #[inline(always)]
    pub(super) fn put_rows<S: Simd>(&self, s: S, row: usize, output: usize, sums: &[[f32; COLUMNS]]) {
        if sums.is_empty() || !self.is_plain() || output + COLUMNS > self.outputs {
            for (r, sums) in sums.iter().enumerate() {
                // SAFETY: the array has 16 elements.
                self.put(s, row + r, output, unsafe { s.load(sums.as_ptr()) });
            }
            return;
        }
        let first = row * self.stride + self.column + output;
        // SAFETY: the columns of these rows belong to one thread, within the output as asserted.
        let out = unsafe { self.out.start_of(first, (sums.len() - 1) * self.stride + COLUMNS) };
        for (r, sums) in sums.iter().enumerate() {
            // SAFETY: the array has 16 elements, and so has the row's output.
            unsafe {
                let (to, sums) = (out.add(r * self.stride), s.load(sums.as_ptr()));
                let value = if self.add { s.add(s.load(to), sums) } else { sums };
                s.store(to, value);
            }
        }
    }

    /// As `put`, an element at a time, with the factors and the bias. Not inlined: a tile has a dozen vectors to put, and
    /// one rounding per operation gives the same bits in any instruction set.
    #[inline(never)]
    fn put_slowly(&self, row: usize, output: usize, out: &mut [f32], values: &mut [f32; COLUMNS]) {
        match self.factors {
            Factors::All(factor) => values.iter_mut().for_each(|value| *value *= factor),
            Factors::Rows(factors) => {
                let at = factors.partition_point(|factors| factors.rows.end <= row);
                if let Some(of_row) = factors.get(at).filter(|factors| factors.rows.contains(&row)) {
                    for (value, factor) in values.iter_mut().zip(&of_row.factors[output..]) {
                        *value *= factor;
                    }
                }
            }
        }
        if let Some(bias) = self.bias {
            for (value, bias) in values.iter_mut().zip(&bias[output..]) {
                *value += bias;
            }
        }
        for (out, value) in out.iter_mut().zip(values) {
            *out = if self.add { *out + *value } else { *value };
        }
    }
}
