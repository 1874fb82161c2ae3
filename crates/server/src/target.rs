//! From the `model` of a request to the adapters it runs on.

use std::sync::Arc;

use rootstock_engine::Graft;

use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::waits::WaitError;
use crate::wire::options::ModelChoice;

/// What a request runs on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Target {
    /// Adapters and their scales in the order their deltas are added; none for the base.
    adapters: Vec<(Arc<str>, f32)>,
    /// The field that named the adapters.
    param: &'static str,
    base: Arc<str>,
}

impl Target {
    /// Resolves names; existence of the adapters is checked here so that nothing is tokenized for nothing.
    pub(crate) fn resolve(choice: &ModelChoice, app: &App) -> ApiResult<Self> {
        let base = app.base_name.clone();
        let target = |adapters, param| Ok(Self { adapters, param, base });
        if *choice.model == *app.base_name {
            if choice.adapter_scale.is_some() {
                return Err(ApiError::invalid("adapter_scale", "needs an adapter as the model"));
            }
            let adapters = choice
                .adapters
                .iter()
                .map(|(name, scale)| Ok((known(name, app, "adapters")?, *scale)));
            return target(adapters.collect::<ApiResult<_>>()?, "adapters");
        }
        let name = known(&choice.model, app, "model")?;
        if !choice.adapters.is_empty() {
            let problem = format!("needs the base {:?} as the model", &*app.base_name);
            return Err(ApiError::invalid("adapters", problem));
        }
        target(vec![(name, choice.adapter_scale.unwrap_or(1.0))], "model")
    }

    /// Names of the adapters.
    pub(crate) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.adapters.iter().map(|(name, _)| name)
    }

    /// Whose share of the machine the request uses, and whose counters it moves: the first adapter, else the base.
    pub(crate) fn tenant(&self) -> &Arc<str> {
        self.names().next().unwrap_or(&self.base)
    }

    /// Holds the adapters' weights in memory, loading them if need be.
    pub(crate) async fn acquire(&self, app: &App) -> ApiResult<Vec<Graft>> {
        if self.adapters.is_empty() {
            return Ok(Vec::new());
        }
        let names: Vec<&str> = self.names().map(|name| &**name).collect();
        let leases = app.waits.acquire(&app.adapters, &names).await;
        let leases = leases.map_err(|error| match error {
            WaitError::Full(error) => ApiError::Submit(error),
            WaitError::Acquire(error) => ApiError::acquire(error, self.param),
        })?;
        let graft = |(lease, (_, scale)): (_, &(Arc<str>, f32))| Graft { lease, scale: *scale };
        Ok(leases.into_iter().zip(&self.adapters).map(graft).collect())
    }
}

fn known(name: &str, app: &App, param: &'static str) -> ApiResult<Arc<str>> {
    let info = app.adapters.get(name).ok_or_else(|| ApiError::ModelNotFound {
        name: name.to_owned(),
        param,
    })?;
    Ok(info.name)
}
