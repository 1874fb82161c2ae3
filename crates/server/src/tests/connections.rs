//! Real sockets: half-closed ones, clients that leave, the end of the server.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::counter::Gate;
use super::world::{Setup, completion, service};
use crate::serve;

/// A listening server.
struct Listening {
    address: SocketAddr,
    gate: Gate,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<std::io::Result<()>>,
    _roots: tempfile::TempDir,
}

impl Listening {
    async fn start() -> Self {
        let roots = tempfile::tempdir().unwrap();
        let (service, gate) = service(&Setup::default(), roots.path().to_owned());
        let (bound, address) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let on_bound = move |address| {
            let _ = bound.send(address);
        };
        let shutdown = async move {
            let _ = stopped.await;
        };
        let served = tokio::spawn(serve(service, "127.0.0.1:0".parse().unwrap(), on_bound, shutdown));
        Self {
            address: address.await.unwrap(),
            gate,
            stop: Some(stop),
            served,
            _roots: roots,
        }
    }

    /// Sends bytes, closes the sending half, and returns what comes back.
    async fn half_closed(&self, bytes: &[u8]) -> String {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        let _ = socket.write_all(bytes).await;
        let _ = socket.shutdown().await;
        let mut reply = Vec::new();
        let _ = socket.read_to_end(&mut reply).await;
        String::from_utf8_lossy(&reply).into_owned()
    }

    async fn get(&self, path: &str) -> String {
        let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        self.half_closed(head.as_bytes()).await
    }

    async fn until(&self, line: &str) {
        for _ in 0..2000 {
            if self.get("/metrics").await.contains(line) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("still not: {line}");
    }
}

fn head(length: usize) -> String {
    format!("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n")
}

fn request(fields: serde_json::Value) -> String {
    let body = completion("a", fields).to_string();
    head(body.len()) + &body
}

#[tokio::test]
async fn a_half_closed_connection_is_answered() {
    let server = Listening::start().await;
    let reply = server.half_closed(request(json!({})).as_bytes()).await;
    assert!(
        reply.starts_with("HTTP/1.1 200") && reply.contains("\"bcd\""),
        "{reply}"
    );
    let reply = server.half_closed(request(json!({"n": 0})).as_bytes()).await;
    assert!(
        reply.starts_with("HTTP/1.1 400") && reply.contains("invalid_value"),
        "{reply}"
    );
    let reply = server.half_closed((head(100) + "{\"model\"").as_bytes()).await;
    assert!(
        reply.starts_with("HTTP/1.1 400") && reply.contains("incomplete_body"),
        "{reply}"
    );
    let chunked = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{\"mod";
    let reply = server.half_closed(chunked.as_bytes()).await;
    assert!(
        reply.starts_with("HTTP/1.1 400") && reply.contains("incomplete_body"),
        "{reply}"
    );
}

#[tokio::test]
async fn a_large_body_gets_its_answer_instead_of_a_reset() {
    let server = Listening::start().await;
    let body = "x".repeat(400 << 10);
    let reply = server.half_closed((head(body.len()) + &body).as_bytes()).await;
    assert!(
        reply.starts_with("HTTP/1.1 413") && reply.contains("body_too_large"),
        "{reply}"
    );
}

#[tokio::test]
async fn a_client_that_leaves_is_cancelled_streamed_or_not() {
    let server = Listening::start().await;
    for stream in [false, true] {
        server.gate.close();
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        let fields = json!({"max_tokens": 500, "ignore_eos": true, "stream": stream});
        socket.write_all(request(fields).as_bytes()).await.unwrap();
        server.until("vllm:num_requests_waiting{model_name=\"base\"} 1").await;
        drop(socket);
        let cancelled = format!("finish_reason=\"cancelled\"}} {}", 1 + u8::from(stream));
        server.until(&cancelled).await;
        server.gate.open();
        server.until("vllm:num_requests_waiting{model_name=\"base\"} 0").await;
    }
}

#[tokio::test]
async fn at_the_end_accepted_requests_are_answered_and_new_ones_refused() {
    let mut server = Listening::start().await;
    server.gate.close();
    let mut accepted = TcpStream::connect(server.address).await.unwrap();
    let stream = json!({"stream": true, "max_tokens": 20});
    accepted.write_all(request(stream).as_bytes()).await.unwrap();
    server.until("vllm:num_requests_waiting{model_name=\"base\"} 1").await;
    server.stop.take().unwrap().send(()).unwrap();
    while server.get("/ready").await.starts_with("HTTP/1.1 200") {}
    let refused = server.half_closed(request(json!({})).as_bytes()).await;
    assert!(
        refused.starts_with("HTTP/1.1 503") && refused.contains("shutting_down"),
        "{refused}"
    );
    assert!(!server.served.is_finished());
    server.gate.open();
    let mut reply = String::new();
    accepted.read_to_string(&mut reply).await.unwrap();
    assert!(
        reply.contains("\"finish_reason\":\"length\"") && reply.contains("data: [DONE]"),
        "{reply}"
    );
    server.served.await.unwrap().unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}
