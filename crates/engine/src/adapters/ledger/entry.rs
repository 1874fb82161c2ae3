//! What the ledger knows of one name.

use std::path::PathBuf;
use std::sync::Arc;

use rootstock_model::ContentHash;
use rootstock_model::adapter::AdapterDefaults;

use super::{GenerationId, LoadId};
use crate::adapters::AdapterInfo;
use crate::adapters::loading::Loaded;

/// A name and what is known of the content behind it.
pub(super) struct Entry {
    pub(super) path: PathBuf,
    pub(super) created: u64,
    pub(super) number: u64,
    pub(super) base_model: Option<String>,
    pub(super) max_rank: usize,
    pub(super) pinned: bool,
    pub(super) defaults: Arc<AdapterDefaults>,
    /// Of the latest generation, once its values were read.
    pub(super) content: Option<Content>,
    /// Bytes in memory: from the headers until they are known.
    pub(super) bytes: usize,
    pub(super) residency: Residency,
}

/// What makes two loads of a name the same generation: weights, which alone key caches, and defaults.
#[derive(Debug, PartialEq)]
pub(super) struct Content {
    weights: ContentHash,
    defaults: Arc<AdapterDefaults>,
}

impl Content {
    pub(super) fn of(loaded: &Loaded) -> Self {
        Self {
            weights: loaded.weights.content_hash(),
            defaults: Arc::clone(&loaded.defaults),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Residency {
    Absent,
    Loading(LoadId),
    Resident(GenerationId),
}

impl Entry {
    /// A name of which nothing is known but where and when.
    pub(super) fn new(path: PathBuf, created: u64) -> Self {
        Self {
            path,
            created,
            number: 1,
            base_model: None,
            max_rank: 0,
            defaults: Arc::default(),
            pinned: false,
            content: None,
            bytes: 0,
            residency: Residency::Absent,
        }
    }

    pub(super) fn generation(&self) -> Option<GenerationId> {
        match self.residency {
            Residency::Resident(id) => Some(id),
            Residency::Absent | Residency::Loading(_) => None,
        }
    }

    pub(super) fn info(&self, name: &Arc<str>) -> AdapterInfo {
        AdapterInfo {
            name: Arc::clone(name),
            path: self.path.clone(),
            generation: self.number,
            base_model: self.base_model.clone(),
            max_rank: self.max_rank,
            defaults: Arc::clone(&self.defaults),
            resident: self.generation().is_some(),
            pinned: self.pinned,
            created: self.created,
        }
    }

    /// Records what loading found; other content than before is a new generation.
    pub(super) fn record(&mut self, loaded: &Loaded) {
        let content = Content::of(loaded);
        if self.content.as_ref().is_some_and(|earlier| *earlier != content) {
            self.number += 1;
        }
        self.defaults = Arc::clone(&loaded.defaults);
        self.content = Some(content);
        self.bytes = loaded.weights.bytes();
        self.base_model.clone_from(&loaded.base_model);
        self.max_rank = loaded.max_rank;
    }
}
