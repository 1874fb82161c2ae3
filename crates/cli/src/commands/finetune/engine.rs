//! What computes the steps of a run: our own kernels, or candle on one of its devices.

use anyhow::Result;
use rootstock_decoder::{Backend, Engine, FrozenModel, Precision, StepSettings};
use rootstock_kernels::Arithmetic;

use crate::args::Device;
use crate::settings::FinetuneSettings;

/// An engine for a model.
///
/// # Errors
/// No threads, or a device that is not there or too small for the model.
pub fn engine(settings: &FinetuneSettings, model: &FrozenModel) -> Result<Box<dyn Backend>> {
    match settings.device {
        Device::Cpu => Ok(Box::new(Engine::new(StepSettings {
            arithmetic: match settings.precision {
                Precision::F32 => Arithmetic::F32,
                // Float16 was refused with the settings.
                Precision::Bf16 | Precision::F16 => Arithmetic::Bf16,
            },
            checkpointing: settings.checkpointing,
            threads: settings.threads,
        })?)),
        _ => on_candle(settings, model),
    }
}

#[cfg(feature = "candle")]
fn on_candle(settings: &FinetuneSettings, model: &FrozenModel) -> Result<Box<dyn Backend>> {
    use rootstock_candle::{CandleEngine, Settings, Target};
    let target = match settings.device {
        Device::Cpu | Device::CandleCpu => Target::Cpu,
        Device::Cuda(number) => Target::Cuda(number),
        Device::Metal(number) => Target::Metal(number),
    };
    let settings = Settings {
        target,
        precision: settings.precision,
        checkpointing: settings.checkpointing,
        threads: settings.threads,
    };
    Ok(Box::new(CandleEngine::new(settings, model)?))
}

#[cfg(not(feature = "candle"))]
fn on_candle(settings: &FinetuneSettings, _: &FrozenModel) -> Result<Box<dyn Backend>> {
    // It was refused with the settings.
    anyhow::bail!("--device {}: this binary was built without candle", settings.device)
}
