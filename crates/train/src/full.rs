//! Full fine-tuning: every weight of a model is trained, under transformers' names, and written as a model of its own.

use rootstock_decoder::{FrozenModel, NormTraining, ParameterId, ParameterKind, Rows, Trained};
use rootstock_formats::peft::ModuleKind;
use rootstock_model::adapter::{ModuleRole, Modules, Slot};
use rootstock_model::checkpoint::Role;
use rootstock_model::{ModelError, NormSite, Site, WeightSource};

use crate::TrainError;
use crate::adapter::{Attached, Builder};

/// Makes a parameter of every weight and lets go of the frozen ones. A tied output is the embedding, one parameter at two sites.
///
/// # Errors
/// A family whose modules have no known names.
pub fn attach_all(model: &mut FrozenModel) -> Result<Attached, TrainError> {
    let spec = model.spec().clone();
    let modules = Modules::of(&spec).ok_or_else(|| {
        TrainError::setting(
            "model",
            format!("no module names are known for the family {}", spec.family),
        )
    })?;
    let mut builder = Builder {
        model,
        attached: Attached::default(),
        name: Slot::name_in_model,
    };
    for module in modules.iter() {
        let path = module.path.as_str();
        match &module.role {
            ModuleRole::Map(map) if spec.tied_output && map.kind == ModuleKind::Output => {
                let embedding = builder.site(Site::Embedding).weight.clone();
                builder.site(Site::Output).weight = embedding;
            }
            ModuleRole::Map(map) => builder.map(path, map),
            ModuleRole::Norm { site, biased, .. } => builder.norm(path, *site, *biased),
            ModuleRole::Positions => {
                let Some(table) = builder.model.positions() else {
                    continue;
                };
                let shape = vec![table.outputs(), table.inputs()];
                let mut values = vec![0.0; table.outputs() * table.inputs()];
                let rows = values.chunks_exact_mut(table.inputs()).enumerate();
                rows.for_each(|(position, row)| table.dequantize_row(position, row));
                let id = builder.add(Slot::Weight, path, ParameterKind::Weight, shape, values);
                builder.attached.trained.positions = Some(id);
            }
        }
    }
    let attached = builder.attached;
    model.release(&attached.trained);
    Ok(attached)
}

/// The weights as they are trained, to be written.
impl WeightSource for Attached {
    fn append(&self, role: Role, to: &mut Vec<f32>) -> Result<(), ModelError> {
        let values = match role {
            Role::Embedding => self.rows(self.trained.weight(Site::Embedding)),
            Role::Output => self.rows(self.trained.weight(Site::Output)),
            Role::Positions => self.values(self.trained.positions),
            Role::Weight { layer, projection } => self.rows(self.trained.weight(Site::Layer { layer, projection })),
            Role::Bias { layer, projection } => {
                let training = self.trained.sites.get(&Site::Layer { layer, projection });
                self.rows(training.and_then(|training| training.bias.as_ref()))
            }
            Role::Norm(site) => self.values(norm(&self.trained, site).map(|norm| norm.weight)),
            Role::NormBias(site) => self.values(norm(&self.trained, site).and_then(|norm| norm.bias)),
        };
        to.extend_from_slice(values.ok_or_else(|| ModelError::Text(format!("{role} is not trained whole")))?);
        Ok(())
    }
}

fn norm(trained: &Trained, site: NormSite) -> Option<NormTraining> {
    trained.norms.get(&site).copied()
}

impl Attached {
    fn rows(&self, rows: Option<&Rows>) -> Option<&[f32]> {
        Some(self.parameters.rows(rows?))
    }

    fn values(&self, id: Option<ParameterId>) -> Option<&[f32]> {
        Some(&self.parameters.get(id?).values)
    }
}
