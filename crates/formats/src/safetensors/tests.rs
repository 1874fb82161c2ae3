use ::safetensors::tensor::{Dtype, TensorView, serialize};
use proptest::prelude::*;

use super::*;

fn file(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; data]].concat()
}

fn refusal(header: &str, data: usize) -> String {
    SafeTensors::parse(&file(header, data)).unwrap_err().to_string()
}

const ONE: &str = r#"{"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}"#;

#[test]
fn a_file_is_read_as_written() {
    let header = r#"{"__metadata__": {"format": "pt"},
        "b": {"dtype": "BF16", "shape": [4], "data_offsets": [4, 12]},
        "a": {"dtype": "F16", "shape": [1, 2], "data_offsets": [0, 4]}}   "#;
    let mut bytes = file(header, 12);
    let last = bytes.len() - 1;
    bytes[last] = 9;
    let parsed = SafeTensors::parse(&bytes).unwrap();
    assert_eq!(parsed.metadata()["format"], "pt");
    let b = &parsed.tensors()["b"];
    assert_eq!((b.dtype, b.shape.as_slice()), (DType::BF16, [4].as_slice()));
    assert_eq!(b.bytes(&bytes).unwrap(), [0, 0, 0, 0, 0, 0, 0, 9]);
    assert_eq!(parsed.tensors()["a"].range.len(), 4);
}

#[test]
fn the_header_is_read_without_the_data() {
    let bytes = file(ONE, 24);
    let header = &bytes[..bytes.len() - 24];
    let parsed = SafeTensors::read_header(header, bytes.len() as u64).unwrap();
    assert_eq!(parsed.tensors()["w"].range, header.len()..bytes.len());
}

#[test]
fn truncated_and_oversized_files_are_refused() {
    assert!(SafeTensors::parse(&file(ONE, 24)).is_ok());
    let truncated = refusal(ONE, 23);
    assert!(
        truncated.contains("tensor w") && truncated.contains("truncated"),
        "{truncated}"
    );
    let expected = format!("{} bytes", file(ONE, 24).len());
    let trailing = refusal(ONE, 25);
    assert!(
        trailing.contains(&expected) && trailing.contains("trailing"),
        "{trailing}"
    );
    for end in 0..file(ONE, 24).len() {
        assert!(SafeTensors::parse(&file(ONE, 24)[..end]).is_err(), "{end} bytes");
    }
}

#[test]
fn a_header_longer_than_the_file_or_the_limit_is_not_allocated() {
    let mut bytes = file(ONE, 24);
    bytes[..8].copy_from_slice(&99_000_000u64.to_le_bytes());
    let message = SafeTensors::parse(&bytes).unwrap_err().to_string();
    assert!(message.contains("a header of 99000000 bytes"), "{message}");
    bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let message = SafeTensors::parse(&bytes).unwrap_err().to_string();
    assert!(message.contains("at most 100000000 bytes"), "{message}");
}

#[test]
fn contradictions_name_the_tensor_expected_and_got() {
    let one = |dtype: &str, shape: &str, offsets: &str| {
        refusal(
            &format!(r#"{{"w": {{"dtype": "{dtype}", "shape": {shape}, "data_offsets": {offsets}}}}}"#),
            24,
        )
    };
    assert_eq!(
        one("I64", "[3]", "[0, 24]"),
        "tensor w: type I64 is not supported (supported: F32, F16, BF16)"
    );
    assert_eq!(
        one("F32", "[7]", "[0, 24]"),
        "tensor w: expected 28 bytes for F32 [7], got offsets 0 to 24"
    );
    assert!(one("F32", "[6]", "[24, 0]").contains("offsets 24 to 0"));
    assert!(one("F32", "[6]", "[4, 28]").contains("truncated"));
    assert!(one("F32", "[4294967296, 4294967296]", "[0, 24]").contains("a size below 2^63"));
    assert!(one("F32", "[1,1,1,1,1,1,1,1,6]", "[0, 24]").contains("at most 8 dimensions, got 9"));
    assert!(one("F32", "[-1]", "[0, 24]").contains("tensor w"));
    assert!(refusal("[]", 0).contains("safetensors header"));
}

#[test]
fn gaps_overlaps_and_repeats_are_refused() {
    let two = |second: &str, data| {
        let header = format!(r#"{{"a": {{"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, {second}}}"#);
        refusal(&header, data)
    };
    let gap = two(r#""b": {"dtype": "F32", "shape": [1], "data_offsets": [8, 12]}"#, 12);
    assert_eq!(gap, "tensor b: expected data at offset 4 (no gap, no overlap), got 8");
    let overlap = two(r#""b": {"dtype": "F32", "shape": [1], "data_offsets": [2, 6]}"#, 6);
    assert_eq!(
        overlap,
        "tensor b: expected data at offset 4 (no gap, no overlap), got 2"
    );
    let twice = two(r#""a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}"#, 8);
    assert_eq!(twice, "tensor a: expected once, got twice");
    let strided = two(
        r#""b": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8], "strides": [2]}"#,
        8,
    );
    assert!(strided.contains("tensor b: unknown field `strides`"), "{strided}");
}

#[test]
fn integers_are_read_where_they_are_asked_for() {
    for (name, dtype, size) in [
        ("I32", DType::I32, 4),
        ("I64", DType::I64, 8),
        ("U8", DType::U8, 1),
        ("I8", DType::I8, 1),
    ]
    .into_iter()
    .chain([("BOOL", DType::U8, 1), ("F32", DType::F32, 4)])
    {
        let bytes = 3 * size;
        let header = format!(r#"{{"w": {{"dtype": "{name}", "shape": [3], "data_offsets": [0, {bytes}]}}}}"#);
        let parsed = SafeTensors::parse_with_integers(&file(&header, bytes)).unwrap();
        assert_eq!(parsed.tensors()["w"].dtype, dtype);
        assert_eq!(
            SafeTensors::parse(&file(&header, bytes)).is_ok(),
            dtype.is_float(),
            "{name}"
        );
    }
    let float8 = r#"{"w": {"dtype": "F8_E4M3", "shape": [3], "data_offsets": [0, 3]}}"#;
    let message = SafeTensors::parse_with_integers(&file(float8, 3))
        .unwrap_err()
        .to_string();
    assert_eq!(
        message,
        "tensor w: type F8_E4M3 is not supported (supported: F32, F16, BF16, I32, I64, U8, I8, BOOL)"
    );
}

fn dtype() -> impl Strategy<Value = Dtype> {
    prop::sample::select(vec![Dtype::F32, Dtype::F16, Dtype::BF16])
}

proptest! {
    #[test]
    fn what_the_reference_writes_is_read_back(
        tensors in prop::collection::btree_map("[a-z.]{1,12}", (dtype(), prop::collection::vec(0usize..5, 0..4)), 0..6)
    ) {
        let bytes_of = |dtype: Dtype, shape: &[usize]| shape.iter().product::<usize>() * dtype.bitsize() / 8;
        let data: Vec<_> = tensors.iter().map(|(name, (dtype, shape))| {
            (name.clone(), *dtype, shape.clone(), vec![name.len() as u8; bytes_of(*dtype, shape)])
        }).collect();
        let views = data.iter().map(|(name, dtype, shape, bytes)| {
            (name.clone(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        let file = serialize(views, None).unwrap();
        let parsed = SafeTensors::parse(&file).unwrap();
        prop_assert_eq!(parsed.tensors().len(), data.len());
        for (name, dtype, shape, bytes) in &data {
            let info = &parsed.tensors()[name];
            prop_assert_eq!(info.dtype.to_string(), format!("{dtype:?}"));
            prop_assert_eq!(&info.shape, shape);
            prop_assert_eq!(info.bytes(&file).unwrap(), bytes.as_slice());
        }
    }

    /// Ours is the stricter reader: what it accepts, the reference accepts.
    #[test]
    fn what_is_accepted_the_reference_accepts(edits in prop::collection::vec((0usize..90, any::<u8>()), 0..4)) {
        let mut bytes = file(ONE, 24);
        for (at, byte) in edits {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        if SafeTensors::parse(&bytes).is_ok() {
            prop_assert!(::safetensors::SafeTensors::deserialize(&bytes).is_ok());
        }
    }

    #[test]
    fn random_headers_never_panic(header in "\\PC{0,200}", data in 0usize..64) {
        let _ = SafeTensors::parse(&file(&header, data));
    }
}

#[test]
fn a_written_header_is_read_here_and_by_the_formats_own_reader() {
    let entry = |name: &str, dtype, shape: &[usize], bytes| write::Entry {
        name: name.to_owned(),
        dtype,
        shape: shape.to_vec(),
        bytes,
    };
    let entries = [entry("b \"quoted\"", "BF16", &[2, 3], 12), entry("a", "F32", &[1], 4)];
    let mut file = write::header(&entries, &[("format", "pt")]);
    assert!(file.len().is_multiple_of(8));
    file.extend(0..16u8);
    let read = SafeTensors::parse(&file).unwrap();
    let tensor = |name: &str| read.tensors()[name].clone();
    assert_eq!((tensor("a").dtype, tensor("a").shape), (DType::F32, vec![1]));
    assert_eq!(tensor("a").bytes(&file).unwrap(), [12, 13, 14, 15]);
    let theirs = ::safetensors::SafeTensors::deserialize(&file).unwrap();
    assert_eq!(theirs.tensor("b \"quoted\"").unwrap().shape(), [2, 3]);
    assert_eq!(
        theirs.tensor("b \"quoted\"").unwrap().data(),
        (0..12).collect::<Vec<u8>>()
    );
    assert_eq!(theirs.len(), 2);
}
