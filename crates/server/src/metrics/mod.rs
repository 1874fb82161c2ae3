//! What the server counts, per adapter and over all, and its Prometheus text. Names that begin with `vllm:` are those
//! the Kubernetes gateway's endpoint picker and vLLM's dashboards read; `rootstock_` are our own.

mod histogram;
mod series;
mod text;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use rootstock_engine::EngineStats;
use rootstock_engine::adapters::StoreStats;

pub(crate) use series::Meter;
use series::{Activity, FINISH_REASONS, Series};
use text::Exposition;
use text::Kind::{Counter, Gauge, Histogram};

use crate::target::Target;
use crate::wire::unix_seconds;

/// Adapters with counters of their own; what comes later is counted as [`OTHER`], so that the text stays bounded.
const MAX_SERIES: usize = 1000;
const OTHER: &str = "other";

/// All counters of a server.
pub(crate) struct Metrics {
    base: Arc<str>,
    series: Mutex<BTreeMap<Arc<str>, Arc<Series>>>,
    /// Adapters with choices that wait or run; the idle ones go when the next choice begins or the text is written.
    active: Mutex<BTreeMap<Arc<str>, Arc<Activity>>>,
}

impl Metrics {
    pub(crate) fn new(base: Arc<str>) -> Self {
        Self {
            base,
            series: Mutex::default(),
            active: Mutex::default(),
        }
    }

    /// The meter of a choice that has just been submitted, with `prompt_tokens` in its prompt.
    pub(crate) fn meter(&self, target: &Target, arrived: Instant, prompt_tokens: usize) -> Meter {
        let series = self.series(target.tenant());
        series.prompt_tokens.fetch_add(prompt_tokens as u64, Ordering::Relaxed);
        let mut active = self.active.lock();
        let activities = target.names().map(|name| {
            let activity = active.entry(name.clone()).or_default().clone();
            activity.waiting.fetch_add(1, Ordering::Relaxed);
            activity
        });
        Meter {
            series,
            activities: activities.collect(),
            arrived,
            last_token: None,
            started: false,
            ended: false,
        }
    }

    fn series(&self, name: &Arc<str>) -> Arc<Series> {
        let mut series = self.series.lock();
        let name = match series.contains_key(name) || series.len() < MAX_SERIES {
            true => name.clone(),
            false => OTHER.into(),
        };
        series.entry(name).or_default().clone()
    }

    /// Prometheus' text.
    pub(crate) fn render(&self, engine: EngineStats, store: StoreStats) -> String {
        let mut text = Exposition::default();
        self.engine(&mut text, engine);
        self.adapters(&mut text, store);
        let series: Vec<_> = self.series.lock().clone().into_iter().collect();
        self.totals(&mut text, &series);
        per_adapter(&mut text, &series);
        text.finish()
    }

    fn engine(&self, text: &mut Exposition, engine: EngineStats) {
        let label = [("model_name", &*self.base)];
        let used = engine.blocks_used as f64 / engine.blocks_total.max(1) as f64;
        let running = "Sequences that run";
        text.family("vllm:num_requests_running", Gauge, running)
            .sample(&label, engine.running);
        let waiting = "Requests that wait for a place";
        text.family("vllm:num_requests_waiting", Gauge, waiting)
            .sample(&label, engine.waiting);
        for name in ["vllm:gpu_cache_usage_perc", "vllm:kv_cache_usage_perc"] {
            let help = "Share of the KV blocks that running sequences hold, 1 for all";
            text.family(name, Gauge, help).sample(&label, used);
        }
        let preemptions = "Sequences sent back to the queue because KV blocks ran out";
        text.family("vllm:num_preemptions_total", Counter, preemptions)
            .sample(&label, engine.preemptions);
        let queries = "Prompt tokens looked up in the prefix cache";
        text.family("vllm:prefix_cache_queries_total", Counter, queries)
            .sample(&label, engine.prefix_queries);
        let hits = "Prompt tokens found in the prefix cache";
        text.family("vllm:prefix_cache_hits_total", Counter, hits)
            .sample(&label, engine.prefix_hits);
        let blocks = engine.blocks_total.to_string();
        text.family("vllm:cache_config_info", Gauge, "The KV pool")
            .sample(&[("num_gpu_blocks", blocks.as_str())], 1);
        let cached = "KV blocks that hold a reusable prefix and no running sequence";
        text.single("rootstock_kv_blocks_cached", Gauge, cached, engine.blocks_cached);
        text.single("rootstock_engine_steps_total", Counter, "Batches run", engine.steps);
    }

    fn adapters(&self, text: &mut Exposition, store: StoreStats) {
        let (running, waiting) = self.active_names();
        // Any number of adapters share a batch, so every registered one may run.
        let most = store.registered.max(1).to_string();
        text.family(
            "vllm:lora_requests_info",
            Gauge,
            "Adapters in use; the value is the time in Unix seconds",
        )
        .sample(
            &[
                ("max_lora", most.as_str()),
                ("running_lora_adapters", running.as_str()),
                ("waiting_lora_adapters", waiting.as_str()),
            ],
            unix_seconds(),
        );
        let mut single = |name, kind, help, value: u64| text.single(name, kind, help, value);
        let help = "Adapter names that are served";
        single("rootstock_adapters_registered", Gauge, help, store.registered as u64);
        let help = "Adapter generations in memory";
        single("rootstock_adapters_resident", Gauge, help, store.resident as u64);
        let help = "Bytes of the adapters in memory";
        single(
            "rootstock_adapter_resident_bytes",
            Gauge,
            help,
            store.resident_bytes as u64,
        );
        let help = "Bytes that adapters may take";
        single("rootstock_adapter_budget_bytes", Gauge, help, store.budget_bytes as u64);
        single("rootstock_adapter_loads_total", Counter, "Loads from disk", store.loads);
        let help = "Adapters dropped from memory for others";
        single("rootstock_adapter_evictions_total", Counter, help, store.evictions);
        let help = "Adapters that were refused";
        single("rootstock_adapter_refusals_total", Counter, help, store.refusals);
    }

    /// Names of the adapters with running and with waiting choices, joined by commas.
    fn active_names(&self) -> (String, String) {
        let mut active = self.active.lock();
        let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        active.retain(|_, activity| count(&activity.running) + count(&activity.waiting) > 0);
        let names = |counter: fn(&Activity) -> &AtomicUsize| {
            let busy = active.iter().filter(|(_, activity)| count(counter(activity)) > 0);
            busy.map(|(name, _)| &**name).collect::<Vec<_>>().join(",")
        };
        (names(|activity| &activity.running), names(|activity| &activity.waiting))
    }

    /// The sums over all adapters under vLLM's names.
    fn totals(&self, text: &mut Exposition, series: &[(Arc<str>, Arc<Series>)]) {
        let label = [("model_name", &*self.base)];
        let sum = |counter: fn(&Series) -> &AtomicU64| -> u64 {
            let counts = series.iter().map(|(_, series)| counter(series).load(Ordering::Relaxed));
            counts.sum()
        };
        text.family("vllm:prompt_tokens_total", Counter, "Tokens of prompts")
            .sample(&label, sum(|series| &series.prompt_tokens));
        text.family("vllm:generation_tokens_total", Counter, "Tokens generated")
            .sample(&label, sum(|series| &series.generated_tokens));
    }
}

/// The families with a sample for each adapter.
fn per_adapter(text: &mut Exposition, series: &[(Arc<str>, Arc<Series>)]) {
    let counters: [(_, _, fn(&Series) -> &AtomicU64); 3] = [
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
    for (name, help, counter) in counters {
        let mut family = text.family(name, Counter, help);
        for (adapter, series) in series {
            family.sample(&[("adapter", adapter)], counter(series).load(Ordering::Relaxed));
        }
    }
    let help = "Choices that ended, by reason";
    let mut family = text.family("rootstock_choices_finished_total", Counter, help);
    for (adapter, series) in series {
        for (reason, count) in FINISH_REASONS.iter().zip(&series.finished) {
            let labels = [("adapter", &**adapter), ("finish_reason", *reason)];
            family.sample(&labels, count.load(Ordering::Relaxed));
        }
    }
    let histograms: [(_, _, fn(&Series) -> &histogram::Histogram); 3] = [
        (
            "rootstock_time_to_first_token_seconds",
            "From the request to the first token",
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
    for (name, help, histogram) in histograms {
        let mut family = text.family(name, Histogram, help);
        for (adapter, series) in series {
            family.histogram(("adapter", adapter), histogram(series));
        }
    }
}
