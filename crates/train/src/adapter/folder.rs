//! Adapter folders on disk: written whole or not at all, and read to go on from.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use rootstock_decoder::{Parameter, ParameterKind, Parameters};
use rootstock_formats::safetensors::SafeTensors;
use rootstock_model::adapter::{BOTTLENECK_HEAD, CONFIG, ModuleRole, Modules};
use rootstock_model::{ArchSpec, append_floats};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;

use super::Configuration;
use super::pissa::doubled;
use crate::TrainError;
use crate::files::write_whole;

/// What an adapter folder holds.
#[derive(Debug, Clone, Copy)]
pub struct Folder<'a> {
    /// `adapter_config.json`
    pub config: &'a Value,
    /// The tensors.
    pub parameters: &'a Parameters,
    /// The base's architecture, which says how files keep some tensors.
    pub spec: &'a ArchSpec,
    /// `README.md`, a model card.
    pub card: &'a str,
}

/// Writes an adapter folder: every file under another name first, the configuration last, without which nobody takes it for
/// an adapter.
///
/// # Errors
/// Whatever keeps files from being written.
pub fn write_folder(dir: &Path, folder: Folder<'_>) -> Result<(), TrainError> {
    fs::create_dir_all(dir).map_err(|error| TrainError::io(dir, error))?;
    let stored = stored(folder.spec);
    let tensors = folder.parameters.iter().map(|parameter| {
        let (shape, bytes) = stored.encode(parameter);
        (parameter.name.clone(), shape, bytes)
    });
    let tensors: Vec<_> = tensors.collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
        view.map(|view| (name.as_str(), view))
    });
    let weights = parsed(folder.config.to_string().as_bytes())?.weights();
    let named = |error: safetensors::SafeTensorError| TrainError::state(weights, error.to_string());
    let views: Vec<_> = views.collect::<Result<_, _>>().map_err(named)?;
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(named)?;
    write_whole(&dir.join(weights), &bytes)?;
    write_whole(&dir.join("README.md"), folder.card.as_bytes())?;
    let mut config =
        serde_json::to_vec_pretty(folder.config).map_err(|error| TrainError::state(CONFIG, error.to_string()))?;
    config.push(b'\n');
    write_whole(&dir.join(CONFIG), &config)
}

/// Reads the configuration of an adapter folder, and its JSON.
///
/// # Errors
/// A file that cannot be read, or a field that this build does not understand.
pub fn read_config(dir: &Path) -> Result<(Configuration, Value), TrainError> {
    let path = dir.join(CONFIG);
    let bytes = fs::read(&path).map_err(|error| TrainError::io(&path, error))?;
    let config = parsed(&bytes)?;
    let json = serde_json::from_slice(&bytes).map_err(|error| TrainError::setting(CONFIG, error.to_string()))?;
    Ok((config, json))
}

fn parsed(json: &[u8]) -> Result<Configuration, TrainError> {
    Configuration::parse(json).map_err(|error| TrainError::setting(CONFIG, error.to_string()))
}

/// Fills parameters from an adapter folder that has each of them.
///
/// # Errors
/// A file that cannot be read, or a tensor that is missing, of another shape, or of no parameter.
pub fn read_tensors(dir: &Path, parameters: &mut Parameters, spec: &ArchSpec) -> Result<(), TrainError> {
    let (config, _) = read_config(dir)?;
    let path: PathBuf = dir.join(config.weights());
    if matches!(config, Configuration::AdapterHub(_)) && dir.join(BOTTLENECK_HEAD).exists() {
        let reason =
            "an output layer trained beside bottlenecks is not trained here; save the adapter with with_head=False";
        return Err(TrainError::setting(
            dir.join(BOTTLENECK_HEAD).display().to_string(),
            reason,
        ));
    }
    let file = fs::read(&path).map_err(|error| TrainError::io(&path, error))?;
    let refuse = |name: &str, reason: String| TrainError::setting(format!("{}: {name}", path.display()), reason);
    let header = SafeTensors::parse(&file).map_err(|error| refuse("header", error.to_string()))?;
    let stored = stored(spec);
    if let Some(name) = header
        .tensors()
        .keys()
        .find(|name| !parameters.iter().any(|parameter| parameter.name == **name))
    {
        return Err(refuse(
            name,
            "the adapter's configuration asks for no such tensor".to_owned(),
        ));
    }
    for parameter in parameters.iter_mut() {
        let info = header.tensors().get(&parameter.name);
        let info = info.ok_or_else(|| refuse(&parameter.name, "expected it, found none".to_owned()))?;
        let shape = stored.shape(parameter);
        if info.shape != shape {
            return Err(refuse(
                &parameter.name,
                format!("expected shape {shape:?}, got {:?}", info.shape),
            ));
        }
        let mut values = Vec::with_capacity(parameter.values.len());
        append_floats(info.dtype, info.bytes(&file).unwrap_or_default(), &mut values);
        stored.decode(parameter, values);
    }
    Ok(())
}

/// How files keep tensors that the model has in another form.
struct Stored {
    /// Subtracted from every factor of a normalisation.
    norm_offset: f32,
    /// Whole maps are kept `[inputs, outputs]`.
    turned: Vec<String>,
}

fn stored(spec: &ArchSpec) -> Stored {
    let modules = Modules::of(spec);
    let turned = modules
        .iter()
        .flat_map(Modules::iter)
        .filter(|module| match &module.role {
            ModuleRole::Map(map) => map.conv1d,
            ModuleRole::Norm { .. } | ModuleRole::Positions => false,
        });
    Stored {
        norm_offset: modules.as_ref().map_or(0.0, Modules::norm_offset),
        turned: turned.map(|module| module.path.clone()).collect(),
    }
}

impl Stored {
    fn is_turned(&self, parameter: &Parameter) -> bool {
        let of = |path: &String| rootstock_model::adapter::Slot::Weight.name(path) == parameter.name;
        parameter.kind == ParameterKind::Weight && self.turned.iter().any(of)
    }

    fn offset(&self, parameter: &Parameter) -> f32 {
        match parameter.kind == ParameterKind::Norm && parameter.name.ends_with(".weight") {
            true => self.norm_offset,
            false => 0.0,
        }
    }

    fn shape(&self, parameter: &Parameter) -> Vec<usize> {
        let mut shape = parameter.shape.clone();
        if self.is_turned(parameter) {
            shape.reverse();
        }
        shape
    }

    fn encode(&self, parameter: &Parameter) -> (Vec<usize>, Vec<u8>) {
        let offset = self.offset(parameter);
        let (shape, values) = match self.is_turned(parameter) {
            true => (self.shape(parameter), turned(&parameter.values, parameter.width())),
            false => doubled(parameter),
        };
        let bytes = values.into_iter().flat_map(|value| (value - offset).to_le_bytes());
        (shape, bytes.collect())
    }

    fn decode(&self, parameter: &mut Parameter, values: Vec<f32>) {
        let offset = self.offset(parameter);
        let rows = parameter.shape[0];
        let values = match self.is_turned(parameter) {
            true => turned(&values, rows),
            false => values,
        };
        parameter.values = values.into_iter().map(|value| value + offset).collect();
    }
}

/// Columns for rows, of rows of `width`.
fn turned(values: &[f32], width: usize) -> Vec<f32> {
    let rows = values.len() / width;
    (0..values.len())
        .map(|at| values[at % rows * width + at / rows])
        .collect()
}
