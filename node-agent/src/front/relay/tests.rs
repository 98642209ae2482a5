use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::super::connection::ADMINISTRATIVE_ACTION;
use super::*;

/// A relay between a client and a broker, of which the stream to each holds so many bytes.
fn between(room: usize) -> (DuplexStream, DuplexStream, Arc<Connection>, JoinHandle<()>) {
    let ((client, near), (far, broker)) = (duplex(room), duplex(room));
    let connection = Arc::new(Connection::new());
    let passing = Arc::clone(&connection);
    let task = tokio::spawn(async move { relay(near, far, &passing).await });
    (client, broker, connection, task)
}

/// Sends everything in pieces of these sizes, pausing now and then, and ends.
async fn send(mut to: impl AsyncWrite + Unpin, bytes: &[u8], sizes: &[usize]) {
    let mut rest = bytes;
    for (number, size) in sizes.iter().cycle().enumerate() {
        if rest.is_empty() {
            break;
        }
        let (piece, after) = rest.split_at(rest.len().min(*size));
        to.write_all(piece).await.unwrap();
        rest = after;
        if number % 7 == 0 {
            tokio::task::yield_now().await;
        }
    }
    to.shutdown().await.unwrap();
}

/// Takes everything up to the end, so many bytes at a time.
async fn take(mut from: impl AsyncRead + Unpin, sizes: &[usize]) -> Vec<u8> {
    let mut all = Vec::new();
    for (number, size) in sizes.iter().cycle().enumerate() {
        let mut piece = vec![0; *size];
        let length = from.read(&mut piece).await.unwrap();
        if length == 0 {
            break;
        }
        all.extend_from_slice(&piece[..length]);
        if number % 5 == 0 {
            tokio::task::yield_now().await;
        }
    }
    all
}

fn paused<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn every_byte_arrives_once_and_in_order_both_ways_at_once(
        up in vec(any::<u8>(), 0..5000),
        down in vec(any::<u8>(), 0..5000),
        room in 1_usize..300,
        sizes in vec(1_usize..400, 4..20),
    ) {
        paused(async {
            let (client, broker, connection, task) = between(room);
            let (from_client, to_client) = tokio::io::split(client);
            let (from_broker, to_broker) = tokio::io::split(broker);
            let other: Vec<_> = sizes.iter().rev().copied().collect();
            let (at_client, at_broker, (), ()) = tokio::join!(
                take(from_client, &sizes), take(from_broker, &other), send(to_client, &up, &other), send(to_broker, &down, &sizes),
            );
            task.await.unwrap();
            assert!(at_broker == up, "from the client");
            assert!(at_client == down, "to the client");
            let counts = connection.counts();
            assert_eq!((counts.received_octets, counts.sent_octets), (up.len() as u64, down.len() as u64));
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tcp_too_with_slow_readers_and_large_pieces() {
    let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let behind = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(front.local_addr().unwrap()).await.unwrap();
    let (near, _) = front.accept().await.unwrap();
    let far = TcpStream::connect(behind.local_addr().unwrap()).await.unwrap();
    let (broker, _) = behind.accept().await.unwrap();
    let connection = Arc::new(Connection::new());
    let passing = Arc::clone(&connection);
    let task = tokio::spawn(async move { relay(near, far, &passing).await });

    const LENGTH: usize = 24 << 20;
    let made = |seed: usize| {
        (0..LENGTH).map(|at| (at.wrapping_mul(2_654_435_761) >> 13 ^ seed) as u8).collect::<Vec<_>>()
    };
    let (up, down) = (made(1), made(2));
    let (from_client, to_client) = client.into_split();
    let (from_broker, to_broker) = broker.into_split();
    let (sent_up, sent_down) = (up.clone(), down.clone());
    let sending = [
        tokio::spawn(async move { send(to_client, &sent_up, &[1, 1_000_000, 77, 40_000]).await }),
        tokio::spawn(async move { send(to_broker, &sent_down, &[300_000, 5, 65_536]).await }),
    ];
    let (at_client, at_broker) = tokio::join!(
        tokio::spawn(async move {
            sleep(Duration::from_millis(300)).await;
            take(from_client, &[10, 4096, 100_000]).await
        }),
        tokio::spawn(async move {
            sleep(Duration::from_millis(600)).await;
            take(from_broker, &[1, 500_000]).await
        }),
    );
    assert!(at_broker.unwrap() == up && at_client.unwrap() == down);
    for sending in sending {
        sending.await.unwrap();
    }
    task.await.unwrap();
    let counts = connection.counts();
    assert_eq!((counts.received_octets, counts.sent_octets), (LENGTH as u64, LENGTH as u64));
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_stops_the_other_from_sending() {
    const ROOM: usize = 1000;
    let (mut client, mut broker, connection, _task) = between(ROOM);
    let mut sent = 0;
    while let Ok(written) = timeout(Duration::from_secs(1), client.write(&[7; 500])).await {
        sent += written.unwrap();
        assert!(sent <= 2 * ROOM + PIECE, "{sent} bytes taken that nobody has read");
    }
    assert!(sent >= 2 * ROOM);
    // What the broker says still passes, and the client's own is all there.
    broker.write_all(b"answer").await.unwrap();
    client.read_exact(&mut [0; 6]).await.unwrap();
    let mut all = vec![0; sent];
    broker.read_exact(&mut all).await.unwrap();
    assert!(all.iter().all(|byte| *byte == 7));
    client.write_all(b"more").await.unwrap();
    broker.read_exact(&mut all[..4]).await.unwrap();
    assert_eq!((&all[..4], connection.counts().received_octets), (&b"more"[..], sent as u64 + 4));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_is_given_up_and_a_slow_one_is_not() {
    let (mut client, mut broker, _, task) = between(10);
    let writing = tokio::spawn(async move {
        let result = broker.write_all(&[1; 10_000]).await;
        (broker, result)
    });
    let start = Instant::now();
    for _ in 0..10 {
        sleep(STALL - Duration::from_secs(1)).await;
        client.read_exact(&mut [0; 10]).await.unwrap();
    }
    assert!(!task.is_finished());
    task.await.unwrap();
    let waited = start.elapsed() - 10 * (STALL - Duration::from_secs(1));
    assert!(waited >= STALL && waited < STALL + Duration::from_secs(1), "{waited:?}");
    let (mut broker, _) = writing.await.unwrap();
    assert!(broker.write_all(&[1; 20_000]).await.is_err(), "the broker sees that it has gone");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_one_direction_leaves_the_other() {
    let (mut client, mut broker, _, task) = between(100);
    client.write_all(b"last words").await.unwrap();
    client.shutdown().await.unwrap();
    let mut all = Vec::new();
    broker.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"last words");
    // For as long as the broker likes.
    sleep(10 * LINGER).await;
    broker.write_all(b"an answer").await.unwrap();
    broker.shutdown().await.unwrap();
    let mut all = Vec::new();
    client.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"an answer");
    task.await.unwrap();

    let (mut client, mut broker, _, task) = between(100);
    broker.shutdown().await.unwrap();
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    client.write_all(b"still here").await.unwrap();
    broker.read_exact(&mut [0; 10]).await.unwrap();
    let start = Instant::now();
    task.await.unwrap();
    assert!(start.elapsed() <= LINGER, "a client that never ends is ended");
    assert_eq!(broker.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_the_broker_said_before_it_went_reaches_a_client_that_sends_on() {
    let (mut client, mut broker, _, task) = between(10);
    let saying = tokio::spawn(async move { broker.write_all(&[7; 100]).await });
    let mut all = vec![0; 70];
    client.read_exact(&mut all).await.unwrap();
    // It has said all and has gone, and the rest is still on its way.
    saying.await.unwrap().unwrap();
    client.write_all(&[0x82; 5]).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    client.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, [7; 100]);
    drop(client);
    task.await.unwrap();

    // And what the client said reaches the broker, though the client takes nothing any more.
    let (mut client, mut broker, _, task) = between(100);
    client.write_all(&[0xe0, 0]).await.unwrap();
    drop(client);
    let _ = broker.write_all(&[0xd0, 0]).await;
    let mut all = Vec::new();
    broker.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, [0xe0, 0]);
    drop(broker);
    task.await.unwrap();
}

/// What a client has got at the end, of a broker that sends this and closes.
async fn told(level: u8, reason: u8, from_broker: &[u8]) -> (Vec<u8>, Option<u64>) {
    let (mut client, mut broker, connection, task) = between(1000);
    let connect = [&[0x10, 14, 0, 4][..], b"MQTT", &[level, 2, 0, 60, 0, 0, 1, b'c']].concat();
    client.write_all(&connect).await.unwrap();
    broker.read_exact(&mut vec![0; connect.len()]).await.unwrap();
    connection.part(reason);
    broker.write_all(from_broker).await.unwrap();
    drop(broker);
    let mut all = Vec::new();
    client.read_to_end(&mut all).await.unwrap();
    assert_eq!(connection.counts().sent_octets, all.len() as u64);
    drop(client);
    task.await.unwrap();
    (all, connection.counts().sent_packets)
}

#[tokio::test(start_paused = true)]
async fn the_reason_comes_after_the_last_whole_packet_and_never_else() {
    let accepted = [0x20, 3, 0, 0, 0];
    let farewell = [0xe0, 2, ADMINISTRATIVE_ACTION, 0];
    assert_eq!(
        told(5, ADMINISTRATIVE_ACTION, &accepted).await,
        ([&accepted[..], &farewell].concat(), Some(2))
    );
    assert_eq!(told(5, 0, &accepted).await, (accepted.to_vec(), Some(1)), "nobody has said why");
    let cut_off = [&accepted[..], &[0x30, 9, 0]].concat();
    assert_eq!(told(5, ADMINISTRATIVE_ACTION, &cut_off).await, (cut_off.clone(), Some(1)));
    assert_eq!(told(4, ADMINISTRATIVE_ACTION, &[0x20, 2, 0, 0]).await, (vec![0x20, 2, 0, 0], Some(1)));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_cut_ends_though_its_client_takes_nothing() {
    let (client, mut broker, connection, task) = between(10);
    let writing = tokio::spawn(async move { broker.write_all(&[1; 100_000]).await });
    sleep(Duration::from_secs(1)).await;
    let start = Instant::now();
    connection.cut();
    task.await.unwrap();
    assert!(start.elapsed() <= PARTING);
    assert!(writing.await.unwrap().is_err());
    drop(client);
}

#[tokio::test]
async fn a_reset_in_the_middle_of_a_packet_ends_both_sides() {
    let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(front.local_addr().unwrap()).await.unwrap();
    let (near, _) = front.accept().await.unwrap();
    let (far, mut broker) = duplex(1000);
    let connection = Arc::new(Connection::new());
    let passing = Arc::clone(&connection);
    let task = tokio::spawn(async move { relay(near, far, &passing).await });
    client.write_all(&[0x30, 200, 1, 0, 1]).await.unwrap();
    broker.read_exact(&mut [0; 5]).await.unwrap();
    client.set_zero_linger().unwrap();
    drop(client);
    assert_eq!(broker.read(&mut [0]).await.unwrap(), 0);
    drop(broker);
    task.await.unwrap();
    let counts = connection.counts();
    assert_eq!((counts.received_octets, counts.received_packets), (5, Some(0)));
}
