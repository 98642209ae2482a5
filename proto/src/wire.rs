//! Rows read straight from the bytes they came in, and written in one pass ([`write_list`], [`write_client`]).
//!
//! A page is made of some hundred rows, an export of millions. Read as messages of their own ([`Client`](crate::v1::Client))
//! each would cost a handful of allocations and be moved about with all its fields; read here it is a view on the bytes,
//! checked as strictly: what prost refuses is refused, what it accepts reads the same. Tests hold the two side by side.

use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use thiserror::Error;

use crate::v1::{ConnState, Identity, Statistics};
use crate::{ClientRef, address};

mod write;

pub use self::write::{write_client, write_list};

/// Bytes that are not the message they should be.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Malformed {
    /// Not of protobuf's form.
    #[error("malformed message: {0}")]
    Form(#[from] DecodeError),
    /// A field's wire type is not its own.
    #[error("malformed message: field {0} is of another type")]
    Type(u32),
    /// A field ends behind its message.
    #[error("malformed message: field {0} is cut off")]
    CutOff(u32),
    /// A text is not UTF-8.
    #[error("malformed message: field {0} is not UTF-8")]
    Text(u32),
}

/// A row as it came: identity and live figures.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct WireRow<'a> {
    /// Its node is empty where the wire leaves it out.
    pub client: ClientRef<'a>,
    /// All absent where none were sent.
    pub statistics: Statistics,
}

/// What a `ListResponse` says beside its rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ListHead {
    /// As the message.
    pub identity: Option<Identity>,
    /// As the message.
    pub count: u64,
    /// As the message.
    pub first: u64,
    /// As the message.
    pub start: u64,
}

/// Reads a `ListResponse`, giving each row to `take` as it comes.
///
/// # Errors
/// [`Malformed`], or what `take` gave, which ends the reading.
pub fn read_list<'a, E: From<Malformed>>(
    message: &'a [u8],
    mut take: impl FnMut(&WireRow<'a>) -> Result<(), E>,
) -> Result<ListHead, E> {
    let mut head = ListHead::default();
    let mut fields = Fields(message);
    while let Some(field) = fields.next()? {
        match field.tag {
            1 => {
                let bytes = fields.bytes(field)?;
                let identity = head.identity.get_or_insert_default();
                prost::Message::merge(identity, bytes).map_err(Malformed::Form)?;
            }
            2 => head.count = fields.number(field)?,
            3 => {
                // Filled in place: a row is some 500 bytes.
                let mut row = WireRow::default();
                fill(fields.bytes(field)?, &mut row)?;
                take(&row)?;
            }
            4 => head.first = fields.number(field)?,
            5 => head.start = fields.number(field)?,
            _ => fields.skip(field)?,
        }
    }
    Ok(head)
}

/// Reads a `Client`.
///
/// # Errors
/// [`Malformed`].
pub fn read_client(message: &[u8]) -> Result<WireRow<'_>, Malformed> {
    let mut row = WireRow::default();
    fill(message, &mut row)?;
    Ok(row)
}

/// The clientid of a `Client`; what stands behind it is not looked at.
///
/// # Errors
/// [`Malformed`] up to there.
pub fn clientid_of(message: &[u8]) -> Result<&str, Malformed> {
    let mut fields = Fields(message);
    while let Some(field) = fields.next()? {
        match field.tag {
            2 => return fields.text(field),
            _ => fields.skip(field)?,
        }
    }
    Ok("")
}

/// Reads a `Client` into an empty row.
fn fill<'a>(message: &'a [u8], row: &mut WireRow<'a>) -> Result<(), Malformed> {
    let client = &mut row.client;
    let mut fields = Fields(message);
    while let Some(field) = fields.next()? {
        match field.tag {
            1 => client.node = fields.text(field)?,
            2 => client.clientid = fields.text(field)?,
            3 => client.session = fields.number(field)?,
            4 => client.username = Some(fields.text(field)?),
            5 => client.zone = Some(fields.text(field)?),
            6 => client.proto_name = Some(fields.text(field)?),
            7 => client.proto_ver = Some(fields.number_32(field)?),
            8 => client.ip_address = address::from_wire(fields.bytes(field)?),
            9 => client.port = Some(fields.number_32(field)?),
            10 => client.is_bridge = Some(fields.flag(field)?),
            11 => client.mountpoint = Some(fields.text(field)?),
            12 => client.keepalive = Some(fields.number_32(field)?),
            13 => client.clean_start = Some(fields.flag(field)?),
            14 => client.expiry_interval = Some(fields.number_32(field)?),
            15 => {
                // An unknown state reads as unspecified; the cast is what the encoding of an enumeration is.
                let number = fields.number(field)? as i32;
                client.conn_state = ConnState::try_from(number).unwrap_or_default();
            }
            16 => client.connected_at_ms = Some(fields.number(field)? as i64),
            17 => client.disconnected_at_ms = Some(fields.number(field)? as i64),
            18 => client.created_at_ms = Some(fields.number(field)? as i64),
            19 => read_statistics(fields.bytes(field)?, &mut row.statistics)?,
            _ => fields.skip(field)?,
        }
    }
    Ok(())
}

fn read_statistics(message: &[u8], statistics: &mut Statistics) -> Result<(), Malformed> {
    let mut fields = Fields(message);
    while let Some(field) = fields.next()? {
        let figure = match field.tag {
            1 => &mut statistics.subscriptions_cnt,
            2 => &mut statistics.max_subscriptions,
            3 => &mut statistics.inflight,
            4 => &mut statistics.max_inflight,
            5 => &mut statistics.mqueue_len,
            6 => &mut statistics.max_mqueue,
            7 => &mut statistics.mqueue_dropped,
            8 => &mut statistics.awaiting_rel,
            9 => &mut statistics.max_awaiting_rel,
            10 => &mut statistics.recv_oct,
            11 => &mut statistics.recv_cnt,
            12 => &mut statistics.recv_pkt,
            13 => &mut statistics.recv_msg,
            14 => &mut statistics.send_oct,
            15 => &mut statistics.send_cnt,
            16 => &mut statistics.send_pkt,
            17 => &mut statistics.send_msg,
            18 => &mut statistics.mailbox_len,
            19 => &mut statistics.heap_size,
            20 => &mut statistics.reductions,
            _ => {
                fields.skip(field)?;
                continue;
            }
        };
        *figure = Some(fields.number(field)?);
    }
    Ok(())
}

/// A field's number and the form its value has.
#[derive(Clone, Copy)]
struct Field {
    tag: u32,
    wire_type: WireType,
}

/// What is left of a message. A value is read by the method of its type.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The next field, `None` at the message's end.
    #[inline]
    fn next(&mut self) -> Result<Option<Field>, Malformed> {
        let (tag, wire_type) = match *self.0 {
            [] => return Ok(None),
            // The common keys: one byte, a number or something with a length.
            [key @ 8..0x80, ref left @ ..] if key & 7 == 0 || key & 7 == 2 => {
                self.0 = left;
                let wire_type = if key & 7 == 0 { WireType::Varint } else { WireType::LengthDelimited };
                (u32::from(key >> 3), wire_type)
            }
            _ => decode_key(&mut self.0)?,
        };
        Ok(Some(Field { tag, wire_type }))
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, Malformed> {
        match *self.0 {
            [a @ ..0x80, ref left @ ..] => {
                self.0 = left;
                Ok(a.into())
            }
            [a, b @ ..0x80, ref left @ ..] => {
                self.0 = left;
                Ok(u64::from(a & 0x7f) | u64::from(b) << 7)
            }
            _ => Ok(decode_varint(&mut self.0)?),
        }
    }

    #[inline]
    fn number(&mut self, field: Field) -> Result<u64, Malformed> {
        if field.wire_type != WireType::Varint {
            return Err(Malformed::Type(field.tag));
        }
        self.varint()
    }

    /// Of longer numbers the low half counts, as protobuf has it.
    #[inline]
    fn number_32(&mut self, field: Field) -> Result<u32, Malformed> {
        self.number(field).map(|number| number as u32)
    }

    #[inline]
    fn flag(&mut self, field: Field) -> Result<bool, Malformed> {
        self.number(field).map(|number| number != 0)
    }

    #[inline]
    fn bytes(&mut self, field: Field) -> Result<&'a [u8], Malformed> {
        if field.wire_type != WireType::LengthDelimited {
            return Err(Malformed::Type(field.tag));
        }
        let length = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
        let (bytes, left) = self.0.split_at_checked(length).ok_or(Malformed::CutOff(field.tag))?;
        self.0 = left;
        Ok(bytes)
    }

    #[inline]
    fn text(&mut self, field: Field) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes(field)?).map_err(|_| Malformed::Text(field.tag))
    }

    #[cold]
    fn skip(&mut self, field: Field) -> Result<(), Malformed> {
        Ok(skip_field(field.wire_type, field.tag, &mut self.0, DecodeContext::default())?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::v1::{Client, ListResponse};

    fn figure() -> impl Strategy<Value = Option<u64>> {
        proptest::option::of(prop_oneof![0..300_u64, any::<u64>()])
    }

    fn statistics() -> impl Strategy<Value = Option<Statistics>> {
        proptest::option::of(proptest::collection::vec(figure(), 20).prop_map(|of| Statistics {
            subscriptions_cnt: of[0],
            max_subscriptions: of[1],
            inflight: of[2],
            max_inflight: of[3],
            mqueue_len: of[4],
            max_mqueue: of[5],
            mqueue_dropped: of[6],
            awaiting_rel: of[7],
            max_awaiting_rel: of[8],
            recv_oct: of[9],
            recv_cnt: of[10],
            recv_pkt: of[11],
            recv_msg: of[12],
            send_oct: of[13],
            send_cnt: of[14],
            send_pkt: of[15],
            send_msg: of[16],
            mailbox_len: of[17],
            heap_size: of[18],
            reductions: of[19],
        }))
    }

    fn client() -> impl Strategy<Value = Client> {
        let text = || proptest::option::of("[a-zü\u{0}\"]{0,9}");
        let number = || proptest::option::of(any::<u32>());
        let time = || proptest::option::of(any::<i64>());
        let flag = || proptest::option::of(any::<bool>());
        let texts = ("[ab]{0,2}", ".{0,9}", text(), text(), text(), text());
        let numbers = (any::<u64>(), number(), number(), number(), number());
        let others = (flag(), flag(), -1..5_i32, proptest::collection::vec(any::<u8>(), 0..17));
        (texts, numbers, others, time(), time(), time(), statistics()).prop_map(
            |(texts, numbers, others, connected_at_ms, disconnected_at_ms, created_at_ms, statistics)| {
                let (node, clientid, username, zone, proto_name, mountpoint) = texts;
                let (session, proto_ver, port, keepalive, expiry_interval) = numbers;
                let (is_bridge, clean_start, conn_state, ip_address) = others;
                Client {
                    node,
                    clientid,
                    session,
                    username,
                    zone,
                    proto_name,
                    proto_ver,
                    ip_address,
                    port,
                    is_bridge,
                    mountpoint,
                    keepalive,
                    clean_start,
                    expiry_interval,
                    conn_state,
                    connected_at_ms,
                    disconnected_at_ms,
                    created_at_ms,
                    statistics,
                }
            },
        )
    }

    pub(super) fn response() -> impl Strategy<Value = ListResponse> {
        let identity = proptest::option::of(("[ab]{0,3}", any::<u64>()));
        (identity, 0..500_u64, proptest::collection::vec(client(), 0..4), 0..500_u64, 0..500_u64).prop_map(
            |(identity, count, clients, first, start)| ListResponse {
                identity: identity.map(|(name, incarnation)| Identity { name, incarnation }),
                count,
                clients,
                first,
                start,
            },
        )
    }

    /// Both ways of reading some bytes, in one form.
    fn read_both(bytes: &[u8]) -> (Option<ListResponse>, Option<(ListHead, Vec<String>)>) {
        let mut rows = Vec::new();
        let head = read_list(bytes, |row| {
            rows.push(format!("{row:?}"));
            Ok::<_, Malformed>(())
        });
        (ListResponse::decode(bytes).ok(), head.ok().map(|head| (head, rows)))
    }

    fn assert_alike(bytes: &[u8]) -> Result<(), TestCaseError> {
        let (expected, read) = read_both(bytes);
        let expected = expected.map(|message| {
            let rows = message.clients.iter().map(|client| {
                let statistics = client.statistics.unwrap_or_default();
                let client = ClientRef { statistics: None, ..client.as_client_ref() };
                format!("{:?}", WireRow { client, statistics })
            });
            let rows = rows.collect::<Vec<_>>();
            let ListResponse { identity, count, first, start, .. } = message;
            (ListHead { identity, count, first, start }, rows)
        });
        prop_assert_eq!(read, expected);
        Ok(())
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(response in response()) {
            let bytes = response.encode_to_vec();
            prop_assert!(read_both(&bytes).1.is_some());
            assert_alike(&bytes)?;
        }

        #[test]
        fn spoiled_bytes_are_refused_or_read_as_prost_reads_them(
            response in response(),
            spoilt in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
            cut in proptest::option::of(any::<proptest::sample::Index>()),
        ) {
            let mut bytes = response.encode_to_vec();
            prop_assume!(!bytes.is_empty());
            for (at, byte) in spoilt {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            assert_alike(&bytes)?;
        }

        #[test]
        fn fields_in_any_order_and_twice_read_as_prost_reads_them(first in response(), second in response()) {
            let mut bytes = second.encode_to_vec();
            bytes.extend(first.encode_to_vec());
            // A row of two rows' fields: what stands twice is what it was last.
            let both: Vec<u8> =
                first.clients.iter().chain(&second.clients).flat_map(Message::encode_to_vec).collect();
            prost::encoding::bytes::encode(3, &both, &mut bytes);
            assert_alike(&bytes)?;
        }
    }
}
