//! The adapter store: names, generations, residency within a byte budget. Loading happens on threads of its own,
//! so that no request of another adapter ever waits for it.
//!
//! All decisions are made by the ledger, a plain synchronous struct behind one mutex that is held for lookups and
//! bookkeeping only, never over I/O or packing. What it decides (load this, grant that, free those) is carried out
//! after the mutex is released.

mod lease;
mod ledger;
mod loading;
#[cfg(test)]
pub(crate) mod tests;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use rootstock_model::adapter::{AdapterDefaults, AdapterError, AdapterLimits};
use rootstock_model::{ArchSpec, ContentHash};

use crate::runner::AdapterPreparer;
use lease::Acquiring;
pub use lease::AdapterLease;
use ledger::{Effects, Ledger, Registration};
use loading::{FolderSource, LoadJob, Source};
pub use watch::Watcher;

/// What the store needs to know.
pub struct StoreSettings {
    /// Bytes of prepared adapters that may be resident.
    pub memory_budget: usize,
    /// What each adapter must satisfy.
    pub limits: AdapterLimits,
    /// The base they are checked against.
    pub base: Arc<ArchSpec>,
    /// Its hash.
    pub base_hash: ContentHash,
    /// Packs adapters for the runner.
    pub preparer: Arc<dyn AdapterPreparer>,
}

/// What the API shows of an adapter.
#[derive(Debug, Clone)]
pub struct AdapterInfo {
    /// Name that requests use as `model`.
    pub name: Arc<str>,
    /// Folder or GGUF file it is read from.
    pub path: PathBuf,
    /// Counts up each time the content behind the name changes.
    pub generation: u64,
    /// Base that the adapter's configuration names.
    pub base_model: Option<String>,
    /// Largest rank.
    pub max_rank: usize,
    /// What its requests get where they say nothing (`rootstock.toml`): of the latest generation that was loaded,
    /// or of the files as they were registered.
    pub defaults: Arc<AdapterDefaults>,
    /// Whether its weights are in memory.
    pub resident: bool,
    /// Never evicted.
    pub pinned: bool,
    /// Unix seconds of the registration.
    pub created: u64,
}

/// Bytes and counts of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreStats {
    /// Names registered.
    pub registered: usize,
    /// Generations in memory, drained ones still in use included.
    pub resident: usize,
    /// Their bytes.
    pub resident_bytes: usize,
    /// The budget.
    pub budget_bytes: usize,
    /// Loads from disk.
    pub loads: u64,
    /// Evictions for lack of budget.
    pub evictions: u64,
    /// Adapters refused.
    pub refusals: u64,
}

/// Why no lease was given.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AcquireError {
    /// No adapter of that name.
    #[error("the adapter {0:?} does not exist")]
    Unknown(String),
    /// Its files cannot be served.
    #[error(transparent)]
    Refused(#[from] AdapterError),
}

/// Names to adapters; clones share it.
#[derive(Clone)]
pub struct AdapterStore {
    shared: Arc<Shared>,
}

/// Stripes of the lock that keeps two explicit loads of one name in order.
const LOAD_STRIPES: usize = 16;

struct Shared {
    ledger: Mutex<Ledger>,
    source: Arc<dyn Source>,
    jobs: crossbeam_channel::Sender<LoadJob>,
    /// Held by [`AdapterStore::load`] from reading to swapping, so that of two loads of a name the one that read
    /// last is the one that stays.
    load_order: [Mutex<()>; LOAD_STRIPES],
}

impl Shared {
    /// Runs a decision under the lock and carries out what it brought after the lock is released.
    fn update<T>(self: &Arc<Self>, decide: impl FnOnce(&mut Ledger) -> T) -> T {
        let (result, effects) = {
            let mut ledger = self.ledger.lock();
            (decide(&mut ledger), ledger.take_effects())
        };
        self.carry_out(effects);
        result
    }

    fn carry_out(self: &Arc<Self>, effects: Effects) {
        for (waiter, verdict) in effects.verdicts {
            let leases = verdict.map(|grants| grants.into_iter().map(|grant| AdapterLease::new(self, grant)).collect());
            // Leases that nobody waits for any more come back here and return on drop.
            drop(waiter.send(leases));
        }
        for job in effects.loads {
            // The loaders live as long as the sender in `self`.
            drop(self.jobs.send(job));
        }
        for (name, error) in effects.refusals {
            tracing::warn!(adapter = &*name, code = error.code.as_str(), %error, "adapter refused");
        }
        drop(effects.freed);
    }
}

impl AdapterStore {
    /// An empty store.
    pub fn new(settings: StoreSettings) -> Self {
        let budget = settings.memory_budget;
        Self::with_source(budget, Arc::new(FolderSource::new(settings)))
    }

    pub(crate) fn with_source(budget: usize, source: Arc<dyn Source>) -> Self {
        let (jobs, inbox) = crossbeam_channel::unbounded();
        let shared = Arc::new(Shared {
            ledger: Mutex::new(Ledger::new(budget)),
            source: Arc::clone(&source),
            jobs,
            load_order: Default::default(),
        });
        loading::start_loaders(&inbox, &source, &shared);
        Self { shared }
    }

    /// Registers or replaces the adapter at a path, a folder or a GGUF file: validates it whole, makes it resident, then swaps it in.
    /// Requests that run keep the generation they started with. If the budget is full of adapters in use, it is
    /// swapped in without being resident and loaded on first use. Equal content stays the same generation.
    /// Blocks; call it from a thread that may.
    ///
    /// # Errors
    /// The adapter is refused; what was served under the name goes on.
    pub fn load(&self, name: &str, path: &Path) -> Result<AdapterInfo, AdapterError> {
        let stripe = name
            .bytes()
            .fold(0usize, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
        let _in_order = self.shared.load_order[stripe % LOAD_STRIPES].lock();
        let loaded = loading::load(&*self.shared.source, path);
        let registration = Registration {
            name: name.into(),
            path: path.to_owned(),
            created: unix_seconds(),
        };
        self.shared.update(|ledger| match loaded {
            Ok(loaded) => ledger.swap(registration, loaded),
            Err(error) => {
                ledger.count_refusal();
                Err(error)
            }
        })
    }

    /// Registers the adapter at a path, a folder or a GGUF file, by its headers alone; values are validated when first
    /// used.
    ///
    /// # Errors
    /// As far as headers tell.
    pub fn register(&self, name: &str, path: &Path) -> Result<AdapterInfo, AdapterError> {
        let summary = self.shared.source.inspect(path);
        let registration = Registration {
            name: name.into(),
            path: path.to_owned(),
            created: unix_seconds(),
        };
        self.shared.update(|ledger| match summary {
            Ok(summary) => Ok(ledger.register(registration, summary)),
            Err(error) => {
                ledger.count_refusal();
                Err(error)
            }
        })
    }

    /// Takes the name away, served or refused; running requests finish on it. False if there was none.
    pub fn unload(&self, name: &str) -> bool {
        self.shared.update(|ledger| ledger.unload(name))
    }

    /// Keeps the adapter resident, or lets it be evicted again. False if there is none.
    pub fn pin(&self, name: &str, pinned: bool) -> bool {
        self.shared.update(|ledger| ledger.pin(name, pinned))
    }

    /// Loads registered adapters in the background, in order of their names, as long as the budget has free room.
    pub fn warm_up(&self) {
        self.shared.update(Ledger::warm_up);
    }

    /// Leases on all of `names` at once (so that two requests cannot hold half each), loading what is not resident.
    /// Waits while the budget is full of leased adapters; who waits for memory is served in order of arrival.
    /// Dropping the future gives up the place.
    ///
    /// # Errors
    /// An unknown name, or files that cannot be served.
    pub async fn acquire(&self, names: &[&str]) -> Result<Vec<AdapterLease>, AcquireError> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        Acquiring::start(&self.shared, names).finish().await
    }

    /// One adapter.
    pub fn get(&self, name: &str) -> Option<AdapterInfo> {
        self.shared.ledger.lock().info(name)
    }

    /// All adapters, by name.
    pub fn list(&self) -> Vec<AdapterInfo> {
        self.shared.ledger.lock().list()
    }

    /// Adapters that are registered nowhere because their files were refused, or whose latest files were refused
    /// while earlier ones are still served; by name.
    pub fn refused(&self) -> Vec<(String, AdapterError)> {
        self.shared.ledger.lock().refused()
    }

    /// Counters.
    pub fn stats(&self) -> StoreStats {
        self.shared.ledger.lock().stats()
    }

    /// Keeps a refusal for [`AdapterStore::refused`] until the name is loaded or unloaded.
    pub fn note_refusal(&self, name: &str, error: AdapterError) {
        self.shared.update(|ledger| ledger.note_refusal(&name.into(), error));
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs())
}
