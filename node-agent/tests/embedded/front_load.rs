//! The counting front under load, before the real broker: readers that are slow, connections of which the client has
//! closed its half, and those that break off, all at once. No byte is lost, doubled or out of its order, whoever is
//! slow beside it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rollcall_node_agent::broker::embedded::EmbeddedSettings;
use rollcall_proto::v1::Statistics;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;

use crate::raw::{Connect, Raw, packet, text};
use crate::sandbox::{Sandbox, settings};

const READERS: usize = 6;

/// Messages for each reader.
const MESSAGES: u32 = 300;

/// Messages on their way to a reader at the most: the broker drops what does not fit into its queue.
const UNDERWAY: usize = 100;

/// Messages that a client sends before it closes its half.
const LAST_WORDS: u16 = 30;

/// What a message says: who, which, and bytes that follow from both.
fn payload(reader: usize, number: u32) -> Vec<u8> {
    let length = (number as usize * 7919 + reader * 104_729) % 40_000;
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.extend((0..length).map(|at| (at as u32).wrapping_mul(31).wrapping_add(number) as u8));
    bytes
}

/// A connection with little room, so that who does not read soon stops who writes.
async fn narrow(sandbox: &Sandbox) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(sandbox.address()).await.unwrap()
}

/// Takes all messages at its own pace, and compares the front's figures with what came.
async fn read_slowly(sandbox: Arc<Sandbox>, reader: usize, room: Arc<Semaphore>) {
    let mut random = StdRng::seed_from_u64(reader as u64);
    let connect = Connect::v4(&format!("reader-{reader}"));
    let mut client = Raw::over(narrow(&sandbox).await, &connect).await.unwrap();
    client.subscribe(&format!("to/{reader}"), 1).await;
    room.add_permits(UNDERWAY);
    for number in 0..MESSAGES {
        if random.random_ratio(1, 20) {
            tokio::time::sleep(Duration::from_millis(random.random_range(0..80))).await;
        }
        let (_, received) = client.receive(true).await;
        assert!(
            received == payload(reader, number),
            "message {number} of {} bytes to {reader}",
            received.len()
        );
        room.add_permits(1);
    }
    client.ping().await;
    let row = sandbox.row_when(&connect.clientid, |_| true).await;
    let settled = |figures: &Statistics| {
        (figures.recv_oct, figures.send_oct) == (Some(client.sent), Some(client.received))
    };
    let figures = sandbox.figures_when(&row, settled).await;
    assert_eq!(
        (figures.send_pkt, figures.send_msg),
        (Some(client.packets), Some(MESSAGES.into())),
        "{reader}"
    );
    assert_eq!((figures.inflight, figures.mqueue_len, figures.mqueue_dropped), (Some(0), Some(0), Some(0)));
}

async fn write_fast(sandbox: Arc<Sandbox>, reader: usize, room: Arc<Semaphore>) {
    let mut client = Raw::tcp(sandbox.address(), &Connect::v5(&format!("writer-{reader}"))).await;
    for number in 0..MESSAGES {
        room.acquire().await.unwrap().forget();
        let id = u16::try_from(number + 1).unwrap();
        client.publish(&format!("to/{reader}"), 1, id, &payload(reader, number)).await;
    }
    client.ping().await;
}

/// Sends much at once and closes its half. What it said arrives, and what is said to it as well.
async fn close_half(sandbox: &Sandbox, round: u64) {
    let connect = Connect::v4(&format!("half-{}", round % 5));
    let mut bytes = connect.bytes();
    for id in 1..=LAST_WORDS {
        let body = [text("words"), id.to_be_bytes().to_vec(), round.to_be_bytes().to_vec(), vec![7; 2000]];
        bytes.extend(packet(0x32, body.concat()));
    }
    let mut stream = narrow(sandbox).await;
    stream.write_all(&bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let expected: Vec<u8> = [0x20, 2, 0, 0]
        .into_iter()
        .chain((1..=LAST_WORDS).flat_map(|id| [&[0x40, 2][..], &id.to_be_bytes()].concat()))
        .collect();
    // The broker need not answer all of it once it knows that nobody speaks any more.
    assert!(answer.len() >= 4 && expected.starts_with(&answer), "round {round}: {answer:?}");
    assert_eq!(answer.len() % 4, 0, "whole packets: {answer:?}");
}

/// Breaks off within a packet.
async fn break_off(sandbox: &Sandbox, round: u64) {
    let mut stream = TcpStream::connect(sandbox.address()).await.unwrap();
    let bytes = Connect::v4(&format!("broken-{}", round % 5)).bytes();
    let end = usize::try_from(round).unwrap() % bytes.len();
    stream.write_all(&[&bytes[..], &[0x32, 0xff, 0x7f]].concat()[..=end]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_byte_is_lost_however_slow_readers_are_and_however_others_leave() {
    let sandbox = Arc::new(Sandbox::start(EmbeddedSettings { counting_front: true, ..settings() }).await);
    let mut listening = Raw::tcp(sandbox.address(), &Connect::v4("listening")).await;
    listening.subscribe("words", 1).await;
    let (is_over, rounds, heard) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let leaving = tokio::spawn({
        let (sandbox, is_over) = (Arc::clone(&sandbox), Arc::clone(&is_over));
        let (rounds, heard) = (Arc::clone(&rounds), Arc::clone(&heard));
        async move {
            while !is_over.load(Ordering::Relaxed) {
                let round = rounds.fetch_add(1, Ordering::Relaxed);
                close_half(&sandbox, round).await;
                break_off(&sandbox, round).await;
                // As with readers: the broker drops what does not fit into a queue.
                while heard.load(Ordering::Relaxed) + 10 < round {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }
    });
    let hearing = tokio::spawn(async move {
        // Of each round all that was said, in its order, and no round twice.
        let mut said = 0;
        loop {
            let (_, words) = listening.receive(true).await;
            if words == b"end" {
                return said;
            }
            let round = u64::from_be_bytes(words[..8].try_into().unwrap());
            assert_eq!((round, &words[8..]), (said / u64::from(LAST_WORDS), &[7; 2000][..]));
            said += 1;
            heard.store(round, Ordering::Relaxed);
        }
    });
    let mut tasks = Vec::new();
    for reader in 0..READERS {
        let room = Arc::new(Semaphore::new(0));
        tasks.push(tokio::spawn(read_slowly(Arc::clone(&sandbox), reader, Arc::clone(&room))));
        tasks.push(tokio::spawn(write_fast(Arc::clone(&sandbox), reader, room)));
    }
    for task in tasks {
        task.await.unwrap();
    }
    is_over.store(true, Ordering::Relaxed);
    leaving.await.unwrap();
    Raw::tcp(sandbox.address(), &Connect::v4("last")).await.publish("words", 1, 1, b"end").await;
    let rounds = rounds.load(Ordering::Relaxed);
    assert_eq!(hearing.await.unwrap(), rounds * u64::from(LAST_WORDS));
    assert!(rounds > 2, "some have left meanwhile");
    // Of all who have gone nothing is left.
    sandbox
        .until("only who is there", |sandbox| {
            sandbox
                .rows()
                .iter()
                .all(|row| !row.clientid.starts_with("half") && !row.clientid.starts_with("broken"))
        })
        .await;
}
