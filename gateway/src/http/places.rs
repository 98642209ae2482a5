//! How many requests are answered at once, so that heavy ones leave room for light ones.
//!
//! Every request takes a place; one that finds none is refused at once. A heavy one, which holds thousands of rows or
//! groups and keeps a core for many milliseconds, takes one of a few places for those too. A few more wait for such a place,
//! in the order they came; the others are refused at once, so that those who wait do not use up the places of all.
//! Exports and bulk kicks have places of their own, and what only the gateway itself is asked needs none.

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use super::error::ApiError;
use super::limits::Limits;
use crate::cluster::{CountQuery, ListQuery};
use crate::page::groups::GroupBy;

/// A list of more rows is heavy.
const LIGHT_ROWS: u64 = 1000;

/// For each heavy request that is answered so many may wait.
const WAITING: usize = 4;

/// The places of one gateway.
#[derive(Debug)]
pub(super) struct Places {
    limits: Limits,
    requests: Semaphore,
    heavy: Semaphore,
    /// Heavy requests that are answered or wait.
    admitted: Semaphore,
}

/// A place taken until it is dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct Place<'a> {
    _place: SemaphorePermit<'a>,
    /// A heavy request's place among those that are admitted.
    _admitted: Option<SemaphorePermit<'a>>,
}

impl Places {
    pub(super) fn new(limits: Limits) -> Self {
        let heavy = limits.heavy_requests;
        Self {
            limits,
            requests: Semaphore::new(limits.requests),
            heavy: Semaphore::new(heavy),
            admitted: Semaphore::new(heavy.saturating_mul(1 + WAITING)),
        }
    }

    /// Takes a request's place.
    pub(super) fn request(&self) -> Result<Place<'_>, ApiError> {
        let place = self.requests.try_acquire();
        let place = place.map_err(|_| ApiError::Overloaded { limit: self.limits.requests })?;
        Ok(Place { _place: place, _admitted: None })
    }

    /// Takes a heavy request's place, or waits for one for up to half of the time left.
    pub(super) async fn heavy(&self, deadline: Instant) -> Result<Place<'_>, ApiError> {
        let refused = || ApiError::TooManyHeavy { limit: self.limits.heavy_requests };
        let admitted = self.admitted.try_acquire().map_err(|_| refused())?;
        let now = Instant::now();
        let until = now + deadline.saturating_duration_since(now) / 2;
        let Ok(Ok(place)) = timeout_at(until, self.heavy.acquire()).await else { return Err(refused()) };
        Ok(Place { _place: place, _admitted: Some(admitted) })
    }
}

/// Whether a list is heavy, in a cluster of so many clients.
pub(super) fn is_heavy_list(query: &ListQuery, clients: u64) -> bool {
    let is_ranked = query.order.field.is_live() && query.limit > 0;
    is_ranked || clients.min(query.limit.into()) > LIGHT_ROWS
}

/// Whether a count is heavy: of all values only user names are many.
pub(super) fn is_heavy_count(query: &CountQuery) -> bool {
    query.group_by == Some(GroupBy::Username)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rollcall_proto::{Order, SortField, v1};

    use super::*;
    use crate::cluster::{Scope, Start};
    use crate::http::limits::KickLimits;

    fn places(requests: usize, heavy_requests: usize) -> Places {
        let second = Duration::from_secs(1);
        Places::new(Limits {
            requests,
            heavy_requests,
            exports: 1,
            export_node_timeout: second,
            export_client_timeout: second,
            wrong_keys: 0,
            connections: 1,
            url_bytes: 1,
            head_bytes: 1,
            body_bytes: 1,
            read_timeout: second,
            kicks: KickLimits {
                at_once: 1,
                most: 1,
                default_most: 1,
                most_rate: 1,
                default_rate: 1,
                body_bytes: 1,
            },
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_heavy_requests_wait_for_half_their_time_and_the_others_not_at_all() {
        let places = places(8, 1);
        let deadline = || Instant::now() + Duration::from_secs(4);
        let first = places.heavy(deadline()).await.unwrap();
        let began = Instant::now();
        let mut waiting: Vec<_> = (0..WAITING).map(|_| Box::pin(places.heavy(deadline()))).collect();
        for one in &mut waiting {
            assert!(futures::poll!(one).is_pending());
        }
        let refused = places.heavy(deadline()).await.unwrap_err();
        assert!(matches!(refused, ApiError::TooManyHeavy { limit: 1 }));
        assert_eq!(began.elapsed(), Duration::ZERO);
        drop(first);
        let second = waiting.remove(0).await.unwrap();
        assert!(waiting.remove(0).await.is_err());
        assert_eq!(began.elapsed(), Duration::from_secs(2));
        assert!(places.request().is_ok(), "light ones have places of their own");
        drop((second, waiting));
        assert!(places.heavy(deadline()).await.is_ok());
    }

    #[test]
    fn a_place_is_taken_until_it_is_given_back() {
        let places = places(1, 1);
        let taken = places.request().unwrap();
        assert!(matches!(places.request(), Err(ApiError::Overloaded { limit: 1 })));
        drop(taken);
        assert!(places.request().is_ok());
    }

    #[test]
    fn what_is_heavy_is_told_by_the_rows_there_can_be() {
        let list = |limit, field| ListQuery {
            filter: v1::Filter::default(),
            order: Order { field, descending: false },
            start: Start::Page(1),
            limit,
            scope: Scope::All,
        };
        let (by_id, by_figure) = (SortField::Clientid, SortField::MqueueLen);
        for (query, clients, is_heavy) in [
            (list(10_000, by_id), 1_000, false),
            (list(10_000, by_id), 1_001, true),
            (list(1_000, by_id), u64::MAX, false),
            (list(1, by_figure), 5, true),
            (list(0, by_figure), u64::MAX, false),
        ] {
            assert_eq!(is_heavy_list(&query, clients), is_heavy, "{query:?} of {clients}");
        }
    }
}
