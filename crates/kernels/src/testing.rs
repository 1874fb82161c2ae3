//! Random operands and plain references for the tests of this crate.

use half::f16;

use crate::{BLOCK, BlockFormat, Context, ElementType, Isa, PackedMatrix, ThreadPool};

/// A small generator (SplitMix64), so that tests repeat.
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// In -1..1.
    pub(crate) fn number(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub(crate) fn numbers(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.number()).collect()
    }

    /// A random matrix in an encoding: packed, and its weights as f32 by the encoding's definition.
    pub(crate) fn matrix(&mut self, format: BlockFormat, outputs: usize, inputs: usize) -> (PackedMatrix, Vec<f32>) {
        let mut rows = Vec::new();
        let mut weights = Vec::new();
        for _ in 0..outputs {
            let mut row = Vec::new();
            for _ in 0..inputs / BLOCK {
                self.block(format, &mut row, &mut weights);
            }
            rows.push(row);
        }
        (
            PackedMatrix::pack(format, outputs, inputs, |row| &rows[row]).unwrap(),
            weights,
        )
    }

    fn block(&mut self, format: BlockFormat, row: &mut Vec<u8>, weights: &mut Vec<f32>) {
        let scale = f16::from_f32(self.number() * 0.1);
        let minimum = f16::from_f32(self.number() * 0.1);
        row.extend(scale.to_le_bytes());
        if format == BlockFormat::Q4_1 {
            row.extend(minimum.to_le_bytes());
        }
        let bytes: Vec<u8> = (0..if format == BlockFormat::Q8_0 { 32 } else { 16 })
            .map(|_| self.bits() as u8)
            .collect();
        for input in 0..BLOCK {
            let nibble = f32::from((bytes[input % bytes.len()] >> (4 * (input / 16))) & 15);
            weights.push(match format {
                BlockFormat::Q4_0 => scale.to_f32() * (nibble - 8.0),
                BlockFormat::Q4_1 => scale.to_f32() * nibble + minimum.to_f32(),
                _ => scale.to_f32() * f32::from(bytes[input] as i8),
            });
        }
        row.extend(bytes);
    }
}

/// Little-endian elements.
pub(crate) fn encode(kind: ElementType, values: &[f32]) -> Vec<u8> {
    let each = |value: &f32| match kind {
        ElementType::F32 => value.to_le_bytes().to_vec(),
        ElementType::F16 => f16::from_f32(*value).to_le_bytes().to_vec(),
        ElementType::Bf16 => half::bf16::from_f32(*value).to_le_bytes().to_vec(),
    };
    values.iter().flat_map(each).collect()
}

/// A context for every instruction set of this machine, with 1 and 3 threads.
pub(crate) fn contexts() -> Vec<Context> {
    let all = Isa::available().into_iter();
    all.flat_map(|isa| {
        [1, 3].map(|threads| Context {
            pool: ThreadPool::new(threads).unwrap(),
            isa,
        })
    })
    .collect()
}

/// `x W^T` in f64.
pub(crate) fn product(x: &[f32], weights: &[f32], rows: usize, inputs: usize, outputs: usize) -> Vec<f64> {
    let mut out = Vec::with_capacity(rows * outputs);
    for x in x.chunks_exact(inputs).take(rows) {
        for weights in weights.chunks_exact(inputs).take(outputs) {
            out.push(x.iter().zip(weights).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum());
        }
    }
    out
}

pub(crate) fn assert_close(got: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), expected.len());
    let size = (expected.iter().map(|v| v * v).sum::<f64>() / expected.len() as f64)
        .sqrt()
        .max(1e-6);
    for (index, (got, expected)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(*got) - expected).abs() / size;
        assert!(
            error <= tolerance,
            "{what}: element {index} is {got}, expected {expected} ({error:e} of the rms)"
        );
    }
}
