//! Adapters over HTTP: loading, serving, scaling, summing, unloading.

use std::fs;

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::counter::write_adapter;
use super::world::{BASE, World, completion, world};

const LOAD: &str = "/v1/load_lora_adapter";
const UNLOAD: &str = "/v1/unload_lora_adapter";

async fn text(world: &World, fields: Value) -> String {
    let answer = world.complete("a", fields).await;
    answer["choices"][0]["text"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_adapter_is_loaded_listed_served_and_unloaded() {
    let world = world();
    let reply = world.load("tenant").await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    assert_eq!(reply.text, "Success: LoRA adapter 'tenant' added successfully.");
    assert_eq!(text(&world, json!({"model": "tenant"})).await, "ceg");
    assert_eq!(text(&world, json!({})).await, "bcd");

    let models = world.get("/v1/models").await.json();
    assert_eq!(models["object"], "list");
    let (base, adapter) = (&models["data"][0], &models["data"][1]);
    assert_eq!(
        (&base["id"], &base["parent"], &base["max_model_len"]),
        (&json!(BASE), &Value::Null, &json!(512))
    );
    assert_eq!(
        (&adapter["id"], &adapter["parent"], &adapter["max_rank"]),
        (&json!("tenant"), &json!(BASE), &json!(1))
    );
    assert!(adapter["root"].as_str().unwrap().ends_with("tenant"));
    assert_eq!(world.get("/v1/models/tenant").await.json()["id"], "tenant");
    assert_eq!(world.get("/v1/models/base").await.json()["id"], BASE);

    let reply = world.post(UNLOAD, &json!({"lora_name": "tenant"})).await;
    assert_eq!(reply.text, "Success: LoRA adapter 'tenant' removed successfully.");
    let reply = world.post(UNLOAD, &json!({"lora_name": "tenant"})).await;
    assert_eq!(reply.error(), (404, "adapter_not_found".to_owned(), json!("lora_name")));
    let reply = world
        .post("/v1/completions", &completion("a", json!({"model": "tenant"})))
        .await;
    assert_eq!(reply.error(), (404, "model_not_found".to_owned(), json!("model")));
}

#[tokio::test]
async fn a_name_is_taken_unless_it_is_replaced_in_place() {
    let world = world();
    world.load("tenant").await;
    let again = world.load("tenant").await;
    assert_eq!(
        again.error(),
        (400, "adapter_already_loaded".to_owned(), json!("lora_name"))
    );
    write_adapter(&world.roots.path().join("tenant"), 2.0);
    let body = json!({"lora_name": "tenant", "lora_path": "tenant", "load_inplace": true});
    assert_eq!(world.post(LOAD, &body).await.status, StatusCode::OK);
    let card = world.get("/v1/models/tenant").await.json();
    assert_eq!(card["generation"].as_u64(), Some(2));
    let body = json!({"lora_name": BASE, "lora_path": "tenant", "load_inplace": true});
    assert_eq!(world.post(LOAD, &body).await.error().1, "adapter_already_loaded");
}

#[tokio::test]
async fn refused_adapters_carry_their_code() {
    let world = world();
    let folder = world.roots.path().join("zero");
    write_adapter(&folder, 0.0);
    let load = async |path: Value| world.post(LOAD, &json!({"lora_name": "x", "lora_path": path})).await;
    assert_eq!(
        load(json!("zero")).await.error(),
        (400, "adapter_zero_delta".to_owned(), Value::Null)
    );
    write_adapter(&folder, f32::NAN);
    assert_eq!(
        load(json!("zero")).await.error(),
        (400, "adapter_not_finite".to_owned(), Value::Null)
    );
    fs::create_dir(world.roots.path().join("empty")).unwrap();
    assert_eq!(
        load(json!("empty")).await.error(),
        (404, "adapter_not_found".to_owned(), Value::Null)
    );
    assert_eq!(
        world.get("/v1/models").await.json()["data"].as_array().unwrap().len(),
        1
    );
}

#[tokio::test]
async fn what_is_outside_the_roots_looks_as_if_it_were_missing() {
    let world = world();
    let outside = tempfile::tempdir().unwrap();
    write_adapter(outside.path(), 1.0);
    let missing = world.roots.path().join("missing");
    for path in [
        "/etc",
        "/",
        "..",
        "../..",
        ".",
        "\0",
        outside.path().to_str().unwrap(),
        missing.to_str().unwrap(),
    ] {
        let reply = world.post(LOAD, &json!({"lora_name": "x", "lora_path": path})).await;
        assert_eq!(
            reply.error(),
            (404, "adapter_not_found".to_owned(), json!("lora_path")),
            "{path:?}"
        );
        let message = reply.json()["error"]["message"].as_str().unwrap().replace(path, "");
        assert_eq!(
            message,
            "no adapter folder '' below the folders that adapters are loaded from"
        );
    }
    for name in ["a/b", "a,b", "../x", "a\nb", &"x".repeat(257)] {
        let reply = world.post(LOAD, &json!({"lora_name": name, "lora_path": "x"})).await;
        assert_eq!(reply.error(), (400, "invalid_value".to_owned(), json!("lora_name")));
    }
}

#[tokio::test]
async fn adapters_are_scaled_and_summed() {
    let world = world();
    world.load("one").await;
    world.load("two").await;
    assert_eq!(text(&world, json!({"model": "one", "adapter_scale": 2})).await, "dgj");
    assert_eq!(text(&world, json!({"model": "one", "adapter_scale": 0})).await, "bcd");
    let sum = json!([{"name": "one", "scale": 2}, {"name": "two"}]);
    assert_eq!(text(&world, json!({"adapters": sum})).await, "eim");
    let reply = world
        .post(
            "/v1/completions",
            &completion("a", json!({"model": "one", "adapters": sum})),
        )
        .await;
    assert_eq!(reply.error(), (400, "invalid_value".to_owned(), json!("adapters")));
}

#[tokio::test]
async fn metrics_tell_who_used_what() {
    let world = world();
    let text = world.get("/metrics").await.text;
    for family in [
        "vllm:num_requests_running{model_name=\"base\"} 0",
        "vllm:num_requests_waiting{model_name=\"base\"} 0",
        "vllm:kv_cache_usage_perc{model_name=\"base\"} 0",
        "vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"512\"} 1",
        "vllm:lora_requests_info{max_lora=\"1\",running_lora_adapters=\"\",waiting_lora_adapters=\"\"} ",
        "rootstock_adapter_budget_bytes 1048576",
    ] {
        assert!(text.contains(family), "{family}: {text}");
    }
    world.load("tenant").await;
    world.complete("a", json!({"model": "tenant"})).await;
    world.complete("abc", json!({"max_tokens": 5})).await;
    let text = world.get("/metrics").await.text;
    for line in [
        "vllm:prompt_tokens_total{model_name=\"base\"} 4",
        "vllm:generation_tokens_total{model_name=\"base\"} 8",
        "rootstock_prompt_tokens_total{adapter=\"tenant\"} 1",
        "rootstock_generated_tokens_total{adapter=\"tenant\"} 3",
        "rootstock_choices_finished_total{adapter=\"tenant\",finish_reason=\"length\"} 1",
        "rootstock_choices_finished_total{adapter=\"tenant\",finish_reason=\"cancelled\"} 0",
        "rootstock_time_to_first_token_seconds_count{adapter=\"tenant\"} 1",
        "rootstock_inter_token_seconds_bucket{adapter=\"tenant\",le=\"+Inf\"} 2",
        "rootstock_request_seconds_count{adapter=\"base\"} 1",
        "rootstock_adapter_resident_bytes 1000",
        "rootstock_adapters_resident 1",
    ] {
        assert!(text.lines().any(|known| known == line), "{line}: {text}");
    }
}
