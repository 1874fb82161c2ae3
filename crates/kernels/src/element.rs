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

/// Elements of one type, read as f32.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Elements {
    F32(Vec<f32>),
    F16(Vec<u16>),
    Bf16(Vec<u16>),
}

impl Elements {
    /// `len` elements, element `i` taken from place `source(i)` of little-endian `bytes`; zero where there is none.
    pub(crate) fn gather(kind: ElementType, bytes: &[u8], len: usize, source: impl Fn(usize) -> Option<usize>) -> Self {
        let half = |i: usize| source(i).map_or(0, |at| u16::from_le_bytes([bytes[at * 2], bytes[at * 2 + 1]]));
        let single = |i: usize| {
            source(i).map_or(0.0, |at| {
                f32::from_le_bytes([bytes[at * 4], bytes[at * 4 + 1], bytes[at * 4 + 2], bytes[at * 4 + 3]])
            })
        };
        match kind {
            ElementType::F32 => Self::F32((0..len).map(single).collect()),
            ElementType::F16 => Self::F16((0..len).map(half).collect()),
            ElementType::Bf16 => Self::Bf16((0..len).map(half).collect()),
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
