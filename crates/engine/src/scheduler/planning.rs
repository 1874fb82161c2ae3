//! How a step is chosen: decodes, then prefill by turn; admission and preemption.

use super::sequence::{Phase, Sequence, SequenceId};
use super::{Chunk, Plan, Scheduler};

/// A generated token costs about as much as this many prefilled ones (the weights of Sheng et al., 2024).
const DECODE_COST: u64 = 2;

impl Scheduler {
    /// Chooses the rows of the next step; none only if there are no sequences.
    pub fn plan(&mut self) -> Plan {
        let mut plan = Plan::default();
        let mut rows = self.settings.max_batch_rows;
        let preempted = self.plan_decodes(&mut plan, &mut rows);
        plan.decodes = plan.chunks.len();
        rows = rows.min(self.pace.prefill_rows(plan.decodes, self.prompts(plan.decodes)));
        // What was just preempted would be the first to come back, and to be preempted again.
        self.plan_prefills(&mut plan, &mut rows, !preempted);
        plan
    }

    /// Prompts that could be read now beside `decodes`.
    fn prompts(&self, decodes: usize) -> usize {
        let places = self.settings.max_sequences.saturating_sub(self.running.len());
        self.running.len().saturating_sub(decodes) + self.tenants.waiting().min(places)
    }

    /// One row for each decoding sequence, oldest first. True if one was preempted.
    fn plan_decodes(&mut self, plan: &mut Plan, rows: &mut usize) -> bool {
        let mut preempted = false;
        let mut index = 0;
        while let Some(&id) = self.running.get(index) {
            if self.sequences[&id].phase() == Phase::Decode {
                while !self.reserve(id) {
                    preempted = true;
                    self.preempt_last();
                }
                // It may have been the last itself.
                if self.running.get(index) == Some(&id) {
                    self.push_chunk(plan, rows, id);
                }
            }
            index += 1;
        }
        preempted
    }

    /// Fills the batch with prefill, tenants in order of their turn; within a tenant running sequences first.
    fn plan_prefills(&mut self, plan: &mut Plan, rows: &mut usize, mut admitting: bool) {
        while *rows > 0 {
            let mut chosen = None;
            for tenant in self.tenants.by_turn() {
                let planned = |id: &SequenceId| plan.chunks.iter().any(|chunk| chunk.id == *id);
                let running = self
                    .running
                    .iter()
                    .find(|id| self.sequences[id].tenant == tenant && !planned(id));
                chosen = running.copied();
                if let (None, true, Some(head)) = (chosen, admitting, self.tenants.head(&tenant)) {
                    // If the one whose turn it is does not fit, nobody passes it, or it might never fit.
                    admitting = self.admit(head);
                    chosen = admitting.then_some(head);
                }
                if chosen.is_some() {
                    break;
                }
            }
            let Some(id) = chosen else { break };
            self.push_chunk(plan, rows, id);
        }
    }

    fn push_chunk(&mut self, plan: &mut Plan, rows_left: &mut usize, id: SequenceId) {
        let sequence = &self.sequences[&id];
        let rows = sequence.chunk_rows(self.settings.max_scored_rows).min(*rows_left);
        let cost = match sequence.phase() {
            Phase::Prefill => rows as u64,
            Phase::Decode => DECODE_COST,
        };
        self.tenants.charge(&sequence.tenant, cost);
        *rows_left -= rows;
        plan.chunks.push(Chunk {
            id,
            start: sequence.computed,
            rows,
            prompt: sequence.computed < sequence.prompt,
            outputs: sequence.outputs(rows),
            complete: rows == sequence.pending(),
        });
    }

    /// Starts a waiting sequence if a place and blocks for all its tokens are free, and one block more for each
    /// running sequence to grow into. Waiting sequences always fit when nothing runs.
    fn admit(&mut self, id: SequenceId) -> bool {
        if self.running.len() >= self.settings.max_sequences {
            return false;
        }
        let Some(sequence) = self.sequences.get_mut(&id) else {
            return false;
        };
        let (cacheable, queries) = match self.settings.prefix_cache {
            true => (sequence.cacheable(), sequence.first_scored.unwrap_or(sequence.prompt)),
            false => (&[][..], 0),
        };
        let read = sequence.read_tokens(self.settings.prompts_apart);
        let mut table = self.pool.matching(sequence.root, cacheable, read);
        let found = table.capacity();
        if !table.reserve(sequence.tokens.len()) || self.pool.available() < self.running.len() {
            return false;
        }
        if sequence.cached.is_none() {
            sequence.cached = Some(found);
            self.counters.prefix_queries += queries as u64;
            self.counters.prefix_hits += found as u64;
        }
        sequence.table = Some(table);
        sequence.computed = found;
        self.tenants.dequeue(&sequence.tenant, id);
        self.running.push(id);
        true
    }

    /// Room for one more row of a running sequence; true also if it no longer runs.
    fn reserve(&mut self, id: SequenceId) -> bool {
        match self.sequences.get_mut(&id) {
            Some(Sequence {
                table: Some(table),
                tokens,
                ..
            }) => table.reserve(tokens.len()),
            _ => true,
        }
    }

    fn preempt_last(&mut self) {
        let Some(id) = self.running.pop() else { return };
        let Some(sequence) = self.sequences.get_mut(&id) else {
            return;
        };
        sequence.table = None;
        sequence.computed = 0;
        self.tenants.requeue(&sequence.tenant, id);
        self.counters.preemptions += 1;
    }
}
