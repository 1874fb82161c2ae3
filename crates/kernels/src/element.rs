//! Element types of matrices that are not quantized: adapters keep the precision of their file.

use std::ops::Range;

use half::f16;

use crate::simd::{LANES, Simd};

/// How an element is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ElementType {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// Upper half of an IEEE single.
    Bf16,
}

impl ElementType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// Where the elements of a vector come from: `count` of them, `stride` apart from `first` on; the others are zeros.
pub(crate) struct Places {
    pub first: usize,
    pub stride: usize,
    pub count: usize,
}

/// Adapters are packed while a request waits for them, so nothing is computed per element that a vector has in common.
fn collect<const N: usize, T: Copy + Default>(
    encoded: &[[u8; N]],
    vectors: usize,
    source: impl Fn(usize) -> Places,
    decode: impl Fn(&[u8; N]) -> T,
) -> Vec<T> {
    let mut all = Vec::with_capacity(vectors * LANES);
    for vector in 0..vectors {
        let Places { first, stride, count } = source(vector);
        let mut lanes = [T::default(); LANES];
        if count == LANES && stride == 1 {
            let from = &encoded[first..first + LANES];
            lanes.iter_mut().zip(from).for_each(|(lane, at)| *lane = decode(at));
        } else if count > 0 {
            let from = encoded[first..].iter().step_by(stride).take(count);
            lanes.iter_mut().zip(from).for_each(|(lane, at)| *lane = decode(at));
        }
        all.extend_from_slice(&lanes);
    }
    all
}

/// Elements of one type, read as f32.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Elements {
    F32(Vec<f32>),
    F16(Vec<u16>),
    Bf16(Vec<u16>),
}

impl Elements {
    /// `vectors` times sixteen elements, vector `i` taken from the places `source(i)` of little-endian `bytes`.
    pub(crate) fn gather(kind: ElementType, bytes: &[u8], vectors: usize, source: impl Fn(usize) -> Places) -> Self {
        let half = |at: &[u8; 2]| u16::from_le_bytes(*at);
        match kind {
            ElementType::F32 => Self::F32(collect(bytes.as_chunks().0, vectors, source, |at| {
                f32::from_le_bytes(*at)
            })),
            ElementType::F16 => Self::F16(collect(bytes.as_chunks().0, vectors, source, half)),
            ElementType::Bf16 => Self::Bf16(collect(bytes.as_chunks().0, vectors, source, half)),
        }
    }

    /// The same values in 16 bits, where each of them is one that 16 bits hold.
    pub(crate) fn narrowed(self) -> Self {
        let Self::F32(values) = &self else {
            return self;
        };
        let bits = |value: &f32| (f16::from_f32(*value), value.to_bits());
        if values.iter().all(|value| value.to_bits() & 0xFFFF == 0) {
            Self::Bf16(values.iter().map(|value| (value.to_bits() >> 16) as u16).collect())
        } else if values
            .iter()
            .map(bits)
            .all(|(half, bits)| half.to_f32().to_bits() == bits)
        {
            Self::F16(values.iter().map(|value| f16::from_f32(*value).to_bits()).collect())
        } else {
            self
        }
    }

    /// Addresses of elements.
    pub(crate) fn memory(&self, elements: Range<usize>) -> Range<usize> {
        let (start, size) = match self {
            Self::F32(values) => (values.as_ptr().addr(), 4),
            Self::F16(values) | Self::Bf16(values) => (values.as_ptr().addr(), 2),
        };
        start + elements.start * size..start + elements.end * size
    }

    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::F32(values) => values.len() * 4,
            Self::F16(values) | Self::Bf16(values) => values.len() * 2,
        }
    }
}

/// Typed access for the kernels: one monomorphisation per element type.
pub(crate) trait Load: Copy {
    /// Sixteen elements from `at` on.
    ///
    /// # Safety
    /// `at + 16` is at most the number of elements.
    unsafe fn load<S: Simd>(self, s: S, at: usize) -> S::F;
    fn len(self) -> usize;
}

#[derive(Clone, Copy)]
pub(crate) struct LoadF32<'a>(pub &'a [f32]);
#[derive(Clone, Copy)]
pub(crate) struct LoadF16<'a>(pub &'a [u16]);
#[derive(Clone, Copy)]
pub(crate) struct LoadBf16<'a>(pub &'a [u16]);

macro_rules! load {
    ($name:ident, $method:ident) => {
        impl Load for $name<'_> {
            #[inline(always)]
            unsafe fn load<S: Simd>(self, s: S, at: usize) -> S::F {
                debug_assert!(at + LANES <= self.0.len());
                // SAFETY: sixteen elements from `at` on exist, by the caller's promise.
                unsafe { s.$method(self.0.as_ptr().add(at)) }
            }
            #[inline(always)]
            fn len(self) -> usize {
                self.0.len()
            }
        }
    };
}
load!(LoadF32, load);
load!(LoadF16, load_f16);
load!(LoadBf16, load_bf16);

/// Runs `$body` with `$load` bound to the typed view of `$elements`.
macro_rules! with_elements {
    ($elements:expr, $load:ident => $body:expr) => {
        match $elements {
            $crate::element::Elements::F32(values) => {
                let $load = $crate::element::LoadF32(values);
                $body
            }
            $crate::element::Elements::F16(values) => {
                let $load = $crate::element::LoadF16(values);
                $body
            }
            $crate::element::Elements::Bf16(values) => {
                let $load = $crate::element::LoadBf16(values);
                $body
            }
        }
    };
}
pub(crate) use with_elements;
