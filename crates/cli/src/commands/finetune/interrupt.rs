//! Ctrl-C and SIGTERM while runs go on, and the display that says so.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rootstock_train::display::Display;

use crate::signals::{INTERRUPTED, Signals};

/// What the thread that waits for signals and the runs of a command share.
pub struct Interrupt {
    display: Mutex<Option<Display>>,
    asked: AtomicBool,
}

impl Interrupt {
    /// Waits for a signal from now on: the run ends after its step, with a checkpoint where those are written. A second one ends the
    /// process.
    ///
    /// # Errors
    /// The system gives no thread or no signals.
    pub fn new() -> io::Result<Arc<Self>> {
        let interrupt = Arc::new(Self {
            display: Mutex::new(None),
            asked: AtomicBool::new(false),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut signals = {
            let _within = runtime.enter();
            Signals::new()?
        };
        let shared = Arc::clone(&interrupt);
        std::thread::spawn(move || {
            loop {
                runtime.block_on(signals.next());
                if shared.asked.swap(true, Ordering::Relaxed) {
                    std::process::exit(INTERRUPTED);
                }
                shared.say("ends after this step; press again to end at once");
            }
        });
        Ok(interrupt)
    }

    /// Whether a signal has come.
    pub fn asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Shows the next run.
    pub fn begin(&self, display: Display) {
        *self.display() = Some(display);
    }

    /// Leaves the run's display as it is.
    pub fn end(&self) {
        if let Some(mut display) = self.display().take() {
            display.finish();
        }
    }

    /// Does something to the run's display.
    pub fn show(&self, show: impl FnOnce(&mut Display)) {
        if let Some(display) = self.display().as_mut() {
            show(display);
        }
    }

    /// Says something that stays.
    pub fn say(&self, text: &str) {
        match self.display().as_mut() {
            Some(display) => display.say(text),
            None => eprintln!("{text}"),
        }
    }

    fn display(&self) -> MutexGuard<'_, Option<Display>> {
        // A bar that was torn while it was drawn is drawn again.
        self.display.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
