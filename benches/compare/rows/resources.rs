//! What a server takes: processor time while nobody asks, and memory with 32 adapters in use.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use rootstock_model::Checkpoint;

use super::served::run;
use super::{Bench, STREAMS};
use crate::server::Server;
use crate::steps::kv_bytes_per_token;
use crate::table::{Bound, Line, Quantity};

const IDLE: Duration = Duration::from_secs(10);
const KV_TOKENS: usize = 8192;
const MIB: f64 = 1024.0 * 1024.0;

/// After requests, nobody asks for ten seconds.
pub fn idle(bench: &mut Bench) -> Result<Vec<Line>> {
    let server = Server::ours(&bench.model, bench.threads, &[], &bench.log("idle"))?;
    run(&server, 0, STREAMS, 5)?;
    std::thread::sleep(Duration::from_secs(1));
    let before = server.processor_seconds()?;
    std::thread::sleep(IDLE);
    let used = server.processor_seconds()? - before;
    Ok(vec![Line {
        row: "idle",
        work: "idle server".to_owned(),
        unit: "% of a core",
        beside: String::new(),
        ours: Ok(used / IDLE.as_secs_f64() * 100.0),
        theirs: None,
        quantity: Quantity::Ours,
        must: Some(Bound::AtMost(1.0)),
        goal: Some(Bound::AtMost(0.0)),
    }])
}

/// After 32 requests on 32 adapters, beside what cannot be done without.
pub fn memory(bench: &mut Bench) -> Result<Vec<Line>> {
    let adapters = bench.adapters()?;
    let checkpoint = Checkpoint::open(&bench.model)?;
    let kv = KV_TOKENS * kv_bytes_per_token(checkpoint.spec());
    let needed = file_bytes(&bench.model)? + folder_bytes(&adapters)? + kv as f64;
    let flags = [
        "--adapters",
        &adapters.to_string_lossy(),
        "--kv-memory",
        &kv.to_string(),
        "--max-num-seqs",
        &STREAMS.to_string(),
    ];
    let server = Server::ours(
        &bench.model,
        bench.threads,
        &flags.map(str::to_owned),
        &bench.log("memory"),
    )?;
    let target = server.target(STREAMS)?;
    let shape = crate::load::Shape {
        distribution: crate::load::Distribution::RoundRobin,
        concurrency: STREAMS,
        requests: STREAMS,
        prompt_tokens: 128,
        output_tokens: 64,
        vocabulary: 40_000,
        seed: 6,
    };
    let outcome = crate::load::run(&target, &shape);
    if let Some(error) = outcome.first_error() {
        anyhow::bail!("a request failed: {error:#}");
    }
    Ok(vec![Line {
        row: "memory",
        work: "resident after 32 requests on 32 adapters, KV of 8,192 tokens".to_owned(),
        unit: "MiB",
        beside: "model file + adapters at 16 bits + KV".to_owned(),
        ours: Ok(server.resident_bytes()? / MIB),
        theirs: Some(Ok(needed / MIB)),
        quantity: Quantity::Difference,
        must: Some(Bound::AtMost(120e6 / MIB)),
        goal: Some(Bound::AtMost(60e6 / MIB)),
    }])
}

fn file_bytes(path: &Path) -> Result<f64> {
    Ok(std::fs::metadata(path)?.len() as f64)
}

/// Weights of the first 32 adapters of a folder, as stored.
fn folder_bytes(folder: &Path) -> Result<f64> {
    let mut folders: Vec<_> = std::fs::read_dir(folder)?
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<_>>()?;
    folders.sort();
    let files = folders.iter().take(STREAMS);
    files
        .map(|folder| file_bytes(&folder.join("adapter_model.safetensors")))
        .sum()
}
