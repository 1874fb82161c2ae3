//! The configuration of an adapter that is trained, of either library.

use rootstock_formats::adapterhub::{BottleneckConfig, is_adapterhub};
use rootstock_formats::peft::{AdapterConfig, ConfigError};
use rootstock_model::adapter::{BOTTLENECK_WEIGHTS, WEIGHTS};

/// An `adapter_config.json`.
#[derive(Debug)]
pub enum Configuration {
    /// peft's: low-rank pairs.
    Peft(Box<AdapterConfig>),
    /// AdapterHub's: bottlenecks.
    AdapterHub(Box<BottleneckConfig>),
}

impl Configuration {
    /// Reads `adapter_config.json`.
    ///
    /// # Errors
    /// A field that is malformed or that this build does not understand.
    pub fn parse(json: &[u8]) -> Result<Self, ConfigError> {
        Ok(match is_adapterhub(json) {
            true => Self::AdapterHub(Box::new(BottleneckConfig::parse(json)?)),
            false => Self::Peft(Box::new(AdapterConfig::parse(json)?)),
        })
    }

    /// `houlsby` or `pfeiffer`, by where its bottlenecks are; `None` for pairs.
    pub fn bottleneck_method(&self) -> Option<&'static str> {
        match self {
            Self::Peft(_) => None,
            Self::AdapterHub(config) if config.after_attention => Some("houlsby"),
            Self::AdapterHub(_) => Some("pfeiffer"),
        }
    }

    /// The file of the tensors.
    pub fn weights(&self) -> &'static str {
        match self {
            Self::Peft(_) => WEIGHTS,
            Self::AdapterHub(_) => BOTTLENECK_WEIGHTS,
        }
    }
}
