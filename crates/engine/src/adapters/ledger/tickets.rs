//! Who waits for leases, and in which order they get them.
//!
//! A ticket is granted when all its names are resident at one moment; until then it holds nothing, so two tickets can
//! never hold half of what each needs. Tickets are looked at in order of arrival whenever anything changes. One whose
//! names are not resident gets loads started once their memory can be reserved. The first one for which memory is short
//! blocks those behind it from taking memory, not from being granted what is resident; and it names the generations
//! in use that it will replace, which are then leased to nobody behind it, so that busy adapters cannot starve it.

use std::collections::BTreeSet;
use std::sync::Arc;

use rootstock_model::adapter::{AdapterDefaults, AdapterError};
use tokio::sync::oneshot;

use super::memory::GenerationId;
use super::{Ledger, Residency, too_large};
use crate::adapters::{AcquireError, AdapterLease};
use crate::runner::PreparedAdapter;

/// Identity of a request for leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::adapters) struct TicketId(u64);

/// What a waiter is told in the end.
pub(in crate::adapters) type Verdict = Result<Vec<AdapterLease>, AcquireError>;

/// Where it is told.
pub(in crate::adapters) type Waiter = oneshot::Sender<Verdict>;

/// A lease as the ledger counts it: to be released exactly once.
pub(in crate::adapters) struct Grant {
    pub(in crate::adapters) generation: GenerationId,
    pub(in crate::adapters) name: Arc<str>,
    pub(in crate::adapters) number: u64,
    pub(in crate::adapters) weights: Arc<dyn PreparedAdapter>,
    pub(in crate::adapters) defaults: Arc<AdapterDefaults>,
}

/// A request for leases.
pub(super) struct Ticket {
    id: TicketId,
    names: Vec<Arc<str>>,
    /// `None` only wants the names to become resident.
    waiter: Option<Waiter>,
}

/// What one pass over the tickets has found so far.
#[derive(Default)]
struct Pass {
    /// Generations that earlier tickets wait to be granted.
    keep: BTreeSet<GenerationId>,
    /// Generations that a blocked ticket is to replace.
    yielding: BTreeSet<GenerationId>,
    blocked: bool,
}

enum Next {
    Grant,
    Refuse(AcquireError),
    Wait,
}

impl Ledger {
    /// Queues a request for leases on all of `names`.
    pub(in crate::adapters) fn request(&mut self, names: &[&str], waiter: Waiter) -> TicketId {
        let names = names.iter().map(|&name| name.into()).collect();
        let id = self.push_ticket(names, Some(waiter));
        self.settle();
        id
    }

    /// Queues a name to become resident.
    pub(super) fn request_silently(&mut self, name: &str) {
        self.push_ticket(vec![name.into()], None);
    }

    /// Nobody waits for the ticket any more.
    pub(in crate::adapters) fn cancel(&mut self, id: TicketId) {
        let before = self.tickets.len();
        self.tickets.retain(|ticket| ticket.id != id);
        if self.tickets.len() < before {
            self.settle();
        }
    }

    /// Refuses every ticket that names the adapter.
    pub(super) fn refuse_waiting(&mut self, name: &Arc<str>, error: &AdapterError) {
        for ticket in std::mem::take(&mut self.tickets) {
            if !ticket.names.contains(name) {
                self.tickets.push_back(ticket);
            } else if let Some(waiter) = ticket.waiter {
                self.effects.verdicts.push((waiter, Err(error.clone().into())));
            }
        }
    }

    /// Grants, refuses and starts what can be, in order of arrival.
    pub(super) fn settle(&mut self) {
        let mut pass = Pass::default();
        for ticket in std::mem::take(&mut self.tickets) {
            let verdict = match self.consider(&ticket.names, &mut pass) {
                Next::Wait => {
                    self.tickets.push_back(ticket);
                    continue;
                }
                Next::Grant => Ok(()),
                Next::Refuse(error) => Err(error),
            };
            if let Some(waiter) = ticket.waiter {
                let verdict = verdict.map(|()| self.grants(&ticket.names));
                self.effects.verdicts.push((waiter, verdict));
            }
        }
    }

    /// Resident generations that tickets wait for.
    pub(super) fn wanted(&self) -> BTreeSet<GenerationId> {
        let names = self.tickets.iter().flat_map(|ticket| &ticket.names);
        names.filter_map(|name| self.names.get(name)?.generation()).collect()
    }

    fn push_ticket(&mut self, names: Vec<Arc<str>>, waiter: Option<Waiter>) -> TicketId {
        let id = TicketId(self.next_ticket);
        self.next_ticket += 1;
        self.tickets.push_back(Ticket { id, names, waiter });
        id
    }

    fn consider(&mut self, names: &[Arc<str>], pass: &mut Pass) -> Next {
        let mut resident = BTreeSet::new();
        let mut absent = BTreeSet::new();
        let mut loading = false;
        for name in names {
            match self.names.get(name).map(|entry| entry.residency) {
                Some(Residency::Resident(id)) => drop(resident.insert(id)),
                Some(Residency::Absent) => drop(absent.insert(Arc::clone(name))),
                Some(Residency::Loading(_)) => loading = true,
                None => return Next::Refuse(self.why_missing(name)),
            }
        }
        if absent.is_empty() && !loading && resident.is_disjoint(&pass.yielding) {
            return Next::Grant;
        }
        if let Some(error) = self.never_fits(names, &resident) {
            return Next::Refuse(error);
        }
        pass.keep.extend(&resident);
        if !absent.is_empty() && !pass.blocked {
            self.start_loads(&absent, pass);
        }
        Next::Wait
    }

    /// Reserves memory for all of `absent` and starts loading them, or blocks the pass.
    fn start_loads(&mut self, absent: &BTreeSet<Arc<str>>, pass: &mut Pass) {
        let need = absent
            .iter()
            .filter_map(|name| self.names.get(name))
            .map(|entry| entry.bytes)
            .sum();
        match self.memory.victims(need, &pass.keep) {
            Some(victims) => {
                self.evict(victims);
                for name in absent {
                    self.start_load(name);
                }
            }
            None => {
                pass.blocked = true;
                pass.yielding = self.memory.to_yield(need, &pass.keep);
            }
        }
    }

    fn grants(&mut self, names: &[Arc<str>]) -> Vec<Grant> {
        let mut grants = Vec::with_capacity(names.len());
        for name in names {
            let Some(id) = self.names.get(name).and_then(|entry| entry.generation()) else {
                continue;
            };
            self.memory.lease(id);
            grants.extend(self.memory.get(id).map(|generation| Grant {
                generation: id,
                name: Arc::clone(name),
                number: generation.number,
                weights: Arc::clone(&generation.weights),
                defaults: Arc::clone(&generation.defaults),
            }));
        }
        grants
    }

    fn why_missing(&self, name: &str) -> AcquireError {
        match self.refused.get(name) {
            Some(error) => AcquireError::Refused(error.clone()),
            None => AcquireError::Unknown(name.to_owned()),
        }
    }

    /// The error if the names together do not fit even with all else evicted that may be.
    fn never_fits(&self, names: &[Arc<str>], resident: &BTreeSet<GenerationId>) -> Option<AcquireError> {
        let distinct: BTreeSet<&Arc<str>> = names.iter().collect();
        let bytes = distinct
            .iter()
            .filter_map(|name| self.names.get(*name))
            .map(|entry| entry.bytes)
            .sum();
        let most = self.memory.budget().saturating_sub(self.memory.pinned_beside(resident));
        let joined = || distinct.iter().map(|name| &***name).collect::<Vec<_>>().join(", ");
        (bytes > most).then(|| too_large(&joined(), bytes, most).into())
    }
}
