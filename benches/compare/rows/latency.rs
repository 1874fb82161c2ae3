//! What one client waits for: a new adapter, a prompt known in part, and tokens beside another tenant's long prompt.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

use super::{Bench, in_turn, median};
use crate::adapters;
use crate::client::{Sample, Target};
use crate::server::Server;
use crate::table::{Bound, Line, Quantity};

const REPETITIONS: usize = 9;

fn tokens(count: usize, seed: u64) -> Vec<u32> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..count).map(|_| random.u32(1000..40_000)).collect()
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// From the load of an adapter to its first token, beside the same prompt on the base.
pub fn new_adapter(bench: &mut Bench) -> Result<Vec<Line>> {
    let folder = bench.out.join("new-adapters");
    adapters::make(&folder, REPETITIONS, Some(16))?;
    let root = folder.to_string_lossy().into_owned();
    let log = bench.log("new-adapter");
    let server = Server::ours(&bench.model, bench.threads, &["--adapter-root".to_owned(), root], &log)?;
    let base = server.target(0)?;
    base.ask(0, &tokens(128, 0), 8)?;
    let (mut loads, mut prompts) = (0, 0);
    let [ours, theirs] = in_turn(
        REPETITIONS,
        [
            &mut || {
                let name = format!("adapter-{loads:03}");
                let body = json!({"lora_name": name, "lora_path": name});
                loads += 1;
                let start = Instant::now();
                server.post("/v1/load_lora_adapter", &body)?;
                let loaded = start.elapsed();
                let sample = base.named(&name).ask(0, &tokens(128, loads), 8)?;
                Ok(milliseconds(loaded + sample.first))
            },
            &mut || {
                prompts += 1;
                Ok(milliseconds(base.ask(0, &tokens(128, prompts), 8)?.first))
            },
        ],
    );
    Ok(vec![Line {
        row: "new-adapter",
        work: "load call of a new adapter to first token".to_owned(),
        unit: "ms",
        beside: "TTFT of the same prompt on the base".to_owned(),
        ours,
        theirs: Some(theirs),
        quantity: Quantity::Difference,
        must: Some(Bound::AtMost(10.0)),
        goal: Some(Bound::AtMost(3.0)),
    }])
}

/// A tenant's system prompt of 1,000 tokens, met again.
pub fn prefix(bench: &mut Bench) -> Result<Vec<Line>> {
    let (server, _) = tenants(bench)?;
    let tenant = server.target(1)?;
    tenant.ask(0, &tokens(64, 0), 8)?;
    let prompt = |system: u64, question: u64| [tokens(1000, system), tokens(16, 1_000_000 + question)].concat();
    let (mut cold, mut gaps) = (1, Vec::new());
    let mut warm = 1;
    let [first, again] = in_turn(
        REPETITIONS,
        [
            &mut || {
                cold += 1;
                Ok(milliseconds(tenant.ask(0, &prompt(cold, cold), 8)?.first))
            },
            &mut || {
                warm += 1;
                let sample = tenant.ask(0, &prompt(warm, 1000 + warm), 8)?;
                gaps.extend(sample.gaps.iter().copied().map(milliseconds));
                Ok(milliseconds(sample.first))
            },
        ],
    );
    let step = median(gaps);
    let goal = first.as_ref().ok().map(|first| Bound::AtMost(step / first));
    Ok(vec![Line {
        row: "prefix",
        work: "TTFT on a known system prompt of 1,000 tokens (goal: one decode step)".to_owned(),
        unit: "ms",
        beside: "the same cold".to_owned(),
        ours: again,
        theirs: Some(first),
        quantity: Quantity::Ratio,
        must: Some(Bound::AtMost(0.1)),
        goal,
    }])
}

/// Our server with the adapters, and a target of two of them.
fn tenants(bench: &Bench) -> Result<(Server, Target)> {
    let adapters = bench.adapters()?.to_string_lossy().into_owned();
    let flags = ["--adapters".to_owned(), adapters];
    let server = Server::ours(&bench.model, bench.threads, &flags, &bench.log("tenants"))?;
    let target = server.target(2)?;
    Ok((server, target))
}

/// What a turn of both tenants gave.
#[derive(Default)]
struct Beside {
    /// Between tokens of the stream alone.
    alone: Vec<f64>,
    /// Between its tokens while the prompt ran.
    beside: Vec<f64>,
}

/// One stream while another tenant's prompt of 4,000 tokens runs.
pub fn beside_prefill(bench: &mut Bench) -> Result<Vec<Line>> {
    let (_server, target) = tenants(bench)?;
    for tenant in 0..2 {
        target.ask(tenant, &tokens(128, 7), 8)?;
    }
    let mut found = Beside::default();
    let (mut turn, mut prompt) = (10_000, 20_000);
    let rounds = bench.rounds;
    let [beside, alone] = in_turn(
        rounds,
        [
            &mut || {
                turn += 1;
                together(&target, turn, &mut found.beside)
            },
            &mut || {
                prompt += 1;
                let stream = target.ask(0, &tokens(128, prompt), 128)?;
                found.alone.extend(stream.gaps.iter().copied().map(milliseconds));
                Ok(milliseconds(target.ask(1, &tokens(4000, prompt), 1)?.first))
            },
        ],
    );
    found.beside.sort_by(f64::total_cmp);
    let rank = (found.beside.len() as f64 * 0.99).ceil() as usize;
    let slowest = found.beside.get(rank.saturating_sub(1)).copied();
    let prefill = Line {
        row: "beside-prefill",
        work: "prefill of 4,000 tokens beside a stream".to_owned(),
        unit: "ms",
        beside: "its time alone".to_owned(),
        ours: beside,
        theirs: Some(alone),
        quantity: Quantity::Ratio,
        must: Some(Bound::AtMost(2.0)),
        goal: Some(Bound::AtMost(1.3)),
    };
    let stream = Line {
        work: "one stream beside it: between tokens, p99".to_owned(),
        beside: "its p50 alone".to_owned(),
        ours: slowest.ok_or_else(|| "no token came while the prompt ran".to_owned()),
        theirs: Some(Ok(median(found.alone))),
        must: Some(Bound::AtMost(3.0)),
        goal: Some(Bound::AtMost(1.5)),
        ..prefill.clone()
    };
    Ok(vec![stream, prefill])
}

/// Time of the prompt in milliseconds; adds the stream's gaps that lie within it, whole or in part.
fn together(target: &Target, seed: u64, gaps: &mut Vec<f64>) -> Result<f64> {
    std::thread::scope(|scope| {
        let start = Instant::now();
        let stream = scope.spawn(move || target.ask(0, &tokens(128, seed), 1500));
        std::thread::sleep(Duration::from_millis(400));
        let from = start.elapsed();
        let prompt = target.ask(1, &tokens(4000, seed), 1)?;
        let to = from + prompt.first;
        let stream: Sample = stream.join().ok().context("the stream's client")??;
        let mut at = stream.first;
        for gap in &stream.gaps {
            let before = at;
            at += *gap;
            if at > from && before < to {
                gaps.push(milliseconds(*gap));
            }
        }
        anyhow::ensure!(at > to, "the stream ended before the prompt did");
        Ok(milliseconds(prompt.first))
    })
}
