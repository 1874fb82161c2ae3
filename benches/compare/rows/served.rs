//! Over HTTP, 128 tokens in and 64 out, 32 streams: beside llama-server, and adapters beside our own base.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use super::{Bench, STREAMS, in_turn};
use crate::load::{self, Distribution, Shape};
use crate::lora_gguf;
use crate::report::Report;
use crate::server::Server;
use crate::table::{Bound, Line, Quantity};

/// 11.2 s of vLLM on a CPU at 32 mixed streams, a quarter of which is to be reached; it cannot be installed beside the others.
const VLLM_FIRST_TOKEN: f64 = 11_200.0;

fn shape(requests: usize, seed: u64) -> Shape {
    Shape {
        distribution: Distribution::RoundRobin,
        concurrency: STREAMS,
        requests,
        prompt_tokens: 128,
        output_tokens: 64,
        vocabulary: 40_000,
        seed,
    }
}

/// One turn: the server's clients, all answers required.
pub fn run(server: &Server, adapters: usize, requests: usize, seed: u64) -> Result<Report> {
    let target = server.target(adapters)?;
    load::run(
        &target,
        &Shape {
            concurrency: 4,
            ..shape(4, seed ^ u64::MAX)
        },
    );
    let shape = shape(requests, seed);
    let outcome = load::run(&target, &shape);
    if let Some(error) = outcome.first_error() {
        anyhow::bail!("a request failed: {error:#}");
    }
    let report = Report::new("", &target, &shape, &outcome);
    ensure!(report.requests > 0, "no requests");
    Ok(report)
}

impl Bench {
    /// Our server with room for every stream.
    fn serve(&self, with_adapters: bool) -> Result<Server> {
        let mut flags = vec!["--max-num-seqs".to_owned(), STREAMS.to_string()];
        if with_adapters {
            flags.extend(["--adapters".to_owned(), self.adapters()?.to_string_lossy().into_owned()]);
        }
        Server::ours(&self.model, self.threads, &flags, &self.log("rootstock"))
    }

    /// llama-server with room for every stream; its prompt cache ignores adapters and is off.
    fn llama_server(&self, with_adapters: bool) -> Result<Server> {
        let mut command = self.llama.command("llama-server")?;
        command.arg("-m").arg(&self.four_bits);
        let numbers = [self.threads, STREAMS, 256 * STREAMS, 0].map(|number| number.to_string());
        for (flag, number) in ["-t", "-np", "-c", "-cram"].into_iter().zip(numbers) {
            command.arg(flag).arg(number);
        }
        if with_adapters {
            let converted = self.out.join("adapters-gguf");
            lora_gguf::convert_all(&self.model, &self.adapters()?, &converted)?;
            let mut files: Vec<PathBuf> = std::fs::read_dir(&converted)?
                .map(|entry| Ok(entry?.path()))
                .collect::<std::io::Result<_>>()?;
            files.sort();
            let files: Vec<_> = files.iter().map(|file| file.to_string_lossy()).collect();
            command
                .arg("--lora")
                .arg(files.join(","))
                .arg("--lora-init-without-apply");
        }
        Server::llama(command, &self.log("llama-server"))
    }
}

/// Runs both servers in turn, each alive only for its turn; also gives the 95th percentiles of the time to first token.
fn beside_llama(bench: &Bench, adapters: usize) -> ([Result<f64, String>; 2], [Vec<f64>; 2]) {
    let requests = bench.requests * STREAMS;
    let (mut our_first, mut their_first) = (Vec::new(), Vec::new());
    let mut turn = 0;
    let speeds = in_turn(
        bench.rounds,
        [
            &mut || {
                turn += 1;
                let report = run(&bench.serve(adapters > 0)?, adapters, requests, turn)?;
                our_first.push(report.first_token_ms.p95);
                Ok(report.output_tokens_per_second)
            },
            &mut || {
                let report = run(&bench.llama_server(adapters > 0)?, adapters, requests, 1)?;
                their_first.push(report.first_token_ms.p95);
                Ok(report.output_tokens_per_second)
            },
        ],
    );
    (speeds, [our_first, their_first])
}

fn lines(row: &'static str, work: &str, bench: &Bench, adapters: usize, bounds: (f64, f64)) -> (Line, Line) {
    let ([ours, theirs], [our_first, their_first]) = beside_llama(bench, adapters);
    let speed = Line {
        row,
        work: work.to_owned(),
        unit: "tok/s",
        beside: "llama-server Q4_0".to_owned(),
        ours: ours.clone(),
        theirs: Some(theirs.clone()),
        quantity: Quantity::Ratio,
        must: Some(Bound::AtLeast(bounds.0)),
        goal: Some(Bound::AtLeast(bounds.1)),
    };
    let first = Line {
        work: format!("{work}: TTFT p95"),
        unit: "ms",
        ours: ours.map(|_| super::median(our_first)),
        theirs: Some(theirs.map(|_| super::median(their_first))),
        must: None,
        goal: None,
        ..speed.clone()
    };
    (speed, first)
}

/// Every stream on an adapter of its own.
pub fn mixed(bench: &mut Bench) -> Result<Vec<Line>> {
    let work = "served, 32 streams on 32 adapters";
    let (speed, first) = lines("served-mixed", work, bench, STREAMS, (8.0, 15.0));
    let bounded = Line {
        beside: "a quarter of vLLM's 11.2 s, as measured elsewhere".to_owned(),
        theirs: None,
        quantity: Quantity::Ours,
        must: Some(Bound::AtMost(VLLM_FIRST_TOKEN / 4.0)),
        goal: Some(Bound::AtMost(1500.0)),
        ..first.clone()
    };
    Ok(vec![speed, first, bounded])
}

/// Every stream on the base.
pub fn base(bench: &mut Bench) -> Result<Vec<Line>> {
    let (speed, first) = lines("served-base", "served, base only, 32 streams", bench, 0, (2.5, 4.0));
    Ok(vec![speed, first])
}

/// What different adapters cost our own server.
pub fn own_base(bench: &mut Bench) -> Result<Vec<Line>> {
    let server = bench.serve(true)?;
    let requests = bench.requests * STREAMS;
    // Every adapter is loaded before the first turn.
    run(&server, STREAMS, STREAMS, 0)?;
    let (mut mixed_turn, mut base_turn) = (100, 200);
    let [mixed, base] = in_turn(
        bench.rounds,
        [
            &mut || {
                mixed_turn += 1;
                Ok(run(&server, STREAMS, requests, mixed_turn)?.output_tokens_per_second)
            },
            &mut || {
                base_turn += 1;
                Ok(run(&server, 0, requests, base_turn)?.output_tokens_per_second)
            },
        ],
    );
    Ok(vec![Line {
        row: "served-own-base",
        work: "served, 32 streams on 32 adapters".to_owned(),
        unit: "tok/s",
        beside: "our own base".to_owned(),
        ours: mixed,
        theirs: Some(base),
        quantity: Quantity::Ratio,
        must: Some(Bound::AtLeast(0.6)),
        goal: Some(Bound::AtLeast(0.8)),
    }])
}
