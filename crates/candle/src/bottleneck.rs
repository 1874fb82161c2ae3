//! Bottlenecks after a block. They are computed in f32, as by our own kernels: the residual stream, which some of them see, leaves
//! f16's range in some models, and the maps are small beside those of a layer.

use candle_core::{DType, Result, Tensor};
use rootstock_decoder::BottleneckTraining;

use crate::walk::{Walk, activated};

impl Walk<'_> {
    /// `x + scale * (up activation(down x + down_bias) + up_bias)`, f32, of rows `x`, `[rows, hidden]`.
    pub fn with_bottleneck(&mut self, x: &Tensor, training: &BottleneckTraining) -> Result<Tensor> {
        let x = x.to_dtype(DType::F32)?;
        let (down, up) = (self.leaves.get(training.down)?, self.leaves.get(training.up)?);
        let before = x.matmul(&down.t()?)?;
        let before = before.broadcast_add(&self.leaves.get(training.down_bias)?)?;
        let given = activated(training.activation, &before)?.matmul(&up.t()?)?;
        let given = given.broadcast_add(&self.leaves.get(training.up_bias)?)?;
        x + (given * f64::from(training.scale))?
    }
}
