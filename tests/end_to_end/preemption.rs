//! More work than fits: KV pages run out, the queue fills up, the process is told to stop. No accepted request is harmed.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::answers::{Answer, answer_of, ask_alone, ask_together, assert_same, prompt_ids, question};
use crate::http;
use crate::server::{BASE, Server, fixture_adapters};

/// KV bytes of a block of 16 tokens: 30 layers, keys and values, 3 heads of 64, f16.
const BLOCK_BYTES: usize = 16 * 30 * 2 * 3 * 64 * 2;

#[test]
fn with_kv_for_four_sixteen_run_and_give_the_same_bits() {
    let models = [BASE, "r8-all", "r16-qv", "rslora-r4-patterns"];
    let bodies: Vec<Value> = (0..16u64)
        .map(|index| question(models[index as usize % 4], prompt_ids(index, 32), 96))
        .collect();
    let alone = {
        let server = Server::start(&["--adapters", fixture_adapters()]);
        ask_alone(&server, &bodies)
    };
    // Each ends at 128 tokens, 8 blocks; one block more for each of the four.
    let memory = (4 * 9 * BLOCK_BYTES).to_string();
    let flags = [
        "--adapters",
        fixture_adapters(),
        "--kv-memory",
        &memory,
        "--max-model-len",
        "256",
    ];
    let server = Server::start(&[&flags[..], &["--max-num-seqs", "16"]].concat());
    let together = ask_together(&server, &bodies);
    assert!(
        server.expect_metric("vllm:num_preemptions_total") > 0.0,
        "nothing was preempted"
    );
    assert_same("16 with KV for 4", &together, &alone);
    server.assert_alive();
}

/// One streamed request, in parts as they came.
fn collect(server_url: &str, body: &Value) -> Result<Streamed, String> {
    let mut streamed = Streamed {
        text: String::new(),
        finish_reason: String::new(),
        completion_tokens: 0,
    };
    for event in http::stream(&format!("{server_url}/v1/completions"), body)? {
        let event = event?;
        if let Some(choice) = event["choices"].get(0) {
            streamed.text += choice["text"].as_str().unwrap_or_default();
            streamed.finish_reason += choice["finish_reason"].as_str().unwrap_or_default();
        }
        streamed.completion_tokens += event["usage"]["completion_tokens"].as_u64().unwrap_or_default();
    }
    Ok(streamed)
}

#[derive(Debug)]
struct Streamed {
    text: String,
    finish_reason: String,
    completion_tokens: u64,
}

fn streamed_question(seed: u64, max_tokens: usize) -> Value {
    let mut body = question(BASE, prompt_ids(seed, 12), max_tokens);
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    body
}

#[test]
fn a_full_queue_answers_429_with_retry_after_and_keeps_what_it_accepted() {
    let server = Server::start(&["--max-num-seqs", "2", "--max-queue", "2"]);
    let replies: Vec<http::Reply> = std::thread::scope(|scope| {
        let server = &server;
        let asked: Vec<_> = (0..12)
            .map(|seed| scope.spawn(move || server.post("/v1/completions", &question(BASE, prompt_ids(seed, 12), 100))))
            .collect();
        asked.into_iter().map(|asked| asked.join().unwrap()).collect()
    });
    let by_status = replies.iter().fold(HashMap::<u16, usize>::new(), |mut counts, reply| {
        *counts.entry(reply.status).or_default() += 1;
        counts
    });
    for reply in &replies {
        match reply.status {
            200 => assert_eq!(answer_of(&reply.json()).ids.len(), 100),
            429 => {
                assert!(!reply.code().is_empty(), "{}", reply.text);
                let seconds: u64 = reply.retry_after.as_deref().expect("Retry-After").parse().unwrap();
                assert!(seconds >= 1);
            }
            other => panic!("HTTP {other} {}", reply.text),
        }
    }
    assert!(
        by_status.get(&200).is_some_and(|count| *count >= 2) && by_status.contains_key(&429),
        "{by_status:?}"
    );
    let after = answer_of(
        &server
            .post("/v1/completions", &question(BASE, prompt_ids(99, 12), 4))
            .json(),
    );
    assert_eq!(after.ids.len(), 4);
}

#[test]
fn sigterm_under_load_lets_every_accepted_request_end_and_exits_with_zero() {
    let server = Server::start(&["--max-num-seqs", "4"]);
    let bodies: Vec<Value> = (0..8).map(|seed| streamed_question(seed, 120)).collect();
    let results: Vec<Result<Streamed, String>> = std::thread::scope(|scope| {
        let url = server.url.as_str();
        let asked: Vec<_> = bodies
            .iter()
            .map(|body| scope.spawn(move || collect(url, body)))
            .collect();
        let accepted = |server: &Server| {
            server.expect_metric("vllm:num_requests_running") + server.expect_metric("vllm:num_requests_waiting")
        };
        while accepted(&server) < 8.0 {
            assert!(
                !asked.iter().any(|asked| asked.is_finished()),
                "a request ended before all were accepted"
            );
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        server.terminate();
        refuses_newcomers(&server);
        asked.into_iter().map(|asked| asked.join().unwrap()).collect()
    });
    assert!(server.wait().success(), "the exit code is not zero\n{}", server.log());
    for result in results {
        let streamed = result.expect("an accepted request was cut off");
        assert_eq!(
            (streamed.finish_reason.as_str(), streamed.completion_tokens),
            ("length", 120),
            "{streamed:?}"
        );
        assert!(!streamed.text.is_empty());
    }
}

/// Soon after SIGTERM a new request is refused: no connection, or a 503.
fn refuses_newcomers(server: &Server) {
    for _ in 0..200 {
        match http::post(
            &format!("{}/v1/completions", server.url),
            &question(BASE, prompt_ids(77, 12), 1),
        ) {
            Ok(reply) if reply.status == 200 => std::thread::sleep(std::time::Duration::from_millis(10)),
            Ok(reply) => return assert_eq!(reply.status, 503, "{}", reply.text),
            Err(_) => return,
        }
    }
    panic!("requests are still accepted after SIGTERM");
}

#[test]
fn an_idle_server_exits_with_zero_on_sigterm() {
    let server = Server::start(&[]);
    server.terminate();
    assert!(server.wait().success(), "{}", server.log());
}

#[test]
fn a_client_that_leaves_frees_its_place_for_the_next() {
    let server = Server::start(&["--max-num-seqs", "1"]);
    let mut events = server.stream("/v1/completions", &streamed_question(1, 4000));
    assert!(events.next().unwrap().is_ok());
    drop(events);
    server.wait_metric("vllm:num_requests_running", |running| running == 0.0);
    let next: Answer = answer_of(
        &server
            .post("/v1/completions", &question(BASE, prompt_ids(2, 12), 4))
            .json(),
    );
    assert_eq!(next.ids.len(), 4);
}
