//! Every error the API can answer with, and the one table that gives each its status, type and stable code.
//! The shape is OpenAI's: `{"error": {"message", "type", "param", "code"}}`.

use std::sync::Arc;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use rootstock_engine::adapters::AcquireError;
use rootstock_engine::{EngineError, SubmitError};
use rootstock_model::adapter::{AdapterError, AdapterErrorCode};
use serde::Serialize;
use thiserror::Error;

use crate::base::{BaseError, BaseErrorCode};
use crate::wire::models::Refusal;

/// Seconds a client is told to wait when the queue is full.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

pub(crate) type ApiResult<T> = Result<T, ApiError>;

/// A request that is answered with an error.
#[derive(Debug, Clone, Error)]
pub(crate) enum ApiError {
    #[error("the body is not valid JSON: {0}")]
    InvalidJson(String),
    #[error("the body is not valid UTF-8 (from byte {0})")]
    InvalidUtf8(usize),
    #[error("the body ended early: {0}")]
    IncompleteBody(String),
    #[error("the body did not arrive within {0} seconds")]
    SlowBody(u64),
    #[error("the body is larger than {0} bytes")]
    BodyTooLarge(usize),
    #[error("'{0}' is required")]
    Missing(&'static str),
    #[error("'{param}' has the wrong type: expected {expected}, got {got}")]
    WrongType {
        param: String,
        expected: &'static str,
        got: String,
    },
    #[error("'{param}' {problem}")]
    InvalidValue { param: String, problem: String },
    #[error("'{param}' {problem}")]
    Unsupported { param: String, problem: String },
    #[error("{0}")]
    ContextLength(String),
    #[error("this model has no chat template; use /v1/completions")]
    NoChatTemplate,
    #[error("the chat template refused the messages: {0}")]
    ChatTemplate(String),
    #[error("the prompt cannot be tokenized: {0}")]
    Tokenize(String),
    #[error("a valid API key is needed as a bearer token")]
    Unauthorized,
    #[error("the model '{name}' does not exist")]
    ModelNotFound { name: String, param: &'static str },
    #[error("there is no {0}")]
    UnknownRoute(String),
    #[error("{0} is not allowed here")]
    MethodNotAllowed(String),
    #[error(
        "The lora adapter '{0}' has already been loaded. If you want to load the adapter in place, set 'load_inplace' to True."
    )]
    AdapterExists(String),
    #[error("The lora adapter '{0}' cannot be found.")]
    AdapterUnknown(String),
    #[error("no adapter folder '{0}' below the folders that adapters are loaded from")]
    AdapterPath(String),
    #[error(transparent)]
    Adapter(AdapterError),
    #[error(transparent)]
    Base(BaseError),
    #[error("{} adapters do not fit the new base, the first of them {:?}; nothing was changed", .0.len(), first(.0))]
    Misfits(Vec<(Arc<str>, AdapterError)>),
    #[error(transparent)]
    Submit(#[from] SubmitError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("the server failed on this request")]
    Internal,
}

impl ApiError {
    pub(crate) fn invalid(param: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::InvalidValue {
            param: param.into(),
            problem: problem.into(),
        }
    }

    pub(crate) fn unsupported(param: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Unsupported {
            param: param.into(),
            problem: problem.into(),
        }
    }

    /// The refusal of an adapter that `param` asked for.
    pub(crate) fn acquire(error: AcquireError, param: &'static str) -> Self {
        match error {
            AcquireError::Unknown(name) => Self::ModelNotFound { name, param },
            AcquireError::Refused(error) => Self::Adapter(error),
        }
    }

    /// The table: status, type and code of every error.
    fn row(&self) -> (StatusCode, &'static str, &'static str) {
        const REQUEST: &str = "invalid_request_error";
        const SERVER: &str = "server_error";
        match self {
            Self::InvalidJson(_) => (StatusCode::BAD_REQUEST, REQUEST, "invalid_json"),
            Self::InvalidUtf8(_) => (StatusCode::BAD_REQUEST, REQUEST, "invalid_utf8"),
            Self::IncompleteBody(_) => (StatusCode::BAD_REQUEST, REQUEST, "incomplete_body"),
            Self::SlowBody(_) => (StatusCode::REQUEST_TIMEOUT, REQUEST, "request_timeout"),
            Self::BodyTooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, REQUEST, "body_too_large"),
            Self::Missing(_) => (StatusCode::BAD_REQUEST, REQUEST, "missing_required_parameter"),
            Self::WrongType { .. } => (StatusCode::BAD_REQUEST, REQUEST, "invalid_type"),
            Self::InvalidValue { .. } => (StatusCode::BAD_REQUEST, REQUEST, "invalid_value"),
            Self::Unsupported { .. } => (StatusCode::BAD_REQUEST, REQUEST, "unsupported_parameter"),
            Self::ContextLength(_) | Self::Submit(SubmitError::PromptTooLong { .. }) => {
                (StatusCode::BAD_REQUEST, REQUEST, "context_length_exceeded")
            }
            Self::NoChatTemplate => (StatusCode::BAD_REQUEST, REQUEST, "no_chat_template"),
            Self::ChatTemplate(_) => (StatusCode::BAD_REQUEST, REQUEST, "chat_template_error"),
            Self::Tokenize(_) => (StatusCode::BAD_REQUEST, REQUEST, "tokenization_error"),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, REQUEST, "invalid_api_key"),
            Self::ModelNotFound { .. } => (StatusCode::NOT_FOUND, REQUEST, "model_not_found"),
            Self::UnknownRoute(_) => (StatusCode::NOT_FOUND, REQUEST, "unknown_url"),
            Self::MethodNotAllowed(_) => (StatusCode::METHOD_NOT_ALLOWED, REQUEST, "method_not_allowed"),
            Self::AdapterExists(_) => (StatusCode::BAD_REQUEST, REQUEST, "adapter_already_loaded"),
            Self::AdapterUnknown(_) | Self::AdapterPath(_) => (StatusCode::NOT_FOUND, REQUEST, "adapter_not_found"),
            Self::Adapter(error) => (adapter_status(error.code), REQUEST, error.code.as_str()),
            Self::Base(error) => match error.code {
                BaseErrorCode::NotFound => (StatusCode::NOT_FOUND, REQUEST, "base_not_found"),
                BaseErrorCode::Quantize => (StatusCode::BAD_REQUEST, REQUEST, "invalid_value"),
                BaseErrorCode::Refused => (StatusCode::BAD_REQUEST, REQUEST, "base_refused"),
            },
            Self::Misfits(_) => (StatusCode::CONFLICT, REQUEST, "adapters_do_not_fit"),
            Self::Submit(SubmitError::QueueFull { .. }) => {
                (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "queue_full")
            }
            Self::Submit(SubmitError::EmptyPrompt | SubmitError::UnknownToken { .. }) => {
                (StatusCode::BAD_REQUEST, REQUEST, "invalid_value")
            }
            Self::Submit(SubmitError::ShuttingDown) => (StatusCode::SERVICE_UNAVAILABLE, SERVER, "shutting_down"),
            Self::Engine(_) => (StatusCode::INTERNAL_SERVER_ERROR, SERVER, "engine_error"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, SERVER, "internal_error"),
        }
    }

    fn param(&self) -> Option<&str> {
        match self {
            Self::Missing(param) | Self::ModelNotFound { param, .. } => Some(param),
            Self::WrongType { param, .. } | Self::InvalidValue { param, .. } | Self::Unsupported { param, .. } => {
                Some(param)
            }
            Self::AdapterExists(_) | Self::AdapterUnknown(_) => Some("lora_name"),
            Self::AdapterPath(_) => Some("lora_path"),
            Self::Base(error) => Some(match error.code {
                BaseErrorCode::Quantize => "quantize",
                BaseErrorCode::NotFound | BaseErrorCode::Refused => "model",
            }),
            Self::Misfits(_) => Some("require_all_adapters"),
            Self::ChatTemplate(_) => Some("messages"),
            _ => None,
        }
    }

    /// The JSON body, which is also what a stream carries when it fails half way.
    pub(crate) fn body(&self) -> String {
        let (_, kind, code) = self.row();
        let error = ErrorFields {
            message: self.to_string(),
            kind,
            param: self.param(),
            code,
        };
        let misfits = match self {
            Self::Misfits(misfits) => misfits.iter().map(|(name, error)| Refusal::new(name, error)).collect(),
            _ => Vec::new(),
        };
        super::wire::json(&ErrorBody { error, misfits })
    }
}

fn first(misfits: &[(Arc<str>, AdapterError)]) -> &str {
    misfits.first().map_or("", |(name, _)| name)
}

fn adapter_status(code: AdapterErrorCode) -> StatusCode {
    match code {
        AdapterErrorCode::NotFound => StatusCode::NOT_FOUND,
        _ => StatusCode::BAD_REQUEST,
    }
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: ErrorFields<'a>,
    /// Adapters that stand in the way of what was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    misfits: Vec<Refusal>,
}

#[derive(Serialize)]
struct ErrorFields<'a> {
    message: String,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<&'a str>,
    code: &'static str,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, _, code) = self.row();
        if status.is_server_error() {
            tracing::warn!(code, error = %self, "request failed");
        } else {
            tracing::debug!(code, error = %self, "request refused");
        }
        let mut response = (status, [(header::CONTENT_TYPE, "application/json")], self.body()).into_response();
        let headers = response.headers_mut();
        match self {
            Self::Submit(SubmitError::QueueFull { .. } | SubmitError::ShuttingDown) => {
                headers.insert(header::RETRY_AFTER, RETRY_AFTER_SECONDS);
            }
            Self::Unauthorized => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        response
    }
}
