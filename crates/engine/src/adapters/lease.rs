//! Leases: what a request holds while it uses an adapter, and the future that obtains them.

use std::sync::Arc;

use rootstock_model::adapter::AdapterDefaults;
use tokio::sync::oneshot;

use super::ledger::{GenerationId, Grant, TicketId, Verdict};
use super::{AcquireError, Shared};
use crate::runner::PreparedAdapter;

/// A resident generation, held for the length of a request; the last lease of a replaced one frees it.
#[derive(Clone)]
pub struct AdapterLease {
    held: Arc<Held>,
}

/// Shared by the clones of one lease; returns it when the last is dropped.
struct Held {
    grant: Grant,
    shared: Arc<Shared>,
}

impl AdapterLease {
    pub(super) fn new(shared: &Arc<Shared>, grant: Grant) -> Self {
        Self {
            held: Arc::new(Held {
                grant,
                shared: Arc::clone(shared),
            }),
        }
    }

    /// The packed weights.
    pub fn weights(&self) -> &Arc<dyn PreparedAdapter> {
        &self.held.grant.weights
    }

    /// What requests get where they say nothing, as loaded with these weights.
    pub fn defaults(&self) -> &Arc<AdapterDefaults> {
        &self.held.grant.defaults
    }

    /// Name it was acquired by.
    pub fn name(&self) -> &Arc<str> {
        &self.held.grant.name
    }

    /// Number of the generation, as in [`super::AdapterInfo::generation`].
    pub fn generation(&self) -> u64 {
        self.held.grant.number
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let id: GenerationId = self.grant.generation;
        self.shared.update(|ledger| ledger.release(id));
    }
}

/// A place in the queue for leases. Dropped before the verdict arrived, it gives the place up; leases that were granted
/// at that moment are in the channel and return with it.
pub(super) struct Acquiring {
    shared: Arc<Shared>,
    ticket: TicketId,
    verdict: oneshot::Receiver<Verdict>,
}

impl Acquiring {
    pub(super) fn start(shared: &Arc<Shared>, names: &[&str]) -> Self {
        let (waiter, verdict) = oneshot::channel();
        let ticket = shared.update(|ledger| ledger.request(names, waiter));
        Self {
            shared: Arc::clone(shared),
            ticket,
            verdict,
        }
    }

    pub(super) async fn finish(mut self) -> Result<Vec<AdapterLease>, AcquireError> {
        match (&mut self.verdict).await {
            Ok(verdict) => verdict,
            Err(_) => Err(AcquireError::Unknown("(the store was dropped)".to_owned())),
        }
    }
}

impl Drop for Acquiring {
    fn drop(&mut self) {
        self.shared.update(|ledger| ledger.cancel(self.ticket));
    }
}
