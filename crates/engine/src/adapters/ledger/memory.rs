//! Generations in memory and the byte budget: what is resident, who holds it, what may be evicted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rootstock_model::adapter::AdapterDefaults;

use crate::adapters::loading::Loaded;
use crate::runner::PreparedAdapter;

/// Identity of a generation in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::adapters) struct GenerationId(u64);

/// Resident generations, leases and bytes.
pub(super) struct Memory {
    budget: usize,
    resident_bytes: usize,
    /// Promised to loads under way.
    reserved: usize,
    generations: BTreeMap<GenerationId, Generation>,
    clock: u64,
    next: u64,
}

/// One generation in memory.
pub(super) struct Generation {
    pub(super) name: Arc<str>,
    pub(super) number: u64,
    pub(super) weights: Arc<dyn PreparedAdapter>,
    pub(super) defaults: Arc<AdapterDefaults>,
    bytes: usize,
    leases: usize,
    last_used: u64,
    standing: Standing,
}

/// What may happen to a generation when nobody holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Served under its name; may be evicted.
    Current,
    /// Served under its name; stays.
    Pinned,
    /// Replaced or unloaded; freed with its last lease.
    Retired,
}

impl Memory {
    pub(super) fn new(budget: usize) -> Self {
        let (resident_bytes, reserved, clock, next) = (0, 0, 0, 0);
        Self {
            budget,
            resident_bytes,
            reserved,
            generations: BTreeMap::new(),
            clock,
            next,
        }
    }

    pub(super) fn budget(&self) -> usize {
        self.budget
    }

    pub(super) fn resident_bytes(&self) -> usize {
        self.resident_bytes
    }

    pub(super) fn len(&self) -> usize {
        self.generations.len()
    }

    pub(super) fn get(&self, id: GenerationId) -> Option<&Generation> {
        self.generations.get(&id)
    }

    /// Bytes neither resident nor reserved.
    pub(super) fn free(&self) -> usize {
        self.budget.saturating_sub(self.resident_bytes + self.reserved)
    }

    /// Bytes of pinned generations other than `own`.
    pub(super) fn pinned_beside(&self, own: &BTreeSet<GenerationId>) -> usize {
        let pinned = |(id, generation): (&GenerationId, &Generation)| {
            (generation.standing == Standing::Pinned && !own.contains(id)).then_some(generation.bytes)
        };
        self.generations.iter().filter_map(pinned).sum()
    }

    pub(super) fn reserve(&mut self, bytes: usize) {
        self.reserved += bytes;
    }

    pub(super) fn unreserve(&mut self, bytes: usize) {
        self.reserved -= bytes;
    }

    pub(super) fn insert(&mut self, name: &Arc<str>, number: u64, loaded: Loaded) -> GenerationId {
        let id = GenerationId(self.next);
        self.next += 1;
        let (weights, defaults) = (loaded.weights, loaded.defaults);
        let (bytes, name) = (weights.bytes(), Arc::clone(name));
        self.resident_bytes += bytes;
        let (leases, last_used, standing) = (0, self.tick(), Standing::Current);
        self.generations.insert(
            id,
            Generation {
                name,
                number,
                weights,
                defaults,
                bytes,
                leases,
                last_used,
                standing,
            },
        );
        id
    }

    /// Changes the standing; returns the weights if that frees the generation.
    pub(super) fn set_standing(&mut self, id: GenerationId, standing: Standing) -> Option<Arc<dyn PreparedAdapter>> {
        self.generations.get_mut(&id)?.standing = standing;
        self.free_if_over(id)
    }

    pub(super) fn lease(&mut self, id: GenerationId) {
        let now = self.tick();
        if let Some(generation) = self.generations.get_mut(&id) {
            generation.leases += 1;
            generation.last_used = now;
        }
    }

    /// Gives a lease back; returns the weights if that frees the generation.
    pub(super) fn release(&mut self, id: GenerationId) -> Option<Arc<dyn PreparedAdapter>> {
        let now = self.tick();
        let generation = self.generations.get_mut(&id)?;
        generation.leases -= 1;
        generation.last_used = now;
        self.free_if_over(id)
    }

    /// The generations to evict so that `need` bytes are free, least recently used first; `None` if even all that
    /// nobody holds, pins or (being in `keep`) waits for are not enough.
    pub(super) fn victims(&self, need: usize, keep: &BTreeSet<GenerationId>) -> Option<Vec<GenerationId>> {
        let (victims, free) = self.collect(need, keep, |generation| generation.leases == 0);
        (free >= need).then_some(victims)
    }

    /// The generations in use that, once let go, free `need` bytes together with all unused ones.
    pub(super) fn to_yield(&self, need: usize, keep: &BTreeSet<GenerationId>) -> BTreeSet<GenerationId> {
        let (unused, free) = self.collect(need, keep, |generation| generation.leases == 0);
        let missing = need.saturating_sub(free);
        let (in_use, _) = self.collect(self.free() + missing, keep, |generation| generation.leases > 0);
        unused.into_iter().chain(in_use).collect()
    }

    /// Evicts a generation that nobody holds.
    pub(super) fn evict(&mut self, id: GenerationId) -> Option<Generation> {
        let generation = self.generations.remove(&id)?;
        self.resident_bytes -= generation.bytes;
        Some(generation)
    }

    /// Current generations that satisfy `eligible`, least recently used first, until `need` bytes are free.
    fn collect(
        &self,
        need: usize,
        keep: &BTreeSet<GenerationId>,
        eligible: impl Fn(&Generation) -> bool,
    ) -> (Vec<GenerationId>, usize) {
        let mut free = self.free();
        let mut chosen = Vec::new();
        if free >= need {
            return (chosen, free);
        }
        let candidates = self.generations.iter().filter(|(id, generation)| {
            generation.standing == Standing::Current && !keep.contains(id) && eligible(generation)
        });
        let mut by_age: Vec<_> = candidates
            .map(|(id, generation)| (generation.last_used, *id, generation.bytes))
            .collect();
        by_age.sort_unstable();
        for (_, id, bytes) in by_age {
            if free >= need {
                break;
            }
            free += bytes;
            chosen.push(id);
        }
        (chosen, free)
    }

    fn free_if_over(&mut self, id: GenerationId) -> Option<Arc<dyn PreparedAdapter>> {
        let generation = self.generations.get(&id)?;
        if generation.standing == Standing::Retired && generation.leases == 0 {
            return self.evict(id).map(|generation| generation.weights);
        }
        None
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }
}
