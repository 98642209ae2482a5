//! Counts.

use axum::response::Response;
use http::StatusCode;
use tokio::time::Instant;

use super::clients::noted;
use super::envelope;
use super::error::ApiError;
use super::places::{self, Places};
use super::query;
use crate::cluster::Cluster;

/// How many clients match, in all and in groups.
pub(super) async fn count(
    cluster: &Cluster,
    places: &Places,
    query: &str,
    deadline: Instant,
) -> Result<Response, ApiError> {
    let request = query::count(query)?;
    let _place =
        if places::is_heavy_count(&request.query) { Some(places.heavy(deadline).await?) } else { None };
    let answer = cluster.count(&request.query, deadline).await.map_err(ApiError::of_query)?;
    if !request.partial && !answer.completeness.is_whole() {
        return Err(ApiError::Partial(answer.completeness));
    }
    let body = envelope::count(&answer, request.query.group_by);
    Ok(noted(envelope::json(StatusCode::OK, &body), &answer.completeness))
}
