//! AVX2 with FMA and F16C: two registers per vector.

use super::Simd;
use std::arch::x86_64::*;

/// Proof that the CPU has AVX2, FMA and F16C.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Avx2(());

impl Avx2 {
    pub(crate) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c"))
            .then_some(Self(()))
    }
}

/// See `avx512::op`.
macro_rules! op {
    ($intrinsic:expr) => {
        // SAFETY: the CPU has the instructions: an `Avx2` is only made by detection, and functions without one make it
        // the caller's promise, as pointers are.
        unsafe { $intrinsic }
    };
}

/// Applies an intrinsic to both halves.
macro_rules! both {
    ($f:ident, $a:expr) => {
        op!([$f($a[0]), $f($a[1])])
    };
    ($f:ident, $a:expr, $b:expr) => {
        op!([$f($a[0], $b[0]), $f($a[1], $b[1])])
    };
}

/// Sum of eight lanes: (i, i + 4), then 2, 1.
///
/// # Safety
/// The CPU has AVX.
#[inline(always)]
pub(super) unsafe fn sum8(a: __m256) -> f32 {
    op!({
        let four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
    })
}

/// Largest of eight lanes.
///
/// # Safety
/// The CPU has AVX.
#[inline(always)]
pub(super) unsafe fn max8(a: __m256) -> f32 {
    op!({
        let four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
        let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
    })
}

/// Four products per lane of unsigned `weights` with signed `inputs`, added to `acc`; pairs must fit i16.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn dot_pairs(acc: __m256i, weights: __m256i, inputs: __m256i) -> __m256i {
    op!(_mm256_add_epi32(
        acc,
        _mm256_madd_epi16(_mm256_maddubs_epi16(weights, inputs), _mm256_set1_epi16(1))
    ))
}

/// As `dot_pairs` for weights stored as value + 128: the sign moves to the inputs, so that pairs fit i16.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn dot_signed(acc: __m256i, weights: __m256i, inputs: __m256i) -> __m256i {
    op!({
        let value = _mm256_xor_si256(weights, _mm256_set1_epi8(-128));
        dot_pairs(acc, _mm256_abs_epi8(value), _mm256_sign_epi8(inputs, value))
    })
}

/// [`Simd::affine`] of half a vector.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn affine_half(bytes: __m256i, factor: __m256i, addend: __m256i) -> __m256i {
    op!({
        let even = _mm256_and_si256(bytes, _mm256_set1_epi16(0xFF));
        let odd = _mm256_srli_epi16::<8>(bytes);
        let even = _mm256_add_epi16(_mm256_mullo_epi16(even, factor), addend);
        let odd = _mm256_add_epi16(_mm256_mullo_epi16(odd, factor), addend);
        let upper = _mm256_and_si256(odd, _mm256_set1_epi16(-256));
        _mm256_or_si256(_mm256_srli_epi16::<8>(even), upper)
    })
}

/// [`Simd::lookup`] of half a vector of indices, in their low four bits: the permutations look at three of them, and the fourth
/// chooses between the halves of the table.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn lookup_half(table: [__m256; 2], index: __m256i) -> __m256 {
    op!({
        let [low, high] = table.map(|half| _mm256_permutevar8x32_ps(half, index));
        _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32::<28>(index)))
    })
}

// SAFETY: values exist only after detection; pointer methods touch exactly the elements they name.
unsafe impl Simd for Avx2 {
    type F = [__m256; 2];
    type I = [__m256i; 2];
    type B = [__m256i; 2];
    const TILE_ROWS: usize = 2;
    const TILE_SUMS: usize = 6;

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F {
        [op!(_mm256_set1_ps(value)); 2]
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::F {
        op!([_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))])
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, value: Self::F) {
        op!({
            _mm256_storeu_ps(to, value[0]);
            _mm256_storeu_ps(to.add(8), value[1]);
        })
    }
    #[inline(always)]
    unsafe fn load_f16(self, from: *const u16) -> Self::F {
        op!([
            _mm256_cvtph_ps(_mm_loadu_si128(from.cast())),
            _mm256_cvtph_ps(_mm_loadu_si128(from.add(8).cast())),
        ])
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u16) -> Self::F {
        op!([from, from.add(8)].map(|p| {
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(
                p.cast(),
            ))))
        }))
    }
    #[inline(always)]
    unsafe fn load_i8(self, from: *const i8) -> Self::F {
        op!([from, from.add(8)].map(|p| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast())))))
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut u16, value: Self::F) {
        op!({
            _mm_storeu_si128(to.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(value[0]));
            _mm_storeu_si128(to.add(8).cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(value[1]));
        })
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_add_ps, a, b)
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_sub_ps, a, b)
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_mul_ps, a, b)
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_div_ps, a, b)
    }
    #[inline(always)]
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        op!([_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])])
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_max_ps, a, b)
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_min_ps, a, b)
    }
    #[inline(always)]
    fn select_less(self, a: Self::F, b: Self::F, less: Self::F, other: Self::F) -> Self::F {
        op!([0, 1].map(|half| {
            let below = _mm256_cmp_ps::<_CMP_LT_OQ>(a[half], b[half]);
            _mm256_blendv_ps(other[half], less[half], below)
        }))
    }
    #[inline(always)]
    fn abs(self, a: Self::F) -> Self::F {
        op!(a.map(|half| _mm256_andnot_ps(_mm256_set1_ps(-0.0), half)))
    }
    #[inline(always)]
    fn keep(self, a: Self::F, count: usize, fill: f32) -> Self::F {
        op!({
            let index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            [(a[0], count as i32), (a[1], count as i32 - 8)].map(|(half, count)| {
                let kept = _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(count), index));
                _mm256_blendv_ps(_mm256_set1_ps(fill), half, kept)
            })
        })
    }
    #[inline(always)]
    fn sum(self, a: Self::F) -> f32 {
        op!(sum8(_mm256_add_ps(a[0], a[1])))
    }
    #[inline(always)]
    fn maximum(self, a: Self::F) -> f32 {
        op!(max8(_mm256_max_ps(a[0], a[1])))
    }

    #[inline(always)]
    fn round(self, a: Self::F) -> Self::I {
        both!(_mm256_cvtps_epi32, a)
    }
    #[inline(always)]
    fn to_f32(self, a: Self::I) -> Self::F {
        both!(_mm256_cvtepi32_ps, a)
    }
    #[inline(always)]
    fn exp2i(self, a: Self::I) -> Self::F {
        op!(a.map(|half| {
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(half, _mm256_set1_epi32(127))))
        }))
    }
    #[inline(always)]
    fn bits_as_f32(self, a: Self::I) -> Self::F {
        op!([_mm256_castsi256_ps(a[0]), _mm256_castsi256_ps(a[1])])
    }
    #[inline(always)]
    fn exp2_of_mantissa(self, a: Self::F) -> Self::F {
        op!(a.map(|half| _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_castps_si256(half)))))
    }
    #[inline(always)]
    fn splat_i32(self, value: i32) -> Self::I {
        [op!(_mm256_set1_epi32(value)); 2]
    }
    #[inline(always)]
    fn add_i32(self, a: Self::I, b: Self::I) -> Self::I {
        both!(_mm256_add_epi32, a, b)
    }
    #[inline(always)]
    unsafe fn store_i8(self, to: *mut i8, value: Self::I) {
        op!({
            // Packing works within 128-bit halves; the permutation puts the four groups back in order.
            let words = _mm256_packs_epi32(value[0], value[1]);
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(to.cast(), bytes);
        })
    }

    #[inline(always)]
    unsafe fn load_bytes(self, from: *const u8) -> Self::B {
        op!([_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())])
    }
    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut u8, value: Self::B) {
        op!({
            _mm256_storeu_si256(to.cast(), value[0]);
            _mm256_storeu_si256(to.add(32).cast(), value[1]);
        })
    }
    #[inline(always)]
    unsafe fn broadcast4(self, from: *const i8) -> Self::B {
        [op!(_mm256_set1_epi32(from.cast::<i32>().read_unaligned())); 2]
    }
    #[inline(always)]
    fn low_nibbles(self, a: Self::B) -> Self::B {
        op!(a.map(|half| _mm256_and_si256(half, _mm256_set1_epi8(15))))
    }
    #[inline(always)]
    fn high_nibbles(self, a: Self::B) -> Self::B {
        op!(a.map(|half| _mm256_and_si256(_mm256_srli_epi16::<4>(half), _mm256_set1_epi8(15))))
    }
    #[inline(always)]
    fn lookup(self, table: Self::F, lanes: Self::B, shift: u32) -> Self::F {
        op!({
            let shift = _mm_cvtsi32_si128(shift as i32);
            lanes.map(|half| lookup_half(table, _mm256_srl_epi32(half, shift)))
        })
    }
    #[inline(always)]
    fn twice_low_half(self, a: Self::I) -> Self::I {
        op!(a.map(|half| _mm256_or_si256(
            _mm256_and_si256(half, _mm256_set1_epi32(0xFFFF)),
            _mm256_slli_epi32::<16>(half)
        )))
    }
    #[inline(always)]
    fn affine(self, bytes: Self::B, factor: Self::I, addend: Self::I) -> Self::B {
        op!([
            affine_half(bytes[0], factor[0], addend[0]),
            affine_half(bytes[1], factor[1], addend[1]),
        ])
    }
    #[inline(always)]
    fn dot_u7(self, acc: Self::I, weights: Self::B, inputs: Self::B) -> Self::I {
        op!([
            dot_pairs(acc[0], weights[0], inputs[0]),
            dot_pairs(acc[1], weights[1], inputs[1]),
        ])
    }
    #[inline(always)]
    fn dot_u8_start(self, _input_sum: i32) -> i32 {
        0
    }
    #[inline(always)]
    fn dot_u8(self, acc: Self::I, weights: Self::B, inputs: Self::B) -> Self::I {
        op!([
            dot_signed(acc[0], weights[0], inputs[0]),
            dot_signed(acc[1], weights[1], inputs[1]),
        ])
    }
}
