//! What is told and written down while a run goes on.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use rootstock_train::TrainError;
use rootstock_train::records::{Record, RunLog, Throughput, Warning};
use rootstock_train::run::{Observer, StepReport, Trainer, checkpoint};

use super::output::Output;
use crate::settings::FinetuneSettings;

/// Watches a run: records, checkpoints, warnings, the terminal.
pub struct Watch<'a> {
    output: &'a Output<'a>,
    log: RunLog,
    /// Every record so far.
    pub records: Vec<Record>,
    throughput: Throughput,
    /// What was warned of.
    pub warnings: Vec<String>,
    interrupted: Arc<AtomicBool>,
}

impl<'a> Watch<'a> {
    /// Begins a run's log, or goes on with it.
    ///
    /// # Errors
    /// Files that cannot be written.
    pub fn new(
        settings: &FinetuneSettings,
        output: &'a Output<'a>,
        trainer: &Trainer<'_>,
        resumed: bool,
    ) -> Result<Self> {
        let metrics = settings.output.join("metrics.jsonl");
        let (log, records) = match resumed {
            true => RunLog::resume(&metrics, settings.events.as_deref(), trainer.step())?,
            false => (RunLog::create(&metrics, settings.events.as_deref())?, Vec::new()),
        };
        Ok(Self {
            output,
            log,
            records,
            throughput: Throughput::default(),
            warnings: Vec::new(),
            interrupted: interrupt(),
        })
    }

    fn record(&mut self, record: Record) -> Result<(), TrainError> {
        self.log.record(&record)?;
        self.records.push(record);
        Ok(())
    }
}

impl Observer for Watch<'_> {
    fn step(&mut self, trainer: &Trainer<'_>, report: &StepReport) -> Result<ControlFlow<()>, TrainError> {
        self.throughput.step(report.tokens[0], report.took);
        if report.logged.is_some() {
            let record = Record {
                step: report.step,
                epoch: report.epoch,
                loss: report.logged,
                learning_rate: Some(report.learning_rate),
                grad_norm: Some(report.grad_norm),
                tokens: Some(trainer.tokens()[0]),
                tokens_per_second: self.throughput.tokens_per_second(),
                ..Record::default()
            };
            let left = self.throughput.time_for(trainer.total_steps() - report.step);
            eprintln!(
                "step {} of {}  loss {:.4}  {:.0} tok/s  {:.0} s left",
                report.step,
                trainer.total_steps(),
                record.loss.unwrap_or(f64::NAN),
                record.tokens_per_second.unwrap_or(0.0),
                left.unwrap_or_default().as_secs_f64()
            );
            self.record(record)?;
        }
        Ok(match self.interrupted.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        })
    }

    fn evaluation(&mut self, trainer: &Trainer<'_>, loss: f64) -> Result<ControlFlow<()>, TrainError> {
        eprintln!(
            "step {}  eval loss {loss:.4}  perplexity {:.2}",
            trainer.step(),
            loss.exp()
        );
        self.record(Record {
            step: trainer.step(),
            epoch: trainer.epoch(),
            eval_loss: Some(loss),
            ..Record::default()
        })?;
        Ok(ControlFlow::Continue(()))
    }

    fn checkpoint(&mut self, trainer: &Trainer<'_>) -> Result<(), TrainError> {
        let output = self.output;
        checkpoint::save(trainer, output.dir(), |dir| {
            output.write_adapter(dir, &trainer.attached().parameters)
        })?;
        Ok(())
    }

    fn warning(&mut self, warning: &Warning) {
        eprintln!("warning: {warning}");
        self.warnings.push(warning.to_string());
    }
}

/// Set by Ctrl-C: the run ends after its step, with a checkpoint where those are written. A second one ends the process.
fn interrupt() -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&flag);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else { return };
        while runtime.block_on(tokio::signal::ctrl_c()).is_ok() {
            if seen.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
            eprintln!("ends after this step; press again to end at once");
        }
    });
    flag
}
