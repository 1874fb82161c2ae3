//! How long rows are in tokens.

use serde::Serialize;

use super::Checked;

/// Tokens of rows, before any are cut.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Lengths {
    /// Of all rows.
    pub tokens: usize,
    /// Of all rows, those that are learned after cutting.
    pub learned: usize,
    /// Half of the rows have as many or fewer.
    pub median: usize,
    /// Nine of ten rows have as many or fewer.
    pub p90: usize,
    /// 99 of 100 rows have as many or fewer.
    pub p99: usize,
    /// Of the longest row.
    pub longest: usize,
    /// Rows by length, from the shortest to the longest without gaps.
    pub histogram: Vec<Bucket>,
}

/// Rows of about one length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bucket {
    /// Fewest tokens.
    pub from: usize,
    /// Most tokens: a power of two.
    pub to: usize,
    /// Rows.
    pub rows: usize,
}

impl Lengths {
    pub(super) fn of<'a>(rows: impl Iterator<Item = &'a Checked>) -> Self {
        let (mut lengths, mut learned) = (Vec::new(), 0);
        for row in rows {
            lengths.push(row.encoded.whole);
            learned += row.encoded.sample.learned_tokens();
        }
        lengths.sort_unstable();
        // The nearest rank: the smallest length that so many percent of the rows do not exceed.
        let rank = |percent: usize| {
            lengths
                .get((lengths.len() * percent).div_ceil(100).saturating_sub(1))
                .copied()
        };
        let [median, p90, p99, longest] = [50, 90, 99, 100].map(|percent| rank(percent).unwrap_or(0));
        Self {
            tokens: lengths.iter().sum(),
            learned,
            median,
            p90,
            p99,
            longest,
            histogram: histogram(&lengths),
        }
    }
}

/// Sorted lengths in buckets that end at powers of two.
fn histogram(sorted: &[usize]) -> Vec<Bucket> {
    let (Some(first), Some(last)) = (sorted.first(), sorted.last()) else {
        return Vec::new();
    };
    let mut buckets = Vec::new();
    let mut to = first.next_power_of_two();
    let mut from = if to == 1 { 0 } else { to / 2 + 1 };
    let mut seen = 0;
    while seen < sorted.len() && from <= *last {
        let until = sorted.partition_point(|&length| length <= to);
        buckets.push(Bucket {
            from,
            to,
            rows: until - seen,
        });
        seen = until;
        from = to + 1;
        to = to.saturating_mul(2);
    }
    buckets
}
