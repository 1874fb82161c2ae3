//! The adapter store: names, generations, residency within a byte budget. Loading happens on threads of its own,
//! so that no request of another adapter ever waits for it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rootstock_model::adapter::{AdapterError, AdapterLimits};
use rootstock_model::{ArchSpec, ContentHash};

use crate::runner::{AdapterPreparer, PreparedAdapter};

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
    /// Folder it is read from.
    pub path: PathBuf,
    /// Counts up each time the content behind the name changes.
    pub generation: u64,
    /// Base that the adapter's configuration names.
    pub base_model: Option<String>,
    /// Largest rank.
    pub max_rank: usize,
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

/// A resident generation, held for the length of a request; the last lease of a replaced one frees it.
#[derive(Clone)]
pub struct AdapterLease {
    // replaced by the store's own fields
    weights: Arc<dyn PreparedAdapter>,
}

impl AdapterLease {
    /// The packed weights.
    pub fn weights(&self) -> &Arc<dyn PreparedAdapter> {
        &self.weights
    }
}

/// Names to adapters; clones share it.
#[derive(Clone)]
pub struct AdapterStore {}

impl AdapterStore {
    /// An empty store.
    pub fn new(_settings: StoreSettings) -> Self {
        todo!()
    }

    /// Registers or replaces the adapter of a folder: validates it whole, makes it resident, then swaps it in.
    /// Requests that run keep the generation they started with. Blocks; call it from a thread that may.
    ///
    /// # Errors
    /// The adapter is refused; what was served under the name goes on.
    pub fn load(&self, _name: &str, _dir: &Path) -> Result<AdapterInfo, AdapterError> {
        todo!()
    }

    /// Registers a folder by its headers alone; values are validated when first used.
    ///
    /// # Errors
    /// As far as headers tell.
    pub fn register(&self, _name: &str, _dir: &Path) -> Result<AdapterInfo, AdapterError> {
        todo!()
    }

    /// Takes the name away; running requests finish on it. False if there was none.
    pub fn unload(&self, _name: &str) -> bool {
        todo!()
    }

    /// Keeps the adapter resident, or lets it be evicted again. False if there is none.
    pub fn pin(&self, _name: &str, _pinned: bool) -> bool {
        todo!()
    }

    /// Leases on all of `names` at once (so that two requests cannot hold half each), loading what is not resident.
    /// Waits while the budget is full of leased adapters.
    ///
    /// # Errors
    /// An unknown name, or files that cannot be served.
    pub async fn acquire(&self, _names: &[&str]) -> Result<Vec<AdapterLease>, AcquireError> {
        todo!()
    }

    /// One adapter.
    pub fn get(&self, _name: &str) -> Option<AdapterInfo> {
        todo!()
    }

    /// All adapters, by name.
    pub fn list(&self) -> Vec<AdapterInfo> {
        todo!()
    }

    /// Counters.
    pub fn stats(&self) -> StoreStats {
        todo!()
    }
}

/// Keeps a store in step with a folder of adapters until dropped.
pub struct Watcher {}

impl Watcher {
    /// Registers every subfolder of `dir`, then watches: a new folder is loaded once its files have settled,
    /// a changed one becomes a new generation, a removed one drains. Refusals are logged and kept for [`Watcher::refused`].
    ///
    /// # Errors
    /// `dir` cannot be read or watched.
    pub fn start(_store: AdapterStore, _dir: PathBuf) -> std::io::Result<Self> {
        todo!()
    }
}
