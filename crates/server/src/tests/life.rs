//! The life of requests: queueing, refusing, cancelling, draining.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::world::{Reply, Setup, World, completion, post};

const COMPLETIONS: &str = "/v1/completions";

fn narrow() -> Arc<World> {
    Arc::new(World::new(Setup {
        max_sequences: 1,
        max_waiting: 1,
        ..Setup::default()
    }))
}

pub(super) fn ask(world: &Arc<World>, body: Value) -> JoinHandle<Reply> {
    let world = world.clone();
    tokio::spawn(async move { world.post(COMPLETIONS, &body).await })
}

/// Waits for what the engine thread or a task is about to do.
pub(super) async fn until(claim: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..4000 {
        if holds() {
            return;
        }
        sleep(Duration::from_millis(5)).await;
    }
    panic!("still not: {claim}");
}

pub(super) fn accepted(world: &World) -> usize {
    let stats = world.app.bases.engine_stats();
    stats.running + stats.waiting
}

#[tokio::test]
async fn a_full_queue_is_429_before_any_stream_begins() {
    let world = narrow();
    world.gate.close();
    let first = ask(&world, completion("a", json!({})));
    let second = ask(&world, completion("x", json!({})));
    until("both are accepted", || accepted(&world) == 2).await;
    for fields in [json!({}), json!({"stream": true}), json!({"n": 2})] {
        let reply = world.post(COMPLETIONS, &completion("a", fields)).await;
        assert_eq!(reply.error(), (429, "queue_full".to_owned(), Value::Null));
        assert_eq!(reply.headers["retry-after"], "1");
    }
    world.gate.open();
    assert_eq!(first.await.unwrap().json()["choices"][0]["text"], "bcd");
    assert_eq!(second.await.unwrap().json()["choices"][0]["text"], "yz{");
}

#[tokio::test]
async fn who_waits_for_an_adapter_is_bounded_and_a_drain_waits_for_it() {
    let world = Arc::new(World::new(Setup {
        max_waiting: 2,
        adapter_memory: 1000,
        ..Setup::default()
    }));
    world.load("one").await;
    world.load("two").await;
    world.gate.close();
    let runs = ask(&world, completion("a", json!({"model": "one"})));
    until("one is leased", || accepted(&world) == 1).await;
    let two = completion("a", json!({"model": "two"}));
    let waiting = [ask(&world, two.clone()), ask(&world, two.clone())];
    until("both wait", || world.app.waits.waiting() == 2).await;
    let reply = world.post(COMPLETIONS, &two).await;
    assert_eq!(reply.error(), (429, "queue_full".to_owned(), Value::Null));
    assert_eq!(reply.headers["retry-after"], "1");
    assert!(ask_ready(&world).await, "what needs no other adapter is still accepted");
    world.app.flights.drain();
    let text = world.get("/metrics").await.text;
    assert!(
        text.contains("vllm:num_requests_waiting{model_name=\"base\"} "),
        "{text}"
    );
    assert!(world.app.engine_stats().waiting >= 2 && !world.app.is_quiet());
    world.gate.open();
    world.app.flights.landed().await;
    for request in [runs].into_iter().chain(waiting) {
        assert_eq!(request.await.unwrap().json()["choices"][0]["text"], "ceg");
    }
    assert_eq!(world.app.waits.waiting(), 0);
    until("nothing is left to do", || world.app.is_quiet()).await;
}

/// Whether a request on the base is accepted; it is left again.
async fn ask_ready(world: &Arc<World>) -> bool {
    let before = accepted(world);
    let request = ask(world, completion("a", json!({})));
    until("the base's request is accepted", || accepted(world) > before).await;
    request.abort();
    request.await.is_err()
}

#[tokio::test]
async fn a_request_that_is_refused_in_part_leaves_nothing_behind() {
    let world = narrow();
    let reply = world.post(COMPLETIONS, &completion("a", json!({"n": 3}))).await;
    assert_eq!(reply.error().0, 429);
    until("its accepted choices are gone", || accepted(&world) == 0).await;
    let answer = world.complete("a", json!({})).await;
    assert_eq!(answer["choices"][0]["text"], "bcd");
}

#[tokio::test]
async fn dropping_a_request_cancels_it() {
    let world = narrow();
    let long = json!({"max_tokens": 500, "ignore_eos": true});
    world.gate.close();
    let request = ask(&world, completion("a", long.clone()));
    until("it is accepted", || accepted(&world) == 1).await;
    request.abort();
    assert!(request.await.is_err());
    world.gate.open();
    until("it is gone", || accepted(&world) == 0).await;
    let generated = world.get("/metrics").await.text;
    assert!(generated.contains("finish_reason=\"cancelled\"} 1"), "{generated}");

    let mut body = completion("a", long);
    body["stream"] = json!(true);
    let response = world.send(post(COMPLETIONS, body.to_string())).await;
    let mut chunks = response.into_body().into_data_stream();
    assert!(chunks.next().await.is_some());
    drop(chunks);
    until("the stream is gone", || accepted(&world) == 0).await;
    world.app.flights.landed().await;
}

#[tokio::test]
async fn a_drain_refuses_newcomers_and_lets_the_accepted_end() {
    let world = narrow();
    world.gate.close();
    let accepted_request = ask(&world, completion("a", json!({})));
    until("it is accepted", || accepted(&world) == 1).await;
    assert_eq!(world.get("/ready").await.status, StatusCode::OK);
    world.app.flights.drain();
    assert_eq!(world.get("/ready").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(world.get("/health").await.status, StatusCode::OK);
    let refused = world.post(COMPLETIONS, &completion("a", json!({}))).await;
    assert_eq!(refused.error(), (503, "shutting_down".to_owned(), Value::Null));
    world.gate.open();
    world.app.flights.landed().await;
    let engine = world.app.bases.current().engine.clone();
    tokio::task::spawn_blocking(move || engine.drain()).await.unwrap();
    assert_eq!(world.get("/health").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(accepted_request.await.unwrap().json()["choices"][0]["text"], "bcd");
}

#[tokio::test]
async fn adapters_that_wait_and_run_are_told() {
    let world = narrow();
    world.load("one").await;
    world.load("two").await;
    world.gate.close();
    let one = ask(&world, completion("a", json!({"model": "one"})));
    until("it is accepted", || accepted(&world) == 1).await;
    let two = ask(&world, completion("a", json!({"model": "two"})));
    until("both are accepted", || accepted(&world) == 2).await;
    // One runs and is held in its step; the other waits for its place.
    let told = "running_lora_adapters=\"one\",waiting_lora_adapters=\"two\"";
    for _ in 0..4000 {
        if world.get("/metrics").await.text.contains(told) {
            break;
        }
        sleep(Duration::from_millis(5)).await;
    }
    let text = world.get("/metrics").await.text;
    assert!(text.contains(told), "{text}");
    world.gate.open();
    assert_eq!(one.await.unwrap().status, StatusCode::OK);
    assert_eq!(two.await.unwrap().status, StatusCode::OK);
    let text = world.get("/metrics").await.text;
    assert!(
        text.contains("running_lora_adapters=\"\",waiting_lora_adapters=\"\""),
        "{text}"
    );
}
