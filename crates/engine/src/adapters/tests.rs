//! The store with a source that needs no files: a folder's name tells its size, and the test says what it contains.

use std::collections::HashMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rootstock_model::ContentHash;
use rootstock_model::adapter::{AdapterDefaults, AdapterError, AdapterErrorCode, AdapterSummary};

use super::loading::{Loaded, Source};
use super::{AcquireError, AdapterLease, AdapterStore};
use crate::runner::PreparedAdapter;
use crate::sampling::Draws;

/// Weights that count themselves while they live.
pub(crate) struct FakeWeights {
    pub(crate) content: u64,
    bytes: usize,
    alive: Arc<AtomicUsize>,
}

impl PreparedAdapter for FakeWeights {
    fn bytes(&self) -> usize {
        self.bytes
    }
    fn content_hash(&self) -> ContentHash {
        ContentHash(*blake3::hash(&self.content.to_le_bytes()).as_bytes())
    }
}

impl Drop for FakeWeights {
    fn drop(&mut self) {
        self.alive.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

#[derive(Clone)]
struct FakeFolder {
    content: u64,
    defaults: Arc<AdapterDefaults>,
    bytes: usize,
    /// What the headers say, if not the truth.
    claimed: usize,
    refused: Option<AdapterErrorCode>,
}

/// Folders by path, a gate that holds loads up, and a count of living bytes.
#[derive(Default)]
pub(crate) struct FakeSource {
    folders: Mutex<HashMap<PathBuf, FakeFolder>>,
    gated: Mutex<Vec<PathBuf>>,
    gate: Condvar,
    alive: Arc<AtomicUsize>,
}

impl FakeSource {
    pub(crate) fn put(&self, path: &str, content: u64, bytes: usize) {
        let folder = FakeFolder {
            content,
            defaults: Arc::default(),
            bytes,
            claimed: bytes,
            refused: None,
        };
        self.folders.lock().insert(path.into(), folder);
    }

    fn hold(&self, path: &str) {
        self.gated.lock().push(path.into());
    }

    fn let_go(&self) {
        self.gated.lock().clear();
        self.gate.notify_all();
    }

    fn folder(&self, dir: &Path) -> Result<FakeFolder, AdapterError> {
        let missing = || AdapterError::new(AdapterErrorCode::NotFound, dir.display());
        self.folders.lock().get(dir).cloned().ok_or_else(missing)
    }
}

impl Source for FakeSource {
    fn inspect(&self, dir: &Path) -> Result<AdapterSummary, AdapterError> {
        let folder = self.folder(dir)?;
        Ok(AdapterSummary {
            base_model: None,
            max_rank: 8,
            defaults: Arc::clone(&folder.defaults),
            tensor_bytes: folder.claimed as u64,
        })
    }

    fn load(&self, dir: &Path) -> Result<Loaded, AdapterError> {
        let mut gated = self.gated.lock();
        while gated.iter().any(|path| path == dir) {
            self.gate.wait(&mut gated);
        }
        drop(gated);
        let folder = self.folder(dir)?;
        if let Some(code) = folder.refused {
            return Err(AdapterError::new(code, "refused by the test"));
        }
        self.alive.fetch_add(folder.bytes, Ordering::SeqCst);
        let weights = FakeWeights {
            content: folder.content,
            bytes: folder.bytes,
            alive: Arc::clone(&self.alive),
        };
        Ok(Loaded {
            weights: Arc::new(weights),
            base_model: None,
            max_rank: 8,
            defaults: folder.defaults,
        })
    }
}

fn store(budget: usize, folders: &[(&str, usize)]) -> (AdapterStore, Arc<FakeSource>) {
    let source = Arc::new(FakeSource::default());
    let store = AdapterStore::with_source(budget, Arc::clone(&source) as Arc<dyn Source>);
    for (index, (name, bytes)) in folders.iter().enumerate() {
        source.put(name, index as u64, *bytes);
        store.register(name, Path::new(name)).expect("the folder exists");
    }
    (store, source)
}

/// Runs a future to its end on this thread.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}

fn acquire(store: &AdapterStore, names: &[&str]) -> Vec<AdapterLease> {
    block_on(store.acquire(names)).expect("the adapters can be had")
}

fn is_pending<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> bool {
    future.poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

fn content(lease: &AdapterLease) -> u64 {
    let weights: &dyn std::any::Any = &**lease.weights();
    weights
        .downcast_ref::<FakeWeights>()
        .expect("weights of the test")
        .content
}

pub(crate) fn eventually(what: &str, condition: impl Fn() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < give_up, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_swapped_adapter_leaves_running_requests_on_their_generation() {
    let (store, source) = store(100, &[("a", 30)]);
    let before = acquire(&store, &["a"]);
    source.put("a", 77, 40);
    assert_eq!(store.load("a", Path::new("a")).expect("valid").generation, 2);
    let after = acquire(&store, &["a"]);
    assert_eq!((content(&before[0]), before[0].generation()), (0, 1));
    assert_eq!((content(&after[0]), after[0].generation()), (77, 2));
    assert_eq!(store.stats().resident_bytes, 70);
    drop(before);
    assert_eq!(store.stats().resident_bytes, 40);
    assert_eq!(
        source.alive.load(Ordering::SeqCst),
        40,
        "the old weights are freed with their last lease"
    );
}

#[test]
fn equal_content_stays_the_same_generation() {
    let (store, source) = store(100, &[("a", 30)]);
    let lease = acquire(&store, &["a"]);
    assert_eq!(store.load("a", Path::new("a")).expect("valid").generation, 1);
    assert_eq!(store.stats().resident_bytes, 30);
    drop(lease);
    assert_eq!(source.alive.load(Ordering::SeqCst), 30);
}

#[test]
fn changed_defaults_are_a_new_generation_of_the_same_weights() {
    let (store, source) = store(100, &[("a", 30)]);
    let before = acquire(&store, &["a"]);
    let brief = AdapterDefaults {
        system_prompt: Some("Be brief.".to_owned()),
        ..AdapterDefaults::default()
    };
    source.folders.lock().get_mut(Path::new("a")).expect("there").defaults = Arc::new(brief.clone());
    assert_eq!(store.load("a", Path::new("a")).expect("valid").generation, 2);
    let after = acquire(&store, &["a"]);
    assert_eq!((before[0].generation(), after[0].generation()), (1, 2));
    assert_eq!(**before[0].defaults(), AdapterDefaults::default());
    assert_eq!(**after[0].defaults(), brief);
    assert_eq!(*store.get("a").expect("served").defaults, brief);
    let hash = |lease: &AdapterLease| lease.weights().content_hash();
    assert_eq!(
        hash(&before[0]),
        hash(&after[0]),
        "what caches are keyed by is as it was"
    );
    assert_eq!(store.load("a", Path::new("a")).expect("valid").generation, 2);
}

#[test]
fn a_refused_replacement_leaves_what_is_served() {
    let (store, source) = store(100, &[("a", 30)]);
    drop(acquire(&store, &["a"]));
    source.folders.lock().get_mut(Path::new("a")).expect("there").refused = Some(AdapterErrorCode::ZeroDelta);
    assert_eq!(
        store.load("a", Path::new("a")).expect_err("refused").code,
        AdapterErrorCode::ZeroDelta
    );
    assert_eq!(content(&acquire(&store, &["a"])[0]), 0);
    assert_eq!(store.stats().refusals, 1);
}

#[test]
fn values_refused_on_first_use_are_reported_until_the_folder_is_loaded_again() {
    let (store, source) = store(100, &[("a", 30)]);
    source.folders.lock().get_mut(Path::new("a")).expect("there").refused = Some(AdapterErrorCode::NotFinite);
    for _ in 0..2 {
        let error = block_on(store.acquire(&["a"])).err().expect("refused");
        assert!(matches!(error, AcquireError::Refused(error) if error.code == AdapterErrorCode::NotFinite));
    }
    assert_eq!(store.refused()[0].0, "a");
    assert!(store.get("a").is_none());
    source.put("a", 5, 30);
    store.load("a", Path::new("a")).expect("valid now");
    assert!(store.refused().is_empty());
    assert_eq!(content(&acquire(&store, &["a"])[0]), 5);
}

#[test]
fn a_reload_that_fails_is_told_and_tried_again() {
    let (store, source) = store(10, &[("a", 10), ("b", 10)]);
    drop(acquire(&store, &["a"]));
    drop(acquire(&store, &["b"]));
    let refuse = |code| source.folders.lock().get_mut(Path::new("a")).expect("there").refused = code;
    refuse(Some(AdapterErrorCode::Malformed));
    for _ in 0..2 {
        let verdict = block_on(store.acquire(&["a"]));
        assert!(
            matches!(&verdict, Err(AcquireError::Refused(error)) if error.code == AdapterErrorCode::Malformed),
            "{:?}",
            verdict.err()
        );
    }
    assert_eq!(store.refused().len(), 1);
    refuse(None);
    assert_eq!(content(&acquire(&store, &["a"])[0]), 0);
    assert_eq!((store.refused().len(), store.stats().refusals), (0, 2));
}

#[test]
fn the_least_recently_used_unpinned_adapter_makes_room() {
    let (store, _source) = store(100, &[("a", 40), ("b", 40), ("c", 40)]);
    assert!(store.pin("a", true));
    eventually("the pinned adapter becomes resident", || {
        store.get("a").is_some_and(|info| info.resident)
    });
    drop(acquire(&store, &["b"]));
    drop(acquire(&store, &["c"]));
    let resident: Vec<bool> = store.list().iter().map(|info| info.resident).collect();
    assert_eq!(resident, [true, false, true]);
    assert_eq!(store.stats().evictions, 1);
    assert!(store.pin("a", false));
    drop(acquire(&store, &["b"]));
    let resident: Vec<bool> = store.list().iter().map(|info| info.resident).collect();
    assert_eq!(resident, [false, true, true]);
}

#[test]
fn what_can_never_fit_is_refused_at_once() {
    let (store, _source) = store(100, &[("big", 101), ("half", 60), ("other", 60)]);
    for names in [&["big"][..], &["half", "other"]] {
        let error = block_on(store.acquire(names)).err().expect("too large");
        assert!(matches!(error, AcquireError::Refused(error) if error.code == AdapterErrorCode::TooLarge));
    }
    assert_eq!(
        store.load("big", Path::new("big")).expect_err("too large").code,
        AdapterErrorCode::TooLarge
    );
    assert!(matches!(block_on(store.acquire(&["none"])), Err(AcquireError::Unknown(name)) if name == "none"));
    assert_eq!(
        acquire(&store, &["half", "half"]).len(),
        2,
        "one adapter twice needs its memory once"
    );
}

#[test]
fn a_full_budget_waits_for_a_lease_and_a_dropped_waiter_gives_its_place_up() {
    let (store, _source) = store(100, &[("a", 60), ("b", 60), ("c", 60), ("d", 10)]);
    let held = acquire(&store, &["a"]);
    let mut given_up = Box::pin(store.acquire(&["b"]));
    assert!(is_pending(given_up.as_mut()));
    let mut waiting = pin!(store.acquire(&["c"]));
    assert!(is_pending(waiting.as_mut()));
    drop(given_up);
    drop(held);
    assert_eq!(content(&block_on(waiting).expect("room")[0]), 2);
    assert!(
        store.get("b").is_some_and(|info| !info.resident),
        "nobody wanted it any more"
    );
}

#[test]
fn busy_adapters_cannot_starve_one_that_waits() {
    let (store, _source) = store(100, &[("a", 50), ("b", 50), ("c", 50)]);
    let a = acquire(&store, &["a"]);
    let b = acquire(&store, &["b"]);
    let mut c = pin!(store.acquire(&["c"]));
    assert!(is_pending(c.as_mut()));
    // `a` was used least recently, so it is to make room: it is leased to nobody behind `c`, while `b` goes on.
    let mut behind = pin!(store.acquire(&["a"]));
    assert!(is_pending(behind.as_mut()));
    drop(acquire(&store, &["b"]));
    drop(a);
    let c = block_on(c).expect("a made room");
    assert!(is_pending(behind.as_mut()));
    drop((b, c));
    assert_eq!(content(&block_on(behind).expect("room again")[0]), 0);
}

#[test]
fn a_slow_load_holds_up_neither_lookups_nor_other_adapters() {
    let (store, source) = store(100, &[("slow", 30), ("quick", 30)]);
    source.hold("slow");
    let mut slow = pin!(store.acquire(&["slow"]));
    assert!(is_pending(slow.as_mut()));
    assert_eq!(content(&acquire(&store, &["quick"])[0]), 1);
    assert_eq!(store.list().len(), 2);
    let mut both = pin!(store.acquire(&["quick", "slow"]));
    assert!(is_pending(both.as_mut()));
    source.let_go();
    assert_eq!(block_on(slow).expect("loaded").len(), 1);
    assert_eq!(block_on(both).expect("loaded").len(), 2);
    assert_eq!(store.stats().loads, 2, "two waiters of one adapter load it once");
}

#[test]
fn headers_that_understate_the_size_cannot_break_the_budget() {
    let (store, source) = store(100, &[("a", 60), ("liar", 80)]);
    source.folders.lock().get_mut(Path::new("liar")).expect("there").claimed = 1;
    store.register("liar", Path::new("liar")).expect("headers pass");
    let held = acquire(&store, &["a"]);
    let mut liar = pin!(store.acquire(&["liar"]));
    assert!(is_pending(liar.as_mut()));
    eventually("its real size is known", || store.stats().loads == 2);
    assert!(is_pending(liar.as_mut()));
    assert_eq!(store.stats().resident_bytes, 60);
    drop(held);
    assert_eq!(block_on(liar).expect("room").len(), 1);
    assert_eq!(store.stats().resident_bytes, 80);
}

#[test]
fn unloading_drains_and_a_load_that_is_under_way_is_dropped() {
    let (store, source) = store(100, &[("a", 30), ("b", 30)]);
    let lease = acquire(&store, &["a"]);
    source.hold("b");
    let mut b = pin!(store.acquire(&["b"]));
    assert!(is_pending(b.as_mut()));
    assert!(store.unload("a") && store.unload("b") && !store.unload("b"));
    assert!(matches!(block_on(b), Err(AcquireError::Unknown(_))));
    assert_eq!(content(&lease[0]), 0);
    source.let_go();
    drop(lease);
    eventually("all memory is returned", || source.alive.load(Ordering::SeqCst) == 0);
    assert_eq!(store.stats().resident_bytes, 0);
}

#[test]
fn content_that_changed_while_evicted_is_a_new_generation() {
    let (store, source) = store(50, &[("a", 40), ("b", 40)]);
    assert_eq!(acquire(&store, &["a"])[0].generation(), 1);
    drop(acquire(&store, &["b"]));
    source.put("a", 99, 40);
    let lease = acquire(&store, &["a"]);
    assert_eq!((content(&lease[0]), lease[0].generation()), (99, 2));
}

#[test]
fn warming_up_fills_the_budget_by_name_and_evicts_nothing() {
    let (store, _source) = store(100, &[("c", 30), ("a", 40), ("b", 50), ("d", 10)]);
    store.warm_up();
    eventually("what fits is resident", || store.stats().resident == 3);
    let resident: Vec<bool> = store.list().iter().map(|info| info.resident).collect();
    assert_eq!(resident, [true, true, false, true]);
    assert_eq!(store.stats().evictions, 0);
}

/// Threads acquire random pairs while others swap, unload, pin and cancel. Every lease must hold content that its name
/// had at some time, and everything must return to its level.
#[test]
fn under_load_no_lease_is_mixed_up_and_no_byte_is_lost() {
    const NAMES: [&str; 8] = ["n0", "n1", "n2", "n3", "n4", "n5", "n6", "n7"];
    let (store, source) = store(100, &NAMES.map(|name| (name, 24)));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (store, source) = (&store, &source);
            scope.spawn(move || {
                let mut draws = Draws::new(thread, 0);
                let mut below = |bound: u64| (draws.next_u64() % bound) as usize;
                for round in 0..2_000u64 {
                    let (first, second) = (below(8), below(8));
                    match below(12) {
                        0 if thread == 0 => {
                            source.put(NAMES[first], first as u64 + 8 * (round + 1), 24);
                            store.load(NAMES[first], Path::new(NAMES[first])).expect("valid");
                        }
                        1 if thread == 0 => {
                            store.unload(NAMES[first]);
                            store.register(NAMES[first], Path::new(NAMES[first])).expect("valid");
                        }
                        2 if thread == 0 => drop(store.pin(NAMES[first], below(4) == 0 && first == 0)),
                        3 => drop(is_pending(pin!(store.acquire(&[NAMES[first]])))),
                        _ => match block_on(store.acquire(&[NAMES[first], NAMES[second]])) {
                            Ok(leases) => {
                                assert_eq!(content(&leases[0]) % 8, first as u64);
                                assert_eq!(content(&leases[1]) % 8, second as u64);
                                assert_eq!(&**leases[1].name(), NAMES[second]);
                            }
                            // Between unloading and registering again.
                            Err(AcquireError::Unknown(_)) => {}
                            Err(error) => panic!("{error}"),
                        },
                    }
                }
            });
        }
    });
    NAMES.iter().for_each(|name| assert!(store.unload(name)));
    eventually("all memory is returned", || source.alive.load(Ordering::SeqCst) == 0);
    assert_eq!((store.stats().resident, store.stats().resident_bytes), (0, 0));
}
