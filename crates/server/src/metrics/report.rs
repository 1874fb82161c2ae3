//! The families of the Prometheus text: the engine's, the adapter store's, and those with a sample for each adapter.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rootstock_engine::EngineStats;
use rootstock_engine::adapters::StoreStats;

use super::Metrics;
use super::exposition::Exposition;
use super::exposition::Kind::{self, Counter, Gauge};
use super::histogram::Histogram;
use super::series::{FINISH_REASONS, Series};
use crate::wire::unix_seconds;

/// Series by adapter name.
type BySeries = Vec<(Arc<str>, Arc<Series>)>;
/// One of a series' counters or histograms.
type Part<T> = fn(&Series) -> &T;

impl Metrics {
    /// Prometheus' text, of the base of that name.
    pub(crate) fn render(&self, base: &str, engine: EngineStats, store: StoreStats) -> String {
        let mut text = Exposition::default();
        let series: BySeries = self.series.lock().clone().into_iter().collect();
        vllm_engine(&mut text, base, engine, &series);
        self.requests_info(&mut text, store.registered);
        cache(&mut text, engine);
        adapters(&mut text, store);
        for (name, help, part) in COUNTERS {
            let mut family = text.family(name, Counter, help);
            for (adapter, series) in &series {
                family.sample(&[("adapter", adapter)], load(part(series)));
            }
        }
        finished(&mut text, &series);
        for (name, help, part) in HISTOGRAMS {
            let mut family = text.family(name, Kind::Histogram, help);
            for (adapter, series) in &series {
                family.histogram(("adapter", adapter), part(series));
            }
        }
        text.finish()
    }

    /// What a gateway needs to send a request where its adapter is in use. Any number of adapters share a batch, so
    /// every registered one may run.
    fn requests_info(&self, text: &mut Exposition, registered: usize) {
        let (running, waiting) = self.active_names();
        let labels = [
            ("max_lora", &*registered.max(1).to_string()),
            ("running_lora_adapters", &running),
            ("waiting_lora_adapters", &waiting),
        ];
        let help = "Adapters in use; the value is the time in Unix seconds";
        text.family("vllm:lora_requests_info", Gauge, help)
            .sample(&labels, unix_seconds());
    }
}

/// What vLLM tells of its engine.
fn vllm_engine(text: &mut Exposition, base: &str, engine: EngineStats, series: &BySeries) {
    let mut tell = |name, kind, help, value: f64| {
        text.family(name, kind, help).sample(&[("model_name", base)], value);
    };
    let used = engine.blocks_used as f64 / engine.blocks_total.max(1) as f64;
    let sum = |part: Part<AtomicU64>| series.iter().map(|(_, series)| load(part(series))).sum::<u64>() as f64;
    let (prompts, generated) = (
        sum(|series| &series.prompt_tokens),
        sum(|series| &series.generated_tokens),
    );
    let usage = "Share of the KV blocks that running sequences hold, 1 for all";
    tell(
        "vllm:num_requests_running",
        Gauge,
        "Sequences that run",
        engine.running as f64,
    );
    tell(
        "vllm:num_requests_waiting",
        Gauge,
        "Requests that wait",
        engine.waiting as f64,
    );
    tell("vllm:gpu_cache_usage_perc", Gauge, usage, used);
    tell("vllm:kv_cache_usage_perc", Gauge, usage, used);
    tell(
        "vllm:num_preemptions_total",
        Counter,
        "Sequences that lost their KV blocks",
        engine.preemptions as f64,
    );
    tell(
        "vllm:prefix_cache_queries_total",
        Counter,
        "Prompt tokens looked up",
        engine.prefix_queries as f64,
    );
    tell(
        "vllm:prefix_cache_hits_total",
        Counter,
        "Prompt tokens found",
        engine.prefix_hits as f64,
    );
    tell("vllm:prompt_tokens_total", Counter, "Tokens of prompts", prompts);
    tell("vllm:generation_tokens_total", Counter, "Tokens generated", generated);
}

fn cache(text: &mut Exposition, engine: EngineStats) {
    let cached = "KV blocks that hold a reusable prefix and no running sequence";
    text.single("rootstock_kv_blocks_cached", Gauge, cached, engine.blocks_cached);
    text.single("rootstock_engine_steps_total", Counter, "Batches run", engine.steps);
    let blocks = engine.blocks_total.to_string();
    let mut config = text.family("vllm:cache_config_info", Gauge, "The KV pool");
    config.sample(
        &[
            ("block_size", &engine.block_tokens.to_string()),
            ("num_gpu_blocks", &blocks),
        ],
        1,
    );
}

fn adapters(text: &mut Exposition, store: StoreStats) {
    let mut tell = |name, kind, help, value: u64| text.single(name, kind, help, value);
    let bytes = (store.resident_bytes as u64, store.budget_bytes as u64);
    tell(
        "rootstock_adapters_registered",
        Gauge,
        "Names served",
        store.registered as u64,
    );
    tell(
        "rootstock_adapters_resident",
        Gauge,
        "Generations in memory",
        store.resident as u64,
    );
    tell(
        "rootstock_adapter_resident_bytes",
        Gauge,
        "Bytes of adapters in memory",
        bytes.0,
    );
    tell(
        "rootstock_adapter_budget_bytes",
        Gauge,
        "Bytes that adapters may take",
        bytes.1,
    );
    tell("rootstock_adapter_loads_total", Counter, "Loads from disk", store.loads);
    tell(
        "rootstock_adapter_evictions_total",
        Counter,
        "Dropped from memory for others",
        store.evictions,
    );
    tell(
        "rootstock_adapter_refusals_total",
        Counter,
        "Adapters refused",
        store.refusals,
    );
}

const COUNTERS: [(&str, &str, Part<AtomicU64>); 3] = [
    ("rootstock_prompt_tokens_total", "Tokens of prompts", |series| {
        &series.prompt_tokens
    }),
    (
        "rootstock_cached_prompt_tokens_total",
        "Prompt tokens found in the prefix cache",
        |series| &series.cached_tokens,
    ),
    ("rootstock_generated_tokens_total", "Tokens generated", |series| {
        &series.generated_tokens
    }),
];

const HISTOGRAMS: [(&str, &str, Part<Histogram>); 3] = [
    (
        "rootstock_time_to_first_token_seconds",
        "From request to first token",
        |series| &series.first_token,
    ),
    (
        "rootstock_inter_token_seconds",
        "From one token of a choice to the next",
        |series| &series.between_tokens,
    ),
    (
        "rootstock_request_seconds",
        "From the request to the end of a choice",
        |series| &series.end_to_end,
    ),
];

fn finished(text: &mut Exposition, series: &BySeries) {
    let help = "Choices that ended, by reason";
    let mut family = text.family("rootstock_choices_finished_total", Counter, help);
    for (adapter, series) in series {
        for (reason, count) in FINISH_REASONS.iter().zip(&series.finished) {
            family.sample(&[("adapter", adapter), ("finish_reason", reason)], load(count));
        }
    }
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
