//! The operators of a layer of SmolLM2-135M, each beside the limit that binds it: products or bytes, whichever would take longer
//! at the machine's full rate. One operator alone runs from the caches that a whole model would not fit, so few rows can
//! exceed what memory gives.

use anyhow::Result;
use rootstock_kernels::{
    Activations, BLOCK_TOKENS, BlockFormat, Context, ElementType, KvCache, KvPrecision, KvShape, LowRankBatch,
    LowRankPair, LowRankTerm, NormFormula, NormWeights, Part, Places, Precision, RowNorms, Source, Then, attend,
    linear, prepare,
};

use super::attention::{HEADS, work};
use super::products::{matrix, rows, seconds};
use super::{Limits, median};

const HIDDEN: usize = 576;
const RANK: usize = 16;

/// One operator at a number of rows.
pub struct Operator {
    pub name: String,
    /// Multiply-adds.
    pub macs: f64,
    /// Bytes of weights, adapters, keys and values, or rows, that it must read.
    pub bytes: f64,
    pub seconds: f64,
    /// Its products are of int8, else of f32.
    pub int8: bool,
}

impl Operator {
    /// Multiply-adds per byte.
    pub fn intensity(&self) -> f64 {
        self.macs / self.bytes
    }

    /// What it can take at least, in seconds, and whether that is for bytes.
    fn least(&self, limits: &Limits) -> (f64, bool) {
        let peak = if self.int8 { limits.int8 } else { limits.f32 };
        let (products, bytes) = (self.macs / peak, self.bytes / limits.memory);
        (products.max(bytes), bytes > products)
    }
}

/// Every operator.
///
/// # Errors
/// A matrix cannot be packed.
pub fn measure(context: &mut Context) -> Result<Vec<Operator>> {
    let mut all = Vec::new();
    let maps = [
        ("qkv", BlockFormat::Q4_1, 960, HIDDEN),
        ("o", BlockFormat::Q4_1, HIDDEN, HIDDEN),
        ("gate_up", BlockFormat::Q4_1, 3072, HIDDEN),
        ("down", BlockFormat::Q4_1, HIDDEN, 1536),
        ("output", BlockFormat::Q8_0, 49_152, HIDDEN),
    ];
    for (name, format, outputs, inputs) in maps {
        let matrix = matrix(format, outputs, inputs)?;
        for count in [1, 32, 512].into_iter().filter(|count| count * outputs <= 4 << 20) {
            all.push(Operator {
                name: format!("{name}, {count} rows"),
                macs: (count * outputs * inputs) as f64,
                bytes: matrix.bytes() as f64,
                seconds: seconds(context, &matrix, count, usize::MAX),
                int8: true,
            });
        }
    }
    all.push(attention(context, ("attention, prefill 512", 1, 512, 0))?);
    all.push(attention(context, ("attention, decode 32 at 160", 32, 1, 160))?);
    all.push(attention(context, ("attention, decode 8 at 4,000", 8, 1, 4000))?);
    all.push(low_rank(context, 1, 1)?);
    all.push(low_rank(context, 32, 1)?);
    all.push(low_rank(context, 1, 512)?);
    for count in [1, 32, 512] {
        all.push(norm(context, count));
    }
    Ok(all)
}

/// One layer's attention; the keys and values of a row's positions count once per row.
fn attention(
    context: &mut Context,
    (name, sequences, count, position): (&str, usize, usize, usize),
) -> Result<Operator> {
    let each = (position + count).div_ceil(BLOCK_TOKENS);
    let shape = KvShape {
        layers: 1,
        blocks: sequences * each,
        kv_heads: HEADS.kv_heads,
        head_dim: HEADS.head_dim,
    };
    let cache = KvCache::new(shape, KvPrecision::F16)?;
    let mut places = Places::default();
    for sequence in 0..sequences {
        places.push(
            position,
            count,
            (0..each).map(|block| (block * sequences + sequence) as u32),
        );
    }
    let qkv = rows(sequences * count, HEADS.qkv_width());
    let mut out = vec![0.0; sequences * count * HEADS.width()];
    let time = median(|| attend(context, &HEADS, &places, (&cache, 0), &qkv, &mut out));
    let (macs, bytes) = work(sequences, count, position);
    Ok(Operator {
        name: name.to_owned(),
        macs,
        bytes,
        seconds: time.as_secs_f64(),
        int8: false,
    })
}

/// What adapters add to gate and up together: shrink and expand, by the difference to the same without them.
fn low_rank(context: &mut Context, adapters: usize, each: usize) -> Result<Operator> {
    let (inner, count) = (1536, adapters * each);
    let gate = matrix(BlockFormat::Q4_1, inner, HIDDEN)?;
    let up = matrix(BlockFormat::Q4_1, inner, HIDDEN)?;
    let parts = [(&gate, 0), (&up, inner)].map(|(matrix, column)| Part {
        matrix,
        bias: None,
        column,
    });
    let halves = |count: usize| half::bf16::from_f32(0.01).to_le_bytes().repeat(count);
    let (a, b) = (halves(RANK * HIDDEN), halves(inner * RANK));
    let pair = || LowRankPair::pack((ElementType::Bf16, &a), (ElementType::Bf16, &b), RANK, (HIDDEN, inner));
    let pairs: Vec<LowRankPair> = (0..2 * adapters).map(|_| pair()).collect::<Result<_, _>>()?;
    let values = rows(count, HIDDEN);
    let mut x = Activations::new(Precision::Int8);
    let mut out = vec![0.0; count * 2 * inner];
    let mut run = |with: bool| {
        median(|| {
            let mut deltas = LowRankBatch::default();
            for (index, pair) in pairs.iter().enumerate().filter(|_| with) {
                deltas.push(LowRankTerm {
                    rows: index / 2 * each..(index / 2 + 1) * each,
                    part: index % 2,
                    pair,
                    scale: 1.0,
                    columns: None,
                });
            }
            prepare(
                context,
                Source::dense(&values, HIDDEN, None),
                count,
                &mut x,
                &mut deltas,
            );
            linear(context, &x, &parts, &deltas, Then::Store, (&mut out, 2 * inner));
        })
    };
    let (with, without) = (run(true), run(false));
    Ok(Operator {
        name: format!("LoRA of rank {RANK} on gate_up, {adapters} adapters, {each} rows each"),
        macs: (2 * count * RANK * (HIDDEN + inner)) as f64,
        bytes: pairs.iter().map(LowRankPair::bytes).sum::<usize>() as f64,
        seconds: with.saturating_sub(without).as_secs_f64().max(1e-9),
        int8: false,
    })
}

/// Norm and rounding to int8 of the residual stream; bytes are those of the rows.
fn norm(context: &mut Context, count: usize) -> Operator {
    let (values, weight) = (rows(count, HIDDEN), vec![1.0; HIDDEN]);
    let norms = RowNorms {
        formula: NormFormula::Rms,
        epsilon: 1e-5,
        weights: NormWeights {
            weight: &weight,
            bias: &[],
        },
        own: &[],
    };
    let (mut x, mut none) = (Activations::new(Precision::Int8), LowRankBatch::default());
    let source = Source::dense(&values, HIDDEN, Some(norms));
    let time = median(|| prepare(context, source, count, &mut x, &mut none));
    Operator {
        name: format!("norm + quantize, {count} rows"),
        macs: (4 * count * HIDDEN) as f64,
        bytes: (4 * count * HIDDEN) as f64,
        seconds: time.as_secs_f64(),
        int8: false,
    }
}

/// The table.
pub fn print(limits: &Limits, operators: &[Operator]) {
    println!("| operator | µs | GMAC/s | GB/s | multiply-adds per byte | bound by | share of that limit |");
    println!("|---|---|---|---|---|---|---|");
    for operator in operators {
        let (least, bytes) = operator.least(limits);
        let bound = match (bytes, operator.int8) {
            (true, _) => "memory",
            (false, true) => "int8 products",
            (false, false) => "f32 products",
        };
        println!(
            "| {} | {:.1} | {:.1} | {:.1} | {:.1} | {bound} | {:.0}% |",
            operator.name,
            operator.seconds * 1e6,
            operator.macs / operator.seconds / 1e9,
            operator.bytes / operator.seconds / 1e9,
            operator.intensity(),
            least / operator.seconds * 100.0
        );
    }
}
