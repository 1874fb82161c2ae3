//! The primitives in plain Rust: the reference for the others, and the path for CPUs without them.

use super::{LANES, Simd};
use half::{bf16, f16};

/// Available everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scalar;

#[inline(always)]
fn map(a: [f32; LANES], f: impl Fn(f32) -> f32) -> [f32; LANES] {
    a.map(f)
}

#[inline(always)]
fn zip(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

#[inline(always)]
fn fold(mut a: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            a[i] = f(a[i], a[i + half]);
        }
    }
    a[0]
}

#[inline(always)]
fn dot4(acc: [i32; LANES], weights: [u8; 64], inputs: [u8; 64], zero: i32) -> [i32; LANES] {
    std::array::from_fn(|lane| {
        (0..4).fold(acc[lane], |sum, t| {
            sum + (i32::from(weights[lane * 4 + t]) - zero) * i32::from(inputs[lane * 4 + t] as i8)
        })
    })
}

// SAFETY: plain Rust, available on every CPU; pointer methods touch exactly the elements they name.
unsafe impl Simd for Scalar {
    type F = [f32; LANES];
    type I = [i32; LANES];
    type B = [u8; 64];
    const TILE_ROWS: usize = 4;
    const TILE_SUMS: usize = 6;

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F {
        [value; LANES]
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::F {
        // SAFETY: the caller gives 16 readable elements.
        unsafe { from.cast::<[f32; LANES]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, value: Self::F) {
        // SAFETY: the caller gives 16 writable elements.
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(value) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, from: *const u16) -> Self::F {
        // SAFETY: the caller gives 16 readable elements.
        unsafe { from.cast::<[u16; LANES]>().read_unaligned() }.map(|bits| f16::from_bits(bits).to_f32())
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u16) -> Self::F {
        // SAFETY: the caller gives 16 readable elements.
        unsafe { from.cast::<[u16; LANES]>().read_unaligned() }.map(|bits| bf16::from_bits(bits).to_f32())
    }
    #[inline(always)]
    unsafe fn load_i8(self, from: *const i8) -> Self::F {
        // SAFETY: the caller gives 16 readable elements.
        unsafe { from.cast::<[i8; LANES]>().read_unaligned() }.map(f32::from)
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut u16, value: Self::F) {
        let bits = value.map(|v| f16::from_f32(v).to_bits());
        // SAFETY: the caller gives 16 writable elements.
        unsafe { to.cast::<[u16; LANES]>().write_unaligned(bits) }
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |x, y| x + y)
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |x, y| x - y)
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |x, y| x * y)
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |x, y| x / y)
    }
    #[inline(always)]
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        // The order of x86's MAXPS: the second operand where either is NaN or both are zero.
        zip(a, b, |x, y| if x > y { x } else { y })
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |x, y| if x < y { x } else { y })
    }
    #[inline(always)]
    fn select_less(self, a: Self::F, b: Self::F, less: Self::F, other: Self::F) -> Self::F {
        std::array::from_fn(|i| if a[i] < b[i] { less[i] } else { other[i] })
    }
    #[inline(always)]
    fn abs(self, a: Self::F) -> Self::F {
        map(a, f32::abs)
    }
    #[inline(always)]
    fn keep(self, a: Self::F, count: usize, fill: f32) -> Self::F {
        std::array::from_fn(|i| if i < count { a[i] } else { fill })
    }
    #[inline(always)]
    fn sum(self, a: Self::F) -> f32 {
        fold(a, |x, y| x + y)
    }
    #[inline(always)]
    fn maximum(self, a: Self::F) -> f32 {
        fold(a, |x, y| if x > y { x } else { y })
    }

    #[inline(always)]
    fn round(self, a: Self::F) -> Self::I {
        a.map(|v| {
            let nearest = v.round_ties_even();
            // 2^31 is the first f32 beyond i32; a NaN fails the comparison.
            if nearest.abs() < 2_147_483_648.0 {
                nearest as i32
            } else {
                i32::MIN
            }
        })
    }
    #[inline(always)]
    fn to_f32(self, a: Self::I) -> Self::F {
        a.map(|v| v as f32)
    }
    #[inline(always)]
    fn exp2i(self, a: Self::I) -> Self::F {
        a.map(|v| f32::from_bits((v.wrapping_add(127) as u32) << 23))
    }
    #[inline(always)]
    fn bits_as_f32(self, a: Self::I) -> Self::F {
        a.map(|lane| f32::from_bits(lane as u32))
    }
    #[inline(always)]
    fn exp2_of_mantissa(self, a: Self::F) -> Self::F {
        a.map(|v| f32::from_bits(v.to_bits() << 23))
    }
    #[inline(always)]
    fn splat_i32(self, value: i32) -> Self::I {
        [value; LANES]
    }
    #[inline(always)]
    fn add_i32(self, a: Self::I, b: Self::I) -> Self::I {
        std::array::from_fn(|i| a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    unsafe fn store_i8(self, to: *mut i8, value: Self::I) {
        // SAFETY: the caller gives 16 writable bytes.
        unsafe { to.cast::<[i8; LANES]>().write_unaligned(value.map(|v| v as i8)) }
    }

    #[inline(always)]
    unsafe fn load_bytes(self, from: *const u8) -> Self::B {
        // SAFETY: the caller gives 64 readable bytes.
        unsafe { from.cast::<[u8; 64]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut u8, value: Self::B) {
        // SAFETY: the caller gives 64 writable bytes.
        unsafe { to.cast::<[u8; 64]>().write_unaligned(value) }
    }
    #[inline(always)]
    unsafe fn broadcast4(self, from: *const i8) -> Self::B {
        // SAFETY: the caller gives 4 readable bytes.
        let four = unsafe { from.cast::<[u8; 4]>().read_unaligned() };
        std::array::from_fn(|i| four[i % 4])
    }
    #[inline(always)]
    fn low_nibbles(self, a: Self::B) -> Self::B {
        a.map(|byte| byte & 15)
    }
    #[inline(always)]
    fn high_nibbles(self, a: Self::B) -> Self::B {
        a.map(|byte| byte >> 4)
    }
    #[inline(always)]
    fn lookup(self, table: Self::F, lanes: Self::B, shift: u32) -> Self::F {
        std::array::from_fn(|i| {
            let lane = u32::from_le_bytes([lanes[i * 4], lanes[i * 4 + 1], lanes[i * 4 + 2], lanes[i * 4 + 3]]);
            table[(lane >> shift & 15) as usize]
        })
    }
    #[inline(always)]
    fn twice_low_half(self, a: Self::I) -> Self::I {
        a.map(|lane| lane & 0xFFFF | lane << 16)
    }
    #[inline(always)]
    fn affine(self, bytes: Self::B, factor: Self::I, addend: Self::I) -> Self::B {
        std::array::from_fn(|i| {
            let (factor, addend) = (factor[i / 4] as u16, addend[i / 4] as u16);
            (u16::from(bytes[i]).wrapping_mul(factor).wrapping_add(addend) >> 8) as u8
        })
    }
    #[inline(always)]
    fn dot_u7(self, acc: Self::I, weights: Self::B, inputs: Self::B) -> Self::I {
        dot4(acc, weights, inputs, 0)
    }
    #[inline(always)]
    fn dot_u8_start(self, _input_sum: i32) -> i32 {
        0
    }
    #[inline(always)]
    fn dot_u8(self, acc: Self::I, weights: Self::B, inputs: Self::B) -> Self::I {
        dot4(acc, weights, inputs, 128)
    }
}
