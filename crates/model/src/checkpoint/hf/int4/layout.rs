//! How codes and zero points of 4 bits lie in words of 32, the lowest bits first.
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

/// Codes in a word.
pub(super) const PER_WORD: usize = 8;
/// Output of each place of an interleaved word, lowest bits first.
const INTERLEAVED: [usize; PER_WORD] = [0, 2, 4, 6, 1, 3, 5, 7];
/// Outputs that are unpacked together, so that the lines of memory they are written to stay in the cache.
const OUTPUTS_AT_ONCE: usize = 128;

/// A little-endian word of a tensor.
type Word = [u8; 4];

/// The words of a tensor of 32-bit integers.
pub(super) fn words(bytes: &[u8]) -> &[Word] {
    bytes.as_chunks().0
}

/// Code `place` of a word.
fn code(word: u32, place: usize) -> u8 {
    (word >> (4 * place) & 15) as u8
}

/// Packed codes of a matrix.
pub(super) struct Codes<'a> {
    layout: Layout,
    words: &'a [Word],
}

impl<'a> Codes<'a> {
    pub(super) fn new(layout: Layout, words: &'a [Word]) -> Self {
        Self { layout, words }
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
            let first = line * PER_WORD;
            for (row, word) in words[rows.clone()].iter().enumerate() {
                let word = u32::from_le_bytes(*word);
                let target = &mut codes[row * inputs + first..(row + 1) * inputs];
                target
                    .iter_mut()
                    .take(PER_WORD)
                    .enumerate()
                    .for_each(|(place, to)| *to = code(word, place));
            }
        }
    }

    fn unpack_interleaved(&self, codes: &mut [u8], rows: Range<usize>, outputs: usize, inputs: usize) {
        for (input, words) in self.words.chunks_exact(outputs.div_ceil(PER_WORD)).enumerate() {
            let first = rows.start / PER_WORD;
            for (index, word) in words[first..rows.end.div_ceil(PER_WORD)].iter().enumerate() {
                let word = u32::from_le_bytes(*word);
                for (place, output) in INTERLEAVED.into_iter().enumerate() {
                    let output = (first + index) * PER_WORD + output;
                    if rows.contains(&output) {
                        codes[(output - rows.start) * inputs + input] = code(word, place);
                    }
                }
            }
        }
    }

    fn unpack_by_output(&self, codes: &mut [u8], rows: Range<usize>, inputs: usize) {
        let per_row = inputs.div_ceil(PER_WORD);
        for (row, codes) in rows.zip(codes.chunks_exact_mut(inputs)) {
            let words = &self.words[row * per_row..(row + 1) * per_row];
            for (word, codes) in words.iter().zip(codes.chunks_mut(PER_WORD)) {
                let word = u32::from_le_bytes(*word);
                codes
                    .iter_mut()
                    .enumerate()
                    .for_each(|(place, to)| *to = code(word, place));
            }
        }
    }
}

/// Zero points of a matrix.
pub(super) enum Zeros<'a> {
    /// The middle of the codes, everywhere.
    Middle,
    /// Packed ones.
    Packed(Layout, &'a [Word]),
}

impl Zeros<'_> {
    /// The zero point of an output's group.
    pub(super) fn at(&self, output: usize, group: usize, outputs: usize, groups: usize) -> u8 {
        let (words, within) = match self {
            Self::Middle => return super::MIDDLE,
            Self::Packed(Layout::Packed, words) => (words[output / PER_WORD * groups + group], output % PER_WORD),
            Self::Packed(_, words) => (
                words[group * outputs.div_ceil(PER_WORD) + output / PER_WORD],
                output % PER_WORD,
            ),
        };
        let word = u32::from_le_bytes(words);
        match self {
            // One was taken from the word as a whole before it was written, borrows and all.
            Self::Packed(Layout::Gptq { minus_one: true }, _) => code(word.wrapping_add(0x1111_1111), within),
            Self::Packed(Layout::Awq, _) => {
                let place = INTERLEAVED.iter().position(|&output| output == within);
                code(word, place.unwrap_or(within))
            }
            _ => code(word, within),
        }
    }

    pub(super) fn are_all(&self, zero: u8, outputs: usize, groups: usize) -> bool {
        (0..groups).all(|group| (0..outputs).all(|output| self.at(output, group, outputs, groups) == zero))
    }
}
