//! How the server is: health, readiness, metrics.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::app::App;

/// The process answers and its engine lives; otherwise only a restart helps.
pub(crate) async fn health(State(app): State<Arc<App>>) -> StatusCode {
    match app.bases.current().engine.is_alive() {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// New requests are accepted.
pub(crate) async fn ready(State(app): State<Arc<App>>) -> (StatusCode, &'static str) {
    match (app.flights.draining(), app.bases.current().engine.is_alive()) {
        (false, true) => (StatusCode::OK, "ready"),
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        (false, false) => (StatusCode::SERVICE_UNAVAILABLE, "the engine has ended"),
    }
}

/// Prometheus' text.
pub(crate) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let text = app
        .metrics
        .render(&app.bases.current().name, app.engine_stats(), app.bases.store_stats());
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        text,
    )
        .into_response()
}
