//! Far more adapters than fit the memory budget: each answers as if it were alone.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::Value;

use crate::adapter_files::AdapterFiles;
use crate::answers::{Answer, ask, ask_alone, assert_same, prompt_ids, question};
use crate::server::Server;

const RESIDENT: &str = "rootstock_adapter_resident_bytes";

/// Bytes that an adapter of the folder takes when resident (all have one shape), and the answers to `bodies` with memory
/// for all.
fn with_room_for_all(dir: &Path, bodies: &[Value]) -> (u64, Vec<Answer>) {
    let server = Server::start(&["--adapters", dir.to_str().unwrap()]);
    let answers = ask_alone(&server, bodies);
    let resident = server.expect_metric("rootstock_adapters_resident");
    assert_eq!(resident, bodies.len() as f64, "there is room for all");
    ((server.expect_metric(RESIDENT) / resident) as u64, answers)
}

/// Sends the questions of `order` from eight clients at once; the budget holds at every look. Answers in that order.
fn ask_in_order(server: &Server, bodies: &[Value], order: &[usize]) -> Vec<Answer> {
    let budget = server.expect_metric("rootstock_adapter_budget_bytes");
    let (next, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    let mut answers: Vec<(usize, Answer)> = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let resident = server.expect_metric(RESIDENT);
                assert!(
                    resident <= budget,
                    "{resident} bytes are resident, the budget is {budget}"
                );
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        });
        let clients: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut answers = Vec::new();
                    loop {
                        let place = next.fetch_add(1, Ordering::Relaxed);
                        let Some(&body) = order.get(place) else { return answers };
                        answers.push((place, ask(server, &bodies[body])));
                    }
                })
            })
            .collect();
        let answers: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
        done.store(true, Ordering::Relaxed);
        watch.join().expect("the budget was exceeded");
        answers
            .into_iter()
            .flat_map(|answers| answers.expect("a request failed"))
            .collect()
    });
    answers.sort_by_key(|(place, _)| *place);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

#[test]
fn a_hundred_adapters_answer_in_random_order_with_memory_for_ten() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = AdapterFiles::fixture("r1-down-late-layers");
    let names: Vec<String> = (0..100).map(|index| format!("tenant-{index:03}")).collect();
    for (seed, name) in names.iter().enumerate() {
        fixture.variant(seed as u64).write(&dir.path().join(name));
    }
    let bodies: Vec<Value> = names.iter().map(|name| question(name, prompt_ids(7, 20), 6)).collect();
    let (bytes, alone) = with_room_for_all(dir.path(), &bodies);
    let distinct: std::collections::HashSet<String> = alone.iter().map(|answer| answer.logprobs.to_string()).collect();
    assert_eq!(distinct.len(), 100, "adapters must be told apart by their answers");

    let memory = (bytes * 10).to_string();
    let server = Server::start(&["--adapters", dir.path().to_str().unwrap(), "--adapter-memory", &memory]);
    let mut random = fastrand::Rng::with_seed(1);
    let order: Vec<usize> = (0..400).map(|_| random.usize(0..100)).collect();
    let answers = ask_in_order(&server, &bodies, &order);
    let expected: Vec<Answer> = order.iter().map(|&body| alone[body].clone()).collect();
    assert_same("memory for ten", &answers, &expected);
    assert!(
        server.expect_metric("rootstock_adapter_evictions_total") > 0.0,
        "nothing was evicted"
    );
}

/// Index below `count`, index 0 most often, as by Zipf's law with exponent 1.
fn zipf(random: &mut fastrand::Rng, count: usize) -> usize {
    ((count as f64).powf(random.f64()) as usize).clamp(1, count) - 1
}

#[test]
fn ten_thousand_registered_adapters_serve_zipf_traffic_with_memory_for_sixty_four() {
    let dir = tempfile::tempdir().unwrap();
    let (contents, served) = (dir.path().join("contents"), dir.path().join("served"));
    let fixture = AdapterFiles::fixture("r1-down-late-layers");
    for content in 0..8 {
        fixture
            .variant(content)
            .write(&contents.join(format!("content-{content}")));
    }
    for index in 0..10_000 {
        let folder = served.join(format!("tenant-{index:05}"));
        fs::create_dir_all(&folder).unwrap();
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            fs::hard_link(
                contents.join(format!("content-{}", index % 8)).join(file),
                folder.join(file),
            )
            .unwrap();
        }
    }
    let body = |name: &str| question(name, prompt_ids(7, 20), 4);
    let of_contents: Vec<Value> = (0..8).map(|content| body(&format!("content-{content}"))).collect();
    let (bytes, alone) = with_room_for_all(&contents, &of_contents);

    let memory = (bytes * 64).to_string();
    let server = Server::start(&["--adapters", served.to_str().unwrap(), "--adapter-memory", &memory]);
    let models = server.get("/v1/models").json();
    assert_eq!(models["data"].as_array().unwrap().len(), 10_001);
    let mut random = fastrand::Rng::with_seed(2);
    let order: Vec<usize> = (0..400).map(|_| zipf(&mut random, 10_000)).collect();
    let bodies: Vec<Value> = order.iter().map(|index| body(&format!("tenant-{index:05}"))).collect();
    let answers = ask_in_order(&server, &bodies, &(0..order.len()).collect::<Vec<_>>());
    let expected: Vec<Answer> = order.iter().map(|index| alone[index % 8].clone()).collect();
    assert_same("10,000 registered", &answers, &expected);
    assert!(server.expect_metric("rootstock_adapters_resident") <= 64.0);
}
