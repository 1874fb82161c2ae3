//! How far a download is: a bar on a terminal, a line per tenth elsewhere (logs of CI and containers). On stderr.

use std::cell::Cell;
use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressStyle};

use crate::settings::ByteSize;

/// Progress of one file.
pub enum Progress {
    /// Drawn in place.
    Bar(ProgressBar),
    /// Printed now and then.
    Lines {
        /// Bytes of the file.
        size: u64,
        /// Tenths already told.
        tenths: Cell<u64>,
    },
}

impl Progress {
    /// Starts at zero.
    pub fn start(name: &str, size: u64) -> Self {
        if !io::stderr().is_terminal() {
            return Self::Lines {
                size,
                tenths: Cell::new(0),
            };
        }
        let bar = ProgressBar::new(size).with_message(name.to_owned());
        let style = "  {bar:32} {bytes:>10} of {total_bytes}  {bytes_per_sec}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        Self::Bar(bar)
    }

    /// So many bytes are there.
    pub fn reached(&self, bytes: u64) {
        match self {
            Self::Bar(bar) => bar.set_position(bytes),
            Self::Lines { size, tenths } => {
                let reached = bytes * 10 / (*size).max(1);
                if reached > tenths.replace(reached) {
                    eprintln!("  {} of {}", ByteSize(bytes), ByteSize(*size));
                }
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}
