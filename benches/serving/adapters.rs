//! Adapters to load a server with: random ones in PEFT's format, and many folders that share their files.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

/// Of SmolLM2-135M.
const LAYERS: usize = 30;

/// The linear layers of SmolLM2-135M: module, inputs, outputs.
const MODULES: [(&str, usize, usize); 7] = [
    ("self_attn.q_proj", 576, 576),
    ("self_attn.k_proj", 576, 192),
    ("self_attn.v_proj", 576, 192),
    ("self_attn.o_proj", 576, 576),
    ("mlp.gate_proj", 576, 1536),
    ("mlp.up_proj", 576, 1536),
    ("mlp.down_proj", 1536, 576),
];

/// Writes `count` adapters `adapter-000`, `adapter-001`, ... that change outputs mildly and differ from each other.
///
/// # Errors
/// The folder cannot be written.
pub fn make(dir: &Path, count: usize, rank: Option<usize>) -> Result<()> {
    for index in 0..count {
        let rank = rank.unwrap_or(if index % 2 == 0 { 8 } else { 16 });
        let folder = dir.join(format!("adapter-{index:03}"));
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        fs::write(
            folder.join("adapter_config.json"),
            serde_json::to_vec_pretty(&config(rank))?,
        )?;
        fs::write(folder.join("adapter_model.safetensors"), weights(rank, index as u64)?)?;
    }
    eprintln!("{count} adapters in {}", dir.display());
    Ok(())
}

fn config(rank: usize) -> Value {
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "inference_mode": true,
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": MODULES.map(|(module, _, _)| module.rsplit('.').next()),
    })
}

fn weights(rank: usize, seed: u64) -> Result<Vec<u8>> {
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut header, mut data) = (Map::new(), Vec::new());
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    for layer in 0..LAYERS {
        for (module, inputs, outputs) in MODULES {
            for (half, shape, bound) in [
                ("A", [rank, inputs], (inputs as f32).sqrt().recip()),
                ("B", [outputs, rank], 0.02),
            ] {
                let from = data.len();
                for _ in 0..shape[0] * shape[1] {
                    let value = (random.f32() * 2.0 - 1.0) * bound;
                    // bf16: the upper half of an f32.
                    data.extend_from_slice(&value.to_bits().to_le_bytes()[2..]);
                }
                let name = format!("base_model.model.model.layers.{layer}.{module}.lora_{half}.weight");
                header.insert(
                    name,
                    json!({"dtype": "BF16", "shape": shape, "data_offsets": [from, data.len()]}),
                );
            }
        }
    }
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok([&(header.len() as u64).to_le_bytes()[..], &header, &data].concat())
}

/// Makes `count` folders `tenant-00000`, ... whose files are hard links to those of the folders in `from`, in turn.
///
/// # Errors
/// `from` has no folders, or lies on another file system.
pub fn link(dir: &Path, from: &Path, count: usize) -> Result<()> {
    let mut sources: Vec<_> = fs::read_dir(from)
        .with_context(|| from.display().to_string())?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    sources.retain(|path| path.is_dir());
    sources.sort_unstable();
    ensure!(!sources.is_empty(), "{} has no folders", from.display());
    for index in 0..count {
        let folder = dir.join(format!("tenant-{index:05}"));
        fs::create_dir_all(&folder)?;
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            let source = sources[index % sources.len()].join(file);
            fs::hard_link(&source, folder.join(file)).with_context(|| source.display().to_string())?;
        }
    }
    println!("{count} folders in {}", dir.display());
    Ok(())
}
