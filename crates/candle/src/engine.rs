//! One pass over a batch on a device: layer after layer, losses, and the layers again in reverse.

use std::collections::BTreeMap;

use candle_core::{Result, Tensor, Var};
use rootstock_decoder::{
    Backend, Batch, DecoderError, FrozenModel, Graph, Learn, Parameters, Precision, StepShapes, Subject, Target,
    Trained, layer, logits_rows,
};
use rootstock_kernels::{Context, Isa, ThreadPool};
use rootstock_model::{ArchSpec, NormSite, Site};

use crate::device::{Settings, kind};
use crate::entropy::cross_entropy;
use crate::failed;
use crate::groups::Groups;
use crate::leaves::Leaves;
use crate::walk::Walk;
use crate::weights::Weights;

/// Computes steps on a device, for one model.
pub struct CandleEngine {
    settings: Settings,
    weights: Weights,
    context: Context,
    squares: BTreeMap<Site, Tensor>,
}

impl CandleEngine {
    /// Opens the device and moves the model's weights there.
    ///
    /// # Errors
    /// A device that is not there, that the binary was built without, or that has too little memory for the weights.
    pub fn new(settings: Settings, model: &FrozenModel) -> std::result::Result<Self, DecoderError> {
        let device = settings.target.open()?;
        let weights = Weights::new(model, &device, kind(settings.precision), settings.threads);
        Ok(Self {
            settings,
            weights: weights.map_err(failed)?,
            context: Context {
                pool: ThreadPool::new(settings.threads)?,
                isa: Isa::detect()?,
            },
            squares: BTreeMap::new(),
        })
    }

    fn compute(&mut self, subject: Subject<'_>, batch: &Batch, learn: Option<Learn>) -> Result<Vec<f32>> {
        let device = &self.weights.device;
        let mut walk = Walk {
            model: subject.model,
            weights: &self.weights,
            trained: subject.trained,
            leaves: Leaves::new(subject.parameters, device, learn.is_some()),
            batch,
            dropout_key: learn.map(|learn| learn.dropout_key),
            context: &mut self.context,
            squares: &mut self.squares,
            groups: Groups::new(batch.segments(), device)?,
            masks: BTreeMap::new(),
            rotations: Vec::new(),
            values: Vec::new(),
            failure: None,
        };
        let losses = run(&mut walk, learn, !self.settings.checkpointing)?;
        walk.leaves.finish()?;
        Ok(losses)
    }
}

impl Backend for CandleEngine {
    fn step(
        &mut self,
        subject: Subject<'_>,
        batch: &Batch,
        learn: Option<Learn>,
    ) -> std::result::Result<Vec<f32>, DecoderError> {
        self.compute(subject, batch, learn).map_err(failed)
    }

    fn checkpointing(&self) -> bool {
        self.settings.checkpointing
    }

    fn shapes(&self, _: &ArchSpec, _: &Trained, _: &Parameters) -> Option<StepShapes> {
        None
    }

    fn scales_losses(&self) -> bool {
        self.settings.precision == Precision::F16
    }
}

/// A part of the model with a graph of its own.
struct Stretch {
    entrance: Tensor,
    /// With its graph, unless that is made again.
    out: Option<Tensor>,
}

fn run(walk: &mut Walk<'_>, learn: Option<Learn>, keep: bool) -> Result<Vec<f32>> {
    let spec = walk.model.spec();
    let embedded = walk.embedded()?;
    let mut x = embedded.clone();
    let mut stretches = Vec::new();
    for index in 0..spec.layers.len() {
        let entrance = begin(&x)?;
        let out = walk.run(&entrance, |walk, x| layer(walk, spec, index, x))?;
        if learn.is_some() {
            let out = keep.then(|| out.clone());
            stretches.push(Stretch { entrance, out });
        }
        x = if keep { out } else { begin(&out)? };
    }
    let last = begin(&x)?;
    let normed = walk.run(&last, |walk, x| walk.norm(x, NormSite::Final))?;
    let (losses, gradient) = entropy(walk, &begin(&normed)?, learn)?;
    let mut gradient = match gradient {
        Some(gradient) => pull(walk, &normed, &gradient, &last)?,
        None => None,
    };
    for (index, Stretch { entrance, out }) in stretches.into_iter().enumerate().rev() {
        let Some(of_out) = gradient else { return Ok(losses) };
        let out = match out {
            Some(out) => out,
            None => walk.run(&entrance, |walk, x| layer(walk, spec, index, x))?,
        };
        gradient = pull(walk, &out, &of_out, &entrance)?;
    }
    if let Some(gradient) = gradient {
        pull(walk, &embedded, &gradient, &embedded)?;
    }
    Ok(losses)
}

/// A value as the beginning of a graph: a variable if anything trained lies behind it.
fn begin(x: &Tensor) -> Result<Tensor> {
    match x.track_op() && !x.is_variable() {
        true => Ok(Var::from_tensor(&x.detach())?.into_inner()),
        false => Ok(x.clone()),
    }
}

/// Goes back from the gradient of `out`: gathers those of trained tensors, and gives that of `entrance` if it is asked for.
fn pull(walk: &mut Walk<'_>, out: &Tensor, gradient: &Tensor, entrance: &Tensor) -> Result<Option<Tensor>> {
    if !out.track_op() {
        return Ok(None);
    }
    // The gradient of this sum by `out` is `gradient`; the sum itself is of no use.
    let mut found = (out * gradient)?.sum_all()?.backward()?;
    walk.leaves.collect(&mut found)?;
    // Candle leaves a graph at gradients of variables, by which the next way back would come here again.
    Ok(found.remove(entrance).map(|gradient| gradient.detach()))
}

/// Losses of the batch's targets, logits standing a chunk of rows at a time, and the gradient of the normalised rows.
fn entropy(walk: &mut Walk<'_>, normed: &Tensor, learn: Option<Learn>) -> Result<(Vec<f32>, Option<Tensor>)> {
    let (device, targets) = (&walk.weights.device, walk.batch.targets());
    let mut losses = Vec::with_capacity(targets.len());
    let mut of_normed = (learn.is_some() && normed.track_op())
        .then(|| normed.zeros_like())
        .transpose()?;
    for targets in targets.chunks(logits_rows(walk.model.spec().vocab_size)) {
        let of_each = |of: fn(&Target) -> u32| Tensor::from_iter(targets.iter().map(of), device);
        let (rows, tokens) = (of_each(|target| target.row as u32)?, of_each(|target| target.token)?);
        let input = normed.detach().index_select(&rows, 0)?;
        let input = match of_normed {
            Some(_) => Var::from_tensor(&input)?.into_inner(),
            None => input,
        };
        let logits = walk.run(&input, |walk, x| walk.map(x, Site::Output))?;
        let (of_chunk, gradient) = cross_entropy(&logits, &tokens, learn.map(|learn| learn.weight))?;
        losses.extend(of_chunk);
        let Some(gradient) = gradient else { continue };
        let of_input = pull(walk, &logits, &gradient.to_dtype(logits.dtype())?, &input)?;
        if let (Some(sum), Some(of_input)) = (&mut of_normed, of_input) {
            *sum = sum.index_add(&rows, &of_input, 0)?;
        }
    }
    Ok((losses, of_normed))
}
