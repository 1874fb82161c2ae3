//! Turns PEFT LoRA folders for SmolLM2-135M into GGUF adapters, so that llama-server can be measured on the same ones.
//! For plain LoRA in bf16 with one rank and one alpha, which is what [`super::adapters::make`] writes.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use rootstock_formats::gguf::Value;
use serde_json::Value as Json;

use super::gguf::{self, Tensor};

const HEADS: usize = 9;
const KV_HEADS: usize = 3;
const F16: u32 = 1;

/// Writes `NAME.gguf` for every folder `NAME` in `from`; keeps those that are there.
///
/// # Errors
/// A folder holds something else, or a file cannot be written.
pub fn convert_all(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let folder = entry?.path();
        let Some(name) = folder.file_name().filter(|_| folder.is_dir()) else {
            continue;
        };
        let target = to.join(name).with_extension("gguf");
        if !target.exists() {
            convert(&folder, &target).with_context(|| folder.display().to_string())?;
        }
    }
    Ok(())
}

fn convert(folder: &Path, target: &Path) -> Result<()> {
    let config: Json = serde_json::from_slice(&fs::read(folder.join("adapter_config.json"))?)?;
    for field in ["use_rslora", "use_dora", "rank_pattern", "alpha_pattern"] {
        let plain = matches!(&config[field], Json::Null | Json::Bool(false))
            || config[field].as_object().is_some_and(serde_json::Map::is_empty);
        ensure!(plain, "{field} is not supported");
    }
    let alpha = config["lora_alpha"].as_f64().context("lora_alpha")? as f32;
    let text = |text: &str| Value::String(text.to_owned());
    let metadata = [
        ("general.architecture".to_owned(), text("llama")),
        ("general.type".to_owned(), text("adapter")),
        ("adapter.type".to_owned(), text("lora")),
        ("adapter.lora.alpha".to_owned(), Value::F32(alpha)),
    ];
    let file = fs::read(folder.join("adapter_model.safetensors"))?;
    let start = 8 + usize::try_from(u64::from_le_bytes(*file.first_chunk().context("a length")?))?;
    let header: Json = serde_json::from_slice(file.get(8..start).context("a header")?)?;
    let (mut tensors, mut values) = (Vec::new(), Vec::new());
    for (name, entry) in header.as_object().context("a header")? {
        if name == "__metadata__" {
            continue;
        }
        ensure!(entry["dtype"] == "BF16", "{name} is {}", entry["dtype"]);
        let number = |list: &str, index: usize| entry[list][index].as_u64().map(|number| number as usize);
        let (rows, columns) = number("shape", 0).zip(number("shape", 1)).context("a shape")?;
        let (first, last) = number("data_offsets", 0)
            .zip(number("data_offsets", 1))
            .context("offsets")?;
        let bytes = file.get(start + first..start + last).context("data")?;
        let (name, heads) = renamed(name)?;
        tensors.push(Tensor {
            name,
            dimensions: vec![columns, rows],
            kind: F16,
            bytes: bytes.len(),
        });
        values.push(halves(bytes, columns, &order(rows, heads)));
    }
    gguf::write(target, &metadata, &tensors, |index| std::mem::take(&mut values[index]))
}

/// llama.cpp's name, and the heads of a second matrix whose rows its rotary embedding wants in another order.
fn renamed(name: &str) -> Result<(String, Option<usize>)> {
    let parts = name.strip_prefix("base_model.model.model.layers.").unwrap_or_default();
    let (layer, rest) = parts.split_once('.').context(name.to_owned())?;
    let (module, half) = rest
        .strip_suffix(".weight")
        .and_then(|rest| rest.split_once(".lora_"))
        .context(name.to_owned())?;
    let (theirs, heads) = match module {
        "self_attn.q_proj" => ("attn_q", Some(HEADS)),
        "self_attn.k_proj" => ("attn_k", Some(KV_HEADS)),
        "self_attn.v_proj" => ("attn_v", None),
        "self_attn.o_proj" => ("attn_output", None),
        "mlp.gate_proj" => ("ffn_gate", None),
        "mlp.up_proj" => ("ffn_up", None),
        "mlp.down_proj" => ("ffn_down", None),
        _ => bail!("{name} is not of a linear layer"),
    };
    let half = half.to_lowercase();
    let heads = heads.filter(|_| half == "b");
    Ok((format!("blk.{layer}.{theirs}.weight.lora_{half}"), heads))
}

/// Which row goes where: pairs of a head side by side instead of in halves.
fn order(rows: usize, heads: Option<usize>) -> Vec<usize> {
    let Some(heads) = heads else {
        return (0..rows).collect();
    };
    let width = rows / heads;
    let from = |row: usize| row / width * width + row % 2 * (width / 2) + row % width / 2;
    (0..rows).map(from).collect()
}

/// bf16 rows in a new order, in IEEE halves.
fn halves(bytes: &[u8], columns: usize, order: &[usize]) -> Vec<u8> {
    let row = |&row: &usize| &bytes[row * columns * 2..(row + 1) * columns * 2];
    let value = |pair: &[u8]| half::f16::from_f32(half::bf16::from_le_bytes([pair[0], pair[1]]).to_f32());
    let words = order.iter().flat_map(|from| row(from).chunks_exact(2));
    words.flat_map(|pair| value(pair).to_le_bytes()).collect()
}
