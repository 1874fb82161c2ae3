//! The product with quantized weights: which types a format's tiles are compiled for, and over what they run.
//!
//! From [`PANEL_ROWS`] rows on, the nibbles of a column pair are unpacked once to bytes in a panel that stays in the L1/L2
//! cache, instead of once per row tile.

use std::marker::PhantomData;
use std::ops::Range;

use super::encoding::{Bytes, Encoding, Nibbles, Signed};
use super::scales::{Plain, Scales, TwoLevels, WithMinima, WithZeros};
use super::tile::{Columns, all_rows, tile};
use super::{Operands, Scratch};
use crate::isa::{Isa, Kernel};
use crate::matrix::{BlockFormat, Blocks, Line};
use crate::simd::Simd;

/// Lines of an input block of nibbles.
const NIBBLE_LINES: usize = 4;

/// Rows from which unpacking a panel pays.
const PANEL_ROWS: usize = 13;

/// Rows from which tile registers pay.
#[cfg(target_arch = "x86_64")]
const AMX_ROWS: usize = 12;

/// Something compiled for each way of keeping weights.
pub(super) trait Typed {
    /// Values of quants lie in `LOW..=HIGH`.
    fn run<E: Encoding, Sc: Scales, const LOW: i32, const HIGH: i32>(self, scales: Sc);
}

/// Runs it for the types of a matrix.
pub(super) fn with_types(blocks: &Blocks, typed: impl Typed) {
    match blocks.format {
        BlockFormat::Q4_0 => typed.run::<Nibbles<8>, _, -8, 7>(Plain::of(blocks)),
        BlockFormat::Q4_1 => typed.run::<Nibbles<0>, _, 0, 15>(WithMinima::of(blocks)),
        BlockFormat::Q5_0 => typed.run::<Signed, _, -16, 15>(Plain::of(blocks)),
        BlockFormat::Q8_0 => typed.run::<Signed, _, -128, 127>(Plain::of(blocks)),
        BlockFormat::Q5_1 => typed.run::<Bytes<0>, _, 0, 31>(WithMinima::of(blocks)),
        BlockFormat::Q2_K => typed.run::<Nibbles<0>, _, 0, 3>(TwoLevels::<2, true>::of(blocks)),
        BlockFormat::Q3_K => typed.run::<Nibbles<4>, _, -4, 3>(TwoLevels::<2, false>::of(blocks)),
        BlockFormat::Q4_K => typed.run::<Nibbles<0>, _, 0, 15>(TwoLevels::<1, true>::of(blocks)),
        BlockFormat::Q5_K => typed.run::<Bytes<0>, _, 0, 31>(TwoLevels::<1, true>::of(blocks)),
        BlockFormat::Q6_K => typed.run::<Signed, _, -32, 31>(TwoLevels::<2, false>::of(blocks)),
        BlockFormat::I4 => typed.run::<Nibbles<0>, _, 0, 15>(WithZeros::of(blocks)),
        BlockFormat::F32 | BlockFormat::F16 | BlockFormat::Bf16 => unreachable!("dense weights have no blocks"),
    }
}

/// The product of rows with the column pairs `pairs` of a quantized matrix, before its encoding is a type.
pub(super) struct Job<'a> {
    pub isa: Isa,
    pub operands: &'a Operands<'a>,
    pub blocks: &'a Blocks,
    pub pairs: Range<usize>,
    /// Of this thread.
    pub scratch: &'a mut Scratch,
}

/// That of rows in blocks of 32.
pub(super) fn product(job: Job<'_>) {
    with_types(job.blocks, job);
}

impl Typed for Job<'_> {
    fn run<E: Encoding, Sc: Scales, const LOW: i32, const HIGH: i32>(mut self, scales: Sc) {
        if self.in_tiles::<E, Sc>(scales) {
            return;
        }
        let (operands, lines, pairs) = (self.operands, &self.blocks.lines, self.pairs);
        if E::LINES == NIBBLE_LINES && operands.rows.len() >= PANEL_ROWS {
            return self.isa.run(InPanels::<E, Sc> {
                operands,
                lines,
                scales,
                pairs,
                panel: &mut self.scratch.panel,
                encoding: PhantomData,
            });
        }
        self.isa.run(InPlace::<E, Sc> {
            operands,
            lines,
            scales,
            pairs,
            encoding: PhantomData,
        });
    }
}

impl Job<'_> {
    /// True if the instruction set has tiles and the rows are enough for them, which then have done it.
    #[cfg(target_arch = "x86_64")]
    fn in_tiles<E: Encoding, Sc: Scales>(&mut self, scales: Sc) -> bool {
        let enough = self.operands.rows.len() >= AMX_ROWS;
        enough
            && self.isa.run_in_tiles(super::tiles::InTiles::<E, Sc> {
                operands: self.operands,
                lines: &self.blocks.lines,
                scales,
                pairs: self.pairs.clone(),
                scratch: self.scratch,
                encoding: PhantomData,
            })
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn in_tiles<E: Encoding, Sc: Scales>(&mut self, _scales: Sc) -> bool {
        false
    }
}

/// The product that reads quants as the matrix keeps them.
struct InPlace<'a, E, Sc> {
    operands: &'a Operands<'a>,
    lines: &'a [Line],
    scales: Sc,
    pairs: Range<usize>,
    encoding: PhantomData<E>,
}

impl<E: Encoding, Sc: Scales> Kernel for InPlace<'_, E, Sc> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let per_block = self.operands.matrix.blocks() * E::LINES;
        let (mut block, end) = (self.pairs.start * 2, self.pairs.end * 2);
        if self.operands.rows.len() == 1 {
            while block + 4 <= end {
                let lines = &self.lines[block * per_block..][..4 * per_block];
                let columns = Columns::<E, Sc>::new(self.scales, block, lines);
                tile::<S, E, Sc, 1, 4>(s, self.operands, self.operands.rows.start, columns);
                block += 4;
            }
        }
        while block < end {
            let lines = &self.lines[block * per_block..][..2 * per_block];
            all_rows(s, self.operands, Columns::<E, Sc>::new(self.scales, block, lines));
            block += 2;
        }
    }
}

/// The product that unpacks nibbles to a panel of bytes first.
struct InPanels<'a, E, Sc> {
    operands: &'a Operands<'a>,
    lines: &'a [Line],
    scales: Sc,
    pairs: Range<usize>,
    panel: &'a mut Vec<Line>,
    encoding: PhantomData<E>,
}

impl<E: Encoding, Sc: Scales> Kernel for InPanels<'_, E, Sc> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (blocks, panel) = (self.operands.matrix.blocks(), self.panel);
        let lines = 2 * blocks * 8;
        panel.resize(lines.max(panel.len()), Line([0; 64]));
        for pair in self.pairs {
            let packed = &self.lines[pair * 2 * blocks * 4..][..2 * blocks * 4];
            for (line, to) in packed.iter().zip(panel.chunks_exact_mut(2)) {
                // SAFETY: a line has 64 bytes.
                unsafe {
                    let line = s.load_bytes(line.0.as_ptr());
                    s.store_bytes(to[0].0.as_mut_ptr(), s.low_nibbles(line));
                    s.store_bytes(to[1].0.as_mut_ptr(), s.high_nibbles(line));
                }
            }
            let columns = Columns::<E::Unpacked, Sc>::new(self.scales, pair * 2, &panel[..lines]);
            all_rows(s, self.operands, columns);
        }
    }
}
