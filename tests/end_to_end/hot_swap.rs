//! Adapters come, change, go and are refused ten times a second while sixteen streams run on them. No request fails and
//! each gets the answer of one generation that its name had while it ran.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::adapter_files::AdapterFiles;
use crate::answers::{prompt_ids, question};
use crate::http;
use crate::server::{BASE, Server};

const STREAMS: usize = 16;
const NAMES: usize = 8;
/// Names from this one on are also removed; a request may then find nothing under them.
const FIRST_REMOVED: usize = 6;
const VARIANTS: usize = 3;
const PROMPTS: usize = 2;
const TOKENS: usize = 12;
const PERIOD: Duration = Duration::from_millis(100);
const RESIDENT: &str = "rootstock_adapter_resident_bytes";

/// 20 s, or as many seconds as ROOTSTOCK_SOAK_SECONDS says.
fn soak() -> Duration {
    let seconds =
        std::env::var("ROOTSTOCK_SOAK_SECONDS").map_or(20, |seconds| seconds.parse().expect("a number of seconds"));
    Duration::from_secs(seconds)
}

/// The tokens of an answer with their log-probabilities: enough to tell any two adapters apart.
type Streamed = Vec<Value>;

/// Adapter folders and the answers each gives alone.
struct Contents {
    dir: tempfile::TempDir,
    /// `[name][variant][prompt]`
    answers: Vec<Vec<Vec<Streamed>>>,
}

/// What was served under a name, and from when until when it may have been seen.
#[derive(Clone)]
struct Tenure {
    variant: Option<usize>,
    from: Instant,
    until: Option<Instant>,
}

fn name(index: usize) -> String {
    format!("tenant-{index}")
}

fn folder(dir: &Path, name: usize, variant: usize) -> PathBuf {
    dir.join(format!("content-{name}-{variant}"))
}

fn body(model: &str, prompt: usize) -> Value {
    let mut body = question(model, prompt_ids(prompt as u64, 24), TOKENS);
    body["stream"] = json!(true);
    body["logprobs"] = json!(1);
    body
}

/// A streamed answer; `Ok(None)` where the name was not served.
fn ask(server: &Server, model: &str, prompt: usize) -> Result<Option<Streamed>, String> {
    let events = match http::stream(&format!("{}/v1/completions", server.url), &body(model, prompt)) {
        Err(error) if error.starts_with("HTTP 404") && error.contains("model_not_found") => return Ok(None),
        events => events?,
    };
    let mut streamed = Vec::new();
    for event in events {
        let event = event?;
        if let Some(error) = event.get("error") {
            return Err(error.to_string());
        }
        let logprobs = &event["choices"][0]["logprobs"]["token_logprobs"];
        streamed.extend(logprobs.as_array().into_iter().flatten().cloned());
    }
    if streamed.len() == TOKENS {
        Ok(Some(streamed))
    } else {
        Err(format!("{} tokens came", streamed.len()))
    }
}

fn load(server: &Server, name: &str, folder: &Path, inplace: bool) -> http::Reply {
    server.post(
        "/v1/load_lora_adapter",
        &json!({"lora_name": name, "lora_path": folder, "load_inplace": inplace}),
    )
}

fn unload(server: &Server, name: &str) -> http::Reply {
    server.post("/v1/unload_lora_adapter", &json!({"lora_name": name}))
}

/// Half the names have all seven linear layers at rank 8, half have two at rank 16.
fn write_contents() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let fixtures = [AdapterFiles::fixture("r8-all"), AdapterFiles::fixture("r16-qv")];
    for name in 0..NAMES {
        for variant in 0..VARIANTS {
            let seed = (name * VARIANTS + variant) as u64;
            fixtures[name % 2]
                .variant(seed)
                .write(&folder(dir.path(), name, variant));
        }
    }
    let mut broken = AdapterFiles::fixture("r16-qv");
    let tensor = broken.tensors(".lora_B.weight").remove(0);
    broken.bytes_mut(&tensor)[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    broken.write(&dir.path().join("broken"));
    dir
}

/// Each content's answers on a server that serves nothing else.
fn answers_alone(dir: tempfile::TempDir) -> Contents {
    let server = Server::start(&["--adapter-root", dir.path().to_str().unwrap()]);
    let alone = |name: usize, variant: usize| -> Vec<Streamed> {
        assert_eq!(
            load(&server, "alone", &folder(dir.path(), name, variant), true).status,
            200
        );
        (0..PROMPTS)
            .map(|prompt| ask(&server, "alone", prompt).unwrap().unwrap())
            .collect()
    };
    let answers: Vec<Vec<Vec<Streamed>>> = (0..NAMES)
        .map(|name| (0..VARIANTS).map(|variant| alone(name, variant)).collect())
        .collect();
    let mut all: Vec<String> = answers
        .iter()
        .flatten()
        .flatten()
        .map(|answer| format!("{answer:?}"))
        .collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(
        all.len(),
        NAMES * VARIANTS * PROMPTS,
        "contents must be told apart by their answers"
    );
    drop(server);
    Contents { dir, answers }
}

/// A server under swaps, and the history of each name.
struct Orchard<'a> {
    server: &'a Server,
    contents: &'a Contents,
    history: Vec<Mutex<Vec<Tenure>>>,
    stop: AtomicBool,
    answered: AtomicUsize,
}

impl<'a> Orchard<'a> {
    fn new(server: &'a Server, contents: &'a Contents) -> Self {
        let from = Instant::now();
        let tenure = || {
            Mutex::new(vec![Tenure {
                variant: None,
                from,
                until: None,
            }])
        };
        let history = (0..NAMES).map(|_| tenure()).collect();
        let orchard = Self {
            server,
            contents,
            history,
            stop: AtomicBool::new(false),
            answered: AtomicUsize::new(0),
        };
        (0..NAMES).for_each(|name| orchard.install(name, 0));
        orchard
    }

    /// Serves a variant under the name. What was there may be seen until this returns, what comes from when it is called.
    fn change(&self, index: usize, variant: Option<usize>, act: impl FnOnce()) {
        let from = Instant::now();
        self.history[index].lock().unwrap().push(Tenure {
            variant,
            from,
            until: None,
        });
        act();
        let mut history = self.history[index].lock().unwrap();
        let before = history.len() - 2;
        history[before].until = Some(Instant::now());
    }

    fn install(&self, index: usize, variant: usize) {
        self.change(index, Some(variant), || {
            let reply = load(
                self.server,
                &name(index),
                &folder(self.contents.dir.path(), index, variant),
                true,
            );
            assert_eq!(reply.status, 200, "{}", reply.text);
        });
    }

    fn remove(&self, index: usize) {
        self.change(index, None, || {
            let reply = unload(self.server, &name(index));
            assert_eq!(reply.status, 200, "{}", reply.text);
        });
    }

    fn served(&self, index: usize) -> Option<usize> {
        self.history[index].lock().unwrap().last().unwrap().variant
    }

    /// One change: a replacement, a removal or return, a newcomer that leaves again, or a refusal.
    fn disturb(&self, random: &mut fastrand::Rng) {
        let index = random.usize(0..NAMES);
        match random.usize(0..4) {
            0 if index >= FIRST_REMOVED && self.served(index).is_some() => self.remove(index),
            0 | 1 => self.install(index, random.usize(0..VARIANTS)),
            2 => {
                let folder = folder(self.contents.dir.path(), index, random.usize(0..VARIANTS));
                assert_eq!(load(self.server, "newcomer", &folder, false).status, 200);
                assert_eq!(unload(self.server, "newcomer").status, 200);
            }
            _ => {
                let reply = load(
                    self.server,
                    &name(index),
                    &self.contents.dir.path().join("broken"),
                    true,
                );
                assert_eq!(
                    (reply.status, reply.code().as_str()),
                    (400, "adapter_not_finite"),
                    "{}",
                    reply.text
                );
            }
        }
    }

    /// A client that asks until told to stop.
    fn stream(&self, stream: usize) {
        let index = stream % NAMES;
        let mut random = fastrand::Rng::with_seed(stream as u64);
        while !self.stop.load(Ordering::Relaxed) {
            let prompt = random.usize(0..PROMPTS);
            let start = Instant::now();
            let answer =
                ask(self.server, &name(index), prompt).unwrap_or_else(|error| panic!("{}: {error}", name(index)));
            let end = Instant::now();
            self.judge(index, prompt, answer.as_ref(), (start, end));
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The answer is that of one content which the name had between start and end.
    fn judge(&self, index: usize, prompt: usize, answer: Option<&Streamed>, (start, end): (Instant, Instant)) {
        let history = self.history[index].lock().unwrap().clone();
        let possible = history
            .iter()
            .filter(|tenure| tenure.from <= end && tenure.until.is_none_or(|until| until >= start));
        let variants: Vec<Option<usize>> = possible.map(|tenure| tenure.variant).collect();
        let fits = variants.iter().any(|variant| match (variant, answer) {
            (Some(variant), Some(answer)) => self.contents.answers[index][*variant][prompt] == *answer,
            (None, None) => true,
            _ => false,
        });
        assert!(
            fits,
            "{} had {variants:?} and answered {answer:?}; that is {}",
            name(index),
            self.owner(prompt, answer)
        );
    }

    /// Whose answer it is, for the message of a mix-up.
    fn owner(&self, prompt: usize, answer: Option<&Streamed>) -> String {
        let pairs = (0..NAMES).flat_map(|name| (0..VARIANTS).map(move |variant| (name, variant)));
        let found = pairs
            .into_iter()
            .find(|&(name, variant)| Some(&self.contents.answers[name][variant][prompt]) == answer);
        found.map_or("nobody's".to_owned(), |(name, variant)| {
            format!("content-{name}-{variant}'s")
        })
    }

    /// Runs all streams for a time, with changes or without.
    fn run(&self, length: Duration, disturbed: bool) {
        self.stop.store(false, Ordering::Relaxed);
        std::thread::scope(|scope| {
            let streams: Vec<_> = (0..STREAMS)
                .map(|stream| scope.spawn(move || self.stream(stream)))
                .collect();
            let mut random = fastrand::Rng::with_seed(3);
            let (start, mut next) = (Instant::now(), Instant::now());
            while start.elapsed() < length && !streams.iter().any(|stream| stream.is_finished()) {
                if disturbed {
                    let change = std::panic::AssertUnwindSafe(|| self.disturb(&mut random));
                    if let Err(failure) = std::panic::catch_unwind(change) {
                        self.stop.store(true, Ordering::Relaxed);
                        std::panic::resume_unwind(failure);
                    }
                }
                next += PERIOD;
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            self.stop.store(true, Ordering::Relaxed);
        });
    }
}

#[test]
fn swaps_under_load_neither_fail_nor_mix_up_a_request_nor_keep_memory() {
    let contents = answers_alone(write_contents());
    let root = contents.dir.path().to_str().unwrap();
    // KV pages count as resident once they were written: all of a small pool are before memory is measured.
    let server = Server::start(&[
        "--adapter-root",
        root,
        "--max-num-seqs",
        "16",
        "--kv-memory",
        "24MiB",
        "--max-model-len",
        "512",
    ]);
    for seed in 100..104 {
        crate::answers::ask(&server, &question(BASE, prompt_ids(seed, 400), 1));
    }
    let orchard = Orchard::new(&server, &contents);
    orchard.run(Duration::from_secs(4), false);
    let (bytes, memory) = (server.expect_metric(RESIDENT), server.resident_memory());
    let loads = server.expect_metric("rootstock_adapter_loads_total");

    orchard.run(soak(), true);

    assert!(
        orchard.answered.load(Ordering::Relaxed) >= STREAMS,
        "the streams hardly ran"
    );
    assert!(
        server.expect_metric("rootstock_adapter_loads_total") - loads >= 20.0,
        "hardly anything was swapped"
    );
    (0..NAMES).for_each(|name| orchard.install(name, 0));
    server.wait_metric(RESIDENT, |now| now == bytes);
    settles(&server, memory + (20 << 20));
    server.assert_alive();
}

/// Allocators give freed memory back a moment later, while they are used: resident memory comes down to the limit.
fn settles(server: &Server, limit: u64) {
    let start = Instant::now();
    while server.resident_memory() > limit {
        let over = (server.resident_memory().saturating_sub(limit)) as f64 / f64::from(1 << 20);
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "resident memory stays {over:.1} MB above the limit"
        );
        let _ = ask(server, &name(0), 0);
        std::thread::sleep(PERIOD);
    }
}
