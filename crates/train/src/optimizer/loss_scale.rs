//! A factor on losses whose gradients pass through float16: what would be lost below its smallest number is kept, and the factor
//! is taken out again in f32 (Micikevicius et al., 2018). Its numbers are those of torch's `GradScaler`.

use serde::{Deserialize, Serialize};

/// The factor of the first step.
const FIRST: f32 = 65_536.0;
/// Steps in a row with finite gradients after which it doubles.
const PATIENCE: u32 = 2_000;
/// It grows no further than this, where no gradient is too small any more.
const LARGEST: f32 = 4_294_967_296.0;
/// It shrinks no further than this: gradients that are not finite even so are not its doing.
const SMALLEST: f32 = 1.0;

/// A factor that finds its size: a power of two, so that taking it out again is exact.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LossScale {
    factor: f32,
    /// Steps in a row with finite gradients since it last changed.
    good_steps: u32,
}

impl Default for LossScale {
    fn default() -> Self {
        Self {
            factor: FIRST,
            good_steps: 0,
        }
    }
}

impl LossScale {
    /// What losses are multiplied by.
    pub fn factor(&self) -> f32 {
        self.factor
    }

    /// Takes whether the gradients of a step were finite. Where they were not, the factor halves: the old one and the new. `None`
    /// where it did not, also because it is too small to be at fault.
    pub fn observe(&mut self, finite: bool) -> Option<[f32; 2]> {
        let before = self.factor;
        if finite {
            self.good_steps += 1;
            if self.good_steps >= PATIENCE {
                self.good_steps = 0;
                self.factor = (before * 2.0).min(LARGEST);
            }
            return None;
        }
        self.good_steps = 0;
        if before <= SMALLEST {
            return None;
        }
        self.factor = before / 2.0;
        Some([before, self.factor])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_thousand_good_steps_in_a_row_double_it() {
        let mut scale = LossScale::default();
        (0..1_999).for_each(|_| assert_eq!(scale.observe(true), None));
        assert_eq!(scale.observe(false), Some([65_536.0, 32_768.0]));
        (0..1_999).for_each(|_| assert_eq!(scale.observe(true), None));
        assert_eq!(scale.factor(), 32_768.0);
        scale.observe(true);
        assert_eq!(scale.factor(), 65_536.0);
    }

    #[test]
    fn it_halves_down_to_one_and_is_not_to_blame_below() {
        let mut scale = LossScale::default();
        (0..16).for_each(|_| assert!(scale.observe(false).is_some()));
        assert_eq!((scale.factor(), scale.observe(false)), (1.0, None));
        assert_eq!(scale.factor(), 1.0);
    }

    #[test]
    fn it_grows_to_its_largest_and_stays_there() {
        let mut scale = LossScale::default();
        (0..PATIENCE * 20).for_each(|_| assert_eq!(scale.observe(true), None));
        assert_eq!(scale.factor(), LARGEST);
    }
}
