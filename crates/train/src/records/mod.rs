//! The record of a run: what is logged ([`RunLog`]), when to stop ([`EarlyStopping`]), what to warn of ([`LossWatch`],
//! [`GradientWatch`]), and how fast it goes ([`Throughput`]). None of it changes what a step computes.

mod metrics;
mod stopping;
mod tensorboard;
#[cfg(test)]
mod tests;
mod throughput;
mod warning;

use std::path::Path;

pub use metrics::{MetricsLog, Record};
pub use stopping::{Best, EarlyStopping, Verdict};
pub use tensorboard::EventWriter;
pub use throughput::Throughput;
pub use warning::{GradientWatch, LossWatch, Warning};

use crate::TrainError;

/// Everything a run writes while it goes on: `metrics.jsonl`, and TensorBoard's events where they are wanted.
#[derive(Debug)]
pub struct RunLog {
    metrics: MetricsLog,
    events: Option<EventWriter>,
}

impl RunLog {
    /// Starts the log of a run. `events` is TensorBoard's folder.
    ///
    /// # Errors
    /// Files that cannot be written.
    pub fn create(metrics: &Path, events: Option<&Path>) -> Result<Self, TrainError> {
        Ok(Self {
            metrics: MetricsLog::create(metrics)?,
            events: events.map(EventWriter::create).transpose()?,
        })
    }

    /// Goes on after `step`, and returns what was logged up to it; what lies after it is dropped, because it will be logged again.
    ///
    /// # Errors
    /// Files that cannot be read or written, or a log that is not one.
    pub fn resume(metrics: &Path, events: Option<&Path>, step: u64) -> Result<(Self, Vec<Record>), TrainError> {
        let (metrics, records) = MetricsLog::resume(metrics, step)?;
        let events = events.map(|folder| EventWriter::resume(folder, step)).transpose()?;
        Ok((Self { metrics, events }, records))
    }

    /// Writes a record; it is with the system when this returns.
    ///
    /// # Errors
    /// Files that cannot be written.
    pub fn record(&mut self, record: &Record) -> Result<(), TrainError> {
        self.metrics.append(record)?;
        match &mut self.events {
            Some(events) => events.scalars(record.step, &record.scalars()),
            None => Ok(()),
        }
    }
}
