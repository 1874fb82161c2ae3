//! A model that is none: the vocabulary is the 256 bytes and two special tokens, and the runner counts. After the byte
//! `b` comes `b + 1`, plus the scale of each adapter; after `#` a crab, byte by byte; after `Z` the end token.

use std::path::Path;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use rootstock_engine::Runner;
use rootstock_engine::runner::{
    AdapterPreparer, BatchView, Capabilities, InputRow, Logits, OutputRows, PreparedAdapter, RunnerError, SequenceView,
};
use rootstock_model::adapter::{Adapter, AdapterError};
use rootstock_model::text::{BpeVocabulary, Cut, TokenKind, Tokenizer};
use rootstock_model::{
    Activation, ArchSpec, AttentionSpec, ContentHash, FeedForward, LayerSpec, NormKind, NormSpec, Position,
    ProjectionSet,
};
use serde_json::json;

use super::world::CONTEXT;

pub(super) const END: u32 = 256;
pub(super) const VOCAB: usize = 258;
/// A rank-1 adapter's input and output width.
pub(super) const WIDTH: usize = 8;

/// Tokens are bytes; the special ones are the end and the beginning of a turn.
pub(super) fn tokenizer() -> Tokenizer {
    let printable = |byte: u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut hidden = 256..;
    let mut spell = |byte: u8| match printable(byte) {
        true => char::from(byte),
        false => char::from_u32(hidden.next().unwrap()).unwrap(),
    };
    let mut tokens: Vec<String> = (0..=255).map(|byte| spell(byte).to_string()).collect();
    tokens.extend(["<|end|>".to_owned(), "<|turn|>".to_owned()]);
    let mut kinds = vec![TokenKind::Normal; 256];
    kinds.extend([TokenKind::Special; 2]);
    let vocabulary = BpeVocabulary {
        tokens,
        kinds,
        merges: Vec::new(),
        cut: Cut::Gpt2,
        prefix: None,
        end_tokens: vec![END],
    };
    Tokenizer::from_bpe(&vocabulary).unwrap()
}

/// Of that width; adapters have [`WIDTH`].
pub(super) fn arch(width: usize) -> ArchSpec {
    let layer = LayerSpec {
        attention: AttentionSpec {
            heads: 1,
            kv_heads: 1,
            head_dim: width,
            scale: 1.0,
            position: Position::Rotary {
                inverse_frequencies: vec![1.0; width / 2].into(),
                magnitude: 1.0,
            },
            window: None,
            head_norms: false,
        },
        feed_forward: FeedForward::Gated {
            inner_size: width,
            activation: Activation::Silu,
        },
        post_norms: false,
        biases: ProjectionSet::NONE,
    };
    ArchSpec {
        family: "llama".to_owned(),
        vocab_size: VOCAB,
        hidden_size: width,
        context_length: CONTEXT,
        embedding_scale: 1.0,
        position_embeddings: None,
        norm: NormSpec {
            kind: NormKind::Rms,
            epsilon: 1e-5,
        },
        tied_output: true,
        layers: vec![layer],
    }
}

/// A PEFT folder whose B is full of `value`.
pub(super) fn write_adapter(dir: &Path, value: f32) {
    std::fs::create_dir_all(dir).unwrap();
    let config = json!({"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q_proj"]});
    std::fs::write(dir.join("adapter_config.json"), config.to_string()).unwrap();
    let name = |side| format!("base_model.model.model.layers.0.self_attn.q_proj.lora_{side}.weight");
    let bytes = WIDTH * 4;
    let header = json!({
        name("A"): {"dtype": "F32", "shape": [1, WIDTH], "data_offsets": [0, bytes]},
        name("B"): {"dtype": "F32", "shape": [WIDTH, 1], "data_offsets": [bytes, 2 * bytes]},
    })
    .to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.into_bytes());
    let values = [1.0; WIDTH].into_iter().chain([value; WIDTH]);
    file.extend(values.flat_map(f32::to_le_bytes));
    std::fs::write(dir.join("adapter_model.safetensors"), file).unwrap();
}

/// Holds the runner between steps.
#[derive(Clone, Default)]
pub(super) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub(super) fn close(&self) {
        *self.0.0.lock() = true;
    }

    pub(super) fn open(&self) {
        *self.0.0.lock() = false;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let mut closed = self.0.0.lock();
        while *closed {
            self.0.1.wait(&mut closed);
        }
    }
}

pub(super) struct Counter {
    pub(super) gate: Gate,
    /// From a byte to the next.
    pub(super) step: u32,
}

/// `!!` in a prompt makes its step fail.
const FAULT: u32 = 33;

impl Runner for Counter {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            vocab_size: VOCAB,
            max_context: CONTEXT,
            block_tokens: 16,
            blocks: 512,
            prompts_apart: false,
        }
    }

    fn preparer(&self) -> Arc<dyn AdapterPreparer> {
        Arc::new(HashOnly)
    }

    fn step(&mut self, batch: &BatchView<'_>, logits: &mut Logits) -> Result<(), RunnerError> {
        self.gate.pass();
        logits.values.clear();
        for sequence in batch.sequences {
            let fault = InputRow::Token(FAULT);
            if sequence.inputs.windows(2).any(|pair| pair == [fault, fault]) {
                return Err(RunnerError("asked for".to_owned()));
            }
            let rows = match sequence.outputs {
                OutputRows::None => &[],
                OutputRows::Last => &sequence.inputs[sequence.inputs.len() - 1..],
                OutputRows::All => sequence.inputs,
            };
            for row in rows {
                logits.values.extend(logits_after(row, sequence, self.step));
            }
        }
        Ok(())
    }
}

/// The next token has 10, the one after it 8, all others 0.
fn logits_after(row: &InputRow, sequence: &SequenceView<'_>, step: u32) -> [f32; VOCAB] {
    let InputRow::Token(last) = *row;
    let shift: f32 = sequence.adapters.iter().map(|adapter| adapter.scale).sum();
    let next = match last as u8 {
        _ if last > 255 => 97,
        b'#' => 0xF0,
        0xF0 => 0x9F,
        0x9F => 0xA6,
        0xA6 => 0x80,
        0x80 => u32::from(b'!'),
        b'Z' => END,
        byte => (u32::from(byte) + step + shift as u32) % 256,
    };
    let mut logits = [0.0; VOCAB];
    logits[next as usize] = 10.0;
    logits[(next as usize + 1) % VOCAB] = 8.0;
    logits
}

struct HashOnly;

struct Prepared(ContentHash);

impl AdapterPreparer for HashOnly {
    fn prepare(&self, adapter: &Adapter) -> Result<Arc<dyn PreparedAdapter>, AdapterError> {
        Ok(Arc::new(Prepared(adapter.hash)))
    }
}

impl PreparedAdapter for Prepared {
    fn bytes(&self) -> usize {
        1000
    }

    fn content_hash(&self) -> ContentHash {
        self.0
    }
}
