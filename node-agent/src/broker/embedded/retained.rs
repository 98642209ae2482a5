//! Retained messages, in memory.
//!
//! The broker's own storage is switched off unless something takes its place, and an MQTT 5 client whose will is
//! to be retained would then be refused. This adds the switch and a bound to the tree the broker already has.

use std::time::Duration;

use async_trait::async_trait;
use rmqtt::retain::{DefaultRetainStorage, RetainStorage};
use rmqtt::types::{Retain, TopicFilter, TopicName};
use tracing::warn;

/// Keeps one message for each of a limited number of topics.
pub(super) struct RetainedMessages {
    tree: DefaultRetainStorage,
    limit: u32,
}

impl RetainedMessages {
    pub(super) fn new(limit: u32) -> Self {
        Self { tree: DefaultRetainStorage::new(), limit }
    }

    async fn is_full(&self) -> bool {
        let limit = i64::from(self.limit);
        if (self.tree.count().await as i64) < limit {
            return false;
        }
        self.tree.remove_expired_messages().await;
        self.tree.count().await as i64 >= limit
    }
}

#[async_trait]
impl RetainStorage for RetainedMessages {
    fn enable(&self) -> bool {
        self.limit > 0
    }

    fn need_sync(&self) -> bool {
        false
    }

    async fn set(&self, topic: &TopicName, retain: Retain, expiry: Option<Duration>) -> rmqtt::Result<()> {
        // An empty payload removes the topic, so it always has room.
        if !retain.publish.payload.is_empty()
            && self.is_full().await
            && self.tree.get_message(topic).await?.is_empty()
        {
            warn!(%topic, limit = self.limit, "message not retained: as many topics as allowed have one");
            return Ok(());
        }
        // The broker says "never" by zero.
        self.tree.set_with_timeout(topic, retain, expiry.filter(|expiry| !expiry.is_zero())).await
    }

    async fn get(&self, filter: &TopicFilter) -> rmqtt::Result<Vec<(TopicName, Retain)>> {
        self.tree.get_message(filter).await
    }

    async fn count(&self) -> isize {
        self.tree.count().await
    }

    async fn max(&self) -> isize {
        self.tree.max().await
    }
}
