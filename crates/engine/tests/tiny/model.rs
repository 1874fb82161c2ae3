//! A tiny checkpoint on a runner, and the reference's values for it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rootstock_engine::native::{ActivationPrecision, NativeRunner, NativeSettings, WeightPrecision};
use rootstock_engine::runner::{
    AppliedAdapter, BatchView, BlockId, InputRow, Logits, OutputRows, PreparedAdapter, Runner, SequenceView,
};
use rootstock_model::Checkpoint;
use rootstock_model::adapter::{AdapterError, AdapterLimits, Base, load_adapter};

/// Largest distance of a logit from the reference on the f32, unquantized path.
pub const NEAR: f32 = 1e-3;

/// Every fixture.
pub const ARCHITECTURES: [&str; 9] = [
    "llama3-rope",
    "llama-bias",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma3",
    "phi3",
    "smollm3",
    "gpt2",
];

/// A folder or file below tests/fixtures.
pub fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures")
        .join(path)
}

/// How a model is run.
#[derive(Clone, Copy)]
pub struct Setup {
    pub threads: usize,
    pub activations: ActivationPrecision,
    pub weights: WeightPrecision,
    pub four_bit_output: bool,
}

/// One thread, nothing rounded.
pub const EXACT: Setup = Setup {
    threads: 1,
    activations: ActivationPrecision::F32,
    weights: WeightPrecision::Stored,
    four_bit_output: false,
};

/// An opened checkpoint on a runner.
pub struct Model {
    checkpoint: Checkpoint,
    runner: NativeRunner,
}

/// Tokens of a sequence, what is applied to them, and blocks of its own.
pub struct Sequence {
    inputs: Vec<InputRow>,
    adapters: Vec<AppliedAdapter>,
    blocks: Vec<BlockId>,
}

impl Model {
    /// The fixture `arch`, nothing rounded.
    pub fn exact(arch: &str) -> Self {
        Self::open(arch, EXACT)
    }

    pub fn open(arch: &str, setup: Setup) -> Self {
        Self::at(&fixture("tiny").join(arch), setup)
    }

    /// A folder or file.
    pub fn at(path: &Path, setup: Setup) -> Self {
        let checkpoint = Checkpoint::open(path).unwrap_or_else(|error| panic!("{error}"));
        let settings = NativeSettings {
            threads: setup.threads,
            max_context: 512,
            kv_bytes: 8 << 20,
            activations: setup.activations,
            weights: setup.weights,
            four_bit_output: setup.four_bit_output,
        };
        let runner =
            NativeRunner::new(&checkpoint, settings).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self { checkpoint, runner }
    }

    /// Loads and packs an adapter.
    pub fn try_adapter(&self, dir: &Path) -> Result<Arc<dyn PreparedAdapter>, AdapterError> {
        let base = Base {
            spec: self.checkpoint.spec(),
            hash: self.checkpoint.hash(),
        };
        let limits = AdapterLimits {
            max_rank: 64,
            max_bytes: 1 << 24,
        };
        self.runner.preparer().prepare(&load_adapter(dir, base, limits)?)
    }

    /// An adapter that must be accepted, at a factor.
    pub fn adapter(&self, dir: &Path, scale: f32) -> AppliedAdapter {
        let weights = self
            .try_adapter(dir)
            .unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        AppliedAdapter { weights, scale }
    }

    /// A sequence in blocks that no other `index` uses, interleaved with those of the others.
    pub fn sequence(&self, index: u32, ids: &[u32], adapters: &[AppliedAdapter]) -> Sequence {
        let blocks = ids.len().div_ceil(self.runner.capabilities().block_tokens) as u32;
        Sequence {
            inputs: ids.iter().map(|&id| InputRow::Token(id)).collect(),
            adapters: adapters.to_vec(),
            blocks: (0..blocks).map(|block| BlockId(block * 16 + index)).collect(),
        }
    }

    /// Logits of the rows `range` of some sequences in one step, sequence after sequence.
    pub fn step(&mut self, sequences: &[(&Sequence, Range<usize>)]) -> Vec<f32> {
        let block_tokens = self.runner.capabilities().block_tokens;
        let views: Vec<SequenceView<'_>> = sequences
            .iter()
            .map(|(sequence, range)| SequenceView {
                inputs: &sequence.inputs[range.clone()],
                position: range.start,
                prompt: true,
                blocks: &sequence.blocks[..range.end.div_ceil(block_tokens)],
                adapters: &sequence.adapters,
                outputs: OutputRows::All,
            })
            .collect();
        let mut logits = Logits::default();
        self.runner
            .step(&BatchView { sequences: &views }, &mut logits)
            .unwrap_or_else(|error| panic!("{error}"));
        logits.values
    }

    /// Logits of every row of a sequence that runs alone, `chunk` rows a step.
    pub fn in_chunks(&mut self, sequence: &Sequence, chunk: usize) -> Vec<f32> {
        let length = sequence.inputs.len();
        let starts = (0..length).step_by(chunk);
        starts
            .flat_map(|start| self.step(&[(sequence, start..(start + chunk).min(length))]))
            .collect()
    }

    /// Logits of every token under some adapters, in one step.
    pub fn logits(&mut self, ids: &[u32], adapters: &[AppliedAdapter]) -> Vec<f32> {
        let sequence = self.sequence(0, ids, adapters);
        self.in_chunks(&sequence, ids.len())
    }
}

/// Tensors of an expected.safetensors.
pub struct Expected(BTreeMap<String, Vec<u8>>);

impl Expected {
    pub fn read(path: &Path) -> Self {
        let file = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        // The ids are of a type that weights do not have, so the header is read as what it is.
        let header: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&file[8..8 + length]).unwrap();
        let tensors = header.into_iter().filter(|(name, _)| name != "__metadata__");
        Self(
            tensors
                .map(|(name, info)| {
                    let at = |index: usize| 8 + length + info["data_offsets"][index].as_u64().unwrap() as usize;
                    (name, file[at(0)..at(1)].to_vec())
                })
                .collect(),
        )
    }

    /// Of the base `arch`.
    pub fn of(arch: &str) -> Self {
        Self::read(&fixture("tiny").join(arch).join("expected.safetensors"))
    }

    fn words(&self, name: &str) -> impl Iterator<Item = [u8; 4]> {
        self.0[name].chunks_exact(4).map(|word| word.try_into().unwrap())
    }

    pub fn floats(&self, name: &str) -> Vec<f32> {
        self.words(name).map(f32::from_le_bytes).collect()
    }

    pub fn ids(&self) -> Vec<u32> {
        self.words("ids").map(u32::from_le_bytes).collect()
    }
}

/// Largest distance of two lists of logits.
pub fn distance(got: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(got.len(), expected.len(), "number of logits");
    assert!(got.iter().all(|value| value.is_finite()), "logits are finite");
    let differences = got.iter().zip(expected).map(|(got, expected)| (got - expected).abs());
    differences.fold(0.0, f32::max)
}

/// Fails unless every logit is within [`NEAR`] of the reference; shows the largest distance with `--nocapture`.
pub fn assert_near(what: &str, got: &[f32], expected: &[f32]) {
    let largest = distance(got, expected);
    println!("{what}: largest distance {largest:.2e}");
    assert!(
        largest <= NEAR,
        "{what}: a logit is {largest} from the reference, first in row {:?}",
        first_far_row(got, expected)
    );
}

/// The first row of 256 logits with one that is too far, which tells positions apart from layers.
fn first_far_row(got: &[f32], expected: &[f32]) -> Option<usize> {
    let mut rows = got.chunks(256).zip(expected.chunks(256));
    rows.position(|(got, expected)| distance(got, expected) > NEAR)
}
