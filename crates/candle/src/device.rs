//! Which device computes, and in which numbers.

use std::fmt;

use candle_core::{DType, Device};
use rootstock_decoder::{DecoderError, Precision};

/// A device by its kind and number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The CPU, on candle's kernels.
    Cpu,
    /// An NVIDIA GPU.
    Cuda(usize),
    /// An Apple GPU.
    Metal(usize),
}

/// How steps are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Where.
    pub target: Target,
    /// Numbers that values between normalisations have, and frozen weights.
    pub precision: Precision,
    /// Keeps only what enters each layer, and computes the rest again on the way back (Chen et al., 2016).
    pub checkpointing: bool,
    /// Threads that put weights and masks into the form of the device; on the CPU candle takes all for its products.
    pub threads: usize,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("candle-cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
            Self::Metal(number) => write!(f, "metal:{number}"),
        }
    }
}

impl Target {
    /// Opens the device.
    ///
    /// # Errors
    /// A kind that this binary was built without, or a device that is not there.
    pub(crate) fn open(self) -> Result<Device, DecoderError> {
        let (opened, feature, built_in) = match self {
            Self::Cpu => return Ok(Device::Cpu),
            Self::Cuda(number) => (Device::new_cuda(number), "cuda", cfg!(feature = "cuda")),
            Self::Metal(number) => (Device::new_metal(number), "metal", cfg!(feature = "metal")),
        };
        opened.map_err(|error| {
            DecoderError::Device(match built_in {
                false => format!("{self}: this binary was built without it; build with `--features {feature}`"),
                true => format!("{self} cannot be used: {error}"),
            })
        })
    }
}

/// Numbers as candle names them.
pub(crate) fn kind(precision: Precision) -> DType {
    match precision {
        Precision::F32 => DType::F32,
        Precision::Bf16 => DType::BF16,
        Precision::F16 => DType::F16,
    }
}
