//! Counts what passes over one MQTT connection, both ways, out of bytes that come in pieces of any size.
//!
//! Promises: how the bytes are cut makes no difference; nothing that comes can make it panic; it keeps of the bytes
//! only what is counted by (packet ids, and CONNECT up to the client id, so never a password or a payload). What is
//! not MQTT ends the counting of packets in that direction for good, and they are unknown from then on, because
//! nobody can say where the next one begins; bytes are still counted.
//!
//! Knows no sockets and no time. Decided against: a codec crate. They hand out whole packets, which would hold up a
//! large one until its end, and copy it.

use std::collections::BTreeSet;

const CONNECT: u8 = 1;
const CONNACK: u8 = 2;
const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;
const PUBREC: u8 = 5;
const PUBREL: u8 = 6;
const PUBCOMP: u8 = 7;
const DISCONNECT: u8 = 14;

/// In the first byte of PUBLISH: the quality of service.
const QOS: u8 = 0b110;
const QOS_1: u8 = 0b010;
const QOS_2: u8 = 0b100;

/// MQTT 5's first reason that is a failure, and the one of them that says that a message sent again is still being
/// handled: that one ends nothing.
const FAILURE: u8 = 0x80;
const PACKET_IDENTIFIER_IN_USE: u8 = 0x91;

/// In the protocol level of CONNECT: a bridge connects.
const BRIDGE: u8 = 0x80;

/// What passed over a connection. `None`: unknown, because what passed was not MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Bytes from the client.
    pub(crate) received_octets: u64,
    /// Whole packets from the client.
    pub(crate) received_packets: Option<u64>,
    /// Bytes to the client.
    pub(crate) sent_octets: u64,
    /// Whole packets to the client.
    pub(crate) sent_packets: Option<u64>,
    /// PUBLISH packets among them, also those that were sent again: from the client, and to it.
    pub(crate) received_messages: Option<u64>,
    pub(crate) sent_messages: Option<u64>,
    /// QoS 2 messages of the client that it has not released.
    pub(crate) awaiting_rel: Option<u64>,
    /// Messages to the client of QoS 1 and 2 that it has not acknowledged to the end. Those that a session brings along
    /// are among them once they, or their release, have been sent over this connection.
    pub(crate) inflight: Option<u64>,
}

/// The counters of one connection.
#[derive(Debug)]
pub(crate) struct Meter {
    from_client: Side,
    to_client: Side,
    awaiting_rel: BTreeSet<u16>,
    inflight: BTreeSet<u16>,
    connect: Option<Connect>,
    is_accepted: bool,
    /// One of both has said that it leaves.
    is_over: bool,
}

/// What CONNECT says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Connect {
    level: u8,
    clientid: Box<[u8]>,
}

#[derive(Debug)]
struct Side {
    octets: u64,
    packets: u64,
    messages: u64,
    reader: Reader,
}

// === impl Connect ===

impl Connect {
    /// Client id, empty if the broker is to make one up.
    pub(crate) fn clientid(&self) -> &[u8] {
        &self.clientid
    }

    /// Whether it says that a bridge connects.
    pub(crate) fn is_bridge(&self) -> bool {
        self.level & BRIDGE != 0
    }
}

// === impl Meter ===

impl Meter {
    pub(crate) fn new() -> Self {
        Self {
            from_client: Side::new(wanted_of_client),
            to_client: Side::new(wanted_of_broker),
            awaiting_rel: BTreeSet::new(),
            inflight: BTreeSet::new(),
            connect: None,
            is_accepted: false,
            is_over: false,
        }
    }

    /// Takes note of what the client sent.
    pub(crate) fn received(&mut self, mut bytes: &[u8]) {
        self.from_client.octets += bytes.len() as u64;
        while let Some(packet) = self.from_client.next(&mut bytes) {
            match packet.kind() {
                CONNECT if self.connect.is_none() => self.connect = packet.connect(),
                PUBLISH => self.awaiting_rel.extend(packet.published_id()),
                PUBREL => packet.forget_in(&mut self.awaiting_rel),
                PUBACK | PUBCOMP => packet.forget_in(&mut self.inflight),
                PUBREC if packet.is_refusal() => packet.forget_in(&mut self.inflight),
                DISCONNECT => self.is_over = true,
                _ => {}
            }
        }
    }

    /// Takes note of what was sent to the client.
    pub(crate) fn sent(&mut self, mut bytes: &[u8]) {
        self.to_client.octets += bytes.len() as u64;
        while let Some(packet) = self.to_client.next(&mut bytes) {
            match packet.kind() {
                CONNACK => self.is_accepted = packet.head.get(1) == Some(&0),
                PUBLISH => self.inflight.extend(packet.published_id()),
                // Of a message that an earlier connection has brought, this one sees no more than that.
                PUBREL => self.inflight.extend(packet.id()),
                PUBREC if packet.is_refusal() => packet.forget_in(&mut self.awaiting_rel),
                DISCONNECT => self.is_over = true,
                _ => {}
            }
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        let [received_packets, sent_packets] = [&self.from_client, &self.to_client].map(Side::packets);
        // Of each message both sides speak.
        let of_both = received_packets.and(sent_packets);
        Counts {
            received_octets: self.from_client.octets,
            received_packets,
            sent_octets: self.to_client.octets,
            sent_packets,
            received_messages: received_packets.map(|_| self.from_client.messages),
            sent_messages: sent_packets.map(|_| self.to_client.messages),
            awaiting_rel: of_both.map(|_| self.awaiting_rel.len() as u64),
            inflight: of_both.map(|_| self.inflight.len() as u64),
        }
    }

    /// What CONNECT said, once it has passed.
    pub(crate) fn connect(&self) -> Option<&Connect> {
        self.connect.as_ref()
    }

    /// The bytes by which an MQTT 5 client is told at this point why its connection ends (section 3.14); `None` if
    /// it would not understand them here, or one of both has said DISCONNECT already.
    pub(crate) fn farewell(&self, reason: u8) -> Option<[u8; 4]> {
        let is_v5 = self.connect.as_ref().is_some_and(|connect| connect.level == 5);
        let fits = is_v5 && self.is_accepted && !self.is_over && self.to_client.is_between_packets();
        fits.then_some([DISCONNECT << 4, 2, reason, 0])
    }
}

// === impl Side ===

impl Side {
    fn new(wanted: Wanted) -> Self {
        Self {
            octets: 0,
            packets: 0,
            messages: 0,
            reader: Reader { state: State::Type, wanted, head: Vec::new(), skip: 0, take: 0 },
        }
    }

    fn next(&mut self, bytes: &mut &[u8]) -> Option<Packet> {
        let packet = self.reader.next(bytes)?;
        self.packets += 1;
        self.messages += u64::from(packet.kind() == PUBLISH);
        Some(packet)
    }

    fn packets(&self) -> Option<u64> {
        (!matches!(self.reader.state, State::Lost)).then_some(self.packets)
    }

    fn is_between_packets(&self) -> bool {
        matches!(self.reader.state, State::Type)
    }
}

/// A packet that has passed: its first byte, and what was kept of its body.
struct Packet {
    first: u8,
    head: Vec<u8>,
}

/// What is to be kept of a packet's body, as far as is known by what has been kept: bytes to leave out, then how
/// long what is kept shall be. It has come to an end when that is as long as it is.
type Wanted = fn(first: u8, kept: &[u8]) -> (u32, usize);

/// Finds where packets begin and end.
#[derive(Debug)]
struct Reader {
    state: State,
    wanted: Wanted,
    /// What is kept of the present packet.
    head: Vec<u8>,
    /// Bytes to leave out before more is kept, and how long `head` shall be.
    skip: u32,
    take: usize,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// A packet's first byte comes.
    Type,
    /// Its length comes.
    Length { first: u8, value: u32, shift: u32 },
    /// So much of its body comes.
    Body { first: u8, left: u32 },
    /// What came was not MQTT.
    Lost,
}

impl Reader {
    /// Takes the bytes up to the end of a packet, or all of them if none ends in them.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<Packet> {
        loop {
            match self.state {
                State::Lost => {
                    *bytes = &[];
                    return None;
                }
                State::Type => {
                    let first = bytes.split_off_first()?;
                    // 0 is no packet.
                    self.state = match first >> 4 {
                        0 => State::Lost,
                        _ => State::Length { first: *first, value: 0, shift: 0 },
                    };
                }
                State::Length { first, value, shift } => {
                    let byte = *bytes.split_off_first()?;
                    let value = value | u32::from(byte & 0x7f) << shift;
                    if byte & 0x80 == 0 {
                        (self.skip, self.take) = (self.wanted)(first, &[]);
                        self.state = State::Body { first, left: value };
                    } else if shift == 21 {
                        // A fifth byte.
                        self.state = State::Lost;
                    } else {
                        self.state = State::Length { first, value, shift: shift + 7 };
                    }
                }
                State::Body { first, left } => {
                    let here = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
                    let (body, rest) = bytes.split_at(here);
                    *bytes = rest;
                    self.keep(first, body);
                    let left = left - u32::try_from(here).unwrap_or(left);
                    if left > 0 {
                        self.state = State::Body { first, left };
                        return None;
                    }
                    self.state = State::Type;
                    return Some(Packet { first, head: std::mem::take(&mut self.head) });
                }
            }
        }
    }

    fn keep(&mut self, first: u8, mut body: &[u8]) {
        while !body.is_empty() && (self.skip > 0 || self.head.len() < self.take) {
            let skipped = usize::try_from(self.skip).map_or(body.len(), |skip| skip.min(body.len()));
            self.skip -= u32::try_from(skipped).unwrap_or(self.skip);
            body = &body[skipped..];
            let kept = (self.take - self.head.len()).min(body.len());
            self.head.extend_from_slice(&body[..kept]);
            body = &body[kept..];
            if self.skip == 0 && self.head.len() == self.take {
                (self.skip, self.take) = (self.wanted)(first, &self.head);
            }
        }
    }
}

// === impl Packet ===

impl Packet {
    fn kind(&self) -> u8 {
        self.first >> 4
    }

    /// The packet id of an acknowledgement.
    fn id(&self) -> Option<u16> {
        u16_at(&self.head, 0)
    }

    /// Has the message that it is about counted no more.
    fn forget_in(&self, messages: &mut BTreeSet<u16>) {
        if let Some(id) = self.id() {
            messages.remove(&id);
        }
    }

    /// Whether a PUBREC ends its message. MQTT 3 has no reasons.
    fn is_refusal(&self) -> bool {
        let reason = self.head.get(2).copied().unwrap_or(0);
        reason >= FAILURE && reason != PACKET_IDENTIFIER_IN_USE
    }

    /// The packet id of a PUBLISH, if it is to be acknowledged and its state kept here: of the client with QoS 2, to it
    /// with QoS 1 and 2. Of another, and of one too short for it, nothing was kept there.
    fn published_id(&self) -> Option<u16> {
        u16_at(&self.head, 2)
    }

    fn connect(&self) -> Option<Connect> {
        connect(&self.head).ok()
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// What is kept of the client's packets.
fn wanted_of_client(first: u8, kept: &[u8]) -> (u32, usize) {
    match (first >> 4, kept.len()) {
        (PUBLISH, length) if first & QOS == QOS_2 => wanted_of_publish(kept, length),
        (CONNECT, length) => connect(kept).err().unwrap_or((0, length)),
        _ => wanted_of_any(first, kept),
    }
}

/// What is kept of the broker's packets.
fn wanted_of_broker(first: u8, kept: &[u8]) -> (u32, usize) {
    match (first >> 4, kept.len()) {
        (PUBLISH, length) if matches!(first & QOS, QOS_1 | QOS_2) => wanted_of_publish(kept, length),
        // Whether a session was present, and the code.
        (CONNACK, 0) => (0, 2),
        _ => wanted_of_any(first, kept),
    }
}

/// The topic's length, and the packet id behind the topic.
fn wanted_of_publish(kept: &[u8], length: usize) -> (u32, usize) {
    match length {
        0 => (0, 2),
        2 => (u32::from(u16_at(kept, 0).unwrap_or_default()), 4),
        _ => (0, length),
    }
}

/// Of acknowledgements the packet id, and where it matters MQTT 5's reason.
fn wanted_of_any(first: u8, kept: &[u8]) -> (u32, usize) {
    match (first >> 4, kept.len()) {
        (PUBACK | PUBREL | PUBCOMP, 0) => (0, 2),
        (PUBREC, 0) => (0, 3),
        (_, length) => (0, length),
    }
}

/// Reads what was kept of CONNECT: all up to the end of the client id but MQTT 5's properties; or says what is to be
/// kept next.
fn connect(kept: &[u8]) -> Result<Connect, (u32, usize)> {
    let more = |length: usize| Err((0, length));
    let Some(name) = u16_at(kept, 0) else { return more(2) };
    // Of no protocol that anybody knows; nothing more is kept.
    if name > 6 {
        return Err((0, kept.len()));
    }
    // The name, level, flags, keep-alive.
    let mut at = 2 + usize::from(name) + 4;
    if kept.len() < at {
        return more(at);
    }
    let level = kept[at - 4];
    if level & !BRIDGE == 5 {
        let (mut properties, mut shift) = (0, 0);
        loop {
            let Some(byte) = kept.get(at) else { return more(at + 1) };
            properties |= u32::from(byte & 0x7f) << shift;
            at += 1;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
            if shift == 28 {
                return Err((0, kept.len()));
            }
        }
        if kept.len() == at {
            return Err((properties, at + 2));
        }
    }
    let Some(length) = u16_at(kept, at) else { return more(at + 2) };
    let end = at + 2 + usize::from(length);
    match kept.get(at + 2..end) {
        Some(clientid) => Ok(Connect { level, clientid: clientid.into() }),
        None => more(end),
    }
}

#[cfg(test)]
mod tests;
