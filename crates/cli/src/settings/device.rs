//! Which devices this binary computes on, and in which numbers each of them.

use rootstock_decoder::Precision;
use rootstock_kernels::Isa;

use super::{Result, usage};
use crate::args::{self, Device};

/// A device that this binary was built for.
///
/// # Errors
/// One that it was not: how to build it.
pub fn built_in(device: Device) -> Result<Device> {
    let (feature, has) = match device {
        Device::Cpu => return Ok(device),
        Device::CandleCpu => ("candle", cfg!(feature = "candle")),
        Device::Cuda(_) => ("cuda", cfg!(feature = "cuda")),
        Device::Metal(_) => ("metal", cfg!(feature = "metal")),
    };
    match has {
        true => Ok(device),
        false => Err(usage(format!(
            "--device {device}: this binary was built without it; build one with `cargo build --release --features {feature}`, or take \
             --device cpu"
        ))),
    }
}

/// What `--precision` stands for on a device.
///
/// # Errors
/// One that is not computed there, with the reason.
pub fn precision(asked: args::Precision, device: Device) -> Result<Precision> {
    match (asked, device) {
        (args::Precision::Auto, Device::Cpu) => {
            let fast = Isa::detect().is_ok_and(Isa::has_bf16_tiles);
            Ok(if fast { Precision::Bf16 } else { Precision::F32 })
        }
        (args::Precision::Auto, Device::Cuda(_)) => Ok(Precision::Bf16),
        (args::Precision::Auto | args::Precision::F32, _) => Ok(Precision::F32),
        (args::Precision::Bf16, _) => Ok(Precision::Bf16),
        (args::Precision::Fp16, Device::Cpu) => Err(usage(
            "--precision fp16: our own kernels do not multiply it, since on a CPU bf16 is as small, as fast and safer; devices of candle \
             do (--device)",
        )),
        (args::Precision::Fp16, _) => Ok(Precision::F16),
        (args::Precision::Fp8, _) => Err(usage(
            "--precision fp8: no supported device multiplies it in training; take bf16, and --method qlora for less memory",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn float16_is_for_devices_of_candle_and_float8_for_none() {
        let on = |asked, device| precision(asked, device).map_err(|error| error.to_string());
        assert_eq!(on(args::Precision::Fp16, Device::Cuda(0)), Ok(Precision::F16));
        assert_eq!(on(args::Precision::Auto, Device::Cuda(0)), Ok(Precision::Bf16));
        assert_eq!(on(args::Precision::Auto, Device::CandleCpu), Ok(Precision::F32));
        assert!(on(args::Precision::Fp16, Device::Cpu).is_err_and(|error| error.contains("bf16")));
        assert!(on(args::Precision::Fp8, Device::Cuda(0)).is_err_and(|error| error.contains("no supported device")));
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_device_that_was_left_out_is_named_with_the_way_to_build_it() {
        let error = built_in(Device::Cuda(1)).unwrap_err().to_string();
        assert!(
            error.contains("--device cuda:1") && error.contains("--features cuda"),
            "{error}"
        );
        assert!(built_in(Device::Cpu).is_ok());
    }
}
