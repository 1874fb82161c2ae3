//! Cross entropy of rows of logits, and its gradient, without a graph: both come from the same powers.

use candle_core::{D, DType, Result, Tensor};

/// `-log softmax(logits)[target]` of every row, and the gradient of their sum times `weight`, f32, where there is one.
///
/// Logits are `[rows, vocabulary]`, targets `[rows]`.
pub fn cross_entropy(logits: &Tensor, targets: &Tensor, weight: Option<f32>) -> Result<(Vec<f32>, Option<Tensor>)> {
    let logits = logits.detach().to_dtype(DType::F32)?;
    let targets = targets.unsqueeze(1)?;
    let largest = logits.max_keepdim(D::Minus1)?;
    let powers = logits.broadcast_sub(&largest)?.exp()?;
    let sums = powers.sum_keepdim(D::Minus1)?;
    let losses = ((sums.log()? + largest)? - logits.gather(&targets, 1)?)?;
    let losses = losses.flatten_all()?.to_vec1()?;
    let Some(weight) = weight else {
        return Ok((losses, None));
    };
    let right = Tensor::full(-weight, targets.shape(), logits.device())?;
    let shares = (powers.broadcast_div(&sums)? * f64::from(weight))?;
    Ok((losses, Some(shares.scatter_add(&targets, &right, 1)?)))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn the_gradient_is_the_share_less_one_at_the_target() {
        let logits = Tensor::new(&[[0.0f32, 2f32.ln(), 0.0], [1000.0, 0.0, 0.0]], &Device::Cpu).unwrap();
        let targets = Tensor::new(&[1u32, 0], &Device::Cpu).unwrap();
        let (losses, gradient) = cross_entropy(&logits, &targets, Some(2.0)).unwrap();
        assert!((losses[0] - 2f32.ln()).abs() < 1e-6 && losses[1] == 0.0, "{losses:?}");
        let gradient: Vec<f32> = gradient.unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let expected = [0.5, -1.0, 0.5, 0.0, 0.0, 0.0];
        let close = |(got, expected): (&f32, f32)| (got - expected).abs() < 1e-6;
        assert!(gradient.iter().zip(expected).all(close), "{gradient:?}");
    }
}
