//! Steps of the native runner: prefill and decode, base and mixed adapters, without server or scheduler.
//!
//! `cargo bench --bench engine -- [--model FILE | --shape NAME] [--threads N] [--filter TEXT]`. Medians over the measured steps.

mod gguf;
mod shapes;
mod steps;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

use shapes::{Encoding, ModelShape};
use steps::{Case, Steps};

const SMOLLM2: &str = ".rootstock/models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf";
const CONTEXT: usize = 1024;

#[derive(Parser)]
struct Args {
    /// GGUF file of the base
    #[arg(long, default_value = SMOLLM2)]
    model: PathBuf,
    /// Random Q4_1 weights in the shape of another model, instead of the model
    #[arg(long, value_enum)]
    shape: Option<ModelShape>,
    /// Compute threads
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Only cases whose name contains this
    #[arg(long, default_value = "")]
    filter: String,
    /// Seconds to measure each case for
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// With the output projection in 4 bits
    #[arg(long)]
    four_bit_output: bool,
    /// Passed by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

/// (name, sequences, rows of each, position, an adapter for each sequence)
const CASES: [(&str, usize, usize, usize, bool); 17] = [
    ("prefill 512, base", 1, 512, 0, false),
    ("prefill 512, adapter", 1, 512, 0, true),
    ("prefill 32 x 16, mixed", 32, 16, 0, true),
    ("prefill 8 at 1,000, base", 1, 8, 1000, false),
    ("prefill 16 at 1,000, base", 1, 16, 1000, false),
    ("prefill 64 at 960, base", 1, 64, 960, false),
    ("decode 1, base", 1, 1, 160, false),
    ("decode 1, adapter", 1, 1, 160, true),
    ("decode 2, base", 2, 1, 160, false),
    ("decode 4, base", 4, 1, 160, false),
    ("decode 8, base", 8, 1, 160, false),
    ("decode 8, mixed", 8, 1, 160, true),
    ("decode 16, base", 16, 1, 160, false),
    ("decode 16, mixed", 16, 1, 160, true),
    ("decode 32, base", 32, 1, 160, false),
    ("decode 32, mixed", 32, 1, 160, true),
    ("decode 8 at 1,000, base", 8, 1, 1000, false),
];

fn main() -> Result<()> {
    let args = Args::parse();
    let folder = tempfile::tempdir()?;
    let model = match args.shape {
        Some(shape) => shapes::write(folder.path(), shape, Encoding::Q4_1, &args.model)?,
        None => args.model.clone(),
    };
    let mut steps = Steps::open(&model, args.threads, (CONTEXT, 32 * CONTEXT), 32, args.four_bit_output)?;
    println!("{} threads, {}", args.threads, steps.isa());
    println!("| case | step, ms | tokens/s |\n|---|---|---|");
    for (name, sequences, rows, position, adapters) in CASES {
        if !name.contains(&args.filter) {
            continue;
        }
        let case = Case {
            sequences,
            rows,
            position,
            adapters,
        };
        let step = steps.measure(&case, args.seconds)?.as_secs_f64();
        println!("| {name} | {:.2} | {:.0} |", step * 1e3, case.tokens() as f64 / step);
    }
    Ok(())
}
