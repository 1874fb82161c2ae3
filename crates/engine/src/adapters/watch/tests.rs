//! The watcher on a real folder whose adapters are made up: the file `weights`, or the one that is the adapter itself,
//! holds a number, or nothing valid.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rootstock_model::ContentHash;
use rootstock_model::adapter::{AdapterDefaults, AdapterError, AdapterErrorCode, AdapterSummary};

use super::Watcher;
use super::fingerprint::Fingerprint;
use crate::adapters::loading::{Loaded, Source};
use crate::adapters::tests::{block_on, eventually};
use crate::adapters::{AcquireError, AdapterLease, AdapterStore};
use crate::runner::PreparedAdapter;

struct Number(u64);

impl PreparedAdapter for Number {
    fn bytes(&self) -> usize {
        8
    }
    fn content_hash(&self) -> ContentHash {
        ContentHash(*blake3::hash(&self.0.to_le_bytes()).as_bytes())
    }
}

/// Reads the number of a folder.
struct Numbers;

fn read(path: &Path) -> Result<u64, AdapterError> {
    let file = if path.is_dir() {
        path.join("weights")
    } else {
        path.to_owned()
    };
    let text = std::fs::read_to_string(file).map_err(|error| AdapterError::new(AdapterErrorCode::NotFound, error))?;
    text.trim()
        .parse()
        .map_err(|error| AdapterError::new(AdapterErrorCode::Malformed, error))
}

/// The file `defaults`, if there is one, is the system prompt.
fn defaults(path: &Path) -> Arc<AdapterDefaults> {
    Arc::new(AdapterDefaults {
        system_prompt: std::fs::read_to_string(path.join("defaults")).ok(),
        ..AdapterDefaults::default()
    })
}

impl Source for Numbers {
    fn inspect(&self, path: &Path) -> Result<AdapterSummary, AdapterError> {
        read(path).map(|_| AdapterSummary {
            base_model: None,
            max_rank: 1,
            defaults: defaults(path),
            tensor_bytes: 8,
        })
    }
    fn load(&self, path: &Path) -> Result<Loaded, AdapterError> {
        Ok(Loaded {
            weights: Arc::new(Number(read(path)?)),
            base_model: None,
            max_rank: 1,
            defaults: defaults(path),
        })
    }
}

struct Scene {
    root: tempfile::TempDir,
    store: AdapterStore,
}

impl Scene {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("a folder for the test");
        Self {
            root,
            store: AdapterStore::with_source(1 << 20, Arc::new(Numbers)),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn write(&self, name: &str, weights: &str) {
        std::fs::create_dir_all(self.path(name)).expect("writable");
        std::fs::write(self.path(name).join("weights"), weights).expect("writable");
    }

    fn watch(&self, use_events: bool) -> Watcher {
        Watcher::start_with(self.store.clone(), self.root.path(), use_events).expect("readable")
    }

    /// The number served under a name.
    fn served(&self, name: &str) -> Option<u64> {
        let leases = match block_on(self.store.acquire(&[name])) {
            Ok(leases) => leases,
            Err(AcquireError::Unknown(_) | AcquireError::Refused(_)) => return None,
        };
        let weights: &dyn std::any::Any = &**leases[0].weights();
        weights.downcast_ref::<Number>().map(|number| number.0)
    }

    fn refused(&self) -> Vec<String> {
        self.store.refused().into_iter().map(|(name, _)| name).collect()
    }
}

fn new_changed_and_removed_folders_are_followed(use_events: bool) {
    let scene = Scene::new();
    scene.write("first", "1");
    scene.write("broken", "?");
    scene.write(".hidden", "9");
    let _watcher = scene.watch(use_events);
    assert_eq!(scene.served("first"), Some(1), "served from the start");
    assert_eq!(scene.refused(), ["broken"]);
    assert!(scene.store.get(".hidden").is_none());

    scene.write("second", "2");
    scene.write("first", "11");
    scene.write("broken", "33");
    eventually("a new folder is served", || scene.served("second") == Some(2));
    eventually("a changed folder is a new generation", || {
        scene.served("first") == Some(11)
    });
    assert_eq!(scene.store.get("first").map(|info| info.generation), Some(2));
    eventually("a refused folder is tried again", || scene.served("broken") == Some(33));
    assert!(scene.refused().is_empty());

    let lease = block_on(scene.store.acquire(&["second"])).expect("served");
    std::fs::remove_dir_all(scene.path("second")).expect("removable");
    eventually("a removed folder is unknown", || scene.store.get("second").is_none());
    assert_eq!(scene.store.stats().resident, 3, "its last request still runs");
    drop(lease);
    assert_eq!(scene.store.stats().resident, 2);
}

#[test]
fn folders_are_followed_by_events() {
    new_changed_and_removed_folders_are_followed(true);
}

#[test]
fn folders_are_followed_by_polling_where_there_are_no_events() {
    new_changed_and_removed_folders_are_followed(false);
}

#[test]
fn a_folder_renamed_in_or_over_another_is_served() {
    let scene = Scene::new();
    let _watcher = scene.watch(true);
    for number in 1..=3 {
        scene.write(".incoming", &number.to_string());
        if scene.path("name").exists() {
            std::fs::rename(scene.path("name"), scene.path(".outgoing")).expect("same file system");
        }
        std::fs::rename(scene.path(".incoming"), scene.path("name")).expect("same file system");
        eventually("the renamed folder is served", || scene.served("name") == Some(number));
        let _ = std::fs::remove_dir_all(scene.path(".outgoing"));
    }
}

#[test]
fn a_broken_change_is_reported_and_the_old_generation_goes_on() {
    let scene = Scene::new();
    scene.write("name", "1");
    let _watcher = scene.watch(true);
    assert_eq!(scene.served("name"), Some(1));
    scene.write("name", "not a number");
    eventually("the refusal is reported", || scene.refused() == ["name"]);
    assert_eq!(scene.served("name"), Some(1));
    scene.write("name", "2");
    eventually("the repaired folder is served", || scene.served("name") == Some(2));
    assert!(scene.refused().is_empty());
}

fn files_by_themselves_are_followed(use_events: bool) {
    let scene = Scene::new();
    let put = |file: &str, text: &str| std::fs::write(scene.path(file), text).expect("writable");
    put("first.gguf", "1");
    put("notes.txt", "7");
    put(".hidden.gguf", "7");
    let _watcher = scene.watch(use_events);
    assert_eq!(scene.served("first"), Some(1));
    assert_eq!(scene.store.list().len(), 1, "only adapters are registered");

    put("second.gguf", "2");
    put("first.gguf", "11");
    eventually("a new file is served by its stem", || scene.served("second") == Some(2));
    eventually("a changed file is a new generation", || {
        scene.served("first") == Some(11)
    });
    std::fs::remove_file(scene.path("second.gguf")).expect("removable");
    eventually("a removed file is unknown", || scene.store.get("second").is_none());

    scene.write("first", "3");
    eventually("a folder goes before a file of its name", || {
        scene.served("first") == Some(3)
    });
    std::fs::remove_dir_all(scene.path("first")).expect("removable");
    eventually("the file takes its place again", || scene.served("first") == Some(11));
}

#[test]
fn files_by_themselves_are_followed_by_events() {
    files_by_themselves_are_followed(true);
}

#[test]
fn files_by_themselves_are_followed_by_polling() {
    files_by_themselves_are_followed(false);
}

#[test]
fn changed_defaults_are_a_new_generation_of_equal_weights() {
    let scene = Scene::new();
    scene.write("name", "1");
    let _watcher = scene.watch(true);
    let before = block_on(scene.store.acquire(&["name"])).expect("served");
    std::fs::write(scene.path("name").join("defaults"), "Be brief.").expect("writable");
    eventually("the defaults are served", || {
        scene.store.get("name").is_some_and(|info| info.generation == 2)
    });
    let after = block_on(scene.store.acquire(&["name"])).expect("served");
    assert_eq!(before[0].defaults().system_prompt, None);
    assert_eq!(after[0].defaults().system_prompt.as_deref(), Some("Be brief."));
    let hash = |lease: &AdapterLease| lease.weights().content_hash();
    assert_eq!(hash(&before[0]), hash(&after[0]));
}

#[test]
fn a_change_in_a_subfolder_is_seen() {
    let scene = Scene::new();
    scene.write("name", "1");
    let initial = scene.path("name").join("pissa_init");
    std::fs::create_dir(&initial).expect("writable");
    std::fs::write(initial.join("a"), "1").expect("writable");
    let look = || Fingerprint::of(&scene.path("name")).expect("readable");
    let before = look();
    assert_eq!(before, look());
    std::fs::write(initial.join("a"), "22").expect("writable");
    assert_ne!(before, look());
}

#[test]
fn a_folder_that_cannot_be_read_is_an_error() {
    let scene = Scene::new();
    let missing = scene.path("missing");
    assert!(Watcher::start(scene.store.clone(), missing).is_err());
}
