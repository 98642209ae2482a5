//! Two brokers beside each other, one of them with something that may cost: messages through each, and clients on each.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rollcall_tests::bench::table::{Table, number};
use rollcall_tests::bench::usage;
use rollcall_tests::mqtt::{self, Client, Connect};
use rollcall_tests::wait::eventually;
use serde_json::{Value, json};

use crate::report::{mebibytes, rounded};

/// Messages a round.
pub(crate) const MESSAGES: usize = 200_000;

/// Messages on their way at once, few enough that the broker drops none.
const BATCH: usize = 400;

/// Bytes of a message's payload.
pub(crate) const PAYLOAD: usize = 100;

/// A broker that runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Broker {
    /// Where MQTT clients connect.
    pub(crate) mqtt: SocketAddr,
    pub(crate) pid: u32,
}

impl Broker {
    fn processor_time(&self) -> Duration {
        usage::processor_time(self.pid).unwrap_or_default()
    }

    fn resident(&self) -> u64 {
        usage::resident(self.pid).unwrap_or_default()
    }
}

/// What was measured of both, the one without first.
pub(crate) struct Comparison {
    pub(crate) table: Table,
    pub(crate) json: Vec<Value>,
}

impl Comparison {
    pub(crate) fn new() -> Self {
        Self { table: Table::new(&["", "without", "with", "with/without"]), json: Vec::new() }
    }

    /// Adds a line, and gives its ratio.
    fn add(&mut self, label: &str, [without, with]: [f64; 2]) -> f64 {
        self.table.add([label.to_owned(), number(without), number(with), number(with / without)]);
        self.json.push(json!({
            "case": label, "without": rounded(without), "with": rounded(with), "ratio": rounded(with / without),
        }));
        with / without
    }

    /// Messages from one client to one other, the brokers in turns; gives the ratio of processor time a message.
    pub(crate) fn messages(&mut self, brokers: [Broker; 2], rounds: usize) -> f64 {
        let (mut rates, mut processor_us) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        let mut streams = brokers.map(|broker| Stream::open(&broker));
        for _ in 0..rounds {
            for (at, (broker, stream)) in brokers.iter().zip(&mut streams).enumerate() {
                let (before, start) = (broker.processor_time(), Instant::now());
                stream.pass(MESSAGES);
                rates[at].push(MESSAGES as f64 / start.elapsed().as_secs_f64());
                let used = broker.processor_time().saturating_sub(before);
                processor_us[at].push(used.as_secs_f64() * 1e6 / MESSAGES as f64);
            }
        }
        self.add("messages a second", rates.map(|rates| median(&rates)));
        self.add("processor time a message, us", processor_us.map(|times| median(&times)))
    }

    /// Messages that go to and fro one at a time: what one costs that is alone on its way.
    pub(crate) fn trips(&mut self, brokers: [Broker; 2], rounds: usize, trips: usize) {
        let mut trip_us = [Vec::new(), Vec::new()];
        let mut streams = brokers.map(|broker| Stream::open(&broker));
        for _ in 0..rounds {
            for (stream, trip_us) in streams.iter_mut().zip(&mut trip_us) {
                let start = Instant::now();
                for _ in 0..trips {
                    stream.pass_one();
                }
                trip_us.push(start.elapsed().as_secs_f64() * 1e6 / trips as f64);
            }
        }
        self.add("one message from client to client, us", trip_us.map(|times| median(&times)));
    }

    /// So many clients that connect one after the other. `settle` waits until whoever watches the broker knows them.
    pub(crate) fn connections(&mut self, brokers: [Broker; 2], clients: usize, settle: impl Fn(Broker)) {
        let connected = brokers.map(|broker| connect_many(broker, clients, &settle));
        self.add("clients connected a second", [0, 1].map(|at| connected[at].rate));
        self.add("processor time a connection, us", [0, 1].map(|at| connected[at].processor_us));
        self.add("bytes a client", [0, 1].map(|at| connected[at].bytes));
        self.add("resident memory with the clients, MiB", [0, 1].map(|at| connected[at].resident_mib));
    }
}

/// A publisher and its subscriber.
struct Stream {
    publisher: TcpStream,
    subscriber: TcpStream,
    /// [`BATCH`] messages.
    batch: Vec<u8>,
    read: Vec<u8>,
}

impl Stream {
    fn open(broker: &Broker) -> Self {
        let open = |id: &str| {
            let mut stream = mqtt::dial(broker.mqtt);
            let client = Client::over(&mut stream, &Connect::new(4, id));
            client.expect("an accepted client");
            stream
        };
        let (publisher, mut subscriber) = (open("publisher"), open("subscriber"));
        let subscribe = [&[0, 1][..], &mqtt::text("t"), &[0]].concat();
        subscriber.write_all(&mqtt::packet(0x82, &subscribe)).expect("SUBSCRIBE");
        let mut answer = [0; 5];
        subscriber.read_exact(&mut answer).expect("SUBACK");
        let message = mqtt::packet(0x30, &[mqtt::text("t"), vec![b'x'; PAYLOAD]].concat());
        let batch = message.repeat(BATCH);
        let read = vec![0; batch.len()];
        Self { publisher, subscriber, batch, read }
    }

    /// Sends so many messages and waits until all of them have come.
    fn pass(&mut self, messages: usize) {
        for _ in 0..messages / BATCH {
            self.publisher.write_all(&self.batch).expect("the broker reads");
            self.subscriber.read_exact(&mut self.read).expect("all messages come");
        }
    }

    fn pass_one(&mut self) {
        let length = self.batch.len() / BATCH;
        self.publisher.write_all(&self.batch[..length]).expect("the broker reads");
        self.subscriber.read_exact(&mut self.read[..length]).expect("the message comes");
    }
}

/// What many clients cost a broker.
struct Connected {
    rate: f64,
    processor_us: f64,
    bytes: f64,
    resident_mib: f64,
}

fn connect_many(broker: Broker, clients: usize, settle: &impl Fn(Broker)) -> Connected {
    let (memory, processor, start) = (broker.resident(), broker.processor_time(), Instant::now());
    let held: Vec<_> = (0..clients)
        .map(|number| Client::connect(broker.mqtt, &Connect::new(4, &format!("device-{number:013}"))))
        .collect();
    let seconds = start.elapsed().as_secs_f64();
    settle(broker);
    let used = broker.processor_time().saturating_sub(processor);
    let full = rest(&broker);
    drop(held);
    Connected {
        rate: clients as f64 / seconds,
        processor_us: used.as_secs_f64() * 1e6 / clients as f64,
        bytes: full.saturating_sub(memory) as f64 / clients as f64,
        resident_mib: mebibytes(full),
    }
}

/// Memory when it has come to rest.
fn rest(broker: &Broker) -> u64 {
    let mut last = 0;
    eventually("rest of the broker's memory", || {
        let now = broker.resident();
        if std::mem::replace(&mut last, now) == now { Ok(now) } else { Err(now.to_string()) }
    })
}

fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
