//! Replacing the base under live adapters. The new one is loaded beside the old one, every adapter is checked against it by
//! its headers, and only then it takes over, for new requests, at once. Whatever fails before that changes nothing.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use rootstock_engine::SubmitError;
use rootstock_engine::adapters::{AdapterInfo, AdapterStore};
use rootstock_model::ContentHash;
use rootstock_model::adapter::AdapterError;

use super::{Base, ServingBase};
use crate::app::App;
use crate::error::{ApiError, ApiResult};

/// Loads a base, which may take minutes; called on a thread that may block.
pub type BaseLoader = Arc<dyn Fn(BaseRequest) -> Result<ServingBase, BaseError> + Send + Sync>;

/// A base as a request names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseRequest {
    /// Path or name of the model.
    pub model: String,
    /// How to quantize it while loading; `None` for what the server was started with.
    pub quantize: Option<String>,
    /// Id it is served under.
    pub name: String,
}

/// Why a base was not loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseError {
    /// Stable code.
    pub code: BaseErrorCode,
    /// What was wrong, and where.
    pub message: String,
}

/// Kinds of [`BaseError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BaseErrorCode {
    /// No such model among those that may be loaded.
    NotFound,
    /// `quantize` is not a known way.
    Quantize,
    /// The files are not a model that can be run, or it cannot be run with the server's settings.
    Refused,
}

impl BaseError {
    /// An error of that kind.
    pub fn new(code: BaseErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

impl fmt::Display for BaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for BaseError {}

/// What is to be replaced, and by what.
pub(crate) struct Replacement {
    pub(crate) model: String,
    pub(crate) quantize: Option<String>,
    /// New id of the base; `None` keeps the one it has.
    pub(crate) base_name: Option<String>,
    /// Adapters that do not fit prevent the replacement.
    pub(crate) require_all_adapters: bool,
}

/// A replacement that took place.
pub(crate) struct Replaced {
    pub(crate) base: Arc<Base>,
    pub(crate) hash_before: ContentHash,
    /// Adapters that are served.
    pub(crate) adapters: usize,
    pub(crate) misfits: Vec<(Arc<str>, AdapterError)>,
}

/// Replaces the base. Blocks until the new one serves.
pub(crate) fn replace(app: &App, order: Replacement) -> ApiResult<Replaced> {
    let started = Instant::now();
    let before = app.bases.current();
    let next = load(app, &before, &order)?;
    // From here to the end no adapter comes or goes over HTTP, or the new base would miss it.
    let _turn = app.loading.blocking_lock();
    let misfits = move_adapters(&before, &next);
    // One may have come under that name while the base was loaded, or be in the folder and fit the new base only.
    check_name(&next.name, &before, &next.adapters)?;
    if order.require_all_adapters && !misfits.is_empty() {
        return Err(ApiError::Misfits(misfits));
    }
    if app.flights.draining() {
        return Err(ApiError::Submit(SubmitError::ShuttingDown));
    }
    app.bases.put(next);
    // Its thread ends before the answer is given; only the new watcher acts on the folder from here on.
    drop(before.watcher.lock().take());
    let base = app.bases.current();
    base.adapters.warm_up();
    let adapters = base.adapters.list().len();
    tracing::info!(
        base = &*base.name,
        base_hash = %base.hash,
        adapters,
        misfits = misfits.len(),
        seconds = started.elapsed().as_secs_f32(),
        "base replaced"
    );
    Ok(Replaced {
        hash_before: before.hash,
        base,
        adapters,
        misfits,
    })
}

/// A base that may take the place of `before`.
fn load(app: &App, before: &Base, order: &Replacement) -> ApiResult<Base> {
    let name = order.base_name.clone().unwrap_or_else(|| before.name.to_string());
    check_name(&name, before, &before.adapters)?;
    tracing::info!(model = order.model, "a base is loaded beside the one that serves");
    let request = BaseRequest {
        model: order.model.clone(),
        quantize: order.quantize.clone(),
        name,
    };
    let next = (app.loader)(request).map_err(ApiError::Base)?;
    Ok(app.bases.candidate(next))
}

/// Refuses a new name for the base that one of `adapters` has, which nobody could reach then.
fn check_name(name: &str, before: &Base, adapters: &AdapterStore) -> ApiResult<()> {
    if *name != *before.name && adapters.get(name).is_some() {
        return Err(ApiError::invalid("base_name", "is the name of an adapter"));
    }
    Ok(())
}

/// Registers every adapter of `before` with `next`; returns those that do not fit it, which `next` keeps as refused.
fn move_adapters(before: &Base, next: &Base) -> Vec<(Arc<str>, AdapterError)> {
    let mut misfits = Vec::new();
    for info in before.adapters.list() {
        if let Err(error) = move_adapter(&info, next) {
            misfits.push((info.name, error));
        }
    }
    misfits
}

fn move_adapter(info: &AdapterInfo, next: &Base) -> Result<(), AdapterError> {
    let name = &info.name;
    // The watcher of the new base has been at its folder already, and may have found another adapter of that name there.
    let known = next.adapters.get(name).is_some_and(|known| known.path == info.path);
    if !known && let Some(error) = next.refusal_by_watcher(info) {
        return Err(error);
    }
    if !known && let Err(error) = next.adapters.register(name, &info.path) {
        next.adapters.unload(name);
        next.adapters.note_refusal(name, error.clone());
        return Err(error);
    }
    if info.pinned {
        next.adapters.pin(name, true);
    }
    Ok(())
}
