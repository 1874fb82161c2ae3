//! The integer product on tile registers (see [`crate::simd::amx`]): the same sums in the same order as the register tile
//! of vectors (see [`super::tile`]), and so the same bits.
//!
//! ```text
//! for each column block (16 outputs):
//!   panel = its quants as int8 values                  [input / 4][16][4], stays in the L1 cache
//!   for each tile of H <= 16 rows:
//!     acc[H] = 0                                       f32, in registers
//!     for each group of 32 (or 16) inputs:
//!       dot[H] = rows x panel                          i32, by the tile unit, two groups ahead of the vectors
//!       acc = fma(f32(dot) * weight_scale, input_scale, acc); acc = fma(minimum, input_scaled_sum, acc)
//! ```
//!
//! The vector work after each group is the limit: three operations for 16 x 32 products.

use std::marker::PhantomData;
use std::ops::Range;

use super::encoding::Encoding;
use super::scales::Scales;
use super::tile::DOT_BIAS;
use super::{Operands, Scratch};
use crate::activations::Activations;
use crate::isa::TileKernel;
use crate::lora::Ahead;
use crate::matrix::{BLOCK, COLUMNS, Line};
use crate::simd::Simd;
use crate::simd::amx::{Amx, SUMS, TILE_ROWS};
use crate::simd::avx512::Avx512;

/// Heights of tiles are multiples of this; fewer rows do not come here.
pub(super) const MIN_ROWS: usize = 4;

/// Scales and scaled sums of one group of inputs in the rows of a tile.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct InputScales {
    scales: [f32; TILE_ROWS],
    sums: [f32; TILE_ROWS],
}

/// Tiles that go through all columns before the next ones do, so that their rows stay in the L2 cache.
const TILES_IN_CACHE: usize = 8;

/// Where the sums of products start (see [`DOT_BIAS`]).
const START: [i32; COLUMNS] = [DOT_BIAS.to_bits() as i32; COLUMNS];

/// Products of one group of inputs for each register of sums: `[row][column]`.
#[repr(align(64))]
struct Dots([[[i32; COLUMNS]; TILE_ROWS]; SUMS]);

/// The product of the rows with the column pairs `pairs`.
pub(super) struct InTiles<'a, E, Sc> {
    pub operands: &'a Operands<'a>,
    pub lines: &'a [Line],
    pub scales: Sc,
    pub pairs: Range<usize>,
    pub scratch: &'a mut Scratch,
    pub encoding: PhantomData<E>,
}

impl<E: Encoding, Sc: Scales> TileKernel for InTiles<'_, E, Sc> {
    #[inline(always)]
    fn run(self, s: Avx512, amx: Amx) {
        let rows = self.operands.rows.len();
        let tiles = rows.div_ceil(TILE_ROWS.min(rows / MIN_ROWS * MIN_ROWS));
        match rows.div_ceil(tiles).next_multiple_of(MIN_ROWS) {
            4 => self.run_height::<4>(s, amx, tiles),
            8 => self.run_height::<8>(s, amx, tiles),
            12 => self.run_height::<12>(s, amx, tiles),
            _ => self.run_height::<16>(s, amx, tiles),
        }
    }
}

impl<E: Encoding, Sc: Scales> InTiles<'_, E, Sc> {
    /// Tiles of H rows; the last one takes some rows of the one before again where the rows are no multiple.
    #[inline(always)]
    fn run_height<const H: usize>(self, s: Avx512, amx: Amx, tiles: usize) {
        let Self { operands, scales, .. } = self;
        let (blocks, rows) = (operands.matrix.blocks(), operands.rows.len());
        assert!(H <= rows && rows <= H * tiles && operands.rows.end <= operands.x.rows());
        assert!(blocks * BLOCK == operands.x.width() && self.pairs.end * 2 * blocks <= scales.places());
        let groups = blocks * Sc::GROUPS;
        let Scratch { panel, inputs, .. } = self.scratch;
        panel.resize((blocks * 8).max(panel.len()), Line([0; 64]));
        inputs.clear();
        for index in 0..tiles {
            let first = operands.rows.start + (index * H).min(rows - H);
            gather::<Sc>(operands.x, first..first + H, inputs);
        }
        let mut dots = Dots([[[0; COLUMNS]; TILE_ROWS]; SUMS]);
        amx.configure(H, BLOCK / Sc::GROUPS);
        for part in 0..tiles.div_ceil(TILES_IN_CACHE) {
            let part = part * TILES_IN_CACHE..tiles.min((part + 1) * TILES_IN_CACHE);
            for block in self.pairs.start * 2..self.pairs.end * 2 {
                let per_block = blocks * E::LINES;
                unpack::<E>(s, amx, &self.lines[block * per_block..][..per_block], panel);
                for index in part.clone() {
                    let first = (index * H).min(rows - H);
                    let tile = Tile {
                        quants: &operands.x.quants[(operands.rows.start + first) * operands.x.width()..],
                        width: operands.x.width(),
                        inputs: &inputs[index * groups..(index + 1) * groups],
                        block,
                        panel,
                        scales,
                        ahead: operands.ahead,
                    };
                    // SAFETY: H rows, all their groups and the column block exist by the assertions.
                    let sums = unsafe { tile.sums::<H>(s, amx, &mut dots) };
                    for r in index * H - first..H {
                        let row = operands.rows.start + first + r;
                        operands.sink.put(s, row, block * COLUMNS, sums[r]);
                    }
                }
            }
        }
        amx.release();
    }
}

/// The scales of some rows, group by group.
fn gather<Sc: Scales>(x: &Activations, rows: Range<usize>, to: &mut Vec<InputScales>) {
    let blocks = x.width() / BLOCK;
    for group in 0..blocks * Sc::GROUPS {
        let mut gathered = InputScales {
            scales: [0.0; TILE_ROWS],
            sums: [0.0; TILE_ROWS],
        };
        for (r, row) in rows.clone().enumerate() {
            let input = &x.blocks[row * blocks + group / Sc::GROUPS];
            gathered.scales[r] = input.scale;
            gathered.sums[r] = input.scaled_sum_of(group % Sc::GROUPS, Sc::GROUPS);
        }
        to.push(gathered);
    }
}

/// The quants of a column block as int8.
#[inline(always)]
fn unpack<E: Encoding>(s: Avx512, amx: Amx, packed: &[Line], panel: &mut [Line]) {
    const { assert!(E::LINES == 4 || E::LINES == 8) };
    for (line, to) in packed.iter().zip(panel.chunks_exact_mut(8 / E::LINES)) {
        // SAFETY: a line has 64 bytes.
        unsafe {
            let line = s.load_bytes(line.0.as_ptr());
            if E::LINES == 4 {
                s.store_bytes(to[0].0.as_mut_ptr(), amx.subtract(s.low_nibbles(line), E::ZERO));
                s.store_bytes(to[1].0.as_mut_ptr(), amx.subtract(s.high_nibbles(line), E::ZERO));
            } else {
                s.store_bytes(to[0].0.as_mut_ptr(), amx.subtract(line, E::ZERO));
            }
        }
    }
}

/// Rows by a column block.
struct Tile<'a, Sc> {
    /// From the first row on.
    quants: &'a [i8],
    width: usize,
    /// By group.
    inputs: &'a [InputScales],
    block: usize,
    panel: &'a [Line],
    scales: Sc,
    ahead: &'a Ahead<'a>,
}

impl<Sc: Scales> Tile<'_, Sc> {
    /// # Safety
    /// `quants` holds H rows, `panel` and `scales` all groups of the column block; tiles are configured for H rows.
    #[inline(always)]
    unsafe fn sums<const H: usize>(&self, s: Avx512, amx: Amx, dots: &mut Dots) -> [<Avx512 as Simd>::F; H] {
        let groups = self.inputs.len();
        let mut acc = [s.splat(0.0); H];
        // SAFETY: by the caller's promise; `multiply` and `accumulate` are called for groups that exist.
        unsafe {
            self.multiply::<0>(amx, 0);
            if groups > 1 {
                self.multiply::<1>(amx, 1);
            }
            amx.store::<0>(dots.0[0].as_mut_ptr().cast());
            let mut group = 0;
            while group + 6 <= groups {
                self.step::<0, H>(s, amx, group, dots, &mut acc);
                self.step::<1, H>(s, amx, group + 1, dots, &mut acc);
                self.step::<2, H>(s, amx, group + 2, dots, &mut acc);
                self.step::<3, H>(s, amx, group + 3, dots, &mut acc);
                group += 4;
            }
            while group < groups {
                match group % SUMS {
                    0 => self.step::<0, H>(s, amx, group, dots, &mut acc),
                    1 => self.step::<1, H>(s, amx, group, dots, &mut acc),
                    2 => self.step::<2, H>(s, amx, group, dots, &mut acc),
                    _ => self.step::<3, H>(s, amx, group, dots, &mut acc),
                }
                group += 1;
            }
        }
        acc
    }

    /// Stores the products of the next group, starts those of the one after it, and adds those of this one.
    ///
    /// # Safety
    /// As [`Self::sums`]; `group` exists, its products are stored, and SUM is its remainder by four.
    #[inline(always)]
    unsafe fn step<const SUM: usize, const H: usize>(
        &self,
        s: Avx512,
        amx: Amx,
        group: usize,
        dots: &mut Dots,
        acc: &mut [<Avx512 as Simd>::F; H],
    ) {
        self.ahead.step();
        let next = dots.0[(SUM + 1) % SUMS].as_mut_ptr().cast();
        // SAFETY: by the caller's promise; beyond the last group nothing happens.
        unsafe {
            if group + 1 < self.inputs.len() {
                match SUM {
                    0 => amx.store::<1>(next),
                    1 => amx.store::<2>(next),
                    2 => amx.store::<3>(next),
                    _ => amx.store::<0>(next),
                }
            }
            if group + 2 < self.inputs.len() {
                match SUM {
                    0 => self.multiply::<2>(amx, group + 2),
                    1 => self.multiply::<3>(amx, group + 2),
                    2 => self.multiply::<0>(amx, group + 2),
                    _ => self.multiply::<1>(amx, group + 2),
                }
            }
            self.accumulate(s, group, &dots.0[SUM], acc);
        }
    }

    /// # Safety
    /// As [`Self::sums`]; the group exists.
    #[inline(always)]
    unsafe fn multiply<const SUM: usize>(&self, amx: Amx, group: usize) {
        let depth = BLOCK / Sc::GROUPS;
        debug_assert!((group + 1) * depth <= self.width && group * depth / 4 < self.panel.len());
        // SAFETY: by the caller's promise.
        unsafe {
            let inputs = self.quants.as_ptr().add(group * depth);
            let weights = self.panel.as_ptr().add(group * depth / 4).cast();
            amx.multiply::<SUM>((inputs, self.width), weights, &START);
        }
    }

    /// Adds the products of a group to the sums.
    ///
    /// # Safety
    /// As [`Self::multiply`].
    #[inline(always)]
    unsafe fn accumulate<const H: usize>(
        &self,
        s: Avx512,
        group: usize,
        dots: &[[i32; COLUMNS]; TILE_ROWS],
        acc: &mut [<Avx512 as Simd>::F; H],
    ) {
        let (place, within) = (
            self.block * (self.inputs.len() / Sc::GROUPS) + group / Sc::GROUPS,
            group % Sc::GROUPS,
        );
        // SAFETY: the scales have all groups of the column block, and H is at most sixteen.
        unsafe {
            let scale = self.scales.scale(s, place, within);
            let minimum = self.scales.minimum(s, place, within, scale);
            let biased = s.mul(scale, s.splat(-DOT_BIAS));
            let inputs = self.inputs.get_unchecked(group);
            for r in 0..H {
                let dot = s.load(dots[r].as_ptr().cast());
                acc[r] = s.mul_add(s.mul_add(dot, scale, biased), s.splat(inputs.scales[r]), acc[r]);
                if Sc::MINIMA {
                    acc[r] = s.mul_add(minimum, s.splat(inputs.sums[r]), acc[r]);
                }
            }
        }
    }
}
