//! The tensors that a configuration asks for, with their first values, and where in the model each takes effect.

use rootstock_decoder::{FrozenModel, LowRank, ParameterKind, Parameters, Rows, Trained};
use rootstock_formats::peft::{AdapterConfig, ModuleKind, TrainedBiases};
use rootstock_model::adapter::{Module, ModuleMap, ModuleRole, Modules, Slot};

use super::Configuration;
use super::bottleneck::attach_bottlenecks;
use super::whole::Builder;
use crate::{Random, TrainError};

/// Everything that is trained.
#[derive(Debug, Clone, Default)]
pub struct Attached {
    /// Where.
    pub trained: Trained,
    /// The tensors, under the names of the file that they are written to.
    pub parameters: Parameters,
}

/// Makes the tensors of a configuration, with their first values. `dropout` is of pairs.
///
/// # Errors
/// A configuration that names nothing of the model, or something that is not trained here.
pub fn attach(config: &Configuration, dropout: f32, model: &FrozenModel, seed: u64) -> Result<Attached, TrainError> {
    match config {
        Configuration::Peft(config) => attach_pairs(config, dropout, model, seed),
        Configuration::AdapterHub(config) => attach_bottlenecks(config, model, seed),
    }
}

/// Makes the tensors of a configuration: A uniform in `±1 / sqrt(inputs)` (peft's default), B zero, magnitudes and whatever
/// is trained whole as the base has it.
///
/// # Errors
/// A configuration that names nothing of the model, or something that is not trained here.
fn attach_pairs(config: &AdapterConfig, dropout: f32, model: &FrozenModel, seed: u64) -> Result<Attached, TrainError> {
    let family = &model.spec().family;
    let modules = Modules::of(model.spec())
        .ok_or_else(|| TrainError::setting("model", format!("no module names are known for the family {family}")))?;
    if !(0.0..1.0).contains(&dropout) {
        return Err(TrainError::setting(
            "lora_dropout",
            format!("expected 0 or more and less than 1, got {dropout}"),
        ));
    }
    let mut adapter = Adapter {
        config,
        dropout,
        random: Random::new(seed, "first values of pairs"),
        builder: Builder {
            model,
            attached: Attached::default(),
            name: Slot::name,
        },
    };
    for module in modules.iter() {
        adapter.module(module)?;
    }
    if adapter.builder.attached.parameters.iter().len() == 0 {
        let maps: Vec<_> = modules
            .maps()
            .map(|(path, _)| path)
            .filter(|path| path.contains(".0."))
            .collect();
        let reason = format!(
            "expected names of the model's linear maps (as {}), got none that matches",
            maps.join(", ")
        );
        return Err(TrainError::setting("target_modules", reason));
    }
    Ok(adapter.builder.attached)
}

struct Adapter<'a> {
    config: &'a AdapterConfig,
    dropout: f32,
    random: Random,
    builder: Builder<'a>,
}

impl Adapter<'_> {
    fn module(&mut self, module: &Module) -> Result<(), TrainError> {
        let path = &module.path;
        match &module.role {
            ModuleRole::Map(map) => {
                let targeted = self.config.targets(path, map.kind);
                if targeted {
                    self.pair(path, map)?;
                }
                if self.config.saves(path) {
                    self.builder.map(path, map);
                }
                let biases = match self.config.biases {
                    TrainedBiases::None => false,
                    TrainedBiases::Targeted => targeted,
                    TrainedBiases::All => true,
                };
                if biases && map.biased && !self.config.saves(path) {
                    self.builder.bias(path, map);
                }
            }
            ModuleRole::Norm { site, biased, .. } if self.config.saves(path) => self.builder.norm(path, *site, *biased),
            ModuleRole::Norm { .. } => {}
            ModuleRole::Positions if self.config.saves(path) => {
                return Err(TrainError::setting(
                    "modules_to_save",
                    format!("{path}: learned positions are not trained"),
                ));
            }
            ModuleRole::Positions => {}
        }
        Ok(())
    }

    fn pair(&mut self, path: &str, map: &ModuleMap) -> Result<(), TrainError> {
        if map.kind == ModuleKind::Embedding {
            let reason = format!("{path}: pairs on the embedding are not trained; modules_to_save trains it whole");
            return Err(TrainError::setting("target_modules", reason));
        }
        let rank = self.config.rank_for(path);
        let bound = 1.0 / (map.inputs as f32).sqrt();
        let uniform = (0..rank * map.inputs)
            .map(|_| (self.random.uniform() * 2.0 - 1.0) * bound)
            .collect();
        let a = self
            .builder
            .add(Slot::A, path, ParameterKind::LowRankA, vec![rank, map.inputs], uniform);
        let zeros = vec![0.0; map.outputs * rank];
        let b = self
            .builder
            .add(Slot::B, path, ParameterKind::LowRankB, vec![map.outputs, rank], zeros);
        let magnitude = self.config.dora.then(|| {
            let mut lengths = Vec::with_capacity(map.outputs);
            let length = |row: &[f32]| row.iter().map(|x| f64::from(x * x)).sum::<f64>().sqrt() as f32;
            self.builder.each_row(map, |row| lengths.push(length(row)));
            let shape = vec![map.outputs];
            self.builder
                .add(Slot::Magnitude, path, ParameterKind::Magnitude, shape, lengths)
        });
        for part in &map.parts {
            let (scale, dropout) = (self.config.scale_for(path), self.dropout);
            let of = |id| Rows {
                id,
                rows: part.outputs.clone(),
            };
            let training = self.builder.site(part.site);
            training.pair = Some(LowRank {
                a,
                b: of(b),
                scale,
                dropout,
            });
            training.magnitude = magnitude.map(of);
        }
        Ok(())
    }
}
