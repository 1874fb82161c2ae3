//! The bookkeeping of the store as a plain synchronous struct: which names exist, which generation each stands for,
//! what is in memory, who waits. No I/O, no clock, no locks; what is to be done outside is returned as [`Effects`].

mod entry;
mod memory;
mod tickets;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use rootstock_model::adapter::{AdapterError, AdapterErrorCode, AdapterSummary};

use super::loading::{LoadJob, Loaded};
use super::{AdapterInfo, StoreStats};
use crate::runner::PreparedAdapter;
use entry::{Content, Entry, Residency};
pub(super) use memory::GenerationId;
use memory::{Memory, Standing};
use tickets::Ticket;
pub(super) use tickets::{Grant, TicketId, Verdict, Waiter};

/// Identity of a load under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct LoadId(u64);

/// A name to be served from a folder.
pub(super) struct Registration {
    pub(super) name: Arc<str>,
    pub(super) path: PathBuf,
    /// Unix seconds.
    pub(super) created: u64,
}

/// What a decision brought, to be carried out without the lock.
#[derive(Default)]
pub(super) struct Effects {
    pub(super) verdicts: Vec<(Waiter, Result<Vec<Grant>, super::AcquireError>)>,
    pub(super) loads: Vec<LoadJob>,
    /// Weights that are no longer resident; dropping them takes time.
    pub(super) freed: Vec<Arc<dyn PreparedAdapter>>,
    /// To be logged.
    pub(super) refusals: Vec<(Arc<str>, AdapterError)>,
}

/// All state of the store.
pub(super) struct Ledger {
    names: BTreeMap<Arc<str>, Entry>,
    refused: BTreeMap<Arc<str>, AdapterError>,
    memory: Memory,
    loads: HashMap<LoadId, Load>,
    tickets: VecDeque<Ticket>,
    next_load: u64,
    next_ticket: u64,
    counters: Counters,
    effects: Effects,
}

struct Load {
    name: Arc<str>,
    /// Reserved for it.
    bytes: usize,
}

#[derive(Default)]
struct Counters {
    loads: u64,
    evictions: u64,
    refusals: u64,
}

impl Ledger {
    pub(super) fn new(budget: usize) -> Self {
        Self {
            names: BTreeMap::new(),
            refused: BTreeMap::new(),
            memory: Memory::new(budget),
            loads: HashMap::new(),
            tickets: VecDeque::new(),
            next_load: 0,
            next_ticket: 0,
            counters: Counters::default(),
            effects: Effects::default(),
        }
    }

    pub(super) fn take_effects(&mut self) -> Effects {
        std::mem::take(&mut self.effects)
    }

    /// Serves a name from a folder of which only the headers are known. An earlier generation is retired.
    pub(super) fn register(&mut self, new: Registration, summary: AdapterSummary) -> AdapterInfo {
        let name = Arc::clone(&new.name);
        let entry = self.entry(new);
        entry.base_model = summary.base_model;
        entry.max_rank = summary.max_rank;
        entry.defaults = summary.defaults;
        entry.bytes = usize::try_from(summary.tensor_bytes).unwrap_or(usize::MAX);
        let earlier = std::mem::replace(&mut entry.residency, Residency::Absent);
        let info = entry.info(&name);
        self.retire(earlier);
        self.settle();
        info
    }

    /// Serves a name from weights that were just loaded; they become resident if there is room.
    pub(super) fn swap(&mut self, new: Registration, loaded: Loaded) -> Result<AdapterInfo, AdapterError> {
        let own = self
            .names
            .get(&new.name)
            .and_then(Entry::generation)
            .into_iter()
            .collect();
        let bytes = loaded.weights.bytes();
        let most = self.memory.budget().saturating_sub(self.memory.pinned_beside(&own));
        if bytes > most {
            self.effects.freed.push(loaded.weights);
            self.count_refusal();
            return Err(too_large(&new.name, bytes, most));
        }
        let name = Arc::clone(&new.name);
        self.counters.loads += 1;
        let entry = self.entry(new);
        if entry.content == Some(Content::of(&loaded)) && entry.generation().is_some() {
            let info = entry.info(&name);
            self.effects.freed.push(loaded.weights);
            return Ok(info);
        }
        let earlier = std::mem::replace(&mut entry.residency, Residency::Absent);
        self.retire(earlier);
        self.take_in(&name, loaded);
        let info = self.names[&name].info(&name);
        self.settle();
        Ok(info)
    }

    /// A load has ended.
    pub(super) fn complete(&mut self, id: LoadId, loaded: Result<Loaded, AdapterError>) {
        let Some(load) = self.loads.remove(&id) else { return };
        self.memory.unreserve(load.bytes);
        let awaited = self
            .names
            .get_mut(&load.name)
            .filter(|entry| entry.residency == Residency::Loading(id));
        match (awaited, loaded) {
            (Some(entry), Ok(loaded)) => {
                entry.residency = Residency::Absent;
                self.counters.loads += 1;
                self.refused.remove(&load.name);
                self.take_in(&load.name, loaded);
            }
            // Its files were good once: they may be in the middle of a change, or the system out of file descriptors.
            // Who waits is told; who comes later has it tried again.
            (Some(entry), Err(error)) if entry.content.is_some() => {
                entry.residency = Residency::Absent;
                self.refuse_waiting(&load.name, &error);
                self.note_refusal(&load.name, error);
                self.count_refusal();
            }
            (Some(_), Err(error)) => {
                self.names.remove(&load.name);
                self.note_refusal(&load.name, error);
                self.count_refusal();
            }
            // The name was replaced or unloaded meanwhile.
            (None, Ok(loaded)) => self.effects.freed.push(loaded.weights),
            (None, Err(_)) => {}
        }
        self.settle();
    }

    /// Takes a name away, served or refused. False if there was none.
    pub(super) fn unload(&mut self, name: &str) -> bool {
        let refused = self.refused.remove(name).is_some();
        let Some(entry) = self.names.remove(name) else {
            return refused;
        };
        self.retire(entry.residency);
        self.settle();
        true
    }

    /// Pins or unpins a name; a pinned one is loaded as soon as there is room. False if there is none.
    pub(super) fn pin(&mut self, name: &str, pinned: bool) -> bool {
        let Some(entry) = self.names.get_mut(name) else {
            return false;
        };
        entry.pinned = pinned;
        if let Some(id) = entry.generation() {
            self.memory.set_standing(id, standing(pinned));
        } else if pinned {
            self.request_silently(name);
        }
        self.settle();
        true
    }

    /// Starts loading names in order while free room remains; evicts nothing.
    pub(super) fn warm_up(&mut self) {
        let absent: Vec<(Arc<str>, usize)> = self
            .names
            .iter()
            .filter(|(_, entry)| entry.residency == Residency::Absent)
            .map(|(name, entry)| (Arc::clone(name), entry.bytes))
            .collect();
        for (name, bytes) in absent {
            if bytes <= self.memory.free() {
                self.start_load(&name);
            }
        }
    }

    /// A lease has come back.
    pub(super) fn release(&mut self, id: GenerationId) {
        let freed = self.memory.release(id);
        self.effects.freed.extend(freed);
        self.settle();
    }

    /// Keeps why the files of a name are not served.
    pub(super) fn note_refusal(&mut self, name: &Arc<str>, error: AdapterError) {
        self.effects.refusals.push((Arc::clone(name), error.clone()));
        self.refused.insert(Arc::clone(name), error);
    }

    pub(super) fn count_refusal(&mut self) {
        self.counters.refusals += 1;
    }

    pub(super) fn info(&self, name: &str) -> Option<AdapterInfo> {
        let (name, entry) = self.names.get_key_value(name)?;
        Some(entry.info(name))
    }

    pub(super) fn list(&self) -> Vec<AdapterInfo> {
        self.names.iter().map(|(name, entry)| entry.info(name)).collect()
    }

    pub(super) fn refused(&self) -> Vec<(String, AdapterError)> {
        self.refused
            .iter()
            .map(|(name, error)| (name.to_string(), error.clone()))
            .collect()
    }

    pub(super) fn stats(&self) -> StoreStats {
        StoreStats {
            registered: self.names.len(),
            resident: self.memory.len(),
            resident_bytes: self.memory.resident_bytes(),
            budget_bytes: self.memory.budget(),
            loads: self.counters.loads,
            evictions: self.counters.evictions,
            refusals: self.counters.refusals,
        }
    }

    /// The entry of a name, made or pointed to the folder; a refusal of earlier files is over.
    fn entry(&mut self, new: Registration) -> &mut Entry {
        self.refused.remove(&new.name);
        let path = new.path.clone();
        let entry = self
            .names
            .entry(new.name)
            .or_insert_with(|| Entry::new(new.path, new.created));
        entry.path = path;
        entry
    }

    /// Records loaded weights as the content of an absent name. They become resident if there is room for their real
    /// size, which the headers may have understated.
    fn take_in(&mut self, name: &Arc<str>, loaded: Loaded) {
        let wanted = self.wanted();
        let Some(entry) = self.names.get_mut(name) else { return };
        entry.record(&loaded);
        let Some(victims) = self.memory.victims(entry.bytes, &wanted) else {
            self.effects.freed.push(loaded.weights);
            return;
        };
        let id = self.memory.insert(name, entry.number, loaded);
        self.memory.set_standing(id, standing(entry.pinned));
        entry.residency = Residency::Resident(id);
        self.evict(victims);
    }

    fn start_load(&mut self, name: &Arc<str>) {
        let Some(entry) = self.names.get_mut(name) else { return };
        let id = LoadId(self.next_load);
        self.next_load += 1;
        entry.residency = Residency::Loading(id);
        self.memory.reserve(entry.bytes);
        self.loads.insert(
            id,
            Load {
                name: Arc::clone(name),
                bytes: entry.bytes,
            },
        );
        self.effects.loads.push(LoadJob {
            id,
            path: entry.path.clone(),
        });
    }

    /// What stood behind a name no longer does. A load under way will find its result unwanted.
    fn retire(&mut self, residency: Residency) {
        if let Residency::Resident(id) = residency {
            let freed = self.memory.set_standing(id, Standing::Retired);
            self.effects.freed.extend(freed);
        }
    }

    fn evict(&mut self, victims: Vec<GenerationId>) {
        for id in victims {
            let Some(generation) = self.memory.evict(id) else {
                continue;
            };
            if let Some(entry) = self.names.get_mut(&generation.name) {
                entry.residency = Residency::Absent;
            }
            self.counters.evictions += 1;
            self.effects.freed.push(generation.weights);
        }
    }
}

fn standing(pinned: bool) -> Standing {
    if pinned { Standing::Pinned } else { Standing::Current }
}

fn too_large(names: &str, bytes: usize, most: usize) -> AdapterError {
    let message = format_args!("{names}: {bytes} bytes in memory, and the adapter memory has room for {most}");
    AdapterError::new(AdapterErrorCode::TooLarge, message)
}
