//! From an adapter's files to packed weights, and the threads on which that happens when a request needs it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use crossbeam_channel::Receiver;
use rootstock_model::adapter::{self, AdapterDefaults, AdapterError, AdapterErrorCode, AdapterSummary, Base};

use super::ledger::LoadId;
use super::{Shared, StoreSettings};
use crate::runner::PreparedAdapter;

/// Threads that load on demand: one slow disk read does not hold up another adapter.
const LOADERS: usize = 2;

/// Where adapters come from; tests have sources without files.
pub(crate) trait Source: Send + Sync {
    /// Checks an adapter by its headers.
    fn inspect(&self, path: &Path) -> Result<AdapterSummary, AdapterError>;
    /// Reads, validates and packs an adapter.
    fn load(&self, path: &Path) -> Result<Loaded, AdapterError>;
}

/// A validated adapter, packed for the runner.
pub(crate) struct Loaded {
    pub(crate) weights: Arc<dyn PreparedAdapter>,
    pub(crate) base_model: Option<String>,
    pub(crate) max_rank: usize,
    pub(crate) defaults: Arc<AdapterDefaults>,
}

/// Adapters on disk checked against the base.
pub(super) struct FolderSource {
    settings: StoreSettings,
}

impl FolderSource {
    pub(super) fn new(settings: StoreSettings) -> Self {
        Self { settings }
    }

    fn base(&self) -> Base<'_> {
        Base {
            spec: &self.settings.base,
            hash: self.settings.base_hash,
        }
    }
}

impl Source for FolderSource {
    fn inspect(&self, path: &Path) -> Result<AdapterSummary, AdapterError> {
        adapter::inspect_adapter(path, self.base(), self.settings.limits)
    }

    fn load(&self, path: &Path) -> Result<Loaded, AdapterError> {
        let adapter = adapter::load_adapter(path, self.base(), self.settings.limits)?;
        let weights = self.settings.preparer.prepare(&adapter)?;
        Ok(Loaded {
            weights,
            base_model: adapter.base_model,
            max_rank: adapter.max_rank,
            defaults: adapter.defaults,
        })
    }
}

/// A load that the ledger has reserved memory for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LoadJob {
    pub(super) id: LoadId,
    pub(super) path: PathBuf,
}

/// Loads an adapter; a panic on its content refuses it like any other fault in it.
pub(super) fn load(source: &dyn Source, path: &Path) -> Result<Loaded, AdapterError> {
    catch_unwind(AssertUnwindSafe(|| source.load(path))).unwrap_or_else(|_| {
        let message = format!("{}: reading the adapter failed unexpectedly", path.display());
        Err(AdapterError::new(AdapterErrorCode::Malformed, message))
    })
}

/// Starts the threads. They end when the store and its last lease are gone.
///
/// # Panics
/// If the operating system gives no thread.
pub(super) fn start_loaders(inbox: &Receiver<LoadJob>, source: &Arc<dyn Source>, shared: &Arc<Shared>) {
    for _ in 0..LOADERS {
        let (inbox, source, shared) = (inbox.clone(), Arc::clone(source), Arc::downgrade(shared));
        std::thread::Builder::new()
            .name("adapter-loader".to_owned())
            .spawn(move || run_loader(&inbox, &*source, &shared))
            .unwrap_or_else(|error| panic!("no thread to load adapters: {error}"));
    }
}

fn run_loader(inbox: &Receiver<LoadJob>, source: &dyn Source, shared: &Weak<Shared>) {
    for job in inbox {
        let loaded = load(source, &job.path);
        let Some(shared) = shared.upgrade() else { break };
        shared.update(|ledger| ledger.complete(job.id, loaded));
    }
}
