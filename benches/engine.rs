//! Steps of the native runner on the real model: prefill and decode, base and mixed adapters, without server or scheduler.
//!
//! `cargo bench --bench engine -- [--model FILE] [--threads N] [--filter TEXT]`. Medians over the measured steps.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use rootstock_engine::native::{ActivationPrecision, NativeRunner, NativeSettings, WeightPrecision};
use rootstock_engine::runner::{
    AppliedAdapter, BatchView, BlockId, InputRow, Logits, OutputRows, PreparedAdapter, Runner, SequenceView,
};
use rootstock_formats::DType;
use rootstock_model::adapter::{Adapter, AdapterTensor, Effect, LowRank};
use rootstock_model::{ArchSpec, Checkpoint, ContentHash, Site};

const BLOCK_TOKENS: usize = 16;
const CONTEXT: usize = 1024;

#[derive(Parser)]
struct Args {
    /// GGUF file of the base
    #[arg(
        long,
        default_value = ".rootstock/models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf"
    )]
    model: PathBuf,
    /// Compute threads
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Only cases whose name contains this
    #[arg(long, default_value = "")]
    filter: String,
    /// Seconds to measure each case for
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Passed by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

/// Rows that run together in one step, each sequence at the same position.
struct Case {
    name: &'static str,
    sequences: usize,
    rows: usize,
    position: usize,
    adapters: bool,
}

const CASES: [Case; 12] = [
    Case {
        name: "prefill 512, base",
        sequences: 1,
        rows: 512,
        position: 0,
        adapters: false,
    },
    Case {
        name: "prefill 512, adapter",
        sequences: 1,
        rows: 512,
        position: 0,
        adapters: true,
    },
    Case {
        name: "prefill 32 x 16, mixed",
        sequences: 32,
        rows: 16,
        position: 0,
        adapters: true,
    },
    Case {
        name: "decode 1, base",
        sequences: 1,
        rows: 1,
        position: 160,
        adapters: false,
    },
    Case {
        name: "decode 1, adapter",
        sequences: 1,
        rows: 1,
        position: 160,
        adapters: true,
    },
    Case {
        name: "decode 4, base",
        sequences: 4,
        rows: 1,
        position: 160,
        adapters: false,
    },
    Case {
        name: "decode 8, base",
        sequences: 8,
        rows: 1,
        position: 160,
        adapters: false,
    },
    Case {
        name: "decode 8, mixed",
        sequences: 8,
        rows: 1,
        position: 160,
        adapters: true,
    },
    Case {
        name: "decode 16, base",
        sequences: 16,
        rows: 1,
        position: 160,
        adapters: false,
    },
    Case {
        name: "decode 16, mixed",
        sequences: 16,
        rows: 1,
        position: 160,
        adapters: true,
    },
    Case {
        name: "decode 32, base",
        sequences: 32,
        rows: 1,
        position: 160,
        adapters: false,
    },
    Case {
        name: "decode 32, mixed",
        sequences: 32,
        rows: 1,
        position: 160,
        adapters: true,
    },
];

fn main() -> Result<()> {
    let args = Args::parse();
    let checkpoint =
        Checkpoint::open(&args.model).with_context(|| format!("{} (see `make model`)", args.model.display()))?;
    let settings = NativeSettings {
        threads: args.threads,
        max_context: CONTEXT,
        kv_bytes: 1 << 30,
        activations: ActivationPrecision::Int8,
        weights: WeightPrecision::Stored,
    };
    let mut runner = NativeRunner::new(&checkpoint, settings)?;
    let adapters = (0..32)
        .map(|index| adapter(checkpoint.spec(), &runner, index))
        .collect::<Result<Vec<_>>>()?;
    println!("{} threads, {}", args.threads, runner.isa());
    println!("| case | step, ms | tokens/s |\n|---|---|---|");
    for case in CASES.iter().filter(|case| case.name.contains(&args.filter)) {
        let step = measure(&mut runner, case, &adapters, args.seconds)?;
        let tokens = (case.sequences * case.rows) as f64;
        println!(
            "| {} | {:.2} | {:.0} |",
            case.name,
            step.as_secs_f64() * 1e3,
            tokens / step.as_secs_f64()
        );
    }
    Ok(())
}

/// Median time of a step.
fn measure(
    runner: &mut NativeRunner,
    case: &Case,
    adapters: &[Arc<dyn PreparedAdapter>],
    seconds: f64,
) -> Result<Duration> {
    let blocks: Vec<Vec<BlockId>> = (0..case.sequences)
        .map(|s| {
            (0..(case.position + case.rows).div_ceil(BLOCK_TOKENS))
                .map(|b| BlockId((b * 32 + s) as u32))
                .collect()
        })
        .collect();
    let inputs: Vec<InputRow> = (0..case.rows)
        .map(|i| InputRow::Token((i as u32 * 7919 + 17) % 49_152))
        .collect();
    let applied: Vec<Vec<AppliedAdapter>> = (0..case.sequences)
        .map(|s| {
            if case.adapters {
                vec![AppliedAdapter {
                    weights: adapters[s].clone(),
                    scale: 1.0,
                }]
            } else {
                vec![]
            }
        })
        .collect();
    let views: Vec<SequenceView<'_>> = (0..case.sequences)
        .map(|s| SequenceView {
            inputs: &inputs,
            position: case.position,
            blocks: &blocks[s],
            adapters: &applied[s],
            outputs: OutputRows::Last,
        })
        .collect();
    let mut logits = Logits::default();
    let mut times = Vec::new();
    let started = Instant::now();
    while times.len() < 7 || started.elapsed().as_secs_f64() < seconds {
        let start = Instant::now();
        runner.step(&BatchView { sequences: &views }, &mut logits)?;
        times.push(start.elapsed());
    }
    times.sort();
    Ok(times[times.len() / 2])
}

/// A random adapter on all linear maps: rank 8 and 16 in turn, bf16.
fn adapter(spec: &ArchSpec, runner: &NativeRunner, index: u8) -> Result<Arc<dyn PreparedAdapter>> {
    let rank = if index.is_multiple_of(2) { 8 } else { 16 };
    let mut random = fastrand::Rng::with_seed(u64::from(index));
    let mut tensor = |rows: usize, cols: usize| {
        let value = |_| half::bf16::from_f32(random.f32() * 0.02 - 0.01).to_le_bytes();
        AdapterTensor {
            dtype: DType::BF16,
            rows,
            cols,
            bytes: (0..rows * cols).flat_map(value).collect(),
        }
    };
    let mut effects = Vec::new();
    for site in spec.sites().filter(|site| matches!(site, Site::Layer { .. })) {
        let (inputs, outputs) = spec.shape(site).context("a site of the spec")?;
        effects.push(Effect::LowRank(LowRank {
            site,
            scale: 2.0,
            a: tensor(rank, inputs),
            b: tensor(outputs, rank),
            magnitude: None,
        }));
    }
    let adapter = Adapter {
        hash: ContentHash([index; 32]),
        base_model: None,
        max_rank: rank,
        effects,
        defaults: Arc::default(),
    };
    Ok(runner.preparer().prepare(&adapter)?)
}
