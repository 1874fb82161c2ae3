//! Encoded blocks taken apart: the bit layouts of GGUF's encodings, and of I4.

use super::BLOCK;
use super::format::{BlockFormat, SUPER_BLOCK};

/// One encoded block: quants as the packed layout keeps them, scales as they are in the file.
pub(super) struct Block {
    pub quants: [u8; SUPER_BLOCK],
    /// f16.
    pub scale: u16,
    /// f16 that is added (the K encodings subtract theirs, its sign is turned here).
    pub minimum: u16,
    /// Per group: factor of the scale.
    pub sub_scales: [i8; 16],
    /// Per group: factor of the minimum; for a zero point, that - 128.
    pub sub_minima: [i8; 16],
}

/// Sign bit of an f16.
const SIGN: u16 = 0x8000;

impl Block {
    pub(super) fn new() -> Self {
        Self {
            quants: [0; SUPER_BLOCK],
            scale: 0,
            minimum: 0,
            sub_scales: [0; 16],
            sub_minima: [0; 16],
        }
    }

    /// Takes apart a block of `format.block_bytes()` bytes of a quantized format.
    pub(super) fn read(&mut self, format: BlockFormat, encoded: &[u8]) {
        let half = |at: usize| u16::from_le_bytes([encoded[at], encoded[at + 1]]);
        match format {
            BlockFormat::Q4_0 => {
                self.scale = half(0);
                self.read_nibbles(&encoded[2..]);
            }
            BlockFormat::Q4_1 => {
                (self.scale, self.minimum) = (half(0), half(2));
                self.read_nibbles(&encoded[4..]);
            }
            BlockFormat::Q5_0 => {
                self.scale = half(0);
                self.read_nibbles(&encoded[6..]);
                // Kept as value + 128, and the value is q - 16.
                self.add_bits(&encoded[2..6], 128 - 16);
            }
            BlockFormat::Q5_1 => {
                (self.scale, self.minimum) = (half(0), half(2));
                self.read_nibbles(&encoded[8..]);
                self.add_bits(&encoded[4..8], 0);
            }
            BlockFormat::Q8_0 => {
                self.scale = half(0);
                for (quant, byte) in self.quants.iter_mut().zip(&encoded[2..]) {
                    *quant = byte.wrapping_add(128);
                }
            }
            BlockFormat::Q2_K => self.read_q2_k(encoded),
            BlockFormat::Q3_K => self.read_q3_k(encoded),
            BlockFormat::Q4_K => {
                self.read_levels(&encoded[..16]);
                self.read_long_nibbles(&encoded[16..], 32);
            }
            BlockFormat::Q5_K => {
                self.read_levels(&encoded[..16]);
                self.read_long_nibbles(&encoded[48..], 32);
                for (input, quant) in self.quants.iter_mut().enumerate() {
                    *quant |= (encoded[16 + input % 32] >> (input / 32) & 1) << 4;
                }
            }
            BlockFormat::Q6_K => self.read_q6_k(encoded),
            BlockFormat::I4 => {
                self.scale = half(0);
                self.sub_minima[0] = encoded[2].wrapping_sub(128) as i8;
                self.read_nibbles(&encoded[3..]);
            }
            BlockFormat::F32 | BlockFormat::F16 | BlockFormat::Bf16 => {}
        }
    }

    /// A block of 32: input i in the low nibble of byte i, input i + 16 in the high one.
    fn read_nibbles(&mut self, bytes: &[u8]) {
        for (input, byte) in bytes[..16].iter().enumerate() {
            self.quants[input] = byte & 15;
            self.quants[input + 16] = byte >> 4;
        }
    }

    /// A block of 32: bit i of four bytes is bit 4 of quant i; then `offset` is added.
    fn add_bits(&mut self, bytes: &[u8], offset: u8) {
        for (input, quant) in self.quants[..BLOCK].iter_mut().enumerate() {
            *quant = (*quant | (bytes[input / 8] >> (input % 8) & 1) << 4) + offset;
        }
    }

    /// A block of 256: runs of `run` bytes, whose low nibbles come first, then their high ones.
    fn read_long_nibbles(&mut self, bytes: &[u8], run: usize) {
        for (input, quant) in self.quants.iter_mut().enumerate() {
            let byte = bytes[input / (2 * run) * run + input % run];
            *quant = byte >> (4 * (input / run % 2)) & 15;
        }
    }

    /// Q4_K and Q5_K: two f16, then six bits of scale and of minimum for each of eight groups in twelve bytes. The first
    /// four groups have theirs in the low bits of bytes 0..4 and 4..8, whose two high bits belong to the others.
    fn read_levels(&mut self, bytes: &[u8]) {
        self.scale = u16::from_le_bytes([bytes[0], bytes[1]]);
        self.minimum = u16::from_le_bytes([bytes[2], bytes[3]]) ^ SIGN;
        let bytes = &bytes[4..16];
        for group in 0..4 {
            let (scale, minimum, rest) = (bytes[group], bytes[group + 4], bytes[group + 8]);
            self.sub_scales[group] = (scale & 63) as i8;
            self.sub_minima[group] = (minimum & 63) as i8;
            self.sub_scales[group + 4] = (rest & 15 | scale >> 6 << 4) as i8;
            self.sub_minima[group + 4] = (rest >> 4 | minimum >> 6 << 4) as i8;
        }
    }

    /// Two bits per quant: of 32 bytes each, the lowest bits come first.
    fn read_pairs_of_bits(&mut self, bytes: &[u8]) {
        for (input, quant) in self.quants.iter_mut().enumerate() {
            *quant = two_bits(bytes, input);
        }
    }

    /// 16 bytes of scale (low nibble) and minimum (high), 64 of quants, two f16.
    fn read_q2_k(&mut self, encoded: &[u8]) {
        for (group, byte) in encoded[..16].iter().enumerate() {
            self.sub_scales[group] = (byte & 15) as i8;
            self.sub_minima[group] = (byte >> 4) as i8;
        }
        self.read_pairs_of_bits(&encoded[16..80]);
        self.scale = u16::from_le_bytes([encoded[80], encoded[81]]);
        self.minimum = u16::from_le_bytes([encoded[82], encoded[83]]) ^ SIGN;
    }

    /// 32 bytes of third bits, 64 of the others, 12 of six-bit scales (four low bits of all, then two high ones), an f16.
    fn read_q3_k(&mut self, encoded: &[u8]) {
        self.read_pairs_of_bits(&encoded[32..96]);
        for (input, quant) in self.quants.iter_mut().enumerate() {
            *quant |= (encoded[input % 32] >> (input / 32) & 1) << 2;
        }
        let scales = &encoded[96..108];
        for group in 0..16 {
            let low = scales[group % 8] >> (4 * (group / 8)) & 15;
            let high = scales[8 + group % 4] >> (2 * (group / 4)) & 3;
            self.sub_scales[group] = (low | high << 4) as i8 - 32;
        }
        self.scale = u16::from_le_bytes([encoded[108], encoded[109]]);
    }

    /// 128 bytes of four low bits, 64 of two high ones, 16 scales, an f16.
    fn read_q6_k(&mut self, encoded: &[u8]) {
        self.read_long_nibbles(&encoded[..128], 64);
        for (input, quant) in self.quants.iter_mut().enumerate() {
            // Kept as value + 128, and the value is q - 32.
            *quant = (*quant | two_bits(&encoded[128..192], input) << 4) + (128 - 32);
        }
        for (group, byte) in encoded[192..208].iter().enumerate() {
            self.sub_scales[group] = *byte as i8;
        }
        self.scale = u16::from_le_bytes([encoded[208], encoded[209]]);
    }
}

/// The two bits of an input: 32 bytes hold 128 inputs, the first 32 in the lowest bits.
fn two_bits(bytes: &[u8], input: usize) -> u8 {
    bytes[input / 128 * 32 + input % 32] >> (2 * (input / 32 % 4)) & 3
}
