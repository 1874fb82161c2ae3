//! How far a download, an evaluation or a comparison is: a bar on a terminal, a line per tenth elsewhere (logs of CI and containers). On stderr.

use std::cell::Cell;
use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressStyle};

use crate::settings::ByteSize;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes of a file.
    Bytes,
    /// Questions to a model.
    Questions,
    /// Weights of a model.
    Weights,
    /// Layers of a model.
    Layers,
    /// Tensors of a model.
    Tensors,
    /// Tokens of a text.
    Tokens,
    /// Modules of a model.
    Modules,
}

impl Unit {
    fn style(self) -> &'static str {
        match self {
            Self::Bytes => "  {bar:32} {bytes:>10} of {total_bytes}  {bytes_per_sec}, {eta} left",
            Self::Weights => "  {bar:32} {percent:>3} %  {eta} left",
            Self::Layers | Self::Tensors => "  {bar:32} {pos:>10} of {len}  {eta} left",
            Self::Questions | Self::Tokens | Self::Modules => "  {bar:32} {pos:>10} of {len}  {per_sec}, {eta} left",
        }
    }

    /// A line for those who see no bar.
    fn line(self, count: u64, size: u64) -> String {
        match self {
            Self::Bytes => format!("  {} of {}", ByteSize(count), ByteSize(size)),
            Self::Questions => format!("  {count} of {size} questions"),
            Self::Weights => format!("  {} %", count * 100 / size.max(1)),
            Self::Layers => format!("  {count} of {size} layers"),
            Self::Tensors => format!("  {count} of {size} tensors"),
            Self::Tokens => format!("  {count} of {size} tokens"),
            Self::Modules => format!("  {count} of {size} modules"),
        }
    }
}

/// Progress of one piece of work.
pub enum Progress {
    /// Drawn in place.
    Bar(ProgressBar),
    /// Printed now and then.
    Lines {
        /// What is counted.
        unit: Unit,
        /// When it is done.
        size: u64,
        /// Tenths already told.
        tenths: Cell<u64>,
    },
}

impl Progress {
    /// Starts at zero.
    pub fn start(name: &str, size: u64, unit: Unit) -> Self {
        if !io::stderr().is_terminal() {
            return Self::Lines {
                unit,
                size,
                tenths: Cell::new(0),
            };
        }
        let bar = ProgressBar::new(size).with_message(name.to_owned());
        if let Ok(style) = ProgressStyle::with_template(unit.style()) {
            bar.set_style(style);
        }
        Self::Bar(bar)
    }

    /// So much is there.
    pub fn reached(&self, count: u64) {
        match self {
            Self::Bar(bar) => bar.set_position(count),
            Self::Lines { unit, size, tenths } => {
                let reached = count * 10 / (*size).max(1);
                if reached > tenths.replace(reached) {
                    eprintln!("{}", unit.line(count, *size));
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
