//! Keeps a store in step with a folder of adapters: events tell where to look, a slow poll finds what events missed,
//! and an adapter is acted on only when two looks some time apart see the same. Every subfolder is an adapter of its
//! name, every `NAME.gguf` one called NAME.

mod fingerprint;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use rootstock_model::adapter::is_gguf;

use super::AdapterStore;
use fingerprint::{Fingerprint, is_hidden};

/// A folder must look the same for this long before it is read.
const SETTLE: Duration = Duration::from_millis(200);
/// Between looks at a folder that has not settled.
const LOOK: Duration = Duration::from_millis(50);
/// Between looks at everything, with events and without.
const POLL_BESIDE_EVENTS: Duration = Duration::from_secs(30);
const POLL_ALONE: Duration = Duration::from_secs(2);
/// Looking at everything may take at most one part in this many of the time.
const POLL_SHARE: u32 = 50;

/// Keeps a store in step with a folder of adapters until dropped.
pub struct Watcher {
    signals: Sender<Signal>,
    thread: Option<JoinHandle<()>>,
    dir: PathBuf,
    _events: Option<RecommendedWatcher>,
}

enum Signal {
    /// Something happened to the entry of that name.
    Touched(String),
    /// Events were lost, or happened to the folder itself.
    Rescan,
    Stop,
}

impl Watcher {
    /// Registers every subfolder and every GGUF file of `dir` by its headers and has what fits the budget loaded in the
    /// background, then watches: a new adapter is loaded once its files have settled, a changed one becomes a new
    /// generation, a removed one drains. Names with a leading dot are ignored, and a file beside a folder of its name.
    /// Refusals are logged and kept for [`AdapterStore::refused`]; a refused adapter is tried again when it changes.
    ///
    /// # Errors
    /// `dir` cannot be read.
    pub fn start(store: AdapterStore, dir: PathBuf) -> io::Result<Self> {
        Self::start_with(store, &dir, true)
    }

    fn start_with(store: AdapterStore, dir: &Path, use_events: bool) -> io::Result<Self> {
        let dir = dir.canonicalize()?;
        let (signals, inbox) = crossbeam_channel::unbounded();
        // Before the first scan, so that whatever it misses comes as an event.
        let events = use_events.then(|| watch_events(&dir, signals.clone())).flatten();
        let poll = if events.is_some() {
            POLL_BESIDE_EVENTS
        } else {
            POLL_ALONE
        };
        let mut folder = Folder {
            store,
            dir,
            known: HashMap::new(),
            unsettled: HashMap::new(),
        };
        folder.register_all()?;
        folder.store.warm_up();
        let dir = folder.dir.clone();
        let thread = std::thread::Builder::new()
            .name("adapter-watcher".to_owned())
            .spawn(move || folder.run(&inbox, poll))?;
        Ok(Self {
            signals,
            thread: Some(thread),
            dir,
            _events: events,
        })
    }
}

impl Watcher {
    /// Whether the adapter at `path` is one of its folder's.
    pub fn watches(&self, path: &Path) -> bool {
        path.parent() == Some(&*self.dir)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // If the thread is gone already there is nothing to stop.
        let _ = self.signals.send(Signal::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the adapter watcher ended in a panic");
        }
    }
}

/// Sends a signal for each event; `None` if the system offers no events for the folder.
fn watch_events(dir: &Path, signals: Sender<Signal>) -> Option<RecommendedWatcher> {
    let root = dir.to_owned();
    let forward = move |event: notify::Result<notify::Event>| {
        for signal in signals_of(&root, event) {
            // The receiver is gone only while the watcher is being dropped.
            let _ = signals.send(signal);
        }
    };
    let watching = notify::recommended_watcher(forward).and_then(|mut watcher| {
        watcher.watch(dir, RecursiveMode::Recursive)?;
        Ok(watcher)
    });
    watching
        .inspect_err(|error| tracing::warn!(dir = %dir.display(), %error, "no events for the adapter folder; polling"))
        .ok()
}

fn signals_of(root: &Path, event: notify::Result<notify::Event>) -> Vec<Signal> {
    let Ok(event) = event else { return vec![Signal::Rescan] };
    match event.kind {
        // Readers, the store among them, change nothing.
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => {}
        EventKind::Access(_) => return Vec::new(),
        _ => {}
    }
    if event.need_rescan() {
        return vec![Signal::Rescan];
    }
    let touched = |path: &PathBuf| match path
        .strip_prefix(root)
        .ok()
        .and_then(|inside| inside.components().next())
    {
        Some(first) if is_hidden(first.as_os_str()) => None,
        Some(first) => first.as_os_str().to_str().map(|name| Signal::Touched(name.to_owned())),
        None => Some(Signal::Rescan),
    };
    event.paths.iter().filter_map(touched).collect()
}

/// The watched folder on the watcher's thread.
struct Folder {
    store: AdapterStore,
    dir: PathBuf,
    /// Entries of adapters, by their own names, as they were when last acted on.
    known: HashMap<String, Known>,
    unsettled: HashMap<String, Unsettled>,
}

/// An entry that was acted on.
struct Known {
    /// Of the adapter.
    name: String,
    looks: Fingerprint,
}

/// An entry that may have changed.
struct Unsettled {
    looks: Option<Fingerprint>,
    since: Instant,
}

impl Folder {
    /// The first scan: headers only, on a few threads, since there may be thousands.
    fn register_all(&mut self) -> io::Result<()> {
        let names = self.entries()?;
        let threads = std::thread::available_parallelism().map_or(1, |count| count.get().min(8));
        let (store, dir) = (&self.store, &self.dir);
        let register = |entry: &String| {
            let path = dir.join(entry);
            let looks = Fingerprint::of(&path).ok()??;
            let name = adapter_name(dir, entry)?;
            if let Err(error) = store.register(name, &path) {
                store.note_refusal(name, error);
            }
            let name = name.to_owned();
            Some((entry.clone(), Known { name, looks }))
        };
        let known = std::thread::scope(|scope| {
            let parts = names.chunks(names.len().div_ceil(threads).max(1));
            let workers: Vec<_> = parts
                .map(|part| scope.spawn(move || part.iter().filter_map(register).collect::<Vec<_>>()))
                .collect();
            // A part whose thread panicked stays unknown and is found by the next poll.
            workers
                .into_iter()
                .filter_map(|worker| worker.join().ok())
                .flatten()
                .collect()
        });
        self.known = known;
        Ok(())
    }

    fn run(mut self, inbox: &Receiver<Signal>, least_poll: Duration) {
        let mut next_poll = Instant::now() + least_poll;
        let mut next_look = Instant::now();
        loop {
            let next = if self.unsettled.is_empty() {
                next_poll
            } else {
                next_look.min(next_poll)
            };
            match inbox.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(Signal::Touched(name)) => self.suspect(name),
                Ok(Signal::Rescan) => self.look_at_all(),
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            }
            // By the clock and not by the pauses between signals: one busy folder must not hold up the others.
            let now = Instant::now();
            if now >= next_look && !self.unsettled.is_empty() {
                self.look_at_unsettled();
                next_look = Instant::now() + LOOK;
            }
            if now >= next_poll {
                self.look_at_all();
                next_poll = Instant::now() + least_poll.max(now.elapsed() * POLL_SHARE);
            }
        }
    }

    fn suspect(&mut self, name: String) {
        if adapter_name(&self.dir, &name).is_none() && !self.known.contains_key(&name) {
            return;
        }
        let path = self.dir.join(&name);
        let unsettled = || Unsettled {
            looks: Fingerprint::of(&path).unwrap_or(None),
            since: Instant::now(),
        };
        self.unsettled.entry(name).or_insert_with(unsettled);
    }

    /// Suspects every entry that differs from what is known.
    fn look_at_all(&mut self) {
        let present = match self.entries() {
            Ok(names) => names,
            Err(error) => {
                tracing::warn!(dir = %self.dir.display(), %error, "the adapter folder cannot be read");
                return;
            }
        };
        let gone = self.known.keys().filter(|name| !self.dir.join(name).exists()).cloned();
        let names: Vec<String> = present.into_iter().chain(gone).collect();
        for name in names {
            if let Ok(looks) = Fingerprint::of(&self.dir.join(&name))
                && looks.as_ref() != self.known.get(&name).map(|known| &known.looks)
            {
                self.suspect(name);
            }
        }
    }

    /// Acts on what has not changed for long enough.
    fn look_at_unsettled(&mut self) {
        let mut settled = Vec::new();
        let dir = &self.dir;
        self.unsettled.retain(|name, unsettled| {
            // What cannot be looked at now is left to the next poll.
            let Ok(looks) = Fingerprint::of(&dir.join(name)) else {
                return false;
            };
            if looks != unsettled.looks {
                *unsettled = Unsettled {
                    looks,
                    since: Instant::now(),
                };
            } else if unsettled.since.elapsed() >= SETTLE {
                settled.push((name.clone(), looks));
                return false;
            }
            true
        });
        settled.sort();
        for (name, looks) in settled {
            self.act(name, looks);
        }
    }

    fn act(&mut self, entry: String, looks: Option<Fingerprint>) {
        if self.known.get(&entry).map(|known| &known.looks) == looks.as_ref() {
            return;
        }
        let path = self.dir.join(&entry);
        let (Some(looks), Some(name)) = (looks, adapter_name(&self.dir, &entry)) else {
            if let Some(known) = self.known.remove(&entry) {
                self.remove(&known.name, &path);
            }
            return;
        };
        match self.store.load(name, &path) {
            Ok(info) => tracing::info!(adapter = name, generation = info.generation, "adapter loaded"),
            Err(error) => self.store.note_refusal(name, error),
        }
        let name = name.to_owned();
        self.known.insert(entry, Known { name, looks });
    }

    /// Takes a name away that was served from `path`. It may meanwhile be served from elsewhere; if another entry has it,
    /// that one takes its place.
    fn remove(&mut self, name: &str, path: &Path) {
        let served_from_here = self.store.get(name).is_none_or(|info| info.path == path);
        if served_from_here && self.store.unload(name) {
            tracing::info!(adapter = name, "adapter removed");
        }
        let same_name = |(entry, known): (&String, &Known)| (known.name == name).then(|| entry.clone());
        let others: Vec<String> = self.known.iter().filter_map(same_name).collect();
        for entry in others.into_iter().filter(|_| served_from_here) {
            self.known.remove(&entry);
            self.suspect(entry);
        }
    }

    /// The entries of the folder that are adapters.
    fn entries(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            match name.to_str() {
                Some(name) if adapter_name(&self.dir, name).is_some() => names.push(name.to_owned()),
                Some(_) => {}
                None => tracing::warn!(name = %name.display(), "an adapter's name must be UTF-8; ignored"),
            }
        }
        names.sort();
        Ok(names)
    }
}

/// The name under which an entry of `dir` is served; `None` if it is no adapter.
fn adapter_name<'a>(dir: &Path, entry: &'a str) -> Option<&'a str> {
    let path = dir.join(entry);
    if is_hidden(OsStr::new(entry)) {
        return None;
    }
    if path.is_dir() {
        return Some(entry);
    }
    let stem = Path::new(entry).file_stem()?.to_str()?;
    (is_gguf(&path) && path.is_file() && !dir.join(stem).is_dir()).then_some(stem)
}
