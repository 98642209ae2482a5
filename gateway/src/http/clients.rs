//! List and get.

use axum::response::Response;
use http::StatusCode;
use tokio::time::Instant;

use super::envelope;
use super::error::ApiError;
use super::observe::Answered;
use super::places::{self, Places};
use super::query::{self, Given};
use crate::cluster::{Cluster, Scope};
use crate::page::completeness::Completeness;

/// A page of clients.
pub(super) async fn list(
    cluster: &Cluster,
    places: &Places,
    query: &str,
    given: Given<'_>,
    deadline: Instant,
) -> Result<Response, ApiError> {
    let request = query::list(query, given)?;
    let is_heavy = places::is_heavy_list(&request.query, cluster.clients());
    let _place = if is_heavy { Some(places.heavy(deadline).await?) } else { None };
    let answer = cluster.list(&request.query, deadline).await;
    let named_by_query = given.node.is_none();
    let answer = answer.map_err(if named_by_query { ApiError::of_query } else { ApiError::from })?;
    if !request.partial && !answer.completeness.is_whole() {
        return Err(ApiError::Partial(answer.completeness));
    }
    let body = envelope::list(&answer, &request.query, request.fields);
    Ok(noted(envelope::written(StatusCode::OK, body), &answer.completeness))
}

/// Every session under a client id.
pub(super) async fn get(
    cluster: &Cluster,
    query: &str,
    node: Option<String>,
    clientid: &str,
    deadline: Instant,
) -> Result<Response, ApiError> {
    let request = query::get(query)?;
    let answer = cluster.get(clientid, &scope(node), deadline).await?;
    if !request.partial && !answer.completeness.is_whole() {
        return Err(ApiError::Partial(answer.completeness));
    }
    Ok(noted(envelope::written(StatusCode::OK, envelope::get(&answer, request.fields)), &answer.completeness))
}

/// The nodes to look at: the one of the path, or all.
pub(super) fn scope(node: Option<String>) -> Scope {
    node.map_or(Scope::All, |node| Scope::Only(vec![node]))
}

/// Leaves for the access log how many nodes answered.
pub(super) fn noted(mut response: Response, completeness: &Completeness) -> Response {
    let Completeness { total, answered, .. } = *completeness;
    response.extensions_mut().insert(Answered { answered, total });
    response
}
