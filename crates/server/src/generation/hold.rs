//! From the bytes of a request to what it holds until its answer is written: its place among the accepted, its base, its
//! adapters.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::http::Request;
use rootstock_engine::Graft;
use rootstock_model::adapter::AdapterDefaults;

use crate::app::App;
use crate::base::Base;
use crate::body;
use crate::error::ApiResult;
use crate::flight::Flight;
use crate::target::Target;
use crate::wire::options::{Bounds, Options};

/// A body that asks for a generation.
pub(crate) trait Ask: Sized + Send + 'static {
    /// Checks it as far as that can be done without tokenizing.
    fn parse(body: &[u8], bounds: Bounds) -> ApiResult<Self>;
    /// What all of them have.
    fn options(&self) -> &Options;
}

/// What a request holds from its start to its end.
pub(crate) struct Hold {
    /// When the request came in.
    pub(crate) arrived: Instant,
    pub(crate) flight: Flight,
    pub(crate) base: Arc<Base>,
    pub(crate) target: Target,
    pub(crate) grafts: Vec<Graft>,
    /// Of the adapter it runs on, in the generation whose weights it holds.
    pub(crate) defaults: Arc<AdapterDefaults>,
}

/// A request that may be tokenized.
pub(crate) struct Accepted<A> {
    pub(crate) ask: A,
    pub(crate) hold: Hold,
    /// Bytes of the body.
    pub(crate) weight: usize,
}

impl<A: Ask> Accepted<A> {
    /// Reads and checks a request, then waits for its adapters to be in memory.
    pub(crate) async fn receive(app: &App, request: Request<Body>) -> ApiResult<Self> {
        let arrived = Instant::now();
        let flight = app.flights.accept()?;
        let body = body::read(request, app.body_limit).await?;
        let weight = body.len();
        let base = app.bases.current();
        let for_parse = base.clone();
        let parse = move || {
            let ask = A::parse(&body, for_parse.bounds)?;
            let target = Target::resolve(&ask.options().model, &for_parse)?;
            Ok((ask, target))
        };
        let (ask, target) = app.workshop.run(weight, parse).await?;
        let grafts = target.acquire(&base, &app.waits).await?;
        let hold = Hold {
            arrived,
            flight,
            base,
            defaults: match grafts.as_slice() {
                [graft] => graft.lease.defaults().clone(),
                _ => Arc::default(),
            },
            target,
            grafts,
        };
        Ok(Self { ask, hold, weight })
    }
}
