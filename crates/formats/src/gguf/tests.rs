use proptest::prelude::*;

use super::*;
use crate::DType;

/// Writes a file piece by piece, so that a test can get any piece wrong.
struct FileBuilder {
    head: Vec<u8>,
    pairs: Vec<u8>,
    pair_count: u64,
    table: Vec<u8>,
    tensor_count: u64,
    data: Vec<u8>,
}

impl FileBuilder {
    fn new() -> Self {
        Self {
            head: [b"GGUF".as_slice(), &3u32.to_le_bytes()].concat(),
            pairs: Vec::new(),
            pair_count: 0,
            table: Vec::new(),
            tensor_count: 0,
            data: Vec::new(),
        }
    }

    fn pair(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.pairs.extend(string(key));
        self.pairs.extend(kind.to_le_bytes());
        self.pairs.extend(value);
        self.pair_count += 1;
        self
    }

    /// `dims` innermost first, as in the file.
    fn tensor(mut self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Self {
        self.table.extend(string(name));
        self.table.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|dim| self.table.extend(dim.to_le_bytes()));
        self.table.extend(kind.to_le_bytes());
        self.table.extend(offset.to_le_bytes());
        self.tensor_count += 1;
        self
    }

    fn data(mut self, bytes: usize) -> Self {
        self.data = vec![7; bytes];
        self
    }

    fn build(self) -> Vec<u8> {
        let mut file = self.head;
        file.extend(self.tensor_count.to_le_bytes());
        file.extend(self.pair_count.to_le_bytes());
        file.extend(self.pairs);
        file.extend(self.table);
        file.resize(file.len().next_multiple_of(DEFAULT_ALIGNMENT), 0);
        file.extend(self.data);
        file
    }

    fn refusal(self) -> String {
        Gguf::parse(&self.build()).unwrap_err().to_string()
    }
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn array(kind: u32, count: u64, items: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes(), count.to_le_bytes().as_slice(), items].concat()
}

#[test]
fn metadata_and_tensors_come_back_as_written() {
    let tokens = [string("a"), string("ß")].concat();
    let file = FileBuilder::new()
        .pair("general.architecture", 8, &string("llama"))
        .pair("llama.block_count", 4, &30u32.to_le_bytes())
        .pair("rope", 6, &1e4f32.to_le_bytes())
        .pair("add_bos", 7, &[1])
        .pair("tokens", 9, &array(8, 2, &tokens))
        .pair("types", 9, &array(5, 2, &[1, 0, 0, 0, 255, 255, 255, 255]))
        .pair("nested", 9, &array(9, 1, &array(0, 2, &[5, 6])))
        .tensor("norm", &[3], 0, 0)
        .tensor("weight", &[32, 2], 3, 32)
        .data(32 + 40)
        .build();
    let gguf = Gguf::parse(&file).unwrap();
    assert_eq!(gguf.get_str("general.architecture").unwrap(), Some("llama"));
    assert_eq!(gguf.get_u64("llama.block_count").unwrap(), Some(30));
    assert_eq!(gguf.get_f32("rope").unwrap(), Some(1e4));
    assert_eq!(gguf.get_bool("add_bos").unwrap(), Some(true));
    assert_eq!(gguf.get_strings("tokens").unwrap().unwrap(), ["a", "ß"]);
    assert_eq!(gguf.get_i32s("types").unwrap().unwrap(), [1, -1]);
    assert_eq!(
        gguf.get("nested"),
        Some(&Value::Array(Array::Array(vec![Array::U8(vec![5, 6])])))
    );
    assert_eq!(gguf.get_str("absent").unwrap(), None);
    let weight = gguf.tensor("weight").unwrap();
    assert_eq!(
        (weight.dtype, weight.shape.as_slice()),
        (DType::Q4_1, [2, 32].as_slice())
    );
    assert_eq!(weight.bytes(&file).unwrap(), &file[file.len() - 40..]);
}

#[test]
fn an_accessor_of_another_type_names_key_expected_and_got() {
    let file = FileBuilder::new().pair("count", 5, &(-1i32).to_le_bytes()).build();
    let gguf = Gguf::parse(&file).unwrap();
    let message = gguf.get_u64("count").unwrap_err().to_string();
    assert_eq!(message, "count: expected a non-negative integer, got I32(-1)");
    assert!(
        required("absent", gguf.get_u64("absent").unwrap())
            .unwrap_err()
            .to_string()
            .contains("absent")
    );
}

#[test]
fn big_endian_and_other_versions_are_refused_with_the_reason() {
    let mut builder = FileBuilder::new();
    builder.head[4..8].copy_from_slice(&3u32.to_be_bytes());
    assert!(builder.refusal().contains("big endian is not supported"));
    let mut builder = FileBuilder::new();
    builder.head[4] = 4;
    assert_eq!(builder.refusal(), "version: 4 is not supported (supported: 2, 3)");
    let mut builder = FileBuilder::new();
    builder.head[0] = b'X';
    assert_eq!(builder.refusal(), "magic: expected GGUF, got XGUF");
}

#[test]
fn lengths_beyond_the_file_are_refused_before_allocating() {
    let huge = FileBuilder::new().pair("tokens", 9, &array(8, 1 << 60, &[]));
    assert!(huge.refusal().starts_with("length of tokens: expected at most"));
    let huge = FileBuilder::new().pair("text", 8, &u64::MAX.to_le_bytes());
    assert!(huge.refusal().starts_with("text: expected at most"));
    let mut counts = FileBuilder::new();
    counts.tensor_count = u64::MAX;
    assert!(counts.refusal().starts_with("tensor count: expected at most"));
}

#[test]
fn nesting_is_bounded() {
    let nested = (0..5).fold(array(0, 0, &[]), |inner, _| array(9, 1, &inner));
    let message = FileBuilder::new().pair("deep", 9, &nested).refusal();
    assert_eq!(message, "deep: expected arrays nested at most 4 deep, got deeper");
}

#[test]
fn duplicates_are_refused_by_name() {
    let twice = FileBuilder::new().pair("key", 7, &[1]).pair("key", 7, &[0]);
    assert_eq!(twice.refusal(), "metadata key key: expected once, got twice");
    let twice = FileBuilder::new()
        .tensor("w", &[1], 0, 0)
        .tensor("w", &[1], 0, 32)
        .data(64);
    assert_eq!(twice.refusal(), "tensor w: expected once, got twice");
}

/// One block of each type that is read: (code, elements, bytes) as ggml defines them.
const BLOCKS: [(u32, u64, usize, DType); 16] = [
    (0, 1, 4, DType::F32),
    (1, 1, 2, DType::F16),
    (2, 32, 18, DType::Q4_0),
    (3, 32, 20, DType::Q4_1),
    (6, 32, 22, DType::Q5_0),
    (7, 32, 24, DType::Q5_1),
    (8, 32, 34, DType::Q8_0),
    (10, 256, 84, DType::Q2_K),
    (11, 256, 110, DType::Q3_K),
    (12, 256, 144, DType::Q4_K),
    (13, 256, 176, DType::Q5_K),
    (14, 256, 210, DType::Q6_K),
    (24, 1, 1, DType::I8),
    (26, 1, 4, DType::I32),
    (27, 1, 8, DType::I64),
    (30, 1, 2, DType::BF16),
];

#[test]
fn every_type_that_is_read_has_the_blocks_of_ggml() {
    for (code, elements, bytes, dtype) in BLOCKS {
        let file = FileBuilder::new().tensor("w", &[elements, 3], code, 0).data(3 * bytes);
        let gguf = Gguf::parse(&file.build()).unwrap();
        let info = gguf.tensor("w").unwrap();
        assert_eq!((info.dtype, info.range.len()), (dtype, 3 * bytes), "{dtype}");
        let short = FileBuilder::new()
            .tensor("w", &[elements, 3], code, 0)
            .data(3 * bytes - 1);
        assert!(short.refusal().contains("truncated"), "{dtype}");
    }
}

#[test]
fn tensor_types_that_are_not_read_are_named() {
    let refusal = |code| {
        FileBuilder::new()
            .tensor("blk.0.ffn_up.weight", &[256], code, 0)
            .refusal()
    };
    assert_eq!(
        refusal(16),
        "tensor blk.0.ffn_up.weight: type IQ2_XXS is not supported (supported: F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, \
         Q8_0, Q2_K to Q6_K; convert the file with llama-quantize)"
    );
    for (code, name) in [
        (9, "Q8_1"),
        (15, "Q8_K"),
        (20, "IQ4_NL"),
        (28, "F64"),
        (34, "TQ1_0"),
        (39, "MXFP4"),
    ] {
        assert!(
            refusal(code).contains(&format!("type {name} is not supported")),
            "{name}"
        );
    }
    assert!(refusal(99).contains("type 99 is not supported"));
}

#[test]
fn a_part_knows_its_number_and_the_names_of_the_others() {
    let part = |number: u16, count: u16| {
        let file = FileBuilder::new()
            .pair("split.no", 2, &number.to_le_bytes())
            .pair("split.count", 2, &count.to_le_bytes())
            .pair("split.tensors.count", 5, &7i32.to_le_bytes());
        Gguf::parse(&file.build()).unwrap().part()
    };
    let second = part(1, 3).unwrap().unwrap();
    assert_eq!((second.number, second.count, second.tensors), (1, 3, Some(7)));
    assert_eq!(second.stem("a-b-00002-of-00003.gguf"), Some("a-b"));
    assert_eq!(second.stem("a-b-00001-of-00003.gguf"), None);
    assert_eq!(second.stem("a-b.gguf"), None);
    assert_eq!(second.file_name("a-b", 2), "a-b-00003-of-00003.gguf");
    assert_eq!(part(0, 1).unwrap(), None);
    let beyond = part(3, 3).unwrap_err().to_string();
    assert_eq!(beyond, "split.no: expected a part below split.count, 3, got 3");
    let unnumbered = FileBuilder::new().pair("split.count", 4, &3u32.to_le_bytes()).build();
    let message = Gguf::parse(&unnumbered).unwrap().part().unwrap_err().to_string();
    assert_eq!(message, "split.no: expected the number of the part, got no such key");
    let many = FileBuilder::new()
        .pair("split.count", 4, &100_000u32.to_le_bytes())
        .build();
    let message = Gguf::parse(&many).unwrap().part().unwrap_err().to_string();
    assert!(
        message.starts_with("split.count: expected at most 99999 parts"),
        "{message}"
    );
}

#[test]
fn integers_are_read_alone_or_as_an_array() {
    let file = FileBuilder::new()
        .pair("one", 4, &5u32.to_le_bytes())
        .pair("flags", 9, &array(7, 2, &[1, 0]))
        .pair("many", 9, &array(5, 2, &[1, 0, 0, 0, 2, 0, 0, 0]))
        .pair("negative", 9, &array(1, 1, &[255]))
        .build();
    let gguf = Gguf::parse(&file).unwrap();
    assert_eq!(gguf.get_u64s("one").unwrap(), Some(vec![5]));
    assert_eq!(gguf.get_u64s("flags").unwrap(), Some(vec![1, 0]));
    assert_eq!(gguf.get_u64s("many").unwrap(), Some(vec![1, 2]));
    assert_eq!(gguf.get_u64s("absent").unwrap(), None);
    let message = gguf.get_u64s("negative").unwrap_err().to_string();
    assert_eq!(
        message,
        "negative: expected non-negative integers, got an array of 1 i8"
    );
}

#[test]
fn tensors_must_lie_within_the_file_and_apart() {
    let truncated = FileBuilder::new().tensor("w", &[16], 0, 0).data(63).refusal();
    assert!(
        truncated.contains("tensor w: expected 64 bytes at offset 0") && truncated.contains("truncated"),
        "{truncated}"
    );
    let overlap = FileBuilder::new()
        .tensor("a", &[16], 0, 0)
        .tensor("b", &[16], 0, 32)
        .data(96)
        .refusal();
    assert!(
        overlap.starts_with("tensor b: expected data after that of a"),
        "{overlap}"
    );
    let odd = FileBuilder::new().tensor("a", &[1], 0, 4).data(64).refusal();
    assert_eq!(odd, "tensor a: expected an offset that is a multiple of 32, got 4");
    let far = FileBuilder::new()
        .tensor("a", &[1], 0, u64::MAX - 31)
        .data(64)
        .refusal();
    assert!(far.contains("truncated"), "{far}");
    let wide = FileBuilder::new()
        .tensor("a", &[1 << 40, 1 << 40], 0, 0)
        .data(64)
        .refusal();
    assert!(
        wide.starts_with("tensor a: expected rows of whole 1-element blocks and a size"),
        "{wide}"
    );
    let ragged = FileBuilder::new().tensor("a", &[33], 3, 0).data(64).refusal();
    assert!(
        ragged.starts_with("tensor a: expected rows of whole 32-element blocks"),
        "{ragged}"
    );
    let empty = FileBuilder::new().tensor("a", &[0], 0, 0).refusal();
    assert_eq!(empty, "dimensions of tensor a: expected a size that is not zero, got 0");
}

#[test]
fn alignment_comes_from_the_metadata() {
    let file = FileBuilder::new().pair("general.alignment", 4, &3u32.to_le_bytes());
    assert_eq!(file.refusal(), "general.alignment: expected a power of two, got 3");
    let file = FileBuilder::new()
        .pair("general.alignment", 4, &8u32.to_le_bytes())
        .build();
    assert_eq!(Gguf::parse(&file).unwrap().alignment, 8);
}

#[test]
fn every_truncation_of_a_header_is_refused() {
    let file = FileBuilder::new()
        .pair("tokens", 9, &array(8, 1, &string("a")))
        .tensor("w", &[16], 0, 0)
        .data(64)
        .build();
    assert!(Gguf::parse(&file).is_ok());
    for end in 0..file.len() {
        assert!(Gguf::parse(&file[..end]).is_err(), "{end} bytes");
    }
}

fn dtype() -> impl Strategy<Value = (u32, DType)> {
    prop::sample::select(BLOCKS.map(|(code, _, _, dtype)| (code, dtype)).to_vec())
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i8>().prop_map(Value::I8),
        any::<u16>().prop_map(Value::U16),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        any::<f32>().prop_map(Value::F32),
        any::<f64>().prop_map(Value::F64),
        any::<bool>().prop_map(Value::Bool),
        "\\PC{0,12}".prop_map(Value::String),
        array_value().prop_map(Value::Array),
    ]
}

fn array_value() -> impl Strategy<Value = Array> {
    use prop::collection::vec;
    let flat = prop_oneof![
        vec(any::<i8>(), 0..5).prop_map(Array::I8),
        vec(any::<u16>(), 0..5).prop_map(Array::U16),
        vec(any::<i32>(), 0..5).prop_map(Array::I32),
        vec(any::<f32>(), 0..5).prop_map(Array::F32),
        vec(any::<u64>(), 0..5).prop_map(Array::U64),
        vec(any::<bool>(), 0..5).prop_map(Array::Bool),
        vec("\\PC{0,6}", 0..5).prop_map(Array::String),
    ];
    flat.prop_recursive(2, 16, 4, |inner| {
        prop::collection::vec(inner, 0..4).prop_map(Array::Array)
    })
}

/// Type code and bytes of a value, as the format defines them.
fn encoded(value: &Value) -> (u32, Vec<u8>) {
    match value {
        Value::U8(x) => (0, x.to_le_bytes().to_vec()),
        Value::I8(x) => (1, x.to_le_bytes().to_vec()),
        Value::U16(x) => (2, x.to_le_bytes().to_vec()),
        Value::I16(x) => (3, x.to_le_bytes().to_vec()),
        Value::U32(x) => (4, x.to_le_bytes().to_vec()),
        Value::I32(x) => (5, x.to_le_bytes().to_vec()),
        Value::F32(x) => (6, x.to_le_bytes().to_vec()),
        Value::Bool(x) => (7, vec![u8::from(*x)]),
        Value::String(x) => (8, string(x)),
        Value::Array(items) => (9, encoded_array(items)),
        Value::U64(x) => (10, x.to_le_bytes().to_vec()),
        Value::I64(x) => (11, x.to_le_bytes().to_vec()),
        Value::F64(x) => (12, x.to_le_bytes().to_vec()),
    }
}

fn encoded_array(items: &Array) -> Vec<u8> {
    let (kind, bytes): (u32, Vec<u8>) = match items {
        Array::I8(items) => (1, items.iter().flat_map(|x| x.to_le_bytes()).collect()),
        Array::U16(items) => (2, items.iter().flat_map(|x| x.to_le_bytes()).collect()),
        Array::I32(items) => (5, items.iter().flat_map(|x| x.to_le_bytes()).collect()),
        Array::F32(items) => (6, items.iter().flat_map(|x| x.to_le_bytes()).collect()),
        Array::Bool(items) => (7, items.iter().map(|&x| u8::from(x)).collect()),
        Array::String(items) => (8, items.iter().flat_map(|x| string(x)).collect()),
        Array::Array(items) => (9, items.iter().flat_map(encoded_array).collect()),
        Array::U64(items) => (10, items.iter().flat_map(|x| x.to_le_bytes()).collect()),
        other => unreachable!("{other:?} is not generated"),
    };
    array(kind, items.len() as u64, &bytes)
}

proptest! {
    #[test]
    fn generated_files_come_back_as_written(
        pairs in prop::collection::btree_map("[a-z]{1,8}", value(), 0..8),
        tensors in prop::collection::btree_map("[a-z.]{1,8}", (dtype(), prop::collection::vec(1usize..4, 1..=4)), 0..5),
    ) {
        let mut builder = FileBuilder::new();
        for (key, value) in &pairs {
            let (kind, bytes) = encoded(value);
            builder = builder.pair(key, kind, &bytes);
        }
        let mut end = 0;
        for (name, ((kind, dtype), shape)) in &tensors {
            let mut dims: Vec<u64> = shape.iter().map(|&size| size as u64).collect();
            dims[0] *= dtype.block().0 as u64;
            builder = builder.tensor(name, &dims, *kind, end as u64);
            let blocks: usize = shape.iter().product();
            end = (end + blocks * dtype.block().1).next_multiple_of(DEFAULT_ALIGNMENT);
        }
        let gguf = Gguf::parse(&builder.data(end).build()).unwrap();
        prop_assert_eq!(gguf.metadata(), &pairs);
        prop_assert_eq!(gguf.tensors().len(), tensors.len());
        for (name, ((_, dtype), shape)) in &tensors {
            let info = gguf.tensor(name).unwrap();
            prop_assert_eq!(info.dtype, *dtype);
            let outermost_first: Vec<usize> = info.shape.iter().rev().copied().collect();
            prop_assert_eq!(&outermost_first[1..], &shape[1..]);
            prop_assert_eq!(info.range.len(), shape.iter().product::<usize>() * dtype.block().1);
        }
    }

    #[test]
    fn what_is_written_is_read_again(
        pairs in prop::collection::btree_map("[a-z]{1,8}", value(), 0..8),
        tensors in prop::collection::btree_map("[a-z.]{1,8}", (dtype(), prop::collection::vec(1usize..4, 1..=4)), 0..5),
    ) {
        let metadata: Vec<(String, Value)> = pairs.clone().into_iter().collect();
        let tensors = tensors.into_iter().map(|(name, ((_, dtype), mut shape))| {
            *shape.last_mut().unwrap() *= dtype.block().0;
            NewTensor { name, dtype, shape }
        });
        let tensors: Vec<NewTensor> = tensors.collect();
        let Header { bytes, places } = Header::new(&metadata, &tensors).unwrap();
        let len = places.last().map_or(bytes.len(), |place| place.end);
        let gguf = Gguf::parse_start(&bytes, len).unwrap();
        prop_assert_eq!(gguf.metadata(), &pairs);
        for (tensor, range) in tensors.into_iter().zip(places) {
            let NewTensor { name, dtype, shape } = tensor;
            prop_assert_eq!(gguf.tensor(&name), Some(&TensorInfo { dtype, shape, range }));
        }
    }

    #[test]
    fn random_bytes_behind_a_valid_start_never_panic(tail in prop::collection::vec(any::<u8>(), 0..300), tensors in 0u64..4, pairs in 0u64..4) {
        let start = [b"GGUF\x03\0\0\0", &tensors.to_le_bytes()[..], &pairs.to_le_bytes()].concat();
        let _ = Gguf::parse(&[start, tail.clone()].concat());
        let _ = Gguf::parse(&tail);
    }
}
