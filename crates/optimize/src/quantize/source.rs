//! The weights of a model on their way into a file of another type: rounded as they are, or, with a calibration text, a layer at a
//! time by what its maps are given.

use std::collections::BTreeMap;

use rootstock_decoder::{Batch, FrozenModel};
use rootstock_formats::DType;
use rootstock_kernels::{Context, GroupFormat};
use rootstock_model::checkpoint::Role;
use rootstock_model::{ArchSpec, EncodedSource, ModelError, Site, WeightSource, append_bytes};

use super::gptq::Feedback;
use super::rounding::{Loss, Matrix, Rounded, packed};
use crate::OptimizeError;
use crate::calibrate::{Hessian, Moments, Walk, WalkSettings, input_site};

/// Rows of a matrix that GPTQ works on at a time.
const ROWS_AT_ONCE: usize = 1024;

/// How values are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Each to the nearest one; blocks by the importance of their inputs, where a calibration text tells it.
    Rounding,
    /// GPTQ.
    Gptq,
}

/// How one tensor came out.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorReport {
    /// What it is to the architecture.
    pub role: Role,
    /// Its type.
    pub dtype: DType,
    /// Elements.
    pub elements: usize,
    /// Bytes.
    pub bytes: usize,
    /// Root of the squared error of the weights over their squares.
    pub error: f64,
    /// The same of what the map gives on the calibration text, where that is known.
    pub output_error: Option<f64>,
}

/// Weights in other types.
pub struct Quantizer<'a> {
    spec: &'a ArchSpec,
    weights: &'a (dyn WeightSource + Sync),
    types: BTreeMap<Role, DType>,
    threads: usize,
    groups: Option<GroupFormat>,
    calibration: Option<Calibration<'a>>,
    /// Maps of the layer that was quantized last.
    ready: BTreeMap<Role, Vec<u8>>,
    reports: Vec<TensorReport>,
    progress: &'a mut dyn FnMut(&TensorReport),
}

/// A text that decides how weights are rounded.
struct Calibration<'a> {
    settings: WalkSettings,
    method: Method,
    walk: Walk<'a>,
    /// Layers that the text has passed.
    passed: usize,
    /// What the output projection is given, after the last layer.
    output: Moments,
}

impl<'a> Quantizer<'a> {
    /// Of the weights of an architecture, to these types, on so many threads; `progress` sees each tensor that is done.
    pub fn new(
        spec: &'a ArchSpec,
        weights: &'a (dyn WeightSource + Sync),
        types: BTreeMap<Role, DType>,
        threads: usize,
        progress: &'a mut dyn FnMut(&TensorReport),
    ) -> Self {
        Self {
            spec,
            weights,
            types,
            threads,
            groups: None,
            calibration: None,
            ready: BTreeMap::new(),
            reports: Vec::new(),
            progress,
        }
    }

    /// Has the blocks of groups share scale and zero point. The types of matrices must be the groups' blocks, or floats.
    #[must_use]
    pub fn grouped(self, groups: GroupFormat) -> Self {
        Self {
            groups: Some(groups),
            ..self
        }
    }

    /// Has a text decide. Layers must then be asked for in their order, and what is not of a layer after them.
    ///
    /// # Errors
    /// A model that cannot be run.
    pub fn calibrated(
        mut self,
        batches: &'a [Batch],
        settings: WalkSettings,
        method: Method,
    ) -> Result<Self, OptimizeError> {
        self.calibration = Some(Calibration {
            settings,
            method,
            walk: Walk::new(self.spec, self.weights, batches, settings)?,
            passed: 0,
            output: Moments::default(),
        });
        Ok(self)
    }

    /// How the tensors came out.
    pub fn into_reports(self) -> Vec<TensorReport> {
        self.reports
    }

    /// The tensor of a role as `dtype`.
    ///
    /// # Errors
    /// Weights that cannot be read, or not be brought into that type.
    pub fn encode(&mut self, role: Role, dtype: DType) -> Result<Vec<u8>, OptimizeError> {
        let shape = role.shape(self.spec);
        let &[rows, cols] = shape.as_slice() else {
            return self.vector(role, dtype);
        };
        if let Role::Weight { layer, .. } = role
            && let Some(mut calibration) = self.calibration.take()
        {
            while calibration.passed <= layer {
                self.quantize_layer(&mut calibration)?;
            }
            self.calibration = Some(calibration);
            let known = self.ready.remove(&role);
            return known.ok_or_else(|| self.out_of_order(role));
        }
        let matrix = self.matrix(role, [rows, cols]);
        let importance = self.output_importance(role)?;
        let rounded = matrix.round(dtype, importance.as_deref())?;
        self.report(role, dtype, &rounded, None);
        Ok(rounded.bytes)
    }

    fn vector(&mut self, role: Role, dtype: DType) -> Result<Vec<u8>, OptimizeError> {
        let (mut values, mut bytes) = (Vec::new(), Vec::new());
        self.weights.append(role, &mut values)?;
        append_bytes(dtype, &values, &mut bytes);
        Ok(bytes)
    }

    fn matrix(&self, role: Role, shape: [usize; 2]) -> Matrix<'a> {
        Matrix {
            weights: self.weights,
            role,
            shape,
            threads: self.threads,
            groups: self.groups,
        }
    }

    fn out_of_order(&self, role: Role) -> OptimizeError {
        OptimizeError::Tensor {
            tensor: role.to_string(),
            reason: "was asked for twice, or after a later layer".to_owned(),
        }
    }

    /// Mean squares of what the output projection is given, for its matrix, at the end of a calibration.
    fn output_importance(&self, role: Role) -> Result<Option<Vec<f32>>, OptimizeError> {
        let is_output = role == Role::Output || (role == Role::Embedding && self.spec.tied_output);
        let Some(calibration) = self.calibration.as_ref().filter(|_| is_output) else {
            return Ok(None);
        };
        match calibration.passed < self.spec.layers.len() {
            true => Err(self.out_of_order(role)),
            false => Ok(Some(calibration.output.mean_squares())),
        }
    }

    fn report(&mut self, role: Role, dtype: DType, rounded: &Rounded, output: Option<Loss>) {
        let report = TensorReport {
            role,
            dtype,
            elements: role.shape(self.spec).iter().product(),
            bytes: rounded.bytes.len(),
            error: rounded.loss.relative(),
            output_error: output.map(Loss::relative),
        };
        (self.progress)(&report);
        self.reports.push(report);
    }

    /// Quantizes the maps of the next layer, and takes the text through it: with GPTQ through what has become of it, so that later
    /// layers make up for what is lost, otherwise through what it was.
    fn quantize_layer(&mut self, calibration: &mut Calibration<'a>) -> Result<(), OptimizeError> {
        let index = calibration.passed;
        let mut model = FrozenModel::load_layer(self.spec, self.weights, index, calibration.settings.max_length)?;
        self.ready.clear();
        match calibration.method {
            Method::Rounding => {
                let mut moments = BTreeMap::<Site, Moments>::new();
                let see = &mut |_: &mut Context, site, rows: &[f32]| {
                    moments.entry(site).or_default().add(rows, inputs(self.spec, site));
                };
                calibration.walk.observe_and_advance(&model, index, see);
                for (role, site) in maps(self.spec, index) {
                    let importance = moments.get(&input_site(site)).map(Moments::mean_squares);
                    let (dtype, matrix) = self.job(role);
                    let rounded = matrix.round(dtype, importance.as_deref())?;
                    self.report(role, dtype, &rounded, None);
                    self.ready.insert(role, rounded.bytes);
                }
            }
            Method::Gptq => self.gptq_layer(calibration, &mut model)?,
        }
        calibration.passed += 1;
        if calibration.passed == self.spec.layers.len() {
            let (output, width) = (&mut calibration.output, self.spec.hidden_size);
            calibration
                .walk
                .output(&model)
                .iter()
                .for_each(|rows| output.add(rows, width));
        }
        Ok(())
    }

    fn job(&self, role: Role) -> (DType, Matrix<'a>) {
        let shape = role.shape(self.spec);
        let dtype = self.types.get(&role).copied().unwrap_or(DType::F32);
        (dtype, self.matrix(role, [shape[0], shape[1]]))
    }

    fn gptq_layer(&mut self, calibration: &mut Calibration<'a>, model: &mut FrozenModel) -> Result<(), OptimizeError> {
        let index = calibration.passed;
        let mut hessians = BTreeMap::<Site, (Hessian, u64)>::new();
        let see = &mut |context: &mut Context, site, rows: &[f32]| {
            let width = inputs(self.spec, site);
            let (hessian, count) = hessians.entry(site).or_insert_with(|| (Hessian::new(width), 0));
            hessian.add(context, rows);
            *count += (rows.len() / width) as u64;
        };
        calibration.walk.observe(model, index, see);
        let mut feedbacks = BTreeMap::new();
        for (site, (hessian, count)) in &hessians {
            feedbacks.insert(*site, Feedback::new(calibration.walk.context(), hessian, *count));
        }
        for (role, site) in maps(self.spec, index) {
            let (dtype, matrix) = self.job(role);
            let input = input_site(site);
            let feedback = feedbacks.get(&input).and_then(Option::as_ref);
            let hessian = hessians.get(&input).map(|(hessian, _)| hessian);
            let (rounded, output) = match (feedback, hessian) {
                (Some(feedback), Some(hessian)) if !dtype.is_float() => {
                    let (rounded, output) =
                        round_with_feedback(calibration.walk.context(), &matrix, dtype, feedback, hessian)?;
                    (rounded, Some(output))
                }
                _ => (matrix.round(dtype, None)?, None),
            };
            self.report(role, dtype, &rounded, output);
            model.replace(site, packed(&matrix, dtype, &rounded.bytes)?);
            self.ready.insert(role, rounded.bytes);
        }
        calibration.walk.advance(model, index);
        Ok(())
    }
}

impl EncodedSource for Quantizer<'_> {
    fn encoded(&mut self, role: Role, dtype: DType) -> Result<Vec<u8>, ModelError> {
        self.encode(role, dtype).map_err(|error| match error {
            OptimizeError::Model(error) => error,
            other => ModelError::Text(other.to_string()),
        })
    }
}

fn inputs(spec: &ArchSpec, site: Site) -> usize {
    spec.shape(site).map_or(1, |(inputs, _)| inputs)
}

/// The maps of a layer.
fn maps(spec: &ArchSpec, layer: usize) -> Vec<(Role, Site)> {
    let projections = spec.layers[layer].projections();
    let map = |projection| (Role::Weight { layer, projection }, Site::Layer { layer, projection });
    projections.map(map).collect()
}

/// A matrix by GPTQ, and what is lost of what it gives: `sum((w - q) H (w - q)^T)` over the rows, `sum(w H w^T)` in all.
fn round_with_feedback(
    context: &mut Context,
    matrix: &Matrix<'_>,
    dtype: DType,
    feedback: &Feedback,
    hessian: &Hessian,
) -> Result<(Rounded, Loss), OptimizeError> {
    let rows = matrix.shape[0];
    let (mut rounded, mut output) = (Rounded::default(), Loss::default());
    let mut values = Vec::new();
    for first in (0..rows).step_by(ROWS_AT_ONCE) {
        values.clear();
        matrix.rows(first..(first + ROWS_AT_ONCE).min(rows), &mut values)?;
        let (grids, block) = matrix.grids(dtype, &values, Some(&feedback.importance))?;
        let quants = feedback.round(context, &values, (&grids, block));
        let start = rounded.bytes.len();
        for (grid, quants) in grids.iter().zip(quants.chunks_exact(block)) {
            matrix.write(grid, quants, &mut rounded.bytes);
        }
        let bytes = &rounded.bytes[start..];
        rounded.loss.add(matrix.loss(dtype, bytes, &values)?);
        let mut lost = Vec::with_capacity(values.len());
        matrix.decode(dtype, bytes, &mut lost)?;
        lost.iter_mut().zip(&values).for_each(|(lost, value)| *lost -= value);
        output.add(Loss {
            lost: hessian.energy(context, &lost),
            total: hessian.energy(context, &values),
        });
    }
    Ok((rounded, output))
}
