//! Servers while they are measured: started on a free port, asked until ready, ended on drop.

use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::client::{Dialect, Target};

/// A running server.
pub struct Server {
    child: Child,
    pub url: String,
    dialect: Dialect,
}

impl Server {
    /// `rootstock serve` with a model and further flags.
    ///
    /// # Errors
    /// It ends, or is not ready within a minute.
    pub fn ours(model: &Path, threads: usize, flags: &[String], log: &Path) -> Result<Self> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rootstock"));
        command.arg("serve").arg("--model").arg(model);
        command.arg("--threads").arg(threads.to_string()).args(flags);
        Self::start(command, "/ready", Dialect::OpenAi, log)
    }

    /// llama-server, given its command with model and flags. Its adapters' scales are set to nothing, which is not how it starts.
    ///
    /// # Errors
    /// As [`Self::ours`].
    pub fn llama(command: Command, log: &Path) -> Result<Self> {
        let server = Self::start(command, "/health", Dialect::LlamaServer, log)?;
        server.post("/lora-adapters", &Value::Array(Vec::new()))?;
        Ok(server)
    }

    fn start(mut command: Command, ready: &str, dialect: Dialect, log: &Path) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let output = File::create(log).with_context(|| log.display().to_string())?;
        command.arg("--port").arg(port.to_string()).stdin(Stdio::null());
        command.stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().context("the server cannot be started")?;
        let mut server = Self {
            child,
            url: format!("http://127.0.0.1:{port}"),
            dialect,
        };
        let started = Instant::now();
        let probe = format!("{}{ready}", server.url);
        while !ureq::get(&probe).call().is_ok_and(|response| response.status() == 200) {
            let ended = server.child.try_wait()?;
            ensure!(ended.is_none(), "the server ended: see {}", log.display());
            ensure!(
                started.elapsed() < Duration::from_secs(60),
                "not ready: see {}",
                log.display()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// The base, or some of its adapters.
    ///
    /// # Errors
    /// It does not answer, or has fewer.
    pub fn target(&self, adapters: usize) -> Result<Target> {
        Target::find(&self.url, self.dialect, adapters)
    }

    /// Sends JSON; the answer must be 200.
    ///
    /// # Errors
    /// Another status.
    pub fn post(&self, path: &str, body: &Value) -> Result<()> {
        let request = ureq::post(format!("{}{path}", self.url)).header("content-type", "application/json");
        request.send(body.to_string().as_bytes()).context(path.to_owned())?;
        Ok(())
    }

    /// Processor time since it started.
    ///
    /// # Errors
    /// No /proc.
    pub fn processor_seconds(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // After the name, which is in brackets: state is field 3, user and system time are 14 and 15, in hundredths.
        let (_, rest) = stat.rsplit_once(')').context("/proc/PID/stat")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok());
        let (user, system) = ticks(11).zip(ticks(12)).context("/proc/PID/stat")?;
        Ok((user + system) / 100.0)
    }

    /// Resident memory in bytes.
    ///
    /// # Errors
    /// No /proc.
    pub fn resident_bytes(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        Ok(kilobytes.context("VmRSS")? * 1024.0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
