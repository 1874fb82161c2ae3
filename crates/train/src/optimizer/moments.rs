//! The two running averages of a parameter, in f32 or in 8-bit blocks, and the update that they give.

use std::str::FromStr;

use super::blockwise::{BLOCK, SIGNED, UNSIGNED};
use crate::TrainError;

/// Tensors below this many values keep f32: blocks of them save nothing, and they are often the sensitive ones.
const SMALLEST_IN_BLOCKS: usize = 4096;

/// What moments are kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MomentType {
    /// 8 bytes a parameter.
    #[default]
    F32,
    /// A little over 2 bytes a parameter, as bitsandbytes' AdamW8bit; f32 for tensors of fewer than 4096 values.
    Blockwise8,
}

impl MomentType {
    /// Whether a tensor of so many values is kept in 8-bit blocks.
    fn in_blocks(self, elements: usize) -> bool {
        self == Self::Blockwise8 && elements >= SMALLEST_IN_BLOCKS
    }

    /// Bytes of both moments of a tensor of so many values.
    pub fn bytes(self, elements: usize) -> usize {
        match self.in_blocks(elements) {
            true => 2 * (elements + 4 * elements.div_ceil(BLOCK)),
            false => 2 * 4 * elements,
        }
    }
}

/// By the names of Hugging Face's `optim`.
impl FromStr for MomentType {
    type Err = TrainError;

    fn from_str(text: &str) -> Result<Self, TrainError> {
        match text {
            "adamw" | "adamw_torch" | "adamw_torch_fused" | "adamw_hf" => Ok(Self::F32),
            "adamw_8bit" | "adamw_bnb_8bit" => Ok(Self::Blockwise8),
            _ => Err(TrainError::setting(
                "optim",
                format!("expected adamw_torch or adamw_8bit, got {text:?}"),
            )),
        }
    }
}

/// Averages of a parameter's gradient and of its square.
#[derive(Debug, Clone)]
pub(super) enum Moments {
    F32 { first: Vec<f32>, second: Vec<f32> },
    Blockwise8 { first: Blocks, second: Blocks },
}

/// Values in 8-bit blocks.
#[derive(Debug, Clone)]
pub(super) struct Blocks {
    /// One per value.
    pub(super) codes: Vec<u8>,
    /// One per block.
    pub(super) scales: Vec<f32>,
}

/// Numbers that are the same for all values of a parameter in a step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Coefficients {
    /// Gradients are multiplied with it first.
    pub(super) gradient_scale: f32,
    /// Values are multiplied with it: 1 - rate * decay.
    pub(super) keep: f32,
    /// 1 - beta1.
    pub(super) into_first: f32,
    pub(super) beta2: f32,
    /// 1 - beta2.
    pub(super) into_second: f32,
    /// Root of 1 - beta2^step.
    pub(super) second_bias: f32,
    pub(super) eps: f32,
    /// rate / (1 - beta1^step).
    pub(super) rate: f32,
}

impl Moments {
    /// Of a parameter that has had no step.
    pub(super) fn new(kind: MomentType, elements: usize) -> Self {
        if !kind.in_blocks(elements) {
            return Self::F32 {
                first: vec![0.0; elements],
                second: vec![0.0; elements],
            };
        }
        let blocks = || Blocks {
            codes: vec![0; elements],
            scales: vec![0.0; elements.div_ceil(BLOCK)],
        };
        Self::Blockwise8 {
            first: blocks(),
            second: blocks(),
        }
    }

    /// One step; all slices are as long as the moments.
    pub(super) fn update(&mut self, values: &mut [f32], gradient: &[f32], by: &Coefficients) {
        match self {
            Self::F32 { first, second } => update(values, gradient, first, second, by),
            Self::Blockwise8 { first, second } => {
                let blocks = values.chunks_mut(BLOCK).zip(gradient.chunks(BLOCK));
                let first = first.codes.chunks_mut(BLOCK).zip(&mut first.scales);
                let second = second.codes.chunks_mut(BLOCK).zip(&mut second.scales);
                for (((values, gradient), first), second) in blocks.zip(first).zip(second) {
                    update_block(values, gradient, first, second, by);
                }
            }
        }
    }
}

type Block<'a> = (&'a mut [u8], &'a mut f32);

/// Decodes a block's moments, steps, and encodes them again.
fn update_block(values: &mut [f32], gradient: &[f32], first: Block<'_>, second: Block<'_>, by: &Coefficients) {
    let mut moments = [[0f32; BLOCK]; 2];
    let [averages, squares] = moments.each_mut().map(|moment| &mut moment[..gradient.len()]);
    SIGNED.decode(first.0, *first.1, averages);
    UNSIGNED.decode(second.0, *second.1, squares);
    update(values, gradient, averages, squares, by);
    *first.1 = SIGNED.encode(averages, first.0);
    *second.1 = UNSIGNED.encode(squares, second.0);
}

/// Loshchilov and Hutter's AdamW (arXiv 1711.05101) in the order of torch.optim.AdamW: decay, averages, then
/// `value -= rate * first / (sqrt(second) / bias + eps)`.
fn update(values: &mut [f32], gradient: &[f32], first: &mut [f32], second: &mut [f32], by: &Coefficients) {
    let moments = first.iter_mut().zip(second);
    for ((value, &gradient), (first, second)) in values.iter_mut().zip(gradient).zip(moments) {
        let gradient = gradient * by.gradient_scale;
        *first += by.into_first * (gradient - *first);
        *second = by.beta2 * *second + by.into_second * gradient * gradient;
        let denominator = second.sqrt() / by.second_bias + by.eps;
        *value = *value * by.keep - by.rate * *first / denominator;
    }
}
