use super::*;

/// A client with a connection, whose session is persistent or not.
fn online(clientid: &str, connection: &str, at: i64, is_persistent: bool) -> Seen<()> {
    let client = Client {
        clientid: clientid.to_owned(),
        zone: Some("z".to_owned()),
        username: Some("u".to_owned()),
        conn_state: ConnState::Connected.into(),
        connected_at_ms: Some(at),
        created_at_ms: Some(at),
        ..Client::default()
    };
    Seen { client, connection: Some(connection.to_owned()), is_persistent, extra: () }
}

fn offline(clientid: &str) -> Seen<()> {
    let client = Client {
        clientid: clientid.to_owned(),
        zone: Some("z".to_owned()),
        conn_state: ConnState::Disconnected.into(),
        ..Client::default()
    };
    Seen { client, connection: None, is_persistent: true, extra: () }
}

/// What a look says, sorted, as `+clientid number` and `-clientid number`.
fn take(sessions: &mut Sessions<()>, seen: Vec<Seen<()>>) -> Vec<String> {
    take_since(sessions, Instant::now(), seen)
}

fn take_since(sessions: &mut Sessions<()>, started: Instant, seen: Vec<Seen<()>>) -> Vec<String> {
    let mut told: Vec<String> = sessions.take(started, seen, 1_000).iter().map(word).collect();
    told.sort();
    told
}

fn word(change: &ClientChange) -> String {
    match change {
        ClientChange::Present(client) => format!("+{} {}", client.clientid, client.session),
        ClientChange::Ended(session) => format!("-{} {}", session.clientid, session.session),
        other => panic!("{other:?}"),
    }
}

#[test]
fn only_what_is_different_is_told() {
    let mut sessions = Sessions::default();
    assert_eq!(take(&mut sessions, vec![online("a", "1", 5, false)]), ["+a 1"]);
    assert_eq!(take(&mut sessions, vec![online("a", "1", 5, false)]), [] as [&str; 0]);
    let both = vec![online("a", "1", 5, false), online("b", "2", 6, true)];
    assert_eq!(take(&mut sessions, both), ["+b 2"]);
    assert_eq!(take(&mut sessions, vec![online("b", "2", 6, true)]), ["-a 1"]);
    assert_eq!(sessions.clients().len(), 1);
    assert_eq!(take(&mut sessions, vec![]), ["-b 2"]);
    assert!(sessions.places.is_empty());
}

#[test]
fn a_session_goes_on_with_its_connection_or_because_it_is_persistent() {
    for (second, expected) in [
        (online("c", "1", 5, false), vec![]),
        (online("c", "1", 5, true), vec![]),
        (online("c", "2", 9, true), vec!["+c 1"]),
        (online("c", "2", 9, false), vec!["+c 2", "-c 1"]),
        (offline("c"), vec!["+c 1"]),
    ] {
        let mut sessions = Sessions::default();
        take(&mut sessions, vec![online("c", "1", 5, true)]);
        assert_eq!(take(&mut sessions, vec![second.clone()]), expected, "{second:?}");
    }
    // One that was not persistent does not go on under another connection.
    let mut sessions = Sessions::default();
    take(&mut sessions, vec![online("c", "1", 5, false)]);
    assert_eq!(take(&mut sessions, vec![online("c", "2", 5, true)]), ["+c 2", "-c 1"]);
}

#[test]
fn an_offline_session_keeps_what_was_known_of_its_client() {
    let mut sessions = Sessions::default();
    take(&mut sessions, vec![online("c", "1", 5, true)]);
    take(&mut sessions, vec![offline("c")]);
    let client = sessions.clients().remove(0);
    assert_eq!(client.username.as_deref(), Some("u"));
    assert_eq!(client.conn_state(), ConnState::Disconnected);
    assert_eq!((client.connected_at_ms, client.disconnected_at_ms), (Some(5), Some(1_000)));
    // The time does not move while it stays offline, and goes when it is back.
    assert_eq!(sessions.take(Instant::now(), vec![offline("c")], 2_000).len(), 0);
    take(&mut sessions, vec![online("c", "2", 9, true)]);
    let client = sessions.clients().remove(0);
    assert_eq!((client.connected_at_ms, client.disconnected_at_ms), (Some(9), None));
    assert_eq!(client.created_at_ms, Some(5), "it is as old as before");
}

#[test]
fn of_two_connections_the_later_counts() {
    for order in [[0, 1], [1, 0]] {
        let mut sessions = Sessions::default();
        let both = [online("c", "old", 5, false), online("c", "new", 6, false)];
        take(&mut sessions, order.map(|at| both[at].clone()).into());
        assert_eq!(sessions.known.values().next().unwrap().connection.as_deref(), Some("new"));
    }
}

#[test]
fn a_look_from_before_a_kick_does_not_bring_the_session_back() {
    let mut sessions = Sessions::default();
    take(&mut sessions, vec![online("c", "1", 5, true)]);
    let session = SessionRef { clientid: "c".to_owned(), session: 1 };
    let mut ended = sessions.listen();
    let before = Instant::now();
    sessions.kicked(&session, vec!["1".to_owned()], Instant::now());
    assert_eq!(word(&ended.try_recv().unwrap()), "-c 1");
    assert!(sessions.find(&session).is_none());

    for stale in [online("c", "1", 5, true), offline("c")] {
        assert_eq!(take_since(&mut sessions, before, vec![stale]), [] as [&str; 0]);
    }
    // The broker may show the connection for a while, but an offline session is a new one.
    assert_eq!(take(&mut sessions, vec![online("c", "1", 5, true)]), [] as [&str; 0]);
    // The client that came back in the meantime is another session, even in the look from before.
    assert_eq!(take_since(&mut sessions, before, vec![online("c", "2", 9, true)]), ["+c 2"]);
    sessions.kicked(&session, vec![], Instant::now());
    assert!(ended.try_recv().is_err(), "a session ends once");
    assert_eq!(take(&mut sessions, vec![offline("c")]), ["+c 2"]);
}

#[test]
fn a_session_is_found_by_client_id_and_number() {
    let mut sessions = Sessions::default();
    let mut other = online("c", "2", 6, false);
    other.client.zone = Some("y".to_owned());
    take(&mut sessions, vec![online("c", "1", 5, false), other]);
    let mut zones = [1, 2].map(|session| {
        let found = sessions.find(&SessionRef { clientid: "c".to_owned(), session }).unwrap();
        (found.place.zone, found.seen.connection.unwrap())
    });
    zones.sort();
    assert_eq!(zones, [("y".to_owned(), "2".to_owned()), ("z".to_owned(), "1".to_owned())]);
    assert!(sessions.find(&SessionRef { clientid: "d".to_owned(), session: 1 }).is_none());
    assert!(sessions.find(&SessionRef { clientid: "c".to_owned(), session: 3 }).is_none());
}
