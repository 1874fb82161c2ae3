//! A linear map whose weight has no gradient. Candle's own product computes the gradients of both sides, at the cost of a second
//! product and a copy of the weight.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp1, Layout, MetalStorage, Result, Shape, Storage, Tensor, bail};

/// `x W^T` for rows `x`, `[rows, inputs]`.
pub fn frozen_map(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(FrozenMap {
        weight: weight.clone(),
        turned: weight.t()?,
    })
}

struct FrozenMap {
    /// `[outputs, inputs]`
    weight: Tensor,
    /// The same storage as `[inputs, outputs]`.
    turned: Tensor,
}

impl FrozenMap {
    /// Sizes of the product as candle wants them, (batch, rows, outputs, inputs), and the shape of what comes of it.
    fn sizes(&self, x: &Layout) -> Result<((usize, usize, usize, usize), Shape)> {
        let ((rows, width), (inputs, outputs)) = (x.shape().dims2()?, self.turned.dims2()?);
        if width != inputs {
            bail!("frozen map: expected rows of {inputs} elements, got {width}");
        }
        Ok(((1, rows, outputs, inputs), (rows, outputs).into()))
    }
}

impl CustomOp1 for FrozenMap {
    fn name(&self) -> &'static str {
        "frozen-map"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (sizes, shape) = self.sizes(layout)?;
        let (weight, turned) = self.turned.storage_and_layout();
        match &*weight {
            Storage::Cpu(weight) => Ok((x.matmul(weight, sizes, layout, turned)?, shape)),
            _ => bail!("frozen map: the weight is not on the CPU"),
        }
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (sizes, shape) = self.sizes(layout)?;
        let (weight, turned) = self.turned.storage_and_layout();
        match &*weight {
            Storage::Cuda(weight) => Ok((x.matmul(weight, sizes, layout, turned)?, shape)),
            _ => bail!("frozen map: the weight is not on the GPU"),
        }
    }

    fn metal_fwd(&self, x: &MetalStorage, layout: &Layout) -> Result<(MetalStorage, Shape)> {
        let (sizes, shape) = self.sizes(layout)?;
        let (weight, turned) = self.turned.storage_and_layout();
        match &*weight {
            Storage::Metal(weight) => Ok((x.matmul(weight, sizes, layout, turned)?, shape)),
            _ => bail!("frozen map: the weight is not on the GPU"),
        }
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(gradient.contiguous()?.matmul(&self.weight)?))
    }
}
