//! What the server counts, per adapter and over all, and its Prometheus text. Names that begin with `vllm:` are those
//! the Kubernetes gateway's endpoint picker and vLLM's dashboards read; `rootstock_` are our own.

mod exposition;
mod histogram;
mod report;
mod series;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use series::{Activity, Series};

pub(crate) use series::Meter;

use crate::target::Target;

/// Adapters with counters of their own; what comes later is counted as [`OTHER`], so that the text stays bounded.
const MAX_SERIES: usize = 1000;
const OTHER: &str = "other";

/// All counters of a server.
#[derive(Default)]
pub(crate) struct Metrics {
    series: Mutex<BTreeMap<Arc<str>, Arc<Series>>>,
    /// Adapters with choices that wait or run; idle ones go when the text is written, and when they get many.
    active: Mutex<BTreeMap<Arc<str>, Arc<Activity>>>,
}

impl Metrics {
    /// The meter of a choice that has just been submitted, with `prompt_tokens` in its prompt.
    pub(crate) fn meter(&self, target: &Target, arrived: Instant, prompt_tokens: usize) -> Meter {
        let series = self.series(target.tenant());
        series.prompt_tokens.fetch_add(prompt_tokens as u64, Ordering::Relaxed);
        let mut active = self.active.lock();
        if active.len() >= MAX_SERIES {
            active.retain(|_, activity| activity.is_busy());
        }
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

    /// Names of the adapters with running and with waiting choices, joined by commas.
    fn active_names(&self) -> (String, String) {
        let mut active = self.active.lock();
        let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        active.retain(|_, activity| activity.is_busy());
        let names = |counter: fn(&Activity) -> &AtomicUsize| {
            let busy = active.iter().filter(|(_, activity)| count(counter(activity)) > 0);
            busy.map(|(name, _)| &**name).collect::<Vec<_>>().join(",")
        };
        (names(|activity| &activity.running), names(|activity| &activity.waiting))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_bounded() {
        let metrics = Metrics::default();
        for index in 0..2 * MAX_SERIES {
            metrics.series(&format!("adapter-{index}").into());
        }
        assert_eq!(metrics.series.lock().len(), MAX_SERIES + 1);
        let (late, other) = (metrics.series(&"late".into()), metrics.series(&OTHER.into()));
        assert!(Arc::ptr_eq(&late, &other));
        let early = metrics.series(&"adapter-0".into());
        assert!(!Arc::ptr_eq(&early, &other));
    }
}
