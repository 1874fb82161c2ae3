//! The base comes and goes while the server runs.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::Request;
use axum::response::Response;
use rootstock_engine::SubmitError;
use serde::Serialize;
use serde_json::Value;
use tokio::task::spawn_blocking;

use super::json_response;
use crate::app::App;
use crate::base::{self, Replaced, Replacement};
use crate::body;
use crate::error::{ApiError, ApiResult};
use crate::wire::fields::{Fields, wrong_type};
use crate::wire::models::{Refusal, served_name};

#[derive(Serialize)]
struct Answer {
    object: &'static str,
    id: String,
    hash: String,
    previous_hash: String,
    max_model_len: usize,
    /// Adapters that are served.
    adapters: usize,
    misfits: Vec<Refusal>,
}

impl Answer {
    fn new(replaced: &Replaced) -> Self {
        let misfits = replaced.misfits.iter();
        Self {
            object: "base_model",
            id: replaced.base.name.to_string(),
            hash: replaced.base.hash.to_string(),
            previous_hash: replaced.hash_before.to_string(),
            max_model_len: replaced.base.max_context,
            adapters: replaced.adapters,
            misfits: misfits.map(|(name, error)| Refusal::new(name, error)).collect(),
        }
    }
}

/// Replaces the base; answered once the new one serves, or once it is sure that nothing changes.
pub(crate) async fn replace_base(State(app): State<Arc<App>>, request: Request<Body>) -> ApiResult<Response> {
    let _flight = app.flights.accept()?;
    let order = order(&body::read(request, app.body_limit).await?)?;
    let for_work = app.clone();
    let work = async move {
        // Goes with the work, which runs to its end even if the client leaves.
        let turn = for_work.replacing.clone().lock_owned().await;
        let replace = move || {
            let _turn = turn;
            base::replace(&for_work, order)
        };
        spawn_blocking(replace).await.unwrap_or(Err(ApiError::Internal))
    };
    // A drain does not wait for a base that nobody will use.
    let replaced = tokio::select! {
        replaced = work => replaced?,
        () = app.flights.drained() => return Err(ApiError::Submit(SubmitError::ShuttingDown)),
    };
    Ok(json_response(&Answer::new(&replaced)))
}

fn order(body: &[u8]) -> ApiResult<Replacement> {
    let mut fields = Fields::parse(body)?;
    let order = Replacement {
        model: fields.required_string("model")?,
        quantize: match fields.take("quantize") {
            None => None,
            Some(Value::String(text)) => Some(text),
            Some(Value::Number(bits)) => Some(bits.to_string()),
            Some(other) => return Err(wrong_type("quantize", "a string or a number of bits", &other)),
        },
        base_name: fields.string("base_name")?,
        require_all_adapters: fields.flag("require_all_adapters")?,
    };
    // A misspelled `quantize` must not load the model otherwise than was meant.
    fields.finish_strictly()?;
    if order.model.is_empty() {
        return Err(ApiError::Missing("model"));
    }
    if let Some(name) = &order.base_name {
        served_name("base_name", name)?;
    }
    Ok(order)
}
