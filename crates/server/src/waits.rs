//! Requests that wait for their adapters to be in memory. They have not reached the engine's queue, so they are bounded
//! here, apart from it: adapters that are slow to come cannot take the places of requests that need none of them.

use futures_util::FutureExt;
use rootstock_engine::SubmitError;
use rootstock_engine::adapters::{AcquireError, AdapterLease, AdapterStore};
use tokio::sync::Semaphore;

/// Why no leases were given.
#[derive(Debug)]
pub(crate) enum WaitError {
    /// As many requests wait as may.
    Full(SubmitError),
    Acquire(AcquireError),
}

/// Places for requests that wait.
pub(crate) struct AdapterWaits {
    places: Semaphore,
    bound: usize,
}

impl AdapterWaits {
    /// At least one may wait, or nothing that is not in memory could ever be used.
    pub(crate) fn new(bound: usize) -> Self {
        let bound = bound.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            places: Semaphore::new(bound),
            bound,
        }
    }

    /// Requests that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.bound.saturating_sub(self.places.available_permits())
    }

    /// Leases on all of `names`: at once if they are in memory, else for a place.
    pub(crate) async fn acquire(&self, store: &AdapterStore, names: &[&str]) -> Result<Vec<AdapterLease>, WaitError> {
        let mut leases = std::pin::pin!(store.acquire(names));
        if let Some(verdict) = leases.as_mut().now_or_never() {
            return verdict.map_err(WaitError::Acquire);
        }
        let Ok(_place) = self.places.try_acquire() else {
            return Err(WaitError::Full(SubmitError::QueueFull { bound: self.bound }));
        };
        leases.await.map_err(WaitError::Acquire)
    }
}
