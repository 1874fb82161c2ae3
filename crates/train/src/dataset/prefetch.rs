//! Work done ahead on several threads, handed out in order: rows are put into tokens while the model runs. Which thread does
//! what is fixed, so that the order is the same whatever the number of threads.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

/// Results that each thread may have ready.
const AHEAD: usize = 8;

/// An iterator over `work(0)`, `work(1)`, ... in order, made by threads that are a few results ahead.
pub struct Prefetch<T> {
    workers: Vec<Worker<T>>,
    next: usize,
    count: usize,
}

/// A thread that does every n-th item.
struct Worker<T> {
    results: Receiver<T>,
    thread: Option<JoinHandle<()>>,
}

/// Does `work` for the numbers below `count` on `threads` threads (at least one). They end when the iterator is dropped.
///
/// # Panics
/// The iterator panics where `work` does.
pub fn prefetch<T: Send + 'static>(
    count: usize,
    threads: usize,
    work: impl Fn(usize) -> T + Send + Sync + 'static,
) -> Prefetch<T> {
    let work = Arc::new(work);
    let threads = threads.clamp(1, count.max(1));
    let worker = |first: usize| {
        let work = work.clone();
        let (sender, results) = sync_channel(AHEAD);
        let thread = std::thread::spawn(move || {
            for index in (first..count).step_by(threads) {
                // An error means that nobody waits for it any more.
                if sender.send(work(index)).is_err() {
                    return;
                }
            }
        });
        Worker {
            results,
            thread: Some(thread),
        }
    };
    Prefetch {
        workers: (0..threads).map(worker).collect(),
        next: 0,
        count,
    }
}

impl<T> Iterator for Prefetch<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        if self.next == self.count {
            return None;
        }
        let turn = self.next % self.workers.len();
        let worker = &mut self.workers[turn];
        self.next += 1;
        worker.results.recv().ok().or_else(|| {
            // Its thread ended early: that is a panic, which goes on here.
            self.next = self.count;
            let ended = worker.thread.take().map(JoinHandle::join);
            match ended {
                Some(Err(panic)) => resume_unwind(panic),
                _ => None,
            }
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.count - self.next;
        (left, Some(left))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn results_come_in_order_for_any_number_of_threads() {
        for threads in [0, 1, 2, 3, 7, 200] {
            let work = |index: usize| {
                // The later ones of a round are done first.
                (0..(7 - index % 7) * 1000).for_each(|_| std::hint::spin_loop());
                index * index
            };
            let squares = prefetch(100, threads, work);
            assert!(squares.eq((0..100).map(|index| index * index)), "{threads} threads");
        }
        assert_eq!(prefetch(0, 4, |index| index).next(), None);
    }

    #[test]
    fn work_is_done_ahead_but_not_far() {
        let done = Arc::new(AtomicUsize::new(0));
        let counted = done.clone();
        let mut results = prefetch(usize::MAX, 2, move |index| {
            counted.fetch_add(1, Ordering::SeqCst);
            index
        });
        for index in 0..100 {
            assert_eq!(results.next(), Some(index));
        }
        drop(results);
        // The results taken, those ready, and one in the hands of each thread.
        assert!(done.load(Ordering::SeqCst) <= 100 + 2 * (AHEAD + 2));
    }

    #[test]
    #[should_panic(expected = "row 5")]
    fn a_panic_is_not_the_end_of_the_data() {
        prefetch(10, 2, |index| assert!(index != 5, "row {index}")).for_each(drop);
    }
}
