//! From rows of encoded blocks to columns of sixteen outputs.

use super::blocks::Block;
use super::format::{BlockFormat, Layout, Quants, SUPER_BLOCK, Scaling};
use super::{BLOCK, Blocks, COLUMNS, Line, PAIR, ShapeError};
use crate::element::{ElementType, Elements};

/// Packs a quantized matrix.
pub(super) fn blocks<'a>(
    format: BlockFormat,
    (outputs, inputs): (usize, usize),
    row: impl Fn(usize) -> Result<&'a [u8], ShapeError>,
) -> Result<Blocks, ShapeError> {
    let Some(layout) = format.layout() else {
        return Err(ShapeError(format!("{format:?} has no blocks")));
    };
    let per_row = inputs / BLOCK;
    let mut packed = allocate((format, layout), outputs.div_ceil(PAIR) * 2, per_row);
    let mut block = Block::new();
    for output in 0..outputs {
        for (index, encoded) in row(output)?.chunks_exact(format.block_bytes()).enumerate() {
            block.read(format, encoded);
            let first = (output / COLUMNS) * per_row + index * format.block_len() / BLOCK;
            for part in 0..format.block_len() / BLOCK {
                packed.put(&block, part, first + part, output % COLUMNS);
            }
        }
    }
    Ok(packed)
}

/// Room for column blocks of `per_row` input blocks, all zero.
fn allocate((format, layout): (BlockFormat, Layout), column_blocks: usize, per_row: usize) -> Blocks {
    let places = column_blocks * per_row;
    let (scales, minima, sub_scales, sub_minima) = match layout.scaling {
        Scaling::Scale => (places, 0, 0, 0),
        Scaling::Minimum => (places, places, 0, 0),
        Scaling::Zero => (places, 0, 0, places),
        Scaling::TwoLevels { groups, minima } => {
            let (supers, groups) = (places * BLOCK / SUPER_BLOCK, places * groups);
            let with = usize::from(minima);
            (supers, with * supers, groups, with * groups)
        }
    };
    Blocks {
        format,
        layout,
        lines: vec![Line([0; 64]); places * layout.lines()],
        scales: vec![0; scales * COLUMNS],
        minima: vec![0; minima * COLUMNS],
        sub_scales: vec![0; sub_scales * COLUMNS],
        sub_minima: vec![0; sub_minima * COLUMNS],
    }
}

impl Blocks {
    /// Puts the `part`-th 32 weights of a block at an input block's place in a column block.
    fn put(&mut self, block: &Block, part: usize, place: usize, column: usize) {
        let (layout, at) = (self.layout, place * COLUMNS + column);
        match layout.scaling {
            Scaling::Scale => self.scales[at] = block.scale,
            Scaling::Minimum => (self.scales[at], self.minima[at]) = (block.scale, block.minimum),
            Scaling::Zero => (self.scales[at], self.sub_minima[at]) = (block.scale, block.sub_minima[0]),
            Scaling::TwoLevels { groups, minima } => {
                let upper = place / (SUPER_BLOCK / BLOCK) * COLUMNS + column;
                self.scales[upper] = block.scale;
                if minima {
                    self.minima[upper] = block.minimum;
                }
                for group in 0..groups {
                    let at = (place * groups + group) * COLUMNS + column;
                    self.sub_scales[at] = block.sub_scales[part * groups + group];
                    if minima {
                        self.sub_minima[at] = block.sub_minima[part * groups + group];
                    }
                }
            }
        }
        let lines = &mut self.lines[place * layout.lines()..][..layout.lines()];
        for (input, quant) in block.quants[part * BLOCK..][..BLOCK].iter().enumerate() {
            let (group, byte) = (input / 4, column * 4 + input % 4);
            match layout.quants {
                Quants::Nibbles => lines[group / 2].0[byte] |= quant << (4 * (group % 2)),
                Quants::Bytes | Quants::Signed => lines[group].0[byte] = *quant,
            }
        }
    }
}

/// Packs a dense matrix.
pub(super) fn dense<'a>(
    kind: ElementType,
    (outputs, inputs): (usize, usize),
    row: impl Fn(usize) -> Result<&'a [u8], ShapeError>,
) -> Result<Elements, ShapeError> {
    let shape = (outputs, inputs);
    Ok(match kind {
        ElementType::F32 => Elements::F32(columns(shape, row, f32::from_le_bytes)?),
        ElementType::F16 => Elements::F16(columns(shape, row, u16::from_le_bytes)?),
        ElementType::Bf16 => Elements::Bf16(columns(shape, row, u16::from_le_bytes)?),
    })
}

fn columns<'a, T: Copy + Default, const N: usize>(
    (outputs, inputs): (usize, usize),
    row: impl Fn(usize) -> Result<&'a [u8], ShapeError>,
    element: impl Fn([u8; N]) -> T,
) -> Result<Vec<T>, ShapeError> {
    let mut packed = vec![T::default(); outputs.next_multiple_of(PAIR) * inputs];
    for output in 0..outputs {
        let (values, _) = row(output)?.as_chunks::<N>();
        let column = &mut packed[output / COLUMNS * COLUMNS * inputs + output % COLUMNS..];
        for (to, value) in column.iter_mut().step_by(COLUMNS).zip(values) {
            *to = element(*value);
        }
    }
    Ok(packed)
}
