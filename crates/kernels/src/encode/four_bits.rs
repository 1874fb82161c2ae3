//! Q4_0 and Q4_1: sixteen steps per block of 32, where the choice of the step is most of the quality.
//!
//! ```text
//! best = ggml's grid
//! for each candidate grid:
//!   quants = nearest steps; grid = least squares fit of the values to the quants        (twice with a minimum)
//!   best = grid in f16, if its squared error is less
//! ```
//!
//! Candidates give way at the ends of the block: that clips the outermost values and serves all others better. On bell
//! curves a fifth of Q4_1's squared error goes; Q4_0, with one number to choose, loses a tenth, and no finer search
//! finds more. Errors are sums in the order of the block, so the choice is the same everywhere.

use half::f16;

use crate::matrix::BLOCK;

/// Shares of a block's range that Q4_1's candidates give up at the low and at the high end.
const GIVEN_UP: [[f32; 2]; 9] = [
    [0.0, 0.0],
    [-0.02, -0.02],
    [0.03, 0.03],
    [0.0, 0.05],
    [0.05, 0.0],
    [0.0, 0.1],
    [0.1, 0.0],
    [0.0, 0.16],
    [0.16, 0.0],
];
/// Steps of Q4_0's candidates from zero to the largest magnitude; ggml takes 8.
const REACHES: [f32; 9] = [8.0, 8.3, 8.6, 9.0, 9.5, 10.0, 7.7, 7.4, 7.0];

/// Values that a block can take: `step * q + minimum`, q in 0..=15.
#[derive(Clone, Copy)]
struct Grid {
    step: f32,
    minimum: f32,
}

impl Grid {
    /// The nearest quants. A step of zero has them all at the minimum.
    fn quants(self, block: &[f32; BLOCK]) -> [f32; BLOCK] {
        let inverse = if self.step == 0.0 { 0.0 } else { 1.0 / self.step };
        // Adding a half and cutting off rounds what is not negative.
        block.map(|value| (((value - self.minimum) * inverse + 0.5).clamp(0.0, 15.0) as i32) as f32)
    }

    fn error(self, block: &[f32; BLOCK], quants: &[f32; BLOCK]) -> f32 {
        let pairs = block.iter().zip(quants);
        pairs.fold(0.0, |sum, (value, quant)| {
            let error = self.step * quant + self.minimum - value;
            sum + error * error
        })
    }
}

/// A choice of scales and quants for a block, and its squared error.
struct Choice {
    scales: [f16; 2],
    quants: [f32; BLOCK],
    error: f32,
}

impl Choice {
    /// A grid as two f16 hold it; none where they cannot.
    fn of(block: &[f32; BLOCK], scales: [f16; 2], grid: Grid) -> Option<Self> {
        let finite = grid.step.is_finite() && grid.minimum.is_finite();
        let quants = grid.quants(block);
        let error = grid.error(block, &quants);
        (finite && error.is_finite()).then_some(Self { scales, quants, error })
    }

    /// Appends the scales, then the nibbles: input i in the low one of byte i, input i + 16 in the high one.
    fn append(&self, scales: usize, to: &mut Vec<u8>) {
        self.scales[..scales]
            .iter()
            .for_each(|scale| to.extend(scale.to_le_bytes()));
        let (low, high) = self.quants.split_at(BLOCK / 2);
        to.extend(low.iter().zip(high).map(|(low, high)| *low as u8 | (*high as u8) << 4));
    }
}

/// The better of two choices, the first where they are equal.
fn better(first: Option<Choice>, second: Option<Choice>) -> Option<Choice> {
    match (first, second) {
        (Some(first), Some(second)) if second.error < first.error => Some(second),
        (Some(first), _) => Some(first),
        (None, second) => second,
    }
}

/// Appends a Q4_1 block. False where its scales are beyond f16.
pub(super) fn encode_with_minimum(block: &[f32; BLOCK], to: &mut Vec<u8>) -> bool {
    let in_halves = |grid: Grid| {
        let scales = [f16::from_f32(grid.step), f16::from_f32(grid.minimum)];
        let [step, minimum] = scales.map(f16::to_f32);
        Choice::of(block, scales, Grid { step, minimum })
    };
    let (low, high) = ends(block);
    let range = high - low;
    let mut best = in_halves(Grid {
        step: range / 15.0,
        minimum: low,
    });
    for [at_low, at_high] in GIVEN_UP {
        let mut grid = Grid {
            step: range * (1.0 - at_low - at_high) / 15.0,
            minimum: low + at_low * range,
        };
        for _ in 0..2 {
            let Some(fitted) = fit(block, &grid.quants(block)) else {
                break;
            };
            grid = fitted;
            best = better(best, in_halves(grid));
        }
    }
    best.inspect(|best| best.append(2, to)).is_some()
}

/// Appends a Q4_0 block: quants less 8, so that the step's sign says which end has the ninth value. False where its scale
/// is beyond f16.
pub(super) fn encode_centred(block: &[f32; BLOCK], to: &mut Vec<u8>) -> bool {
    let in_half = |step: f32| {
        let scale = f16::from_f32(step);
        let step = scale.to_f32();
        let grid = Grid {
            step,
            minimum: -8.0 * step,
        };
        Choice::of(block, [scale, f16::ZERO], grid)
    };
    let largest = block.iter().fold(
        0f32,
        |largest, value| {
            if value.abs() > largest.abs() { *value } else { largest }
        },
    );
    let mut best = in_half(largest / -8.0);
    for reach in REACHES.into_iter().flat_map(|reach| [reach, -reach]) {
        let step = largest / reach;
        let grid = Grid {
            step,
            minimum: -8.0 * step,
        };
        best = better(best, fit_centred(block, &grid.quants(block)).and_then(in_half));
    }
    best.inspect(|best| best.append(1, to)).is_some()
}

/// Smallest and largest value.
fn ends(block: &[f32; BLOCK]) -> (f32, f32) {
    block.iter().fold((block[0], block[0]), |(low, high), value| {
        (low.min(*value), high.max(*value))
    })
}

/// The grid that fits values at their quants best, by least squares; none where all quants are equal.
fn fit(block: &[f32; BLOCK], quants: &[f32; BLOCK]) -> Option<Grid> {
    let (mut q, mut qq, mut x, mut qx) = (0.0, 0.0, 0.0, 0.0);
    for (value, quant) in block.iter().zip(quants) {
        q += quant;
        qq += quant * quant;
        x += value;
        qx += quant * value;
    }
    let count = BLOCK as f32;
    let spread = count * qq - q * q;
    (spread > 0.0).then(|| {
        let step = (count * qx - q * x) / spread;
        Grid {
            step,
            minimum: (x - step * q) / count,
        }
    })
}

/// The step that fits values at their quants less 8 best; none where all are zero.
fn fit_centred(block: &[f32; BLOCK], quants: &[f32; BLOCK]) -> Option<f32> {
    let (mut qq, mut qx) = (0.0, 0.0);
    for (value, quant) in block.iter().zip(quants) {
        let quant = quant - 8.0;
        qq += quant * quant;
        qx += quant * value;
    }
    (qq > 0.0).then(|| qx / qq)
}
