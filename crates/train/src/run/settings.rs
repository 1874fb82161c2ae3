//! What decides the numbers of a run, in Hugging Face's terms.

use serde_json::{Map, Value, json};

use crate::TrainError;
use crate::optimizer::{AdamWSettings, MomentType};
use crate::schedule::{Schedule, ScheduleKind, ScheduleOptions, Warmup};

/// Settings of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct RunSettings {
    /// Optimizer steps; `None` goes by `epochs`.
    pub max_steps: Option<u64>,
    /// Passes over the rows.
    pub epochs: f64,
    /// Rows computed at a time.
    pub batch_size: usize,
    /// Batches to an optimizer step.
    pub accumulation: usize,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Curve of the learning rate.
    pub schedule: ScheduleKind,
    /// Its options.
    pub schedule_options: ScheduleOptions,
    /// How long it climbs.
    pub warmup: Warmup,
    /// AdamW.
    pub optimizer: AdamWSettings,
    /// Learning rate of B as a multiple of A's (LoRA+).
    pub lora_plus_ratio: f64,
    /// Gradients are scaled so that their norm is at most this; 0 leaves them.
    pub max_grad_norm: f64,
    /// Of everything random.
    pub seed: u64,
    /// Steps between evaluations; 0 evaluates at the end alone.
    pub eval_steps: u64,
    /// Rows evaluated at a time.
    pub eval_batch_size: usize,
    /// Steps between checkpoints; 0 writes none.
    pub save_steps: u64,
    /// Checkpoints kept beside the best.
    pub save_total_limit: usize,
    /// Steps between records.
    pub logging_steps: u64,
    /// Evaluations without a gain after which the run ends; the best weights are put back.
    pub patience: Option<u32>,
    /// What counts as a gain.
    pub min_delta: f64,
    /// Bytes that the process may take; `None` for what the system leaves it.
    pub memory_limit: Option<u64>,
    /// What else decides the numbers, by the names of settings: the adapter's configuration, the base, the arithmetic.
    pub decisive: Map<String, Value>,
}

impl Default for RunSettings {
    fn default() -> Self {
        Self {
            max_steps: None,
            epochs: 3.0,
            batch_size: 8,
            accumulation: 1,
            learning_rate: 5e-5,
            schedule: ScheduleKind::Linear,
            schedule_options: ScheduleOptions::default(),
            warmup: Warmup::Steps(0),
            optimizer: AdamWSettings::default(),
            lora_plus_ratio: 1.0,
            max_grad_norm: 1.0,
            seed: 42,
            eval_steps: 0,
            eval_batch_size: 8,
            save_steps: 0,
            save_total_limit: 2,
            logging_steps: 10,
            patience: None,
            min_delta: 0.0,
            memory_limit: None,
            decisive: Map::new(),
        }
    }
}

impl RunSettings {
    /// Rows of an optimizer step.
    pub fn rows_per_step(&self) -> usize {
        self.batch_size * self.accumulation
    }

    /// Optimizer steps of a pass over `rows` rows; the last one may have fewer rows.
    pub fn steps_per_epoch(&self, rows: usize) -> u64 {
        rows.div_ceil(self.rows_per_step().max(1)) as u64
    }

    /// Optimizer steps of the run.
    pub fn total_steps(&self, rows: usize) -> u64 {
        let by_epochs = (self.epochs * self.steps_per_epoch(rows) as f64).ceil() as u64;
        self.max_steps.unwrap_or(by_epochs)
    }

    /// The learning rates of the run.
    ///
    /// # Errors
    /// As [`Schedule::new`].
    pub fn rates(&self, rows: usize) -> Result<Schedule, TrainError> {
        let total = self.total_steps(rows);
        Schedule::new(
            self.schedule,
            &self.schedule_options,
            self.learning_rate,
            self.warmup,
            total,
        )
    }

    /// Checks what the parts do not check themselves.
    ///
    /// # Errors
    /// A number of 0 where nothing can be counted, or one that is not finite.
    pub fn check(&self) -> Result<(), TrainError> {
        let positive = [
            ("per_device_train_batch_size", self.batch_size as u64),
            ("per_device_eval_batch_size", self.eval_batch_size as u64),
            ("gradient_accumulation_steps", self.accumulation as u64),
            ("logging_steps", self.logging_steps),
            ("max_steps", self.max_steps.unwrap_or(1)),
        ];
        if let Some((field, _)) = positive.into_iter().find(|(_, value)| *value == 0) {
            return Err(TrainError::setting(field, "expected a positive number, got 0"));
        }
        let not_negative = [
            ("num_train_epochs", self.epochs),
            ("max_grad_norm", self.max_grad_norm),
            ("loraplus_lr_ratio", self.lora_plus_ratio),
            ("early_stopping_threshold", self.min_delta),
        ];
        match not_negative
            .into_iter()
            .find(|(_, value)| !value.is_finite() || *value < 0.0)
        {
            Some((field, value)) => Err(TrainError::setting(
                field,
                format!("expected a number of 0 or more, got {value}"),
            )),
            None => Ok(()),
        }
    }

    /// What a run that goes on must have in common with the one it goes on from.
    pub fn identity(&self) -> Map<String, Value> {
        let AdamWSettings {
            beta1,
            beta2,
            eps,
            weight_decay,
            moments,
        } = self.optimizer;
        let own = json!({
            "max_steps": self.max_steps,
            "num_train_epochs": self.epochs,
            "per_device_train_batch_size * gradient_accumulation_steps": self.rows_per_step(),
            "learning_rate": self.learning_rate,
            "lr_scheduler_type": format!("{:?} {:?} {:?}", self.schedule, self.schedule_options, self.warmup),
            "optim": if moments == MomentType::F32 { "adamw" } else { "adamw_8bit" },
            "adam_beta1": beta1,
            "adam_beta2": beta2,
            "adam_epsilon": eps,
            "weight_decay": weight_decay,
            "loraplus_lr_ratio": self.lora_plus_ratio,
            "max_grad_norm": self.max_grad_norm,
            "seed": self.seed,
        });
        let own = own.as_object().into_iter().flatten();
        own.chain(&self.decisive)
            .map(|(field, value)| (field.clone(), value.clone()))
            .collect()
    }
}
