//! Inputs near valid ones, the same at every run.

/// Numbers at which lengths, counts and signs turn.
const NUMBERS: [u64; 12] = [
    0,
    1,
    7,
    8,
    255,
    256,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 40,
    u64::MAX / 8,
    i64::MAX as u64,
    u64::MAX,
];
/// Pieces of the text formats.
const PIECES: [&str; 24] = [
    "null",
    "true",
    "[]",
    "{}",
    "[[",
    "]]",
    "{\"",
    "\":",
    ",",
    "\"",
    "-1",
    "1e400",
    "0.5",
    "\\u0000",
    "\\ud800",
    "(",
    "){9}",
    ".*",
    "|",
    "[^",
    "{1000}",
    "(?i)",
    "\\\\b",
    "\u{1f600}",
];

pub struct Mutator {
    state: u64,
}

impl Mutator {
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// One of `seeds` after one to four mutations.
    pub fn mutated(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut input = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(4) {
            self.mutate(&mut input, seeds);
        }
        input
    }

    fn mutate(&mut self, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let at = self.below(input.len() + 1);
        match self.below(8) {
            0 => input.truncate(at),
            1 => flip(input, at, 1 << self.below(8)),
            2 => flip(input, at, self.below(256) as u8),
            3 => {
                let number = NUMBERS[self.below(NUMBERS.len())].to_le_bytes();
                let end = input.len().min(at + (1 << self.below(4)));
                input[at..end].copy_from_slice(&number[..end - at]);
            }
            4 => {
                let piece = PIECES[self.below(PIECES.len())];
                input.splice(at..at, piece.bytes());
            }
            5 => {
                let end = (at + self.below(16)).min(input.len());
                input.drain(at..end);
            }
            6 => {
                let end = (at + self.below(32)).min(input.len());
                let copy = input[at..end].to_vec();
                let to = self.below(input.len() + 1);
                input.splice(to..to, copy);
            }
            _ => {
                let other = &seeds[self.below(seeds.len())];
                let from = self.below(other.len() + 1);
                let end = (from + self.below(64)).min(other.len());
                input.splice(at..at, other[from..end].iter().copied());
            }
        }
    }

    /// A number below `bound`; SplitMix64 (Steele et al., 2014).
    fn below(&mut self, bound: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

fn flip(input: &mut [u8], at: usize, bits: u8) {
    if let Some(byte) = input.get_mut(at) {
        *byte ^= bits;
    }
}
