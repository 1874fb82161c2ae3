//! Which base is served now, which ones still end what they began, and what those that are gone have counted.

use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};
use rootstock_engine::EngineStats;
use rootstock_engine::adapters::StoreStats;

use super::{Base, ServingBase};

/// The base of new requests, and those before it.
pub(crate) struct Bases {
    current: RwLock<Arc<Base>>,
    /// Replaced ones that may still serve what began on them.
    leaving: Mutex<Vec<Weak<Base>>>,
    past: Arc<Mutex<Past>>,
    /// Most choices of one request.
    choices: usize,
}

/// What bases that are gone have counted: counters may not fall.
#[derive(Default)]
pub(super) struct Past {
    engine: EngineStats,
    store: StoreStats,
}

impl Past {
    pub(super) fn add(&mut self, engine: EngineStats, store: StoreStats) {
        self.engine = with_counters_of(self.engine, engine);
        self.store = with_counts_of(self.store, store);
    }
}

impl Bases {
    pub(crate) fn new(first: ServingBase, choices: usize) -> Self {
        let past = Arc::default();
        Self {
            current: RwLock::new(Arc::new(Base::new(first, choices, Arc::clone(&past)))),
            leaving: Mutex::default(),
            past,
            choices,
        }
    }

    /// The base that a request which begins now runs on.
    pub(crate) fn current(&self) -> Arc<Base> {
        self.current.read().clone()
    }

    /// A base that may become the current one.
    pub(super) fn candidate(&self, base: ServingBase) -> Base {
        Base::new(base, self.choices, Arc::clone(&self.past))
    }

    /// From here on `next` serves new requests.
    pub(super) fn put(&self, next: Base) {
        let mut leaving = self.leaving.lock();
        let before = std::mem::replace(&mut *self.current.write(), Arc::new(next));
        leaving.retain(|base| base.strong_count() > 0);
        leaving.push(Arc::downgrade(&before));
    }

    /// The current engine's gauges with what still runs and waits on bases that were replaced; counters are of all.
    pub(crate) fn engine_stats(&self) -> EngineStats {
        let (current, leaving) = self.all();
        let mut stats = current.engine.stats();
        for leaving in leaving.iter().map(|base| base.engine.stats()) {
            stats.running += leaving.running;
            stats.waiting += leaving.waiting;
            stats = with_counters_of(stats, leaving);
        }
        with_counters_of(stats, self.past.lock().engine)
    }

    /// The current store's gauges with the bytes that replaced ones still hold; counters are of all.
    pub(crate) fn store_stats(&self) -> StoreStats {
        let (current, leaving) = self.all();
        let mut stats = current.adapters.stats();
        for leaving in leaving.iter().map(|base| base.adapters.stats()) {
            stats.resident += leaving.resident;
            stats.resident_bytes += leaving.resident_bytes;
            stats = with_counts_of(stats, leaving);
        }
        with_counts_of(stats, self.past.lock().store)
    }

    /// The current base and those before it, at one moment: none is in both places. To be held until all is added up: one
    /// that went meanwhile would count among the past too.
    fn all(&self) -> (Arc<Base>, Vec<Arc<Base>>) {
        let leaving = self.leaving.lock();
        (self.current(), leaving.iter().filter_map(Weak::upgrade).collect())
    }
}

fn with_counters_of(stats: EngineStats, other: EngineStats) -> EngineStats {
    EngineStats {
        preemptions: stats.preemptions + other.preemptions,
        prefix_queries: stats.prefix_queries + other.prefix_queries,
        prefix_hits: stats.prefix_hits + other.prefix_hits,
        steps: stats.steps + other.steps,
        ..stats
    }
}

fn with_counts_of(stats: StoreStats, other: StoreStats) -> StoreStats {
    StoreStats {
        loads: stats.loads + other.loads,
        evictions: stats.evictions + other.evictions,
        refusals: stats.refusals + other.refusals,
        ..stats
    }
}
