//! Which requests are under way, and whether new ones are still accepted: what a graceful end waits for.

use std::sync::Arc;

use rootstock_engine::SubmitError;
use tokio::sync::watch;

use crate::error::{ApiError, ApiResult};

/// Counts accepted requests; clones share it.
#[derive(Clone)]
pub(crate) struct Flights {
    shared: Arc<Shared>,
}

struct Shared {
    draining: watch::Sender<bool>,
    aloft: watch::Sender<usize>,
}

/// An accepted request, from its first check to the last byte of its answer.
pub(crate) struct Flight {
    shared: Arc<Shared>,
}

impl Flights {
    pub(crate) fn new() -> Self {
        let shared = Shared {
            draining: watch::Sender::new(false),
            aloft: watch::Sender::new(0),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Accepts a request unless the server is draining.
    pub(crate) fn accept(&self) -> ApiResult<Flight> {
        // Counted before the check, so that a drain either sees this request or is seen by it.
        self.shared.aloft.send_modify(|aloft| *aloft += 1);
        let flight = Flight {
            shared: self.shared.clone(),
        };
        match self.draining() {
            true => Err(ApiError::Submit(SubmitError::ShuttingDown)),
            false => Ok(flight),
        }
    }

    pub(crate) fn draining(&self) -> bool {
        *self.shared.draining.borrow()
    }

    /// Resolves once requests are refused.
    pub(crate) async fn drained(&self) {
        let mut draining = self.shared.draining.subscribe();
        // As in `landed`.
        let _ = draining.wait_for(|draining| *draining).await;
    }

    /// From here on requests are refused.
    pub(crate) fn drain(&self) {
        self.shared.draining.send_replace(true);
    }

    /// Resolves once no accepted request is left.
    pub(crate) async fn landed(&self) {
        let mut aloft = self.shared.aloft.subscribe();
        // An error means that the sender is gone, and `self` holds it.
        let _ = aloft.wait_for(|aloft| *aloft == 0).await;
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.shared.aloft.send_modify(|aloft| *aloft -= 1);
    }
}
