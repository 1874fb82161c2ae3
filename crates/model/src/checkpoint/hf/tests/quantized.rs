//! Whole folders with quantized modules, their codes at random.

use proptest::prelude::*;
use rootstock_formats::DType;
use serde_json::json;

use super::*;
use crate::Projection;

/// Bytes that look random and are always the same.
pub(super) fn noise(count: usize) -> Vec<u8> {
    let mut state = 1u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..count).map(next).collect()
}

fn integers(shape: [usize; 2]) -> Tensor {
    (Dtype::I32, shape.to_vec(), noise(shape[0] * shape[1] * 4))
}

fn scales(shape: [usize; 2]) -> Tensor {
    let scale = half::f16::from_f32(0.01).to_le_bytes();
    (Dtype::F16, shape.to_vec(), scale.repeat(shape[0] * shape[1]))
}

/// The checkpoint with every map of its layers quantized as GPTQ does, 32 inputs to a scale.
fn gptq(name: &str) -> Model {
    let mut model = Model::tiny(name);
    let is_map = |name: &String| name.contains("_proj.weight") || name.contains(".c_");
    let names: Vec<_> = model
        .tensors
        .keys()
        .filter(|name| is_map(name) && name.ends_with(".weight"))
        .cloned()
        .collect();
    for name in names {
        let (_, shape, _) = model.tensors.remove(&name).unwrap();
        // Conv1D keeps inputs first.
        let (outputs, inputs) = if name.contains(".c_") {
            (shape[1], shape[0])
        } else {
            (shape[0], shape[1])
        };
        let module = name.trim_end_matches(".weight");
        let parts = [
            ("qweight", integers([inputs / 8, outputs])),
            ("qzeros", integers([inputs / 32, outputs / 8])),
            ("scales", scales([inputs / 32, outputs])),
        ];
        model
            .tensors
            .extend(parts.map(|(suffix, tensor)| (format!("{module}.{suffix}"), tensor)));
    }
    let config = json!({"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": false, "sym": false});
    model.set("quantization_config", config)
}

#[test]
fn quantized_folders_open_with_blocks() {
    for name in ["llama-bias", "phi3", "gpt2", "gemma3"] {
        let checkpoint = gptq(name).open().unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(*checkpoint.spec(), Model::tiny(name).spec(), "{name}");
        for (layer, shape) in checkpoint.spec().layers.iter().enumerate() {
            for projection in shape.projections() {
                let matrix = checkpoint.projection(layer, projection).unwrap();
                assert_eq!(matrix.dtype, DType::I4, "{name} {projection:?}");
                assert_eq!(
                    matrix.bytes.len(),
                    matrix.rows * matrix.cols / 32 * 19,
                    "{name} {projection:?}"
                );
            }
        }
        assert_eq!(checkpoint.embedding().unwrap().dtype, DType::F32, "{name}");
    }
}

#[test]
fn modules_may_be_left_as_they_were() {
    let mut model = gptq("llama-bias");
    let module = "model.layers.1.mlp.down_proj";
    for suffix in ["qweight", "qzeros", "scales"] {
        model.tensors.remove(&format!("{module}.{suffix}"));
    }
    let weight = format!("{module}.weight");
    let original = Model::tiny("llama-bias").tensors.remove(&weight).unwrap();
    let checkpoint = model.with(&weight, original.clone()).open().unwrap();
    let matrix = checkpoint.projection(1, Projection::Down).unwrap();
    assert_eq!((matrix.dtype, &*matrix.bytes), (DType::F32, &original.2[..]));
    assert_eq!(checkpoint.projection(2, Projection::Down).unwrap().dtype, DType::I4);
}

#[test]
fn an_output_projection_may_be_quantized() {
    let mut model = gptq("phi3");
    model.tensors.remove("lm_head.weight");
    let parts = [
        ("qweight", integers([8, 256])),
        ("qzeros", integers([2, 32])),
        ("scales", scales([2, 256])),
    ];
    model
        .tensors
        .extend(parts.map(|(suffix, tensor)| (format!("lm_head.{suffix}"), tensor)));
    assert_eq!(model.open().unwrap().output().unwrap().dtype, DType::I4);
}

#[test]
fn biases_of_zero_are_accepted_and_others_refused() {
    let name = "model.layers.0.mlp.up_proj.bias";
    let zero = (Dtype::F16, vec![128], vec![0; 256]);
    assert_eq!(
        gptq("gemma3").with(name, zero.clone()).spec(),
        Model::tiny("gemma3").spec()
    );
    let mut other = zero.clone();
    other.2[7] = 1;
    let refusal = gptq("gemma3").with(name, other).refusal();
    assert!(refusal.contains("the architecture has no place for it"), "{refusal}");
    // Where nothing is quantized, no tool writes them.
    let refusal = Model::tiny("gemma3").with(name, zero).refusal();
    assert!(refusal.contains("the architecture has no place for it"), "{refusal}");
}

#[test]
fn a_file_of_its_own_describes_what_older_tools_wrote() {
    let model = gptq("llama-bias").without("quantization_config");
    let open = |name: &str, config: Value| {
        let dir = model.folder();
        std::fs::write(dir.path().join(name), config.to_string()).unwrap();
        Checkpoint::open(dir.path())
            .map(|checkpoint| checkpoint.hash())
            .map_err(|error| error.to_string())
    };
    let gptq = json!({"bits": 4, "group_size": 32, "desc_act": false, "sym": false, "damp_percent": 0.01});
    let first = open("quantize_config.json", gptq).unwrap();
    let second = json!({"bits": 4, "group_size": 32, "sym": false, "checkpoint_format": "gptq_v2"});
    assert_ne!(
        open("quantize_config.json", second).unwrap(),
        first,
        "the file is part of the hash"
    );
    let refusal = open("quantize_config.json", json!({"bits": 3, "group_size": 32})).unwrap_err();
    assert!(
        refusal.contains("quantize_config.json: bits: 3 is not supported"),
        "{refusal}"
    );
    let awq = json!({"zero_point": true, "q_group_size": 32, "w_bit": 4, "version": "GEMM"});
    let refusal = open("quant_config.json", awq).unwrap_err();
    assert!(
        refusal.contains("qweight: expected I32 [64, 8], got I32 [8, 64]"),
        "{refusal}"
    );
    let refusal = model.refusal();
    assert!(
        refusal.contains("q_proj.weight") || refusal.contains("qweight"),
        "{refusal}"
    );
}

/// Values of fields of `quantization_config`, some of which fit.
fn setting() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-2i64..130).prop_map(Value::from),
        prop::sample::select(vec![
            "gptq",
            "awq",
            "compressed-tensors",
            "gptq_v2",
            "gemm",
            "pack-quantized"
        ])
        .prop_map(Value::from),
        Just(json!({"group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "group_size": 32}}})),
    ]
}

/// Every matrix of the layers.
fn read_all(checkpoint: &Checkpoint) -> bool {
    let layers = checkpoint.spec().layers.iter().enumerate();
    let maps = layers.flat_map(|(layer, shape)| shape.projections().map(move |projection| (layer, projection)));
    maps.fold(true, |sound, (layer, projection)| {
        sound & checkpoint.projection(layer, projection).is_ok()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Whatever the configuration says and the order of inputs lists, the folder is opened or refused.
    #[test]
    fn changed_quantizations_never_panic(
        changes in prop::collection::vec(
            (prop::sample::select(vec!["quant_method", "group_size", "sym", "desc_act", "format", "version", "config_groups"]),
            setting()),
            0..3,
        ),
        order in prop::collection::vec(-1i32..4, 0..3),
        scale in any::<u16>(),
    ) {
        let mut model = gptq("phi3");
        for (field, value) in changes {
            model.config["quantization_config"][field] = value;
        }
        let module = "model.layers.0.self_attn.qkv_proj";
        let order: Vec<i32> = order.into_iter().cycle().take(64).collect();
        let bytes = order.iter().flat_map(|group| group.to_le_bytes()).collect();
        model = model.with(&format!("{module}.g_idx"), (Dtype::I32, vec![order.len()], bytes));
        model.tensors.get_mut(&format!("{module}.scales")).unwrap().2[..2].copy_from_slice(&scale.to_le_bytes());
        if let Ok(checkpoint) = model.open() {
            prop_assert_eq!(read_all(&checkpoint), half::f16::from_bits(scale).is_finite());
        }
    }
}
