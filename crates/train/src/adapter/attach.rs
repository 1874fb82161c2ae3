//! The tensors that a configuration asks for, with their first values, and where in the model each takes effect.

use rootstock_decoder::{
    FrozenModel, LowRank, NormTraining, ParameterId, ParameterKind, Parameters, Rows, SiteTraining, Trained,
};
use rootstock_formats::peft::{AdapterConfig, ModuleKind, TrainedBiases};
use rootstock_model::adapter::{Module, ModuleMap, ModuleRole, Modules, Slot};
use rootstock_model::{NormSite, Site};

use super::Configuration;
use super::bottleneck::attach_bottlenecks;
use crate::{Random, TrainError};

/// Everything that is trained.
#[derive(Debug, Clone)]
pub struct Attached {
    /// Where.
    pub trained: Trained,
    /// The tensors, under the names of the weights file.
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
    let mut builder = Builder {
        config,
        dropout,
        model,
        random: Random::new(seed, "first values of pairs"),
        attached: Attached {
            trained: Trained::default(),
            parameters: Parameters::default(),
        },
        pairs: 0,
    };
    for module in modules.iter() {
        builder.module(module)?;
    }
    if builder.pairs == 0 && builder.attached.parameters.iter().len() == 0 {
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
    Ok(builder.attached)
}

struct Builder<'a> {
    config: &'a AdapterConfig,
    dropout: f32,
    model: &'a FrozenModel,
    random: Random,
    attached: Attached,
    pairs: usize,
}

impl Builder<'_> {
    fn module(&mut self, module: &Module) -> Result<(), TrainError> {
        let path = &module.path;
        match &module.role {
            ModuleRole::Map(map) => {
                let targeted = self.config.targets(path, map.kind);
                if targeted {
                    self.pair(path, map)?;
                }
                if self.config.saves(path) {
                    self.whole(path, map);
                }
                let biases = match self.config.biases {
                    TrainedBiases::None => false,
                    TrainedBiases::Targeted => targeted,
                    TrainedBiases::All => true,
                };
                if biases && map.biased && !self.config.saves(path) {
                    self.bias(path, map);
                }
            }
            ModuleRole::Norm { site, biased, .. } if self.config.saves(path) => self.norm(path, *site, *biased),
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

    fn site(&mut self, site: Site) -> &mut SiteTraining {
        self.attached.trained.sites.entry(site).or_default()
    }

    fn add(&mut self, slot: Slot, path: &str, kind: ParameterKind, shape: Vec<usize>, values: Vec<f32>) -> ParameterId {
        self.attached.parameters.add(slot.name(path), kind, shape, values)
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
        let a = self.add(Slot::A, path, ParameterKind::LowRankA, vec![rank, map.inputs], uniform);
        let zeros = vec![0.0; map.outputs * rank];
        let b = self.add(Slot::B, path, ParameterKind::LowRankB, vec![map.outputs, rank], zeros);
        let magnitude = self.config.dora.then(|| {
            let lengths = self.weight_rows(map, |row| {
                row.iter().map(|x| f64::from(x * x)).sum::<f64>().sqrt() as f32
            });
            self.add(
                Slot::Magnitude,
                path,
                ParameterKind::Magnitude,
                vec![map.outputs],
                lengths,
            )
        });
        for part in &map.parts {
            let (scale, dropout) = (self.config.scale_for(path), self.dropout);
            let of = |id| Rows {
                id,
                rows: part.outputs.clone(),
            };
            let training = self.site(part.site);
            training.pair = Some(LowRank {
                a,
                b: of(b),
                scale,
                dropout,
            });
            training.magnitude = magnitude.map(of);
        }
        self.pairs += 1;
        Ok(())
    }

    /// What a function makes of every row of a module's weight.
    fn weight_rows<T>(&self, map: &ModuleMap, mut of: impl FnMut(&[f32]) -> T) -> Vec<T> {
        let mut row = vec![0.0; map.inputs];
        let sites = map.parts.iter().map(|part| part.site);
        let mut all = Vec::new();
        for site in sites {
            let matrix = self.model.matrix(site);
            // The embedding's rows are its inputs, one for each token.
            row.resize(matrix.inputs(), 0.0);
            for output in 0..matrix.outputs() {
                matrix.dequantize_row(output, &mut row);
                all.push(of(&row));
            }
        }
        all
    }

    fn whole(&mut self, path: &str, map: &ModuleMap) {
        let values = self.weight_rows(map, <[f32]>::to_vec).concat();
        // `[outputs, inputs]`, and for the embedding `[vocabulary, hidden]`: its outputs are the hidden elements.
        let (rows, width) = match map.kind {
            ModuleKind::Embedding => (map.inputs, map.outputs),
            ModuleKind::Linear | ModuleKind::Output => (map.outputs, map.inputs),
        };
        let id = self.add(Slot::Weight, path, ParameterKind::Weight, vec![rows, width], values);
        for part in &map.parts {
            let rows = match map.kind {
                ModuleKind::Embedding => 0..rows,
                ModuleKind::Linear | ModuleKind::Output => part.outputs.clone(),
            };
            self.site(part.site).weight = Some(Rows { id, rows });
        }
        if map.biased {
            self.bias(path, map);
        }
    }

    fn bias(&mut self, path: &str, map: &ModuleMap) {
        let biases = map.parts.iter().filter_map(|part| self.model.bias(part.site));
        let values: Vec<f32> = biases.flatten().copied().collect();
        let id = self.add(Slot::Bias, path, ParameterKind::Bias, vec![map.outputs], values);
        for part in &map.parts {
            self.site(part.site).bias = Some(Rows {
                id,
                rows: part.outputs.clone(),
            });
        }
    }

    fn norm(&mut self, path: &str, site: NormSite, biased: bool) {
        let norm = self.model.norm(site);
        let (weight, bias) = (norm.weight.clone(), norm.bias.clone());
        let width = weight.len();
        let weight = self.add(Slot::Weight, path, ParameterKind::Norm, vec![width], weight);
        let bias = bias.filter(|_| biased);
        let bias = bias.map(|bias| self.add(Slot::Bias, path, ParameterKind::Norm, vec![width], bias));
        self.attached.trained.norms.insert(site, NormTraining { weight, bias });
    }
}
