//! The loop: rows to batches, losses and gradients, clipping, the optimizer's step; evaluations between, and when to end.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use rootstock_decoder::{Backend, Batch, DecoderError, FrozenModel, Learn, Subject};

use super::shortage::{AtATime, Pass};
use super::{Order, Row, RunSettings};
use crate::adapter::Attached;
use crate::optimizer::{AdamW, LossScale, Parameter, Step, clip_scale, gradient_norm};
use crate::records::{EarlyStopping, GradientWatch, LossWatch, Warning};
use crate::schedule::Schedule;
use crate::{Random, TrainError};

/// What a run tells while it goes on.
pub trait Observer {
    /// After every optimizer step; `Break` ends the run.
    fn step(&mut self, trainer: &Trainer<'_>, report: &StepReport) -> Result<ControlFlow<()>, TrainError>;
    /// After every evaluation; `Break` ends the run.
    fn evaluation(&mut self, trainer: &Trainer<'_>, loss: f64) -> Result<ControlFlow<()>, TrainError>;
    /// When a checkpoint is due.
    fn checkpoint(&mut self, trainer: &Trainer<'_>) -> Result<(), TrainError>;
    /// When something should be known.
    fn warning(&mut self, warning: &Warning);
}

/// A step that was done.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// Steps done, this one included.
    pub step: u64,
    /// Passes over the rows done, with a fraction.
    pub epoch: f64,
    /// Mean loss over the tokens that are learned.
    pub loss: f64,
    /// The same over all steps since the last record, where one is due.
    pub logged: Option<f64>,
    /// Rate that it was done at.
    pub learning_rate: f64,
    /// Norm of the gradients before clipping; infinite where they left the range of float16.
    pub grad_norm: f64,
    /// Tokens read, and tokens learned, in this step.
    pub tokens: [u64; 2],
    /// Time that it took.
    pub took: Duration,
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// All steps are done.
    Complete,
    /// Evaluations no longer improved.
    Stopped,
    /// The observer said so.
    Interrupted,
}

/// A run and its state.
pub struct Trainer<'a> {
    pub(super) engine: &'a mut dyn Backend,
    pub(super) model: &'a FrozenModel,
    pub(super) settings: RunSettings,
    pub(super) attached: Attached,
    pub(super) optimizer: AdamW,
    pub(super) step: u64,
    /// Tokens read and tokens learned.
    pub(super) tokens: [u64; 2],
    pub(super) stopping: EarlyStopping,
    pub(super) watch: LossWatch,
    /// Losses since the last record, and the tokens that they are of.
    pub(super) pending: (f64, u64),
    /// Values of all parameters at the best evaluation, where that is asked for.
    pub(super) best: Option<Vec<Vec<f32>>>,
    pub(super) rows: &'a [Row],
    pub(super) eval_rows: &'a [Row],
    pub(super) at_a_time: AtATime,
    /// Where gradients pass through float16.
    pub(super) loss_scale: Option<LossScale>,
    /// Bytes of the largest step so far.
    pub(super) seen: usize,
    schedule: Schedule,
    pub(super) order: Order,
    gradient_watch: GradientWatch,
}

impl<'a> Trainer<'a> {
    /// A run at its beginning.
    ///
    /// # Errors
    /// Settings that are none, or no rows.
    pub fn new(
        engine: &'a mut dyn Backend,
        model: &'a FrozenModel,
        attached: Attached,
        (rows, eval_rows): (&'a [Row], &'a [Row]),
        settings: RunSettings,
    ) -> Result<Self, TrainError> {
        settings.check()?;
        if rows.is_empty() {
            return Err(TrainError::Dataset("expected rows to train on, got none".to_owned()));
        }
        let groups = attached.parameters.iter().map(|parameter| {
            let group = Parameter::new(parameter.name.clone(), &parameter.shape);
            group.with_lora_plus(settings.lora_plus_ratio)
        });
        let optimizer = AdamW::new(settings.optimizer, groups)?;
        let gradient_watch = GradientWatch::new(optimizer.parameters().len());
        Ok(Self {
            optimizer,
            schedule: settings.rates(rows.len())?,
            order: Order::new(rows.len(), settings.rows_per_step(), settings.seed),
            stopping: EarlyStopping::new(settings.patience, settings.min_delta),
            watch: LossWatch::default(),
            pending: (0.0, 0),
            gradient_watch,
            best: None,
            at_a_time: AtATime {
                training: settings.batch_size,
                evaluation: settings.eval_batch_size,
            },
            loss_scale: engine.scales_losses().then(LossScale::default),
            seen: 0,
            step: 0,
            tokens: [0; 2],
            engine,
            model,
            attached,
            rows,
            eval_rows,
            settings,
        })
    }

    /// Steps done.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Steps of the whole run.
    pub fn total_steps(&self) -> u64 {
        self.settings.total_steps(self.rows.len())
    }

    /// Passes over the rows done, with a fraction.
    pub fn epoch(&self) -> f64 {
        self.order.passes(self.step)
    }

    /// Tokens read and tokens learned so far.
    pub fn tokens(&self) -> [u64; 2] {
        self.tokens
    }

    /// The best evaluation so far.
    pub fn best(&self) -> Option<crate::records::Best> {
        self.stopping.best()
    }

    /// What is trained.
    pub fn attached(&self) -> &Attached {
        &self.attached
    }

    /// Ends the run and gives what was trained.
    pub fn into_attached(self) -> Attached {
        self.attached
    }

    /// Goes on to the end.
    ///
    /// # Errors
    /// What the observer gives, or an optimizer that does not know its parameters.
    pub fn run(&mut self, observer: &mut dyn Observer) -> Result<Ending, TrainError> {
        let total = self.total_steps();
        let due = |every: u64, step: u64| every > 0 && step.is_multiple_of(every);
        while self.step < total {
            let report = self.one_step(observer)?;
            let mut go_on = observer.step(self, &report)?;
            let evaluate = due(self.settings.eval_steps, self.step) || self.step == total;
            let mut stop = false;
            if evaluate && !self.eval_rows.is_empty() {
                let (verdict, wanted) = self.evaluation(observer)?;
                stop = verdict;
                go_on = if wanted.is_break() { wanted } else { go_on };
            }
            if due(self.settings.save_steps, self.step) || (go_on.is_break() && self.settings.save_steps > 0) {
                observer.checkpoint(self)?;
            }
            if stop {
                self.restore_best();
                return Ok(Ending::Stopped);
            }
            if go_on.is_break() {
                return Ok(Ending::Interrupted);
            }
        }
        if self.settings.patience.is_some() {
            self.restore_best();
        }
        Ok(Ending::Complete)
    }

    fn evaluation(&mut self, observer: &mut dyn Observer) -> Result<(bool, ControlFlow<()>), TrainError> {
        let loss = self.evaluate(observer)?;
        if let Some(warning) = self.watch.evaluation(self.step, loss) {
            observer.warning(&warning);
        }
        let verdict = self.stopping.observe(self.step, loss);
        if verdict.best && self.settings.patience.is_some() {
            let values = self
                .attached
                .parameters
                .iter()
                .map(|parameter| parameter.values.clone());
            self.best = Some(values.collect());
        }
        Ok((verdict.stop, observer.evaluation(self, loss)?))
    }

    fn restore_best(&mut self) {
        let best = self.best.take().into_iter().flatten();
        for (parameter, values) in self.attached.parameters.iter_mut().zip(best) {
            parameter.values = values;
        }
    }

    /// Mean loss of the rows that are held out.
    fn evaluate(&mut self, observer: &mut dyn Observer) -> Result<f64, TrainError> {
        let (mut sum, mut count) = (0.0, 0);
        let mut rows = self.eval_rows;
        while !rows.is_empty() {
            let (first, rest) = rows.split_at(rows.len().min(self.at_a_time.evaluation));
            let (engine, subject) = self.subject();
            match engine.step(subject, &batch(first.iter()), None) {
                Ok(losses) => {
                    sum += losses.iter().map(|&loss| f64::from(loss)).sum::<f64>();
                    count += losses.len();
                    rows = rest;
                }
                Err(failure) => observer.warning(&self.halve_after(Pass::Evaluation, failure)?),
            }
        }
        Ok(sum / count as f64)
    }

    fn one_step(&mut self, observer: &mut dyn Observer) -> Result<StepReport, TrainError> {
        let start = Instant::now();
        let step = self.step;
        if let Some(warning) = self.fit_step() {
            observer.warning(&warning);
        }
        let rows: Vec<usize> = self.order.rows_of(step).to_vec();
        let learned: usize = rows
            .iter()
            .flat_map(|&row| &self.rows[row])
            .map(|sample| sample.learned_tokens())
            .sum();
        let (sum, read) = self.gradients(&rows, learned, observer)?;
        let loss = sum / learned.max(1) as f64;
        let learning_rate = self.schedule.learning_rate(step);
        let scaled_back = self.scale_back(observer);
        let grad_norm = match scaled_back {
            true => self.update(learning_rate, observer)?,
            false => f64::INFINITY,
        };
        self.step += 1;
        let tokens = [read, learned as u64];
        (0..2).for_each(|kind| self.tokens[kind] += tokens[kind]);
        // What a skipped step's gradients were has been said.
        let norm = if scaled_back { grad_norm } else { 0.0 };
        if let Some(warning) = self.watch.step(self.step, loss, norm) {
            observer.warning(&warning);
        }
        Ok(StepReport {
            step: self.step,
            epoch: self.order.passes(self.step),
            loss,
            logged: self.logged(sum, learned as u64),
            learning_rate,
            grad_norm,
            tokens,
            took: start.elapsed(),
        })
    }

    /// Gradients of the mean loss over the `learned` tokens of these rows, as many rows at a time as fit; the sum of their losses,
    /// and the tokens that were read.
    fn gradients(
        &mut self,
        rows: &[usize],
        learned: usize,
        observer: &mut dyn Observer,
    ) -> Result<(f64, u64), TrainError> {
        loop {
            match self.accumulate(rows, learned) {
                Ok(found) => return Ok(found),
                // What was found so far is found again.
                Err(failure) => observer.warning(&self.halve_after(Pass::Training, failure)?),
            }
        }
    }

    /// The same with a fixed number of rows at a time.
    fn accumulate(&mut self, rows: &[usize], learned: usize) -> Result<(f64, u64), DecoderError> {
        self.attached.parameters.clear_gradients();
        let (mut sum, mut read) = (0.0, 0);
        for (index, rows) in rows.chunks(self.at_a_time.training).enumerate() {
            let batch = batch(rows.iter().map(|&row| &self.rows[row]));
            let learn = Learn {
                weight: self.loss_factor() / learned.max(1) as f32,
                dropout_key: Random::new(self.settings.seed, &format!("dropout {} {index}", self.step)).bits(),
            };
            let (engine, subject) = self.subject();
            let losses = engine.step(subject, &batch, Some(learn))?;
            sum += losses.iter().map(|&loss| f64::from(loss)).sum::<f64>();
            read += batch.tokens().len() as u64;
        }
        Ok((sum, read))
    }

    /// Adds the losses of a step; their mean since the last record, where one is due.
    fn logged(&mut self, sum: f64, learned: u64) -> Option<f64> {
        self.pending.0 += sum;
        self.pending.1 += learned;
        let due = self.step.is_multiple_of(self.settings.logging_steps) || self.step == self.total_steps();
        let (sum, learned) = due.then(|| std::mem::take(&mut self.pending))?;
        Some(sum / learned.max(1) as f64)
    }

    /// The optimizer's step; the norm of the gradients before clipping. Gradients that are not finite change nothing.
    fn update(&mut self, learning_rate: f64, observer: &mut dyn Observer) -> Result<f64, TrainError> {
        let parameters = &mut self.attached.parameters;
        let norm = gradient_norm(parameters.iter().map(|parameter| parameter.gradient.as_slice()));
        if self.gradient_watch.watches() {
            for (index, parameter) in parameters.iter().enumerate() {
                self.gradient_watch.gradient(index, &parameter.gradient);
            }
            for index in self.gradient_watch.end_step(learning_rate).into_iter().flatten() {
                let name = parameters.iter().nth(index).map(|parameter| parameter.name.clone());
                observer.warning(&Warning::NoGradient {
                    name: name.unwrap_or_default(),
                });
            }
        }
        if !norm.is_finite() {
            return Ok(norm);
        }
        let clips = self.settings.max_grad_norm > 0.0;
        let step = Step {
            learning_rate,
            gradient_scale: if clips {
                clip_scale(norm, self.settings.max_grad_norm)
            } else {
                1.0
            },
        };
        for (index, parameter) in parameters.iter_mut().enumerate() {
            self.optimizer
                .update(index, &mut parameter.values, &parameter.gradient, step)?;
        }
        Ok(norm)
    }

    pub(super) fn subject(&mut self) -> (&mut dyn Backend, Subject<'_>) {
        let subject = Subject {
            model: self.model,
            trained: &self.attached.trained,
            parameters: &mut self.attached.parameters,
        };
        (self.engine, subject)
    }
}

/// Rows as one batch.
pub(super) fn batch<'a>(rows: impl Iterator<Item = &'a Row>) -> Batch {
    let mut batch = Batch::default();
    for sample in rows.flatten() {
        batch.push(&sample.ids, &sample.learned);
    }
    batch
}
