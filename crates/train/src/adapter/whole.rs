//! What is trained whole, with the base's values to begin with: weights, biases and normalisations.

use rootstock_decoder::{FrozenModel, NormTraining, ParameterId, ParameterKind, Rows, SiteTraining};
use rootstock_formats::peft::ModuleKind;
use rootstock_model::NormSite;
use rootstock_model::Site;
use rootstock_model::adapter::{ModuleMap, Slot};

use super::Attached;

/// Adds what a model is trained by, one tensor after another.
pub(crate) struct Builder<'a> {
    pub model: &'a FrozenModel,
    pub attached: Attached,
    /// What the tensor in a slot of a module is called.
    pub name: fn(Slot, &str) -> String,
}

impl Builder<'_> {
    pub fn site(&mut self, site: Site) -> &mut SiteTraining {
        self.attached.trained.sites.entry(site).or_default()
    }

    pub fn add(
        &mut self,
        slot: Slot,
        path: &str,
        kind: ParameterKind,
        shape: Vec<usize>,
        values: Vec<f32>,
    ) -> ParameterId {
        let name = (self.name)(slot, path);
        self.attached.parameters.add(name, kind, shape, values)
    }

    /// The weight of a module and its bias.
    pub fn map(&mut self, path: &str, map: &ModuleMap) {
        let mut values = Vec::with_capacity(map.inputs * map.outputs);
        self.each_row(map, |row| values.extend_from_slice(row));
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

    /// Shows a function every row of a module's weight.
    pub fn each_row(&self, map: &ModuleMap, mut show: impl FnMut(&[f32])) {
        each_row(self.model, map, &mut show);
    }

    pub fn bias(&mut self, path: &str, map: &ModuleMap) {
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

    pub fn norm(&mut self, path: &str, site: NormSite, biased: bool) {
        let norm = self.model.norm(site);
        let (weight, bias) = (norm.weight.clone(), norm.bias.clone());
        let width = weight.len();
        let weight = self.add(Slot::Weight, path, ParameterKind::Norm, vec![width], weight);
        let bias = bias.filter(|_| biased);
        let bias = bias.map(|bias| self.add(Slot::Bias, path, ParameterKind::Norm, vec![width], bias));
        self.attached.trained.norms.insert(site, NormTraining { weight, bias });
    }
}

/// Shows a function every row of a module's frozen weight.
pub(crate) fn each_row(model: &FrozenModel, map: &ModuleMap, show: &mut dyn FnMut(&[f32])) {
    let mut row = Vec::new();
    for part in &map.parts {
        let matrix = model.matrix(part.site);
        // The embedding's rows are its inputs, one for each token.
        row.resize(matrix.inputs(), 0.0);
        for output in 0..matrix.outputs() {
            matrix.dequantize_row(output, &mut row);
            show(&row);
        }
    }
}
