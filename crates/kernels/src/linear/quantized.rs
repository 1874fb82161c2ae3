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

/// Rows from which unpacking a panel pays.
const PANEL_ROWS: usize = 13;

/// Rows from which tile registers pay.
#[cfg(target_arch = "x86_64")]
const AMX_ROWS: usize = 12;

/// The product of the rows with the column pairs `pairs` of a quantized matrix; `scratch` is of this thread.
pub(super) fn product(isa: Isa, operands: &Operands<'_>, blocks: &Blocks, pairs: Range<usize>, scratch: &mut Scratch) {
    let job = Job {
        isa,
        operands,
        lines: &blocks.lines,
        pairs,
    };
    match operands.matrix.format() {
        BlockFormat::Q4_0 => job.nibbles::<8, _>(Plain::of(blocks), scratch),
        BlockFormat::Q4_1 => job.nibbles::<0, _>(WithMinima::of(blocks), scratch),
        BlockFormat::Q5_0 | BlockFormat::Q8_0 => job.bytes::<Signed, _>(Plain::of(blocks), scratch),
        BlockFormat::Q5_1 => job.bytes::<Bytes<0>, _>(WithMinima::of(blocks), scratch),
        BlockFormat::Q2_K => job.nibbles::<0, _>(TwoLevels::<2, true>::of(blocks), scratch),
        BlockFormat::Q3_K => job.nibbles::<4, _>(TwoLevels::<2, false>::of(blocks), scratch),
        BlockFormat::Q4_K => job.nibbles::<0, _>(TwoLevels::<1, true>::of(blocks), scratch),
        BlockFormat::Q5_K => job.bytes::<Bytes<0>, _>(TwoLevels::<1, true>::of(blocks), scratch),
        BlockFormat::Q6_K => job.bytes::<Signed, _>(TwoLevels::<2, false>::of(blocks), scratch),
        BlockFormat::I4 => job.nibbles::<0, _>(WithZeros::of(blocks), scratch),
        BlockFormat::F32 | BlockFormat::F16 | BlockFormat::Bf16 => unreachable!("dense weights have no blocks"),
    }
}

/// A product before its encoding is a type.
struct Job<'a> {
    isa: Isa,
    operands: &'a Operands<'a>,
    lines: &'a [Line],
    pairs: Range<usize>,
}

impl Job<'_> {
    fn nibbles<const ZERO: i32, Sc: Scales>(self, scales: Sc, scratch: &mut Scratch) {
        if self.in_tiles::<Nibbles<ZERO>, Sc>(scales, scratch) {
            return;
        }
        if self.operands.rows.len() < PANEL_ROWS {
            return self.in_place::<Nibbles<ZERO>, Sc>(scales);
        }
        self.isa.run(InPanels::<Sc, ZERO> {
            operands: self.operands,
            lines: self.lines,
            scales,
            pairs: self.pairs,
            panel: &mut scratch.panel,
        });
    }

    fn bytes<E: Encoding, Sc: Scales>(self, scales: Sc, scratch: &mut Scratch) {
        if !self.in_tiles::<E, Sc>(scales, scratch) {
            self.in_place::<E, Sc>(scales);
        }
    }

    /// True if the instruction set has tiles and the rows are enough for them, which then have done it.
    #[cfg(target_arch = "x86_64")]
    fn in_tiles<E: Encoding, Sc: Scales>(&self, scales: Sc, scratch: &mut Scratch) -> bool {
        let enough = self.operands.rows.len() >= AMX_ROWS;
        enough
            && self.isa.run_in_tiles(super::tiles::InTiles::<E, Sc> {
                operands: self.operands,
                lines: self.lines,
                scales,
                pairs: self.pairs.clone(),
                scratch,
                encoding: PhantomData,
            })
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn in_tiles<E: Encoding, Sc: Scales>(&self, _scales: Sc, _scratch: &mut Scratch) -> bool {
        false
    }

    fn in_place<E: Encoding, Sc: Scales>(self, scales: Sc) {
        self.isa.run(InPlace::<E, Sc> {
            operands: self.operands,
            lines: self.lines,
            scales,
            pairs: self.pairs,
            encoding: PhantomData,
        });
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
struct InPanels<'a, Sc, const ZERO: i32> {
    operands: &'a Operands<'a>,
    lines: &'a [Line],
    scales: Sc,
    pairs: Range<usize>,
    panel: &'a mut Vec<Line>,
}

impl<Sc: Scales, const ZERO: i32> Kernel for InPanels<'_, Sc, ZERO> {
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
            let columns = Columns::<Bytes<ZERO>, Sc>::new(self.scales, pair * 2, &panel[..lines]);
            all_rows(s, self.operands, columns);
        }
    }
}
