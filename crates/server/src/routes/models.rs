//! Which models there are.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;

use super::json_response;
use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::wire::models::{ModelCard, ModelList, Refusal};

/// The base, then the adapters by name; beside them those that were refused.
pub(crate) async fn models(State(app): State<Arc<App>>) -> Response {
    let base = app.bases.current();
    let own = ModelCard::base(&base.name, app.created, base.max_context);
    let adapters = base.adapters.list();
    let adapters = adapters
        .iter()
        .map(|info| ModelCard::adapter(info, &base.name, base.max_context));
    let cards = std::iter::once(own).chain(adapters).collect();
    let refusals = base.refusals();
    let refused = refusals.iter().map(|(name, error)| Refusal::new(name, error));
    json_response(&ModelList::new(cards, refused.collect()))
}

/// One model by its id.
pub(crate) async fn model(State(app): State<Arc<App>>, Path(id): Path<String>) -> ApiResult<Response> {
    let base = app.bases.current();
    if *id == *base.name {
        let card = ModelCard::base(&base.name, app.created, base.max_context);
        return Ok(json_response(&card));
    }
    match base.adapters.get(&id) {
        Some(info) => Ok(json_response(&ModelCard::adapter(&info, &base.name, base.max_context))),
        None => Err(ApiError::ModelNotFound {
            name: id,
            param: "model",
        }),
    }
}
