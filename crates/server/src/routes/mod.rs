//! The handlers, one file for each kind of endpoint.

mod adapters;
mod base;
mod chat;
mod completions;
mod models;
mod probes;
mod text;

pub(crate) use adapters::{load_adapter, unload_adapter};
pub(crate) use base::replace_base;
pub(crate) use chat::chat;
pub(crate) use completions::completions;
pub(crate) use models::{model, models};
pub(crate) use probes::{health, metrics, ready};
pub(crate) use text::{detokenize, tokenize};

use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::wire::json;

fn json_response(value: &impl Serialize) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], json(value)).into_response()
}
