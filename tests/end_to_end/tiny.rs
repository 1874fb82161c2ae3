//! The tiny checkpoints as folders that can be served, and what the reference says of them in log-probabilities.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::server::{Server, fixture};

/// Every architecture of tests/fixtures/tiny.
pub const ARCHITECTURES: [&str; 9] = [
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

/// Copies the regular files of a folder.
pub fn copy_files(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        if entry.path().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// A folder as people download it: the checkpoint `arch` and the tokenizer.
pub fn write_model(arch: &str, to: &Path) {
    copy_files(&fixture("tiny").join(arch), to);
    fs::remove_file(to.join("expected.safetensors")).unwrap();
    copy_files(&fixture("tiny-tokenizer"), to);
}

/// Values of an expected.safetensors.
pub struct Expected(BTreeMap<String, Vec<[u8; 4]>>);

impl Expected {
    pub fn read(path: &Path) -> Self {
        let file = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        let header: BTreeMap<String, Value> = serde_json::from_slice(&file[8..8 + length]).unwrap();
        let tensors = header.into_iter().filter(|(name, _)| name != "__metadata__");
        let words = tensors.map(|(name, info)| {
            let at = |index: usize| 8 + length + info["data_offsets"][index].as_u64().unwrap() as usize;
            let words = file[at(0)..at(1)].chunks_exact(4).map(|word| word.try_into().unwrap());
            (name, words.collect())
        });
        Self(words.collect())
    }

    /// Of the base `arch`.
    pub fn of(arch: &str) -> Self {
        Self::read(&fixture("tiny").join(arch).join("expected.safetensors"))
    }

    /// Tensors of a file of f32.
    #[cfg(feature = "candle")]
    pub fn floats(&self) -> BTreeMap<String, Vec<f32>> {
        let tensors = self.0.iter();
        tensors
            .map(|(name, words)| {
                (
                    name.clone(),
                    words.iter().map(|&word| f32::from_le_bytes(word)).collect(),
                )
            })
            .collect()
    }

    pub fn ids(&self) -> Vec<u32> {
        self.0["ids"].iter().map(|&word| u32::from_le_bytes(word)).collect()
    }

    /// Log-probability of each of `ids` after the first, given those before it.
    pub fn logprobs(&self, name: &str, ids: &[u32]) -> Vec<f64> {
        let logits: Vec<f64> = self.0[name]
            .iter()
            .map(|&word| f32::from_le_bytes(word).into())
            .collect();
        let rows = logits.chunks_exact(256).zip(&ids[1..]);
        rows.map(|(row, &id)| row[id as usize] - row.iter().map(|logit| logit.exp()).sum::<f64>().ln())
            .collect()
    }
}

/// The same as the server gives it, or its refusal.
pub fn try_scored(server: &Server, body: &Value) -> Result<Vec<f64>, String> {
    let reply = server.post("/v1/completions", body);
    if reply.status != 200 {
        return Err(format!("HTTP {} {}", reply.status, reply.text));
    }
    let response = reply.json();
    let logprobs = response["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap();
    Ok(logprobs[1..].iter().map(|value| value.as_f64().unwrap()).collect())
}

/// A request for log-probabilities of `ids`.
pub fn scoring(model: &str, ids: &[u32]) -> Value {
    json!({"model": model, "prompt": ids, "max_tokens": 0, "echo": true, "logprobs": 1})
}

/// Log-probabilities that the server must give.
pub fn scored(server: &Server, model: &str, ids: &[u32]) -> Vec<f64> {
    try_scored(server, &scoring(model, ids)).unwrap_or_else(|error| panic!("{model}: {error}"))
}

/// Largest and mean distance.
pub fn distance(got: &[f64], expected: &[f64]) -> (f64, f64) {
    assert_eq!(got.len(), expected.len());
    let differences = || got.iter().zip(expected).map(|(got, expected)| (got - expected).abs());
    let mean = differences().sum::<f64>() / got.len() as f64;
    (differences().fold(0.0, f64::max), mean)
}
