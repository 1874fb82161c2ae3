//! 8-bit moments: blocks of 256 values, each block with its largest magnitude, each value a code of a dynamic map.
//!
//! The maps are those of Dettmers et al. 2022 (arXiv 2110.02861), value for value the ones of bitsandbytes: seven decades from
//! 1 downwards, every decade with twice the codes of the one below, so that large values are fine and small ones still there.

use std::sync::LazyLock;

/// Values that share a scale.
pub(super) const BLOCK: usize = 256;

/// Decades between the largest and the smallest magnitude.
const DECADES: i32 = 7;

/// For first moments.
pub(super) static SIGNED: LazyLock<DynamicMap> = LazyLock::new(|| DynamicMap::new(true));

/// For second moments, which have no sign: the codes it would take double the resolution.
pub(super) static UNSIGNED: LazyLock<DynamicMap> = LazyLock::new(|| DynamicMap::new(false));

/// What the 256 codes mean, ascending, from -1 or 0 to 1.
pub(super) struct DynamicMap {
    pub(super) values: [f32; 256],
    /// `bounds[code]` is the last value that is rounded to `code`; halfway to the next one. The last has none.
    bounds: [f32; 256],
}

impl DynamicMap {
    fn new(signed: bool) -> Self {
        let mut all = vec![0.0, 1.0];
        for decade in 0..DECADES {
            let scale = 10f64.powi(decade + 1 - DECADES) as f32;
            let intervals = 1 << (decade + i32::from(!signed));
            for centre in centres(intervals) {
                all.push(scale * centre);
                if signed {
                    all.push(-(scale * centre));
                }
            }
        }
        all.sort_by(f32::total_cmp);
        let mut values = [0.0; 256];
        values.copy_from_slice(&all);
        let mut bounds = [f32::INFINITY; 256];
        for (bound, pair) in bounds.iter_mut().zip(values.windows(2)) {
            *bound = (pair[0] + pair[1]) / 2.0;
        }
        Self { values, bounds }
    }

    /// The code whose value is nearest to `x`, which is from -1 to 1.
    fn code(&self, x: f32) -> u8 {
        // Eight comparisons without a branch: the place of the first bound that is not below x.
        let mut code = 0;
        for half in [128, 64, 32, 16, 8, 4, 2, 1] {
            code += half * usize::from(self.bounds[(code + half - 1) & 255] < x);
        }
        code as u8
    }

    /// The block that `codes` and `scale` mean.
    pub(super) fn decode(&self, codes: &[u8], scale: f32, values: &mut [f32]) {
        for (value, &code) in values.iter_mut().zip(codes) {
            *value = self.values[usize::from(code)] * scale;
        }
    }

    /// Codes of a block; returns its scale.
    pub(super) fn encode(&self, values: &[f32], codes: &mut [u8]) -> f32 {
        let scale = values.iter().fold(0f32, |largest, value| largest.max(value.abs()));
        // A block of zeros has no scale to divide by; its codes are that of 0.
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        for (code, value) in codes.iter_mut().zip(values) {
            *code = self.code((value * inverse).clamp(-1.0, 1.0));
        }
        scale
    }
}

/// Centres of equal intervals from 0.1 to 1.
fn centres(intervals: i32) -> impl Iterator<Item = f32> {
    let width = 0.9f32 / intervals as f32;
    // From the nearer end and rounded once, as torch.linspace does it: the values are then the same bits.
    let edge = move |index: i32| match index * 2 < intervals + 1 {
        true => width.mul_add(index as f32, 0.1),
        false => (-width).mul_add((intervals - index) as f32, 1.0),
    };
    (0..intervals).map(move |index| (edge(index) + edge(index + 1)) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_gets_the_nearest_code() {
        for map in [&*SIGNED, &*UNSIGNED] {
            for step in -20_000..=20_000 {
                let x = step as f32 / 20_000.0;
                let distance = |value: f32| (value - x).abs();
                let nearest = map.values.iter().copied().map(distance).fold(f32::MAX, f32::min);
                let found = distance(map.values[usize::from(map.code(x))]);
                assert!(found <= nearest + 1e-7, "{x}: {found} is not {nearest}");
            }
        }
    }

    #[test]
    fn what_was_decoded_is_encoded_to_the_same_codes() {
        let codes: Vec<u8> = (0..=255).collect();
        for map in [&*SIGNED, &*UNSIGNED] {
            let (mut values, mut again) = ([0.0; BLOCK], [0; BLOCK]);
            map.decode(&codes, 0.37, &mut values);
            assert_eq!(map.encode(&values, &mut again), 0.37);
            assert_eq!(codes, again);
        }
    }

    #[test]
    fn a_block_of_zeros_stays_one() {
        for map in [&*SIGNED, &*UNSIGNED] {
            let (mut values, mut codes) = ([0.0; BLOCK], [9; BLOCK]);
            let scale = map.encode(&values, &mut codes);
            map.decode(&codes, scale, &mut values);
            assert_eq!((scale, values), (0.0, [0.0; BLOCK]));
        }
    }
}
