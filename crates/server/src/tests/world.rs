//! A server over the counting model, and what tests send to it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, StatusCode, header};
use axum::response::Response;
use rootstock_engine::adapters::{AdapterStore, StoreSettings, Watcher};
use rootstock_engine::{Engine, EngineSettings, Runner};
use rootstock_model::ContentHash;
use rootstock_model::adapter::AdapterLimits;
use rootstock_model::text::{ChatTemplate, Markers};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::counter::{Counter, Gate, WIDTH, arch, tokenizer, write_adapter};
use crate::app::App;
use crate::{BaseError, BaseErrorCode, BaseRequest, HttpLimits, Service, ServingBase};

pub(super) const BASE: &str = "base";
pub(super) const CONTEXT: usize = 512;
/// Folder of adapters that come and go by themselves.
pub(super) const WATCHED: &str = "watched";
pub(super) const BODY_LIMIT: usize = 64 << 10;

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
#[derive(Clone)]
pub(super) struct Setup {
    pub(super) max_sequences: usize,
    pub(super) max_waiting: usize,
    /// An adapter takes 1000 bytes of it.
    pub(super) adapter_memory: usize,
    pub(super) keys: Vec<String>,
    pub(super) template: Option<&'static str>,
    /// Keep in step with the folder [`WATCHED`] of the root.
    pub(super) watched: bool,
    /// Bases that are loaded now, and that were at most at a time.
    pub(super) loading: Arc<AtomicUsize>,
    pub(super) most_loading: Arc<AtomicUsize>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            max_sequences: 16,
            max_waiting: 64,
            adapter_memory: 1 << 20,
            keys: Vec::new(),
            template: Some(TEMPLATE),
            watched: false,
            loading: Arc::default(),
            most_loading: Arc::default(),
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
    let first = setup.base(gate.clone(), BASE, Model::ORDINARY, &root);
    let (for_loader, folder) = (setup.clone(), root.clone());
    let service = Service {
        base: first,
        loader: Arc::new(move |request| for_loader.load(request, &folder)),
        adapter_roots: vec![root],
        api_keys: setup.keys.clone(),
        limits: HttpLimits {
            body_bytes: BODY_LIMIT,
            choices: 8,
        },
    };
    (service, gate)
}

/// What makes one counting model another.
#[derive(Clone, Copy)]
struct Model {
    step: u32,
    width: usize,
    hash: u8,
}

impl Model {
    const ORDINARY: Self = Self {
        step: 1,
        width: WIDTH,
        hash: 7,
    };
}

impl Setup {
    fn base(&self, gate: Gate, name: &str, model: Model, root: &Path) -> ServingBase {
        let runner = Counter { gate, step: model.step };
        let settings = EngineSettings {
            max_sequences: self.max_sequences,
            max_waiting: self.max_waiting,
            max_batch_rows: 256,
            prefix_cache: true,
            decode_slowdown: 2.5,
        };
        let adapters = AdapterStore::new(StoreSettings {
            memory_budget: self.adapter_memory,
            limits: AdapterLimits {
                max_rank: 8,
                max_bytes: 1 << 20,
            },
            base: Arc::new(arch(model.width)),
            base_hash: ContentHash([model.hash; 32]),
            preparer: runner.preparer(),
        });
        let template = |source| ChatTemplate::new(source, Markers::default()).unwrap();
        let watched = self.watched.then(|| root.join(WATCHED));
        ServingBase {
            name: name.to_owned(),
            hash: ContentHash([model.hash; 32]),
            engine: Engine::start(Box::new(runner), settings),
            watcher: watched.map(|folder| {
                std::fs::create_dir_all(&folder).unwrap();
                Watcher::start(adapters.clone(), folder).unwrap()
            }),
            adapters,
            tokenizer: Arc::new(tokenizer()),
            chat_template: self.template.map(template),
            markers: Markers::default(),
            max_context: CONTEXT,
        }
    }

    /// `double` counts in twos, `wide` does so and fits no adapter; `slow` is `double` and takes its time; others fail.
    fn load(&self, request: BaseRequest, root: &Path) -> Result<ServingBase, BaseError> {
        let now = self.loading.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_loading.fetch_max(now, Ordering::SeqCst);
        let width = match &*request.model {
            "double" | "slow" => WIDTH,
            "wide" => 2 * WIDTH,
            _ => 0,
        };
        if request.model == "slow" {
            std::thread::sleep(Duration::from_millis(50));
        }
        self.loading.fetch_sub(1, Ordering::SeqCst);
        match (&*request.model, request.quantize.as_deref()) {
            ("broken", _) => Err(BaseError::new(BaseErrorCode::Refused, "broken: not a model")),
            ("panics", _) => panic!("a bug"),
            (_, Some(quantize)) if quantize != "8" => Err(BaseError::new(BaseErrorCode::Quantize, "'quantize' is odd")),
            _ if width == 0 => Err(BaseError::new(BaseErrorCode::NotFound, "no such model")),
            _ => {
                let model = Model {
                    step: 2,
                    width,
                    hash: 8,
                };
                Ok(self.base(Gate::default(), &request.name, model, root))
            }
        }
    }
}
