//! Real MQTT clients that come and go, and what must be answered of them.
//!
//! Whoever has been connected, or away, for a while on a node that is well must be shown so by every answer that does not
//! name the node as missing. Who has just come or gone may be shown either way.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand::rngs::StdRng;
use rollcall_tests::mqtt::{Client, Connect};
use rollcall_tests::truth::{self, Wrong};
use rollcall_tests::wait::pause;
use serde_json::json;

use crate::bed::{BROKERS, Bed, Check, NODES, SETTLE};

/// Nodes with clients.
pub(crate) const PARTS: usize = BROKERS.len();

/// Clients of each.
const CLIENTS: usize = 40;

/// How long a broker may take; a frozen one takes for ever.
const PATIENCE: Duration = Duration::from_secs(2);

/// The clients.
pub(crate) struct Live {
    parts: [Vec<Mutex<Slot>>; PARTS],
    mqtt: [std::net::SocketAddr; PARTS],
}

/// One client.
#[derive(Default)]
struct Slot {
    connection: Option<Client>,
    /// Whether it has a session, and since when; `None`: that is not known.
    known: Option<(bool, Instant)>,
}

impl Slot {
    /// Whether it has a session, if that has been so for long enough.
    fn certain(&self) -> Option<bool> {
        self.known.filter(|(_, since)| since.elapsed() > SETTLE).map(|(there, _)| there)
    }
}

fn id(part: usize, at: usize) -> String {
    format!("live-{part}-{at:02}")
}

fn lock(slot: &Mutex<Slot>) -> MutexGuard<'_, Slot> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Live {
    pub(crate) fn new(bed: &Bed) -> Self {
        let slots = || (0..CLIENTS).map(|_| Mutex::default()).collect();
        Self { parts: [slots(), slots()], mqtt: bed.mqtt }
    }

    /// Clients of one node connect and leave, politely and not.
    pub(crate) fn come_and_go(&self, part: usize, random: &mut StdRng, over: &AtomicBool) {
        while !over.load(Ordering::Relaxed) {
            let at = random.random_range(0..CLIENTS);
            match self.parts[part][at].try_lock() {
                Ok(mut slot) => self.change(&mut slot, part, at, random),
                // It is being looked at.
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Poisoned(_)) => return,
            }
            pause(Duration::from_millis(random.random_range(20..300)));
        }
    }

    fn change(&self, slot: &mut Slot, part: usize, at: usize, random: &mut StdRng) {
        slot.known = None;
        match slot.connection.take() {
            Some(client) => {
                if random.random_bool(0.5) {
                    // A broken connection ends a clean session as well.
                    let mut client = client;
                    if client.send(&[0xe0, 0]).is_err() {
                        return;
                    }
                }
                slot.known = Some((false, Instant::now()));
            }
            None => {
                let Ok(stream) = TcpStream::connect_timeout(&self.mqtt[part], PATIENCE) else { return };
                if stream.set_read_timeout(Some(PATIENCE)).is_err() {
                    return;
                }
                let level = [3, 4, 5][at % 3];
                // No keep-alive: nobody pings while the broker stands still.
                let connect = Connect { keepalive: 0, ..Connect::new(level, &id(part, at)) };
                if let Ok(client) = Client::over(stream, &connect) {
                    slot.connection = Some(client);
                    slot.known = Some((true, Instant::now()));
                }
            }
        }
    }

    /// Forgets the clients of a node that has just crashed.
    pub(crate) fn forget(&self, part: usize) {
        for slot in &self.parts[part] {
            let mut slot = lock(slot);
            slot.connection = None;
            slot.known = Some((false, Instant::now()));
        }
    }

    /// Asks for the clients in every way, and compares.
    pub(crate) fn check(&self, bed: &Bed, random: &mut StdRng, over: &AtomicBool) {
        while !over.load(Ordering::Relaxed) {
            let (part, at) = (random.random_range(0..PARTS), random.random_range(0..CLIENTS));
            let outcome = match random.random_range(0..10) {
                0 => self.check_kick(bed, part, at),
                1..4 => self.check_list(bed),
                _ => self.check_get(bed, part, at),
            };
            match outcome {
                Ok(Some(check)) => bed.checked(check),
                Ok(None) => {}
                Err(wrong) => bed.asked.note_wrong(wrong),
            }
            pause(Duration::from_millis(10));
        }
    }

    fn check_get(&self, bed: &Bed, part: usize, at: usize) -> Result<Option<Check>, Wrong> {
        let slot = lock(&self.parts[part][at]);
        let node = BROKERS[part];
        let Some(there) = slot.certain().filter(|_| bed.is_certain(node)) else { return Ok(None) };
        let id = id(part, at);
        let response = bed.ask("GET", &format!("/clients/{id}")).map_err(|e| format!("{id}: {e}"))?;
        if !bed.is_certain(node) {
            return Ok(None);
        }
        let wrong = || format!("{id} is there: {there}: {}", String::from_utf8_lossy(&response.body));
        let body = truth::json(&response)?;
        if response.status != 200 {
            let failed = bed.asked.truth.failed(&body, &bed.asked.truth.nodes)?;
            let name = &bed.asked.truth.nodes[node];
            return if failed.is_empty() || there && !failed.contains(name) {
                Err(wrong())
            } else {
                Ok(None)
            };
        }
        let rows = truth::rows(&body)?;
        let is_shown = rows.len() == 1 && rows[0]["node"] == *bed.asked.truth.nodes[node];
        if there && !is_shown || !there && !rows.is_empty() {
            return Err(wrong());
        }
        Ok(Some(Check::LiveGet))
    }

    fn check_list(&self, bed: &Bed) -> Result<Option<Check>, Wrong> {
        let known = |part: usize| -> Vec<Option<(bool, Instant)>> {
            let of =
                |slot: &Mutex<Slot>| slot.try_lock().ok().and_then(|slot| slot.certain().and(slot.known));
            self.parts[part].iter().map(of).collect()
        };
        let is_certain = |part: usize| bed.is_certain(BROKERS[part]);
        let before = [0, 1].map(|part| if is_certain(part) { known(part) } else { Vec::new() });
        let target = "/clients?_like_clientid=live-&_limit=1000&_fields=clientid,node";
        let response = bed.ask("GET", target).map_err(|error| format!("{target}: {error}"))?;
        let after = [0, 1].map(|part| if is_certain(part) { known(part) } else { Vec::new() });
        let body = truth::json(&response)?;
        if response.status != 200 {
            bed.asked.truth.refusal(response.status, &body, &bed.asked.truth.nodes, true)?;
            return Ok(None);
        }
        let failed: BTreeSet<String> = bed.asked.truth.failed(&body, &bed.asked.truth.nodes)?;
        let rows = truth::rows(&body)?;
        let keys: Vec<_> = rows.iter().map(rollcall_tests::model::identity).collect();
        if !keys.is_sorted_by(|a, b| a < b) || body["meta"]["count"] != rows.len() {
            return Err(format!("out of order, or not as many as counted: {body}"));
        }
        let shown: BTreeMap<_, _> = keys.into_iter().collect();
        for part in 0..PARTS {
            let name = &bed.asked.truth.nodes[BROKERS[part]];
            for (at, (before, after)) in before[part].iter().zip(&after[part]).enumerate() {
                let Some((there, _)) = before.filter(|_| before == after) else { continue };
                let is_shown = shown.get(&id(part, at)) == Some(name);
                if is_shown != there && !(there && failed.contains(name)) {
                    return Err(format!("{} is there: {there}, shown: {is_shown}: {body}", id(part, at)));
                }
            }
        }
        Ok(Some(Check::LiveList))
    }

    fn check_kick(&self, bed: &Bed, part: usize, at: usize) -> Result<Option<Check>, Wrong> {
        let mut slot = lock(&self.parts[part][at]);
        let node = BROKERS[part];
        let Some(true) = slot.certain().filter(|_| bed.is_certain(node)) else { return Ok(None) };
        let (id, name) = (id(part, at), &bed.asked.truth.nodes[node]);
        let target = format!("/clients/{id}");
        let response = bed.ask("DELETE", &target).map_err(|error| format!("kick of {id}: {error}"))?;
        let body = truth::json(&response)?;
        let mut connection = slot.connection.take();
        slot.known = None;
        if !bed.is_certain(node) {
            return Ok(None);
        }
        match response.status {
            200 if body["data"] == json!([{"node": name, "clientid": id}]) => {}
            502..=504 if body["code"] == 101 => return Ok(None),
            status => return Err(format!("kick of {id} on {name}: {status}: {body}")),
        }
        slot.known = Some((false, Instant::now()));
        if let Some(connection) = &mut connection {
            connection.await_close();
        }
        let after = bed.ask("GET", &target).map_err(|error| format!("{id}: {error}"))?;
        if after.status == 200 && !truth::rows(&truth::json(&after)?)?.is_empty() {
            return Err(format!("{id} was kicked, and is shown: {}", String::from_utf8_lossy(&after.body)));
        }
        Ok(Some(Check::LiveKick))
    }
}

/// Every part has a node.
const _: () = assert!(PARTS == 2 && NODES.len() == 5);
