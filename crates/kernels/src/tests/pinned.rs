//! Bits that must not change: served outputs are promised to be the same from one version to the next.

use super::linear::{Rounding, run};
use crate::BlockFormat;
use crate::testing::{Random, contexts};

/// FNV-1a of the bits.
fn digest(values: &[f32]) -> u64 {
    let bytes = values.iter().flat_map(|value| value.to_bits().to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Per format the digests of products on activations rounded finely, coarsely, and on f32.
const DIGESTS: [(BlockFormat, u64, u64, u64); 3] = [
    (
        BlockFormat::Q4_0,
        15_090_027_634_282_858_256,
        40_345_685_994_720_386,
        7_958_365_254_088_106_381,
    ),
    (
        BlockFormat::Q4_1,
        12_874_946_168_512_943_346,
        11_891_029_675_432_781_053,
        17_954_683_971_066_740_587,
    ),
    (
        BlockFormat::Q8_0,
        10_132_824_003_338_125_017,
        9_423_711_925_090_440_139,
        8_594_622_626_115_866_851,
    ),
];

#[test]
fn products_keep_their_bits() {
    for mut context in contexts() {
        let got = DIGESTS.map(|(format, ..)| {
            let mut random = Random(77);
            let (matrix, _) = random.matrix(format, 45, 192);
            let x = random.numbers(15 * 192);
            let [fine, coarse, plain] = [Rounding::Fine, Rounding::CoarseFrom(0), Rounding::None]
                .map(|rounding| digest(&run(&mut context, rounding, &x, &matrix)));
            (format, fine, coarse, plain)
        });
        assert_eq!(got, DIGESTS, "{got:#x?} on {}", context.isa.name());
    }
}
