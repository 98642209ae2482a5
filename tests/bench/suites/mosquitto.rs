//! What the agent costs the Mosquitto that it is a plugin of: messages through one broker and clients on it, beside a broker
//! without the plugin.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rollcall_tests::bench::goals::Figure;
use rollcall_tests::bench::table::{Table, number};
use rollcall_tests::bench::usage;
use rollcall_tests::mosquitto::Mosquitto;
use rollcall_tests::mqtt::{self, Client, Connect};
use rollcall_tests::wait::eventually;
use serde_json::json;

use super::Bench;
use crate::bed;
use crate::report::{Section, mebibytes, rounded};

/// Messages a round.
const MESSAGES: usize = 200_000;

/// Messages on their way at once, few enough that the broker drops none.
const BATCH: usize = 400;

/// Bytes of a message's payload.
const PAYLOAD: usize = 100;

/// Clients that connect.
const CLIENTS: usize = 10_000;

/// What one broker has shown.
#[derive(Debug, Default)]
struct Cost {
    /// Messages a second, a round.
    rates: Vec<f64>,
    /// Processor time a message, microseconds, a round.
    processor_us: Vec<f64>,
}

pub(crate) fn measure(bench: &Bench) -> Result<Section, String> {
    if !Mosquitto::is_installed() {
        return Err("mosquitto is not installed (Debian: mosquitto)".to_owned());
    }
    let plain = Mosquitto::start(None, &[]);
    let loaded = Mosquitto::start(Some(bed::NODES[0]), &[]);
    let brokers = [&plain, &loaded];
    let mut costs = [Cost::default(), Cost::default()];
    let mut pairs: Vec<Stream> = brokers.iter().map(|broker| Stream::open(broker)).collect();
    for _ in 0..bench.options.rounds {
        for ((broker, stream), cost) in brokers.iter().zip(&mut pairs).zip(&mut costs) {
            let before = processor_time(broker);
            let start = Instant::now();
            stream.pass(MESSAGES);
            cost.rates.push(MESSAGES as f64 / start.elapsed().as_secs_f64());
            let used = processor_time(broker).saturating_sub(before);
            cost.processor_us.push(used.as_secs_f64() * 1e6 / MESSAGES as f64);
        }
    }
    drop(pairs);
    let mut table = Table::new(&["", "without", "with", "with/without"]);
    let mut json = Vec::new();
    let mut add = |label: &str, [without, with]: [f64; 2]| {
        table.add([label.to_owned(), number(without), number(with), number(with / without)]);
        json.push(json!({
            "case": label, "without": rounded(without), "with": rounded(with), "ratio": rounded(with / without),
        }));
        with / without
    };
    add("messages a second", [0, 1].map(|at| median(&costs[at].rates)));
    let per_message = add("processor time a message, us", [0, 1].map(|at| median(&costs[at].processor_us)));
    let connected = brokers.map(connect_many);
    add("clients connected a second", [0, 1].map(|at| connected[at].rate));
    add("processor time a connection, us", [0, 1].map(|at| connected[at].processor_us));
    add("bytes a client", [0, 1].map(|at| connected[at].bytes));
    add("resident memory with the clients, MiB", [0, 1].map(|at| connected[at].resident_mib));
    let mut section = Section { notes: Vec::new(), table, json, goals: vec![(Figure::Plugin, per_message)] };
    section = section.note(format!(
        "{MESSAGES} messages of {PAYLOAD} bytes, QoS 0, from one client to one other, median of {} rounds in turns; then \
         {CLIENTS} clients, one after the other",
        bench.options.rounds
    ));
    Ok(section)
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
    fn open(broker: &Mosquitto) -> Self {
        let open = |id: &str| {
            let mut stream = mqtt::dial(broker.mqtt);
            // They send no PINGREQ, however many rounds there are.
            let client = Client::over(&mut stream, &Connect { keepalive: 0, ..Connect::new(4, id) });
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
}

/// What many clients cost a broker.
struct Connected {
    rate: f64,
    processor_us: f64,
    bytes: f64,
    resident_mib: f64,
}

fn connect_many(broker: &Mosquitto) -> Connected {
    let resident = || usage::resident(broker.pid()).unwrap_or_default();
    let (memory, processor, start) = (resident(), processor_time(broker), Instant::now());
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| Client::connect(broker.mqtt, &Connect::new(4, &format!("device-{number:013}"))))
        .collect();
    let seconds = start.elapsed().as_secs_f64();
    if let Some(agent) = broker.agent {
        drop(bed::gateway(&[agent], CLIENTS as u64, vec![broker.pid()]));
    }
    let used = processor_time(broker).saturating_sub(processor);
    let full = rest(&resident);
    drop(clients);
    Connected {
        rate: CLIENTS as f64 / seconds,
        processor_us: used.as_secs_f64() * 1e6 / CLIENTS as f64,
        bytes: full.saturating_sub(memory) as f64 / CLIENTS as f64,
        resident_mib: mebibytes(full),
    }
}

/// Memory when it has come to rest.
fn rest(resident: &impl Fn() -> u64) -> u64 {
    let mut last = 0;
    eventually("rest of the broker's memory", || {
        let now = resident();
        if std::mem::replace(&mut last, now) == now { Ok(now) } else { Err(now.to_string()) }
    })
}

fn processor_time(broker: &Mosquitto) -> Duration {
    usage::processor_time(broker.pid()).unwrap_or_default()
}

fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
