//! The files of an AdapterHub folder: its configuration and weights, and the output layer that may have been trained beside them.

use std::path::Path;

use rootstock_formats::adapterhub::BottleneckConfig;
use rootstock_formats::safetensors::SafeTensors;

use super::{CONFIG, Contents, File, Weights, format_refusal, shown};
use crate::adapter::{AdapterError, AdapterLimits};

/// The tensors of an AdapterHub folder.
pub const BOTTLENECK_WEIGHTS: &str = "adapter.safetensors";
const PICKLE: &str = "pytorch_adapter.bin";
/// The output layer of an AdapterHub folder.
pub const BOTTLENECK_HEAD: &str = "model_head.safetensors";
const HEAD_PICKLE: &str = "pytorch_model_head.bin";

/// An output layer in a file of its own: the library freezes the base and not its output, and saves what became of it.
pub(in crate::adapter) struct Head {
    pub(in crate::adapter) header: SafeTensors,
    pub(in crate::adapter) weights: Weights,
}

impl File {
    pub(super) fn adapterhub(dir: &Path, json: &[u8], limits: AdapterLimits) -> Result<Self, AdapterError> {
        let config = BottleneckConfig::parse(json).map_err(|error| format_refusal(CONFIG, error))?;
        let weights = Weights::open_safetensors(dir, (BOTTLENECK_WEIGHTS, &[PICKLE]), limits)?;
        let header = weights.safetensors_header()?;
        Ok(Self {
            contents: Contents::AdapterHub {
                config: Box::new(config),
                header,
            },
            weights,
            shown: shown(dir),
        })
    }
}

impl Head {
    /// Opens the head of a folder, if it has one.
    pub(super) fn open(dir: &Path, limits: AdapterLimits) -> Result<Option<Self>, AdapterError> {
        if ![BOTTLENECK_HEAD, HEAD_PICKLE]
            .iter()
            .any(|name| dir.join(name).exists())
        {
            return Ok(None);
        }
        let weights = Weights::open_safetensors(dir, (BOTTLENECK_HEAD, &[HEAD_PICKLE]), limits)?;
        let header = weights.safetensors_header()?;
        Ok(Some(Self { header, weights }))
    }
}
