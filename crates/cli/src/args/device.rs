//! Where training computes.

use std::fmt;
use std::str::FromStr;

/// A device by its kind and number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// The CPU, on our own kernels.
    Cpu,
    /// The CPU, on candle's.
    CandleCpu,
    /// An NVIDIA GPU, on candle.
    Cuda(usize),
    /// An Apple GPU, on candle.
    Metal(usize),
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, number) = match text.split_once(':') {
            Some((kind, number)) => (kind, number.parse().ok()),
            None => (text, Some(0)),
        };
        match (text, kind, number) {
            ("cpu", ..) => Ok(Self::Cpu),
            ("candle-cpu", ..) => Ok(Self::CandleCpu),
            (_, "cuda", Some(number)) => Ok(Self::Cuda(number)),
            (_, "metal", Some(number)) => Ok(Self::Metal(number)),
            _ => Err("expected cpu, candle-cpu, cuda[:NUMBER] or metal[:NUMBER]".to_owned()),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::CandleCpu => f.write_str("candle-cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
            Self::Metal(number) => write!(f, "metal:{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_with_or_without_a_number() {
        let named = |text: &str| text.parse::<Device>();
        assert_eq!(named("cpu"), Ok(Device::Cpu));
        assert_eq!(named("cuda"), Ok(Device::Cuda(0)));
        assert_eq!(
            named("metal:1").map(|device| device.to_string()),
            Ok("metal:1".to_owned())
        );
        for text in ["", "gpu", "cpu:0", "cuda:", "cuda:one", "cuda:-1", "candle-cpu:1"] {
            assert!(named(text).is_err(), "{text:?}");
        }
    }
}
