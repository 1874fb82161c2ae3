//! Random operands and plain references for the tests of this crate.

use half::f16;

use crate::{BlockFormat, Context, ElementType, Isa, Nf4Weights, PackedMatrix, ThreadPool, encode_nf4};

/// Every encoding.
pub(crate) const FORMATS: [BlockFormat; 14] = [
    BlockFormat::Q4_0,
    BlockFormat::Q4_1,
    BlockFormat::Q5_0,
    BlockFormat::Q5_1,
    BlockFormat::Q8_0,
    BlockFormat::Q2_K,
    BlockFormat::Q3_K,
    BlockFormat::Q4_K,
    BlockFormat::Q5_K,
    BlockFormat::Q6_K,
    BlockFormat::I4,
    BlockFormat::F32,
    BlockFormat::F16,
    BlockFormat::Bf16,
];

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

    /// A random matrix in an encoding: packed, and its weights as f32.
    pub(crate) fn matrix(&mut self, format: BlockFormat, outputs: usize, inputs: usize) -> (PackedMatrix, Vec<f32>) {
        let rows: Vec<Vec<u8>> = (0..outputs).map(|_| self.row(format, inputs)).collect();
        with_weights(PackedMatrix::pack(format, outputs, inputs, |row| &rows[row]).unwrap())
    }

    /// The same in NF4.
    pub(crate) fn nf4(&mut self, outputs: usize, inputs: usize) -> (PackedMatrix, Vec<f32>) {
        let mut weights = Nf4Weights::default();
        encode_nf4(&self.numbers(outputs * inputs), &mut weights).unwrap();
        with_weights(PackedMatrix::pack_nf4(outputs, inputs, &[weights]).unwrap())
    }

    /// A row of random encoded blocks, whose weights stay within a few units.
    fn row(&mut self, format: BlockFormat, inputs: usize) -> Vec<u8> {
        let mut row = Vec::new();
        for _ in 0..inputs / format.block_len() {
            // Scales of groups multiply those of super-blocks up to a hundredfold.
            let size = if format.block_len() == 256 { 0.003 } else { 0.1 };
            let [scale, minimum] = [(); 2].map(|()| f16::from_f32(self.number() * size).to_le_bytes());
            let fields: &[(usize, [u8; 2])] = match format {
                BlockFormat::F32 => {
                    row.extend(self.number().to_le_bytes());
                    continue;
                }
                BlockFormat::F16 => &[(0, scale)],
                BlockFormat::Bf16 => &[(0, half::bf16::from_f32(self.number()).to_le_bytes())],
                BlockFormat::Q4_0 | BlockFormat::Q5_0 | BlockFormat::Q8_0 | BlockFormat::I4 => &[(0, scale)],
                BlockFormat::Q4_1 | BlockFormat::Q5_1 | BlockFormat::Q4_K | BlockFormat::Q5_K => {
                    &[(0, scale), (2, minimum)]
                }
                BlockFormat::Q2_K => &[(80, scale), (82, minimum)],
                BlockFormat::Q3_K => &[(108, scale)],
                BlockFormat::Q6_K => &[(208, scale)],
            };
            let start = row.len();
            // Bytes before the first that is drawn are all fields.
            let drawn = fields.len() * 2 * usize::from(fields[0].0 == 0);
            row.resize(start + drawn, 0);
            row.extend((drawn..format.block_bytes()).map(|_| self.bits() as u8));
            for (at, bytes) in fields {
                row[start + at..start + at + 2].copy_from_slice(bytes);
            }
        }
        row
    }
}

/// A matrix and its weights as f32.
fn with_weights(matrix: PackedMatrix) -> (PackedMatrix, Vec<f32>) {
    let (outputs, inputs) = (matrix.outputs(), matrix.inputs());
    let mut weights = vec![0.0; outputs * inputs];
    for (output, to) in weights.chunks_exact_mut(inputs).enumerate() {
        matrix.dequantize_row(output, to);
    }
    (matrix, weights)
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
