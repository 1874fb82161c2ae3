mod bottlenecks;
mod defaults;
mod folders;
mod gguf;
mod initial;
mod kinds;
mod refusals;
mod table;

use std::fs;
use std::path::Path;

use folders::*;
use serde_json::json;

use super::*;
use rootstock_formats::DType;

use crate::{Projection, Site};

#[test]
fn a_right_folder_becomes_effects_ordered_by_site() {
    let folder = FolderBuilder::new()
        .field("base_model_name_or_path", json!("some/other-name"))
        .field("rootstock_base_hash", json!(HASH.to_string()))
        .write();
    let adapter = folder.load().unwrap();
    let sites: Vec<_> = adapter.effects.iter().map(|effect| low_rank(effect).site).collect();
    let site = |layer, projection| Site::Layer { layer, projection };
    assert_eq!(
        sites,
        [
            site(0, Projection::Query),
            site(1, Projection::Query),
            site(1, Projection::Down)
        ]
    );
    let down = low_rank(&adapter.effects[2]);
    assert_eq!((down.a.rows, down.a.cols, down.b.rows, down.b.cols), (2, 12, 8, 2));
    assert_eq!((down.scale, down.a.dtype), (2.0, DType::F32));
    assert_eq!(down.b.bytes, f32s([8, 2], 0.25).2);
    assert_eq!(
        (adapter.max_rank, adapter.base_model.as_deref()),
        (2, Some("some/other-name"))
    );
    let summary = inspect(folder.dir.path(), &tiny()).unwrap();
    assert_eq!((summary.max_rank, summary.tensor_bytes), (2, 4 * (2 * 32 + 40)));
}

#[test]
fn the_hash_follows_content_and_scale_not_names() {
    let hash = |folder: FolderBuilder| folder.write().load().unwrap().hash;
    let original = hash(FolderBuilder::new());
    assert_eq!(
        original,
        hash(FolderBuilder::new().field("base_model_name_or_path", json!("x")))
    );
    assert_eq!(
        original,
        hash(FolderBuilder::new().field("target_modules", json!(".*(q_proj|1.mlp.down_proj)")))
    );
    assert_ne!(original, hash(FolderBuilder::new().field("lora_alpha", json!(5))));
    let other = FolderBuilder::new().tensor(&format!("{DOWN1}.lora_B.weight"), f32s([8, 2], 0.26));
    assert_ne!(original, hash(other));
}

#[test]
fn missing_files_are_not_found() {
    let folder = FolderBuilder::new().write();
    let absent = folder.dir.path().join("absent");
    assert_refusal(
        &load(&absent, &tiny()).unwrap_err(),
        AdapterErrorCode::NotFound,
        &["absent"],
    );
    fs::remove_file(folder.weights_path()).unwrap();
    folder.refused_on_load(AdapterErrorCode::NotFound, &["adapter_model.safetensors"]);
    fs::remove_file(folder.dir.path().join("adapter_config.json")).unwrap();
    folder.refused_on_load(AdapterErrorCode::NotFound, &["adapter_config.json"]);
}

#[test]
fn a_pickle_is_refused_under_any_name() {
    let folder = FolderBuilder::new().write();
    for start in [
        b"PK\x03\x04\x00\x00\x08\x08".as_slice(),
        b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P",
    ] {
        fs::write(folder.weights_path(), start).unwrap();
        folder.refused_on_load(AdapterErrorCode::Pickle, &["adapter_model.safetensors", "pickle"]);
    }
    fs::rename(folder.weights_path(), folder.dir.path().join("adapter_model.bin")).unwrap();
    folder.refused_on_load(AdapterErrorCode::Pickle, &["adapter_model.bin", "expected safetensors"]);
}

#[test]
fn malformed_configurations_are_refused() {
    let folder = FolderBuilder::new().write();
    let path = folder.dir.path().join("adapter_config.json");
    for (text, fact) in [
        ("{", "JSON"),
        ("[]", "JSON"),
        (r#"{"peft_type": "LORA", "r": 2, "r": 2}"#, "twice"),
    ] {
        fs::write(&path, text).unwrap();
        folder.refused_on_load(AdapterErrorCode::Malformed, &["adapter_config.json", fact]);
    }
    fs::write(&path, " ".repeat((1 << 20) + 1)).unwrap();
    folder.refused_on_load(AdapterErrorCode::Malformed, &["at most 1048576 bytes", "got more"]);
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    folder.refused_on_load(
        AdapterErrorCode::Malformed,
        &["adapter_config.json: expected a regular file"],
    );
    let folder = FolderBuilder::new().field("r", json!("2"));
    folder.refused(
        AdapterErrorCode::Malformed,
        &["r: expected a positive integer, got \"2\""],
    );
}

#[test]
fn other_methods_are_refused_by_type() {
    let folder = FolderBuilder::new()
        .field("peft_type", json!("IA3"))
        .field("feedforward_modules", json!(["x"]));
    folder.refused(AdapterErrorCode::UnsupportedType, &["peft_type: \"IA3\"", "LORA"]);
}

#[test]
fn fields_that_change_the_numbers_are_refused_by_name() {
    let fields = [
        ("trainable_token_indices", json!([1])),
        ("bias", json!("some")),
        ("use_qalora", json!(true)),
        ("init_lora_weights", json!("pixie")),
        ("field_of_the_future", json!(0.5)),
    ];
    for (name, value) in fields {
        let got = value.to_string();
        let folder = FolderBuilder::new().field(name, value);
        folder.refused(
            AdapterErrorCode::UnsupportedField,
            &["adapter_config.json", name, &got, "supported"],
        );
    }
}

#[test]
fn a_tensor_that_maps_to_nothing_is_refused() {
    let names = [
        "base_model.model.lm_head.lora_A.weight",
        "base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector",
        "model.layers.0.self_attn.q_proj.lora_A.weight",
    ];
    for name in names {
        let folder = FolderBuilder::new().tensor(name, f32s([2, 8], 1.0));
        folder.refused(
            AdapterErrorCode::UnmappedTensor,
            &[&format!("tensor {name}: expected"), "[2, 8]"],
        );
    }
}

#[test]
fn a_target_that_matches_nothing_is_refused() {
    let targets = |value| FolderBuilder::new().field("target_modules", value);
    let unmapped = AdapterErrorCode::UnmappedTensor;
    targets(json!(["q_proj", "c_attn"])).refused(unmapped, &["target_modules", "\"c_attn\"", "matches none"]);
    targets(json!(["q_proj", "proj"])).refused(unmapped, &["\"proj\""]);
    targets(json!("transformer.*")).refused(unmapped, &["target_modules", "matches none"]);
    let layers = FolderBuilder::new().field("layers_to_transform", json!([0, 5]));
    layers.refused(unmapped, &["layers_to_transform: expected layers below 2, got 5"]);
}

#[test]
fn a_targeted_module_without_tensors_is_refused() {
    let folder = FolderBuilder::new()
        .without(&format!("{DOWN1}.lora_A.weight"))
        .without(&format!("{DOWN1}.lora_B.weight"));
    folder.refused(
        AdapterErrorCode::UnmappedTensor,
        &["model.layers.1.mlp.down_proj: expected a pair", "got none"],
    );
}

#[test]
fn a_shape_must_fit_base_and_rank() {
    let a = format!("{Q0}.lora_A.weight");
    let b = format!("{Q0}.lora_B.weight");
    for (name, got, expected) in [(&a, [2, 9], [2, 8]), (&a, [3, 8], [2, 8]), (&b, [2, 8], [8, 2])] {
        let folder = FolderBuilder::new().tensor(name, f32s(got, 1.0));
        let fact = format!("tensor {name}: expected shape {expected:?} (rank 2), got {got:?}");
        folder.refused(AdapterErrorCode::ShapeMismatch, &[&fact]);
    }
    let flat = Stored("F32", vec![16], vec![0; 64]);
    FolderBuilder::new()
        .tensor(&a, flat)
        .refused(AdapterErrorCode::ShapeMismatch, &[&a, "[16]"]);
    let patterned = FolderBuilder::new().field("rank_pattern", json!({"down_proj": 3}));
    patterned.refused(AdapterErrorCode::ShapeMismatch, &[DOWN1, "[3, 12]", "[2, 12]"]);
}

#[test]
fn half_a_pair_is_refused() {
    let (a, b) = (format!("{Q0}.lora_A.weight"), format!("{Q0}.lora_B.weight"));
    for (missing, present) in [(&a, &b), (&b, &a)] {
        let fact = format!("tensor {missing}: expected beside {present}, got none");
        FolderBuilder::new()
            .without(missing)
            .refused(AdapterErrorCode::HalfPair, &[&fact]);
    }
}

#[test]
fn values_that_are_not_finite_are_refused_in_every_type() {
    let halves = |dtype, bits: u16| {
        let mut bytes = vec![0; 32];
        bytes[18..20].copy_from_slice(&bits.to_le_bytes());
        Stored(dtype, vec![2, 8], bytes)
    };
    let mut singles = f32s([2, 8], 1.0);
    singles.2[36..40].copy_from_slice(&f32::NEG_INFINITY.to_le_bytes());
    let name = format!("{Q0}.lora_A.weight");
    for tensor in [
        singles,
        halves("F16", 0x7e00),
        halves("F16", 0xfc00),
        halves("BF16", 0x7fc0),
    ] {
        let folder = FolderBuilder::new().tensor(&name, tensor).write();
        let fact = format!("tensor {name}: expected finite values, got NaN or infinity at [1, 1]");
        folder.refused_on_load(AdapterErrorCode::NotFinite, &[&fact]);
    }
    // The largest finite values are fine.
    for tensor in [halves("F16", 0xfbff), halves("BF16", 0x7f7f), f32s([2, 8], f32::MAX)] {
        FolderBuilder::new().tensor(&name, tensor).write().load().unwrap();
    }
    let folder = FolderBuilder::new().field("lora_alpha", json!(1e300));
    folder.refused(
        AdapterErrorCode::NotFinite,
        &["scale of model.layers.0.self_attn.q_proj", "inf"],
    );
}

#[test]
fn a_delta_of_zero_is_refused() {
    let mut folder = FolderBuilder::new();
    for (name, tensor) in &mut folder.tensors {
        if name.ends_with("lora_B.weight") {
            *tensor = f32s([8, 2], -0.0);
        }
    }
    let folder = folder.write();
    folder.refused_on_load(
        AdapterErrorCode::ZeroDelta,
        &["expected a delta that is not zero", "3 pairs"],
    );
    FolderBuilder::new()
        .field("lora_alpha", json!(0))
        .refused(AdapterErrorCode::ZeroDelta, &["lora_alpha 0"]);
    // One pair that does something is enough.
    let one = folder
        .tensor(&format!("{DOWN1}.lora_B.weight"), f32s([8, 2], 1e-30))
        .write();
    assert_eq!(one.load().unwrap().effects.len(), 3);
}

#[test]
fn truncated_and_oversized_files_are_refused() {
    let folder = FolderBuilder::new().write();
    let whole = fs::read(folder.weights_path()).unwrap();
    for end in [0, 4, 100, whole.len() - 1] {
        fs::write(folder.weights_path(), &whole[..end]).unwrap();
        folder.refused_on_load(AdapterErrorCode::Malformed, &["adapter_model.safetensors", "truncated"]);
    }
    fs::write(folder.weights_path(), [whole.as_slice(), b"x"].concat()).unwrap();
    let facts = [
        format!("expected {} bytes", whole.len()),
        format!("got {} bytes (trailing", whole.len() + 1),
    ];
    folder.refused_on_load(AdapterErrorCode::Malformed, &[&facts[0], &facts[1]]);
}

#[test]
fn element_types_that_are_not_served_are_named() {
    let name = format!("{Q0}.lora_A.weight");
    let folder = FolderBuilder::new().tensor(&name, Stored("I8", vec![2, 8], vec![1; 16]));
    folder.refused(AdapterErrorCode::Malformed, &[&name, "type I8", "F32, F16, BF16"]);
}

#[test]
fn limits_of_size_and_rank_are_kept() {
    let folder = FolderBuilder::new().write();
    let size = fs::metadata(folder.weights_path()).unwrap().len();
    let with = |max_rank, max_bytes| {
        let spec = tiny();
        load_adapter(folder.dir.path(), base(&spec), AdapterLimits { max_rank, max_bytes }).map(|_| ())
    };
    with(2, size).unwrap();
    let too_large = with(2, size - 1).unwrap_err();
    let facts = [format!("at most {} bytes", size - 1), format!("got {size}")];
    assert_refusal(&too_large, AdapterErrorCode::TooLarge, &[&facts[0], &facts[1]]);
    let too_wide = with(1, size).unwrap_err();
    let fact = "rank of model.layers.0.self_attn.q_proj: expected at most 1, got 2";
    assert_refusal(&too_wide, AdapterErrorCode::RankTooLarge, &[fact]);
}

#[test]
fn a_recorded_hash_of_another_base_is_refused() {
    let other = ContentHash([8; 32]).to_string();
    let folder = FolderBuilder::new().field("rootstock_base_hash", json!(other));
    folder.refused(
        AdapterErrorCode::WrongBase,
        &["rootstock_base_hash", &other, &HASH.to_string()],
    );
}

#[test]
fn a_file_that_shrinks_after_it_was_opened_is_malformed() {
    let files = FolderBuilder::new().write();
    let spec = tiny();
    for shrunk_to in [0, fs::metadata(files.weights_path()).unwrap().len() - 1] {
        let opened = Files::open(files.dir.path(), LIMITS).unwrap();
        let plan = Plan::new(&opened, base(&spec), LIMITS).unwrap();
        let file = fs::File::options().write(true).open(files.weights_path()).unwrap();
        file.set_len(shrunk_to).unwrap();
        let error = values::read_effects(&opened, &plan).unwrap_err();
        assert_refusal(
            &error,
            AdapterErrorCode::Malformed,
            &["adapter_model.safetensors", "fewer"],
        );
        fs::write(files.weights_path(), safetensors(&files.tensors)).unwrap();
    }
}

#[test]
fn a_file_that_grows_while_it_is_read_is_malformed() {
    let files = FolderBuilder::new().write();
    let spec = tiny();
    let opened = Files::open(files.dir.path(), LIMITS).unwrap();
    let plan = Plan::new(&opened, base(&spec), LIMITS).unwrap();
    let mut grown = safetensors(&files.tensors);
    grown.push(0);
    fs::write(files.weights_path(), grown).unwrap();
    let error = values::read_effects(&opened, &plan).unwrap_err();
    assert_refusal(&error, AdapterErrorCode::Malformed, &["changed from"]);
}

#[test]
fn a_file_that_is_removed_while_it_is_read_is_the_one_that_was_opened() {
    let files = FolderBuilder::new().write();
    let spec = tiny();
    let opened = Files::open(files.dir.path(), LIMITS).unwrap();
    let plan = Plan::new(&opened, base(&spec), LIMITS).unwrap();
    fs::remove_file(files.weights_path()).unwrap();
    assert_eq!(values::read_effects(&opened, &plan).unwrap().len(), 3);
}

#[test]
fn adapters_as_peft_saved_them_load_whole() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/adapters");
    let spec = spec(30, 576, 9, 3, 1536);
    let cases = [
        ("r8-all", 210, 8, 2.0),
        ("r16-qv", 60, 16, 2.0),
        ("r1-down-late-layers", 6, 1, 4.0),
        ("rslora-r4-patterns", 210, 8, 4.0),
    ];
    for (name, effects, max_rank, first_scale) in cases {
        let adapter = load(&fixtures.join(name), &spec).unwrap();
        assert_eq!((adapter.effects.len(), adapter.max_rank), (effects, max_rank), "{name}");
        assert_eq!(low_rank(&adapter.effects[0]).scale, first_scale, "{name}");
        assert_eq!(inspect(&fixtures.join(name), &spec).unwrap().max_rank, max_rank);
    }
    let patterns = load(&fixtures.join("rslora-r4-patterns"), &spec).unwrap();
    let down = patterns
        .effects
        .iter()
        .map(low_rank)
        .find(|pair| {
            matches!(
                pair.site,
                Site::Layer {
                    projection: Projection::Down,
                    ..
                }
            )
        })
        .unwrap();
    assert_eq!((down.a.rows, down.scale), (8, (24.0 / 8f64.sqrt()) as f32));
}

#[test]
fn no_damaged_byte_brings_a_panic_or_an_effect_that_does_not_fit() {
    let folder = FolderBuilder::new().write();
    let spec = tiny();
    for path in [folder.weights_path(), folder.dir.path().join("adapter_config.json")] {
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (at % 8);
            fs::write(&path, &damaged).unwrap();
            let Ok(adapter) = load(folder.dir.path(), &spec) else {
                continue;
            };
            adapter.effects.iter().for_each(|effect| assert_fits(effect, &spec));
        }
        fs::write(&path, &whole).unwrap();
    }
}
