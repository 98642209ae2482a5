//! Live figures as fields to sort by.
//!
//! Agents do not index what changes with every packet. For an order by a live figure they read it for every client
//! that matches and keep the first [`MAX_RANKED`](crate::MAX_RANKED): whoever asks who is drowning wants the top. What
//! lies beyond has no rank, so that an answer holds a bounded state however many clients there are.

use crate::v1::{SortField, Statistics};

impl SortField {
    /// The live figures a list can be sorted by, in the order they stand in rows.
    pub const LIVE: [Self; 20] = [
        Self::SubscriptionsCnt,
        Self::MaxSubscriptions,
        Self::Inflight,
        Self::MaxInflight,
        Self::MqueueLen,
        Self::MaxMqueue,
        Self::MqueueDropped,
        Self::AwaitingRel,
        Self::MaxAwaitingRel,
        Self::RecvOct,
        Self::RecvCnt,
        Self::RecvPkt,
        Self::RecvMsg,
        Self::SendOct,
        Self::SendCnt,
        Self::SendPkt,
        Self::SendMsg,
        Self::MailboxLen,
        Self::HeapSize,
        Self::Reductions,
    ];

    /// Whether this is a live figure rather than a client's identity.
    #[must_use]
    pub fn is_live(self) -> bool {
        Self::LIVE.contains(&self)
    }

    /// The figure of this field; `None` if the broker cannot tell, or if this is no live figure.
    #[must_use]
    pub fn figure(self, statistics: &Statistics) -> Option<u64> {
        match self {
            Self::SubscriptionsCnt => statistics.subscriptions_cnt,
            Self::MaxSubscriptions => statistics.max_subscriptions,
            Self::Inflight => statistics.inflight,
            Self::MaxInflight => statistics.max_inflight,
            Self::MqueueLen => statistics.mqueue_len,
            Self::MaxMqueue => statistics.max_mqueue,
            Self::MqueueDropped => statistics.mqueue_dropped,
            Self::AwaitingRel => statistics.awaiting_rel,
            Self::MaxAwaitingRel => statistics.max_awaiting_rel,
            Self::RecvOct => statistics.recv_oct,
            Self::RecvCnt => statistics.recv_cnt,
            Self::RecvPkt => statistics.recv_pkt,
            Self::RecvMsg => statistics.recv_msg,
            Self::SendOct => statistics.send_oct,
            Self::SendCnt => statistics.send_cnt,
            Self::SendPkt => statistics.send_pkt,
            Self::SendMsg => statistics.send_msg,
            Self::MailboxLen => statistics.mailbox_len,
            Self::HeapSize => statistics.heap_size,
            Self::Reductions => statistics.reductions,
            _ => None,
        }
    }

    /// Puts the figure of this field in place; does nothing if this is no live figure.
    pub fn set_figure(self, statistics: &mut Statistics, figure: Option<u64>) {
        let field = match self {
            Self::SubscriptionsCnt => &mut statistics.subscriptions_cnt,
            Self::MaxSubscriptions => &mut statistics.max_subscriptions,
            Self::Inflight => &mut statistics.inflight,
            Self::MaxInflight => &mut statistics.max_inflight,
            Self::MqueueLen => &mut statistics.mqueue_len,
            Self::MaxMqueue => &mut statistics.max_mqueue,
            Self::MqueueDropped => &mut statistics.mqueue_dropped,
            Self::AwaitingRel => &mut statistics.awaiting_rel,
            Self::MaxAwaitingRel => &mut statistics.max_awaiting_rel,
            Self::RecvOct => &mut statistics.recv_oct,
            Self::RecvCnt => &mut statistics.recv_cnt,
            Self::RecvPkt => &mut statistics.recv_pkt,
            Self::RecvMsg => &mut statistics.recv_msg,
            Self::SendOct => &mut statistics.send_oct,
            Self::SendCnt => &mut statistics.send_cnt,
            Self::SendPkt => &mut statistics.send_pkt,
            Self::SendMsg => &mut statistics.send_msg,
            Self::MailboxLen => &mut statistics.mailbox_len,
            Self::HeapSize => &mut statistics.heap_size,
            Self::Reductions => &mut statistics.reductions,
            _ => return,
        };
        *field = figure;
    }

    /// The name of a live figure.
    pub(crate) fn live_name(self) -> Option<&'static str> {
        Some(match self {
            Self::SubscriptionsCnt => "subscriptions_cnt",
            Self::MaxSubscriptions => "max_subscriptions",
            Self::Inflight => "inflight",
            Self::MaxInflight => "max_inflight",
            Self::MqueueLen => "mqueue_len",
            Self::MaxMqueue => "max_mqueue",
            Self::MqueueDropped => "mqueue_dropped",
            Self::AwaitingRel => "awaiting_rel",
            Self::MaxAwaitingRel => "max_awaiting_rel",
            Self::RecvOct => "recv_oct",
            Self::RecvCnt => "recv_cnt",
            Self::RecvPkt => "recv_pkt",
            Self::RecvMsg => "recv_msg",
            Self::SendOct => "send_oct",
            Self::SendCnt => "send_cnt",
            Self::SendPkt => "send_pkt",
            Self::SendMsg => "send_msg",
            Self::MailboxLen => "mailbox_len",
            Self::HeapSize => "heap_size",
            Self::Reductions => "reductions",
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_is_read_and_set_by_its_own_field_alone() {
        let mut all = Statistics::default();
        for (figure, field) in (1..).zip(SortField::LIVE) {
            assert!(field.is_live());
            let mut alone = Statistics::default();
            field.set_figure(&mut alone, Some(figure));
            field.set_figure(&mut all, Some(figure));
            for other in SortField::LIVE {
                assert_eq!(other.figure(&alone), (other == field).then_some(figure), "{other:?}");
            }
            let name = field.live_name().unwrap();
            assert!(format!("{alone:?}").contains(&format!("{name}: Some({figure})")), "{name}");
        }
        for (figure, field) in (1..).zip(SortField::LIVE) {
            assert_eq!(field.figure(&all), Some(figure));
        }
    }

    #[test]
    fn identity_has_no_figure() {
        let mut statistics = Statistics::default();
        for field in SortField::IDENTITY {
            assert!(!field.is_live() && field.live_name().is_none());
            field.set_figure(&mut statistics, Some(1));
            assert_eq!(field.figure(&Statistics { inflight: Some(1), ..Statistics::default() }), None);
        }
        assert_eq!(statistics, Statistics::default());
    }
}
