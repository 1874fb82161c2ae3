//! Rootstock beside its peers: `cargo bench --bench compare -- --llama-dir DIR --openvino-python PYTHON`.
//!
//! Finds the peers or is told where they are, measures each pair in turn in one run, and writes the table as Markdown, JSON and SVG.
//! What is missing is named in the table with how to get it. `--rows` chooses rows, so that a run fits the time there is.

#[path = "../serving/adapters.rs"]
#[allow(dead_code, reason = "shared with the serving bench")]
mod adapters;
#[path = "../serving/client.rs"]
#[allow(dead_code, reason = "shared with the serving bench")]
mod client;
#[path = "../engine/gguf.rs"]
mod gguf;
#[path = "../serving/load.rs"]
#[allow(dead_code, reason = "shared with the serving bench")]
mod load;
#[path = "../serving/lora_gguf.rs"]
mod lora_gguf;
mod peers;
mod plot;
#[path = "../serving/report.rs"]
#[allow(dead_code, reason = "shared with the serving bench")]
mod report;
mod rows;
mod server;
#[path = "../engine/shapes.rs"]
mod shapes;
#[path = "../engine/steps.rs"]
#[allow(dead_code, reason = "shared with the engine bench")]
mod steps;
mod table;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Parser;

use peers::{Llama, OpenVino};
use rows::{Bench, ROWS};
use shapes::{Encoding, ModelShape};
use table::{Header, Line};

const SMOLLM2: &str = ".rootstock/models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf";

/// Measures Rootstock beside its peers
#[derive(Parser)]
struct Args {
    /// Folder of llama.cpp's programs [default: where PATH has llama-bench]
    #[arg(long, env = "LLAMA_DIR")]
    llama_dir: Option<PathBuf>,
    /// Python that has openvino-genai [default: python3]
    #[arg(long, env = "OPENVINO_PYTHON")]
    openvino_python: Option<PathBuf>,
    /// GGUF file of the base
    #[arg(long, default_value = SMOLLM2, env = "ROOTSTOCK_TEST_MODEL")]
    model: PathBuf,
    /// Random weights in the shape of another model, instead of the model; its tokenizer is taken from --model
    #[arg(long, value_enum)]
    shape: Option<ModelShape>,
    /// Folder of at least 32 adapters of the base [default: random ones for SmolLM2-135M]
    #[arg(long)]
    adapters: Option<PathBuf>,
    /// Rows to run, by name [default: all; those without adapters for another base than SmolLM2-135M]
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Compute threads of every side
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Seconds of each of our own measurements in process
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Turns of each side
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Requests of each stream in a turn of the served rows
    #[arg(long, default_value_t = 2)]
    requests: usize,
    /// Where reports, logs and what is made for the run go
    #[arg(long, default_value = "target/compare")]
    out: PathBuf,
    /// Passed by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let chosen = chosen_rows(&args)?;
    let mut bench = prepare(&args)?;
    let header = header(&args, &bench)?;
    let mut lines: Vec<Line> = Vec::new();
    for (name, _, measure) in chosen {
        eprintln!("{name} ...");
        lines.extend(measure(&mut bench).unwrap_or_else(|error| vec![Line::failed(name, format!("{error:#}"))]));
        // After every row, so that a run that is cut short leaves what it has.
        write(&args.out, &header, &lines)?;
    }
    print!("{}", table::markdown(&header, &lines));
    eprintln!("compare.md, compare.svg and compare.json are in {}", args.out.display());
    Ok(())
}

fn chosen_rows(args: &Args) -> Result<Vec<rows::Row>> {
    for name in &args.rows {
        let known: Vec<&str> = ROWS.iter().map(|(name, ..)| *name).collect();
        ensure!(
            known.contains(&name.as_str()),
            "row {name:?} is not one of {}",
            known.join(", ")
        );
    }
    let other_base = args.shape.is_some() || args.model != Path::new(SMOLLM2) && args.adapters.is_none();
    let wanted = |&(name, any_base, _): &rows::Row| match args.rows.is_empty() {
        true => any_base || !other_base || is_smollm2(args),
        false => args.rows.iter().any(|wanted| wanted == name),
    };
    Ok(ROWS.into_iter().filter(wanted).collect())
}

/// The random adapters fit.
fn is_smollm2(args: &Args) -> bool {
    let name = args
        .model
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .to_lowercase();
    args.shape.is_none() && name.starts_with("smollm2-135m")
}

fn prepare(args: &Args) -> Result<Bench> {
    std::fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    let llama = Llama::find(args.llama_dir.as_deref(), args.threads);
    let (model, four_bits) = match args.shape {
        Some(shape) => (
            shapes::write(&args.out, shape, Encoding::Q4_1, &args.model)?,
            shapes::write(&args.out, shape, Encoding::Q4_0, &args.model)?,
        ),
        None => {
            let stem = args.model.file_stem().unwrap_or_default().to_string_lossy();
            let four_bits = args.out.join(format!("{stem}.requantized-Q4_0.gguf"));
            if let Err(error) = llama.quantize(&args.model, &four_bits) {
                eprintln!("no Q4_0 file for the peers: {error:#}");
            }
            (args.model.clone(), four_bits)
        }
    };
    ensure!(model.exists(), "{} is not there (see `make model`)", model.display());
    Ok(Bench {
        openvino: OpenVino::find(
            args.openvino_python.as_deref(),
            &four_bits,
            args.threads,
            args.out.join("openvino.log"),
        ),
        llama,
        model,
        four_bits,
        adapters: args.adapters.clone(),
        threads: args.threads,
        seconds: args.seconds,
        rounds: args.rounds,
        requests: args.requests,
        out: args.out.clone(),
    })
}

fn header(args: &Args, bench: &Bench) -> Result<Header> {
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = processor.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':'))
            .map_or("", |(_, value)| value.trim())
            .to_owned()
    };
    let amx = field("flags").split(' ').any(|flag| flag == "amx_int8");
    Ok(Header {
        model: bench
            .model
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        threads: args.threads,
        processor: format!("{}{}", field("model name"), if amx { " with AMX" } else { "" }),
        isa: rootstock_kernels::Isa::detect()?.name().to_owned(),
        rounds: args.rounds,
        peers: vec![bench.llama.describe(), bench.openvino.describe()],
    })
}

fn write(out: &Path, header: &Header, lines: &[Line]) -> Result<()> {
    std::fs::write(out.join("compare.md"), table::markdown(header, lines))?;
    std::fs::write(
        out.join("compare.json"),
        serde_json::to_vec_pretty(&table::json(header, lines))?,
    )?;
    plot::write(&out.join("compare.svg"), lines)
}
