//! 8-bit moments: blocks of 256 values, each block with its largest magnitude, each value a code of a dynamic map.
//!
//! The maps are those of [`dynamic_map`]; here they are looked up in, fast.

use std::sync::LazyLock;

use rootstock_kernels::dynamic_map;

/// Values that share a scale.
pub(super) const BLOCK: usize = 256;

/// For first moments.
pub(super) static SIGNED: LazyLock<DynamicMap> = LazyLock::new(|| DynamicMap::new(true));

/// For second moments, which have no sign: the codes it would take double the resolution.
pub(super) static UNSIGNED: LazyLock<DynamicMap> = LazyLock::new(|| DynamicMap::new(false));

/// What the 256 codes mean, ascending, from -1 or 0 to 1.
pub(super) struct DynamicMap {
    pub(super) values: [f32; 256],
    /// `bounds[code]` is the last value that is rounded to `code`; halfway to the next one. The last has none.
    bounds: [f32; 256],
    /// Where to begin, by the sign, exponent and first seven bits of mantissa of a value: the code of the lowest value that has
    /// those. No two bounds share them, so the code is that one or the next.
    starts: Box<[u8; 2 * HALF]>,
}

/// Entries for a sign: 32 octaves of 128, and 1 itself, rounded up to a power of two.
const HALF: usize = 8192;

/// The row of 2^-32. What is smaller begins there too: the lowest bound is above.
const LOWEST: u32 = (127 - 32) << 7;

impl DynamicMap {
    fn new(signed: bool) -> Self {
        let values = dynamic_map(signed);
        let mut bounds = [f32::INFINITY; 256];
        for (bound, pair) in bounds.iter_mut().zip(values.windows(2)) {
            *bound = (pair[0] + pair[1]) / 2.0;
        }
        let starts = starts(&bounds);
        Self { values, bounds, starts }
    }

    /// The code whose value is nearest to `x`, which is from -1 to 1.
    fn code(&self, x: f32) -> u8 {
        // The mask keeps a NaN, which has no nearest code, inside the table.
        let start = self.starts[entry(x) & (2 * HALF - 1)];
        start + u8::from(self.bounds[usize::from(start)] < x)
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

/// Where a value's start stands.
fn entry(x: f32) -> usize {
    let bits = x.to_bits();
    let row = ((bits & 0x7fff_ffff) >> 16).max(LOWEST) - LOWEST;
    row as usize + if x.is_sign_negative() { HALF } else { 0 }
}

fn starts(bounds: &[f32; 256]) -> Box<[u8; 2 * HALF]> {
    let mut starts = Box::new([0; 2 * HALF]);
    let below = |x: f32| bounds.partition_point(|&bound| bound < x) as u8;
    for row in 0..=32 << 7 {
        let bits = (row + LOWEST) << 16;
        starts[row as usize] = below(if row == 0 { 0.0 } else { f32::from_bits(bits) });
        // Of negative ones the lowest has the largest magnitude.
        starts[row as usize + HALF] = below(-f32::from_bits(bits | 0xffff));
    }
    starts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_gets_the_nearest_code() {
        let lines = (-20_000..=20_000).map(|step| step as f32 / 20_000.0);
        let octaves = (0..40_000).map(|step| (-(step as f32) / 1000.0).exp2());
        let edges = [0.0, -0.0, 1.0, -1.0, f32::MIN_POSITIVE, 1e-40];
        let both = octaves.flat_map(|x| [x, -x]);
        let all: Vec<f32> = lines.chain(both).chain(edges).collect();
        for map in [&*SIGNED, &*UNSIGNED] {
            let bounds = map
                .bounds
                .iter()
                .flat_map(|&bound| [bound.next_down(), bound, bound.next_up()]);
            for x in all.iter().copied().chain(bounds.filter(|bound| bound.abs() <= 1.0)) {
                let expected = map.bounds.partition_point(|&bound| bound < x);
                assert_eq!(usize::from(map.code(x)), expected, "{x}");
                let distance = |code: usize| (map.values[code] - x).abs();
                let nearest = (0..256).map(distance).fold(f32::MAX, f32::min);
                assert!(distance(expected) <= nearest + 1e-7, "{x}");
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
    fn a_value_that_is_no_number_changes_none_beside_it() {
        let mut values = [0.5, -0.25, 0.125, 1.5];
        let (mut codes, mut beside) = ([0; 4], [0; 4]);
        let scale = SIGNED.encode(&values, &mut codes);
        values[2] = f32::NAN;
        assert_eq!(SIGNED.encode(&values, &mut beside), scale);
        assert_eq!((codes[..2].to_vec(), codes[3]), (beside[..2].to_vec(), beside[3]));
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
