//! The products of SmolLM2's shapes, kernel by kernel: GMAC/s and GB/s of weights.
//!
//! `cargo bench --bench kernels -- [--threads N]`; `ROOTSTOCK_SIMD` forces an instruction set.

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use rootstock_kernels::{
    Activations, BlockFormat, Context, Isa, LowRankBatch, PackedMatrix, Part, Precision, Source, Then, ThreadPool,
    linear, prepare,
};

#[derive(Parser)]
struct Args {
    /// Compute threads
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Passed by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

/// (encoding, outputs, inputs)
const SHAPES: [(BlockFormat, usize, usize); 5] = [
    (BlockFormat::Q4_1, 960, 576),
    (BlockFormat::Q4_1, 3072, 576),
    (BlockFormat::Q4_1, 576, 1536),
    (BlockFormat::Q4_0, 4096, 4096),
    (BlockFormat::Q8_0, 49_152, 576),
];
const ROWS: [usize; 8] = [1, 2, 4, 8, 16, 32, 128, 512];

fn main() -> Result<()> {
    let args = Args::parse();
    let mut context = Context {
        pool: ThreadPool::new(args.threads)?,
        isa: Isa::detect()?,
    };
    println!(
        "{} threads, {}: GMAC/s (GB/s of weights)",
        args.threads,
        context.isa.name()
    );
    println!("| weights | {} |", ROWS.map(|rows| format!("{rows} rows")).join(" | "));
    println!("|---|{}", "---|".repeat(ROWS.len()));
    for (format, outputs, inputs) in SHAPES {
        let matrix = matrix(format, outputs, inputs)?;
        let cells: Vec<String> = ROWS
            .iter()
            .filter(|&&rows| rows * outputs <= 4 << 20)
            .map(|&rows| {
                let seconds = measure(&mut context, &matrix, rows).as_secs_f64();
                let (macs, bytes) = ((rows * outputs * inputs) as f64, matrix.bytes() as f64);
                format!("{:.0} ({:.0})", macs / seconds / 1e9, bytes / seconds / 1e9)
            })
            .collect();
        println!("| {format:?} {outputs} x {inputs} | {} |", cells.join(" | "));
    }
    Ok(())
}

fn matrix(format: BlockFormat, outputs: usize, inputs: usize) -> Result<PackedMatrix> {
    let mut random = fastrand::Rng::with_seed(1);
    let row_bytes = inputs / 32 * format.block_bytes();
    let mut rows: Vec<u8> = (0..outputs * row_bytes).map(|_| random.u8(..)).collect();
    for block in rows.chunks_exact_mut(format.block_bytes()) {
        block[..2].copy_from_slice(&half::f16::from_f32(0.01).to_le_bytes());
        if format == BlockFormat::Q4_1 {
            block[2..4].copy_from_slice(&half::f16::from_f32(-0.08).to_le_bytes());
        }
    }
    Ok(PackedMatrix::pack(format, outputs, inputs, |row| {
        &rows[row * row_bytes..(row + 1) * row_bytes]
    })?)
}

/// Median time of one product of `rows` rows.
fn measure(context: &mut Context, matrix: &PackedMatrix, rows: usize) -> Duration {
    let mut random = fastrand::Rng::with_seed(2);
    let values: Vec<f32> = (0..rows * matrix.inputs()).map(|_| random.f32() - 0.5).collect();
    let source = Source {
        values: &values,
        stride: matrix.inputs(),
        width: matrix.inputs(),
        norm: None,
    };
    let (mut x, mut none) = (Activations::new(Precision::Int8), LowRankBatch::default());
    prepare(context, source, rows, &mut x, &mut none);
    let mut out = vec![0.0; rows * matrix.outputs()];
    let parts = [Part {
        matrix,
        bias: None,
        column: 0,
    }];
    let mut times = Vec::new();
    let started = Instant::now();
    while times.len() < 10 || started.elapsed() < Duration::from_millis(300) {
        let start = Instant::now();
        linear(context, &x, &parts, &none, Then::Store, (&mut out, matrix.outputs()));
        times.push(start.elapsed());
    }
    times.sort();
    times[times.len() / 2]
}
