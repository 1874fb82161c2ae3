//! What is told and written down while a run goes on.

use std::ops::ControlFlow;
use std::time::Instant;

use anyhow::Result;
use rootstock_train::TrainError;
use rootstock_train::display::Display;
use rootstock_train::memory::Memory;
use rootstock_train::records::{Record, RunLog, Throughput, Warning};
use rootstock_train::run::{Ending, Observer, StepReport, Trainer, checkpoint};
use rootstock_train::search::Decision;

use super::interrupt::Interrupt;
use super::outcome::Outcome;
use super::output::Output;

/// Seconds of the run so far, over all its parts, as records keep them.
const SECONDS: &str = "seconds";

/// Sees the step and the loss of every evaluation, and says whether the run is worth going on.
pub type Judge<'a> = &'a mut (dyn FnMut(u64, f64) -> Decision + 'a);

/// Watches a run: records, checkpoints, warnings, the terminal.
pub struct Watch<'a, 'j> {
    output: &'a Output,
    log: RunLog,
    records: Vec<Record>,
    throughput: Throughput,
    warnings: Vec<String>,
    interrupt: &'a Interrupt,
    judge: Option<Judge<'j>>,
    /// Whether the judge has ended the run.
    pruned: bool,
    /// Whether the weights of the best evaluation are put back at the end.
    best_restored: bool,
    start: Instant,
    /// Seconds of the parts before.
    before: f64,
}

impl<'a, 'j> Watch<'a, 'j> {
    /// Begins a run's log, or goes on with it.
    ///
    /// # Errors
    /// Files that cannot be written.
    pub fn new(
        output: &'a Output,
        trainer: &Trainer<'_>,
        resumed: bool,
        (interrupt, mut judge): (&'a Interrupt, Option<Judge<'j>>),
    ) -> Result<Self> {
        let settings = output.settings();
        let metrics = settings.output.join("metrics.jsonl");
        let (log, records) = match resumed {
            true => RunLog::resume(&metrics, settings.events.as_deref(), trainer.step())?,
            false => (RunLog::create(&metrics, settings.events.as_deref())?, Vec::new()),
        };
        if let Some(judge) = &mut judge {
            // What was seen before the run was broken off is seen again, in a process that does not know it.
            let losses = records
                .iter()
                .filter_map(|record| Some((record.step, record.eval_loss?)));
            losses.for_each(|(step, loss)| {
                let _ = judge(step, loss);
            });
        }
        interrupt.begin(Display::new(trainer.total_steps(), settings.run.logging_steps));
        let runtime = |record: &Record| record.more.get(SECONDS).copied();
        Ok(Self {
            output,
            log,
            before: records.iter().rev().find_map(runtime).unwrap_or(0.0),
            records,
            throughput: Throughput::default(),
            warnings: output.facts().warning().into_iter().collect(),
            interrupt,
            judge,
            pruned: false,
            best_restored: settings.run.patience.is_some(),
            start: Instant::now(),
        })
    }

    /// What came of the run.
    pub fn finish(self, trainer: &Trainer<'_>, ending: Ending) -> Outcome {
        let (runtime, [tokens, learned_tokens], best) = (self.runtime(), trainer.tokens(), trainer.best());
        let last = |of: fn(&Record) -> Option<f64>| self.records.iter().rev().find_map(of);
        let of_best = best.filter(|_| self.best_restored && ending != Ending::Interrupted);
        let eval_loss = of_best
            .map(|best| best.loss)
            .or_else(|| last(|record| record.eval_loss));
        Outcome {
            output: self.output.dir().display().to_string(),
            ending: match self.pruned {
                true => "pruned".to_owned(),
                false => format!("{ending:?}").to_lowercase(),
            },
            steps: trainer.step(),
            epoch: trainer.epoch(),
            tokens,
            learned_tokens,
            loss: last(|record| record.loss),
            eval_loss,
            eval_perplexity: eval_loss.map(f64::exp),
            best,
            runtime,
            tokens_per_second: tokens as f64 / runtime,
            peak_memory: Memory::now().map(|memory| memory.peak),
            facts: self.output.facts().clone(),
            warnings: self.warnings,
            records: self.records,
        }
    }

    fn runtime(&self) -> f64 {
        self.before + self.start.elapsed().as_secs_f64()
    }

    fn record(&mut self, mut record: Record) -> Result<(), TrainError> {
        record.more.insert(SECONDS.to_owned(), self.runtime());
        self.log.record(&record)?;
        self.records.push(record);
        Ok(())
    }
}

impl Observer for Watch<'_, '_> {
    fn step(&mut self, trainer: &Trainer<'_>, report: &StepReport) -> Result<ControlFlow<()>, TrainError> {
        self.throughput.step(report.tokens[0], report.took);
        let record = Record {
            step: report.step,
            epoch: report.epoch,
            loss: Some(report.logged.unwrap_or(report.loss)),
            learning_rate: Some(report.learning_rate),
            grad_norm: Some(report.grad_norm),
            tokens: Some(trainer.tokens()[0]),
            tokens_per_second: self.throughput.tokens_per_second(),
            memory: Memory::now().map(|memory| memory.resident),
            ..Record::default()
        };
        let left = self.throughput.time_for(trainer.total_steps() - report.step);
        self.interrupt.show(|display| display.step(&record, left));
        if report.logged.is_some() {
            self.record(record)?;
        }
        Ok(match self.interrupt.asked() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        })
    }

    fn evaluation(&mut self, trainer: &Trainer<'_>, loss: f64) -> Result<ControlFlow<()>, TrainError> {
        let record = Record {
            step: trainer.step(),
            epoch: trainer.epoch(),
            eval_loss: Some(loss),
            ..Record::default()
        };
        let left = self.throughput.time_for(trainer.total_steps() - trainer.step());
        self.interrupt.show(|display| display.step(&record, left));
        self.record(record)?;
        let decision = self.judge.as_mut().map(|judge| judge(trainer.step(), loss));
        self.pruned = decision == Some(Decision::Prune);
        Ok(match self.pruned {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        })
    }

    fn checkpoint(&mut self, trainer: &Trainer<'_>) -> Result<(), TrainError> {
        let output = self.output;
        let path = checkpoint::save(trainer, output.dir(), |dir| output.write(dir, trainer.attached(), None))?;
        self.interrupt.say(&format!("saved {}", path.display()));
        Ok(())
    }

    fn warning(&mut self, warning: &Warning) {
        self.interrupt.say(&format!("warning: {warning}"));
        self.warnings.push(warning.to_string());
    }
}
