//! One model per family, as transformers saved it and as llama.cpp's converter wrote it: both open to the same architecture
//! with the same weights, and to the angles that transformers computes. `fixtures/families/make.py` makes the files.

use std::path::{Path, PathBuf};

use half::bf16;
use rootstock_formats::DType;
use rootstock_model::{
    ArchSpec, Checkpoint, FloatType, LayerSpec, MatrixView, ModelFolder, NormSite, Position, SaveSettings,
};

const FAMILIES: [&str; 8] = [
    "llama", "mistral", "qwen2", "qwen3", "gemma3", "phi3", "smollm3", "gpt2",
];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/families")
        .join(name)
}

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(&fixture(name)).unwrap_or_else(|error| panic!("{error}"))
}

fn gguf(family: &str) -> Checkpoint {
    open(&format!("{family}.gguf"))
}

/// Every row of the model, decoded.
fn rows(matrix: &MatrixView<'_>) -> Vec<Vec<f32>> {
    let decode = |row: &[u8]| match matrix.dtype {
        DType::F32 => row
            .as_chunks()
            .0
            .iter()
            .map(|&value| f32::from_le_bytes(value))
            .collect(),
        DType::BF16 => row
            .as_chunks()
            .0
            .iter()
            .map(|&value| bf16::from_le_bytes(value).to_f32())
            .collect(),
        other => panic!("no fixture holds {other}"),
    };
    (0..matrix.rows).map(|row| decode(matrix.row(row))).collect()
}

/// Angles and magnitude, zeroed: they are compared with a tolerance.
fn take_rotary(layer: &mut LayerSpec) -> Option<(Vec<f32>, f32)> {
    match &mut layer.attention.position {
        Position::None => None,
        Position::Rotary {
            inverse_frequencies,
            magnitude,
        } => {
            let taken = (inverse_frequencies.to_vec(), *magnitude);
            *inverse_frequencies = Vec::new().into();
            *magnitude = 0.0;
            Some(taken)
        }
    }
}

fn assert_close(got: &(Vec<f32>, f32), expected: &(Vec<f32>, f32), what: &str) {
    let close = |a: f32, b: f32| (a - b).abs() <= 3e-7 * b.abs();
    let (angles, others) = (&got.0, &expected.0);
    assert_eq!(angles.len(), others.len(), "{what}");
    let all = angles.iter().zip(others).all(|(&a, &b)| close(a, b));
    assert!(
        all && close(got.1, expected.1),
        "{what}: {got:?}, expected {expected:?}"
    );
}

fn assert_same_architecture(got: &ArchSpec, expected: &ArchSpec, what: &str) {
    let (mut got, mut expected) = (got.clone(), expected.clone());
    // Each container spells it its own way.
    got.family.clone_from(&expected.family);
    for (layer, (a, b)) in got.layers.iter_mut().zip(&mut expected.layers).enumerate() {
        match (take_rotary(a), take_rotary(b)) {
            (Some(a), Some(b)) => assert_close(&a, &b, &format!("{what}, layer {layer}")),
            (a, b) => assert_eq!(a, b, "{what}, layer {layer}"),
        }
    }
    assert_eq!(got, expected, "{what}");
}

fn assert_same_weights(got: &Checkpoint, expected: &Checkpoint, what: &str) {
    assert_eq!(
        rows(&got.embedding().unwrap()),
        rows(&expected.embedding().unwrap()),
        "{what}"
    );
    assert_eq!(
        rows(&got.output().unwrap()),
        rows(&expected.output().unwrap()),
        "{what}"
    );
    let positions = |model: &Checkpoint| model.position_embedding().unwrap().map(|matrix| rows(&matrix));
    assert_eq!(positions(got), positions(expected), "{what}");
    for (layer, spec) in expected.spec().layers.iter().enumerate() {
        for projection in spec.projections() {
            let of = |model: &Checkpoint| rows(&model.projection(layer, projection).unwrap());
            assert_eq!(of(got), of(expected), "{what}, layer {layer} {projection:?}");
            let of = |model: &Checkpoint| model.bias(layer, projection).map(<[f32]>::to_vec);
            assert_eq!(of(got), of(expected), "{what}, bias of layer {layer} {projection:?}");
        }
        for site in spec.norms(layer) {
            assert_eq!(got.norm(site), expected.norm(site), "{what}, {site:?}");
        }
    }
    assert_eq!(got.norm(NormSite::Final), expected.norm(NormSite::Final), "{what}");
}

#[test]
fn a_converted_model_is_the_model_of_its_folder() {
    for family in FAMILIES {
        let (converted, folder) = (gguf(family), open(family));
        assert_same_architecture(converted.spec(), folder.spec(), family);
        assert_same_weights(&converted, &folder, family);
    }
}

#[test]
fn angles_are_those_of_transformers() {
    for family in FAMILIES {
        let Ok(json) = std::fs::read_to_string(fixture(family).join("rotary.json")) else {
            assert_eq!(family, "gpt2", "the only one without");
            continue;
        };
        let expected: serde_json::Value = serde_json::from_str(&json).unwrap();
        let angles = |kind: &serde_json::Value| {
            let angles = kind["inverse_frequencies"].as_array().unwrap();
            let angles = angles.iter().map(|angle| angle.as_f64().unwrap() as f32).collect();
            (angles, kind["magnitude"].as_f64().unwrap() as f32)
        };
        let full = angles(&expected["full_attention"]);
        let sliding = expected.get("sliding_attention").map_or_else(|| full.clone(), angles);
        let mut rotating = 0;
        for (index, mut layer) in gguf(family).spec().layers.clone().into_iter().enumerate() {
            let expected = if layer.attention.window.is_some() {
                &sliding
            } else {
                &full
            };
            if let Some(got) = take_rotary(&mut layer) {
                assert_close(&got, expected, &format!("{family}, layer {index}"));
                rotating += 1;
            }
        }
        assert!(rotating > 0, "{family}");
    }
}

/// What the folders say, so that two readers with one misunderstanding do not agree.
#[test]
fn what_makes_a_family_its_own_is_read() {
    let windows = |family| -> Vec<Option<usize>> {
        gguf(family)
            .spec()
            .layers
            .iter()
            .map(|layer| layer.attention.window)
            .collect()
    };
    let mut every_sixth = vec![Some(16); 7];
    every_sixth[5] = None;
    assert_eq!(windows("gemma3"), every_sixth);
    assert_eq!(windows("phi3"), [Some(48); 2]);
    assert_eq!(windows("llama"), [None; 2]);
    assert_eq!(gguf("gemma3").spec().embedding_scale, 32f32.sqrt());
    assert_eq!(
        gguf("phi3").spec().context_length,
        64,
        "as far as the short factors hold"
    );
    assert_eq!(gguf("qwen2").spec().context_length, 16384);
    let none = |layer: &LayerSpec| layer.attention.position == Position::None;
    let without: Vec<bool> = gguf("smollm3").spec().layers.iter().map(none).collect();
    assert_eq!(without, [false, false, false, true]);
    assert_eq!(gguf("gpt2").spec().position_embeddings, Some(64));
}

fn settings(float: FloatType) -> SaveSettings<'static> {
    SaveSettings {
        float,
        shard_bytes: SaveSettings::SHARD_BYTES,
        card: "# A model\n",
    }
}

/// The folder that is written of a model, as bfloat16: the fixtures hold no more.
fn written(model: &Checkpoint, settings: &SaveSettings<'_>) -> (tempfile::TempDir, Checkpoint) {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("model");
    ModelFolder::of(model).unwrap().write(&dir, model, settings).unwrap();
    let read = Checkpoint::open(&dir).unwrap_or_else(|error| panic!("{error}"));
    (place, read)
}

#[test]
fn a_written_folder_is_read_as_the_model_that_it_was_made_of() {
    for family in FAMILIES {
        for model in [gguf(family), open(family)] {
            let (_place, read) = written(&model, &settings(FloatType::Bf16));
            let (mut got, mut expected) = (read.spec().clone(), model.spec().clone());
            // Files of Mistral's say llama where nothing else tells the two apart.
            got.family.clear();
            expected.family.clear();
            // Down to the bits of the angles.
            assert_eq!(got, expected, "{family}");
            assert_same_weights(&read, &model, family);
        }
    }
}

#[test]
fn a_written_folder_names_its_tensors_and_fields_as_transformers_does() {
    for family in FAMILIES {
        let (place, _) = written(&gguf(family), &settings(FloatType::Bf16));
        let header = |path: &Path| {
            let bytes = std::fs::read(path).unwrap();
            let header = rootstock_formats::safetensors::SafeTensors::parse(&bytes).unwrap();
            let tensors = header
                .tensors()
                .iter()
                .map(|(name, info)| (name.clone(), info.dtype, info.shape.clone()));
            tensors.collect::<Vec<_>>()
        };
        let saved = fixture(family).join("model.safetensors");
        assert_eq!(
            header(&place.path().join("model/model.safetensors")),
            header(&saved),
            "{family}"
        );
        let config =
            |path: &Path| -> serde_json::Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
        let (got, expected) = (
            config(&place.path().join("model/config.json")),
            config(&fixture(family).join("config.json")),
        );
        // The name of Mistral's family is not in its GGUF file, and does not matter where no window does.
        let fields: &[&str] = if family == "mistral" {
            &[]
        } else {
            &["architectures", "model_type"]
        };
        for field in fields {
            assert_eq!(got[field], expected[field], "{family}");
        }
    }
}

#[test]
fn large_models_are_written_in_several_files() {
    let model = gguf("qwen3");
    let settings = SaveSettings {
        shard_bytes: 10_000,
        ..settings(FloatType::F32)
    };
    let (place, read) = written(&model, &settings);
    let names = std::fs::read_dir(place.path().join("model")).unwrap();
    let names: Vec<_> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let shards: Vec<_> = names.iter().filter(|name| name.ends_with(".safetensors")).collect();
    let ending = format!("-of-{:05}.safetensors", shards.len());
    assert!(
        shards.len() > 2 && shards.iter().all(|name| name.ends_with(&ending)),
        "{names:?}"
    );
    assert!(names.contains(&"model.safetensors.index.json".to_owned()), "{names:?}");
    assert_same_weights(&read, &model, "qwen3");
}

#[test]
fn a_folder_takes_the_place_of_the_one_before_whole() {
    let (model, other) = (open("qwen3"), open("gpt2"));
    let (place, _) = written(&model, &settings(FloatType::F16));
    let dir = place.path().join("model");
    std::fs::write(dir.join("left.txt"), "old").unwrap();
    ModelFolder::of(&other)
        .unwrap()
        .write(&dir, &other, &settings(FloatType::Bf16))
        .unwrap();
    assert_same_weights(&Checkpoint::open(&dir).unwrap(), &other, "gpt2");
    assert!(!dir.join("left.txt").exists());
    let entries = std::fs::read_dir(place.path()).unwrap().count();
    assert_eq!(entries, 1, "nothing is left beside it");
}

#[test]
fn queries_keys_and_values_may_share_a_tensor() {
    let (fused, apart) = (gguf("llama-fused"), gguf("llama"));
    assert_eq!(fused.spec(), apart.spec());
    assert_same_weights(&fused, &apart, "llama-fused");
}

#[test]
fn any_part_of_a_split_file_opens_the_whole() {
    let whole = gguf("qwen3");
    let parts: Vec<PathBuf> = (1..=3)
        .map(|part| fixture(&format!("split/qwen3-0000{part}-of-00003.gguf")))
        .collect();
    let bytes: Vec<u8> = parts.iter().flat_map(|path| std::fs::read(path).unwrap()).collect();
    for path in &parts {
        let model = Checkpoint::open(path).unwrap();
        assert_eq!(model.spec(), whole.spec());
        assert_same_weights(&model, &whole, "split");
        assert_eq!(model.hash().to_string(), blake3::hash(&bytes).to_hex().as_str());
    }
}
