//! Which models there are.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;

use super::json_response;
use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::wire::models::{ModelCard, ModelList};

/// The base, then the adapters by name.
pub(crate) async fn models(State(app): State<Arc<App>>) -> Response {
    let base = ModelCard::base(&app.base_name, app.created, app.max_context);
    let adapters = app.adapters.list();
    let adapters = adapters
        .iter()
        .map(|info| ModelCard::adapter(info, &app.base_name, app.max_context));
    json_response(&ModelList::new(std::iter::once(base).chain(adapters).collect()))
}

/// One model by its id.
pub(crate) async fn model(State(app): State<Arc<App>>, Path(id): Path<String>) -> ApiResult<Response> {
    if *id == *app.base_name {
        return Ok(json_response(&ModelCard::base(
            &app.base_name,
            app.created,
            app.max_context,
        )));
    }
    match app.adapters.get(&id) {
        Some(info) => Ok(json_response(&ModelCard::adapter(
            &info,
            &app.base_name,
            app.max_context,
        ))),
        None => Err(ApiError::ModelNotFound {
            name: id,
            param: "model",
        }),
    }
}
