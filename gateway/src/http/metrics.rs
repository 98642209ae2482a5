//! `GET /metrics`: the gateway's figures and those of the cluster, for Prometheus.
//!
//! It stands outside the base path, where scrapers look, and on the same listener, so that it has the same certificate and
//! the same keys; a scraper shows one as any user does, by basic authentication or as a bearer. With
//! `metrics = "open"` it needs none: what it tells is no client's, but how many there are, and how the nodes are called.
//! Decided against: a listener of its own, which would need its own certificate and its own way in.
//!
//! The nodes are asked as for any count. Scrapes that come together, or within a second, share one answer of theirs: however
//! many scrapers there are, and whoever they are, nodes are asked once a second. Like what is told of the nodes, it
//! needs no place among the requests: it is wanted most when the gateway is at its limit.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use rollcall_metrics::{Format, render};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use super::api::Api;
use super::error::ApiError;
use super::observe::{RequestId, ShownKey};
use super::query;
use crate::cluster::Cluster;
use crate::config::MetricsAccess;
use crate::metrics::Page;
use crate::metrics::page::KindsOfNodes;

/// The header by which Prometheus says how long it waits, seconds.
const SCRAPE_TIMEOUT: &str = "X-Prometheus-Scrape-Timeout-Seconds";

/// How old an answer of the nodes may be.
const FRESH: Duration = Duration::from_secs(1);

/// What the nodes answered last.
#[derive(Debug, Default)]
pub(super) struct Scrapes(Mutex<Option<Collected>>);

/// One answer of the nodes.
#[derive(Debug)]
struct Collected {
    begun: Instant,
    ended: Instant,
    /// How much time the nodes had.
    allowed: Duration,
    is_whole: bool,
    kinds: Arc<KindsOfNodes>,
}

impl Collected {
    /// Whether it is an answer to who asked at this time and could have waited for so long: it is fresh, or came while
    /// they waited; and nobody is missing that more time might have brought.
    fn serves(&self, asked: Instant, patience: Duration) -> bool {
        let is_fresh = self.ended >= asked || asked.saturating_duration_since(self.begun) < FRESH;
        // A tenth is what it may take to get here.
        is_fresh && (self.is_whole || self.allowed + self.allowed / 10 >= patience)
    }
}

impl Scrapes {
    /// How many clients of which kind the nodes have. One caller asks, the others wait for that.
    async fn kinds(&self, cluster: &Cluster, deadline: Instant) -> Arc<KindsOfNodes> {
        let asked = Instant::now();
        let mut last = self.0.lock().await;
        let patience = deadline.saturating_duration_since(asked);
        if let Some(last) = last.as_ref().filter(|last| last.serves(asked, patience)) {
            return Arc::clone(&last.kinds);
        }
        let begun = Instant::now();
        let kinds = Arc::new(cluster.kinds(deadline).await);
        let collected = Collected {
            begun,
            ended: Instant::now(),
            allowed: deadline.saturating_duration_since(begun),
            is_whole: kinds.len() == cluster.size_of_all(),
            kinds: Arc::clone(&kinds),
        };
        *last = Some(collected);
        kinds
    }
}

/// Answers a scrape.
pub(super) async fn scrape(State(api): State<Arc<Api>>, request: Request<Body>) -> Response {
    let (parts, _) = request.into_parts();
    let keys = api.keys();
    let key = match api.metrics_access {
        MetricsAccess::Open => None,
        MetricsAccess::Key => match api.authenticate(&parts, &keys) {
            Ok(key) => Some(Arc::clone(&key.id)),
            Err(error) => return error.into_response(),
        },
    };
    let mut response = page(&api, &parts).await.unwrap_or_else(IntoResponse::into_response);
    if let Some(key) = key {
        response.extensions_mut().insert(ShownKey(key));
    }
    response
}

async fn page(api: &Api, parts: &Parts) -> Result<Response, ApiError> {
    query::none(parts.uri.query().unwrap_or_default())?;
    let deadline = Api::deadline(&parts.headers, api.timeout.min(patience(&parts.headers)))?;
    let kinds = api.scrapes.kinds(&api.cluster, deadline);
    let kinds = timeout_at(deadline, kinds).await.map_err(|_| ApiError::Deadline { kick: false })?;
    let page = Page::new(Arc::clone(&api.metrics), api.audit.clone(), api.cluster.seen(), kinds);
    let accepted = parts.headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let format = Format::accepted(accepted);
    let request = || parts.extensions.get::<RequestId>().map_or("-", RequestId::shown).to_owned();
    let text = render(format, page).map_err(|error| {
        tracing::error!(request = request(), %error, "the metrics cannot be written");
        ApiError::Internal { request: request() }
    })?;
    let content_type = [(CONTENT_TYPE, HeaderValue::from_static(format.content_type()))];
    Ok((StatusCode::OK, content_type, text).into_response())
}

/// How long the scraper waits, less what it takes to send the answer. What is no time is as good as none.
fn patience(headers: &HeaderMap) -> Duration {
    let told = headers.get(SCRAPE_TIMEOUT).and_then(|value| value.to_str().ok()?.parse::<f64>().ok());
    let told =
        told.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).filter(|told| !told.is_zero());
    told.map_or(Duration::MAX, |told| told - (told / 4).min(Duration::from_millis(500)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_serves_who_could_have_had_no_better_one() {
        let begun = Instant::now();
        let after = |millis| begun + Duration::from_millis(millis);
        let second = Duration::from_secs(1);
        let collected = |is_whole| Collected {
            begun,
            ended: after(1_500),
            allowed: second,
            is_whole,
            kinds: Arc::default(),
        };
        for (is_whole, asked, patience, serves) in [
            (true, 10, second * 9, true),
            (true, 1_499, second, true),
            (true, 1_501, second, false),
            (false, 10, second, true),
            (false, 10, second / 2, true),
            // Somebody with little time must not make nodes look silent to others.
            (false, 10, second * 2, false),
            (false, 1_501, second, false),
        ] {
            let answer = collected(is_whole).serves(after(asked), patience);
            assert_eq!(answer, serves, "whole {is_whole}, asked after {asked} ms by one of {patience:?}");
        }
    }

    #[test]
    fn a_scraper_is_answered_before_it_gives_up() {
        let patience = |value: &'static str| {
            patience(&HeaderMap::from_iter([(
                SCRAPE_TIMEOUT.parse().unwrap(),
                HeaderValue::from_static(value),
            )]))
        };
        assert_eq!(patience("10"), Duration::from_millis(9_500));
        assert_eq!(patience("1.000000"), Duration::from_millis(750));
        for none in ["", "0", "-1", "NaN", "inf", "1e300", "soon"] {
            assert_eq!(patience(none), Duration::MAX, "{none}");
        }
        assert_eq!(super::patience(&HeaderMap::new()), Duration::MAX);
    }
}
