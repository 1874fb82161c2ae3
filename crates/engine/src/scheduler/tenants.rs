//! Whose turn it is: virtual token counters after "Fairness in Serving Large Language Models" (Sheng et al., 2024).
//! Each tenant's counter grows with the tokens computed for it, and the tenant with the smallest one goes first.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::SequenceId;

/// Tenants with unfinished sequences, their queues and counters.
#[derive(Default)]
pub(super) struct Tenants {
    by_name: BTreeMap<Arc<str>, Tenant>,
    waiting: usize,
}

#[derive(Default)]
struct Tenant {
    /// Waiting sequences, first in first out.
    queue: VecDeque<SequenceId>,
    /// Unfinished sequences, running ones included.
    unfinished: usize,
    /// Tokens computed, in units of prefilled ones.
    served: u64,
}

impl Tenants {
    /// Queues a new sequence. A tenant that had none starts level with the least served of the others,
    /// so that having been away earns no credit.
    pub(super) fn arrive(&mut self, name: &Arc<str>, id: SequenceId) {
        let level = self.by_name.values().map(|tenant| tenant.served).min().unwrap_or(0);
        let tenant = self.by_name.entry(Arc::clone(name)).or_insert_with(|| Tenant {
            served: level,
            ..Tenant::default()
        });
        tenant.unfinished += 1;
        tenant.queue.push_back(id);
        self.waiting += 1;
    }

    /// Queues a preempted sequence ahead of its tenant's others.
    pub(super) fn requeue(&mut self, name: &Arc<str>, id: SequenceId) {
        if let Some(tenant) = self.by_name.get_mut(name) {
            tenant.queue.push_front(id);
            self.waiting += 1;
        }
    }

    /// Takes a sequence out of the queue because it runs now or was cancelled. False if it did not wait.
    pub(super) fn dequeue(&mut self, name: &Arc<str>, id: SequenceId) -> bool {
        let Some(tenant) = self.by_name.get_mut(name) else {
            return false;
        };
        let Some(place) = tenant.queue.iter().position(|&waiting| waiting == id) else {
            return false;
        };
        tenant.queue.remove(place);
        self.waiting -= 1;
        true
    }

    /// A sequence, running until now, is over.
    pub(super) fn leave(&mut self, name: &Arc<str>) {
        if let Some(tenant) = self.by_name.get_mut(name) {
            tenant.unfinished -= 1;
            if tenant.unfinished == 0 {
                self.by_name.remove(name);
            }
        }
    }

    pub(super) fn charge(&mut self, name: &Arc<str>, tokens: u64) {
        if let Some(tenant) = self.by_name.get_mut(name) {
            tenant.served += tokens;
        }
    }

    /// Tenants, least served first, ties by name.
    pub(super) fn by_turn(&self) -> Vec<Arc<str>> {
        let mut names: Vec<(u64, &Arc<str>)> = self
            .by_name
            .iter()
            .map(|(name, tenant)| (tenant.served, name))
            .collect();
        names.sort();
        names.into_iter().map(|(_, name)| Arc::clone(name)).collect()
    }

    /// The sequence of a tenant that waits for longest.
    pub(super) fn head(&self, name: &Arc<str>) -> Option<SequenceId> {
        self.by_name.get(name)?.queue.front().copied()
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }
}
