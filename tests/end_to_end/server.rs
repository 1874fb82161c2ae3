//! A running `rootstock serve` for a test: started on a free port, ready before it is handed out, killed on drop.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::http::{self, Events, Reply};

/// Name under which every test serves the base.
pub const BASE: &str = "base";

/// The binary under test.
pub const ROOTSTOCK: &str = env!("CARGO_BIN_EXE_rootstock");

/// The model file: ROOTSTOCK_TEST_MODEL, else where `make model` puts it.
///
/// # Panics
/// There is none.
pub fn model() -> PathBuf {
    pulled(
        "ROOTSTOCK_TEST_MODEL",
        "smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf",
        "make model",
    )
}

/// Gemma 3 270M: ROOTSTOCK_TEST_GEMMA, else where `make gemma` puts it.
///
/// # Panics
/// There is none.
pub fn gemma() -> PathBuf {
    pulled(
        "ROOTSTOCK_TEST_GEMMA",
        "gemma3-270m/gemma-3-270m-q4_k_m.gguf",
        "make gemma",
    )
}

fn pulled(variable: &str, file: &str, fetch: &str) -> PathBuf {
    let default = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(".rootstock/models")
        .join(file);
    let path = std::env::var_os(variable).map_or(default, PathBuf::from);
    assert!(path.is_file(), "no model at {}: run `{fetch}`", path.display());
    path
}

/// A folder or file below tests/fixtures.
pub fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

/// Folder of the golden adapters.
pub fn fixture_adapters() -> &'static str {
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/adapters")
}

/// A server process.
pub struct Server {
    child: Mutex<Child>,
    /// `http://127.0.0.1:PORT`
    pub url: String,
    /// `127.0.0.1:PORT`, for tests that speak to the socket.
    pub address: String,
    log: PathBuf,
    _scratch: tempfile::TempDir,
}

impl Server {
    /// Serves the test model as [`BASE`] with further flags and waits until it is ready.
    ///
    /// # Panics
    /// As [`Self::start_on`].
    pub fn start(flags: &[&str]) -> Self {
        Self::start_on(&model(), flags)
    }

    /// Serves a model as [`BASE`] with further flags and waits until it is ready.
    ///
    /// # Panics
    /// The process ends or is not ready in two minutes; its log is shown.
    pub fn start_on(model: &Path, flags: &[&str]) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let log = scratch.path().join("server.log");
        let output = File::create(&log).unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = Command::new(ROOTSTOCK)
            .args(["serve", "--host", "127.0.0.1", "--port", &address.port().to_string()])
            .args(["--served-model-name", BASE, "--model"])
            .arg(model)
            .args(flags)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        let server = Self {
            child: Mutex::new(child),
            url: format!("http://{address}"),
            address: address.to_string(),
            log,
            _scratch: scratch,
        };
        server.wait_ready();
        server
    }

    fn wait_ready(&self) {
        let start = Instant::now();
        while !http::get(&format!("{}/ready", self.url)).is_ok_and(|reply| reply.status == 200) {
            let ended = self.child.lock().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "the server ended at start: {ended:?}\n{}", self.log());
            assert!(
                start.elapsed() < Duration::from_secs(120),
                "the server is not ready\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What the process wrote.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// GET that must get a response.
    pub fn get(&self, path: &str) -> Reply {
        http::get(&format!("{}{path}", self.url)).unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    /// POST of JSON that must get a response.
    pub fn post(&self, path: &str, body: &Value) -> Reply {
        http::post(&format!("{}{path}", self.url), body).unwrap_or_else(|error| panic!("POST {path}: {error}"))
    }

    /// POST of JSON that must be answered by events.
    pub fn stream(&self, path: &str, body: &Value) -> Events {
        http::stream(&format!("{}{path}", self.url), body).unwrap_or_else(|error| panic!("POST {path}: {error}"))
    }

    /// A metric, summed over its labels; `None` where it is not exported.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let text = self.get("/metrics").text;
        let samples = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let value = match rest.as_bytes().first()? {
                b' ' => rest,
                b'{' => &rest[rest.rfind('}')? + 1..],
                _ => return None,
            };
            value.trim().parse::<f64>().ok()
        });
        samples.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
    }

    /// A metric that must be exported.
    pub fn expect_metric(&self, name: &str) -> f64 {
        self.metric(name).unwrap_or_else(|| panic!("/metrics has no {name}"))
    }

    /// Waits until a metric satisfies a claim.
    ///
    /// # Panics
    /// It does not within a minute.
    pub fn wait_metric(&self, name: &str, claim: impl Fn(f64) -> bool) {
        let start = Instant::now();
        loop {
            let value = self.expect_metric(name);
            if claim(value) {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "{name} stays at {value}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Resident memory of the process in bytes.
    pub fn resident_memory(&self) -> u64 {
        let status = format!("/proc/{}/status", self.child.lock().unwrap().id());
        let status = std::fs::read_to_string(status).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .expect("VmRSS");
        line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        let id = self.child.lock().unwrap().id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    }

    /// Waits for the process to end by itself.
    pub fn wait(&self) -> ExitStatus {
        self.child.lock().unwrap().wait().unwrap()
    }

    /// Fails the test with the log if the process has ended.
    pub fn assert_alive(&self) {
        let ended = self.child.lock().unwrap().try_wait().unwrap();
        assert!(ended.is_none(), "the server ended: {ended:?}\n{}", self.log());
        assert_eq!(self.get("/health").status, 200);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            eprintln!(
                "--- end of the server's log\n{}",
                &log[log.floor_char_boundary(log.len().saturating_sub(4000))..]
            );
        }
        if let Ok(child) = self.child.get_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A server that the tests of a module share while any of them runs. Held weakly, because statics are never dropped
/// and the process must not outlive the tests.
pub struct Shared {
    server: Mutex<Weak<Server>>,
    start: fn() -> Server,
}

impl Shared {
    /// Started by `start` when the first test asks.
    pub const fn new(start: fn() -> Server) -> Self {
        Self {
            server: Mutex::new(Weak::new()),
            start,
        }
    }

    /// The running server, or a new one.
    pub fn get(&self) -> Arc<Server> {
        let mut slot = self.server.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        slot.upgrade().unwrap_or_else(|| {
            let server = Arc::new((self.start)());
            *slot = Arc::downgrade(&server);
            server
        })
    }
}
