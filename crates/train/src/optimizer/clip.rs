//! Clipping by the norm of all gradients together, as torch.nn.utils.clip_grad_norm_ does. The sum is in f64 and its order is
//! fixed, so that a run repeats bit for bit.

/// Independent sums, so that the loop is as wide as the registers.
const LANES: usize = 8;

/// The 2-norm of all gradients as one vector. NaN or infinite when one of their values is.
pub fn gradient_norm<'a>(gradients: impl IntoIterator<Item = &'a [f32]>) -> f64 {
    gradients.into_iter().map(sum_of_squares).sum::<f64>().sqrt()
}

fn sum_of_squares(values: &[f32]) -> f64 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut sums = [0f64; LANES];
    for chunk in chunks {
        for (sum, &value) in sums.iter_mut().zip(chunk) {
            *sum += f64::from(value) * f64::from(value);
        }
    }
    let rest: f64 = rest.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
    sums.iter().sum::<f64>() + rest
}

/// What gradients of this norm are multiplied with so that it becomes at most `max_norm`; 1 where it is already.
///
/// A norm that is not a finite number makes no sense here: the caller has stopped or skipped the step.
pub fn clip_scale(norm: f64, max_norm: f64) -> f32 {
    // torch adds this too; without it a norm of 0 would divide by 0.
    (max_norm / (norm + 1e-6)).min(1.0) as f32
}

/// Scales all gradients so that their norm is at most `max_norm`, and returns the norm that they had.
pub fn clip(gradients: &mut [&mut [f32]], max_norm: f64) -> f64 {
    let norm = gradient_norm(gradients.iter().map(|gradient| &**gradient));
    let scale = clip_scale(norm, max_norm);
    if scale < 1.0 {
        for value in gradients.iter_mut().flat_map(|gradient| gradient.iter_mut()) {
            *value *= scale;
        }
    }
    norm
}
