//! The product of a column pair on tile registers: the sums of [`super::vectors`], bit for bit.
//!
//! Highs and lows of sixteen rows are two tiles that go by one of sixteen outputs, three loads for two products. Groups take
//! turns with two sets of registers, across blocks. The vectors scale the sums of a group when the next one has been stored
//! and the one after it started: what was stored last cannot be read before everything older has retired.

use std::ops::Range;

use super::super::Operands;
use super::Panel;
use crate::Activations;
use crate::activations::{COARSE_GROUP, CoarseTile, HIGH, STEP, TILE_ROWS};
use crate::isa::TileKernel;
use crate::matrix::{COLUMNS, Line};
use crate::simd::Simd;
use crate::simd::amx::Amx;
use crate::simd::avx512::Avx512;

/// Steps of the tile unit in a group.
const GROUP_STEPS: usize = COARSE_GROUP / STEP;
/// Lines of a step of sixteen rows, highs or lows, and of sixteen outputs.
const STEP_LINES: usize = 16;

/// Products of a group with highs and with lows.
type Dots = [[[i32; COLUMNS]; TILE_ROWS]; 2];

/// What the tile unit leaves to the vectors.
#[repr(align(64))]
struct Between {
    /// For each set of registers.
    dots: [Dots; 2],
    /// Scaled sums of the groups so far.
    sums: [[f32; COLUMNS]; TILE_ROWS],
}

/// All rows by a column pair.
pub(super) struct InTiles<'a> {
    pub operands: &'a Operands<'a>,
    /// First output of the pair.
    pub output: usize,
    pub panel: &'a Panel<'a>,
}

impl TileKernel for InTiles<'_> {
    #[inline(always)]
    fn run(self, s: Avx512, amx: Amx) {
        let mut between = Between {
            dots: [[[[0; COLUMNS]; TILE_ROWS]; 2]; 2],
            sums: [[0.0; COLUMNS]; TILE_ROWS],
        };
        amx.configure(TILE_ROWS, STEP);
        let (mut before, mut current) = (None, self.group(0, 0));
        // SAFETY: tiles are configured; groups take turns with the sets of registers, and each is started before it is stored.
        unsafe {
            if let Some(first) = &current {
                first.start::<0>(amx);
            }
            let mut set = 0;
            while let Some(group) = current {
                let next = self.after(&group);
                match set {
                    0 => turn::<0>(amx, next.as_ref(), &mut between.dots[0]),
                    _ => turn::<1>(amx, next.as_ref(), &mut between.dots[1]),
                }
                set = 1 - set;
                self.scale(s, before, set, &mut between);
                (before, current) = (Some(group), next);
            }
            self.scale(s, before, 1 - set, &mut between);
        }
        amx.release();
    }
}

/// Stores the products of the group in set SET, and starts the next one with the other set.
///
/// # Safety
/// A group's products are on their way in set SET; tiles are configured.
#[inline(always)]
unsafe fn turn<const SET: usize>(amx: Amx, next: Option<&Group<'_>>, dots: &mut Dots) {
    let [first, second] = dots.each_mut().map(|dots| dots.as_mut_ptr().cast());
    // SAFETY: by the caller's promise; `dots` takes what two registers hold.
    unsafe {
        match SET {
            0 => {
                amx.store::<0>(first);
                amx.store::<1>(second);
            }
            _ => {
                amx.store::<2>(first);
                amx.store::<3>(second);
            }
        }
        match (next, SET) {
            (Some(next), 0) => next.start::<1>(amx),
            (Some(next), _) => next.start::<0>(amx),
            (None, _) => {}
        }
    }
}

impl<'a> InTiles<'a> {
    /// Coarse rows that take part.
    #[inline(always)]
    fn rows(&self) -> Range<usize> {
        let coarse_from = self.operands.x.coarse_from();
        self.operands.rows.start - coarse_from..self.operands.rows.end - coarse_from
    }

    /// A group of a tile of rows by one of the pair's column blocks; `None` beyond the last block.
    #[inline(always)]
    fn group(&self, block: usize, group: usize) -> Option<Group<'a>> {
        let (x, rows, panel) = (self.operands.x, self.rows(), self.panel.block(block % 2));
        let tile = rows.start / TILE_ROWS + block / 2;
        (tile < rows.end.div_ceil(TILE_ROWS)).then(|| Group {
            block,
            group,
            tiles: Tiles::new(x, tile, panel),
        })
    }

    #[inline(always)]
    fn after(&self, last: &Group<'a>) -> Option<Group<'a>> {
        if last.group + 1 < last.tiles.groups {
            Some(Group {
                group: last.group + 1,
                ..*last
            })
        } else {
            self.group(last.block + 1, 0)
        }
    }

    /// Adds the products of a group, if there is one, to its block's sums; after the last group these go where they belong.
    ///
    /// # Safety
    /// Its products are stored in `between.dots[set]`.
    #[inline(always)]
    unsafe fn scale(&self, s: Avx512, group: Option<Group<'a>>, set: usize, between: &mut Between) {
        let Some(Group { block, group, tiles }) = group else {
            return;
        };
        let (dots, sums) = (&between.dots[set], &mut between.sums);
        // SAFETY: the group is one of the tiles'.
        unsafe {
            match group {
                0 => tiles.scale::<true>(s, group, dots, sums),
                _ => tiles.scale::<false>(s, group, dots, sums),
            }
        }
        if group + 1 == tiles.groups {
            self.put(s, block, between);
            self.operands.ahead.step();
        }
    }

    /// The sums of a block go where they belong.
    #[inline(always)]
    fn put(&self, s: Avx512, block: usize, between: &Between) {
        let (rows, output) = (self.rows(), self.output + block % 2 * COLUMNS);
        let first = (rows.start / TILE_ROWS + block / 2) * TILE_ROWS;
        let own = first.max(rows.start)..rows.end.min(first + TILE_ROWS);
        let sums = &between.sums[own.start - first..own.end - first];
        let row = self.operands.x.coarse_from() + own.start;
        self.operands.sink.put_rows(s, row, output, sums);
    }
}

/// A step of the whole: one group of a block.
struct Group<'a> {
    block: usize,
    group: usize,
    tiles: Tiles<'a>,
}

impl Group<'_> {
    /// Starts its products in a set of registers.
    ///
    /// # Safety
    /// Tiles are configured.
    #[inline(always)]
    unsafe fn start<const SET: usize>(&self, amx: Amx) {
        // SAFETY: by the caller's promise; the group is one of the tiles'.
        unsafe { self.tiles.start::<SET>(amx, self.group) }
    }
}

/// A tile of rows by sixteen outputs.
#[derive(Clone, Copy)]
struct Tiles<'a> {
    rows: CoarseTile<'a>,
    panel: &'a [Line],
    /// Of the weights, by group.
    weight_steps: &'a [f32],
    steps: usize,
    groups: usize,
}

impl<'a> Tiles<'a> {
    #[inline(always)]
    fn new(x: &'a Activations, tile: usize, (panel, weight_steps): (&'a [Line], &'a [f32])) -> Self {
        let steps = x.width().div_ceil(STEP);
        let (rows, groups) = (x.coarse.tile(tile), steps.div_ceil(GROUP_STEPS));
        assert!(panel.len() >= steps * STEP_LINES && weight_steps.len() >= groups * COLUMNS);
        assert!(rows.lines.len() >= 2 * steps * STEP_LINES && rows.scales.len() >= groups * TILE_ROWS);
        Self {
            rows,
            panel,
            weight_steps,
            steps,
            groups,
        }
    }

    /// Starts a group's first products in a set of registers.
    ///
    /// # Safety
    /// The group exists; tiles are configured.
    #[inline(always)]
    unsafe fn start<const SET: usize>(&self, amx: Amx, group: usize) {
        // SAFETY: by the caller's promise.
        unsafe {
            amx.zero_sums::<SET>();
            for within in 0..GROUP_STEPS {
                self.multiply::<SET>(amx, group, within);
            }
        }
    }

    /// Products of one step within a group, if it exists.
    ///
    /// # Safety
    /// The group exists; tiles are configured.
    #[inline(always)]
    unsafe fn multiply<const SET: usize>(&self, amx: Amx, group: usize, within: usize) {
        let step = group * GROUP_STEPS + within;
        if step >= self.steps {
            return;
        }
        let line = step * STEP_LINES;
        // SAFETY: the lines of every step exist (`new`).
        unsafe {
            let highs = self.rows.lines.as_ptr().add(2 * line);
            let rows = [highs.cast(), highs.add(STEP_LINES).cast()];
            amx.add_products::<SET>(rows, self.panel.as_ptr().add(line).cast());
        }
    }

    /// Adds the products of a group to the sums.
    ///
    /// # Safety
    /// The group exists.
    #[inline(always)]
    unsafe fn scale<const FIRST: bool>(
        &self,
        s: Avx512,
        group: usize,
        [highs, lows]: &Dots,
        sums: &mut [[f32; COLUMNS]; TILE_ROWS],
    ) {
        // SAFETY: scales and steps of every group exist (`new`).
        unsafe {
            let step = s.load(self.weight_steps.as_ptr().add(group * COLUMNS));
            let scales = self.rows.scales.as_ptr().add(group * TILE_ROWS);
            for r in 0..TILE_ROWS {
                let high = s.to_f32(s.load_i32(highs[r].as_ptr()));
                let low = s.to_f32(s.load_i32(lows[r].as_ptr()));
                let weighted = s.mul(s.mul_add(high, s.splat(HIGH), low), step);
                let so_far = if FIRST { s.splat(0.0) } else { s.load(sums[r].as_ptr()) };
                let sum = s.mul_add(weighted, s.splat(*scales.add(r)), so_far);
                s.store(sums[r].as_mut_ptr(), sum);
            }
        }
    }
}
