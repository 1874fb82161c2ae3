//! How many rows of prefill fit beside decodes, from the times that steps took. What a prompt adds to a step, every
//! running stream waits for; what it does not get, its own reader waits for.
//!
//! A step with `n` decodes and `r` rows of prefill is taken to last `alone + r * per_row`, and may last `slowdown`
//! times `alone`; where more prompts wait than streams run, as many times more. `per_row` follows the steps that have
//! both. `alone` is measured: where it is not known for about this many decodes, or has not been for long, one step goes
//! without prefill. That is why the model needs no history of batch sizes, contexts and adapters: both numbers are of
//! the load that runs now.

use std::time::Duration;

/// Rows of prefill that a step has in any case, so that a prompt advances beside whatever decodes. Expanding the weights for
/// prompts costs a step what some eight rows do, so that fewer would mostly pay for that.
const LEAST_ROWS: usize = 16;
/// Steps with prefill after which the one without is measured again.
const FRESH_STEPS: u32 = 64;
/// At least this many steps with prefill follow one that went without, however the number of decodes changes.
const LEAST_MIXED_STEPS: u32 = 8;
/// Share of a new measurement in the running mean of many, and of one that comes after a while without.
const SHARE: f64 = 0.25;
const SHARE_AFTER_GAP: f64 = 0.5;
/// One measurement moves a mean as if it differed from it by this factor at most: a step may have been interrupted.
const OUTLIER: f64 = 2.0;

/// What steps have cost of late.
pub(super) struct Pace {
    /// How many times as long as alone decodes may take beside prefill; not finite for no bound.
    slowdown: f64,
    /// Steps that only decode.
    alone: Option<Alone>,
    /// Nanoseconds that a row of prefill adds to decodes, or takes in a step without any until that is known.
    per_row: Option<f64>,
    /// A step has had both.
    mixed: bool,
    /// Steps with both since the last that only decoded.
    since_alone: u32,
}

struct Alone {
    decodes: usize,
    nanos: f64,
}

impl Alone {
    /// Whether it tells about steps with this many decodes.
    fn is_about(&self, decodes: usize) -> bool {
        self.decodes.abs_diff(decodes) * 4 <= self.decodes
    }
}

impl Pace {
    pub(super) fn new(slowdown: f64) -> Self {
        Self {
            slowdown,
            alone: None,
            per_row: None,
            mixed: false,
            since_alone: 0,
        }
    }

    /// Most rows of prefill beside `decodes`, of `prompts` that wait for theirs. Without any decodes there is nobody to slow
    /// down, and before the first measurement nothing is known.
    pub(super) fn prefill_rows(&self, decodes: usize, prompts: usize) -> usize {
        if decodes == 0 || !self.slowdown.is_finite() {
            return usize::MAX;
        }
        if self.alone.is_none() && self.per_row.is_none() && self.since_alone == 0 {
            return usize::MAX;
        }
        let Some(alone) = self.alone.as_ref().filter(|alone| self.is_fresh(alone, decodes)) else {
            return 0;
        };
        let Some(per_row) = self.per_row else { return LEAST_ROWS };
        let slowdown = self.slowdown * (prompts as f64 / decodes as f64).max(1.0);
        let room = (slowdown - 1.0) * alone.nanos / per_row.max(1.0);
        (room as usize).max(LEAST_ROWS)
    }

    fn is_fresh(&self, alone: &Alone, decodes: usize) -> bool {
        self.since_alone < LEAST_MIXED_STEPS || self.since_alone < FRESH_STEPS && alone.is_about(decodes)
    }

    /// A step took this long.
    pub(super) fn measured(&mut self, decodes: usize, prefill_rows: usize, time: Duration) {
        let nanos = time.as_nanos() as f64;
        match (decodes, prefill_rows) {
            (0, 0) => {}
            (_, 0) => self.measured_alone(decodes, nanos),
            (0, rows) if !self.mixed => self.per_row = Some(nanos / rows as f64),
            (0, _) => {}
            (_, rows) => self.measured_both(rows, nanos),
        }
    }

    fn measured_alone(&mut self, decodes: usize, nanos: f64) {
        let share = if self.since_alone == 0 { SHARE } else { SHARE_AFTER_GAP };
        self.since_alone = 0;
        let before = self.alone.take().filter(|alone| alone.is_about(decodes));
        let nanos = before.map_or(nanos, |alone| mean(alone.nanos, nanos, share));
        self.alone = Some(Alone { decodes, nanos });
    }

    fn measured_both(&mut self, rows: usize, nanos: f64) {
        self.since_alone = self.since_alone.saturating_add(1);
        let Some(alone) = &self.alone else { return };
        // Prefill is never free, or one lucky step would let a whole prompt in.
        let beyond = (nanos - alone.nanos).max(nanos / 16.0);
        let per_row = beyond / rows as f64;
        self.per_row = Some(self.per_row.map_or(per_row, |before| mean(before, per_row, SHARE)));
        self.mixed = true;
    }
}

fn mean(before: f64, new: f64, share: f64) -> f64 {
    let new = new.clamp(before / OUTLIER, before * OUTLIER);
    before + (new - before) * share
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICRO: fn(u64) -> Duration = Duration::from_micros;

    /// Steps of `decodes` beside a prompt without end on a machine that takes `alone` and `per_row` microseconds; the
    /// rows of each.
    fn steps(pace: &mut Pace, decodes: usize, alone: u64, per_row: u64, count: usize) -> Vec<usize> {
        let step = |_| {
            let rows = pace.prefill_rows(decodes, 1).min(512);
            pace.measured(decodes, rows, MICRO(alone + rows as u64 * per_row));
            rows
        };
        (0..count).map(step).collect()
    }

    #[test]
    fn nothing_bounds_prefill_without_decodes_without_measurements_or_without_a_bound() {
        let mut pace = Pace::new(2.5);
        assert_eq!(pace.prefill_rows(8, 1), usize::MAX);
        pace.measured(0, 512, MICRO(51_200));
        assert_eq!(pace.prefill_rows(0, 1), usize::MAX);
        let mut unbounded = Pace::new(f64::INFINITY);
        unbounded.measured(1, 0, MICRO(1_000));
        unbounded.measured(1, 512, MICRO(50_000));
        assert_eq!(unbounded.prefill_rows(1, 1), usize::MAX);
    }

    #[test]
    fn a_step_beside_prefill_lasts_as_much_longer_as_it_may() {
        for (alone, per_row) in [(2_000, 100), (20_000, 100), (30_000, 400), (4_000, 50)] {
            let mut pace = Pace::new(2.5);
            pace.measured(0, 512, MICRO(512 * per_row));
            pace.measured(1, 0, MICRO(alone));
            let rows = steps(&mut pace, 1, alone, per_row, 60);
            let expected = (3 * alone / 2 / per_row) as usize;
            assert!(
                rows.iter().all(|rows| rows.abs_diff(expected) <= 1),
                "{rows:?} for {expected}"
            );
        }
    }

    #[test]
    fn where_the_budget_has_no_room_a_prompt_still_advances() {
        let mut pace = Pace::new(2.5);
        pace.measured(0, 512, MICRO(512_000));
        pace.measured(1, 0, MICRO(1_000));
        let rows = steps(&mut pace, 1, 1_000, 1_000, 1_000);
        let without = rows.iter().filter(|&&rows| rows == 0).count();
        assert!(without <= 1 + 1_000 / 64, "{without} steps without prefill");
        assert!(rows.iter().all(|&rows| rows == 0 || rows == LEAST_ROWS), "{rows:?}");
    }

    #[test]
    fn the_bound_follows_the_load() {
        let mut pace = Pace::new(3.0);
        pace.measured(1, 0, MICRO(1_000));
        steps(&mut pace, 1, 1_000, 20, 20);
        // Longer contexts: each row costs more, and so does a step that only decodes.
        let rows = steps(&mut pace, 1, 3_000, 60, 400);
        assert!(
            rows[390..].iter().all(|rows| *rows == 0 || rows.abs_diff(100) < 5),
            "{:?}",
            &rows[390..]
        );
    }

    #[test]
    fn many_waiting_prompts_weigh_more_than_few_streams() {
        let mut pace = Pace::new(2.5);
        pace.measured(4, 0, MICRO(2_000));
        steps(&mut pace, 4, 2_000, 100, 20);
        assert_eq!(pace.prefill_rows(4, 4), pace.prefill_rows(4, 1));
        let (few, many) = (pace.prefill_rows(4, 1), pace.prefill_rows(4, 16));
        // 1.5 times alone for the one, 9 times for the other.
        assert!(few.abs_diff(30) <= 1 && many.abs_diff(180) <= 6, "{few}, {many}");
    }

    #[test]
    fn one_interrupted_step_changes_little() {
        let mut pace = Pace::new(2.5);
        pace.measured(1, 0, MICRO(2_000));
        steps(&mut pace, 1, 2_000, 100, 20);
        let before = pace.prefill_rows(1, 1);
        pace.measured(1, before, MICRO(100_000));
        assert!(
            pace.prefill_rows(1, 1) * 4 >= before * 3,
            "{before} to {}",
            pace.prefill_rows(1, 1)
        );
        pace.measured(1, 0, MICRO(100_000));
        assert!(
            pace.prefill_rows(1, 1) <= before * 5 / 4,
            "{before} to {}",
            pace.prefill_rows(1, 1)
        );
    }

    /// However numbers of decodes and times jump about, at most one step in nine goes without prefill once something
    /// is known.
    #[test]
    fn prefill_never_starves() {
        let mut random = crate::sampling::Draws::new(7, 0);
        for _ in 0..200 {
            let mut pace = Pace::new(1.0 + random.next_unit() * 9.0);
            pace.measured(0, 16, MICRO(1_600));
            let mut without = 0;
            for step in 0..900 {
                let decodes = 1 + random.next_u64() as usize % 100;
                let rows = pace.prefill_rows(decodes, 1).min(64);
                assert!(rows == 0 || rows >= LEAST_ROWS);
                without += usize::from(rows == 0);
                assert!(without <= 1 + step / 9, "{without} of {step}");
                pace.measured(decodes, rows, MICRO(random.next_u64() % 100_000));
            }
        }
    }
}
