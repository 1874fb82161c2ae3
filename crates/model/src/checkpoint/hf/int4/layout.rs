//! How codes and zero points of 4 or 8 bits lie in words of 32, the lowest bits first. With 4 bits:
//!
//! ```text
//!                     codes                              zero points
//! GPTQ                [inputs / 8, outputs]              [groups, outputs / 8]  minus one in the first format
//! AWQ                 [inputs, outputs / 8] interleaved  [groups, outputs / 8]  interleaved
//! compressed-tensors  [outputs, inputs / 8]              [outputs / 8, groups]
//! ```
//! The dimension that is divided is the packed one; interleaved words hold outputs 0, 2, 4, 6, 1, 3, 5, 7.

use std::ops::Range;

use super::scheme::Layout;

/// Bits of a word.
const WORD: usize = 32;
/// Output of each place of an interleaved word of 4-bit codes, lowest bits first.
const INTERLEAVED: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];
/// Outputs that are unpacked together, so that the lines of memory they are written to stay in the cache.
const OUTPUTS_AT_ONCE: usize = 128;

/// A little-endian word of a tensor.
type Word = [u8; 4];

/// The words of a tensor of 32-bit integers.
pub(super) fn words(bytes: &[u8]) -> &[Word] {
    bytes.as_chunks().0
}

/// Bits of a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Bits {
    Four,
    Eight,
}

impl Bits {
    fn count(self) -> usize {
        match self {
            Self::Four => 4,
            Self::Eight => 8,
        }
    }

    /// Codes in a word.
    pub(super) fn per_word(self) -> usize {
        WORD / self.count()
    }

    /// The zero point of symmetric codes.
    pub(super) fn middle(self) -> u8 {
        1 << (self.count() - 1)
    }

    /// Code `place` of a word.
    fn code(self, word: u32, place: usize) -> u8 {
        let mask = u8::MAX >> (8 - self.count());
        (word >> (self.count() * place)) as u8 & mask
    }

    /// A one in each code of a word.
    fn ones(self) -> u32 {
        match self {
            Self::Four => 0x1111_1111,
            Self::Eight => 0x0101_0101,
        }
    }
}

/// Packed codes of a matrix.
pub(super) struct Codes<'a> {
    layout: Layout,
    bits: Bits,
    words: &'a [Word],
}

impl<'a> Codes<'a> {
    pub(super) fn new(layout: Layout, bits: Bits, words: &'a [Word]) -> Self {
        Self { layout, bits, words }
    }

    /// The codes of `rows` of `outputs` outputs with `inputs` inputs each, one byte per code.
    pub(super) fn unpack(&self, rows: Range<usize>, outputs: usize, inputs: usize) -> Vec<u8> {
        let mut codes = vec![0; rows.len() * inputs];
        for (index, chunk) in codes.chunks_mut(OUTPUTS_AT_ONCE * inputs.max(1)).enumerate() {
            let first = rows.start + index * OUTPUTS_AT_ONCE;
            let rows = first..first + chunk.len() / inputs;
            match self.layout {
                Layout::Gptq { .. } => self.unpack_by_input(chunk, rows, outputs, inputs),
                Layout::Awq => self.unpack_interleaved(chunk, rows, outputs, inputs),
                Layout::Packed => self.unpack_by_output(chunk, rows, inputs),
            }
        }
        codes
    }

    fn unpack_by_input(&self, codes: &mut [u8], rows: Range<usize>, outputs: usize, inputs: usize) {
        for (line, words) in self.words.chunks_exact(outputs).enumerate() {
            let first = line * self.bits.per_word();
            for (row, word) in words[rows.clone()].iter().enumerate() {
                let word = u32::from_le_bytes(*word);
                let target = &mut codes[row * inputs + first..(row + 1) * inputs];
                target
                    .iter_mut()
                    .take(self.bits.per_word())
                    .enumerate()
                    .for_each(|(place, to)| *to = self.bits.code(word, place));
            }
        }
    }

    fn unpack_interleaved(&self, codes: &mut [u8], rows: Range<usize>, outputs: usize, inputs: usize) {
        for (input, words) in self.words.chunks_exact(outputs.div_ceil(INTERLEAVED.len())).enumerate() {
            let first = rows.start / INTERLEAVED.len();
            for (index, word) in words[first..rows.end.div_ceil(INTERLEAVED.len())].iter().enumerate() {
                let word = u32::from_le_bytes(*word);
                for (place, output) in INTERLEAVED.into_iter().enumerate() {
                    let output = (first + index) * INTERLEAVED.len() + output;
                    if rows.contains(&output) {
                        codes[(output - rows.start) * inputs + input] = self.bits.code(word, place);
                    }
                }
            }
        }
    }

    fn unpack_by_output(&self, codes: &mut [u8], rows: Range<usize>, inputs: usize) {
        let per_row = inputs.div_ceil(self.bits.per_word());
        for (row, codes) in rows.zip(codes.chunks_exact_mut(inputs)) {
            let words = &self.words[row * per_row..(row + 1) * per_row];
            for (word, codes) in words.iter().zip(codes.chunks_mut(self.bits.per_word())) {
                let word = u32::from_le_bytes(*word);
                codes
                    .iter_mut()
                    .enumerate()
                    .for_each(|(place, to)| *to = self.bits.code(word, place));
            }
        }
    }
}

/// Zero points of a matrix.
pub(super) struct Zeros<'a> {
    pub(super) bits: Bits,
    /// Packed ones; without, the middle of the codes everywhere.
    pub(super) packed: Option<(Layout, &'a [Word])>,
}

impl Zeros<'_> {
    /// The zero point of an output's group.
    pub(super) fn at(&self, output: usize, group: usize, outputs: usize, groups: usize) -> u8 {
        let (bits, per_word) = (self.bits, self.bits.per_word());
        let Some((layout, words)) = self.packed else {
            return bits.middle();
        };
        let index = match layout {
            Layout::Packed => output / per_word * groups + group,
            Layout::Gptq { .. } | Layout::Awq => group * outputs.div_ceil(per_word) + output / per_word,
        };
        let (word, within) = (u32::from_le_bytes(words[index]), output % per_word);
        match layout {
            // One was taken from the word as a whole before it was written, borrows and all.
            Layout::Gptq { minus_one: true } => bits.code(word.wrapping_add(bits.ones()), within),
            Layout::Awq => {
                let place = INTERLEAVED.iter().position(|&output| output == within);
                bits.code(word, place.unwrap_or(within))
            }
            Layout::Gptq { .. } | Layout::Packed => bits.code(word, within),
        }
    }

    /// Whether all are the middle.
    pub(super) fn are_middle(&self, outputs: usize, groups: usize) -> bool {
        let middle = self.bits.middle();
        (0..groups).all(|group| (0..outputs).all(|output| self.at(output, group, outputs, groups) == middle))
    }
}
