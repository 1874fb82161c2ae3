//! Random numbers that are the same on every machine: SplitMix64 (Steele, Lea & Flood, 2014), by its place in a stream or one
//! after another.

/// Increment of the generator's state.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// 64 bits that depend on every bit of `state`.
pub(crate) fn mixed(state: u64) -> u64 {
    let z = state.wrapping_add(STEP);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A number in 0..1 of 53 bits.
pub(crate) fn uniform(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// The stream of numbers in 0..1 that begins at a state.
pub(crate) fn uniforms(mut state: u64) -> impl FnMut() -> f64 {
    move || {
        let drawn = uniform(mixed(state));
        state = state.wrapping_add(STEP);
        drawn
    }
}
