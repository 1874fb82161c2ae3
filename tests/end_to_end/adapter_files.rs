//! Adapter folders made by the tests: fixtures with other values, and fixtures that are broken in one way.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

use crate::server::fixture_adapters;

/// A PEFT folder in memory.
#[derive(Clone)]
pub struct AdapterFiles {
    /// adapter_config.json
    pub config: Value,
    /// The header of adapter_model.safetensors.
    pub header: Map<String, Value>,
    /// Its tensors.
    pub data: Vec<u8>,
}

impl AdapterFiles {
    /// One of tests/fixtures/adapters.
    pub fn fixture(name: &str) -> Self {
        Self::read(&Path::new(fixture_adapters()).join(name))
    }

    /// Reads a folder.
    pub fn read(dir: &Path) -> Self {
        let config = fs::read_to_string(dir.join("adapter_config.json")).unwrap();
        let file = fs::read(dir.join("adapter_model.safetensors")).unwrap();
        let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        Self {
            config: serde_json::from_str(&config).unwrap(),
            header: serde_json::from_slice(&file[8..8 + length]).unwrap(),
            data: file[8 + length..].to_vec(),
        }
    }

    /// Another adapter of the same shapes and statistics: signs of the B matrices flipped at random. Signs flip
    /// without rounding in every element type.
    pub fn variant(&self, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut variant = self.clone();
        for name in self.tensors(".lora_B.weight") {
            let width = self.element_bytes(&name);
            for element in variant.bytes_mut(&name).chunks_exact_mut(width) {
                element[width - 1] ^= if random.bool() { 0x80 } else { 0 };
            }
        }
        variant
    }

    /// Names of the tensors that end so, sorted.
    pub fn tensors(&self, suffix: &str) -> Vec<String> {
        self.header
            .keys()
            .filter(|name| name.ends_with(suffix))
            .cloned()
            .collect()
    }

    /// Bytes of an element of the tensor.
    pub fn element_bytes(&self, name: &str) -> usize {
        match self.header[name]["dtype"].as_str() {
            Some("F32") => 4,
            Some("F16" | "BF16") => 2,
            other => panic!("{name} has element type {other:?}"),
        }
    }

    /// Bytes of the tensor.
    pub fn bytes_mut(&mut self, name: &str) -> &mut [u8] {
        let offset = |index: usize| self.header[name]["data_offsets"][index].as_u64().unwrap() as usize;
        let (from, to) = (offset(0), offset(1));
        &mut self.data[from..to]
    }

    /// The weights file.
    pub fn safetensors(&self) -> Vec<u8> {
        let mut header = serde_json::to_vec(&self.header).unwrap();
        header.resize(header.len().next_multiple_of(8), b' ');
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header);
        file.extend(&self.data);
        file
    }

    /// Writes the folder, made if need be.
    pub fn write(&self, dir: &Path) {
        fs::create_dir_all(dir).unwrap();
        fs::write(
            dir.join("adapter_config.json"),
            serde_json::to_vec_pretty(&self.config).unwrap(),
        )
        .unwrap();
        fs::write(dir.join("adapter_model.safetensors"), self.safetensors()).unwrap();
    }
}
