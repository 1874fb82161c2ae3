//! Threads that share out one region of work after another. A decode step has some two hundred short regions, so
//! workers spin for the next one before they park; an idle pool uses no CPU.
//!
//! A region is published by raising `epoch`; each worker runs it and lowers `pending`. A worker that found nothing to
//! do for [`SPIN_ROUNDS`] rounds raises its `parked` flag, looks once more and parks; the publisher looks at the flag
//! after raising the epoch, so that one of the two always sees the other.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};

/// Rounds of the spin loop (a pause each, 20-60 ns) before a worker parks, or before the publisher, which cannot park,
/// gives its core away: on a machine with more threads than cores the one it waits for may need it.
const SPIN_ROUNDS: u32 = 2_000;

type Region<'a> = &'a (dyn Fn(usize) + Sync);
type Panic = Box<dyn std::any::Any + Send>;

struct Shared {
    epoch: AtomicUsize,
    pending: AtomicUsize,
    stop: AtomicBool,
    /// The region of the current epoch; written only while `pending` is 0.
    region: std::cell::UnsafeCell<Option<Region<'static>>>,
    panic: Mutex<Option<Panic>>,
    parked: Vec<AtomicBool>,
}

// SAFETY: `region` is written by the publisher while no worker reads it (`pending` is 0) and read by workers only after
// they saw the epoch that followed the write.
unsafe impl Sync for Shared {}

/// A fixed set of threads; the calling thread is one of them.
pub struct ThreadPool {
    shared: Arc<Shared>,
    workers: Vec<(Thread, JoinHandle<()>)>,
}

impl ThreadPool {
    /// A pool of `threads` threads (at least one), the caller's included.
    ///
    /// # Errors
    /// The operating system gives no more threads.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let helpers = threads.max(1) - 1;
        let shared = Arc::new(Shared {
            epoch: AtomicUsize::new(0),
            pending: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            region: std::cell::UnsafeCell::new(None),
            panic: Mutex::new(None),
            parked: (0..helpers).map(|_| AtomicBool::new(false)).collect(),
        });
        // Where a thread cannot be had, dropping the pool ends those before it.
        let mut pool = Self {
            shared,
            workers: Vec::with_capacity(helpers),
        };
        for index in 0..helpers {
            let shared = Arc::clone(&pool.shared);
            let handle = std::thread::Builder::new()
                .name(format!("compute-{}", index + 1))
                .spawn(move || work(&shared, index))?;
            pool.workers.push((handle.thread().clone(), handle));
        }
        Ok(pool)
    }

    /// Number of threads, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `region` once on every thread with the thread's index; returns when all are done.
    ///
    /// # Panics
    /// With the panic of a thread, after all are done.
    pub fn run(&mut self, region: impl Fn(usize) + Sync) {
        if self.workers.is_empty() {
            return region(0);
        }
        let erased: Region<'_> = &region;
        // SAFETY: the lifetime is erased for the time of this call only: every worker has finished with the region when
        // `pending` reaches 0 below, also where one panics.
        let erased: Region<'static> = unsafe { std::mem::transmute::<Region<'_>, Region<'static>>(erased) };
        self.publish(erased);
        let own = catch_unwind(AssertUnwindSafe(|| region(0)));
        let mut rounds = 0;
        while self.shared.pending.load(Ordering::Acquire) != 0 {
            if rounds < SPIN_ROUNDS {
                rounds += 1;
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
        let other = self.shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = own.err().or(other) {
            resume_unwind(panic);
        }
    }

    fn publish(&self, region: Region<'static>) {
        // SAFETY: `pending` is 0, so no worker reads the region (`run` takes the pool exclusively and waited for it).
        unsafe { *self.shared.region.get() = Some(region) };
        self.shared.pending.store(self.workers.len(), Ordering::Relaxed);
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        self.wake();
    }

    fn wake(&self) {
        for ((thread, _), parked) in self.workers.iter().zip(&self.shared.parked) {
            if parked.load(Ordering::SeqCst) {
                thread.unpark();
            }
        }
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        self.wake();
        for (_, handle) in self.workers.drain(..) {
            // A worker catches the panics of regions, so it always ends well.
            let _ = handle.join();
        }
    }
}

fn work(shared: &Shared, index: usize) {
    let mut seen = 0;
    loop {
        seen = next_epoch(shared, index, seen);
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        // SAFETY: the epoch was raised after the region was written, and it is not written again before `pending` is 0.
        let region = unsafe { *shared.region.get() };
        if let Some(region) = region
            && let Err(panic) = catch_unwind(AssertUnwindSafe(|| region(index + 1)))
        {
            *shared.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
        }
        shared.pending.fetch_sub(1, Ordering::Release);
    }
}

/// Waits until the epoch differs from `seen`.
fn next_epoch(shared: &Shared, index: usize, seen: usize) -> usize {
    for _ in 0..SPIN_ROUNDS {
        let epoch = shared.epoch.load(Ordering::Acquire);
        if epoch != seen {
            return epoch;
        }
        std::hint::spin_loop();
    }
    let parked = &shared.parked[index];
    parked.store(true, Ordering::SeqCst);
    let epoch = loop {
        let epoch = shared.epoch.load(Ordering::SeqCst);
        if epoch != seen {
            break epoch;
        }
        std::thread::park();
    };
    parked.store(false, Ordering::SeqCst);
    epoch
}

/// The `index`-th of `parts` nearly equal consecutive ranges of `0..len`.
pub fn share(len: usize, index: usize, parts: usize) -> std::ops::Range<usize> {
    len * index / parts..len * (index + 1) / parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_runs_every_region_once() {
        for threads in 1..=4 {
            let mut pool = ThreadPool::new(threads).unwrap();
            let counts: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
            for round in 1..=2_000 {
                pool.run(|index| {
                    counts[index].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == round));
            }
        }
    }

    #[test]
    fn parked_workers_wake_up() {
        let mut pool = ThreadPool::new(3).unwrap();
        let sum = AtomicUsize::new(0);
        for _ in 0..5 {
            std::thread::sleep(std::time::Duration::from_millis(20));
            pool.run(|index| {
                sum.fetch_add(index + 1, Ordering::Relaxed);
            });
        }
        assert_eq!(sum.load(Ordering::Relaxed), 5 * 6);
    }

    /// Regions published while workers are between their last look and parking: none may be missed.
    #[test]
    fn workers_about_to_park_miss_nothing() {
        let mut pool = ThreadPool::new(3).unwrap();
        let ran = AtomicUsize::new(0);
        for round in 1..=600 {
            let pause = std::time::Duration::from_micros(round as u64 % 150);
            let start = std::time::Instant::now();
            while start.elapsed() < pause {
                std::hint::spin_loop();
            }
            pool.run(|_| {
                ran.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(ran.load(Ordering::Relaxed), 3 * round);
        }
    }

    #[test]
    fn a_pool_dropped_while_parked_or_unused_ends() {
        drop(ThreadPool::new(3).unwrap());
        let mut pool = ThreadPool::new(3).unwrap();
        pool.run(|_| {});
        std::thread::sleep(std::time::Duration::from_millis(20));
        drop(pool);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let mut pool = ThreadPool::new(2).unwrap();
        for bad in 0..2 {
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.run(|index| assert!(index != bad, "thread {bad}"))
            }));
            assert!(result.is_err());
        }
        let ran = AtomicUsize::new(0);
        pool.run(|_| {
            ran.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(ran.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn shares_cover_everything_once() {
        for len in 0..50 {
            for parts in 1..8 {
                let mut next = 0;
                for index in 0..parts {
                    let range = share(len, index, parts);
                    assert_eq!(range.start, next);
                    next = range.end;
                }
                assert_eq!(next, len);
            }
        }
    }
}
