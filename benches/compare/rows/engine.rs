//! Without server: steps of the native runner beside the benches of llama.cpp and OpenVINO GenAI.

use anyhow::Result;

use super::{Bench, in_turn};
use crate::steps::{Case, Steps};
use crate::table::{Bound, Line, Quantity};

const TOKENS: &str = "tok/s";
/// Where decode is measured, as the peers do it: in the middle of 64 tokens after a prompt of 128.
const POSITION: usize = 160;

type Sided = Result<f64, String>;

fn line(
    row: &'static str,
    work: &str,
    beside: &str,
    (ours, theirs): (&Sided, &Sided),
    bounds: [Option<f64>; 2],
) -> Line {
    Line {
        row,
        work: work.to_owned(),
        unit: TOKENS,
        beside: beside.to_owned(),
        ours: ours.clone(),
        theirs: Some(theirs.clone()),
        quantity: Quantity::Ratio,
        must: bounds[0].map(Bound::AtLeast),
        goal: bounds[1].map(Bound::AtLeast),
    }
}

fn speed(steps: &mut Steps, case: Case, seconds: f64) -> Result<f64> {
    Ok(case.tokens() as f64 / steps.measure(&case, seconds)?.as_secs_f64())
}

fn base(sequences: usize, rows: usize, position: usize) -> Case {
    Case {
        sequences,
        rows,
        position,
        adapters: false,
    }
}

/// A prompt of 512 tokens.
pub fn prefill(bench: &mut Bench) -> Result<Vec<Line>> {
    let mut steps = Steps::open(&bench.model, bench.threads, (1024, 1024), 0, false)?;
    let Bench { llama, openvino, .. } = bench;
    let [ours, q4_0, openvino, q4_1] = in_turn(
        bench.rounds,
        [
            &mut || speed(&mut steps, base(1, 512, 0), bench.seconds),
            &mut || llama.bench(&bench.four_bits, (512, 0)),
            &mut || openvino.prefill(512),
            &mut || llama.bench(&bench.model, (512, 0)),
        ],
    );
    let row = |beside, theirs, bounds| line("prefill", "prefill 512", beside, (&ours, theirs), bounds);
    Ok(vec![
        row("llama.cpp Q4_0", &q4_0, [Some(2.2), None]),
        row("OpenVINO GenAI Q4_0", &openvino, [Some(0.9), Some(1.3)]),
        row("llama.cpp on our file", &q4_1, [Some(6.0), None]),
    ])
}

/// One stream.
pub fn decode_one(bench: &mut Bench) -> Result<Vec<Line>> {
    let mut steps = Steps::open(&bench.model, bench.threads, (1024, 1024), 0, false)?;
    let Bench { llama, openvino, .. } = bench;
    let [ours, llama, openvino] = in_turn(
        bench.rounds,
        [
            &mut || speed(&mut steps, base(1, 1, POSITION), bench.seconds),
            &mut || llama.bench(&bench.four_bits, (0, 128)),
            &mut || openvino.decode(1, 64),
        ],
    );
    let row = |beside, theirs, bounds| line("decode1", "decode, one stream", beside, (&ours, theirs), bounds);
    Ok(vec![
        row("llama.cpp Q4_0", &llama, [Some(1.8), Some(3.0)]),
        row("OpenVINO GenAI Q4_0", &openvino, [None, None]),
    ])
}

/// Thirty-two streams.
pub fn decode_batch(bench: &mut Bench) -> Result<Vec<Line>> {
    let mut steps = Steps::open(&bench.model, bench.threads, (1024, 32 * 256), 0, false)?;
    let Bench { llama, openvino, .. } = bench;
    let [ours, openvino, llama] = in_turn(
        bench.rounds,
        [
            &mut || speed(&mut steps, base(32, 1, POSITION), bench.seconds),
            &mut || openvino.decode(32, 64),
            &mut || llama.batched(&bench.four_bits, 32, (128, true), 64),
        ],
    );
    let row = |beside, theirs, bounds| line("decode32", "decode, base, batch 32", beside, (&ours, theirs), bounds);
    Ok(vec![
        row("OpenVINO GenAI Q4_0", &openvino, [Some(1.2), Some(2.0)]),
        row("llama.cpp Q4_0", &llama, [None, None]),
    ])
}

/// Eight streams at 4,000 tokens.
pub fn long_context(bench: &mut Bench) -> Result<Vec<Line>> {
    let mut steps = Steps::open(&bench.model, bench.threads, (4096, 8 * 4096), 0, false)?;
    let llama = &bench.llama;
    let [ours, llama] = in_turn(
        bench.rounds,
        [&mut || speed(&mut steps, base(8, 1, 4016), bench.seconds), &mut || {
            llama.batched(&bench.four_bits, 8, (4000, true), 32)
        }],
    );
    let work = "decode at 4,000 tokens of context, 8 streams";
    Ok(vec![line(
        "context4000",
        work,
        "llama.cpp Q4_0",
        (&ours, &llama),
        [Some(1.5), Some(3.0)],
    )])
}
