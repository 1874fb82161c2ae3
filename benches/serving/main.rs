//! A load generator for any OpenAI-compatible server: `cargo bench --bench serving -- --url http://127.0.0.1:8000 --adapters 32`.
//! Also makes the adapters to load it with. Measures nothing by itself: start the server first.

mod adapters;
mod client;
mod load;
mod lora_gguf;
mod report;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand, ValueEnum};

use client::{Dialect, Target};
use load::{Distribution, Shape};

/// Loads an OpenAI-compatible server with streamed completions and reports what its clients see.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    make: Option<Make>,
    #[command(flatten)]
    run: Run,
    /// Passed by `cargo bench`.
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Make {
    /// Writes random LoRA adapters for SmolLM2-135M: all seven linear layers, rank 8 and 16 in turn, bf16
    #[command(name = "make-adapters")]
    Random {
        /// Where their folders go
        dir: PathBuf,
        /// How many
        #[arg(long, default_value_t = 32)]
        count: usize,
        /// Rank of all of them, instead of 8 and 16 in turn
        #[arg(long)]
        rank: Option<usize>,
    },
    /// Makes folders that hard-link the files of others in turn: many adapters on little disk
    #[command(name = "link-adapters")]
    Link {
        /// Where the folders go
        dir: PathBuf,
        /// A folder of adapters
        #[arg(long)]
        from: PathBuf,
        /// How many
        #[arg(long)]
        count: usize,
    },
    /// Turns PEFT folders into GGUF adapters, which llama-server reads
    #[command(name = "convert-adapters")]
    Convert {
        /// Where the files go
        dir: PathBuf,
        /// A folder of adapters
        #[arg(long)]
        from: PathBuf,
        /// Their base
        #[arg(long)]
        model: PathBuf,
    },
}

#[derive(clap::Args)]
struct Run {
    /// The server
    #[arg(long, default_value = "http://127.0.0.1:8000")]
    url: String,
    /// How an adapter is asked for
    #[arg(long, value_enum, default_value_t = DialectName::Openai)]
    dialect: DialectName,
    /// How many adapters take part: names from /v1/models, or ids from 0 for llama-server; 0 asks the base
    #[arg(long, default_value_t = 0)]
    adapters: usize,
    /// Which adapter a request is on
    #[arg(long, value_enum, default_value_t = DistributionName::RoundRobin)]
    distribution: DistributionName,
    /// Exponent of --distribution zipf
    #[arg(long, default_value_t = 1.0)]
    exponent: f64,
    /// Requests at the same time
    #[arg(long, default_value_t = 16)]
    concurrency: usize,
    /// Requests in all [default: four times the concurrency]
    #[arg(long)]
    requests: Option<usize>,
    /// Requests before the measurement
    #[arg(long, default_value_t = 2)]
    warmup: usize,
    /// Tokens of each prompt, all different
    #[arg(long, default_value_t = 128)]
    prompt_tokens: usize,
    /// Tokens of each answer; the end of sequence is ignored
    #[arg(long, default_value_t = 64)]
    output_tokens: usize,
    /// Prompts are random ids below this
    #[arg(long, default_value_t = 40_000)]
    vocabulary: u32,
    /// Of prompts and adapters
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// First column of the table
    #[arg(long, default_value = "")]
    label: String,
    /// Print JSON instead of a Markdown table
    #[arg(long)]
    json: bool,
    /// Print the table's row without its head, to build a table from several runs
    #[arg(long)]
    row: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum DialectName {
    /// `model` names the adapter
    Openai,
    /// `lora` lists the adapter's id, and the prompt cache is off
    LlamaServer,
}

#[derive(Clone, Copy, ValueEnum)]
enum DistributionName {
    /// One after the other: as many different ones at a time as there can be
    RoundRobin,
    /// At random
    Uniform,
    /// At random, few of them most of the time
    Zipf,
}

impl Run {
    fn target(&self) -> Result<Target> {
        let dialect = match self.dialect {
            DialectName::Openai => Dialect::OpenAi,
            DialectName::LlamaServer => Dialect::LlamaServer,
        };
        Target::find(&self.url, dialect, self.adapters)
    }

    fn shape(&self) -> Shape {
        let distribution = match self.distribution {
            DistributionName::RoundRobin => Distribution::RoundRobin,
            DistributionName::Uniform => Distribution::Uniform,
            DistributionName::Zipf => Distribution::Zipf {
                exponent: self.exponent,
            },
        };
        Shape {
            distribution,
            concurrency: self.concurrency,
            requests: self.requests.unwrap_or(4 * self.concurrency),
            prompt_tokens: self.prompt_tokens,
            output_tokens: self.output_tokens,
            vocabulary: self.vocabulary,
            seed: self.seed,
        }
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    match args.make {
        Some(Make::Random { dir, count, rank }) => adapters::make(&dir, count, rank),
        Some(Make::Link { dir, from, count }) => adapters::link(&dir, &from, count),
        Some(Make::Convert { dir, from, model }) => lora_gguf::convert_all(&model, &from, &dir),
        None => run(&args.run),
    }
}

fn run(args: &Run) -> Result<()> {
    ensure!(
        args.concurrency > 0 && args.output_tokens > 0 && args.vocabulary > 1000,
        "nothing to measure"
    );
    let (target, shape) = (args.target()?, args.shape());
    let warmup = Shape {
        requests: args.warmup,
        seed: shape.seed ^ u64::MAX,
        ..shape
    };
    load::run(&target, &warmup);
    // Servers that count what is left of the warm-up must be idle again.
    std::thread::sleep(Duration::from_millis(100));
    let outcome = load::run(&target, &shape);
    let report = report::Report::new(&args.label, &target, &shape, &outcome);
    match (args.json, args.row) {
        (true, _) => println!("{}", serde_json::to_string_pretty(&report)?),
        (false, true) => println!("{}", report.row()),
        (false, false) => println!("{}\n{}", report::HEAD, report.row()),
    }
    if let Some(error) = outcome.first_error() {
        anyhow::bail!(
            "{} of {} requests failed, the first with: {error}",
            report.errors,
            shape.requests
        );
    }
    Ok(())
}
