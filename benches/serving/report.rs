//! What the clients saw, in one row: throughput, time to first token, gaps between tokens, and the tenant served worst.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::client::Target;
use crate::load::{Outcome, Shape};

/// Head of the Markdown table.
pub const HEAD: &str = "\
| run | adapters | streams | requests | errors | output tok/s | TTFT p50 / p95 / p99, ms | between tokens p50 / p95 / p99, ms | worst tenant's TTFT p95, ms | adapter loads/s |
|---|---|---|---|---|---|---|---|---|---|";

/// Three percentiles in milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Percentiles {
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
}

/// The tenant whose slowest requests waited longest for their first token.
#[derive(Debug, Clone, Serialize)]
pub struct WorstTenant {
    pub name: String,
    pub requests: usize,
    pub first_token_p95_ms: f64,
}

/// One run.
#[derive(Debug, Serialize)]
pub struct Report {
    pub label: String,
    pub adapters: usize,
    pub concurrency: usize,
    pub requests: usize,
    pub errors: usize,
    pub prompt_tokens: usize,
    pub output_tokens: usize,
    pub wall_seconds: f64,
    /// Generated tokens over the whole time, prefills included.
    pub output_tokens_per_second: f64,
    pub first_token_ms: Percentiles,
    pub between_tokens_ms: Percentiles,
    pub worst_tenant: Option<WorstTenant>,
    pub adapter_loads_per_second: Option<f64>,
}

impl Percentiles {
    /// Nearest rank; zeros of nothing.
    fn of(durations: impl Iterator<Item = Duration>) -> Self {
        let mut sorted: Vec<Duration> = durations.collect();
        sorted.sort_unstable();
        let at = |share: f64| {
            let rank = (share * sorted.len() as f64).ceil() as usize;
            sorted
                .get(rank.saturating_sub(1))
                .map_or(0.0, |duration| duration.as_secs_f64() * 1e3)
        };
        Self {
            p50: at(0.50),
            p95: at(0.95),
            p99: at(0.99),
        }
    }
}

impl Report {
    /// Sums up a run.
    pub fn new(label: &str, target: &Target, shape: &Shape, outcome: &Outcome) -> Self {
        let wall = outcome.wall.as_secs_f64();
        let tokens: usize = outcome.samples().map(|sample| sample.tokens).sum();
        Self {
            label: label.to_owned(),
            adapters: target.adapters(),
            concurrency: shape.concurrency,
            requests: shape.requests,
            errors: outcome.results.len() - outcome.samples().count(),
            prompt_tokens: shape.prompt_tokens,
            output_tokens: shape.output_tokens,
            wall_seconds: wall,
            output_tokens_per_second: tokens as f64 / wall,
            first_token_ms: Percentiles::of(outcome.samples().map(|sample| sample.first)),
            between_tokens_ms: Percentiles::of(outcome.samples().flat_map(|sample| sample.gaps.iter().copied())),
            worst_tenant: worst_tenant(target, outcome),
            adapter_loads_per_second: outcome.loads.map(|loads| loads / wall),
        }
    }

    /// A row of the Markdown table.
    pub fn row(&self) -> String {
        let percentiles = |p: Percentiles| format!("{:.0} / {:.0} / {:.0}", p.p50, p.p95, p.p99);
        let worst = self.worst_tenant.as_ref();
        let cells = [
            self.label.clone(),
            self.adapters.to_string(),
            self.concurrency.to_string(),
            self.requests.to_string(),
            self.errors.to_string(),
            format!("{:.0}", self.output_tokens_per_second),
            percentiles(self.first_token_ms),
            percentiles(self.between_tokens_ms),
            worst.map_or(String::new(), |worst| {
                format!("{:.0} ({})", worst.first_token_p95_ms, worst.name)
            }),
            self.adapter_loads_per_second
                .map_or(String::new(), |loads| format!("{loads:.1}")),
        ];
        format!("| {} |", cells.join(" | "))
    }
}

fn worst_tenant(target: &Target, outcome: &Outcome) -> Option<WorstTenant> {
    let mut first: BTreeMap<usize, Vec<Duration>> = BTreeMap::new();
    for sample in outcome.samples() {
        first.entry(sample.tenant).or_default().push(sample.first);
    }
    let tenants = first.into_iter().map(|(tenant, first)| WorstTenant {
        name: target.tenants[tenant].clone(),
        requests: first.len(),
        first_token_p95_ms: Percentiles::of(first.into_iter()).p95,
    });
    tenants.max_by(|a, b| a.first_token_p95_ms.total_cmp(&b.first_token_p95_ms))
}
