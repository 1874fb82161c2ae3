//! Encodings bit for bit as gguf's Python package decodes them.

use crate::{BlockFormat, PackedMatrix};

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!("fixtures/", $name, ".bin"))
    };
}

/// Rows and inputs of a fixture: encoded rows, then what they decode to.
const SHAPE: (usize, usize) = (2, 512);

const FIXTURES: [(BlockFormat, &[u8]); 13] = [
    (BlockFormat::Q4_0, fixture!("q4_0")),
    (BlockFormat::Q4_1, fixture!("q4_1")),
    (BlockFormat::Q5_0, fixture!("q5_0")),
    (BlockFormat::Q5_1, fixture!("q5_1")),
    (BlockFormat::Q8_0, fixture!("q8_0")),
    (BlockFormat::Q2_K, fixture!("q2_k")),
    (BlockFormat::Q3_K, fixture!("q3_k")),
    (BlockFormat::Q4_K, fixture!("q4_k")),
    (BlockFormat::Q5_K, fixture!("q5_k")),
    (BlockFormat::Q6_K, fixture!("q6_k")),
    (BlockFormat::F32, fixture!("f32")),
    (BlockFormat::F16, fixture!("f16")),
    (BlockFormat::Bf16, fixture!("bf16")),
];

#[test]
fn every_encoding_decodes_to_the_bits_that_gguf_gives() {
    let (rows, inputs) = SHAPE;
    for (format, bytes) in FIXTURES {
        let (encoded, values) = bytes.split_at(bytes.len() - rows * inputs * 4);
        let size = encoded.len() / rows;
        assert_eq!(size, inputs / format.block_len() * format.block_bytes(), "{format:?}");
        // Both rows again and again, so that every column of two column pairs is used, and the last is not whole.
        let outputs = 39;
        let matrix = PackedMatrix::pack(format, outputs, inputs, |output| {
            &encoded[output % rows * size..][..size]
        });
        let matrix = matrix.unwrap();
        let expected: Vec<u32> = values
            .as_chunks::<4>()
            .0
            .iter()
            .map(|bytes| u32::from_le_bytes(*bytes))
            .collect();
        let mut row = vec![0.0; inputs];
        for output in 0..outputs {
            matrix.dequantize_row(output, &mut row);
            let got: Vec<u32> = row.iter().map(|value| value.to_bits()).collect();
            assert_eq!(
                got,
                expected[output % rows * inputs..][..inputs],
                "{format:?} output {output}"
            );
        }
    }
}

#[test]
fn int4_blocks_are_scale_times_quant_less_zero_point() {
    for (zero, scale) in [(0u8, 0.5f32), (8, -0.125), (15, 3.0), (16, 0.01), (255, 1.0)] {
        let scale = half::f16::from_f32(scale);
        let mut block = scale.to_le_bytes().to_vec();
        block.push(zero);
        block.extend((0..16u8).map(|i| i | (15 - i) << 4));
        let matrix = PackedMatrix::pack(BlockFormat::I4, 1, 32, |_| &block).unwrap();
        let mut row = [0.0; 32];
        matrix.dequantize_row(0, &mut row);
        let quants = (0..16).chain((0..16).rev());
        let expected: Vec<f32> = quants
            .map(|quant| scale.to_f32() * (quant as f32 - f32::from(zero)))
            .collect();
        assert_eq!(row[..], expected, "zero point {zero}");
    }
}

#[test]
fn a_row_is_whole_blocks_of_its_encoding() {
    for (format, _) in FIXTURES {
        let (length, bytes) = (format.block_len().max(32), format.block_bytes());
        let size = length / format.block_len() * bytes;
        let row = vec![0; size + 1];
        assert!(
            PackedMatrix::pack(format, 1, length, |_| &row[..size]).is_ok(),
            "{format:?}"
        );
        assert!(PackedMatrix::pack(format, 1, length, |_| &row).is_err(), "{format:?}");
        assert!(
            PackedMatrix::pack(format, 1, length - 1, |_| &row[..size]).is_err(),
            "{format:?}"
        );
        assert!(PackedMatrix::pack(format, 1, 0, |_| &row[..0]).is_err(), "{format:?}");
    }
}
