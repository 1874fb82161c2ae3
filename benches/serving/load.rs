//! Closed-loop load: a fixed number of clients, each sending its next request when the last is answered.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Error;

use crate::client::{Sample, Target};

/// Which adapter the requests are on.
#[derive(Debug, Clone, Copy)]
pub enum Distribution {
    /// One after the other.
    RoundRobin,
    /// Each as likely.
    Uniform,
    /// The k-th with probability proportional to k^-exponent.
    Zipf {
        /// 0 is uniform; 1 is the classic law.
        exponent: f64,
    },
}

/// What is sent.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub distribution: Distribution,
    pub concurrency: usize,
    pub requests: usize,
    pub prompt_tokens: usize,
    pub output_tokens: usize,
    pub vocabulary: u32,
    pub seed: u64,
}

/// What came of it.
pub struct Outcome {
    /// One per request, in no order.
    pub results: Vec<Result<Sample, Error>>,
    /// From the first request to the last answer.
    pub wall: Duration,
    /// Adapters the server read from disk meanwhile, where it tells.
    pub loads: Option<f64>,
}

impl Outcome {
    /// Answers that came whole.
    pub fn samples(&self) -> impl Iterator<Item = &Sample> {
        self.results.iter().flatten()
    }

    /// The first failure.
    pub fn first_error(&self) -> Option<&Error> {
        self.results.iter().find_map(|result| result.as_ref().err())
    }
}

/// Chooses tenants for a run: request by request, the same for a seed.
fn tenants(shape: &Shape, count: usize) -> Vec<usize> {
    let mut random = fastrand::Rng::with_seed(shape.seed);
    let weights = match shape.distribution {
        Distribution::Zipf { exponent } => (1..=count).map(|rank| (rank as f64).powf(-exponent)).collect(),
        _ => vec![1.0; count],
    };
    let cumulative: Vec<f64> = weights
        .iter()
        .scan(0.0, |sum, weight| {
            *sum += weight;
            Some(*sum)
        })
        .collect();
    let total = cumulative[count - 1];
    let mut draw = |request: usize| match shape.distribution {
        Distribution::RoundRobin => request % count,
        _ => {
            let point = random.f64() * total;
            cumulative.partition_point(|sum| *sum <= point).min(count - 1)
        }
    };
    (0..shape.requests).map(&mut draw).collect()
}

/// Random ids, different for each request: no server finds a prefix of one in another.
fn prompt(shape: &Shape, request: usize) -> Vec<u32> {
    let mut random = fastrand::Rng::with_seed(shape.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ request as u64);
    (0..shape.prompt_tokens)
        .map(|_| random.u32(1000..shape.vocabulary))
        .collect()
}

/// Sends it all.
pub fn run(target: &Target, shape: &Shape) -> Outcome {
    let tenants = tenants(shape, target.tenants.len());
    let next = AtomicUsize::new(0);
    let loads = || target.metric("rootstock_adapter_loads_total");
    let before = loads();
    let start = Instant::now();
    let take = || {
        let request = next.fetch_add(1, Ordering::Relaxed);
        tenants.get(request).map(|tenant| (request, *tenant))
    };
    let client = || {
        let mut results = Vec::new();
        while let Some((request, tenant)) = take() {
            results.push(target.ask(tenant, &prompt(shape, request), shape.output_tokens));
        }
        results
    };
    let results = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..shape.concurrency).map(|_| scope.spawn(client)).collect();
        clients
            .into_iter()
            .flat_map(|client| client.join().unwrap_or_default())
            .collect()
    });
    let wall = start.elapsed();
    let loads = before.zip(loads()).map(|(before, after)| after - before);
    Outcome { results, wall, loads }
}
