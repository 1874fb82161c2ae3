//! What strangers may send, fed to what reads it: each target returns whether the input was accepted, and must not panic.
//! Shared by the bounded run in `cargo test` and by the libFuzzer targets.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::FIXTURES;
use rootstock_formats::gguf::Gguf;
use rootstock_model::adapter::{AdapterLimits, Base, inspect_adapter, load_adapter};
use rootstock_model::text::{ChatTemplate, Markers, Tokenizer, gguf, hf};
use rootstock_model::{ArchSpec, Checkpoint, ContentHash};
use serde_json::{Map, Value, json};

/// Rows of the embeddings that tokenizers are read for.
const ROWS: usize = 256;
/// Text with what tokenizers treat apart.
const TEXT: &str = "Hello  wörld, tôi là 7 🦊\n\n<s>x</s>\tdef f(): return 'ok'";

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(FIXTURES).join(path)
}

/// A folder of this process with one file that changes at every input; one input at a time.
struct Scratch {
    dir: PathBuf,
    turn: Mutex<()>,
}

impl Scratch {
    /// A folder with copies of the regular files of some fixtures.
    fn of(name: &str, fixtures: &[&str]) -> Self {
        let dir = std::env::temp_dir().join(format!("rootstock-fuzz-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        for from in fixtures {
            for entry in fs::read_dir(fixture(from)).unwrap().map(Result::unwrap) {
                if entry.path().is_file() {
                    fs::copy(entry.path(), dir.join(entry.file_name())).unwrap();
                }
            }
        }
        Self {
            dir,
            turn: Mutex::new(()),
        }
    }

    /// Runs `read` on the folder with `input` as the file `name`.
    fn with<T>(&self, name: &str, input: &[u8], read: impl FnOnce(&Path) -> T) -> T {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        fs::write(self.dir.join(name), input).unwrap();
        read(&self.dir)
    }
}

macro_rules! scratch {
    ($name:literal, $($fixture:literal),*) => {{
        static SCRATCH: OnceLock<Scratch> = OnceLock::new();
        SCRATCH.get_or_init(|| Scratch::of($name, &[$($fixture),*]))
    }};
}

/// Opens what was written and asks for everything in it.
fn opens(path: &Path) -> bool {
    let Ok(checkpoint) = Checkpoint::open(path) else {
        return false;
    };
    let spec = checkpoint.spec();
    let matrices = [checkpoint.embedding(), checkpoint.output()];
    for (layer, described) in spec.layers.iter().enumerate() {
        for projection in described.projections() {
            let _ = (
                checkpoint.projection(layer, projection),
                checkpoint.bias(layer, projection),
            );
        }
        described.norms(layer).for_each(|site| drop(checkpoint.norm(site)));
    }
    matrices.iter().all(Result::is_ok)
}

/// config.json of a Hugging Face folder.
pub fn hf_config(input: &[u8]) -> bool {
    scratch!("config", "tiny/gemma3").with("config.json", input, opens)
}

/// config.json of one with layers of two kinds of rotary position, and another table of fields.
pub fn hf_config_gpt2(input: &[u8]) -> bool {
    scratch!("gpt2", "tiny/gpt2").with("config.json", input, opens)
}

/// model.safetensors.index.json beside the one file it may name.
pub fn safetensors_index(input: &[u8]) -> bool {
    let scratch = scratch!("index", "tiny/qwen3");
    let _ = fs::rename(
        scratch.dir.join("model.safetensors"),
        scratch.dir.join("model-00001-of-00001.safetensors"),
    );
    scratch.with("model.safetensors.index.json", input, opens)
}

/// A whole GGUF model, one part of a split one included.
pub fn gguf_model(input: &[u8]) -> bool {
    let scratch = scratch!("gguf",);
    scratch.with("model-00001-of-00002.gguf", input, |dir| {
        let path = dir.join("model-00001-of-00002.gguf");
        opens(&path)
    })
}

/// The tiny base that adapters are checked against.
fn base() -> &'static (ArchSpec, ContentHash) {
    static BASE: OnceLock<(ArchSpec, ContentHash)> = OnceLock::new();
    BASE.get_or_init(|| {
        let checkpoint = Checkpoint::open(&fixture("tiny/llama3-rope")).unwrap();
        (checkpoint.spec().clone(), checkpoint.hash())
    })
}

fn loads(path: &Path) -> bool {
    let (spec, hash) = base();
    let base = Base { spec, hash: *hash };
    let limits = AdapterLimits {
        max_rank: 64,
        max_bytes: 1 << 24,
    };
    let inspected = inspect_adapter(path, base, limits).is_ok();
    let loaded = load_adapter(path, base, limits).is_ok();
    assert!(inspected || !loaded, "the headers were refused, the whole was not");
    loaded
}

/// A GGUF adapter.
pub fn gguf_adapter(input: &[u8]) -> bool {
    scratch!("adapter",).with("adapter.gguf", input, |dir| loads(&dir.join("adapter.gguf")))
}

/// adapter_config.json of an adapter with every kind of effect on a base.
pub fn adapter_folder(input: &[u8]) -> bool {
    scratch!("folder", "tiny-adapters/saved-modules").with("adapter_config.json", input, loads)
}

/// rootstock.toml of an adapter.
pub fn adapter_defaults(input: &[u8]) -> bool {
    scratch!("defaults", "tiny/llama3-rope/adapter").with("rootstock.toml", input, loads)
}

/// Encodes and decodes; ids stay below the rows.
fn speaks(tokenizer: &Tokenizer) {
    if let Ok(ids) = tokenizer.encode(TEXT, true) {
        assert!(ids.iter().all(|&id| (id as usize) < ROWS));
        let _ = (tokenizer.decode(&ids, true), tokenizer.decode(&ids, false));
    }
    for id in 0..ROWS as u32 + 2 {
        let _ = (
            tokenizer.token_bytes(id),
            tokenizer.is_special(id),
            tokenizer.token_text(id),
        );
    }
}

/// tokenizer.json.
pub fn tokenizer_json(input: &[u8]) -> bool {
    scratch!("tokenizer", "tiny-tokenizer").with("tokenizer.json", input, |dir| {
        hf::tokenizer(dir, ROWS).inspect(speaks).is_ok()
    })
}

/// tokenizer_config.json.
pub fn tokenizer_config(input: &[u8]) -> bool {
    scratch!("settings", "tiny-tokenizer").with("tokenizer_config.json", input, |dir| {
        let template = hf::chat_template(dir).is_ok();
        hf::tokenizer(dir, ROWS).inspect(speaks).is_ok() && template
    })
}

/// Tokenizer and chat template in the metadata of a GGUF file.
pub fn gguf_tokenizer(input: &[u8]) -> bool {
    let Ok(file) = Gguf::parse(input) else { return false };
    let template = gguf::chat_template(&file).is_ok();
    gguf::tokenizer(&file, ROWS).inspect(speaks).is_ok() && template
}

/// A chat template, rendered with and without tools.
pub fn chat_template(input: &[u8]) -> bool {
    let Ok(source) = std::str::from_utf8(input) else {
        return false;
    };
    let Ok(template) = ChatTemplate::new(source, Markers::default()) else {
        return false;
    };
    let messages = [
        json!({"role": "system", "content": "Be brief."}),
        json!({"role": "user", "content": "tôi 🦊 {{ x }}"}),
        json!({"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]}),
        json!({"role": "tool", "content": "1"}),
    ];
    let tools = json!([{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]);
    let with_tools: Map<String, Value> = Map::from_iter([("tools".to_owned(), tools)]);
    let plain = template.render(&messages, true, &Map::new()).is_ok();
    let tools = template.render(&messages, false, &with_tools).is_ok();
    plain || tools
}
