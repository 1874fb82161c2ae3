//! Who may ask: one of the configured keys as a bearer token.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::app::App;
use crate::error::ApiError;

/// The accepted keys. Hashes are compared, in constant time, so that timing tells nothing of a key.
pub(crate) struct Keys(Vec<blake3::Hash>);

impl Keys {
    pub(crate) fn new(keys: &[String]) -> Self {
        Self(keys.iter().map(|key| blake3::hash(key.as_bytes())).collect())
    }

    /// Whether the headers carry one of the keys; always true without keys.
    fn admit(&self, headers: &HeaderMap) -> bool {
        let value = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes());
        let token = value.and_then(|value| match value.split_at_checked(7) {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => Some(token.trim_ascii()),
            _ => None,
        });
        let presented = blake3::hash(token.unwrap_or_default());
        self.0.is_empty() || self.0.iter().fold(false, |found, key| found | (*key == presented))
    }
}

/// Refuses requests without a key.
pub(crate) async fn require_key(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    match app.keys.admit(request.headers()) {
        true => next.run(request).await,
        false => ApiError::Unauthorized.into_response(),
    }
}
