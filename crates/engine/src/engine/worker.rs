//! The engine thread: receive, plan, step, sample, report, until there is nothing left to receive.

use std::any::Any;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Receiver;

use super::generation::{Ending, Generation, Outcome, Report};
use super::{EngineSettings, EngineStats, Gauges, Slot};
use crate::Runner;
use crate::error::EngineError;
use crate::kv::BlockPool;
use crate::request::{FinishReason, Graft, Request};
use crate::runner::{AppliedAdapter, BatchView, InputRow, Logits, OutputRows, RunnerError, SequenceView};
use crate::sampling::Scratch;
use crate::scheduler::{Chunk, NewSequence, Plan, Scheduler, SchedulerSettings, SequenceId};

/// Rows of a prompt that are scored in one step: 64 rows of 49,152 logits are 12 MB.
const MAX_SCORED_ROWS: usize = 64;

/// A request on its way to the thread.
pub(super) struct Accepted {
    pub(super) request: Request,
    pub(super) report: Report,
    pub(super) slot: Slot,
}

pub(super) struct Worker {
    runner: Box<dyn Runner>,
    vocab_size: usize,
    scheduler: Scheduler,
    generations: HashMap<SequenceId, Generation>,
    /// Most tokens of a sequence.
    limit: usize,
    inbox: Receiver<Accepted>,
    gauges: Arc<Gauges>,
    next_id: u64,
    steps: u64,
    logits: Logits,
    scratch: Scratch,
    /// Sent at the end of a round, when memory, counters and leases show that the requests are over.
    endings: Vec<Ending>,
}

impl Worker {
    pub(super) fn new(
        runner: Box<dyn Runner>,
        settings: EngineSettings,
        limit: usize,
        inbox: Receiver<Accepted>,
        gauges: Arc<Gauges>,
    ) -> Self {
        let capabilities = runner.capabilities();
        let scheduler_settings = SchedulerSettings {
            max_sequences: settings.max_sequences,
            max_batch_rows: settings.max_batch_rows,
            max_scored_rows: MAX_SCORED_ROWS,
            prefix_cache: settings.prefix_cache,
            prompts_apart: capabilities.prompts_apart,
            decode_slowdown: settings.decode_slowdown,
        };
        let pool = BlockPool::new(capabilities.blocks, capabilities.block_tokens);
        Self {
            runner,
            vocab_size: capabilities.vocab_size,
            scheduler: Scheduler::new(scheduler_settings, pool),
            generations: HashMap::new(),
            limit,
            inbox,
            gauges,
            next_id: 0,
            steps: 0,
            logits: Logits::default(),
            scratch: Scratch::default(),
            endings: Vec::new(),
        }
    }

    pub(super) fn run(mut self) {
        while self.receive() {
            self.round();
        }
    }

    /// One step, or none if everything was cancelled, and its consequences.
    pub(super) fn round(&mut self) {
        self.drop_cancelled();
        let plan = self.scheduler.plan();
        if !plan.chunks.is_empty() {
            self.report_starts(&plan);
            let start = Instant::now();
            self.step(&plan);
            self.scheduler.measured(&plan, start.elapsed());
        }
        self.publish();
        self.endings.drain(..).for_each(Ending::send);
    }

    /// Takes in what has arrived; sleeps while there is nothing to do. False once nothing can arrive any more.
    fn receive(&mut self) -> bool {
        if self.scheduler.is_idle() {
            match self.inbox.recv() {
                Ok(accepted) => self.accept(accepted),
                Err(_) => return false,
            }
        }
        while let Ok(accepted) = self.inbox.try_recv() {
            self.accept(accepted);
        }
        true
    }

    pub(super) fn accept(&mut self, mut accepted: Accepted) {
        let prompt = std::mem::take(&mut accepted.request.prompt);
        let score_from = accepted.request.prompt_logprobs.map(|scoring| scoring.from);
        let applied = |graft: &Graft| AppliedAdapter {
            weights: Arc::clone(graft.lease.weights()),
            scale: graft.scale,
        };
        let adapters = accepted.request.grafts.iter().map(applied).collect();
        let tenant = Arc::clone(&accepted.request.tenant);
        let nothing_to_do = accepted.request.max_tokens == 0 && score_from.is_none();
        let mut generation = Generation::new(accepted, &prompt, self.limit);
        if nothing_to_do {
            generation.start(0);
            self.endings
                .push(generation.end(Outcome::Finished(FinishReason::Length)));
            return;
        }
        let id = SequenceId(self.next_id);
        self.next_id += 1;
        self.scheduler.add(NewSequence {
            id,
            prompt,
            adapters,
            score_from,
            tenant,
        });
        self.generations.insert(id, generation);
    }

    fn drop_cancelled(&mut self) {
        let scheduler = &mut self.scheduler;
        self.generations.retain(|&id, generation| {
            let cancelled = generation.is_cancelled();
            if cancelled {
                scheduler.remove(id);
            }
            !cancelled
        });
    }

    /// Tells those that the plan has admitted.
    fn report_starts(&mut self, plan: &Plan) {
        for chunk in &plan.chunks {
            if let Some(generation) = self.generations.get_mut(&chunk.id) {
                generation.start(self.scheduler.cached_tokens(chunk.id));
            }
        }
    }

    /// Runs the plan. Whatever goes wrong in it is the end of its requests, not of the thread.
    fn step(&mut self, plan: &Plan) {
        self.steps += 1;
        let Self {
            runner,
            scheduler,
            logits,
            ..
        } = self;
        let run = || run_plan(&mut **runner, scheduler, plan, logits);
        let failure = match catch_unwind(AssertUnwindSafe(run)) {
            Ok(Ok(())) => {
                self.scheduler.succeeded(plan);
                self.take_logits(plan);
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(panic) => format!("the model runner panicked: {}", panic_message(&*panic)),
        };
        tracing::error!(sequences = plan.chunks.len(), %failure, "a step failed");
        for chunk in &plan.chunks {
            self.finish(chunk.id, Outcome::Failed(EngineError::Runner(failure.clone())));
        }
        self.scheduler.failed(plan);
    }

    /// Hands each chunk its rows of the step's logits.
    fn take_logits(&mut self, plan: &Plan) {
        let logits = std::mem::take(&mut self.logits);
        let mut rest = logits.values.as_slice();
        for chunk in &plan.chunks {
            let (rows, following) = rest.split_at(output_rows(chunk) * self.vocab_size);
            rest = following;
            self.use_rows(chunk, rows);
        }
        self.logits = logits;
    }

    /// Scores and continues one sequence.
    fn use_rows(&mut self, chunk: &Chunk, rows: &[f32]) {
        let Err(outcome) = self.advance(chunk, rows) else {
            return;
        };
        let trusted = matches!(outcome, Outcome::Finished(_));
        self.finish(chunk.id, outcome);
        match trusted {
            true => self.scheduler.remove(chunk.id),
            // Logits that are not finite may come from KV that is not.
            false => self.scheduler.discard(chunk.id),
        }
    }

    fn advance(&mut self, chunk: &Chunk, rows: &[f32]) -> Result<(), Outcome> {
        let Some(generation) = self.generations.get_mut(&chunk.id) else {
            return Ok(());
        };
        if chunk.outputs == OutputRows::All {
            let tokens = self.scheduler.tokens(chunk.id);
            if generation.score_prompt(tokens, chunk.start, rows.chunks_exact(self.vocab_size))? {
                self.scheduler.prompt_scored(chunk.id);
            }
        }
        if chunk.complete {
            let last = &rows[rows.len() - self.vocab_size..];
            let token = generation.advance(last, &mut self.scratch)?;
            self.scheduler.append(chunk.id, token);
        }
        Ok(())
    }

    fn finish(&mut self, id: SequenceId, outcome: Outcome) {
        if let Some(generation) = self.generations.remove(&id) {
            self.endings.push(generation.end(outcome));
        }
    }

    fn publish(&self) {
        let pool = self.scheduler.pool();
        let counters = self.scheduler.counters();
        *self.gauges.stats.lock() = EngineStats {
            running: self.scheduler.running(),
            waiting: self.scheduler.waiting(),
            blocks_used: pool.total() - pool.available(),
            blocks_total: pool.total(),
            block_tokens: pool.block_tokens(),
            blocks_cached: pool.idle(),
            preemptions: counters.preemptions,
            prefix_queries: counters.prefix_queries,
            prefix_hits: counters.prefix_hits,
            steps: self.steps,
        };
    }
}

/// Rows of logits that a chunk asks for.
fn output_rows(chunk: &Chunk) -> usize {
    match chunk.outputs {
        OutputRows::None => 0,
        OutputRows::Last => 1,
        OutputRows::All => chunk.rows,
    }
}

fn run_plan(
    runner: &mut dyn Runner,
    scheduler: &Scheduler,
    plan: &Plan,
    logits: &mut Logits,
) -> Result<(), RunnerError> {
    let views: Vec<_> = plan.chunks.iter().map(|chunk| (chunk, scheduler.view(chunk))).collect();
    let inputs: Vec<Vec<InputRow>> = views
        .iter()
        .map(|(_, view)| view.tokens.iter().map(|&token| InputRow::Token(token)).collect())
        .collect();
    let sequences: Vec<SequenceView<'_>> = views
        .iter()
        .zip(&inputs)
        .map(|((chunk, view), inputs)| SequenceView {
            inputs,
            position: chunk.start,
            prompt: chunk.prompt,
            blocks: view.blocks,
            adapters: view.adapters,
            outputs: chunk.outputs,
        })
        .collect();
    runner.step(&BatchView { sequences: &sequences }, logits)?;
    let expected = plan.chunks.iter().map(output_rows).sum::<usize>() * runner.capabilities().vocab_size;
    if logits.values.len() == expected {
        Ok(())
    } else {
        Err(RunnerError(format!(
            "expected {expected} logits and got {}",
            logits.values.len()
        )))
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
