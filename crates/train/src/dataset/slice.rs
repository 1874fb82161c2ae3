//! Slices of splits as Hugging Face's datasets write them: `train`, `train[:4096]`, `train[10%:20%]`.

use std::ops::Range;
use std::str::FromStr;

use crate::TrainError;

/// A part of a split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// Name of the split.
    pub split: String,
    start: Option<Bound>,
    end: Option<Bound>,
}

/// An end of a slice; negative ones count from the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bound {
    Rows(i64),
    Percent(i64),
}

impl Bound {
    fn parse(text: &str) -> Option<Self> {
        match text.strip_suffix('%') {
            Some(percent) => {
                let percent = percent.trim().parse().ok()?;
                (-100..=100).contains(&percent).then_some(Self::Percent(percent))
            }
            None => text.trim().parse().ok().map(Self::Rows),
        }
    }

    /// Row among `rows`; percents to the nearest row.
    fn resolve(self, rows: usize) -> usize {
        let rows = i64::try_from(rows).unwrap_or(i64::MAX);
        let at = match self {
            Self::Rows(at) => at,
            Self::Percent(percent) => (rows as f64 * percent as f64 / 100.0).round() as i64,
        };
        let at = if at < 0 { rows.saturating_add(at) } else { at };
        at.clamp(0, rows) as usize
    }
}

impl Slice {
    /// The rows it means of a split of `rows`.
    ///
    /// # Errors
    /// None of them.
    pub fn of(&self, rows: usize) -> Result<Range<usize>, TrainError> {
        let start = self.start.map_or(0, |bound| bound.resolve(rows));
        let end = self.end.map_or(rows, |bound| bound.resolve(rows));
        if start >= end {
            return Err(TrainError::Dataset(format!(
                "the slice of {} from {start} to {end} has none of its {rows} rows",
                self.split
            )));
        }
        Ok(start..end)
    }
}

impl FromStr for Slice {
    type Err = TrainError;

    fn from_str(text: &str) -> Result<Self, TrainError> {
        let fault = || {
            TrainError::Dataset(format!(
                "expected a split like train, train[:4096] or train[10%:20%], got {text:?}"
            ))
        };
        let (split, bounds) = match text.split_once('[') {
            Some((split, rest)) => (split, rest.strip_suffix(']').ok_or_else(fault)?),
            None => (text, ":"),
        };
        let (start, end) = bounds.split_once(':').ok_or_else(fault)?;
        let named = !split.is_empty() && split.chars().all(|c| c.is_alphanumeric() || "_-.".contains(c));
        let bound = |text: &str| match text.trim() {
            "" => Ok(None),
            text => Bound::parse(text).map(Some).ok_or_else(fault),
        };
        match named {
            true => Ok(Self {
                split: split.to_owned(),
                start: bound(start)?,
                end: bound(end)?,
            }),
            false => Err(fault()),
        }
    }
}
