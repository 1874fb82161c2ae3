//! Folders as files: every tiny checkpoint is written, read back, and compared bit by bit.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::WeightSource;

const NAMES: [&str; 9] = [
    "gemma3",
    "gpt2",
    "llama-bias",
    "llama3-rope",
    "mistral",
    "phi3",
    "qwen2",
    "qwen3",
    "smollm3",
];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

/// A tiny checkpoint with its tokenizer.
fn folder(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for from in [fixtures().join("tiny").join(name), fixtures().join("tiny-tokenizer")] {
        let files = fs::read_dir(from).unwrap().map(Result::unwrap);
        for entry in files.filter(|entry| entry.path().is_file()) {
            fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
        }
    }
    let _ = fs::remove_file(dir.path().join("expected.safetensors"));
    dir
}

/// The source's weights as they are.
struct Plain<'a>(&'a Checkpoint);

impl EncodedSource for Plain<'_> {
    fn encoded(&mut self, role: Role, dtype: DType) -> Result<Vec<u8>, ModelError> {
        let (mut values, mut bytes) = (Vec::new(), Vec::new());
        self.0.append(role, &mut values)?;
        crate::append_bytes(dtype, &values, &mut bytes);
        Ok(bytes)
    }
}

#[test]
fn a_folder_becomes_a_file_with_the_same_architecture_tokens_and_weights() {
    for name in NAMES {
        let dir = folder(name);
        let source = Checkpoint::open(dir.path()).unwrap();
        let file = GgufFile::of(&source).unwrap_or_else(|error| panic!("{name}: {error}"));
        let path = dir.path().join("model.gguf");
        let types = vec![DType::F32; file.tensors().len()];
        file.write(&path, &types, &mut Plain(&source))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(
            fs::metadata(&path).unwrap().len(),
            file.bytes(&types).unwrap(),
            "{name}"
        );
        let read = Checkpoint::open(&path).unwrap();
        for role in Role::all(source.spec()) {
            let [expected, found] = [&source, &read].map(|checkpoint| {
                let mut values = Vec::new();
                checkpoint.append(role, &mut values).unwrap();
                values
            });
            assert_eq!(found, expected, "{name}: {role}");
        }
        assert_eq!(
            read.chat_template().unwrap().is_some(),
            source.chat_template().unwrap().is_some()
        );
        // A file is written from a file as well, with what it says of itself.
        let again = dir.path().join("again.gguf");
        GgufFile::of(&read)
            .unwrap()
            .write(&again, &types, &mut Plain(&read))
            .unwrap();
        assert_eq!(
            fs::read(&path).unwrap().len(),
            fs::read(&again).unwrap().len(),
            "{name}"
        );
        assert_eq!(Checkpoint::open(&again).unwrap().spec(), read.spec(), "{name}");
    }
}

#[test]
fn what_cannot_be_written_leaves_nothing_behind() {
    let dir = folder("qwen2");
    let source = Checkpoint::open(dir.path()).unwrap();
    let file = GgufFile::of(&source).unwrap();
    let path = dir.path().join("model.gguf");
    fs::write(&path, b"stock").unwrap();
    // Rows of 64 are no blocks of 256.
    let types = vec![DType::Q4_K; file.tensors().len()];
    let error = file.write(&path, &types, &mut Plain(&source)).unwrap_err();
    assert!(error.to_string().contains("256"), "{error}");
    let few = &[DType::F32];
    assert!(file.write(&path, few, &mut Plain(&source)).is_err());
    assert_eq!(fs::read(&path).unwrap(), b"stock");
    assert!(!dir.path().join("model.gguf.part").exists());
}
