//! The trained tensors on a device, where graphs begin, and the gradients that graphs leave at them.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Result, Tensor, Var};
use rootstock_decoder::{LowRank, ParameterId, Parameters, Rows};

/// Trained tensors, moved when they are first asked for; they change between steps.
pub struct Leaves<'a> {
    parameters: &'a mut Parameters,
    device: Device,
    /// Whether a way back follows.
    learns: bool,
    tensors: BTreeMap<ParameterId, Tensor>,
    /// Values that tensors began with.
    initial: BTreeMap<ParameterId, Tensor>,
    gradients: BTreeMap<ParameterId, Tensor>,
}

impl<'a> Leaves<'a> {
    /// Nothing is moved yet.
    pub fn new(parameters: &'a mut Parameters, device: &Device, learns: bool) -> Self {
        Self {
            parameters,
            device: device.clone(),
            learns,
            tensors: BTreeMap::new(),
            initial: BTreeMap::new(),
            gradients: BTreeMap::new(),
        }
    }

    /// A tensor, f32.
    pub fn get(&mut self, id: ParameterId) -> Result<Tensor> {
        if let Some(tensor) = self.tensors.get(&id) {
            return Ok(tensor.clone());
        }
        let parameter = self.parameters.get(id);
        let (values, shape) = (parameter.values.as_slice(), parameter.shape.as_slice());
        let tensor = match self.learns {
            true => Var::from_slice(values, shape, &self.device)?.into_inner(),
            false => Tensor::from_slice(values, shape, &self.device)?,
        };
        self.tensors.insert(id, tensor.clone());
        Ok(tensor)
    }

    /// Some rows of a tensor, f32.
    pub fn rows(&mut self, rows: &Rows) -> Result<Tensor> {
        taken(self.get(rows.id)?, rows)
    }

    /// A and a site's rows of B as they began, f32 and without a gradient, where they are subtracted.
    pub fn initial(&mut self, pair: &LowRank) -> Result<Option<(Tensor, Tensor)>> {
        let (a, b) = (self.begun(pair.a)?, self.begun(pair.b.id)?);
        let Some((a, b)) = a.zip(b) else { return Ok(None) };
        Ok(Some((a, taken(b, &pair.b)?)))
    }

    fn begun(&mut self, id: ParameterId) -> Result<Option<Tensor>> {
        if let Some(tensor) = self.initial.get(&id) {
            return Ok(Some(tensor.clone()));
        }
        let parameter = self.parameters.get(id);
        let Some(values) = &parameter.initial else {
            return Ok(None);
        };
        let tensor = Tensor::from_slice(values, parameter.shape.as_slice(), &self.device)?;
        self.initial.insert(id, tensor.clone());
        Ok(Some(tensor))
    }

    /// Adds what a graph has found.
    pub fn collect(&mut self, found: &mut GradStore) -> Result<()> {
        for (id, tensor) in &self.tensors {
            let Some(gradient) = found.remove(tensor) else { continue };
            let sum = match self.gradients.remove(id) {
                Some(before) => (before + gradient)?,
                None => gradient,
            };
            self.gradients.insert(*id, sum.detach());
        }
        Ok(())
    }

    /// Adds everything that was found to the gradients of the parameters.
    pub fn finish(self) -> Result<()> {
        for (id, gradient) in self.gradients {
            let found: Vec<f32> = gradient.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
            let to = &mut self.parameters.get_mut(id).gradient;
            to.iter_mut().zip(found).for_each(|(to, found)| *to += found);
        }
        Ok(())
    }
}

fn taken(tensor: Tensor, rows: &Rows) -> Result<Tensor> {
    match rows.rows.len() == tensor.dim(0)? {
        true => Ok(tensor),
        false => tensor.narrow(0, rows.rows.start, rows.rows.len()),
    }
}
