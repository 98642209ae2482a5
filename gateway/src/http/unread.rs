//! Answers that are made and that their clients have not read yet.
//!
//! A page of 10,000 rows is some 8 MB, which are held until the client has taken the last of them, for minutes if it likes.
//! No limit on requests bounds that, as a request is answered when its answer is made. So answers share a budget of
//! memory; one that does not fit is not sent, and its client told to come back. Exports are not held whole: what they
//! hold is bounded by their own limit.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::Request;
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::ApiError;

/// What all answers that are not read yet may take together, KiB.
const BUDGET: u32 = 256 << 10;

/// Answers up to this size are not counted, bytes: connections are fewer than the budget has room for these.
const SMALL: u64 = 32 << 10;

/// The budget of one gateway. Clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Unread {
    free: Arc<Semaphore>,
}

impl Default for Unread {
    fn default() -> Self {
        Self { free: Arc::new(Semaphore::new(BUDGET as usize)) }
    }
}

/// An answer's bytes, which give their share of the budget back when the last of them is gone.
struct Held {
    bytes: Bytes,
    _share: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Answers a request, if there is room for its answer. What came of a change is told in any case.
pub(super) async fn hold(State(unread): State<Unread>, request: Request<Body>, next: Next) -> Response {
    let is_read = request.method().is_safe();
    let response = next.run(request).await;
    let size = response.body().size_hint().exact();
    let Some(size) = size.filter(|size| is_read && *size > SMALL) else { return response };
    // One that is larger than the budget has it for itself.
    let share = u32::try_from(size.div_ceil(1024)).unwrap_or(BUDGET).min(BUDGET);
    let Ok(share) = unread.free.try_acquire_many_owned(share) else {
        return ApiError::TooMuchUnread.into_response();
    };
    let (parts, body) = response.into_parts();
    // It is in memory, so there is nothing to wait for.
    let Ok(collected) = body.collect().await else { return ApiError::TooMuchUnread.into_response() };
    let held = Held { bytes: collected.to_bytes(), _share: share };
    Response::from_parts(parts, Body::from(Bytes::from_owner(held)))
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::middleware::from_fn_with_state;
    use axum::routing::get;
    use http::StatusCode;
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test]
    async fn an_answer_has_its_share_until_the_last_of_it_is_gone() {
        let unread = Unread::default();
        let large = BUDGET as usize * 1024 / 2 - 4096;
        let answer = move || async move { vec![b'x'; large] };
        let app = Router::new()
            .route("/large", get(answer).post(answer))
            .route("/small", get(|| async { vec![b'x'; 1000] }))
            .route("/huge", get(|| async { vec![b'x'; BUDGET as usize * 1024 + 1] }))
            .layer(from_fn_with_state(unread.clone(), hold));
        let ask = |path: &'static str| {
            let request = Request::get(path).body(Body::empty()).unwrap();
            let app = app.clone();
            async move { app.oneshot(request).await.unwrap() }
        };
        let mut first = ask("/large").await;
        let second = ask("/large").await;
        assert_eq!((first.status(), second.status()), (StatusCode::OK, StatusCode::OK));
        assert_eq!(ask("/large").await.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(ask("/small").await.status(), StatusCode::OK);
        let change = Request::post("/large").body(Body::empty()).unwrap();
        assert_eq!(app.clone().oneshot(change).await.unwrap().status(), StatusCode::OK, "it has been done");
        let bytes = first.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(bytes.len(), large);
        let last = bytes.slice(large - 1..);
        drop((first, bytes));
        assert_eq!(ask("/large").await.status(), StatusCode::SERVICE_UNAVAILABLE, "a byte of it is left");
        drop(last);
        assert_eq!(ask("/large").await.status(), StatusCode::OK);
        drop(second);
        assert_eq!(ask("/huge").await.status(), StatusCode::OK, "if it has all of the budget");
        assert_eq!(unread.free.available_permits(), BUDGET as usize);
    }
}
