//! `rootstock serve`: brings the base up, registers and watches adapters, serves HTTP until a signal.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use rootstock_engine::adapters::AdapterStore;
use rootstock_server::Service;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tracing::{info, warn};

use crate::args::ServeArgs;
use crate::base::Base;
use crate::settings::ServeSettings;

/// Exit code of a process that its user stopped, as shells report SIGINT.
const INTERRUPTED: i32 = 130;

/// Serves until SIGTERM or SIGINT; returns once every accepted request has ended.
///
/// # Errors
/// The settings, the model, the adapter folder or the address cannot be used.
pub fn run(args: ServeArgs) -> Result<()> {
    let settings = ServeSettings::new(args)?;
    let base = Base::start(&settings.base)?;
    let watcher = settings
        .adapters
        .iter()
        .map(|dir| base.watch(dir))
        .collect::<Result<Vec<_>>>()?;
    let (engine, adapters) = (base.engine.clone(), base.adapters.clone());
    let runtime = Runtime::new().context("the I/O threads cannot be started")?;
    let (name, address) = (settings.base.name.clone(), settings.address);
    let service = Service {
        engine: base.engine,
        adapters: base.adapters,
        tokenizer: base.tokenizer,
        chat_template: base.chat_template,
        base_name: settings.base.name,
        max_context: base.max_context,
        adapter_roots: settings.adapter_roots,
        api_keys: settings.api_keys,
        limits: settings.limits,
    };
    let on_bound = |address| announce(address, &name, &adapters);
    runtime.block_on(async {
        let stop = stop_signal().context("signals cannot be received")?;
        rootstock_server::serve(service, address, on_bound, stop)
            .await
            .with_context(|| format!("cannot serve on {address} (--host, --port)"))
    })?;
    drop(watcher);
    engine.drain();
    info!("every request has ended; bye");
    // Loads of adapters that nobody waits for may still run; they have nothing to save.
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(())
}

/// Tells on stdout where the server is and what to try. A stdout that is gone must not end the server.
fn announce(address: SocketAddr, base: &str, adapters: &AdapterStore) {
    let adapters = adapters.list();
    let model = adapters.first().map_or(base, |adapter| &adapter.name);
    let text = format!(
        "ready on http://{address} with {base} and {} adapters\n\
         curl http://{address}/v1/models\n\
         curl http://{address}/v1/completions -H 'Content-Type: application/json' \
         -d '{{\"model\": \"{model}\", \"prompt\": \"The captain looked at the sea and\", \"max_tokens\": 24}}'\n",
        adapters.len()
    );
    let mut out = io::stdout().lock();
    if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        warn!(%error, "stdout cannot be written");
    }
}

/// Resolves at the first signal; a second one ends the process without waiting for requests.
fn stop_signal() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut signals = Signals::new()?;
    let (first, stop) = oneshot::channel();
    tokio::spawn(async move {
        signals.next().await;
        info!("a signal asks to stop; a second one ends at once");
        let _ = first.send(());
        signals.next().await;
        std::process::exit(INTERRUPTED);
    });
    Ok(async move {
        let _ = stop.await;
    })
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        let _ = tokio::signal::ctrl_c().await;
    }
}
