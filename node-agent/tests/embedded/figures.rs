//! Counters and queues against what a client really sent and received.

use std::num::NonZeroU16;

use rollcall_node_agent::broker::Broker;
use rollcall_node_agent::broker::embedded::EmbeddedSettings;
use rollcall_proto::v1::{ConnState, Statistics};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::raw::{Connect, Raw, packet, text};
use crate::sandbox::{Sandbox, session_of, settings};

#[tokio::test(flavor = "multi_thread")]
async fn counters_match_what_passed_in_both_directions() {
    let sandbox = Sandbox::start(settings()).await;
    for (clientid, connect) in [("three", Connect::v31("three")), ("five", Connect::v5("five"))] {
        let mut client = Raw::tcp(sandbox.address(), &connect).await;
        client.subscribe("own/#", 1).await;
        for id in 1..=10 {
            client.publish("elsewhere", 0, 0, b"zero").await;
            client.publish("elsewhere", 1, id, b"one").await;
            client.publish("elsewhere", 2, 100 + id, &[7; 1000]).await;
        }
        client.publish("own/x", 0, 0, b"back").await;
        client.receive(true).await;
        for _ in 0..3 {
            client.ping().await;
        }
        // CONNECT, SUBSCRIBE, 31 PUBLISH, 10 PUBREL, 3 PINGREQ
        let row = sandbox.row_when(clientid, |_| true).await;
        let figures = sandbox
            .figures_when(&row, |figures| {
                figures.recv_pkt == Some(46) && figures.send_oct == Some(client.received)
            })
            .await;
        let expected = Statistics {
            subscriptions_cnt: Some(1),
            max_subscriptions: Some(0),
            inflight: Some(0),
            max_inflight: Some(100),
            mqueue_len: Some(0),
            max_mqueue: Some(1000),
            mqueue_dropped: Some(0),
            max_awaiting_rel: Some(100),
            recv_oct: Some(client.sent),
            recv_cnt: figures.recv_cnt,
            recv_pkt: Some(46),
            recv_msg: Some(31),
            send_oct: Some(client.received),
            send_cnt: figures.send_cnt,
            send_msg: Some(1),
            ..Statistics::default()
        };
        assert_eq!(figures, expected, "{clientid}");
        assert!(figures.recv_cnt.unwrap() >= 33 && figures.send_cnt.unwrap() >= 24, "{figures:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn message_counters_outlive_the_connection_and_packet_counters_begin_anew() {
    let sandbox = Sandbox::start(settings()).await;
    let connect = Connect::v4("c").keep_session();
    let mut first = Raw::tcp(sandbox.address(), &connect).await;
    first.publish("t", 1, 1, b"x").await;
    first.disconnect().await;
    let row = sandbox.row_when("c", |row| row.conn_state() == ConnState::Disconnected).await;
    let mut second = Raw::tcp(sandbox.address(), &connect).await;
    second.publish("t", 1, 1, b"x").await;
    let figures = sandbox.figures_when(&row, |figures| figures.recv_msg == Some(2)).await;
    assert_eq!((figures.recv_pkt, figures.recv_oct), (Some(2), Some(second.sent)));

    let clean = Connect::v4("c");
    let _third = Raw::tcp(sandbox.address(), &clean).await;
    let new = sandbox.row_when("c", |new| new.session != row.session).await;
    let figures = sandbox.figures(&new).await.unwrap();
    assert_eq!((figures.recv_msg, figures.recv_pkt), (Some(0), Some(1)));
    assert_eq!(sandbox.figures(&row).await, None, "the old session has no figures any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_of_an_offline_session_grows_to_its_limit_and_counts_what_it_drops() {
    let sandbox = Sandbox::start(EmbeddedSettings { max_mqueue: 5, ..settings() }).await;
    let connect = Connect::v5("sleeper").keep_session().expiry(60);
    let mut sleeper = Raw::tcp(sandbox.address(), &connect).await;
    sleeper.subscribe("t", 1).await;
    sleeper.disconnect().await;
    let row = sandbox.row_when("sleeper", |row| row.conn_state() == ConnState::Disconnected).await;

    let mut publisher = Raw::tcp(sandbox.address(), &Connect::v4("publisher")).await;
    for id in 1..=3 {
        publisher.publish("t", 1, id, &[u8::try_from(id).unwrap()]).await;
    }
    let figures = sandbox.figures_when(&row, |figures| figures.mqueue_len == Some(3)).await;
    assert_eq!((figures.max_mqueue, figures.mqueue_dropped), (Some(5), Some(0)));
    for id in 4..=8 {
        publisher.publish("t", 1, id, &[u8::try_from(id).unwrap()]).await;
    }
    let figures = sandbox.figures_when(&row, |figures| figures.mqueue_dropped == Some(3)).await;
    assert_eq!((figures.mqueue_len, figures.send_msg), (Some(5), Some(0)));

    // What is left is the newest, and is delivered on resumption.
    let mut sleeper = Raw::tcp(sandbox.address(), &connect).await;
    assert!(sleeper.session_present);
    for number in 4..=8 {
        assert_eq!(sleeper.receive(true).await, (1, vec![number]));
    }
    let figures = sandbox.figures_when(&row, |figures| figures.inflight == Some(0)).await;
    assert_eq!((figures.mqueue_len, figures.send_msg, figures.mqueue_dropped), (Some(0), Some(5), Some(3)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_does_not_acknowledge_fills_its_window_then_its_queue() {
    let limit = NonZeroU16::new(4).unwrap();
    let sandbox = Sandbox::start(EmbeddedSettings { max_inflight: limit, ..settings() }).await;
    let mut slow = Raw::tcp(sandbox.address(), &Connect::v4("slow")).await;
    slow.subscribe("t", 1).await;
    // Receive Maximum 2.
    let small = Connect { properties: vec![0x21, 0, 2], ..Connect::v5("small") };
    let mut small = Raw::tcp(sandbox.address(), &small).await;
    small.subscribe("t", 1).await;
    let mut publisher = Raw::tcp(sandbox.address(), &Connect::v4("publisher")).await;
    for id in 1..=7 {
        publisher.publish("t", 1, id, b"x").await;
    }
    for (clientid, window, waiting) in [("slow", 4, 3), ("small", 2, 5)] {
        let row = sandbox.row_when(clientid, |_| true).await;
        let figures = sandbox.figures_when(&row, |figures| figures.mqueue_len == Some(waiting)).await;
        assert_eq!((figures.inflight, figures.max_inflight), (Some(window), Some(window)), "{clientid}");
        assert_eq!(figures.send_msg, Some(window));
    }
    for _ in 0..7 {
        slow.receive(true).await;
    }
    let row = sandbox.row_when("slow", |_| true).await;
    sandbox.figures_when(&row, |figures| (figures.inflight, figures.mqueue_len) == (Some(0), Some(0))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_come_in_the_order_asked_for_and_only_for_the_session_meant() {
    let sandbox = Sandbox::start(EmbeddedSettings { max_subscriptions: 2, ..settings() }).await;
    let mut clients = Vec::new();
    for number in 0..5_usize {
        let mut client = Raw::tcp(sandbox.address(), &Connect::v4(&format!("c{number}"))).await;
        for filter in 0..number.min(2) {
            client.subscribe(&format!("f{filter}"), 0).await;
        }
        clients.push(client);
    }
    sandbox.until("five clients", |sandbox| sandbox.rows().len() == 5).await;
    let mut asked: Vec<_> = sandbox.rows().iter().rev().map(session_of).collect();
    asked[1].session += 1000;
    let answers = sandbox.statistics(&asked).await;
    let subscriptions: Vec<_> = answers
        .iter()
        .map(|figures| figures.as_ref().and_then(|figures| figures.subscriptions_cnt))
        .collect();
    assert_eq!(subscriptions, [Some(2), None, Some(2), Some(1), Some(0)]);
    for (figures, client) in answers.iter().zip(clients.iter().rev()) {
        let Some(figures) = figures else { continue };
        assert_eq!((figures.recv_oct, figures.max_subscriptions), (Some(client.sent), Some(2)));
    }
    assert!(sandbox.statistics(&[]).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_will_is_no_message_of_its_client_and_retained_messages_reach_later_subscribers() {
    let sandbox = Sandbox::start(EmbeddedSettings { max_retained: 2, ..settings() }).await;
    let mut publisher = Raw::tcp(sandbox.address(), &Connect::v4("publisher")).await;
    for topic in ["r/1", "r/2", "r/3"] {
        let mut body = text(topic);
        body.extend(topic.as_bytes());
        publisher.send(&packet(0x31, body)).await;
    }
    publisher.ping().await;
    let mut late = Raw::tcp(sandbox.address(), &Connect::v4("late")).await;
    late.subscribe("r/#", 0).await;
    let mut got = [late.receive(false).await.1, late.receive(false).await.1];
    got.sort();
    assert_eq!(got, [b"r/1".to_vec(), b"r/2".to_vec()], "a third topic is beyond the limit");

    // A will, QoS 0, topic "w", payload "gone"; the session stays.
    let mut body = text("MQTT");
    body.extend([4, 0b0000_0100, 0, 60]);
    for part in ["dying", "w", "gone"] {
        body.extend(text(part));
    }
    late.subscribe("w", 0).await;
    let mut dying = Raw::tcp(sandbox.address(), &Connect::v4("dying").keep_session()).await;
    dying.ping().await;
    let mut stream = TcpStream::connect(sandbox.address()).await.unwrap();
    stream.write_all(&packet(0x10, body)).await.unwrap();
    stream.read_exact(&mut [0; 4]).await.unwrap();
    drop(stream);
    assert_eq!(late.receive(false).await.1, b"gone");
    let row = sandbox.row_when("dying", |row| row.conn_state() == ConnState::Disconnected).await;
    assert_eq!(sandbox.figures(&row).await.unwrap().recv_msg, Some(0));
}
