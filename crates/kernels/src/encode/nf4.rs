//! NF4 with double quantization: QLoRA's 4 bits (Dettmers et al. 2023, arXiv 2305.14314).
//!
//! ```text
//! first level:   64 weights share their largest magnitude; a weight is the nearest of sixteen fractions of it
//! second level:  256 of those magnitudes, less the mean of all, share their largest in turn; each is the nearest of the 256
//!                fractions of the dynamic map
//! ```
//!
//! Blocks run through the rows of a matrix as if it were one. Rules and bits are those of bitsandbytes (`nf4`,
//! `compress_statistics`) but for the mean: here it is the nearest f32, there a sum in f32 in the order of the device.

use super::dynamic_map;
use crate::isa::{Isa, Kernel};
use crate::matrix::ShapeError;
use crate::simd::Simd;

/// Weights that share a magnitude.
pub(crate) const BLOCK: usize = 64;
/// Magnitudes that share a scale.
pub(crate) const MAGNITUDES: usize = 256;

/// What the sixteen codes mean: quantiles of a normal distribution that ends at -1 and 1, with an exact zero (appendix E of the
/// paper).
pub(crate) const FRACTIONS: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Halfway between neighbours: what is above the bound of a code takes the next one.
const BOUNDS: [f32; 15] = {
    let (mut bounds, mut code) = ([0.0; 15], 0);
    while code < 15 {
        bounds[code] = (FRACTIONS[code] + FRACTIONS[code + 1]) / 2.0;
        code += 1;
    }
    bounds
};

/// Least divisor, as in bitsandbytes: a block of zeros has none of its own.
const LEAST: f32 = 1e-38;

/// Consecutive weights after the first level.
#[derive(Default)]
pub struct Nf4Weights {
    /// One to a byte.
    pub(crate) codes: Vec<[u8; BLOCK]>,
    /// Largest magnitude of each block.
    pub(crate) magnitudes: Vec<f32>,
}

/// Appends weights, rounded to the first level, to `to`.
///
/// # Errors
/// Weights that are not whole blocks of 64, or not finite; then `to` is as it was.
pub fn encode_nf4(weights: &[f32], to: &mut Nf4Weights) -> Result<(), ShapeError> {
    let (blocks, []) = weights.as_chunks::<BLOCK>() else {
        let len = weights.len();
        return Err(ShapeError(format!("NF4 takes weights in blocks of {BLOCK}, got {len}")));
    };
    if let Some(at) = weights.iter().position(|weight| !weight.is_finite()) {
        return Err(ShapeError(format!(
            "weight {at} is {}, not a finite number",
            weights[at]
        )));
    }
    Isa::available()[0].run(Encode { blocks, to });
    Ok(())
}

/// The first level.
struct Encode<'a> {
    blocks: &'a [[f32; BLOCK]],
    to: &'a mut Nf4Weights,
}

impl Kernel for Encode<'_> {
    type Output = ();

    /// Plain loops: the compiler makes vectors of them.
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for block in self.blocks {
            let largest = block.iter().fold(0f32, |largest, weight| largest.max(weight.abs()));
            let inverse = 1.0 / largest.max(LEAST);
            let (mut fractions, mut counts) = (*block, [0u32; BLOCK]);
            for fraction in &mut fractions {
                *fraction *= inverse;
            }
            for bound in BOUNDS {
                for (count, fraction) in counts.iter_mut().zip(&fractions) {
                    *count += u32::from(*fraction > bound);
                }
            }
            self.to.codes.push(counts.map(|count| count as u8));
            self.to.magnitudes.push(largest);
        }
    }
}

/// Magnitudes after the second level: each is `map[code] * scale + mean`, the scale that of its 256.
pub(crate) struct Magnitudes {
    pub codes: Vec<u8>,
    pub scales: Vec<f32>,
    pub mean: f32,
}

impl Magnitudes {
    /// Rounds the magnitudes of a matrix.
    pub(crate) fn new(magnitudes: &[f32]) -> Self {
        let sum: f64 = magnitudes.iter().map(|&magnitude| f64::from(magnitude)).sum();
        let mean = (sum / magnitudes.len() as f64) as f32;
        let map = dynamic_map(true);
        let bounds: Vec<f32> = map.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0).collect();
        let (mut codes, mut scales) = (Vec::with_capacity(magnitudes.len()), Vec::new());
        for block in magnitudes.chunks(MAGNITUDES) {
            let scale = block.iter().fold(0f32, |largest, m| largest.max((m - mean).abs()));
            let inverse = 1.0 / scale.max(LEAST);
            let code = |m: &f32| bounds.partition_point(|bound| *bound < (m - mean) * inverse) as u8;
            codes.extend(block.iter().map(code));
            scales.push(scale);
        }
        Self { codes, scales, mean }
    }
}
