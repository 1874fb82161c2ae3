//! A runner for tests. Its "KV" is the tokens themselves, with position, adapters and whether they were generated, kept in the
//! blocks it is given;
//! its logits are a hash of what it reads back through the block table. So a wrong table, a stale prefix or a block
//! shared across adapters gives other logits than the sequence has alone.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use rootstock_model::adapter::{Adapter, AdapterError};
use rootstock_model::text::TokenId;

use crate::runner::{
    AdapterPreparer, AppliedAdapter, BatchView, Capabilities, InputRow, Logits, OutputRows, PreparedAdapter, Runner,
    RunnerError, SequenceView,
};

/// What is stored for one row: position, token, hash of the adapters it was computed with, whether it is of a prompt.
type Cell = (usize, TokenId, u64, bool);

pub(crate) struct FakeRunner {
    capabilities: Capabilities,
    cells: Vec<Cell>,
    max_batch_rows: usize,
    control: Arc<Control>,
}

/// How a test steers a runner that an engine owns.
#[derive(Default)]
pub(crate) struct Control {
    held: Mutex<bool>,
    released: Condvar,
    faults: Mutex<VecDeque<Fault>>,
}

/// What becomes of a step.
#[derive(Clone, Copy)]
pub(crate) enum Fault {
    None,
    Error,
    Panic,
    /// Too few logits.
    Short,
    NotFinite,
}

impl Control {
    /// Steps wait from now on.
    pub(crate) fn hold(&self) {
        *self.held.lock() = true;
    }

    pub(crate) fn release(&self) {
        *self.held.lock() = false;
        self.released.notify_all();
    }

    /// What becomes of the next steps.
    pub(crate) fn plan_faults(&self, faults: &[Fault]) {
        self.faults.lock().extend(faults);
    }
}

impl FakeRunner {
    pub(crate) fn new(capabilities: Capabilities, max_batch_rows: usize) -> (Self, Arc<Control>) {
        let control = Arc::new(Control::default());
        let cells = vec![(usize::MAX, 0, 0, false); capabilities.blocks * capabilities.block_tokens];
        (
            Self {
                capabilities,
                cells,
                max_batch_rows,
                control: Arc::clone(&control),
            },
            control,
        )
    }

    fn run(&mut self, sequence: &SequenceView<'_>, logits: &mut Logits) {
        let adapters = adapter_hash(sequence.adapters);
        let block_tokens = self.capabilities.block_tokens;
        let end = sequence.position + sequence.inputs.len();
        assert_eq!(
            sequence.blocks.len(),
            end.div_ceil(block_tokens),
            "blocks end with the rows"
        );
        let place = |position: usize| {
            sequence.blocks[position / block_tokens].0 as usize * block_tokens + position % block_tokens
        };
        for (position, input) in (sequence.position..).zip(sequence.inputs) {
            let InputRow::Token(token) = *input;
            self.cells[place(position)] = (position, token, adapters, sequence.prompt);
        }
        let first = match sequence.outputs {
            OutputRows::None => return,
            OutputRows::Last => end - 1,
            OutputRows::All => sequence.position,
        };
        for row in first..end {
            let cells = (0..=row).map(|position| self.cells[place(position)]);
            logits.values.extend(logits_of(cells, self.capabilities.vocab_size));
        }
    }
}

impl Runner for FakeRunner {
    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn preparer(&self) -> Arc<dyn AdapterPreparer> {
        Arc::new(NoAdapters)
    }

    fn step(&mut self, batch: &BatchView<'_>, logits: &mut Logits) -> Result<(), RunnerError> {
        let mut held = self.control.held.lock();
        while *held {
            self.control.released.wait(&mut held);
        }
        drop(held);
        let rows: usize = batch.sequences.iter().map(|sequence| sequence.inputs.len()).sum();
        assert!(rows > 0 && rows <= self.max_batch_rows, "{rows} rows in a step");
        logits.values.clear();
        for sequence in batch.sequences {
            self.run(sequence, logits);
        }
        let fault = self.control.faults.lock().pop_front().unwrap_or(Fault::None);
        match fault {
            Fault::None => {}
            Fault::Error => return Err(RunnerError("planned by the test".to_owned())),
            Fault::Panic => panic!("planned by the test"),
            Fault::Short => logits.values.truncate(1),
            Fault::NotFinite => logits.values.fill(f32::NAN),
        }
        Ok(())
    }
}

struct NoAdapters;

impl AdapterPreparer for NoAdapters {
    fn prepare(&self, _adapter: &Adapter) -> Result<Arc<dyn PreparedAdapter>, AdapterError> {
        unreachable!("the tests bring prepared adapters")
    }
}

/// What the rows of a sequence depend on beside its tokens.
pub(crate) fn adapter_hash(adapters: &[AppliedAdapter]) -> u64 {
    adapters.iter().fold(0, |hash, adapter| {
        let content = adapter.weights.content_hash().0;
        let content = content.iter().fold(0, |hash, &byte| mix(hash, u64::from(byte)));
        mix(mix(hash, content), u64::from(adapter.scale.to_bits()))
    })
}

/// The logits after tokens, the first `prompt` of them of the prompt, that were all computed with the same adapters.
pub(crate) fn logits_alone(tokens: &[TokenId], prompt: usize, adapters: u64, vocab_size: usize) -> Vec<f32> {
    let cell = |(position, &token)| (position, token, adapters, position < prompt);
    logits_of((0..).zip(tokens).map(cell), vocab_size)
}

fn logits_of(cells: impl Iterator<Item = Cell>, vocab_size: usize) -> Vec<f32> {
    let hash = cells.fold(0, |hash, (position, token, adapters, prompt)| {
        let place = mix(hash, position as u64 * 2 + u64::from(prompt));
        mix(mix(place, u64::from(token)), adapters)
    });
    (0..vocab_size as u64)
        .map(|id| (mix(hash, id) % 64) as f32 / 8.0)
        .collect()
}

fn mix(hash: u64, value: u64) -> u64 {
    let mixed = (hash ^ value.wrapping_add(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ (mixed >> 29)
}
