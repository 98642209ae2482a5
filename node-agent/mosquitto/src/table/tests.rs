//! The table against a broker that behaves as mosquitto 2.0's sources say: in which order it tells things, and what it
//! still tells of whom.

use std::cell::RefCell;

use rollcall_proto::v1::ConnState;

use super::*;

/// A client context: what is known of it until it is freed.
#[derive(Clone)]
struct Context {
    facts: Option<Facts>,
    subscriptions: u64,
}

/// The broker's own state.
#[derive(Default)]
struct Mosquitto {
    contexts: HashMap<Handle, Context>,
    /// Sessions by client id: the connection, or none.
    sessions: RefCell<HashMap<String, Option<Handle>>>,
    kicks: RefCell<Vec<String>>,
    next: usize,
}

impl BrokerCalls for Mosquitto {
    fn facts(&self, client: Handle) -> Option<Facts> {
        self.contexts.get(&client).expect("a context is asked for only while it lives").facts.clone()
    }

    fn subscriptions(&self, client: Handle) -> u64 {
        self.contexts.get(&client).expect("a context is asked for only while it lives").subscriptions
    }

    fn kick(&self, clientid: &str) -> bool {
        let sessions = self.sessions.borrow();
        if sessions.get(clientid).is_some_and(Option::is_some) {
            self.kicks.borrow_mut().push(clientid.to_owned());
        }
        sessions.contains_key(clientid)
    }
}

fn facts(clientid: &str, protocol: u32, clean_start: bool) -> Facts {
    Facts {
        clientid: clientid.to_owned(),
        username: Some("u".to_owned()),
        address: Some(IpAddr::from([10, 0, 0, 1])),
        protocol: Some(protocol),
        keepalive: Some(60),
        clean_start: Some(clean_start),
    }
}

/// Broker and table, and the time.
#[derive(Default)]
struct Scene {
    broker: Mosquitto,
    table: Table,
    now_ms: i64,
}

impl Scene {
    /// A login, as far as the table is asked about it.
    fn login(&mut self, facts: Facts) -> Handle {
        self.broker.next += 1;
        let handle = Handle(self.broker.next);
        self.broker.contexts.insert(handle, Context { facts: Some(facts.clone()), subscriptions: 0 });
        assert_eq!(self.table.authenticating(handle, facts, Some(b"secret")), Verdict::NotOurs);
        handle
    }

    /// The broker lets it in. Who was there under the id goes first.
    fn accept(&mut self, handle: Handle) {
        let clientid = self.broker.contexts[&handle].facts.clone().unwrap().clientid;
        let before = self.broker.sessions.borrow_mut().insert(clientid, Some(handle)).flatten();
        if let Some(before) = before {
            self.table.disconnected(before, &self.broker, self.now_ms);
            self.broker.contexts.remove(&before);
        }
    }

    fn connect(&mut self, facts: Facts) -> Handle {
        let handle = self.login(facts);
        self.accept(handle);
        self.tick();
        handle
    }

    /// The connection ends, and the session unless the broker keeps it.
    fn disconnect(&mut self, handle: Handle, keeps_session: bool) {
        let clientid = self.broker.contexts[&handle].facts.clone().unwrap().clientid;
        self.table.disconnected(handle, &self.broker, self.now_ms);
        self.broker.contexts.remove(&handle);
        if keeps_session {
            self.broker.sessions.borrow_mut().insert(clientid, None);
        } else {
            self.broker.sessions.borrow_mut().remove(&clientid);
        }
    }

    fn message(&mut self, handle: Handle) {
        if !self.table.message(handle) {
            self.table.first_message(handle, &self.broker, self.now_ms);
        }
    }

    fn tick(&mut self) {
        self.table.settle(&self.broker, self.now_ms);
        for (clientid, session) in self.table.due(self.now_ms, 100) {
            let is_kept = self.broker.kick(&clientid);
            self.table.looked_at(&clientid, session, is_kept, self.now_ms);
        }
        self.table.sweep(&self.broker, 100, self.now_ms);
        assert!(self.broker.kicks.borrow().is_empty(), "asking about a session must not kick anybody");
    }

    /// What was told since the last time: + and - with client id and session.
    fn told(&mut self) -> Vec<String> {
        let changes = self.table.changes(1000).into_iter().map(|change| match change {
            ClientChange::Present(client) => {
                let state = if client.conn_state() == ConnState::Connected { '+' } else { '~' };
                format!("{state}{} {}", client.clientid, client.session)
            }
            ClientChange::Ended(SessionRef { clientid, session }) => format!("-{clientid} {session}"),
            other => panic!("{other:?}"),
        });
        changes.collect()
    }
}

#[test]
fn who_is_let_in_is_told_and_who_is_refused_is_not() {
    let mut scene = Scene::default();
    scene.connect(facts("in", 4, true));
    let refused = scene.login(facts("out", 4, true));
    scene.broker.contexts.get_mut(&refused).unwrap().facts = None;
    scene.table.disconnected(refused, &scene.broker, 0);
    scene.broker.contexts.remove(&refused);
    // Over WebSocket the end of a refused connection comes later.
    let late = scene.login(facts("late", 4, true));
    scene.broker.contexts.get_mut(&late).unwrap().facts = None;
    scene.tick();
    scene.table.disconnected(late, &scene.broker, 0);
    assert_eq!(scene.told(), ["+in 1"]);
    let row = &scene.table.all()[0];
    assert_eq!((row.proto_ver, row.proto_name.as_deref()), (Some(4), Some("MQTT")));
    assert_eq!((row.username.as_deref(), row.keepalive), (Some("u"), Some(60)));
    assert_eq!((row.ip_address.as_slice(), row.expiry_interval), (&[10, 0, 0, 1][..], Some(0)));
}

#[test]
fn a_clean_session_ends_with_its_connection_and_a_kept_one_stays_until_the_broker_drops_it() {
    let mut scene = Scene::default();
    let clean = scene.connect(facts("clean", 4, true));
    let kept = scene.connect(facts("kept", 4, false));
    let unkept = scene.connect(facts("five", 5, false));
    scene.told();
    scene.disconnect(clean, false);
    scene.disconnect(kept, true);
    scene.disconnect(unkept, false);
    scene.tick();
    assert_eq!(scene.told(), ["-clean 1", "~kept 2", "-five 3"]);
    // It expires: noticed at a later look.
    scene.broker.sessions.borrow_mut().remove("kept");
    scene.now_ms = SHORTEST_LOOK_MS - 1;
    scene.tick();
    assert_eq!(scene.told(), [""; 0]);
    scene.now_ms = SHORTEST_LOOK_MS;
    scene.tick();
    assert_eq!(scene.told(), ["-kept 2"]);
}

#[test]
fn looks_at_a_session_that_stays_become_rare() {
    let mut scene = Scene::default();
    let kept = scene.connect(facts("kept", 4, false));
    scene.disconnect(kept, true);
    scene.tick();
    let mut looks = 0;
    for _ in 0..7 * 24 * 360 {
        scene.now_ms += 10_000;
        let due = scene.table.due(scene.now_ms, 100);
        looks += due.len();
        for (clientid, session) in due {
            scene.table.looked_at(&clientid, session, true, scene.now_ms);
        }
    }
    assert!((20..60).contains(&looks), "{looks} looks in a week");
}

#[test]
fn a_session_keeps_its_number_and_figures_when_it_is_resumed_and_not_when_it_begins_anew() {
    let mut scene = Scene::default();
    let first = scene.connect(facts("c", 4, false));
    scene.message(first);
    scene.broker.contexts.get_mut(&first).unwrap().subscriptions = 2;
    scene.disconnect(first, true);
    let second = scene.connect(facts("c", 4, false));
    scene.message(second);
    assert_eq!(scene.table.session("c"), Some(1));
    let figures = scene.table.statistics("c", 1).unwrap();
    assert_eq!((figures.recv_msg, figures.subscriptions_cnt), (Some(2), Some(2)));
    assert_eq!(scene.told(), ["+c 1"]);
    scene.disconnect(second, true);
    assert_eq!(scene.told(), ["~c 1"]);
    scene.connect(facts("c", 4, true));
    assert_eq!(scene.told(), ["-c 1", "+c 2"]);
    assert_eq!(scene.table.statistics("c", 1), None);
}

#[test]
fn a_connection_that_is_taken_over_is_one_row() {
    let mut scene = Scene::default();
    scene.connect(facts("kept", 4, false));
    scene.connect(facts("clean", 4, true));
    scene.told();
    scene.connect(facts("kept", 4, false));
    scene.connect(facts("clean", 4, true));
    assert_eq!(scene.told(), ["+kept 1", "-clean 2", "+clean 3"]);
    assert_eq!(scene.table.all().len(), 2);
}

#[test]
fn who_comes_and_goes_within_one_round_is_not_lost() {
    let mut scene = Scene::default();
    let quick = scene.login(facts("quick", 4, false));
    scene.accept(quick);
    scene.disconnect(quick, true);
    scene.tick();
    assert_eq!(scene.told(), ["~quick 1"]);
}

#[test]
fn a_session_that_comes_back_before_it_is_looked_at_is_not_asked_about() {
    let mut scene = Scene::default();
    let first = scene.connect(facts("c", 4, false));
    scene.disconnect(first, true);
    let second = scene.login(facts("c", 4, false));
    scene.accept(second);
    // The login is pending: the tick's look must not kick it, which `tick` asserts.
    assert!(scene.table.due(scene.now_ms, 100).is_empty());
    scene.tick();
    assert_eq!(scene.told(), ["+c 1"]);
}

#[test]
fn once_clients_come_in_unseen_nobody_is_asked_about_any_more() {
    let mut scene = Scene::default();
    let kept = scene.connect(facts("kept", 4, false));
    // By certificate: no login is seen, the first message is.
    scene.broker.next += 1;
    let unseen = Handle(scene.broker.next);
    scene.broker.contexts.insert(unseen, Context { facts: Some(facts("x", 4, true)), subscriptions: 0 });
    scene.broker.sessions.borrow_mut().insert("x".to_owned(), Some(unseen));
    scene.message(unseen);
    assert_eq!(scene.told(), ["+kept 1", "+x 2"]);
    scene.disconnect(kept, true);
    scene.tick();
    assert_eq!(scene.told(), ["~kept 1"]);
    assert!(!scene.table.may_ask("kept", 1, i64::MAX));
}

/// The broker has loaded these, of so many seconds each.
fn load(scene: &mut Scene, sessions: &[(&str, u32)]) {
    let stored = |&(clientid, expiry_interval): &(&str, u32)| {
        scene.broker.sessions.borrow_mut().insert(clientid.to_owned(), None);
        let stored = Stored { expiry_interval, subscriptions: 3, ..Stored::default() };
        (clientid.to_owned(), stored)
    };
    scene.table.load(sessions.iter().map(stored).collect(), scene.now_ms);
}

#[test]
fn sessions_that_were_loaded_are_there_from_the_beginning_and_of_their_past_nothing_is_made_up() {
    let mut scene = Scene { now_ms: 5_000, ..Scene::default() };
    load(&mut scene, &[("a", u32::MAX), ("b", 60)]);
    scene.connect(facts("c", 4, true));
    let rows = scene.table.all();
    assert_eq!((rows.len(), scene.told().len()), (3, 0));
    let row = rows.into_iter().find(|row| row.clientid == "b").unwrap();
    assert_eq!(
        (row.username.as_deref(), row.expiry_interval, row.conn_state()),
        (None, Some(60), ConnState::Disconnected)
    );
    assert_eq!((row.proto_ver, row.proto_name, row.clean_start, row.keepalive), (None, None, None, None));
    assert_eq!((row.created_at_ms, row.connected_at_ms, row.disconnected_at_ms), (None, None, None));
    let figures = scene.table.statistics("b", row.session).unwrap();
    assert_eq!((figures.subscriptions_cnt, figures.recv_msg), (Some(3), None));
    // It comes back: the same session, of which only the connection is known.
    let back = scene.connect(facts("b", 5, false));
    let told = scene.table.changes(10);
    let [ClientChange::Present(row)] = &told[..] else { panic!("{told:?}") };
    assert_eq!((row.proto_ver, row.clean_start, row.expiry_interval), (Some(5), Some(false), None));
    assert_eq!((row.created_at_ms, row.connected_at_ms), (None, Some(5_000)));
    scene.disconnect(back, true);
    scene.tick();
    scene.connect(facts("a", 4, true));
    assert_eq!(scene.told(), ["~b 2", "-a 1", "+a 4"]);
}

#[test]
fn of_a_loaded_session_the_broker_is_asked_only_when_it_may_have_expired() {
    let mut scene = Scene::default();
    load(&mut scene, &[("ever", u32::MAX), ("minute", 60)]);
    scene.told();
    scene.broker.sessions.borrow_mut().clear();
    assert!(!scene.table.may_ask("minute", 2, 59_999), "a kick does not ask either");
    scene.now_ms = 60_000 + SHORTEST_LOOK_MS - 1;
    scene.tick();
    assert_eq!(scene.told(), [""; 0]);
    scene.now_ms += 1;
    scene.tick();
    assert_eq!(scene.told(), ["-minute 2"]);
    scene.now_ms = i64::MAX / 2;
    scene.tick();
    assert_eq!(scene.told(), [""; 0]);
    assert!(!scene.table.may_ask("ever", 1, i64::MAX));
}

#[test]
fn a_bridge_of_the_brokers_own_is_no_client() {
    let mut scene = Scene::default();
    let bridge = Handle(77);
    let no_address = Facts { address: None, ..facts("bridge", 4, true) };
    scene.broker.contexts.insert(bridge, Context { facts: Some(no_address), subscriptions: 0 });
    scene.message(bridge);
    scene.table.disconnected(bridge, &scene.broker, 0);
    assert_eq!(scene.told(), [""; 0]);
    assert!(!scene.table.has_unseen);
}

/// The plugin's own login.
fn own(clientid: &str) -> Facts {
    Facts { username: Some(OWN_USER.to_owned()), ..facts(clientid, 4, true) }
}

#[test]
fn the_plugin_is_let_in_once_with_the_password_and_only_while_the_client_is_away() {
    let mut scene = Scene::default();
    let client = scene.connect(facts("c", 4, false));
    scene.told();
    let verdict = |scene: &mut Scene, password: Option<&[u8]>| {
        scene.table.authenticating(Handle(1000), own("c"), password)
    };
    assert_eq!(verdict(&mut scene, Some(b"right")), Verdict::Refuse, "nothing was allowed");
    scene.table.allow_takeover("c", 1, "right".to_owned());
    assert_eq!(verdict(&mut scene, Some(b"right")), Verdict::Refuse, "the client is connected");
    scene.disconnect(client, true);
    scene.tick();
    assert_eq!(scene.told(), ["~c 1"]);
    for wrong in [None, Some(&b"wrong"[..]), Some(b"")] {
        scene.table.allow_takeover("c", 1, "right".to_owned());
        assert_eq!(verdict(&mut scene, wrong), Verdict::Refuse);
        assert_eq!(verdict(&mut scene, Some(b"right")), Verdict::Refuse, "one try each");
    }
    scene.table.allow_takeover("c", 1, "right".to_owned());
    assert_eq!(verdict(&mut scene, Some(b"right")), Verdict::Allow);
    // The broker tells that the session's old context goes, which is nobody's end.
    scene.broker.contexts.insert(client, Context { facts: Some(facts("c", 4, true)), subscriptions: 0 });
    scene.table.disconnected(client, &scene.broker, 0);
    assert!(!scene.table.has_unseen);
    // Whoever comes before the takeover is known to be over begins a new session all the same.
    scene.broker.contexts.insert(Handle(1000), Context { facts: Some(own("c")), subscriptions: 0 });
    scene.table.disconnected(Handle(1000), &scene.broker, 0);
    scene.broker.sessions.borrow_mut().clear();
    scene.connect(facts("c", 4, false));
    scene.table.end_takeover("c", 1, true, 0);
    assert_eq!(scene.told(), ["-c 1", "+c 2"]);
}

#[test]
fn a_takeover_that_fails_leaves_the_session_as_it_was() {
    let mut scene = Scene::default();
    let client = scene.connect(facts("c", 4, false));
    scene.disconnect(client, true);
    scene.tick();
    scene.told();
    scene.table.allow_takeover("c", 1, "right".to_owned());
    scene.table.end_takeover("c", 1, false, 0);
    scene.tick();
    assert_eq!(scene.told(), [""; 0]);
    assert_eq!(scene.table.standing("c", 1), Standing::Away);
    scene.connect(facts("c", 4, false));
    assert_eq!(scene.told(), ["+c 1"]);
}

#[test]
fn subscriptions_are_read_in_turns_and_at_most_once_a_second() {
    let mut scene = Scene { now_ms: 5_000, ..Scene::default() };
    for client in 0..10 {
        let handle = scene.connect(facts(&format!("c{client}"), 4, true));
        scene.broker.contexts.get_mut(&handle).unwrap().subscriptions = 3;
    }
    scene.now_ms += SWEEP_MS;
    let read = |scene: &Scene| {
        let rows = (0..10).filter_map(|client| scene.table.statistics(&format!("c{client}"), client + 1));
        rows.filter(|figures| figures.subscriptions_cnt == Some(3)).count()
    };
    for expected in [4, 8, 10, 10] {
        scene.table.sweep(&scene.broker, 4, scene.now_ms);
        assert_eq!(read(&scene), expected);
    }
}
