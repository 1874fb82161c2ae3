//! AVX-512 with VNNI: one register per vector, four 8-bit products per lane and instruction.

use super::Simd;
use std::arch::x86_64::*;

/// Proof that the CPU has AVX-512 F, BW, DQ, VL and VNNI, and AVX2, F16C and FMA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Avx512(());

impl Avx512 {
    pub(crate) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("f16c")
            && is_x86_feature_detected!("fma"))
        .then_some(Self(()))
    }
}

/// One intrinsic; sound because an [`Avx512`] exists only where the CPU has the instruction, and its pointer, if it
/// takes one, is covered by the trait's contract.
macro_rules! op {
    ($intrinsic:expr) => {
        // SAFETY: an `Avx512` is only made by detection; pointers are the caller's promise.
        unsafe { $intrinsic }
    };
}

impl Avx512 {
    /// Reads 16 i32.
    ///
    /// # Safety
    /// They exist.
    #[inline(always)]
    pub(crate) unsafe fn load_i32(self, from: *const i32) -> __m512i {
        op!(_mm512_loadu_si512(from.cast()))
    }
}

// SAFETY: values exist only after detection; pointer methods touch exactly the elements they name.
unsafe impl Simd for Avx512 {
    type F = __m512;
    type I = __m512i;
    type B = __m512i;
    const TILE_ROWS: usize = 6;
    const TILE_SUMS: usize = 24;

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F {
        op!(_mm512_set1_ps(value))
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::F {
        op!(_mm512_loadu_ps(from))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, value: Self::F) {
        op!(_mm512_storeu_ps(to, value))
    }
    #[inline(always)]
    unsafe fn load_f16(self, from: *const u16) -> Self::F {
        // With the current rounding mode, which does not matter here, the load folds into the conversion.
        op!(_mm512_cvt_roundph_ps::<_MM_FROUND_CUR_DIRECTION>(_mm256_loadu_si256(
            from.cast()
        )))
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u16) -> Self::F {
        op!(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(
            _mm256_loadu_si256(from.cast())
        ))))
    }
    #[inline(always)]
    unsafe fn load_i8(self, from: *const i8) -> Self::F {
        op!(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))))
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut u16, value: Self::F) {
        op!(_mm256_storeu_si256(
            to.cast(),
            _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(value)
        ))
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        op!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        op!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        op!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        op!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        op!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        op!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        op!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn select_less(self, a: Self::F, b: Self::F, less: Self::F, other: Self::F) -> Self::F {
        op!(_mm512_mask_blend_ps(
            _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b),
            other,
            less
        ))
    }
    #[inline(always)]
    fn abs(self, a: Self::F) -> Self::F {
        op!(_mm512_abs_ps(a))
    }
    #[inline(always)]
    fn keep(self, a: Self::F, count: usize, fill: f32) -> Self::F {
        let mask = if count >= 16 { u16::MAX } else { (1u16 << count) - 1 };
        op!(_mm512_mask_blend_ps(mask, _mm512_set1_ps(fill), a))
    }
    #[inline(always)]
    fn sum(self, a: Self::F) -> f32 {
        op!({
            let eight = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
            super::avx2::sum8(eight)
        })
    }
    #[inline(always)]
    fn maximum(self, a: Self::F) -> f32 {
        op!({
            let eight = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
            super::avx2::max8(eight)
        })
    }

    #[inline(always)]
    fn round(self, a: Self::F) -> Self::I {
        op!(_mm512_cvtps_epi32(a))
    }
    #[inline(always)]
    fn to_f32(self, a: Self::I) -> Self::F {
        op!(_mm512_cvtepi32_ps(a))
    }
    #[inline(always)]
    fn exp2i(self, a: Self::I) -> Self::F {
        op!(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_add_epi32(
            a,
            _mm512_set1_epi32(127)
        ))))
    }
    #[inline(always)]
    fn bits_as_f32(self, a: Self::I) -> Self::F {
        op!(_mm512_castsi512_ps(a))
    }
    #[inline(always)]
    fn exp2_of_mantissa(self, a: Self::F) -> Self::F {
        op!(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_castps_si512(a))))
    }
    #[inline(always)]
    fn splat_i32(self, value: i32) -> Self::I {
        op!(_mm512_set1_epi32(value))
    }
    #[inline(always)]
    fn add_i32(self, a: Self::I, b: Self::I) -> Self::I {
        op!(_mm512_add_epi32(a, b))
    }
    #[inline(always)]
    unsafe fn store_i8(self, to: *mut i8, value: Self::I) {
        op!(_mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(value)))
    }

    #[inline(always)]
    unsafe fn load_bytes(self, from: *const u8) -> Self::B {
        op!(_mm512_loadu_si512(from.cast()))
    }
    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut u8, value: Self::B) {
        op!(_mm512_storeu_si512(to.cast(), value))
    }
    #[inline(always)]
    unsafe fn broadcast4(self, from: *const i8) -> Self::B {
        op!(_mm512_set1_epi32(from.cast::<i32>().read_unaligned()))
    }
    #[inline(always)]
    fn low_nibbles(self, a: Self::B) -> Self::B {
        op!(_mm512_and_si512(a, _mm512_set1_epi8(15)))
    }
    #[inline(always)]
    fn high_nibbles(self, a: Self::B) -> Self::B {
        op!(_mm512_and_si512(_mm512_srli_epi16::<4>(a), _mm512_set1_epi8(15)))
    }
    #[inline(always)]
    fn lookup(self, table: Self::F, lanes: Self::B, shift: u32) -> Self::F {
        // The permutation looks at the low four bits of an index alone.
        op!(_mm512_permutexvar_ps(
            _mm512_srl_epi32(lanes, _mm_cvtsi32_si128(shift as i32)),
            table
        ))
    }
    #[inline(always)]
    fn twice_low_half(self, a: Self::I) -> Self::I {
        op!(_mm512_or_si512(
            _mm512_and_si512(a, _mm512_set1_epi32(0xFFFF)),
            _mm512_slli_epi32::<16>(a)
        ))
    }
    #[inline(always)]
    fn affine(self, bytes: Self::B, factor: Self::I, addend: Self::I) -> Self::B {
        op!({
            let even = _mm512_and_si512(bytes, _mm512_set1_epi16(0xFF));
            let odd = _mm512_srli_epi16::<8>(bytes);
            let even = _mm512_add_epi16(_mm512_mullo_epi16(even, factor), addend);
            let odd = _mm512_add_epi16(_mm512_mullo_epi16(odd, factor), addend);
            // Bits of the third operand where the second has ones, else of the first.
            let upper = _mm512_set1_epi16(-256);
            _mm512_ternarylogic_epi32::<0b1011_1000>(_mm512_srli_epi16::<8>(even), upper, odd)
        })
    }
    #[inline(always)]
    fn dot_u7(self, acc: Self::I, weights: Self::B, inputs: Self::B) -> Self::I {
        op!(_mm512_dpbusd_epi32(acc, weights, inputs))
    }
    #[inline(always)]
    fn dot_u8_start(self, input_sum: i32) -> i32 {
        -128 * input_sum
    }
    #[inline(always)]
    fn dot_u8(self, acc: Self::I, weights: Self::B, inputs: Self::B) -> Self::I {
        op!(_mm512_dpbusd_epi32(acc, weights, inputs))
    }
}
