//! Attention alone, in SmolLM2's shape (9 query heads on 3 key/value heads of 64): GMAC/s and GB/s of keys and values.

use std::time::{Duration, Instant};

use anyhow::Result;
use rootstock_kernels::{
    AttentionHeads, BLOCK_TOKENS, Context, HeadTransform, KvCache, KvPrecision, KvShape, Places, RotaryTable, attend,
    rotate_and_store,
};

/// Of every operator of this bench.
pub const HEADS: AttentionHeads = AttentionHeads {
    heads: 9,
    kv_heads: 3,
    head_dim: 64,
    scale: 0.125,
    window: None,
};
/// As many as keep a long context out of the caches, as in a model.
const LAYERS: usize = 30;

/// (name, sequences, rows of each, position of the first)
const CASES: [(&str, usize, usize, usize); 9] = [
    ("prefill 512", 1, 512, 0),
    ("prefill 32 x 16", 32, 16, 0),
    ("prefill 512 at 3488", 1, 512, 3488),
    ("decode 1 at 160", 1, 1, 160),
    ("decode 4 at 160", 4, 1, 160),
    ("decode 8 at 160", 8, 1, 160),
    ("decode 32 at 160", 32, 1, 160),
    ("decode 1 at 4000", 1, 1, 4000),
    ("decode 8 at 4000", 8, 1, 4000),
];

/// Every case, a line each.
pub fn print(context: &mut Context) -> Result<()> {
    println!("| case | rotate and store, us per layer | attend, us per layer | GMAC/s | GB/s |\n|---|---|---|---|---|");
    for (name, sequences, rows, position) in CASES {
        let (store, time) = measure(context, sequences, rows, position)?;
        let (macs, bytes) = work(sequences, rows, position);
        println!(
            "| {name} | {:.1} | {:.1} | {:.1} | {:.1} |",
            store * 1e6,
            time * 1e6,
            macs / time / 1e9,
            bytes / time / 1e9
        );
    }
    Ok(())
}

/// Multiply-adds, and bytes of keys and values in f16, of `rows` of each of some sequences from `position` on.
pub fn work(sequences: usize, rows: usize, position: usize) -> (f64, f64) {
    let seen = (position + 1..=position + rows).sum::<usize>() * sequences;
    let held = sequences * (position + rows);
    let (macs, bytes) = (2 * seen * HEADS.width(), 2 * 2 * held * HEADS.kv_heads * HEADS.head_dim);
    (macs as f64, bytes as f64)
}

/// Median seconds of a layer: of [`rotate_and_store`] and of [`attend`].
fn measure(context: &mut Context, sequences: usize, rows: usize, position: usize) -> Result<(f64, f64)> {
    let mut random = fastrand::Rng::with_seed(3);
    let tokens = position + rows;
    let blocks = tokens.div_ceil(BLOCK_TOKENS);
    let shape = KvShape {
        layers: LAYERS,
        blocks: blocks * sequences,
        kv_heads: HEADS.kv_heads,
        head_dim: HEADS.head_dim,
    };
    let mut cache = KvCache::new(shape, KvPrecision::F16)?;
    let table = RotaryTable::new(&[0.5; 32], 1.0, tokens);
    let transform = HeadTransform {
        norms: None,
        rotary: Some(&table),
    };
    let mut order: Vec<u32> = (0..(blocks * sequences) as u32).collect();
    random.shuffle(&mut order);
    let places = |start: usize| {
        let mut places = Places::default();
        for blocks in order.chunks_exact(blocks) {
            places.push(start, tokens - start, blocks.iter().copied());
        }
        places
    };
    let mut numbers = |places: &Places| -> Vec<f32> {
        let count = places.rows().len() * HEADS.qkv_width();
        (0..count).map(|_| random.f32() - 0.5).collect()
    };
    let (all, rows) = (places(0), places(position));
    let (mut filling, input) = (numbers(&all), numbers(&rows));
    for layer in 0..LAYERS {
        rotate_and_store(context, &HEADS, transform, &all, (&mut cache, layer), &mut filling);
    }
    let (mut stores, mut times) = (Vec::new(), Vec::new());
    let mut out = vec![0.0; rows.rows().len() * HEADS.width()];
    let mut qkv = input.clone();
    let started = Instant::now();
    while times.len() < 2 || started.elapsed() < Duration::from_millis(600) {
        for layer in 0..LAYERS {
            qkv.copy_from_slice(&input);
            let start = Instant::now();
            rotate_and_store(context, &HEADS, transform, &rows, (&mut cache, layer), &mut qkv);
            stores.push(start.elapsed());
            let start = Instant::now();
            attend(context, &HEADS, &rows, (&cache, layer), &qkv, &mut out);
            times.push(start.elapsed());
        }
    }
    Ok((median(stores), median(times)))
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64()
}
