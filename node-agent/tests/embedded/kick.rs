//! A kick ends connection and session.

use rollcall_node_agent::broker::{Broker, Kick, SessionRef};
use rollcall_proto::v1::ConnState;

use crate::raw::{Connect, Raw};
use crate::sandbox::{Sandbox, session_of, settings};

#[tokio::test(flavor = "multi_thread")]
async fn a_kicked_client_finds_no_session_when_it_comes_back() {
    let sandbox = Sandbox::start(settings()).await;
    for connect in [
        Connect::v31("c").keep_session(),
        Connect::v4("c").keep_session(),
        Connect::v5("c").keep_session().expiry(600),
    ] {
        for online in [true, false] {
            let mut client = Raw::tcp(sandbox.address(), &connect).await;
            assert!(!client.session_present);
            client.subscribe("t", 1).await;
            let mut row = sandbox.row_when("c", |row| row.conn_state() == ConnState::Connected).await;
            if online {
                assert_eq!(sandbox.kick(&session_of(&row)).await.unwrap(), Kick::Kicked);
                client.closed().await;
            } else {
                client.disconnect().await;
                row = sandbox.row_when("c", |row| row.conn_state() == ConnState::Disconnected).await;
                assert_eq!(sandbox.kick(&session_of(&row)).await.unwrap(), Kick::Kicked);
            }
            assert!(sandbox.resync().await.is_empty(), "gone when the kick returns");
            assert_eq!(sandbox.kick(&session_of(&row)).await.unwrap(), Kick::NotFound);
            sandbox.gone("c").await;

            let back = Raw::tcp(sandbox.address(), &connect).await;
            assert!(!back.session_present, "level {} online {online}", connect.level);
            let new = sandbox.row_when("c", |new| new.session > row.session).await;
            assert_eq!(sandbox.figures(&new).await.unwrap().subscriptions_cnt, Some(0));
            drop(back);
            assert_eq!(sandbox.kick(&session_of(&new)).await.unwrap(), Kick::Kicked);
            sandbox.gone("c").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_session_meant_is_kicked() {
    let sandbox = Sandbox::start(settings()).await;
    let mut client = Raw::tcp(sandbox.address(), &Connect::v4("c")).await;
    let row = sandbox.row_when("c", |_| true).await;
    let other = SessionRef { session: row.session + 1, ..session_of(&row) };
    assert_eq!(sandbox.kick(&other).await.unwrap(), Kick::NotFound);
    let nobody = SessionRef { clientid: "nobody".into(), session: row.session };
    assert_eq!(sandbox.kick(&nobody).await.unwrap(), Kick::NotFound);
    client.ping().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_are_kicked_at_once_and_each_kick_is_told_to_one_caller() {
    let sandbox = Sandbox::start(settings()).await;
    let mut clients = Vec::new();
    for number in 0..50 {
        clients.push(Raw::tcp(sandbox.address(), &Connect::v5(&format!("c{number}")).expiry(60)).await);
    }
    sandbox.until("50 clients", |sandbox| sandbox.rows().len() == 50).await;
    let rows = sandbox.rows();
    let kicks = rows.iter().flat_map(|row| [row, row]).map(|row| {
        let (broker, session) = (sandbox.broker.clone(), session_of(row));
        tokio::spawn(async move { broker.kick(&session).await.unwrap() })
    });
    let mut kicked = 0;
    for kick in kicks.collect::<Vec<_>>() {
        kicked += usize::from(kick.await.unwrap() == Kick::Kicked);
    }
    assert_eq!(kicked, 50);
    for client in &mut clients {
        client.closed().await;
    }
    sandbox.until("nobody", |sandbox| sandbox.rows().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_said_to_be_there_until_it_is_gone() {
    let sandbox = Sandbox::start(settings()).await;
    let mut deaf = Raw::tcp(sandbox.address(), &Connect::v4("deaf").keep_session()).await;
    deaf.subscribe("t", 0).await;
    let mut publisher = Raw::tcp(sandbox.address(), &Connect::v4("publisher")).await;
    for _ in 0..40 {
        publisher.publish("t", 0, 0, &[0; 500_000]).await;
    }
    publisher.ping().await;
    let row = sandbox.row_when("deaf", |_| true).await;
    let started = std::time::Instant::now();
    let error = sandbox.kick(&session_of(&row)).await.unwrap_err();
    assert!(error.to_string().contains("\"deaf\" is not gone after 3 s"), "{error}");
    assert!(started.elapsed().as_secs() < 5);
    // The kick goes on by itself.
    sandbox.gone("deaf").await;
    assert_eq!(sandbox.kick(&session_of(&row)).await.unwrap(), Kick::NotFound);
}
