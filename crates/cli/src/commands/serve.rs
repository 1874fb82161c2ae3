//! `rootstock serve`: brings the base up, registers and watches adapters, serves HTTP until a signal.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use rootstock_engine::adapters::AdapterInfo;
use rootstock_server::{BaseError, BaseErrorCode, BaseRequest, Service, ServingBase};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tracing::{info, warn};

use crate::args::{Quantize, ServeArgs};
use crate::base::Base;
use crate::settings::{BaseSettings, ServeSettings, weight_precision};
use crate::signals::{INTERRUPTED, Signals};

/// Serves until SIGTERM or SIGINT; returns once every accepted request has ended.
///
/// # Errors
/// The settings, the model, the adapter folder or the address cannot be used.
pub fn run(args: ServeArgs) -> Result<()> {
    let settings = ServeSettings::new(args)?;
    let first = Base::start_apart(&settings.base)?;
    let watcher = settings.adapters.as_deref().map(|dir| first.watch(dir)).transpose()?;
    let adapters = first.adapters.list();
    let runtime = Runtime::new().context("the I/O threads cannot be started")?;
    let (name, address) = (settings.base.name.clone(), settings.address);
    let service = Service {
        base: first.into_serving(name.clone(), watcher),
        adapter_roots: settings.adapter_roots.clone(),
        api_keys: settings.api_keys.clone(),
        limits: settings.limits,
        loader: Arc::new(move |request| load(request, &settings)),
    };
    let on_bound = |address| announce(address, &name, &adapters);
    runtime.block_on(async {
        let stop = stop_signal().context("signals cannot be received")?;
        rootstock_server::serve(service, address, on_bound, stop)
            .await
            .with_context(|| format!("cannot serve on {address} (--host, --port)"))
    })?;
    info!("every request has ended; bye");
    // Loads of adapters that nobody waits for may still run; they have nothing to save.
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(())
}

/// Loads the base that is to replace the one served.
fn load(request: BaseRequest, settings: &ServeSettings) -> std::result::Result<ServingBase, BaseError> {
    let weights = match request.quantize.as_deref() {
        None => settings.base.weights,
        Some(text) => weight_precision(Quantize::from_str(text, true).map_err(|_| {
            let message = format!("'quantize' must be none, 8, 4 or nf4, got {text:?}");
            BaseError::new(BaseErrorCode::Quantize, message)
        })?),
    };
    let model = settings.replacements.find(&request.model).ok_or_else(|| {
        let message = format!(
            "no model '{}' was pulled, or lies beside the one served first or below a --model-root",
            request.model
        );
        BaseError::new(BaseErrorCode::NotFound, message)
    })?;
    let base = BaseSettings {
        model,
        weights,
        ..settings.base.clone()
    };
    let start = || {
        let base = Base::start_apart(&base)?;
        let watcher = settings.adapters.as_deref().map(|dir| base.watch(dir)).transpose()?;
        Ok(base.into_serving(request.name, watcher))
    };
    start().map_err(|error: anyhow::Error| BaseError::new(BaseErrorCode::Refused, format!("{error:#}")))
}

/// Tells on stdout where the server is and what to try. A stdout that is gone must not end the server.
fn announce(address: SocketAddr, base: &str, adapters: &[AdapterInfo]) {
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
