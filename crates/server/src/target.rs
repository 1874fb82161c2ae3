//! From the `model` of a request to the adapters it runs on.

use std::sync::Arc;

use rootstock_engine::Graft;
use rootstock_engine::adapters::AdapterInfo;
use rootstock_model::adapter::AdapterDefaults;

use crate::base::Base;
use crate::error::{ApiError, ApiResult};
use crate::waits::{AdapterWaits, WaitError};
use crate::wire::options::ModelChoice;

/// What a request runs on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Target {
    /// Adapters and their scales in the order their deltas are added; none for the base.
    adapters: Vec<(Arc<str>, f32)>,
    /// The field that named the adapters.
    param: &'static str,
    base: Arc<str>,
    /// Of the adapter, as registered.
    defaults: Arc<AdapterDefaults>,
}

impl Target {
    /// Resolves names; existence of the adapters is checked here so that nothing is tokenized for nothing.
    pub(crate) fn resolve(choice: &ModelChoice, base: &Base) -> ApiResult<Self> {
        if *choice.model == *base.name {
            if choice.adapter_scale.is_some() {
                return Err(ApiError::invalid("adapter_scale", "needs an adapter as the model"));
            }
            let summand = |(name, scale): &(String, f32)| Ok((known(name, base, "adapters")?, *scale));
            let adapters = choice.adapters.iter().map(summand);
            return Ok(Self::new(adapters.collect::<ApiResult<_>>()?, "adapters", base));
        }
        let adapter = known(&choice.model, base, "model")?;
        if !choice.adapters.is_empty() {
            let problem = format!("needs the base {:?} as the model", &*base.name);
            return Err(ApiError::invalid("adapters", problem));
        }
        let scale = choice.adapter_scale.unwrap_or(1.0);
        Ok(Self::new(vec![(adapter, scale)], "model", base))
    }

    fn new(adapters: Vec<(AdapterInfo, f32)>, param: &'static str, base: &Base) -> Self {
        Self {
            defaults: match adapters.as_slice() {
                [(adapter, _)] => adapter.defaults.clone(),
                _ => Arc::default(),
            },
            adapters: adapters
                .into_iter()
                .map(|(adapter, scale)| (adapter.name, scale))
                .collect(),
            param,
            base: base.name.clone(),
        }
    }

    /// Defaults of the adapter as far as its registration tells; none for the base, and none for a sum of adapters,
    /// which would contradict each other.
    pub(crate) fn defaults(&self) -> &AdapterDefaults {
        &self.defaults
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
    pub(crate) async fn acquire(&self, base: &Base, waits: &AdapterWaits) -> ApiResult<Vec<Graft>> {
        if self.adapters.is_empty() {
            return Ok(Vec::new());
        }
        let names: Vec<&str> = self.names().map(|name| &**name).collect();
        let leases = waits.acquire(&base.adapters, &names).await;
        let leases = leases.map_err(|error| match error {
            WaitError::Full(error) => ApiError::Submit(error),
            WaitError::Acquire(error) => ApiError::acquire(error, self.param),
        })?;
        if let [_, _, ..] = leases.as_slice()
            && let Some(lease) = leases.iter().find(|lease| !lease.weights().adds_up())
        {
            let problem = format!(
                "{:?} has bottlenecks, which are not linear: it has no sum with others",
                &**lease.name()
            );
            return Err(ApiError::invalid(self.param, problem));
        }
        let graft = |(lease, (_, scale)): (_, &(Arc<str>, f32))| Graft { lease, scale: *scale };
        Ok(leases.into_iter().zip(&self.adapters).map(graft).collect())
    }
}

fn known(name: &str, base: &Base, param: &'static str) -> ApiResult<AdapterInfo> {
    let refused = || match base.refusal(name) {
        Some(error) => ApiError::Adapter(error),
        None => ApiError::ModelNotFound {
            name: name.to_owned(),
            param,
        },
    };
    base.adapters.get(name).ok_or_else(refused)
}
