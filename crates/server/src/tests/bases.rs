//! Replacing the base under running requests and live adapters.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::http::StatusCode;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::counter::write_adapter;
use super::life::{accepted, ask, until};
use super::world::{BASE, Reply, Setup, WATCHED, World, completion, post, world};

const REPLACE: &str = "/v1/replace_base_model";

async fn text(world: &World, fields: Value) -> String {
    let answer = world.complete("a", fields).await;
    answer["choices"][0]["text"].as_str().unwrap().to_owned()
}

/// Replaces the base, which must succeed.
async fn replace(world: &World, body: Value) -> Value {
    let reply = world.post(REPLACE, &body).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    reply.json()
}

fn watching() -> World {
    World::new(Setup {
        watched: true,
        ..Setup::default()
    })
}

#[tokio::test]
async fn new_requests_run_on_the_new_base_and_adapters_stay() {
    let world = world();
    world.load("tenant").await;
    world.app.bases.current().adapters.pin("tenant", true);
    let answer = replace(&world, json!({"model": "double", "quantize": 8})).await;
    assert_eq!(answer["object"], "base_model");
    assert_eq!((&answer["id"], &answer["adapters"]), (&json!(BASE), &json!(1)));
    assert_eq!(
        (&answer["misfits"], &answer["max_model_len"]),
        (&json!([]), &json!(512))
    );
    assert_eq!(answer["hash"].as_str().unwrap(), "08".repeat(32));
    assert_eq!(answer["previous_hash"].as_str().unwrap(), "07".repeat(32));

    assert_eq!(text(&world, json!({})).await, "ceg");
    assert_eq!(text(&world, json!({"model": "tenant"})).await, "dgj");
    let card = world.get("/v1/models/tenant").await.json();
    assert_eq!((&card["pinned"], &card["parent"]), (&json!(true), &json!(BASE)));
    assert_eq!(world.get("/ready").await.status, StatusCode::OK);
    assert_eq!(world.load("late").await.status, StatusCode::OK);
}

#[tokio::test]
async fn what_runs_ends_on_the_base_it_began_on() {
    let world = Arc::new(world());
    world.load("tenant").await;
    let old = Arc::downgrade(&world.app.bases.current());
    world.gate.close();
    let mut body = completion("a", json!({"max_tokens": 8, "model": "tenant"}));
    let whole = ask(&world, body.clone());
    until("it is accepted", || accepted(&world) == 1).await;
    body["stream"] = json!(true);
    let stream = world.send(post("/v1/completions", body.to_string())).await;

    replace(&world, json!({"model": "double"})).await;
    assert_eq!(
        text(&world, json!({})).await,
        "ceg",
        "the old base stands still, the new one serves"
    );
    assert_eq!(accepted(&world), 2, "what runs on the old one is counted");
    assert!(!world.app.is_quiet());
    world.gate.open();
    let reply = Reply::read(stream).await;
    let streamed: String = reply
        .events()
        .iter()
        .map(|event| event["choices"][0]["text"].as_str().unwrap())
        .collect();
    assert_eq!(streamed, "cegikmoq");
    assert_eq!(whole.await.unwrap().json()["choices"][0]["text"], "cegikmoq");
    until("the old base is gone", || old.strong_count() == 0).await;
    until("nothing is left to do", || world.app.is_quiet()).await;
}

#[tokio::test]
async fn adapters_that_do_not_fit_are_told_and_refused_with_their_code() {
    let world = world();
    world.load("tenant").await;
    let answer = replace(&world, json!({"model": "wide"})).await;
    let misfit = &answer["misfits"][0];
    assert_eq!(
        (&misfit["id"], &misfit["code"]),
        (&json!("tenant"), &json!("adapter_shape_mismatch"))
    );
    assert_eq!(answer["adapters"], 0);

    let models = world.get("/v1/models").await.json();
    assert_eq!(models["data"].as_array().unwrap().len(), 1);
    assert_eq!(models["refused"][0], *misfit);
    let request = completion("a", json!({"model": "tenant"}));
    let refused = world.post("/v1/completions", &request).await;
    assert_eq!(refused.error(), (400, "adapter_shape_mismatch".to_owned(), Value::Null));

    // Back on a base that it fits, the adapter is not served by itself: it is registered nowhere any more.
    replace(&world, json!({"model": "double"})).await;
    assert_eq!(
        world.post("/v1/completions", &request).await.error().1,
        "model_not_found"
    );
    assert_eq!(world.load("tenant").await.status, StatusCode::OK);
    assert_eq!(text(&world, json!({"model": "tenant"})).await, "dgj");
}

#[tokio::test]
async fn a_misfit_can_be_unloaded() {
    let world = world();
    world.load("tenant").await;
    replace(&world, json!({"model": "wide"})).await;
    let body = json!({"lora_name": "tenant"});
    assert_eq!(
        world.post("/v1/unload_lora_adapter", &body).await.status,
        StatusCode::OK
    );
    assert_eq!(world.get("/v1/models").await.json()["refused"], json!([]));
    assert_eq!(
        world.post("/v1/unload_lora_adapter", &body).await.status,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn a_misfit_is_forgotten_once_its_files_are_gone() {
    let world = watching();
    let folder = world.roots.path().join(WATCHED);
    write_adapter(&folder.join("tenant"), 1.0);
    let bases = &world.app.bases;
    until("it is served", || bases.current().adapters.get("tenant").is_some()).await;
    replace(&world, json!({"model": "wide"})).await;
    assert_eq!(bases.current().refusals().len(), 1);
    assert_eq!(bases.current().adapters.stats().refusals, 1, "counted once");
    std::fs::remove_dir_all(folder.join("tenant")).unwrap();
    until("it is forgotten", || bases.current().refusals().is_empty()).await;
    let request = completion("a", json!({"model": "tenant"}));
    assert_eq!(
        world.post("/v1/completions", &request).await.error().1,
        "model_not_found"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_adapter_takes_the_name_of_a_base_that_is_being_loaded() {
    let world = world();
    let later = async {
        sleep(Duration::from_millis(20)).await;
        world.load("tenant").await
    };
    let body = json!({"model": "slow", "base_name": "tenant"});
    let (replaced, loaded) = tokio::join!(world.post(REPLACE, &body), later);
    assert!(
        replaced.status != loaded.status,
        "one of them is refused: {} {}",
        replaced.text,
        loaded.text
    );
    let models = world.get("/v1/models").await.json();
    let named = models["data"].as_array().unwrap().iter();
    assert_eq!(named.filter(|model| model["id"] == "tenant").count(), 1);
}

#[tokio::test]
async fn all_adapters_may_be_required() {
    let world = world();
    world.load("tenant").await;
    let body = json!({"model": "wide", "require_all_adapters": true});
    let reply = world.post(REPLACE, &body).await;
    let param = json!("require_all_adapters");
    assert_eq!(reply.error(), (409, "adapters_do_not_fit".to_owned(), param));
    assert_eq!(reply.json()["misfits"][0]["id"], "tenant");
    assert_eq!(text(&world, json!({"model": "tenant"})).await, "ceg");
    assert_eq!(text(&world, json!({})).await, "bcd");
    let body = json!({"model": "double", "require_all_adapters": true});
    assert_eq!(replace(&world, body).await["adapters"], 1);
}

#[tokio::test]
async fn what_cannot_be_loaded_changes_nothing() {
    let world = world();
    world.load("tenant").await;
    let before = Arc::as_ptr(&world.app.bases.current());
    let refusals = [
        (json!({"model": "missing"}), 404, "base_not_found", json!("model")),
        (json!({"model": "broken"}), 400, "base_refused", json!("model")),
        (
            json!({"model": "double", "quantize": "3"}),
            400,
            "invalid_value",
            json!("quantize"),
        ),
        (
            json!({"model": "double", "quantize": []}),
            400,
            "invalid_type",
            json!("quantize"),
        ),
        (
            json!({"model": "double", "quantise": 8}),
            400,
            "unsupported_parameter",
            json!("quantise"),
        ),
        (
            json!({"model": "double", "base_name": "a/b"}),
            400,
            "invalid_value",
            json!("base_name"),
        ),
        (
            json!({"model": "double", "base_name": "tenant"}),
            400,
            "invalid_value",
            json!("base_name"),
        ),
        (json!({"model": "panics"}), 500, "internal_error", Value::Null),
        (json!({"model": ""}), 400, "missing_required_parameter", json!("model")),
        (json!({}), 400, "missing_required_parameter", json!("model")),
    ];
    for (body, status, code, param) in refusals {
        let reply = world.post(REPLACE, &body).await;
        assert_eq!(reply.error(), (status, code.to_owned(), param), "{body}");
    }
    assert_eq!(Arc::as_ptr(&world.app.bases.current()), before);
    assert_eq!(text(&world, json!({"model": "tenant"})).await, "ceg");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replacements_go_one_after_the_other() {
    let setup = Setup::default();
    let most = setup.most_loading.clone();
    let world = World::new(setup);
    let named = |name: &str| json!({"model": "slow", "base_name": name});
    let (one, two) = tokio::join!(replace(&world, named("one")), replace(&world, named("two")));
    assert_eq!((&one["id"], &two["id"]), (&json!("one"), &json!("two")));
    assert_eq!(most.load(Ordering::SeqCst), 1);
    let served = world.get("/v1/models").await.json()["data"][0]["id"].clone();
    assert!(served == "one" || served == "two");
}

#[tokio::test]
async fn a_new_name_takes_the_place_of_the_old_one() {
    let world = world();
    replace(&world, json!({"model": "double", "base_name": "fresh"})).await;
    assert_eq!(text(&world, json!({"model": "fresh"})).await, "ceg");
    let old = world.post("/v1/completions", &completion("a", json!({}))).await;
    assert_eq!(old.error(), (404, "model_not_found".to_owned(), json!("model")));
    let metrics = world.get("/metrics").await.text;
    assert!(
        metrics.contains("vllm:num_requests_running{model_name=\"fresh\"} 0"),
        "{metrics}"
    );
}

#[tokio::test]
async fn counters_do_not_fall_when_the_base_changes() {
    let world = world();
    world.load("tenant").await;
    text(&world, json!({"model": "tenant"})).await;
    // The engine's thread writes its counters down after the answer is out.
    until("steps are counted", || world.app.engine_stats().steps > 0).await;
    let (steps, loads) = (world.app.engine_stats().steps, world.app.bases.store_stats().loads);
    let old = Arc::downgrade(&world.app.bases.current());
    replace(&world, json!({"model": "double"})).await;
    until("the old base is gone", || old.strong_count() == 0).await;
    assert!(world.app.engine_stats().steps >= steps);
    assert!(world.app.bases.store_stats().loads >= loads);
    text(&world, json!({"model": "tenant"})).await;
    until("they go on", || world.app.engine_stats().steps > steps).await;
}

#[tokio::test]
async fn the_folder_is_watched_for_the_new_base() {
    let world = watching();
    let folder = world.roots.path().join(WATCHED);
    let served = |name: &'static str| world.app.bases.current().adapters.get(name).is_some();
    write_adapter(&folder.join("early"), 1.0);
    until("early is served", || served("early")).await;
    let old = Arc::downgrade(&world.app.bases.current());
    assert_eq!(replace(&world, json!({"model": "double"})).await["adapters"], 1);
    until("the old base is gone", || old.strong_count() == 0).await;
    write_adapter(&folder.join("late"), 1.0);
    until("late is served", || served("late")).await;
    assert_eq!(text(&world, json!({"model": "late"})).await, "dgj");
    std::fs::remove_dir_all(folder.join("early")).unwrap();
    until("early is gone", || !served("early")).await;
}

#[tokio::test]
async fn an_adapter_from_elsewhere_stays_the_one_that_is_served_under_its_name() {
    let world = watching();
    let folder = world.roots.path().join(WATCHED);
    write_adapter(&folder.join("tenant"), 1.0);
    let path = || world.app.bases.current().adapters.get("tenant").map(|info| info.path);
    until("the watched one is served", || path().is_some()).await;
    write_adapter(&world.roots.path().join("elsewhere"), 2.0);
    let body = json!({"lora_name": "tenant", "lora_path": "elsewhere", "load_inplace": true});
    assert_eq!(world.post("/v1/load_lora_adapter", &body).await.status, StatusCode::OK);
    replace(&world, json!({"model": "double"})).await;
    assert!(path().unwrap().ends_with("elsewhere"));
}

#[tokio::test]
async fn a_drain_does_not_wait_for_a_base() {
    let world = Arc::new(world());
    let for_task = world.clone();
    let turn = world.app.replacing.clone().lock_owned().await;
    let reply = tokio::spawn(async move { for_task.post(REPLACE, &json!({"model": "double"})).await });
    sleep(Duration::from_millis(20)).await;
    world.app.flights.drain();
    assert_eq!(
        reply.await.unwrap().error(),
        (503, "shutting_down".to_owned(), Value::Null)
    );
    drop(turn);
    world.app.flights.landed().await;
}

#[tokio::test]
async fn a_key_is_needed() {
    let world = World::new(Setup {
        keys: vec!["secret".to_owned()],
        ..Setup::default()
    });
    let reply = world.post(REPLACE, &json!({"model": "double"})).await;
    assert_eq!(reply.error().1, "invalid_api_key");
}
