//! The rows of the table: what each measures and what it must reach.

mod engine;
mod latency;
mod resources;
mod served;

use std::path::PathBuf;

use anyhow::{Result, ensure};

use super::adapters;
use super::peers::{Llama, OpenVino};
use super::table::Line;

/// What rows are measured with.
pub struct Bench {
    pub llama: Llama,
    pub openvino: OpenVino,
    pub model: PathBuf,
    /// The peers' own requantization.
    pub four_bits: PathBuf,
    pub adapters: Option<PathBuf>,
    pub threads: usize,
    pub seconds: f64,
    pub rounds: usize,
    pub requests: usize,
    pub out: PathBuf,
}

/// Name, whether it needs no adapters (and so runs on any base), and the measurement.
pub type Row = (&'static str, bool, fn(&mut Bench) -> Result<Vec<Line>>);

/// Every row, in the order of the table.
pub const ROWS: [Row; 12] = [
    ("served-mixed", false, served::mixed),
    ("served-own-base", false, served::own_base),
    ("served-base", true, served::base),
    ("prefill", true, engine::prefill),
    ("decode1", true, engine::decode_one),
    ("decode32", true, engine::decode_batch),
    ("context4000", true, engine::long_context),
    ("new-adapter", false, latency::new_adapter),
    ("prefix", false, latency::prefix),
    ("beside-prefill", false, latency::beside_prefill),
    ("idle", true, resources::idle),
    ("memory", false, resources::memory),
];

/// Streams of the served rows, and adapters.
pub const STREAMS: usize = 32;

impl Bench {
    /// A folder of 32 adapters, made at first use.
    ///
    /// # Errors
    /// It cannot be written, or is given and holds fewer.
    pub fn adapters(&self) -> Result<PathBuf> {
        if let Some(given) = &self.adapters {
            let count = std::fs::read_dir(given)?.count();
            ensure!(
                count >= STREAMS,
                "{} holds {count} adapters of {STREAMS}",
                given.display()
            );
            return Ok(given.clone());
        }
        let dir = self.out.join("adapters");
        if !dir.exists() {
            adapters::make(&dir, STREAMS, None)?;
        }
        Ok(dir)
    }

    pub fn log(&self, name: &str) -> PathBuf {
        self.out.join(format!("{name}.log"))
    }
}

/// One side of a comparison.
type Side<'a> = &'a mut dyn FnMut() -> Result<f64>;

/// Measures every side once per round, one after the other, and gives their medians. A side that fails once is out.
fn in_turn<const N: usize>(rounds: usize, mut sides: [Side<'_>; N]) -> [Result<f64, String>; N] {
    let mut found: [Result<Vec<f64>, String>; N] = [const { Ok(Vec::new()) }; N];
    for round in 0..rounds.max(1) {
        for (side, found) in sides.iter_mut().zip(&mut found) {
            let Ok(values) = found else { continue };
            match side() {
                Ok(value) => values.push(value),
                Err(error) => *found = Err(format!("{error:#}")),
            }
        }
        let shown: Vec<String> = found.iter().map(last).collect();
        eprintln!("  round {}: {}", round + 1, shown.join(", "));
    }
    found.map(|values| values.map(median))
}

fn last(values: &Result<Vec<f64>, String>) -> String {
    match values {
        Ok(values) => values.last().map_or(String::new(), |value| format!("{value:.1}")),
        Err(_) => "-".to_owned(),
    }
}

/// The middle one; NaN of none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
