//! Sessions that outlive connections, and connections that take sessions over.

use std::time::Duration;

use rollcall_node_agent::broker::embedded::EmbeddedSettings;
use rollcall_proto::v1::{Client, ConnState};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::raw::{Connect, Raw};
use crate::sandbox::{Sandbox, settings};

fn is_connected(client: &Client) -> bool {
    client.conn_state() == ConnState::Connected
}

#[tokio::test(flavor = "multi_thread")]
async fn a_persistent_session_stays_listed_and_keeps_its_number_when_it_is_resumed() {
    let sandbox = Sandbox::start(settings()).await;
    for (clientid, connect) in [
        ("four", Connect::v4("four").keep_session()),
        ("five", Connect::v5("five").keep_session().expiry(60)),
    ] {
        let mut first = Raw::tcp(sandbox.address(), &connect).await;
        first.subscribe("t", 1).await;
        let online = sandbox.row_when(clientid, is_connected).await;
        first.disconnect().await;
        let offline = sandbox.row_when(clientid, |row| !is_connected(row)).await;
        assert_eq!((offline.session, offline.created_at_ms), (online.session, online.created_at_ms));
        assert_eq!(offline.connected_at_ms, online.connected_at_ms);
        assert!(offline.disconnected_at_ms.unwrap() >= online.connected_at_ms.unwrap());
        let figures = sandbox.figures(&offline).await.unwrap();
        assert_eq!(figures.subscriptions_cnt, Some(1));
        assert_eq!(
            (figures.recv_oct, figures.send_cnt),
            (None, None),
            "the connection's counters went with it"
        );
        assert_eq!(figures.recv_pkt, Some(3), "CONNECT, SUBSCRIBE, DISCONNECT");

        tokio::time::sleep(Duration::from_millis(20)).await;
        let second = Raw::tcp(sandbox.address(), &connect).await;
        assert!(second.session_present);
        let again = sandbox.row_when(clientid, is_connected).await;
        assert_eq!((again.session, again.created_at_ms), (online.session, online.created_at_ms));
        assert_eq!(again.disconnected_at_ms, None);
        assert!(again.connected_at_ms > online.connected_at_ms);
        assert_eq!(again.port, Some(second.local().port().into()));

        let clean = Connect { clean: true, ..connect };
        let third = Raw::tcp(sandbox.address(), &clean).await;
        assert!(!third.session_present);
        let new = sandbox.row_when(clientid, |row| row.session != online.session).await;
        assert!(new.session > online.session && new.created_at_ms == new.connected_at_ms);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_without_a_future_ends_with_its_connection() {
    let sandbox = Sandbox::start(settings()).await;
    for connect in [Connect::v31("c"), Connect::v4("c"), Connect::v5("c"), Connect::v5("c").keep_session()] {
        let client = Raw::tcp(sandbox.address(), &connect).await;
        let row = sandbox.row_when("c", is_connected).await;
        client.disconnect().await;
        sandbox.gone("c").await;
        assert_eq!(sandbox.figures(&row).await, None);
        // Not by DISCONNECT either.
        let client = Raw::tcp(sandbox.address(), &connect).await;
        sandbox.row_when("c", is_connected).await;
        drop(client);
        sandbox.gone("c").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_when_its_time_is_up() {
    let sandbox = Sandbox::start(EmbeddedSettings { session_expiry_secs: 1, ..settings() }).await;
    for connect in [Connect::v4("c").keep_session(), Connect::v5("c").expiry(1)] {
        let client = Raw::tcp(sandbox.address(), &connect).await;
        let row = sandbox.row_when("c", is_connected).await;
        assert_eq!(row.expiry_interval, Some(1));
        client.disconnect().await;
        sandbox.row_when("c", |row| !is_connected(row)).await;
        sandbox.gone("c").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_connection_takes_the_first_one_over() {
    let sandbox = Sandbox::start(settings()).await;
    let connect = Connect::v4("c").keep_session();
    let mut first = Raw::tcp(sandbox.address(), &connect).await;
    let before = sandbox.row_when("c", is_connected).await;
    let second = Raw::tcp(sandbox.address(), &connect).await;
    first.closed().await;
    let port = u32::from(second.local().port());
    let after = sandbox.row_when("c", |row| row.port == Some(port)).await;
    assert!(is_connected(&after) && after.session == before.session);
    assert_eq!(sandbox.resync().await, [after]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_client_is_disconnected_after_its_keepalive() {
    let sandbox = Sandbox::start(settings()).await;
    let connect = Connect { keepalive: 1, ..Connect::v4("c") };
    let mut client = Raw::tcp(sandbox.address(), &connect).await;
    sandbox.row_when("c", is_connected).await;
    client.closed().await;
    sandbox.gone("c").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_give_up_in_the_middle_of_connect_leave_nothing() {
    let sandbox = Sandbox::start(settings()).await;
    for number in 0..200 {
        let mut stream = TcpStream::connect(sandbox.address()).await.unwrap();
        stream.set_zero_linger().unwrap();
        stream.write_all(&Connect::v4(&format!("c{number}")).keep_session().bytes()).await.unwrap();
    }
    // Sessions of those whose CONNECT was read may remain, but nobody is connected.
    sandbox.until("all to be disconnected", |sandbox| !sandbox.rows().iter().any(is_connected)).await;
    let settled = sandbox.resync().await;
    assert!(!settled.iter().any(is_connected), "{settled:?}");
}
