//! What two checkpoints differ in beside the maps that have pairs: found, told, and on demand stored whole.

use rootstock_formats::peft::ModuleKind;
use rootstock_model::adapter::save::{PeftFolder, SavedTensor};
use rootstock_model::adapter::{ModuleMap, ModuleRole, Slot};
use rootstock_model::checkpoint::Role;
use rootstock_model::{Site, WeightSource};

use super::{Both, Models, squared};
use crate::OptimizeError;

/// A difference that no pair holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Left {
    /// The tensor as transformers names it.
    pub tensor: String,
    /// Frobenius norm of the difference.
    pub delta: f64,
    /// Frobenius norm of the base's own.
    pub base: f64,
    /// Elements.
    pub elements: usize,
    /// The adapter holds the tensor whole.
    pub saved: bool,
}

/// Everything that differs beside the pairs of `folder`, put into it if `save`.
pub(super) fn find(models: &Models<'_>, folder: &mut PeftFolder, save: bool) -> Result<Vec<Left>, OptimizeError> {
    let mut rest = Rest {
        models,
        paired: folder.pairs.iter().map(|pair| pair.path.clone()).collect(),
        norm_offset: folder.modules().norm_offset(),
        ties: models.base.spec().tied_output && models.tuned.spec().tied_output,
        keeps_ties: false,
        save,
        left: Vec::new(),
        saved: Vec::new(),
        tensors: Vec::new(),
        biases: Vec::new(),
    };
    for module in folder.modules().iter() {
        match &module.role {
            ModuleRole::Map(map) => rest.map(&module.path, map)?,
            ModuleRole::Norm { site, biased, .. } => {
                rest.norm(&module.path, Role::Norm(*site), biased.then_some(Role::NormBias(*site)))?;
            }
            ModuleRole::Positions if models.base.spec().position_embeddings.is_some() => {
                let found = rest.read(&[Role::Positions])?;
                // No adapter can change them.
                rest.differs(format!("{}.weight", module.path), &found, false);
            }
            ModuleRole::Positions => {}
        }
    }
    Ok(rest.give(folder))
}

struct Rest<'a> {
    models: &'a Models<'a>,
    paired: Vec<String>,
    norm_offset: f32,
    /// Both models tie their embedding to their output projection.
    ties: bool,
    /// The embedding is stored whole and stays the output projection.
    keeps_ties: bool,
    save: bool,
    left: Vec<Left>,
    saved: Vec<String>,
    tensors: Vec<SavedTensor>,
    /// All biases, and whether their module is stored whole.
    biases: Vec<(bool, SavedTensor)>,
}

impl Rest<'_> {
    /// Puts what is to be stored into the folder.
    fn give(self, folder: &mut PeftFolder) -> Vec<Left> {
        let of_bias = |left: &Left| left.saved && left.tensor.ends_with(".bias");
        let all = self.left.iter().any(of_bias);
        folder.biases = all;
        folder.keeps_ties = self.keeps_ties;
        folder.saved = self.saved;
        folder.tensors = self.tensors;
        // peft stores all biases, or those of the modules that are stored whole.
        let biases = self.biases.into_iter().filter(|(whole, _)| *whole || all);
        folder.tensors.extend(biases.map(|(_, bias)| bias));
        self.left
    }

    fn read(&self, roles: &[Role]) -> Result<Both, OptimizeError> {
        let mut both = Both::default();
        for &role in roles {
            self.models.base.append(role, &mut both.base)?;
            self.models.tuned.append(role, &mut both.tuned)?;
        }
        Ok(both)
    }

    /// Notes a tensor that differs; whether it does and is to be stored.
    fn differs(&mut self, tensor: String, both: &Both, can_be_saved: bool) -> bool {
        let delta = squared(&both.difference()).sqrt();
        // NaN differs from everything.
        if delta == 0.0 {
            return false;
        }
        let saved = self.save && can_be_saved;
        self.left.push(Left {
            tensor,
            delta,
            base: squared(&both.base).sqrt(),
            elements: both.base.len(),
            saved,
        });
        saved
    }

    fn map(&mut self, path: &str, map: &ModuleMap) -> Result<(), OptimizeError> {
        let paired = self.paired.iter().any(|other| other == path);
        let repeats_embedding = self.ties && map.kind == ModuleKind::Output;
        let mut whole = false;
        if !paired && !repeats_embedding {
            let both = self.models.weights(map)?;
            whole = self.differs(format!("{path}.weight"), &both, true);
            if whole {
                self.save_matrix(path, map, both.tuned);
            }
        }
        if map.biased {
            let both = self.read(&biases_of(map))?;
            self.differs(format!("{path}.bias"), &both, true);
            let slot = if paired { Slot::BaseBias } else { Slot::Bias };
            self.bias(whole, path, slot, both.tuned);
        }
        Ok(())
    }

    fn save_matrix(&mut self, path: &str, map: &ModuleMap, values: Vec<f32>) {
        let table = map.kind == ModuleKind::Embedding;
        let stored = if table || map.conv1d {
            [map.inputs, map.outputs]
        } else {
            [map.outputs, map.inputs]
        };
        let values = match map.conv1d {
            true => (0..values.len())
                .map(|at| values[at % map.outputs * map.inputs + at / map.outputs])
                .collect(),
            false => values,
        };
        self.keeps_ties |= table && self.ties;
        self.whole(path, Slot::Weight, stored.to_vec(), values);
        self.saved.push(path.to_owned());
    }

    fn norm(&mut self, path: &str, weight: Role, bias: Option<Role>) -> Result<(), OptimizeError> {
        let both = self.read(&[weight])?;
        let whole = self.differs(format!("{path}.weight"), &both, true);
        if whole {
            let values: Vec<f32> = both.tuned.iter().map(|value| value - self.norm_offset).collect();
            self.whole(path, Slot::Weight, vec![values.len()], values);
            self.saved.push(path.to_owned());
        }
        if let Some(bias) = bias {
            let both = self.read(&[bias])?;
            self.differs(format!("{path}.bias"), &both, true);
            self.bias(whole, path, Slot::Bias, both.tuned);
        }
        Ok(())
    }

    fn whole(&mut self, path: &str, slot: Slot, shape: Vec<usize>, values: Vec<f32>) {
        let path = path.to_owned();
        self.tensors.push(SavedTensor {
            path,
            slot,
            shape,
            values,
        });
    }

    fn bias(&mut self, whole: bool, path: &str, slot: Slot, values: Vec<f32>) {
        let (path, shape) = (path.to_owned(), vec![values.len()]);
        self.biases.push((
            whole,
            SavedTensor {
                path,
                slot,
                shape,
                values,
            },
        ));
    }
}

/// The biases of a module's parts.
fn biases_of(map: &ModuleMap) -> Vec<Role> {
    let of_layer = map.parts.iter().filter_map(|part| match part.site {
        Site::Layer { layer, projection } => Some(Role::Bias { layer, projection }),
        Site::Embedding | Site::Output => None,
    });
    of_layer.collect()
}
