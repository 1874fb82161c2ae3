//! The vector instructions that kernels are written over: sixteen lanes, whatever the machine's own width.
//!
//! Every algorithm of this crate is written once, generic over [`Simd`]; the files beside this one hold only the
//! primitives of an instruction set. All sets give the same bits: floating point is IEEE with fused multiply-adds in
//! every implementation, reductions follow one tree, integer products are exact.

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
pub(crate) mod scalar;

/// Lanes of a vector.
pub const LANES: usize = 16;

/// Sixteen-lane primitives.
///
/// # Safety
/// Values of implementing types exist only on CPUs that have the instructions. The methods must be inlined into a
/// function compiled for that instruction set (see [`crate::Isa::run`]); the pointer methods read or write exactly the
/// number of elements they name.
pub(crate) unsafe trait Simd: Copy {
    /// Sixteen f32.
    type F: Copy;
    /// Sixteen i32.
    type I: Copy;
    /// Sixty-four bytes: four consecutive inputs of each of sixteen columns.
    type B: Copy;

    /// Rows of a register tile of the integer GEMM that do not spill.
    const TILE_ROWS: usize;
    /// Sums of a register tile of float products that do not spill.
    const TILE_SUMS: usize;

    fn splat(self, value: f32) -> Self::F;
    /// Reads 16 f32.
    unsafe fn load(self, from: *const f32) -> Self::F;
    /// Writes 16 f32.
    unsafe fn store(self, to: *mut f32, value: Self::F);
    /// Reads 16 IEEE halves.
    unsafe fn load_f16(self, from: *const u16) -> Self::F;
    /// Reads 16 bfloat16.
    unsafe fn load_bf16(self, from: *const u16) -> Self::F;
    /// Reads 16 i8.
    unsafe fn load_i8(self, from: *const i8) -> Self::F;
    /// Writes 16 IEEE halves, rounded to nearest even.
    unsafe fn store_f16(self, to: *mut u16, value: Self::F);

    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c` with one rounding.
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The larger lanes; `b` where either is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// The smaller lanes; `b` where either is NaN.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// Lanes of `less` where `a < b`, of `other` where not (beside a NaN, too).
    fn select_less(self, a: Self::F, b: Self::F, less: Self::F, other: Self::F) -> Self::F;
    fn abs(self, a: Self::F) -> Self::F;
    /// The first `count` lanes of `a`, `fill` in the others.
    fn keep(self, a: Self::F, count: usize, fill: f32) -> Self::F;
    /// Sum of all lanes, halves folded onto each other: (i, i + 8), then 4, 2, 1.
    fn sum(self, a: Self::F) -> f32;
    /// Largest lane; of no meaning beside a NaN.
    fn maximum(self, a: Self::F) -> f32;

    /// Nearest integers, ties to even; `i32::MIN` where there is none (NaN, infinities, beyond i32).
    fn round(self, a: Self::F) -> Self::I;
    fn to_f32(self, a: Self::I) -> Self::F;
    /// `2^a` for a in -126..=127.
    fn exp2i(self, a: Self::I) -> Self::F;
    /// The same bits.
    fn bits_as_f32(self, a: Self::I) -> Self::F;
    /// `2^(k - 127)` where the mantissas of `a` end in the eight bits of k, which is not 0 or 255.
    fn exp2_of_mantissa(self, a: Self::F) -> Self::F;
    fn splat_i32(self, value: i32) -> Self::I;
    fn add_i32(self, a: Self::I, b: Self::I) -> Self::I;
    /// Writes each lane as i8; of no meaning for a lane beyond it.
    unsafe fn store_i8(self, to: *mut i8, value: Self::I);

    /// Reads 64 bytes.
    unsafe fn load_bytes(self, from: *const u8) -> Self::B;
    /// Writes 64 bytes.
    unsafe fn store_bytes(self, to: *mut u8, value: Self::B);
    /// Four bytes repeated in every lane.
    unsafe fn broadcast4(self, from: *const i8) -> Self::B;
    fn low_nibbles(self, a: Self::B) -> Self::B;
    fn high_nibbles(self, a: Self::B) -> Self::B;
    /// Entries of a table of sixteen: in lane i, that which bits `shift..shift + 4` of its four bytes (little endian) say.
    fn lookup(self, table: Self::F, lanes: Self::B, shift: u32) -> Self::F;
    /// The low 16 bits of each lane in both of its halves.
    fn twice_low_half(self, a: Self::I) -> Self::I;
    /// `(byte * factor + addend) >> 8` of each unsigned byte, modulo 2^16; factors and addends as [`Self::twice_low_half`]
    /// gives them, one for the four bytes of a lane.
    fn affine(self, bytes: Self::B, factor: Self::I, addend: Self::I) -> Self::B;
    /// `acc + sum of four products` per lane; `weights` are 0..=127, `inputs` signed.
    fn dot_u7(self, acc: Self::I, weights: Self::B, inputs: Self::B) -> Self::I;
    /// Start of a chain of [`Self::dot_u8`], given the sum of the block's inputs.
    fn dot_u8_start(self, input_sum: i32) -> i32;
    /// As `dot_u7` for weights stored as value + 128; with [`Self::dot_u8_start`] the chain ends at the product with the value.
    fn dot_u8(self, acc: Self::I, weights: Self::B, inputs: Self::B) -> Self::I;
}

/// Caches that a line can be asked into.
#[derive(Clone, Copy)]
pub(crate) enum CacheLevel {
    First,
    Second,
}

/// Asks for the cache line of any address; nothing where the machine has no such hint.
#[inline(always)]
pub(crate) fn prefetch<T>(at: *const T, into: CacheLevel) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has the instruction; it is a hint that reads nothing and faults on no address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
        match into {
            CacheLevel::First => _mm_prefetch::<_MM_HINT_T0>(at.cast()),
            CacheLevel::Second => _mm_prefetch::<_MM_HINT_T1>(at.cast()),
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (at, into);
}

/// `e^x`, relative error below 3e-7, for x clamped to -87..=88: never a denormal, never infinite. NaN stays NaN.
///
/// Cody-Waite reduction by ln 2, then a polynomial of degree 6 (coefficients of the Taylor series, enough on ±ln2/2).
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    // `x` is the second operand of both, which is what a maximum with NaN gives.
    let clamped = s.max(s.splat(-87.0), x);
    let clamped = s.sub(s.splat(0.0), s.max(s.splat(-88.0), s.sub(s.splat(0.0), clamped)));
    let n = s.round(s.mul(clamped, s.splat(std::f32::consts::LOG2_E)));
    let nf = s.to_f32(n);
    let r = s.mul_add(nf, s.splat(-0.693_359_4), clamped);
    let r = s.mul_add(nf, s.splat(2.121_944_4e-4), r);
    let mut p = s.splat(1.0 / 720.0);
    for coefficient in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = s.mul_add(p, r, s.splat(coefficient));
    }
    s.mul(p, s.exp2i(n))
}
