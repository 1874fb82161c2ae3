//! Maximum and sum of exponentials over a row of logits. Elementary operations in one fixed order and no libm in the
//! loops: results are equal on every machine, and the compiler can use vector instructions.

const LANES: usize = 16;
/// Rows of lanes that are summed in f32 before the sum moves to f64.
const FLUSH: usize = 64 * LANES;

/// Largest value of a row; negative infinity if there is none. NaN counts as absent.
pub(super) fn max(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = row.chunks_exact(LANES);
    let tail = chunks.remainder();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = if value > *lane { value } else { *lane };
        }
    }
    let larger = |best: f32, &value: &f32| if value > best { value } else { best };
    let best = lanes.iter().fold(f32::NEG_INFINITY, larger);
    tail.iter().fold(best, larger)
}

/// Place of the first of the largest values of a row, and that value; `None` if there is none, or it is infinite. NaN
/// counts as absent. One pass over the row and a second over the part that held it.
pub(super) fn first_max(row: &[f32]) -> Option<(usize, f32)> {
    let (mut best, mut place) = (f32::NEG_INFINITY, None);
    for (index, part) in row.chunks(FLUSH).enumerate() {
        let largest = max(part);
        if largest > best {
            (best, place) = (largest, Some(index * FLUSH));
        }
    }
    let start = place.filter(|_| best.is_finite())?;
    let within = row[start..].iter().position(|&value| value == best)?;
    Some((start + within, best))
}

/// Sum of `exp(value - max)`.
pub(super) fn sum_exp(row: &[f32], max: f32) -> f64 {
    let mut total = 0.0;
    for part in row.chunks(FLUSH) {
        let mut lanes = [0.0f32; LANES];
        let chunks = part.chunks_exact(LANES);
        let tail = chunks.remainder();
        for chunk in chunks {
            for (lane, &value) in lanes.iter_mut().zip(chunk) {
                *lane += exp(value - max);
            }
        }
        total += lanes
            .iter()
            .chain(&tail_exp(tail, max))
            .map(|&lane| f64::from(lane))
            .sum::<f64>();
    }
    total
}

fn tail_exp(tail: &[f32], max: f32) -> [f32; LANES] {
    let mut values = [0.0; LANES];
    for (out, &value) in values.iter_mut().zip(tail) {
        *out = exp(value - max);
    }
    values
}

/// Writes `exp((value - max) * factor)` for every value.
pub(super) fn weights(row: &[f32], max: f32, factor: f32, out: &mut Vec<f32>) {
    out.clear();
    out.extend(row.iter().map(|&value| exp((value - max) * factor)));
}

/// `e^x` for x <= 0, relative error below 2e-7; 0 below -87. Cephes' expf: split off the power of two, then a polynomial.
fn exp(x: f32) -> f32 {
    /// Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let power = shifted - ROUND;
    let r = (x - power * LN_2_HIGH) - power * LN_2_LOW;
    let mut poly = 1.987_569_2e-4;
    poly = poly * r + 1.398_2e-3;
    poly = poly * r + 8.333_452e-3;
    poly = poly * r + 4.166_579_6e-2;
    poly = poly * r + 1.666_666_5e-1;
    poly = poly * r + 0.5;
    let value = poly * r * r + r + 1.0;
    let scale = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x < -87.0 { 0.0 } else { value * scale }
}

#[cfg(test)]
mod tests {
    use super::{FLUSH, exp, first_max, max, sum_exp};

    #[test]
    fn exp_is_close_to_the_real_one_over_its_whole_range() {
        for step in 0..=870_000 {
            let x = -(step as f32) / 10_000.0;
            let expected = f64::from(x).exp();
            let error = (f64::from(exp(x)) - expected).abs() / expected;
            assert!(error < 2e-7, "exp({x}): relative error {error}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-88.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
    }

    #[test]
    fn sums_and_maxima_cover_tails_of_every_length() {
        for length in 1..100 {
            let row: Vec<f32> = (0..length).map(|i| ((i * 37) % 101) as f32 / 10.0).collect();
            let expected_max = row.iter().copied().fold(f32::MIN, f32::max);
            assert_eq!(max(&row), expected_max);
            let expected: f64 = row.iter().map(|&v| f64::from(v - expected_max).exp()).sum();
            assert!((sum_exp(&row, expected_max) - expected).abs() < 1e-6 * expected);
        }
        assert_eq!(max(&[f32::NAN, f32::NAN]), f32::NEG_INFINITY);
    }

    #[test]
    fn the_first_of_the_largest_is_found_wherever_it_lies() {
        let length = 2 * FLUSH + 37;
        for place in [0, 1, 17, FLUSH - 1, FLUSH, 2 * FLUSH - 3, 2 * FLUSH, length - 2] {
            let mut row = vec![-1.0; length];
            (row[place], row[length - 1], row[length / 3]) = (4.0, 4.0, f32::NAN);
            assert_eq!(first_max(&row), Some((place, 4.0)));
        }
        for none in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(first_max(&[none; 40]), None);
        }
        assert_eq!(first_max(&[]), None);
    }
}
