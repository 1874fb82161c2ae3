//! Quantized modules against values computed before they were packed (`fixtures/make_int4.py`), and refusals.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use half::f16;
use rootstock_formats::DType;
use rootstock_formats::mmap::MappedFile;
use rootstock_formats::safetensors::SafeTensors;
use serde_json::{Map, Value, json};

use super::super::fields::Fields;
use super::super::int4::{Int4Place, Scheme};
use crate::MatrixView;
use crate::checkpoint::Refusal;
use crate::checkpoint::roles::Part;
use crate::checkpoint::shards::Shards;

const SHAPE: [usize; 2] = [16, 64];

struct Cases {
    configs: BTreeMap<String, String>,
    shards: Shards,
}

fn cases() -> Cases {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/checkpoint/hf/tests/fixtures/int4.safetensors");
    let file = MappedFile::open(&path).unwrap();
    let parsed = SafeTensors::parse_with_integers(&file).unwrap();
    let mut shards = Shards::default();
    shards.add(file, parsed.tensors().clone()).ok().unwrap();
    Cases {
        configs: parsed.metadata().clone(),
        shards,
    }
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn message(refusal: Refusal) -> String {
    refusal.at(Path::new("folder")).to_string()
}

impl Cases {
    fn config(&self, case: &str) -> Value {
        serde_json::from_str(&self.configs[case]).unwrap()
    }

    fn place(&self, case: &str, config: Value) -> Result<Int4Place, String> {
        Ok(Int4Place {
            module: case.to_owned(),
            scheme: Scheme::read(&Fields::new("config", object(config))).map_err(message)?,
            part: None,
        })
    }

    /// The matrix of a case with another configuration.
    fn matrix(&self, case: &str, config: Value) -> Result<MatrixView<'_>, String> {
        let place = self.place(case, config)?;
        place.check(&self.shards, &SHAPE).map_err(message)?;
        place.matrix(&self.shards, SHAPE).map_err(message)
    }

    fn refusal(&self, case: &str, field: &str, value: Value) -> String {
        let mut config = self.config(case);
        config[field] = value;
        self.matrix(case, config)
            .err()
            .unwrap_or_else(|| panic!("{case}: {field} is accepted"))
    }

    fn expected(&self, case: &str) -> Vec<f32> {
        let (_, bytes) = self.shards.tensor(&format!("{case}.expected")).unwrap();
        bytes
            .as_chunks()
            .0
            .iter()
            .map(|&value| f32::from_le_bytes(value))
            .collect()
    }
}

/// The values of blocks or numbers, by their definition.
fn values(matrix: &MatrixView<'_>) -> Vec<f32> {
    let number = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().unwrap());
    if matrix.dtype == DType::F32 {
        return matrix.bytes.chunks_exact(4).map(number).collect();
    }
    assert_eq!(matrix.dtype, DType::I4);
    let block = |block: &[u8]| {
        let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
        let value = |code: u8| scale * (f32::from(code) - f32::from(block[2]));
        let (low, high) = (
            block[3..].iter().map(|byte| byte & 15),
            block[3..].iter().map(|byte| byte >> 4),
        );
        low.chain(high).map(value).collect::<Vec<_>>()
    };
    matrix.bytes.chunks_exact(19).flat_map(block).collect()
}

#[test]
fn every_encoding_gives_the_values_it_was_packed_from() {
    let cases = cases();
    assert_eq!(cases.configs.len(), 14);
    for case in cases.configs.keys() {
        let matrix = cases
            .matrix(case, cases.config(case))
            .unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_eq!((matrix.rows, matrix.cols), (16, 64), "{case}");
        assert_eq!(values(&matrix), cases.expected(case), "{case}");
        let numbers = [
            "gptq-act-order",
            "gptq-groups-of-16",
            "packed-act-order",
            "packed-scales-beyond-half",
        ];
        assert_eq!(
            matrix.dtype == DType::F32,
            numbers.contains(&case.as_str()),
            "{case}: {}",
            matrix.dtype
        );
    }
}

#[test]
fn the_rows_of_a_fused_module_are_its_own() {
    let cases = cases();
    for case in cases.configs.keys() {
        for rows in [0..8, 3..12, 9..16] {
            let count = rows.len();
            let place = Int4Place {
                part: Some(Part {
                    rows: rows.clone(),
                    of: 16,
                }),
                ..cases.place(case, cases.config(case)).unwrap()
            };
            place.check(&cases.shards, &[count, 64]).map_err(message).unwrap();
            let matrix = place.matrix(&cases.shards, [count, 64]).map_err(message).unwrap();
            assert_eq!(
                values(&matrix),
                cases.expected(case)[rows.start * 64..rows.end * 64],
                "{case} {rows:?}"
            );
        }
    }
}

#[test]
fn a_module_claims_its_tensors_and_no_other() {
    let cases = cases();
    let place = |case: &str| cases.place(case, cases.config(case)).unwrap().tensors(&cases.shards);
    assert_eq!(place("awq"), ["awq.qweight", "awq.qzeros", "awq.scales"]);
    let all = [
        "weight_packed",
        "weight_scale",
        "weight_zero_point",
        "weight_shape",
        "weight_g_idx",
    ];
    assert_eq!(
        place("packed-act-order"),
        all.map(|suffix| format!("packed-act-order.{suffix}"))
    );
    let some = ["qweight", "qzeros", "scales", "g_idx"];
    assert_eq!(place("gptq-v2"), some.map(|suffix| format!("gptq-v2.{suffix}")));
}

#[test]
fn shapes_that_contradict_the_configuration_are_refused() {
    let cases = cases();
    let refusal = cases.refusal("gptq-asymmetric", "group_size", json!(16));
    assert!(
        refusal.contains("gptq-asymmetric.qzeros: expected I32 [4, 2], got I32 [2, 2]"),
        "{refusal}"
    );
    let refusal = cases.refusal("awq", "group_size", json!(-1));
    assert!(
        refusal.contains("awq.qzeros: expected I32 [1, 2], got I32 [2, 2]"),
        "{refusal}"
    );
    let refusal = cases.refusal("packed-symmetric", "quant_method", json!("gptq"));
    assert!(
        refusal.contains("format: \"pack-quantized\" is not supported (supported: gptq, gptq_v2)"),
        "{refusal}"
    );
    let place = cases
        .place("packed-symmetric", cases.config("packed-symmetric"))
        .unwrap();
    let refusal = message(place.check(&cases.shards, &[16, 63]).unwrap_err());
    assert!(
        refusal.contains("weight_shape: expected [16, 63], got [16, 64]"),
        "{refusal}"
    );
    let place = cases.place("missing", cases.config("awq")).unwrap();
    let refusal = message(place.check(&cases.shards, &SHAPE).unwrap_err());
    assert!(refusal.contains("tensor missing.qweight is missing"), "{refusal}");
}

#[test]
fn an_order_that_the_file_must_list_is_not_taken_for_granted() {
    let cases = cases();
    let mut config = cases.config("packed-asymmetric");
    config["config_groups"]["group_0"]["weights"]["actorder"] = json!("weight");
    assert!(cases.matrix("packed-asymmetric", config.clone()).is_ok());
    for order in [json!("group"), json!(true)] {
        config["config_groups"]["group_0"]["weights"]["actorder"] = order;
        let refusal = cases.matrix("packed-asymmetric", config.clone()).err().unwrap();
        assert!(
            refusal.contains("packed-asymmetric.weight_g_idx is missing"),
            "{refusal}"
        );
    }
}

#[test]
fn zero_points_that_contradict_symmetry_are_refused() {
    let cases = cases();
    let refusals = [
        cases.refusal("gptq-asymmetric", "sym", json!(true)),
        cases.refusal("gptq-symmetric", "checkpoint_format", json!("gptq_v2")),
        cases.refusal("awq", "zero_point", json!(false)),
    ];
    for refusal in refusals {
        assert!(refusal.contains("zero points are not all 8"), "{refusal}");
    }
}

#[test]
fn other_encodings_are_refused_by_name() {
    let cases = cases();
    let table = [
        (
            "gptq-v2",
            "quant_method",
            json!("bitsandbytes"),
            "quant_method: \"bitsandbytes\" is not supported",
        ),
        (
            "gptq-v2",
            "bits",
            json!(3),
            "bits: 3 is not supported (supported: 4, 8)",
        ),
        ("gptq-v2", "bits", json!(null), "bits is missing"),
        (
            "gptq-v2",
            "checkpoint_format",
            json!("marlin"),
            "checkpoint_format: \"marlin\"",
        ),
        (
            "gptq-v2",
            "format",
            json!("gptq"),
            "format: \"gptq\" contradicts checkpoint_format",
        ),
        (
            "gptq-v2",
            "group_size",
            json!(0),
            "group_size: expected an integer from 1",
        ),
        ("gptq-v2", "pack_dtype", json!("int16"), "pack_dtype: \"int16\""),
        ("gptq-v2", "is_marlin_format", json!(true), "is_marlin_format: true"),
        ("gptq-v2", "dynamic", json!({"+:.*": {"bits": 8}}), "dynamic: "),
        (
            "gptq-v2",
            "rotation",
            json!("hadamard"),
            "field \"rotation\" (\"hadamard\") is not known",
        ),
        (
            "awq",
            "version",
            json!("gemv"),
            "version: \"gemv\" is not supported (supported: gemm)",
        ),
        ("awq", "backend", json!("llm-awq"), "backend: llm-awq"),
        (
            "packed-symmetric",
            "format",
            json!("int-quantized"),
            "format: \"int-quantized\"",
        ),
        ("packed-symmetric", "format", json!(null), "format is missing"),
        (
            "packed-symmetric",
            "kv_cache_scheme",
            json!({"num_bits": 8}),
            "field \"kv_cache_scheme\"",
        ),
        (
            "packed-symmetric",
            "sparsity_config",
            json!({"format": "sparse-24-bitmask"}),
            "sparsity_config: ",
        ),
        (
            "packed-symmetric",
            "transform_config",
            json!({"config_groups": {"R1": 1}}),
            "transform_config: ",
        ),
        (
            "packed-symmetric",
            "config_groups",
            json!({}),
            "config_groups is missing",
        ),
    ];
    for (case, field, value, expected) in table {
        let refusal = cases.refusal(case, field, value);
        assert!(refusal.contains(expected), "{case}: {field}: {refusal}");
    }
}

#[test]
fn what_a_group_of_compressed_tensors_may_say_is_fixed() {
    let cases = cases();
    let table = [
        ("/weights/num_bits", json!(3), "num_bits: 3"),
        ("/weights/type", json!("float"), "type: \"float\""),
        ("/weights/dynamic", json!(true), "dynamic: true"),
        ("/weights/strategy", json!("tensor"), "strategy: \"tensor\""),
        ("/weights/strategy", json!("channel"), "strategy: \"channel\""),
        (
            "/weights/block_structure",
            json!([128, 128]),
            "field \"block_structure\"",
        ),
        (
            "/input_activations",
            json!({"num_bits": 8}),
            "field \"input_activations\"",
        ),
        (
            "/output_activations",
            json!({"num_bits": 8}),
            "field \"output_activations\"",
        ),
        ("/weights", json!(null), "weights is missing"),
    ];
    for (path, value, expected) in table {
        let mut config = cases.config("packed-symmetric");
        *config.pointer_mut(&format!("/config_groups/group_0{path}")).unwrap() = value;
        let refusal = cases.matrix("packed-symmetric", config).err().unwrap();
        assert!(refusal.contains(expected), "{path}: {refusal}");
    }
    let mut config = cases.config("packed-symmetric");
    config["config_groups"]["group_1"] = config["config_groups"]["group_0"].clone();
    assert!(cases.matrix("packed-symmetric", config.clone()).is_ok());
    config["config_groups"]["group_1"]["weights"]["group_size"] = json!(64);
    let refusal = cases.matrix("packed-symmetric", config).err().unwrap();
    assert!(
        refusal.contains("group_1: a group that is quantized otherwise"),
        "{refusal}"
    );
}
