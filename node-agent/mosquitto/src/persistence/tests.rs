use std::io::Cursor;

use proptest::prelude::*;

use super::*;

fn head(version: u32) -> Vec<u8> {
    [&MAGIC[..], &[0; 4], &version.to_be_bytes()].concat()
}

fn chunk(kind: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap();
    [&kind.to_be_bytes()[..], &length.to_be_bytes(), body].concat()
}

fn length(text: &str) -> [u8; 2] {
    u16::try_from(text.len()).unwrap().to_be_bytes()
}

fn client(version: u32, expires_at: i64, interval: u32, id: &str, user: &str) -> Vec<u8> {
    let mut body = [&expires_at.to_ne_bytes()[..], &interval.to_be_bytes(), &[0, 7], &length(id)].concat();
    if version == 6 {
        body.extend([&[0x07, 0x5b][..], &length(user), &[0; 4]].concat());
        body.extend(id.bytes().chain(user.bytes()));
    } else {
        body.extend(id.bytes());
    }
    chunk(CHUNK_CLIENT, &body)
}

fn subscription(id: &str, topic: &str) -> Vec<u8> {
    let body = [&[0; 4][..], &length(id), &length(topic), &[1, 0, 0, 0], id.as_bytes(), topic.as_bytes()];
    chunk(CHUNK_SUBSCRIPTION, &body.concat())
}

fn message(id: &str, rest: usize) -> Vec<u8> {
    let body = [&[0; 10][..], &length(id), &[1, 2, 0, 1], id.as_bytes(), &vec![b'x'; rest]];
    chunk(CHUNK_CLIENT_MESSAGE, &body.concat())
}

fn sessions(parts: &[Vec<u8>]) -> Result<BTreeMap<String, Stored>, String> {
    read_chunks(Cursor::new(parts.concat())).map_err(|error| error.to_string())
}

#[test]
fn sessions_are_found_between_messages_of_any_size() {
    for version in VERSIONS {
        let read = sessions(&[
            head(version),
            chunk(1, &[0; 16]),
            chunk(2, &vec![b'm'; 3_000_000]),
            client(version, 1_700_000_000, 60, "one", "ada"),
            message("one", 10),
            message("one", LONGEST as usize),
            client(version, 0, NEVER, "zwei ü", ""),
            chunk(4, &[0; 8]),
            chunk(99, b"of a later version"),
            subscription("one", "a/b"),
            subscription("one", "a/#"),
            subscription("three", "x"),
            message("four", 0),
        ]);
        let read = read.unwrap();
        let one = Stored { expiry_interval: 60, expires_at: 1_700_000_000, subscriptions: 2 };
        assert_eq!(read["one"], one);
        assert_eq!(read["zwei ü"], Stored { expiry_interval: NEVER, ..Stored::default() });
        assert_eq!(read["three"].subscriptions, 1);
        assert_eq!(read.keys().collect::<Vec<_>>(), ["four", "one", "three", "zwei ü"]);
    }
}

#[test]
fn a_session_may_be_over_when_its_time_has_passed_since_it_was_loaded() {
    let stored = |expiry_interval, expires_at| Stored { expiry_interval, expires_at, ..Stored::default() };
    assert_eq!(stored(60, 5_000).may_be_over_at_ms(1_000_000), Some(5_000_000));
    assert_eq!(stored(60, 0).may_be_over_at_ms(1_000_000), Some(1_060_000));
    assert_eq!(stored(0, 0).may_be_over_at_ms(1_000_000), Some(1_000_000));
    assert_eq!(stored(NEVER, 0).may_be_over_at_ms(1_000_000), None);
}

#[test]
fn what_is_not_understood_is_said_and_what_is_not_there_holds_no_sessions() {
    assert_eq!(sessions(&[]), Ok(BTreeMap::new()));
    assert_eq!(read(Path::new("/nowhere/mosquitto.db")).unwrap(), BTreeMap::new());
    assert!(sessions(&[b"SQLite format 3".to_vec()]).unwrap_err().contains("no file of mosquitto's"));
    assert!(sessions(&[head(4)]).unwrap_err().contains("version 4, expected 5 or 6"));
    let whole = client(6, 0, 1, "one", "ada");
    for cut in [whole.len() - 1, 9] {
        sessions(&[head(6), whole[..cut].to_vec()]).unwrap_err();
    }
    assert!(sessions(&[head(6), chunk(CHUNK_CLIENT, &[0, 0])]).unwrap_err().contains("ends too early"));
    let long = chunk(CHUNK_SUBSCRIPTION, &[&[0; 4][..], &[0xff, 0xff], &[0; 6]].concat());
    assert!(sessions(&[head(6), long]).unwrap_err().contains("behind its chunk"));
    assert!(
        sessions(&[head(6), [5, 0x7fff_ffff_u32].map(u32::to_be_bytes).concat()])
            .unwrap_err()
            .contains("bytes")
    );
}

proptest! {
    #[test]
    fn nothing_in_a_file_makes_it_panic(rest in prop::collection::vec(any::<u8>(), 0..300), version in 0_u32..8) {
        let _ = sessions(&[head(version), rest.clone()]);
        let kinds = [CHUNK_CLIENT, CHUNK_SUBSCRIPTION, CHUNK_CLIENT_MESSAGE];
        let _ = sessions(&[head(version), kinds.map(|kind| chunk(kind, &rest)).concat()]);
        let _ = sessions(&[rest]);
    }
}
