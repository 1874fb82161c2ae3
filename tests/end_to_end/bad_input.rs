//! Bad input: every kind is a 4xx with a code, and the server lives on.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use crate::answers::{ask, prompt_ids, question};
use crate::http::{self, Reply};
use crate::server::{BASE, Server, Shared, fixture_adapters};

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

static SERVER: Shared = Shared::new(|| Server::start(&["--adapters", fixture_adapters(), "--max-model-len", "1024"]));

/// A refused request: a 4xx, OpenAI-shaped, with a code and a message.
fn assert_refused(kind: &str, reply: &Reply) {
    let error = &reply.json()["error"];
    let shaped = !reply.code().is_empty() && error["message"].as_str().is_some_and(|text| !text.is_empty());
    assert!(
        (400..500).contains(&reply.status) && shaped,
        "{kind}: HTTP {} {}",
        reply.status,
        reply.text
    );
}

/// The server still answers.
fn assert_lives(server: &Server) {
    server.assert_alive();
    assert_eq!(ask(server, &question(BASE, prompt_ids(1, 5), 3)).ids.len(), 3);
}

/// A sound request with one field changed.
fn with(field: &str, value: Value) -> Value {
    let mut body = json!({"model": BASE, "prompt": "Hello", "max_tokens": 2});
    body[field] = value;
    body
}

fn chat_with(field: &str, value: Value) -> Value {
    let mut body = json!({"model": BASE, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2});
    body[field] = value;
    body
}

#[test]
fn wrong_types_and_limits_are_refused() {
    let server = SERVER.get();
    let completions = [
        ("model", vec![json!(5), json!(null), json!(["base"]), json!("")]),
        (
            "prompt",
            vec![
                json!(5),
                json!({"text": "x"}),
                json!([]),
                json!(""),
                json!([[]]),
                json!([1.5]),
                json!([-1]),
                json!([49_152]),
                json!([4_294_967_297u64]),
                json!(["a", 1]),
                json!([["a"]]),
            ],
        ),
        ("max_tokens", vec![json!(-1), json!("ten"), json!(1.5), json!([1])]),
        ("temperature", vec![json!(-0.1), json!("hot"), json!(1e300)]),
        ("top_p", vec![json!(-0.1), json!(0), json!(1.1), json!("most")]),
        ("top_k", vec![json!(-2), json!("forty"), json!(1.5)]),
        ("min_p", vec![json!(-0.1), json!(1.1)]),
        ("n", vec![json!(0), json!(-1), json!(100_000), json!("two")]),
        ("stop", vec![json!(5), json!([5]), json!({"a": 1}), json!([""])]),
        ("seed", vec![json!("seed"), json!(0.5)]),
        (
            "logit_bias",
            vec![
                json!(5),
                json!({"x": 1}),
                json!({"5": "much"}),
                json!({"49152": 1}),
                json!({"5": 101}),
            ],
        ),
        ("presence_penalty", vec![json!(-2.1), json!(2.1), json!("x")]),
        ("frequency_penalty", vec![json!(-2.1), json!(2.1), json!("x")]),
        ("repetition_penalty", vec![json!(0), json!(-1), json!("x")]),
        ("logprobs", vec![json!(-1), json!("all"), json!(1_000_000)]),
        ("echo", vec![json!("yes")]),
        ("stream", vec![json!("yes")]),
        ("adapter_scale", vec![json!("half"), json!([1])]),
        (
            "adapters",
            vec![
                json!("r8-all"),
                json!([{"scale": 1}]),
                json!([{"name": "r8-all", "scale": "x"}]),
                json!([{"name": 5}]),
            ],
        ),
    ];
    for (field, values) in completions {
        for value in values {
            assert_refused(
                &format!("{field}: {value}"),
                &server.post(COMPLETIONS, &with(field, value)),
            );
        }
    }
    let user = |content: Value| json!([{"role": "user", "content": content}]);
    let chats = [
        (
            "messages",
            vec![
                json!(5),
                json!([]),
                json!("Hello"),
                json!([5]),
                json!([{"content": "x"}]),
                json!([{"role": "user"}]),
                user(json!(5)),
            ],
        ),
        ("max_completion_tokens", vec![json!(0), json!(-1), json!("ten")]),
        ("top_logprobs", vec![json!(-1), json!(1_000_000), json!(true)]),
        ("logprobs", vec![json!(3)]),
    ];
    for (field, values) in chats {
        for value in values {
            assert_refused(
                &format!("chat {field}: {value}"),
                &server.post(CHAT, &chat_with(field, value)),
            );
        }
    }
    assert_lives(&server);
}

#[test]
fn zero_tokens_are_refused_unless_the_prompt_is_to_be_scored() {
    let server = SERVER.get();
    assert_refused("max_tokens 0", &server.post(COMPLETIONS, &with("max_tokens", json!(0))));
    let mut scored = with("max_tokens", json!(0));
    (scored["echo"], scored["logprobs"]) = (json!(true), json!(1));
    assert_eq!(server.post(COMPLETIONS, &scored).status, 200);
}

#[test]
fn bodies_that_are_no_json_are_refused() {
    let server = SERVER.get();
    let long = format!("{{\"model\": \"base\", \"prompt\": \"{}\"}}", "x".repeat(10 << 20));
    let deep = format!(
        "{{\"model\": \"base\", \"prompt\": {}1{}}}",
        "[".repeat(20_000),
        "]".repeat(20_000)
    );
    let bodies: &[(&str, &[u8])] = &[
        ("nothing", b""),
        ("no JSON", b"hello"),
        ("half a JSON", b"{\"model\": \"base\", \"prompt\": \"x"),
        ("an array", b"[]"),
        ("null", b"null"),
        ("trailing characters", b"{\"model\": \"base\", \"prompt\": \"x\"} x"),
        ("invalid UTF-8", b"{\"model\": \"base\", \"prompt\": \"\xff\xfe\"}"),
        (
            "half a surrogate pair",
            b"{\"model\": \"base\", \"prompt\": \"\\ud800\"}",
        ),
        (
            "a field twice",
            b"{\"model\": \"base\", \"model\": \"base\", \"prompt\": \"x\"}",
        ),
        ("10 MB", long.as_bytes()),
        ("20,000 brackets", deep.as_bytes()),
    ];
    for path in [COMPLETIONS, CHAT, "/v1/load_lora_adapter", "/tokenize", "/detokenize"] {
        for (kind, body) in bodies {
            let url = format!("{}{path}", server.url);
            match http::post_bytes(&url, body, &[("content-type", "application/json")]) {
                Ok(reply) => assert_refused(&format!("{path}: {kind}"), &reply),
                // The server may close before 10 MB are sent.
                Err(error) => assert!(body.len() > 1 << 20, "{path}: {kind}: {error}"),
            }
        }
    }
    assert_lives(&server);
}

#[test]
fn what_does_not_exist_is_404_and_a_wrong_method_405() {
    let server = SERVER.get();
    let unknown = server.post(COMPLETIONS, &with("model", json!("nobody")));
    assert_eq!((unknown.status, unknown.code().as_str()), (404, "model_not_found"));
    let unknown = server.post(
        COMPLETIONS,
        &with("adapters", json!([{"name": "nobody", "scale": 1.0}])),
    );
    assert_eq!((unknown.status, unknown.code().as_str()), (404, "model_not_found"));
    let unknown = server.get("/v1/no-such-route");
    assert_refused("unknown route", &unknown);
    assert_eq!(unknown.status, 404);
    let method = server.get(COMPLETIONS);
    assert_refused("wrong method", &method);
    assert_eq!(method.status, 405);
}

#[test]
fn a_prompt_longer_than_the_context_is_refused() {
    let server = SERVER.get();
    for length in [1024, 1025, 50_000] {
        let reply = server.post(COMPLETIONS, &question(BASE, prompt_ids(1, length), 1));
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (400, "context_length_exceeded"),
            "{length}: {}",
            reply.text
        );
    }
    let text = chat_with("messages", json!([{"role": "user", "content": "word ".repeat(2000)}]));
    let reply = server.post(CHAT, &text);
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (400, "context_length_exceeded"),
        "{}",
        reply.text
    );
    assert_eq!(ask(&server, &question(BASE, prompt_ids(1, 1000), 24)).ids.len(), 24);
}

#[test]
fn paths_outside_the_adapter_folders_cannot_be_loaded() {
    let server = SERVER.get();
    let inside = format!("{}/../adapters/../../fixtures", fixture_adapters());
    let link = tempfile::tempdir().unwrap();
    for path in [
        "/etc",
        "/",
        "..",
        "../../../etc",
        "",
        "\0",
        &inside,
        link.path().to_str().unwrap(),
        "file:///etc/passwd",
    ] {
        let reply = server.post("/v1/load_lora_adapter", &json!({"lora_name": "x", "lora_path": path}));
        assert_refused(&format!("lora_path {path:?}"), &reply);
    }
    for name in ["", "a/b", "../x", "a\nb", &"x".repeat(10_000)] {
        let path = format!("{}/r16-qv", fixture_adapters());
        let reply = server.post("/v1/load_lora_adapter", &json!({"lora_name": name, "lora_path": path}));
        assert_refused(&format!("lora_name {:?}", &name[..name.len().min(20)]), &reply);
    }
    assert_lives(&server);
}

#[cfg(unix)]
#[test]
fn a_link_that_leads_out_of_the_adapter_folder_is_not_followed() {
    let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    crate::adapter_files::AdapterFiles::fixture("r1-down-late-layers").write(&outside.path().join("theirs"));
    std::os::unix::fs::symlink(outside.path().join("theirs"), root.path().join("mine")).unwrap();
    let server = Server::start(&["--adapter-root", root.path().to_str().unwrap()]);
    let path = root.path().join("mine");
    assert_refused(
        "a link",
        &server.post("/v1/load_lora_adapter", &json!({"lora_name": "x", "lora_path": path})),
    );
}

/// Sends bytes as they are, closes the sending half, and returns what comes back.
fn raw(server: &Server, bytes: &[u8]) -> String {
    let mut socket = TcpStream::connect(&server.address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let _ = socket.write_all(bytes);
    let _ = socket.shutdown(Shutdown::Write);
    let mut reply = Vec::new();
    let _ = socket.read_to_end(&mut reply);
    String::from_utf8_lossy(&reply).into_owned()
}

#[test]
fn broken_http_does_not_disturb_the_server() {
    let server = SERVER.get();
    let head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
    let broken: [(&str, Vec<u8>); 8] = [
        ("nothing", Vec::new()),
        ("garbage", (0..=255).cycle().take(10_000).collect()),
        (
            "a TLS greeting",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        ),
        ("half a head", head.as_bytes().to_vec()),
        (
            "half a body",
            format!("{head}Content-Length: 1000\r\n\r\n{{\"model\"").into_bytes(),
        ),
        (
            "half a chunk",
            format!("{head}Transfer-Encoding: chunked\r\n\r\nff\r\n{{\"mod").into_bytes(),
        ),
        (
            "a wrong length",
            format!("{head}Content-Length: many\r\n\r\n{{}}").into_bytes(),
        ),
        (
            "a long head",
            format!("GET /health HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(1 << 20)).into_bytes(),
        ),
    ];
    for (kind, bytes) in &broken {
        let reply = raw(&server, bytes);
        let refused = reply.is_empty() || reply.starts_with("HTTP/1.1 4");
        assert!(refused, "{kind}: {}", &reply[..reply.len().min(200)]);
    }
    assert_lives(&server);
}

#[test]
fn a_client_that_sends_and_closes_its_half_still_gets_its_answer_or_frees_its_place() {
    let server = SERVER.get();
    let body = question(BASE, prompt_ids(1, 5), 3).to_string();
    let head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n";
    let reply = raw(
        &server,
        format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes(),
    );
    assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 200"), "{reply}");
    assert_lives(&server);
}
