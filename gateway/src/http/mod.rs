//! The HTTP API.
//!
//! A request passes, in this order: [`observe`] (request id, access log, panics), [`limits`] (URL, head, body), then
//! the [`page`], the health routes, [`metrics`], or [`api`]: key, place among the requests ([`places`]), operation. A list goes on to [`clients`], [`query`], the
//! cluster, [`envelope`] and [`row`]; an export to [`export`], many kicks at once to [`bulk`]. Whatever fails on the way is an [`error::ApiError`], the one place where
//! statuses and codes are chosen.
//!
//! Every answer but an export, a bulk kick, a stream of [`events`] or the metrics is JSON, and every answer under the base path but 413, 503 and the description of the API ([`openapi`]) is given only to a known key.

use std::sync::Arc;

use axum::extract::State;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::{Router, routing};
use http::StatusCode;
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::api::Api;
use self::error::ApiError;

pub(crate) mod api;
mod auth;
mod bulk;
mod clients;
mod compress;
mod counts;
mod csv;
mod decode;
mod envelope;
pub(crate) mod error;
mod events;
mod export;
#[cfg(any(fuzzing, clippy))]
pub mod fuzzing;
mod guesses;
mod kicks;
pub(crate) mod limits;
mod metrics;
mod nodes;
mod observe;
mod openapi;
mod page;
mod pieces;
mod places;
mod query;
mod record;
mod route;
mod row;
mod time;
mod unread;

pub(crate) use self::bulk::Json;
pub(crate) use self::error::LIMITS;
use self::observe::Observer;
pub(crate) use self::observe::RemoteAddress;
use self::unread::Unread;

/// Whether the gateway takes new work; once it does not, it stays so. And the work that outlives its connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Drain {
    begun: CancellationToken,
    work: TaskTracker,
}

impl Drain {
    /// Says that the gateway is going away.
    pub(crate) fn begin(&self) {
        self.begun.cancel();
        self.work.close();
    }

    fn has_begun(&self) -> bool {
        self.begun.is_cancelled()
    }

    /// Waits until the gateway is going away.
    async fn begun(&self) {
        self.begun.cancelled().await;
    }

    /// Starts work that has to come to its end even if nobody is connected any more.
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.work.spawn(work);
    }

    /// Waits, once the gateway is going away, for the end of all such work.
    pub(crate) async fn finished(&self) {
        self.work.wait().await;
    }
}

/// Every route, with all that stands before it.
pub(crate) fn router(api: Api, drain: Drain) -> Router {
    let api = Arc::new(api);
    page::routes(api.base_path())
        .route("/health/live", routing::get(live))
        .route("/health/ready", routing::get(ready).with_state(drain))
        .route("/metrics", routing::get(metrics::scrape))
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed { allow: route::READ })
        .fallback(api::answer)
        .with_state(Arc::clone(&api))
        .layer(from_fn_with_state(Arc::clone(&api), limits::enforce))
        .layer(from_fn_with_state(Unread::default(), unread::hold))
        .layer(from_fn_with_state(Observer::of(&api), observe::observe))
}

#[derive(Serialize)]
struct Health {
    status: &'static str,
}

async fn live() -> Response {
    envelope::json(StatusCode::OK, &Health { status: "live" })
}

async fn ready(State(drain): State<Drain>) -> Response {
    if drain.has_begun() {
        return ApiError::Draining.into_response();
    }
    envelope::json(StatusCode::OK, &Health { status: "ready" })
}

#[cfg(test)]
mod tests;
