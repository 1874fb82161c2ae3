//! A request's logits are the same bits alone and in any company, prefill chunking and thread count.

use serde_json::{Value, json};

use crate::answers::{Answer, ask_alone, assert_same, prompt_ids, question};
use crate::server::{BASE, Server, fixture_adapters};

const MODELS: [&str; 6] = [
    BASE,
    "r8-all",
    "r16-qv",
    "rslora-r4-patterns",
    "r1-down-late-layers",
    "dora-r8",
];

/// Sixteen requests of different lengths, most on another adapter than their neighbours, some sampled, some scored.
fn requests() -> Vec<Value> {
    (0..16u64)
        .map(|index| {
            let length = [3, 17, 40, 64, 129, 9, 31, 250][index as usize % 8];
            let model = MODELS[index as usize % MODELS.len()];
            let mut body = question(model, prompt_ids(index, length), 40);
            match index % 4 {
                1 => body["echo"] = json!(true),
                2 => (body["temperature"], body["seed"]) = (json!(1.0), json!(index)),
                3 => body["adapter_scale"] = json!(if model == BASE { 1.0 } else { 0.5 }),
                _ => {}
            }
            if model == BASE {
                body.as_object_mut().unwrap().remove("adapter_scale");
            }
            body
        })
        .collect()
}

/// All at once on a new server, which has no prefix of them cached. They must really have run beside each other.
fn together(flags: &[&str]) -> Vec<Answer> {
    let server = Server::start(&[&["--adapters", fixture_adapters(), "--max-num-seqs", "16"], flags].concat());
    let bodies = requests();
    let (answers, most) = std::thread::scope(|scope| {
        let asked: Vec<_> = bodies
            .iter()
            .map(|body| scope.spawn(|| crate::answers::ask(&server, body)))
            .collect();
        let mut most = 0.0f64;
        while asked.iter().any(|asked| !asked.is_finished()) {
            most = most.max(server.expect_metric("vllm:num_requests_running"));
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let answers: Vec<_> = asked
            .into_iter()
            .map(|asked| asked.join().expect("a request failed"))
            .collect();
        (answers, most)
    });
    assert!(most >= 8.0, "at most {most} requests were seen running together");
    answers
}

#[test]
fn logits_do_not_depend_on_company_chunking_or_threads() {
    let alone = {
        let server = Server::start(&["--adapters", fixture_adapters(), "--threads", "2"]);
        ask_alone(&server, &requests())
    };
    assert!(
        alone
            .iter()
            .all(|answer| answer.ids.len() == 40 && answer.finish_reason == "length")
    );
    assert_same("16 at once", &together(&["--threads", "2"]), &alone);
    assert_same("one thread", &together(&["--threads", "1"]), &alone);
    assert_same(
        "small chunks",
        &together(&["--threads", "2", "--max-batch-tokens", "24"]),
        &alone,
    );
    assert_same(
        "large chunks",
        &together(&["--threads", "2", "--max-batch-tokens", "2048"]),
        &alone,
    );
}

#[test]
fn a_scaled_adapter_differs_from_the_whole_and_from_the_base() {
    let server = Server::start(&["--adapters", fixture_adapters()]);
    let whole = question("r8-all", prompt_ids(1, 20), 16);
    let mut half = whole.clone();
    half["adapter_scale"] = json!(0.5);
    let mut sum = question(BASE, prompt_ids(1, 20), 16);
    sum["adapters"] = json!([{"name": "r8-all", "scale": 0.5}]);
    let answers = ask_alone(&server, &[whole, question(BASE, prompt_ids(1, 20), 16), half, sum]);
    assert_ne!(answers[0], answers[1]);
    assert_ne!(answers[0], answers[2]);
    assert_ne!(answers[1], answers[2]);
    assert_same("a sum of one is the scaled adapter", &answers[3..], &answers[2..3]);
}
