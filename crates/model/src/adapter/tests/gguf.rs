//! GGUF LoRA files, written here by hand as llama.cpp's converter writes them.

use std::fs;
use std::path::PathBuf;

use serde_json::json;
use tempfile::TempDir;

use super::folders::*;
use crate::adapter::{Adapter, AdapterError, AdapterErrorCode as Code};
use crate::{ArchSpec, Projection, Site};

/// GGUF's number for a type of value.
enum Meta {
    Text(&'static str),
    Float(f32),
    Integers(Vec<u32>),
}

struct Builder {
    dir: TempDir,
    spec: ArchSpec,
    metadata: Vec<(String, Meta)>,
    tensors: Vec<(String, u32, Vec<usize>, Vec<u8>)>,
}

impl Builder {
    fn new(spec: ArchSpec, architecture: &'static str) -> Self {
        let metadata = vec![
            ("general.type".to_owned(), Meta::Text("adapter")),
            ("general.architecture".to_owned(), Meta::Text(architecture)),
            ("adapter.type".to_owned(), Meta::Text("lora")),
            ("adapter.lora.alpha".to_owned(), Meta::Float(4.0)),
            ("general.name".to_owned(), Meta::Text("anything")),
        ];
        Self {
            dir: TempDir::new().unwrap(),
            spec,
            metadata,
            tensors: Vec::new(),
        }
    }

    fn meta(mut self, key: &str, value: Meta) -> Self {
        self.metadata.retain(|(known, _)| known != key);
        self.metadata.push((key.to_owned(), value));
        self
    }

    fn tensor(mut self, name: &str, shape: &[usize]) -> Self {
        self.tensors
            .push((name.to_owned(), 0, shape.to_vec(), numbered(shape).2));
        self
    }

    fn pair(self, name: &str, a: [usize; 2], b: [usize; 2]) -> Self {
        self.tensor(&format!("{name}.weight.lora_a"), &a)
            .tensor(&format!("{name}.weight.lora_b"), &b)
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("tenant.gguf")
    }

    fn write(self) -> Self {
        let text = |out: &mut Vec<u8>, text: &str| {
            out.extend((text.len() as u64).to_le_bytes());
            out.extend(text.as_bytes());
        };
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            text(&mut out, key);
            match value {
                Meta::Text(value) => {
                    out.extend(8u32.to_le_bytes());
                    text(&mut out, value);
                }
                Meta::Float(value) => {
                    out.extend(6u32.to_le_bytes());
                    out.extend(value.to_le_bytes());
                }
                Meta::Integers(values) => {
                    out.extend(9u32.to_le_bytes());
                    out.extend(4u32.to_le_bytes());
                    out.extend((values.len() as u64).to_le_bytes());
                    values.iter().for_each(|value| out.extend(value.to_le_bytes()));
                }
            }
        }
        let mut data = Vec::new();
        for (name, kind, shape, bytes) in &self.tensors {
            text(&mut out, name);
            out.extend((shape.len() as u32).to_le_bytes());
            shape
                .iter()
                .rev()
                .for_each(|&size| out.extend((size as u64).to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend((data.len() as u64).to_le_bytes());
            data.extend(bytes);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(data);
        fs::write(self.path(), out).unwrap();
        self
    }

    fn load(&self) -> Result<Adapter, AdapterError> {
        load(&self.path(), &self.spec)
    }

    fn loaded(self) -> Adapter {
        let file = self.write();
        let adapter = file.load().unwrap();
        let (by_file, by_folder) = (
            inspect(&file.path(), &file.spec).unwrap(),
            inspect(file.dir.path(), &file.spec).unwrap(),
        );
        assert_eq!(
            (by_file.max_rank, by_folder.max_rank),
            (adapter.max_rank, adapter.max_rank)
        );
        assert_eq!(
            by_file.tensor_bytes,
            adapter.effects.iter().map(bytes_of).sum::<usize>() as u64
        );
        adapter
    }

    fn refused(self, code: Code, facts: &[&str]) {
        let file = self.write();
        assert_refusal(&inspect(&file.path(), &file.spec).map(|_| ()).unwrap_err(), code, facts);
        assert_refusal(&file.load().map(|_| ()).unwrap_err(), code, facts);
    }
}

fn llama() -> Builder {
    Builder::new(tiny(), "llama").pair("blk.0.attn_q", [2, 8], [8, 2])
}

#[test]
fn pairs_are_read_with_alpha_over_rank_and_rows_put_back() {
    let adapter = llama()
        .pair("blk.1.attn_v", [4, 8], [4, 4])
        .pair("output", [2, 8], [32, 2])
        .loaded();
    let query = low_rank(&adapter.effects[0]);
    assert_eq!((query.scale, adapter.max_rank), (2.0, 4));
    assert_eq!(values(&query.a), rows(0..2, 8));
    // Heads of 4: halves interleaved in the file.
    let row = |row: usize| [row as f32 * 2.0 + 1.0, row as f32 * 2.0 + 2.0];
    let expected: Vec<f32> = [0, 2, 1, 3, 4, 6, 5, 7].into_iter().flat_map(row).collect();
    assert_eq!(values(&query.b), (8, 2, expected));
    let value = low_rank(&adapter.effects[1]);
    assert_eq!(
        (value.site, value.scale),
        (
            Site::Layer {
                layer: 1,
                projection: Projection::Value
            },
            1.0
        )
    );
    assert_eq!(values(&value.b), rows(0..4, 4));
    assert_eq!(low_rank(&adapter.effects[2]).site, Site::Output);
}

#[test]
fn the_same_delta_has_the_same_hash_from_either_container() {
    let gguf = Builder::new(of_family("qwen2", |_| {}), "qwen2")
        .pair("blk.0.attn_q", [2, 8], [8, 2])
        .loaded();
    let peft = FolderBuilder::on(of_family("qwen2", |_| {}), json!(["0.self_attn.q_proj"]))
        .tensor(&format!("{Q0}.lora_A.weight"), numbered(&[2, 8]))
        .tensor(&format!("{Q0}.lora_B.weight"), numbered(&[8, 2]))
        .loaded();
    assert_eq!(gguf.hash, peft.hash);
}

#[test]
fn fused_maps_and_embeddings_have_their_own_shapes() {
    let adapter = Builder::new(of_family("phi3", |_| {}), "phi3")
        .pair("blk.0.attn_qkv", [2, 8], [16, 2])
        .pair("blk.0.ffn_up", [2, 8], [24, 2])
        .pair("token_embd", [32, 2], [8, 2])
        .loaded();
    assert_eq!(adapter.effects.len(), 6);
    let embedding = low_rank(&adapter.effects[0]);
    assert_eq!(
        (embedding.site, values(&embedding.a)),
        (Site::Embedding, turned(0..2, [32, 2]))
    );
    assert_eq!(values(&low_rank(&adapter.effects[2]).b), rows(8..12, 2));
}

#[test]
fn conv1d_pairs_are_put_back_where_the_file_tells_that_they_are_turned() {
    let turned_file = Builder::new(gpt2(), "gpt2")
        .pair("blk.0.attn_qkv", [2, 24], [8, 2])
        .pair("blk.0.attn_output", [2, 8], [8, 2])
        .loaded();
    let query = low_rank(&turned_file.effects[0]);
    assert_eq!(
        (values(&query.a), values(&query.b)),
        (turned(0..2, [8, 2]), turned(0..8, [2, 24]))
    );
    let output = low_rank(&turned_file.effects[3]);
    assert_eq!(
        (values(&output.a), values(&output.b)),
        (turned(0..2, [8, 2]), turned(0..8, [2, 8]))
    );
    let natural = Builder::new(gpt2(), "gpt2")
        .pair("blk.0.attn_qkv", [2, 8], [24, 2])
        .loaded();
    assert_eq!(values(&low_rank(&natural.effects[1]).b), rows(8..16, 2));
    let undecided = Builder::new(gpt2(), "gpt2").pair("blk.0.attn_output", [2, 8], [8, 2]);
    undecided.refused(Code::ShapeMismatch, &["attn_output", "cannot be told"]);
    let both = Builder::new(gpt2(), "gpt2")
        .pair("blk.0.attn_qkv", [2, 24], [8, 2])
        .pair("blk.0.ffn_up", [2, 8], [12, 2]);
    both.refused(Code::ShapeMismatch, &["cannot be told"]);
}

#[test]
fn without_alpha_the_scale_is_one() {
    assert_eq!(
        low_rank(&llama().meta("adapter.lora.alpha", Meta::Float(0.0)).loaded().effects[0]).scale,
        1.0
    );
    let mut none = llama();
    none.metadata.retain(|(key, _)| key != "adapter.lora.alpha");
    assert_eq!(low_rank(&none.loaded().effects[0]).scale, 1.0);
}

#[test]
fn blocks_of_eight_bits_are_decoded() {
    let mut file = Builder::new(of_family("qwen2", |layer| layer.attention.kv_heads = 2), "qwen2");
    file.spec.hidden_size = 32;
    file.spec
        .layers
        .iter_mut()
        .for_each(|layer| layer.attention.head_dim = 16);
    let block = |scale: f32| {
        let values = (0..32u8).map(|value| value.wrapping_sub(16));
        half::f16::from_f32(scale)
            .to_le_bytes()
            .into_iter()
            .chain(values)
            .collect::<Vec<u8>>()
    };
    file.tensors
        .push(("blk.0.attn_q.weight.lora_a".to_owned(), 8, vec![1, 32], block(0.5)));
    let file = file.tensor("blk.0.attn_q.weight.lora_b", &[32, 1]);
    let adapter = file.loaded();
    let expected: Vec<f32> = (0..32).map(|value| 0.5 * (value as f32 - 16.0)).collect();
    assert_eq!(values(&low_rank(&adapter.effects[0]).a), (1, 32, expected));
}

#[test]
fn other_files_and_bases_are_refused() {
    llama()
        .meta("general.type", Meta::Text("model"))
        .refused(Code::UnsupportedType, &["general.type", "\"model\""]);
    llama()
        .meta("adapter.type", Meta::Text("control"))
        .refused(Code::UnsupportedType, &["adapter.type"]);
    llama()
        .meta("general.architecture", Meta::Text("qwen2"))
        .refused(Code::WrongBase, &["\"llama\"", "\"qwen2\""]);
    let tokens = Meta::Integers(vec![1]);
    llama()
        .meta("adapter.alora.invocation_tokens", tokens)
        .refused(Code::UnsupportedField, &["adapter.alora.invocation_tokens"]);
    llama()
        .meta("adapter.alora.invocation_tokens", Meta::Integers(vec![]))
        .loaded();
    llama().meta("adapter.lora.prompt_prefix", Meta::Text("x")).loaded();
    llama()
        .meta("adapter.lora.beta", Meta::Float(1.0))
        .refused(Code::UnsupportedField, &["adapter.lora.beta"]);
    llama()
        .meta("adapter.lora.alpha", Meta::Float(f32::NAN))
        .refused(Code::NotFinite, &["adapter.lora.alpha"]);
    llama()
        .meta("adapter.lora.alpha", Meta::Text("4"))
        .refused(Code::Malformed, &["adapter.lora.alpha"]);
    Builder::new(of_family("unheard", |_| {}), "llama").refused(Code::UnmappedTensor, &["unheard"]);
    Builder::new(tiny(), "llama").refused(Code::UnmappedTensor, &["got none"]);
}

#[test]
fn tensors_must_map_pair_and_fit() {
    for name in [
        "blk.0.attn_norm.weight",
        "blk.2.attn_q.weight.lora_a",
        "blk.0.attn_qkv.weight.lora_a",
        "output_norm.weight.lora_a",
    ] {
        let code = Code::UnmappedTensor;
        llama().tensor(name, &[2, 8]).refused(code, &[name]);
    }
    for (one, other) in [("a", "b"), ("b", "a")] {
        let fact = format!("blk.1.attn_q.weight.lora_{other}: expected beside blk.1.attn_q.weight.lora_{one}");
        llama()
            .tensor(&format!("blk.1.attn_q.weight.lora_{one}"), &[2, 8])
            .refused(Code::HalfPair, &[&fact]);
    }
    llama()
        .pair("blk.1.attn_q", [2, 9], [8, 2])
        .refused(Code::ShapeMismatch, &["[2, 8] (rank 2)", "[2, 9]"]);
    llama()
        .pair("blk.1.attn_q", [3, 8], [8, 2])
        .refused(Code::ShapeMismatch, &["[2, 8] (rank 2)", "[3, 8]"]);
    llama()
        .pair("blk.1.attn_q", [65, 8], [8, 65])
        .refused(Code::RankTooLarge, &["blk.1.attn_q", "at most 64, got 65"]);
    let mut halves = llama();
    halves.tensors[0].1 = 24;
    halves.tensors[0].3.truncate(16);
    halves.refused(Code::Malformed, &["blk.0.attn_q.weight.lora_a"]);
    let mut infinite = llama();
    infinite.tensors[1].3[12..16].copy_from_slice(&f32::NAN.to_le_bytes());
    let infinite = infinite.write();
    assert_refusal(
        &infinite.load().unwrap_err(),
        Code::NotFinite,
        &["tenant.gguf", "lora_b", "[1, 1]"],
    );
}

#[test]
fn a_folder_holds_one_file_or_a_peft_adapter() {
    let file = llama().write();
    fs::write(file.dir.path().join("rootstock.toml"), "system_prompt = \"x\"").unwrap();
    let defaults = load(file.dir.path(), &file.spec).unwrap().defaults;
    assert_eq!(defaults.system_prompt.as_deref(), Some("x"));
    assert_eq!(
        file.load().unwrap().defaults.system_prompt,
        None,
        "a file by itself has no folder"
    );
    fs::copy(file.path(), file.dir.path().join("second.gguf")).unwrap();
    let refused = load(file.dir.path(), &file.spec).unwrap_err();
    assert_refusal(&refused, Code::Malformed, &["second.gguf", "tenant.gguf"]);
    fs::write(file.dir.path().join("adapter_config.json"), "{").unwrap();
    let refused = load(file.dir.path(), &file.spec).unwrap_err();
    assert_refusal(&refused, Code::Malformed, &["adapter_config.json"]);
    let missing = load(&file.dir.path().join("none.gguf"), &file.spec).unwrap_err();
    assert_refusal(&missing, Code::NotFound, &["none.gguf"]);
}

#[test]
fn no_damaged_byte_brings_a_panic_or_an_effect_that_does_not_fit() {
    let file = llama().write();
    let whole = fs::read(file.path()).unwrap();
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        fs::write(file.path(), &damaged).unwrap();
        if let Ok(adapter) = file.load() {
            adapter
                .effects
                .iter()
                .for_each(|effect| assert_fits(effect, &file.spec));
        }
        fs::write(file.path(), &whole[..at]).unwrap();
        assert!(file.load().is_err(), "cut to {at} bytes");
    }
}
