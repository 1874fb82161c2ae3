//! A server without a model: the vocabulary is the 256 bytes and two special tokens, and the runner counts. After the
//! byte `b` comes `b + 1`, plus the scale of each adapter; after `#` a crab, byte by byte; after `Z` the end token.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, StatusCode, header};
use axum::response::Response;
use parking_lot::{Condvar, Mutex};
use rootstock_engine::adapters::{AdapterStore, StoreSettings};
use rootstock_engine::runner::{
    AdapterPreparer, BatchView, Capabilities, InputRow, Logits, OutputRows, PreparedAdapter, RunnerError, SequenceView,
};
use rootstock_engine::{Engine, EngineSettings, Runner};
use rootstock_model::adapter::{Adapter, AdapterError, AdapterLimits};
use rootstock_model::text::{BpeVocabulary, ChatTemplate, Cut, Markers, TokenKind, Tokenizer};
use rootstock_model::{
    Activation, ArchSpec, AttentionSpec, ContentHash, FeedForward, LayerSpec, NormKind, NormSpec, Position,
};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::app::App;
use crate::{HttpLimits, Service};

pub(super) const BASE: &str = "base";
pub(super) const END: u32 = 256;
pub(super) const VOCAB: usize = 258;
pub(super) const CONTEXT: usize = 512;
pub(super) const BODY_LIMIT: usize = 64 << 10;
/// A rank-1 adapter's input and output width.
const WIDTH: usize = 8;

const TEMPLATE: &str = "{% for message in messages %}<|turn|>{{ message.role }}:{{ message.content }}\n{% endfor %}\
    {% if add_generation_prompt %}<|turn|>A{% endif %}";
const TOOL_TEMPLATE: &str = "{% if tools %}{{ tools | tojson }}{% endif %}{{ messages[0].content }}";

/// A service, the gate of its runner, and the folder its adapters come from.
pub(super) struct World {
    pub(super) app: Arc<App>,
    pub(super) router: Router,
    pub(super) gate: Gate,
    pub(super) roots: tempfile::TempDir,
}

/// What a test may choose.
pub(super) struct Setup {
    pub(super) max_sequences: usize,
    pub(super) max_waiting: usize,
    pub(super) keys: Vec<String>,
    pub(super) template: Option<&'static str>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            max_sequences: 16,
            max_waiting: 64,
            keys: Vec::new(),
            template: Some(TEMPLATE),
        }
    }
}

impl Setup {
    pub(super) fn with_tools() -> Self {
        Self {
            template: Some(TOOL_TEMPLATE),
            ..Self::default()
        }
    }
}

pub(super) fn world() -> World {
    World::new(Setup::default())
}

impl World {
    pub(super) fn new(setup: Setup) -> Self {
        let roots = tempfile::tempdir().unwrap();
        let (service, gate) = service(&setup, roots.path().to_owned());
        let app = App::new(service);
        Self {
            router: app.router(),
            app,
            gate,
            roots,
        }
    }

    pub(super) async fn send(&self, request: Request<Body>) -> Response {
        self.router.clone().oneshot(request).await.unwrap()
    }

    pub(super) async fn get(&self, path: &str) -> Reply {
        let request = Request::get(path).body(Body::empty()).unwrap();
        Reply::read(self.send(request).await).await
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Reply {
        self.post_bytes(path, body.to_string()).await
    }

    pub(super) async fn post_bytes(&self, path: &str, body: impl Into<Body>) -> Reply {
        Reply::read(self.send(post(path, body)).await).await
    }

    /// A completion with further fields, which must be answered.
    pub(super) async fn complete(&self, prompt: impl Into<Value>, fields: Value) -> Value {
        let reply = self.post("/v1/completions", &completion(prompt, fields)).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
        reply.json()
    }

    /// Writes an adapter and loads it over HTTP.
    pub(super) async fn load(&self, name: &str) -> Reply {
        write_adapter(&self.roots.path().join(name), 1.0);
        let body = json!({"lora_name": name, "lora_path": name});
        self.post("/v1/load_lora_adapter", &body).await
    }
}

pub(super) fn post(path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(header::CONTENT_TYPE, "application/json")
        .body(body.into())
        .unwrap()
}

/// A greedy completion of the base with further fields.
pub(super) fn completion(prompt: impl Into<Value>, fields: Value) -> Value {
    let body = json!({"model": BASE, "prompt": prompt.into(), "max_tokens": 3, "temperature": 0});
    merged(body, fields)
}

/// A greedy chat with further fields.
pub(super) fn chat(content: impl Into<Value>, fields: Value) -> Value {
    let messages = json!([{"role": "user", "content": content.into()}]);
    merged(
        json!({"model": BASE, "messages": messages, "max_tokens": 3, "temperature": 0}),
        fields,
    )
}

fn merged(mut body: Value, fields: Value) -> Value {
    let Value::Object(fields) = fields else {
        panic!("fields are an object")
    };
    body.as_object_mut().unwrap().extend(fields);
    body
}

/// A whole answer.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: axum::http::HeaderMap,
    pub(super) text: String,
}

impl Reply {
    pub(super) async fn read(response: Response) -> Self {
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, usize::MAX).await.unwrap();
        Self {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// Status, code and param of an error, whose shape is checked.
    pub(super) fn error(&self) -> (u16, String, Value) {
        let json = self.json();
        let error = json["error"].as_object().unwrap_or_else(|| panic!("{}", self.text));
        assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()));
        assert!(error["type"].is_string() && error.len() == 4, "{}", self.text);
        let code = error["code"].as_str().unwrap().to_owned();
        (self.status.as_u16(), code, error["param"].clone())
    }

    /// The JSON of each event before `[DONE]`, which must be the last.
    pub(super) fn events(&self) -> Vec<Value> {
        let mut data: Vec<&str> = self
            .text
            .split("\n\n")
            .filter_map(|event| event.strip_prefix("data: "))
            .collect();
        assert_eq!(data.pop(), Some("[DONE]"), "{}", self.text);
        data.iter().map(|data| serde_json::from_str(data).unwrap()).collect()
    }
}

/// The service of a world, for tests that listen on a port.
pub(super) fn service(setup: &Setup, root: PathBuf) -> (Service, Gate) {
    let gate = Gate::default();
    let runner = Counter { gate: gate.clone() };
    let settings = EngineSettings {
        max_sequences: setup.max_sequences,
        max_waiting: setup.max_waiting,
        max_batch_rows: 256,
        prefix_cache: true,
    };
    let store = StoreSettings {
        memory_budget: 1 << 20,
        limits: AdapterLimits {
            max_rank: 8,
            max_bytes: 1 << 20,
        },
        base: Arc::new(arch()),
        base_hash: ContentHash([7; 32]),
        preparer: runner.preparer(),
    };
    let template = |source| ChatTemplate::new(source, Markers::default()).unwrap();
    let service = Service {
        engine: Engine::start(Box::new(runner), settings),
        adapters: AdapterStore::new(store),
        tokenizer: Arc::new(tokenizer()),
        chat_template: setup.template.map(template),
        base_name: BASE.to_owned(),
        max_context: CONTEXT,
        adapter_roots: vec![root],
        api_keys: setup.keys.clone(),
        limits: HttpLimits {
            body_bytes: BODY_LIMIT,
            choices: 8,
        },
    };
    (service, gate)
}

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

fn arch() -> ArchSpec {
    let layer = LayerSpec {
        attention: AttentionSpec {
            heads: 1,
            kv_heads: 1,
            head_dim: WIDTH,
            scale: 1.0,
            position: Position::Rotary {
                inverse_frequencies: vec![1.0; WIDTH / 2].into(),
            },
        },
        feed_forward: FeedForward::Gated {
            inner_size: WIDTH,
            activation: Activation::Silu,
        },
    };
    ArchSpec {
        family: "llama".to_owned(),
        vocab_size: VOCAB,
        hidden_size: WIDTH,
        context_length: CONTEXT,
        embedding_scale: 1.0,
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

struct Counter {
    gate: Gate,
}

/// The token `!!` (33, 33) in a prompt makes its step fail.
const FAULT: u32 = 33;

impl Runner for Counter {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            vocab_size: VOCAB,
            max_context: CONTEXT,
            block_tokens: 16,
            blocks: 512,
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
                logits.values.extend(logits_after(row, sequence));
            }
        }
        Ok(())
    }
}

/// The next token has 10, the one after it 8, all others 0.
fn logits_after(row: &InputRow, sequence: &SequenceView<'_>) -> [f32; VOCAB] {
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
        byte => (u32::from(byte) + 1 + shift as u32) % 256,
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
