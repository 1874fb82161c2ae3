//! The products with quantized weights, by number of rows.

use anyhow::Result;
use rootstock_kernels::{Activations, BlockFormat, Context, LowRankBatch, PackedMatrix, Part, Precision, Source, Then};
use rootstock_kernels::{linear, prepare};

/// (encoding, outputs, inputs)
const SHAPES: [(BlockFormat, usize, usize); 5] = [
    (BlockFormat::Q4_1, 960, 576),
    (BlockFormat::Q4_1, 3072, 576),
    (BlockFormat::Q4_1, 576, 1536),
    (BlockFormat::Q4_0, 4096, 4096),
    (BlockFormat::Q8_0, 49_152, 576),
];
const ROWS: [usize; 8] = [1, 2, 4, 8, 16, 32, 128, 512];

/// GMAC/s and GB/s of weights, shape by shape.
pub fn print(context: &mut Context) -> Result<()> {
    for (name, coarse_from) in [("blocks of 32", usize::MAX), ("coarse groups", 0)] {
        println!("\nGMAC/s (GB/s of weights), rows rounded in {name}\n");
        print_table(context, coarse_from)?;
    }
    Ok(())
}

fn print_table(context: &mut Context, coarse_from: usize) -> Result<()> {
    println!("| weights | {} |", ROWS.map(|rows| format!("{rows} rows")).join(" | "));
    println!("|---|{}", "---|".repeat(ROWS.len()));
    for (format, outputs, inputs) in SHAPES {
        let matrix = matrix(format, outputs, inputs)?;
        let cells: Vec<String> = ROWS
            .iter()
            .filter(|&&rows| rows * outputs <= 4 << 20)
            .map(|&rows| {
                let seconds = seconds(context, &matrix, rows, coarse_from);
                let (macs, bytes) = ((rows * outputs * inputs) as f64, matrix.bytes() as f64);
                format!("{:.0} ({:.0})", macs / seconds / 1e9, bytes / seconds / 1e9)
            })
            .collect();
        println!("| {format:?} {outputs} x {inputs} | {} |", cells.join(" | "));
    }
    Ok(())
}

/// Random weights.
pub fn matrix(format: BlockFormat, outputs: usize, inputs: usize) -> Result<PackedMatrix> {
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

/// Random rows.
pub fn rows(rows: usize, width: usize) -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(2);
    (0..rows * width).map(|_| random.f32() - 0.5).collect()
}

/// Median time of one product.
pub fn seconds(context: &mut Context, matrix: &PackedMatrix, count: usize, coarse_from: usize) -> f64 {
    let values = rows(count, matrix.inputs());
    let (mut x, mut none) = (Activations::new(Precision::Int8), LowRankBatch::default());
    let source = Source {
        coarse_from,
        ..Source::dense(&values, matrix.inputs(), None)
    };
    prepare(context, source, count, &mut x, &mut none);
    let mut out = vec![0.0; count * matrix.outputs()];
    let parts = [Part {
        matrix,
        bias: None,
        column: 0,
    }];
    let product = || linear(context, &x, &parts, &none, Then::Store, (&mut out, matrix.outputs()));
    super::median(product).as_secs_f64()
}
