//! The `rootstock` binary: parses arguments, runs one command, turns its outcome into an exit code.
//! What a command needs is validated in [`settings`]; everything else lives in the library crates.

mod args;
mod base;
mod catalog;
mod commands;
mod http;
mod models;
mod models_dir;
mod progress;
mod settings;
mod side_by_side;
mod signals;

use std::io;
use std::process::ExitCode;

use tracing_subscriber::EnvFilter;

use args::Command;

/// Adapters of megabytes come and go for as long as a server lives: glibc's allocator keeps what they leave in its
/// heaps (50-80 MB after 20 s of swaps), this one gives it back. Without transparent huge pages (`no_thp`): with them
/// 100 MB more are resident under 32 adapters and a KV pool that is not full, with no throughput to show for it beyond
/// noise so far.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A mistake in how the command was called or configured; exit code 2, like clap's own.
#[derive(Debug)]
struct UsageError(String);

impl std::fmt::Display for UsageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

fn main() -> ExitCode {
    let command = match args::parse(std::env::args_os()) {
        Ok(command) => command,
        Err(error) => error.exit(),
    };
    start_log(&command);
    let outcome = match command {
        Command::Serve(args) => commands::serve::run(args),
        Command::Pull(args) => commands::pull::run(args),
        Command::Generate(args) => commands::generate::run(args),
        Command::Chat(args) => commands::chat::run(args),
        Command::Data(command) => commands::dataset::run(command),
        Command::Eval(args) => commands::eval::run(args),
        Command::Compare(args) => commands::compare::run(args),
        Command::Finetune(args) => commands::finetune::run(*args),
        Command::Search(args) => commands::search::run(*args),
        Command::Quantize(args) => commands::quantize::run(args),
        Command::Inspect(args) => commands::inspect::run(args),
        Command::Merge(args) => commands::merge::run(args),
        Command::Extract(args) => commands::extract::run(args),
        Command::ConvertAdapter(args) => commands::convert_adapter::run(args),
        Command::Support(args) => commands::support::run(args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if reader_is_gone(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(if is_usage(&error) { 2 } else { 1 })
        }
    }
}

/// Logs go to stderr, so that stdout carries results alone. A server tells its events, the other commands only warnings.
fn start_log(command: &Command) {
    let default = if matches!(command, Command::Serve(_)) {
        "info"
    } else {
        "warn"
    };
    let filter = EnvFilter::try_from_env("ROOTSTOCK_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
        .init();
}

/// A mistake in how the command was called: one found here, or a setting that a library refuses by its name.
fn is_usage(error: &anyhow::Error) -> bool {
    let of_training = error.downcast_ref::<rootstock_train::TrainError>();
    let of_optimizing = error.downcast_ref::<rootstock_optimize::OptimizeError>();
    error.is::<UsageError>()
        || matches!(of_training, Some(rootstock_train::TrainError::Setting { .. }))
        || matches!(of_optimizing, Some(rootstock_optimize::OptimizeError::Setting { .. }))
}

/// `rootstock generate ... | head` closes our stdout: that ends the work and is no failure.
fn reader_is_gone(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}
