//! Steps whose gradients pass through float16: losses are scaled, gradients scaled back, and steps that overflow are skipped.

use super::{Observer, Trainer};
use crate::records::Warning;

impl Trainer<'_> {
    /// Factor on the losses of a step.
    pub(super) fn loss_factor(&self) -> f32 {
        self.loss_scale.map_or(1.0, |scale| scale.factor())
    }

    /// Takes the factor out of the gradients. False where it was too large for them, and the step is to be skipped.
    pub(super) fn scale_back(&mut self, observer: &mut dyn Observer) -> bool {
        let Some(scale) = &mut self.loss_scale else { return true };
        let back = 1.0 / scale.factor();
        let gradients = self.attached.parameters.iter_mut();
        let mut gradients = gradients.flat_map(|parameter| &mut parameter.gradient);
        let finite = gradients.all(|gradient| {
            *gradient *= back;
            gradient.is_finite()
        });
        let Some(factors) = scale.observe(finite) else {
            return true;
        };
        observer.warning(&Warning::LossScaleHalved {
            step: self.step + 1,
            factors,
        });
        false
    }
}
