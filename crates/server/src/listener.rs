//! Sockets: accepts connections, gives each its bounds, and ends in good order.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use crate::Service;
use crate::app::App;
use crate::half_close::PatientEof;

/// From the first wait for a request to the end of its headers; also how long a connection may idle between requests,
/// which is above the usual limits of clients and proxies, so that they close first.
const HEADER_TIME: Duration = Duration::from_secs(75);
/// Pause after a failed accept: out of file descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// At the end, how long clients may take to read answers that are complete.
const READING_TIME: Duration = Duration::from_secs(10);

/// Serves until `shutdown` resolves, then refuses new requests, lets accepted ones end, and returns.
/// `on_bound` is called once with the address.
///
/// # Errors
/// The address cannot be bound.
pub async fn serve(
    service: Service,
    address: SocketAddr,
    on_bound: impl FnOnce(SocketAddr) + Send,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let app = App::new(service);
    let connections = GracefulShutdown::new();
    on_bound(listener.local_addr()?);
    let end = async {
        shutdown.await;
        app.flights.drain();
        tracing::info!("draining: accepted requests end, new ones are refused");
        landed(&app).await;
    };
    // Connections are accepted during the drain too, to be told that the server is going.
    tokio::select! {
        () = accept(&listener, app.router(), &connections) => {}
        () = end => {}
    }
    drop(listener);
    let base = app.bases.current();
    let _ = spawn_blocking(move || base.engine.drain()).await;
    let _ = timeout(READING_TIME, connections.shutdown()).await;
    Ok(())
}

/// Accepts connections for ever.
async fn accept(listener: &TcpListener, router: Router, connections: &GracefulShutdown) {
    loop {
        match listener.accept().await {
            Ok((socket, _)) => spawn(socket, router.clone(), connections),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn spawn(socket: TcpStream, router: Router, connections: &GracefulShutdown) {
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, "small packets may be delayed");
    }
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .serve_connection(TokioIo::new(PatientEof::new(socket)), TowerToHyperService::new(router));
    let connection = connections.watch(connection);
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection ended early");
        }
    });
}

/// Resolves once every accepted request has been answered, or only waits for clients that do not read their answers.
async fn landed(app: &Arc<App>) {
    tokio::select! {
        () = app.flights.landed() => {}
        () = idle(app) => tracing::warn!("clients do not read their answers; closing on them"),
    }
}

/// Resolves once the server has been quiet for [`READING_TIME`].
async fn idle(app: &App) {
    let step = READING_TIME / 20;
    let mut quiet = Duration::ZERO;
    while quiet < READING_TIME {
        sleep(step).await;
        quiet = match app.is_quiet() {
            true => quiet + step,
            false => Duration::ZERO,
        };
    }
}
