//! The state that all routes share, and which route goes where.

use std::any::Any;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::available_parallelism;

use axum::Router;
use axum::http::{Method, Uri};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use rootstock_engine::EngineStats;
use tower_http::catch_panic::CatchPanicLayer;

use crate::auth::{Keys, require_key};
use crate::base::{BaseLoader, Bases};
use crate::body::Workshop;
use crate::error::ApiError;
use crate::flight::Flights;
use crate::metrics::Metrics;
use crate::waits::AdapterWaits;
use crate::wire::unix_seconds;
use crate::{Service, routes};

/// A [`Service`] at work.
pub(crate) struct App {
    pub(crate) bases: Bases,
    pub(crate) loader: BaseLoader,
    pub(crate) adapter_roots: Vec<PathBuf>,
    pub(crate) keys: Keys,
    pub(crate) body_limit: usize,
    pub(crate) workshop: Workshop,
    pub(crate) flights: Flights,
    pub(crate) waits: AdapterWaits,
    pub(crate) metrics: Metrics,
    /// Loads over HTTP go one after the other, so that a storm of them cannot take all threads and the disk.
    pub(crate) loading: Arc<tokio::sync::Mutex<()>>,
    /// So do replacements of the base, each of which takes the memory of another one.
    pub(crate) replacing: Arc<tokio::sync::Mutex<()>>,
    /// Unix seconds of the start.
    pub(crate) created: u64,
}

impl App {
    pub(crate) fn new(service: Service) -> Arc<Self> {
        Arc::new(Self {
            waits: AdapterWaits::new(service.base.engine.max_waiting()),
            bases: Bases::new(service.base, service.limits.choices),
            loader: service.loader,
            adapter_roots: service.adapter_roots,
            keys: Keys::new(&service.api_keys),
            body_limit: service.limits.body_bytes,
            workshop: Workshop::new(available_parallelism().map_or(1, usize::from)),
            flights: Flights::new(),
            metrics: Metrics::default(),
            loading: Arc::default(),
            replacing: Arc::default(),
            created: unix_seconds(),
        })
    }

    /// The engines' counters; who waits for an adapter waits too.
    pub(crate) fn engine_stats(&self) -> EngineStats {
        let stats = self.bases.engine_stats();
        EngineStats {
            waiting: stats.waiting + self.waits.waiting(),
            ..stats
        }
    }

    /// Nothing is computed, loaded, read into tokens or written down for any request, and none waits for that.
    pub(crate) fn is_quiet(&self) -> bool {
        let stats = self.engine_stats();
        stats.running + stats.waiting == 0 && self.workshop.is_idle() && self.loading.try_lock().is_ok()
    }

    /// All routes. Those that tell only how the server is need no key.
    pub(crate) fn router(self: &Arc<Self>) -> Router {
        let guarded = Router::new()
            .route("/v1/completions", post(routes::completions))
            .route("/v1/chat/completions", post(routes::chat))
            .route("/v1/models", get(routes::models))
            .route("/v1/models/{*id}", get(routes::model))
            .route("/v1/load_lora_adapter", post(routes::load_adapter))
            .route("/v1/unload_lora_adapter", post(routes::unload_adapter))
            .route("/v1/replace_base_model", post(routes::replace_base))
            .route("/tokenize", post(routes::tokenize))
            .route("/detokenize", post(routes::detokenize))
            .route_layer(from_fn_with_state(self.clone(), require_key));
        let open = Router::new()
            .route("/health", get(routes::health))
            .route("/ready", get(routes::ready))
            .route("/metrics", get(routes::metrics));
        guarded
            .merge(open)
            .method_not_allowed_fallback(|method: Method| async move { ApiError::MethodNotAllowed(method.to_string()) })
            .fallback(|uri: Uri| async move { ApiError::UnknownRoute(uri.path().to_owned()) })
            .layer(CatchPanicLayer::custom(answer_panic))
            .with_state(self.clone())
    }
}

fn answer_panic(panic: Box<dyn Any + Send>) -> Response {
    let message = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    tracing::error!(message, "a handler panicked");
    ApiError::Internal.into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn a_panic_is_answered_with_500() {
        async fn panics() {
            panic!("a bug");
        }
        let router = Router::new()
            .route("/", get(panics))
            .layer(CatchPanicLayer::custom(answer_panic));
        let request = Request::get("/").body(Body::empty()).unwrap();
        let response = router.oneshot(request).await.unwrap();
        assert_eq!(response.status(), 500);
        let body = axum::body::to_bytes(response.into_body(), 1000).await.unwrap();
        assert!(String::from_utf8_lossy(&body).contains("\"code\":\"internal_error\""));
    }
}
