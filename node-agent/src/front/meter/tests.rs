use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn text(text: &[u8]) -> Vec<u8> {
    [&u16::try_from(text.len()).unwrap().to_be_bytes()[..], text].concat()
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut length = body.len();
    loop {
        let low = u8::try_from(length % 128).unwrap();
        length /= 128;
        bytes.push(if length > 0 { low | 0x80 } else { low });
        if length == 0 {
            break;
        }
    }
    bytes.extend(body);
    bytes
}

fn connect_packet(level: u8, properties: &[u8], clientid: &[u8]) -> Vec<u8> {
    let mut body = text(if level & 0x7f == 3 { b"MQIsdp" } else { b"MQTT" });
    body.extend([level, 0b1100_0010, 0, 60]);
    if level & 0x7f == 5 {
        let mut length = properties.len();
        while length > 127 {
            body.push(u8::try_from(length % 128).unwrap() | 0x80);
            length /= 128;
        }
        body.push(u8::try_from(length).unwrap());
        body.extend(properties);
    }
    body.extend(text(clientid));
    body.extend(text(b"somebody"));
    body.extend(text(b"secret"));
    packet(0x10, &body)
}

fn publish(flags: u8, topic: &[u8], id: u16, payload: &[u8]) -> Vec<u8> {
    let mut body = text(topic);
    if flags & 0b110 != 0 {
        body.extend(id.to_be_bytes());
    }
    body.extend(payload);
    packet(0x30 | flags, &body)
}

fn counts(meter: &Meter) -> (Option<u64>, Option<u64>, Option<u64>) {
    let Counts { received_packets, sent_packets, awaiting_rel, .. } = meter.counts();
    (received_packets, sent_packets, awaiting_rel)
}

#[test]
fn qos_2_messages_await_their_release() {
    let mut meter = Meter::new();
    meter.received(&connect_packet(5, &[], b"c"));
    meter.sent(&[0x20, 3, 0, 0, 0]);
    for (id, flags) in [(1, 0b100), (2, 0b100), (2, 0b1100), (3, 0b101), (4, 0b010), (5, 0)] {
        meter.received(&publish(flags, b"a/b", id, b"payload"));
    }
    assert_eq!(counts(&meter), (Some(7), Some(1), Some(3)), "1, 2 and 3; 2 came twice");
    // Received, received, sent again too early, refused.
    meter.sent(&packet(0x50, &[0, 1]));
    meter.sent(&packet(0x50, &[0, 2, 0x10]));
    meter.sent(&packet(0x50, &[0, 2, 0x91]));
    assert_eq!(counts(&meter).2, Some(3));
    meter.sent(&packet(0x50, &[0, 3, 0x97, 0]));
    assert_eq!(counts(&meter).2, Some(2));
    meter.received(&packet(0x62, &[0, 1]));
    meter.received(&packet(0x62, &[0, 9]));
    assert_eq!(counts(&meter), (Some(9), Some(5), Some(1)));
}

#[test]
fn messages_to_the_client_are_in_flight_until_it_has_acknowledged_them_to_the_end() {
    let mut meter = Meter::new();
    meter.received(&connect_packet(5, &[], b"c"));
    meter.sent(&[0x20, 3, 1, 0, 0]);
    let state = |meter: &Meter| {
        let Counts { received_messages, sent_messages, inflight, .. } = meter.counts();
        (received_messages.unwrap(), sent_messages.unwrap(), inflight.unwrap())
    };
    for (id, flags) in [(1, 0b010), (2, 0b100), (3, 0b100), (4, 0b010), (1, 0b1010), (9, 0), (8, 0b110)] {
        meter.sent(&publish(flags, b"a/b", id, b"payload"));
    }
    assert_eq!(state(&meter), (0, 7, 4), "1 was sent twice; QoS 0 is not acknowledged, QoS 3 is none");
    meter.received(&packet(0x40, &[0, 1]));
    meter.received(&packet(0x50, &[0, 2]));
    meter.received(&packet(0x50, &[0, 3, 0x97]));
    assert_eq!(
        state(&meter).2,
        2,
        "1 acknowledged, 3 refused; 2 is to be released yet, 4 to be acknowledged"
    );
    meter.sent(&packet(0x62, &[0, 2]));
    assert_eq!(state(&meter).2, 2);
    // Of a message of the session's before this connection only the release is sent.
    meter.sent(&packet(0x62, &[0, 77]));
    assert_eq!(state(&meter).2, 3);
    for id in [2, 77, 5] {
        meter.received(&packet(0x70, &[0, id]));
    }
    meter.received(&packet(0x40, &[0, 4, 0x10]));
    assert_eq!(state(&meter), (0, 7, 0));
    // The client's own messages have ids of their own.
    meter.sent(&publish(0b010, b"t", 6, b""));
    for flags in [0, 0b010, 0b100, 0b1100] {
        meter.received(&publish(flags, b"t", 6, b""));
    }
    meter.sent(&packet(0x40, &[0, 6]));
    assert_eq!((state(&meter), counts(&meter).2), ((4, 8, 1), Some(1)));
}

#[test]
fn connect_is_read_as_far_as_the_client_id() {
    for level in [3, 4, 5, 0x83, 0x84] {
        for properties in [&b""[..], &[0x11, 0, 0, 1, 0], &[0x26; 300]] {
            for clientid in [&b""[..], b"c", "später".as_bytes(), &[b'x'; 65535]] {
                let bytes = connect_packet(level, properties, clientid);
                for step in [1, 7, bytes.len()] {
                    let mut meter = Meter::new();
                    for piece in bytes[..bytes.len() - 1].chunks(step) {
                        meter.received(piece);
                        let head = &meter.from_client.reader.head;
                        assert!(
                            !head.ends_with(b"secret") && head.len() <= 18 + clientid.len(),
                            "kept: {head:?}"
                        );
                    }
                    assert_eq!(meter.connect(), None, "not all of it has come");
                    meter.received(&bytes[bytes.len() - 1..]);
                    let connect = meter.connect().unwrap();
                    assert_eq!((connect.level, connect.clientid()), (level, clientid));
                    assert_eq!(connect.is_bridge(), level > 0x80);
                }
            }
        }
    }
    for body in [
        &b""[..],
        b"\0",
        b"\0\x04MQTT\x04\x02\0",
        b"\0\x04MQTT\x04\x02\0\x3c\0\x05abcd",
        b"\xff\xff",
        b"\0\x04MQTT\x05\x02\0\x3c\xff\xff\xff\xff\xff",
    ] {
        let mut meter = Meter::new();
        meter.received(&packet(0x10, body));
        assert_eq!((meter.connect(), counts(&meter).0), (None, Some(1)), "{body:?}");
    }
}

#[test]
fn a_farewell_is_for_clients_that_understand_it_and_never_within_a_packet() {
    let farewell = |level, connack: &[u8], from_client: &[u8], to_client: &[u8]| {
        let mut meter = Meter::new();
        meter.received(&connect_packet(level, &[], b"c"));
        meter.sent(connack);
        meter.received(from_client);
        meter.sent(to_client);
        meter.farewell(0x98)
    };
    let (accepted, refused) = (&[0x20, 3, 0, 0, 0][..], &[0x20, 3, 0, 0x87, 0][..]);
    let message = publish(0, b"t", 0, b"payload");
    assert_eq!(farewell(5, accepted, b"", b""), Some([0xe0, 2, 0x98, 0]));
    assert_eq!(farewell(5, accepted, &message[..3], &message), Some([0xe0, 2, 0x98, 0]));
    for cut in 1..message.len() {
        assert_eq!(farewell(5, accepted, b"", &message[..cut]), None, "after {cut} bytes of a packet");
    }
    assert_eq!(farewell(4, &[0x20, 2, 0, 0], b"", b""), None, "MQTT 3 has no such packet");
    assert_eq!(farewell(5, refused, b"", b""), None);
    assert_eq!(farewell(5, b"", b"", b""), None, "before CONNACK");
    assert_eq!(farewell(5, accepted, &[0xe0, 0], b""), None, "the client has left");
    assert_eq!(farewell(5, accepted, b"", &[0xe0, 2, 0x8e, 0]), None, "the broker has said why");
    assert_eq!(farewell(5, accepted, b"", &[0]), None, "lost");
}

#[test]
fn a_length_of_five_bytes_and_a_packet_of_type_0_end_the_counting() {
    for broken in [&[0x30, 0xff, 0xff, 0xff, 0xff][..], &[0x30, 0x80, 0x80, 0x80, 0x80, 0], &[0x0f, 0]] {
        let mut meter = Meter::new();
        meter.received(&[0xc0, 0]);
        meter.received(broken);
        meter.received(&[0xc0, 0]);
        meter.sent(&[0xd0, 0]);
        assert_eq!(counts(&meter), (None, Some(1), None), "{broken:?}");
        assert_eq!(meter.counts().received_octets, broken.len() as u64 + 4);
    }
}

#[test]
fn a_packet_of_256_mib_is_one_packet_when_it_has_come() {
    const LENGTH: usize = 268_435_455;
    let mut meter = Meter::new();
    meter.received(&[0x34, 0xff, 0xff, 0xff, 0x7f]);
    meter.received(&[0, 1, b't', 0, 7]);
    let piece = vec![0; 1 << 20];
    let mut left = LENGTH - 5;
    while left > 0 {
        assert_eq!(counts(&meter).0, Some(0));
        let here = left.min(piece.len());
        meter.received(&piece[..here]);
        left -= here;
    }
    assert_eq!(counts(&meter), (Some(1), Some(0), Some(1)));
    assert_eq!(meter.counts().received_octets, LENGTH as u64 + 5);
    meter.received(&[0x62, 2, 0, 7]);
    assert_eq!(counts(&meter), (Some(2), Some(0), Some(0)));
}

/// A packet from the client or to it.
fn any_packet() -> impl Strategy<Value = (bool, Vec<u8>)> {
    let id = 1_u16..6;
    let acknowledgement = prop::sample::select(vec![0x40, 0x50, 0x62, 0x70]);
    prop_oneof![
        (any::<bool>(), 0_u8..8, vec(any::<u8>(), 0..200), id.clone(), vec(any::<u8>(), 0..300))
            .prop_map(|(side, flags, topic, id, payload)| (side, publish(flags, &topic, id, &payload))),
        (any::<bool>(), acknowledgement, id, any::<Option<u8>>()).prop_map(|(side, first, id, reason)| (
            side,
            packet(first, &id.to_be_bytes().into_iter().chain(reason).collect::<Vec<_>>())
        )),
        // Too short for an id.
        (
            any::<bool>(),
            prop::sample::select(vec![0x32, 0x34, 0x40, 0x50, 0x62, 0x70]),
            vec(any::<u8>(), 0..2)
        )
            .prop_map(|(side, first, body)| (side, packet(first, &body))),
        (prop::sample::select(vec![3, 4, 5, 0x84]), vec(any::<u8>(), 0..300), vec(any::<u8>(), 0..300))
            .prop_map(|(level, properties, clientid)| (true, connect_packet(level, &properties, &clientid))),
        (any::<bool>(), 16_u8.., vec(any::<u8>(), 0..300))
            .prop_filter("read by the model only", |(_, first, _)| !matches!(first >> 4, 1..=7 | 14))
            .prop_map(|(side, first, body)| (side, packet(first, &body))),
    ]
}

/// What whole packets count.
#[derive(Default)]
struct Model {
    /// From the client, and to it.
    packets: [u64; 2],
    messages: [u64; 2],
    octets: [u64; 2],
    awaiting_rel: BTreeSet<u16>,
    inflight: BTreeSet<u16>,
}

/// Reads whole packets in the plainest way.
fn model(packets: &[(bool, Vec<u8>)]) -> Model {
    let mut model = Model::default();
    for (from_client, bytes) in packets {
        let side = usize::from(!from_client);
        model.packets[side] += 1;
        model.octets[side] += bytes.len() as u64;
        let header = bytes.iter().skip(1).position(|byte| byte & 0x80 == 0).unwrap() + 2;
        let (kind, qos, body) = (bytes[0] >> 4, bytes[0] >> 1 & 3, &bytes[header..]);
        let number = |at: usize| body.get(at..at + 2).map(|id| u16::from(id[0]) << 8 | u16::from(id[1]));
        model.messages[side] += u64::from(kind == 3);
        if kind == 3 {
            let id = number(0).and_then(|topic| number(2 + usize::from(topic)));
            match (from_client, qos) {
                (true, 2) => model.awaiting_rel.extend(id),
                (false, 1 | 2) => model.inflight.extend(id),
                _ => {}
            }
            continue;
        }
        let Some(id) = number(0) else { continue };
        let is_refused = body.get(2).is_some_and(|reason| *reason >= 0x80 && *reason != 0x91);
        match (from_client, kind) {
            (true, 6) => _ = model.awaiting_rel.remove(&id),
            (false, 5) if is_refused => _ = model.awaiting_rel.remove(&id),
            (true, 4 | 7) => _ = model.inflight.remove(&id),
            (true, 5) if is_refused => _ = model.inflight.remove(&id),
            (false, 6) => _ = model.inflight.insert(id),
            _ => {}
        }
    }
    model
}

proptest! {
    #[test]
    fn pieces_of_any_size_count_as_whole_packets_do(
        packets in vec(any_packet(), 1..40),
        cuts in vec(1_usize..70, 1..30),
    ) {
        let mut pieces = Meter::new();
        let mut cuts = cuts.into_iter().cycle();
        // Each direction on its own is cut anywhere, across packets; between the two the order of packets stays.
        let (mut held, mut side) = (Vec::new(), true);
        let mut feed = |side: bool, bytes: &[u8]| {
            let mut rest = bytes;
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(cuts.next().unwrap().min(rest.len()));
                if side { pieces.received(piece) } else { pieces.sent(piece) }
                rest = after;
            }
        };
        for (from_client, bytes) in &packets {
            if *from_client != side {
                feed(side, &std::mem::take(&mut held));
                side = *from_client;
            }
            held.extend(bytes);
        }
        feed(side, &held);
        let whole = model(&packets);
        prop_assert_eq!(pieces.counts(), Counts {
            received_octets: whole.octets[0],
            received_packets: Some(whole.packets[0]),
            sent_octets: whole.octets[1],
            sent_packets: Some(whole.packets[1]),
            received_messages: Some(whole.messages[0]),
            sent_messages: Some(whole.messages[1]),
            awaiting_rel: Some(whole.awaiting_rel.len() as u64),
            inflight: Some(whole.inflight.len() as u64),
        });
        prop_assert_eq!((&pieces.awaiting_rel, &pieces.inflight), (&whole.awaiting_rel, &whole.inflight));
    }

    #[test]
    fn bytes_of_any_kind_are_counted_and_cut_anywhere_count_the_same(
        bytes in vec(any::<u8>(), 0..600),
        cut in 1_usize..50,
    ) {
        let (mut whole, mut pieces) = (Meter::new(), Meter::new());
        whole.received(&bytes);
        whole.sent(&bytes);
        bytes.chunks(cut).for_each(|piece| pieces.received(piece));
        bytes.chunks(cut).for_each(|piece| pieces.sent(piece));
        prop_assert_eq!(whole.counts(), pieces.counts());
        prop_assert_eq!(whole.connect(), pieces.connect());
        prop_assert_eq!(whole.counts().received_octets, bytes.len() as u64);
        prop_assert!(pieces.from_client.reader.head.len() <= 65535 + 20);
    }
}
