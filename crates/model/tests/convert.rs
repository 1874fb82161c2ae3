//! Adapters from one container to the other and back: the effects stay, and what llama.cpp's converter writes is what is written
//! here.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rootstock_formats::gguf::Gguf;
use rootstock_model::Checkpoint;
use rootstock_model::adapter::save::{GgufLora, LoraType, PeftFolder};
use rootstock_model::adapter::{Adapter, AdapterError, AdapterLimits, Base, Effect, LowRank, load_adapter};

const ARCHITECTURES: [&str; 9] = [
    "llama3-rope",
    "llama-bias",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma3",
    "phi3",
    "smollm3",
    "gpt2",
];

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures")
        .join(path)
}

fn base(arch: &str) -> Checkpoint {
    Checkpoint::open(&fixture("tiny").join(arch)).unwrap()
}

fn load(path: &Path, checkpoint: &Checkpoint) -> Adapter {
    let base = Base {
        spec: checkpoint.spec(),
        hash: checkpoint.hash(),
    };
    let limits = AdapterLimits {
        max_rank: 64,
        max_bytes: 1 << 24,
    };
    load_adapter(path, base, limits).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn to_gguf(adapter: &Adapter, checkpoint: &Checkpoint, stored: LoraType, to: &Path) -> Result<(), AdapterError> {
    GgufLora::of(adapter, checkpoint.spec(), stored)?.write(to).unwrap();
    Ok(())
}

fn pairs(adapter: &Adapter) -> Vec<&LowRank> {
    let effects = adapter.effects.iter();
    let pairs = effects.map(|effect| match effect {
        Effect::LowRank(pair) => pair,
        other => panic!("{other:?}"),
    });
    pairs.collect()
}

/// `scale * B A` of every site.
fn products(adapter: &Adapter) -> Vec<Vec<f32>> {
    let product = |pair: &LowRank| {
        let (a, b, rank) = (pair.a.to_f32(), pair.b.to_f32(), pair.a.rows);
        let cols = pair.a.cols;
        let at = |row: usize, col: usize| (0..rank).map(|r| b[row * rank + r] * a[r * cols + col]).sum::<f32>();
        let all = (0..pair.b.rows).flat_map(|row| (0..cols).map(move |col| (row, col)));
        all.map(|(row, col)| pair.scale * at(row, col)).collect()
    };
    pairs(adapter).into_iter().map(product).collect()
}

/// Largest distance, relative to the largest value.
fn apart(one: &[Vec<f32>], other: &[Vec<f32>]) -> f32 {
    assert_eq!(one.len(), other.len());
    let (mut most, mut largest) = (0f32, 0f32);
    for (one, other) in one.iter().zip(other) {
        assert_eq!(one.len(), other.len());
        for (one, other) in one.iter().zip(other) {
            (most, largest) = (most.max((one - other).abs()), largest.max(other.abs()));
        }
    }
    most / largest
}

/// From PEFT to GGUF to PEFT.
fn there_and_back(folder: &Path, arch: &str) -> [Adapter; 3] {
    let (checkpoint, dir) = (base(arch), tempfile::tempdir().unwrap());
    let (file, back) = (dir.path().join("adapter.gguf"), dir.path().join("peft"));
    let from = load(folder, &checkpoint);
    to_gguf(&from, &checkpoint, LoraType::F32, &file).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let between = load(&file, &checkpoint);
    let written = PeftFolder::of(&between, checkpoint.spec()).unwrap();
    written.write(&back, "").unwrap();
    let back = load(&back, &checkpoint);
    [from, between, back]
}

#[test]
fn an_adapter_goes_there_and_back_with_every_bit() {
    let tiny = ARCHITECTURES.map(|arch| (format!("tiny/{arch}/adapter"), arch));
    let others = [
        ("tiny-adapters/layers", "smollm3"),
        ("tiny-adapters/fused-some", "phi3"),
        ("tiny-adapters/all-linear", "phi3"),
        ("tiny-adapters/head-embedding-untied", "llama3-rope"),
    ];
    let others = others.map(|(path, arch)| (path.to_owned(), arch));
    for (path, arch) in tiny.into_iter().chain(others) {
        let [from, between, back] = there_and_back(&fixture(&path), arch);
        assert_eq!(from.hash, between.hash, "{path} as GGUF");
        assert_eq!(from.hash, back.hash, "{path} as PEFT again");
    }
}

#[test]
fn the_tensors_are_those_of_llama_cpp_s_converter() {
    // Its files of GPT-2 have A and B in each other's place.
    for arch in ARCHITECTURES.into_iter().filter(|arch| *arch != "gpt2") {
        let (checkpoint, dir) = (base(arch), tempfile::tempdir().unwrap());
        let ours = dir.path().join("ours.gguf");
        let adapter = load(&fixture("tiny").join(arch).join("adapter"), &checkpoint);
        to_gguf(&adapter, &checkpoint, LoraType::F32, &ours).unwrap();
        let [ours, theirs] = [ours, fixture("gguf-lora/tiny").join(format!("{arch}.gguf"))].map(|path| {
            let bytes = fs::read(path).unwrap();
            let gguf = Gguf::parse(&bytes).unwrap();
            let tensors = gguf.tensors().iter().map(|(name, info)| {
                (
                    name.clone(),
                    (info.shape.clone(), info.dtype, bytes[info.range.clone()].to_vec()),
                )
            });
            let tensors: BTreeMap<_, _> = tensors.collect();
            let keys = ["general.type", "general.architecture", "adapter.type"];
            let texts = keys.map(|key| gguf.get_str(key).unwrap().map(str::to_owned));
            (tensors, texts, gguf.get_f32("adapter.lora.alpha").unwrap())
        });
        assert_eq!(
            ours.0.keys().collect::<Vec<_>>(),
            theirs.0.keys().collect::<Vec<_>>(),
            "{arch}"
        );
        assert!(ours == theirs, "{arch}: values differ");
    }
}

/// A copy of an adapter's folder with another configuration.
fn with_config(folder: &Path, change: impl Fn(&mut serde_json::Value)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(
        folder.join("adapter_model.safetensors"),
        dir.path().join("adapter_model.safetensors"),
    )
    .unwrap();
    let mut config = serde_json::from_slice(&fs::read(folder.join("adapter_config.json")).unwrap()).unwrap();
    change(&mut config);
    fs::write(dir.path().join("adapter_config.json"), config.to_string()).unwrap();
    dir
}

#[test]
fn rank_stabilised_scales_and_alphas_of_their_own_become_part_of_b() {
    let folder = with_config(&fixture("tiny-adapters/layers"), |config| {
        config["use_rslora"] = true.into();
        config["alpha_pattern"] = serde_json::json!({"down_proj": 3.7, "v_proj": 0});
    });
    let [from, between, back] = there_and_back(folder.path(), "smollm3");
    let ranks: Vec<usize> = pairs(&from).iter().map(|pair| pair.a.rows).collect();
    assert!(ranks.contains(&2) && ranks.contains(&4), "{ranks:?}");
    let alphas = pairs(&between).into_iter().map(|pair| pair.scale * pair.a.rows as f32);
    let mut alphas: Vec<f32> = alphas.collect();
    alphas.dedup();
    assert_eq!(alphas.len(), 1, "a file has one alpha: {alphas:?}");
    assert!(apart(&products(&between), &products(&from)) < 1e-6);
    assert_eq!(between.hash, back.hash);
}

#[test]
fn eight_bits_are_read_back_to_within_their_step_and_short_rows_stay_halves() {
    for arch in ["llama3-rope", "phi3", "gemma3"] {
        let (checkpoint, dir) = (base(arch), tempfile::tempdir().unwrap());
        let from = load(&fixture("tiny").join(arch).join("adapter"), &checkpoint);
        for (stored, bound) in [(LoraType::Q8_0, 2e-2), (LoraType::F16, 1e-3), (LoraType::Bf16, 1e-2)] {
            let file = dir.path().join(format!("{stored:?}.gguf"));
            to_gguf(&from, &checkpoint, stored, &file).unwrap();
            let distance = apart(&products(&load(&file, &checkpoint)), &products(&from));
            assert!(distance > 0.0 && distance < bound, "{arch} in {stored:?}: {distance}");
        }
        let bytes = fs::read(dir.path().join("Q8_0.gguf")).unwrap();
        let gguf = Gguf::parse(&bytes).unwrap();
        let types = |side: &str| -> Vec<String> {
            let of_side = gguf.tensors().iter().filter(|(name, _)| name.ends_with(side));
            let mut types: Vec<String> = of_side.map(|(_, info)| info.dtype.to_string()).collect();
            types.sort();
            types.dedup();
            types
        };
        // Ranks of 4 make no block of 32.
        assert_eq!(
            (types("lora_a"), types("lora_b")),
            (vec!["Q8_0".to_owned()], vec!["F16".to_owned()]),
            "{arch}"
        );
    }
}

#[test]
fn what_a_gguf_file_cannot_hold_is_refused_by_its_name() {
    for (name, arch, what) in [
        ("dora", "llama3-rope", "use_dora"),
        ("saved-modules", "llama3-rope", "modules_to_save"),
        ("saved-head-norms", "qwen3", "normalisation"),
        ("bias-only", "qwen2", "bias"),
        ("lora-bias", "qwen2", "lora_bias"),
        ("head-embedding-tied", "qwen3", "ties"),
    ] {
        let checkpoint = base(arch);
        let adapter = load(&fixture("tiny-adapters").join(name), &checkpoint);
        let error = GgufLora::of(&adapter, checkpoint.spec(), LoraType::F32).expect_err(name);
        assert!(
            error.message.contains(what) && error.message.contains("rootstock merge"),
            "{name}: {error}"
        );
    }
}
