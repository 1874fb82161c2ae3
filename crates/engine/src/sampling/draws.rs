//! Random numbers by counter: what a step draws depends on the seed and the number of the step alone, so a sequence
//! that was preempted and recomputed draws as if nothing had happened.

/// SplitMix64 (Steele, Lea & Flood, 2014) started at a hash of seed and step.
pub(crate) struct Draws {
    state: u64,
}

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Draws {
    /// The draws of one step. Neighbouring seeds and steps are unrelated.
    pub(crate) fn new(seed: u64, step: u64) -> Self {
        let seeded = mix(seed.wrapping_add(GAMMA));
        Self {
            state: mix(seeded ^ step.wrapping_mul(GAMMA)),
        }
    }

    /// 64 uniform bits.
    pub(crate) fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GAMMA);
        mix(self.state)
    }

    /// Uniform in [0, 1).
    pub(crate) fn next_unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}
