//! The runner on the real model: against the reference's values, and bit for bit against itself.

use std::path::PathBuf;
use std::sync::Arc;

use rootstock_kernels::BLOCK_TOKENS;
use rootstock_model::Checkpoint;
use rootstock_model::adapter::{AdapterLimits, Base, load_adapter};

use super::{ActivationPrecision, NativeRunner, NativeSettings, WeightPrecision};
use crate::runner::{
    AppliedAdapter, BatchView, BlockId, InputRow, Logits, OutputRows, PreparedAdapter, Runner, SequenceView,
};

fn workspace() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn checkpoint() -> Checkpoint {
    let default = workspace().join(".rootstock/models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf");
    let path = std::env::var_os("ROOTSTOCK_TEST_MODEL").map_or(default, PathBuf::from);
    Checkpoint::open(&path).unwrap_or_else(|error| panic!("{error}; `make model` fetches the test model"))
}

fn runner(checkpoint: &Checkpoint, threads: usize, activations: ActivationPrecision) -> NativeRunner {
    let settings = NativeSettings {
        threads,
        max_context: 512,
        kv_bytes: 64 << 20,
        activations,
        weights: WeightPrecision::Stored,
        four_bit_output: false,
    };
    NativeRunner::new(checkpoint, settings).unwrap()
}

fn adapters(checkpoint: &Checkpoint, runner: &NativeRunner) -> Vec<Arc<dyn PreparedAdapter>> {
    let base = Base {
        spec: checkpoint.spec(),
        hash: checkpoint.hash(),
    };
    let limits = AdapterLimits {
        max_rank: 64,
        max_bytes: 1 << 30,
    };
    let load = |name: &str| {
        let adapter = load_adapter(&workspace().join("tests/fixtures/adapters").join(name), base, limits).unwrap();
        runner.preparer().prepare(&adapter).unwrap()
    };
    ["r8-all", "r16-qv", "rslora-r4-patterns", "r1-down-late-layers"]
        .into_iter()
        .map(load)
        .collect()
}

/// A sequence of a test: its tokens, adapters, and blocks of its own.
struct Sequence {
    /// Its rows are of a prompt, or all of them generated.
    prompt: bool,
    tokens: Vec<InputRow>,
    adapters: Vec<AppliedAdapter>,
    blocks: Vec<BlockId>,
}

fn sequence(index: u32, length: u32, adapters: Vec<AppliedAdapter>) -> Sequence {
    let tokens = (0..length)
        .map(|i| InputRow::Token((i * 7919 + index * 104_729 + 17) % 49_152))
        .collect();
    // Blocks of sequences interleave, so that a wrong table reads another sequence's.
    let blocks = (0..length.div_ceil(BLOCK_TOKENS as u32))
        .map(|i| BlockId(i * 20 + index))
        .collect();
    Sequence {
        prompt: index % 3 != 1,
        tokens,
        adapters,
        blocks,
    }
}

fn view(sequence: &Sequence, range: std::ops::Range<usize>, outputs: OutputRows) -> SequenceView<'_> {
    SequenceView {
        inputs: &sequence.tokens[range.clone()],
        position: range.start,
        prompt: sequence.prompt,
        blocks: &sequence.blocks[..range.end.div_ceil(BLOCK_TOKENS)],
        adapters: &sequence.adapters,
        outputs,
    }
}

/// Logits of every row, run alone in chunks.
fn alone(runner: &mut NativeRunner, sequence: &Sequence, chunk: usize) -> Vec<f32> {
    let (mut logits, mut all) = (Logits::default(), Vec::new());
    for start in (0..sequence.tokens.len()).step_by(chunk) {
        let range = start..(start + chunk).min(sequence.tokens.len());
        let sequences = [view(sequence, range, OutputRows::All)];
        runner.step(&BatchView { sequences: &sequences }, &mut logits).unwrap();
        all.extend_from_slice(&logits.values);
    }
    all
}

fn mixes(adapters: &[Arc<dyn PreparedAdapter>]) -> Vec<Vec<AppliedAdapter>> {
    let one = |index: usize, scale: f32| AppliedAdapter {
        weights: adapters[index].clone(),
        scale,
    };
    let mut mixes = vec![
        vec![],
        vec![one(0, 0.0)],
        vec![one(2, 0.5), one(0, 1.0)],
        vec![one(0, -1.5)],
    ];
    mixes.extend((0..4).map(|index| vec![one(index, 1.0)]));
    mixes.extend((0..4).map(|index| vec![one(index, 1.0)]));
    mixes.extend((0..4).map(|index| vec![one(3 - index, 0.25)]));
    mixes
}

#[test]
fn bits_do_not_depend_on_batch_chunking_or_threads() {
    let checkpoint = checkpoint();
    let mut first = runner(&checkpoint, 1, ActivationPrecision::Int16Prompts);
    let mixes = mixes(&adapters(&checkpoint, &first));
    let sequences: Vec<Sequence> = mixes
        .into_iter()
        .enumerate()
        .map(|(i, mix)| sequence(i as u32, 33 + i as u32 % 3, mix))
        .collect();
    let expected: Vec<Vec<f32>> = sequences.iter().map(|s| alone(&mut first, s, s.tokens.len())).collect();
    assert_eq!(expected[0].len(), 33 * first.capabilities().vocab_size);
    // A different mix gives different logits, so that equality below means something.
    assert!(expected.windows(2).all(|pair| pair[0] != pair[1]));
    assert_eq!(alone(&mut first, &sequences[5], 5), expected[5], "in chunks of 5");
    let mut second = runner(&checkpoint, 2, ActivationPrecision::Int16Prompts);
    assert_eq!(alone(&mut second, &sequences[6], 16), expected[6], "on two threads");
    // All sixteen together: a prefill of 32 rows at different paces, then one decode row each.
    for runner in [&mut first, &mut second] {
        let mut logits = Logits::default();
        for (from, to) in [(0, 1), (1, 20), (20, 32)] {
            let views: Vec<_> = sequences.iter().map(|s| view(s, from..to, OutputRows::None)).collect();
            runner.step(&BatchView { sequences: &views }, &mut logits).unwrap();
            assert!(logits.values.is_empty());
        }
        let views: Vec<_> = sequences.iter().map(|s| view(s, 32..33, OutputRows::Last)).collect();
        runner.step(&BatchView { sequences: &views }, &mut logits).unwrap();
        let vocab_size = runner.capabilities().vocab_size;
        for (index, expected) in expected.iter().enumerate() {
            let got = &logits.values[index * vocab_size..(index + 1) * vocab_size];
            assert!(got == &expected[32 * vocab_size..33 * vocab_size], "sequence {index}");
        }
    }
}

#[test]
fn a_scale_of_zero_is_the_base() {
    let checkpoint = checkpoint();
    let mut runner = runner(&checkpoint, 2, ActivationPrecision::Int8);
    let adapter = adapters(&checkpoint, &runner).remove(0);
    let base = alone(&mut runner, &sequence(1, 9, vec![]), 9);
    let zero = alone(
        &mut runner,
        &sequence(
            1,
            9,
            vec![AppliedAdapter {
                weights: adapter,
                scale: 0.0,
            }],
        ),
        9,
    );
    assert!(base == zero);
}

/// Log-probabilities from logits, in f64.
fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|v| f64::from(v - top).exp()).sum();
    logits.iter().map(|v| f64::from(v - top) - total.ln()).collect()
}

#[test]
fn logits_match_the_reference() {
    let checkpoint = checkpoint();
    // "The capital of France is" on the base: the reference's four most likely tokens.
    let prompt = [504, 3575, 282, 4649, 314].map(InputRow::Token).to_vec();
    let expected = [(7042, -0.25808), (260, -2.74075), (4528, -4.38436), (2250, -4.61988)];
    // int8 activations move the logits of one short prompt by tenths; what they cost on texts is held in end_to_end/golden.rs.
    let cases = [
        (ActivationPrecision::F32, 0.01),
        (ActivationPrecision::Int8, 0.4),
        (ActivationPrecision::Int16Prompts, 0.25),
    ];
    for (activations, tolerance) in cases {
        let mut runner = runner(&checkpoint, 2, activations);
        let sequence = Sequence {
            prompt: true,
            tokens: prompt.clone(),
            adapters: vec![],
            blocks: vec![BlockId(3)],
        };
        let logits = alone(&mut runner, &sequence, 5);
        let last = log_softmax(&logits[logits.len() - runner.capabilities().vocab_size..]);
        for (token, logprob) in expected {
            let got = last[token];
            assert!(
                (got - logprob).abs() < tolerance,
                "{activations:?}: token {token} {got}, expected {logprob}"
            );
        }
    }
}

#[test]
fn a_batch_that_does_not_fit_the_model_is_an_error() {
    let checkpoint = checkpoint();
    let mut runner = runner(&checkpoint, 1, ActivationPrecision::Int8);
    let good = sequence(1, 5, vec![]);
    let bad = [
        SequenceView {
            inputs: &[InputRow::Token(49_152)],
            ..view(&good, 0..1, OutputRows::Last)
        },
        SequenceView {
            position: 512,
            ..view(&good, 0..1, OutputRows::Last)
        },
        SequenceView {
            position: usize::MAX,
            ..view(&good, 0..1, OutputRows::Last)
        },
        SequenceView {
            blocks: &[],
            ..view(&good, 0..1, OutputRows::Last)
        },
        SequenceView {
            blocks: &[BlockId(u32::MAX)],
            ..view(&good, 0..1, OutputRows::Last)
        },
        SequenceView {
            inputs: &[],
            ..view(&good, 0..1, OutputRows::Last)
        },
    ];
    for view in bad {
        assert!(
            runner
                .step(&BatchView { sequences: &[view] }, &mut Logits::default())
                .is_err()
        );
    }
    assert!(
        runner
            .step(
                &BatchView {
                    sequences: &[view(&good, 0..5, OutputRows::Last)]
                },
                &mut Logits::default()
            )
            .is_ok()
    );
}
