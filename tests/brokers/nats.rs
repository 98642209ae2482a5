//! What only the adapter of NATS has to show: what it can with few logins or none, that events alone are enough, that no
//! password gets out with them, and that all of it goes over TLS.

use std::any::Any;
use std::io::{Read as _, Write as _};

use rollcall_tests::brokers::{Given, Kind, Nats, Outside as _};
use rollcall_tests::certs::{Certs, over_tls};
use rollcall_tests::mqtt::{Client, Connect, dial};
use rollcall_tests::wait::eventually;
use rollcall_tests::written::Written;
use serde_json::{Value, json};

use crate::suite::Step;
use crate::world::{Side, World};

pub(crate) const STEPS: [(&str, Step); 6] = [
    ("without_logins_connections_are_listed", without_logins_connections_are_listed),
    ("events_alone_bring_clients_and_take_them_away", events_alone_bring_clients_and_take_them_away),
    ("the_server_closes_connections_if_it_can", the_server_closes_connections_if_it_can),
    ("passwords_in_events_reach_nobody", passwords_in_events_reach_nobody),
    ("all_is_spoken_over_tls", all_is_spoken_over_tls),
    ("what_keeps_the_agent_out_is_named", what_keeps_the_agent_out_is_named),
];

/// The longest there is: what shows within a test was brought by an event.
const HOUR_MS: u64 = 3_600_000;

fn broker(world: &World) -> &Nats {
    let broker: &dyn Any = world.outside().unwrap();
    broker.downcast_ref().unwrap()
}

fn side(world: &World, name: &str, given: Given, more: &[&str]) -> Side {
    let mut arguments = broker(world).agent_with(given);
    arguments.extend(more.iter().map(ToString::to_string));
    Side::start(world.kind, name, &arguments)
}

/// What is known of a client by its connection, and what is not.
fn assert_is_by_connection(world: &World, row: &Value, client: &Client) {
    let login = world.login(Connect::new(4, ""));
    assert_eq!(row["username"], login.username.unwrap(), "{row}");
    assert_eq!((&row["zone"], &row["proto_ver"]), (&json!(world.zone().unwrap()), &json!(4)), "{row}");
    assert_eq!(row["ip_address"], client.local_address().ip().to_string(), "{row}");
    assert_eq!(row["port"], client.local_address().port(), "{row}");
    for unknown in
        ["clean_start", "expiry_interval", "keepalive", "subscriptions_cnt", "inflight", "mqueue_len"]
    {
        assert!(row[unknown].is_null(), "{unknown} of {row}");
    }
}

fn without_logins_connections_are_listed(world: &mut World) {
    let side = side(world, "no-login", Given { system: false, accounts: false, poll_interval_ms: 200 }, &[]);
    assert!(!side.can("kick") && !side.can("offline-sessions") && !side.can("statistics:subscriptions_cnt"));
    assert!(side.can("statistics:recv_oct"));
    let mut clean = world.clean("unseen-clean");
    let mut kept = world.persistent("unseen-kept");
    kept.subscribe("unseen/+", 1);
    for (clientid, client) in [("unseen-clean", &clean), ("unseen-kept", &kept)] {
        assert_is_by_connection(world, &side.gateway.row(clientid), client);
        let refused = side.gateway.kick(clientid);
        assert_eq!((refused.status, refused.code()), (502, 101), "{}", refused.json());
    }
    eventually("the reason in the agent's log", || {
        let log = side.agent.process.log();
        if log.contains("there is no login for account") { Ok(()) } else { Err(log) }
    });
    clean.ping();
    kept.ping();
    // Without the account's login nobody knows that it left a session behind.
    kept.disconnect();
    eventually("the end of the connection", || {
        let rows = side.gateway.find("unseen-kept");
        if rows.is_empty() { Ok(()) } else { Err(format!("{rows:?}")) }
    });
    assert!(world.persistent("unseen-kept").session_present);
    world.forget("unseen-kept");
}

fn events_alone_bring_clients_and_take_them_away(world: &mut World) {
    for accounts in [false, true] {
        let given = Given { system: true, accounts, poll_interval_ms: HOUR_MS };
        let side = side(world, if accounts { "all-logins" } else { "system-only" }, given, &[]);
        assert_eq!(side.can("offline-sessions"), accounts);
        for _ in 0..2 {
            let client = world.clean("by-event");
            let row = side.gateway.row("by-event");
            if accounts {
                side.gateway.row_when("by-event", |row| row["clean_start"] == true);
            } else {
                assert_is_by_connection(world, &row, &client);
            }
            // One end is said, the other only seen.
            if accounts {
                client.disconnect();
            } else {
                drop(client);
            }
            eventually("an end by event", || {
                let rows = side.gateway.find("by-event");
                if rows.is_empty() { Ok(()) } else { Err(format!("{rows:?}")) }
            });
        }
        // A session that was left behind, too.
        let kept = world.persistent("by-event-kept");
        side.gateway.row("by-event-kept");
        kept.disconnect();
        eventually("the end of the connection", || {
            let rows = side.gateway.find("by-event-kept");
            let is_true = match &rows[..] {
                [] => !accounts,
                [row] => accounts && row["connected"] == false,
                _ => false,
            };
            if is_true { Ok(()) } else { Err(format!("{rows:?}")) }
        });
    }
    world.forget("by-event-kept");
}

fn the_server_closes_connections_if_it_can(world: &mut World) {
    let given = Given { system: true, accounts: false, poll_interval_ms: HOUR_MS };
    let side = side(world, "closing", given, &[]);
    let mut client = world.clean("closed");
    let mut bystander = world.clean("not-closed");
    side.gateway.row("closed");
    side.gateway.row("not-closed");
    let kicked = side.gateway.kick("closed");
    if world.kind == Kind::NatsNewer {
        assert_eq!(kicked.status, 200, "{}", kicked.json());
        client.await_close();
        assert_eq!(side.gateway.find("closed"), [] as [Value; 0]);
        // Back again it is another.
        let _back = world.clean("closed");
        side.gateway.row("closed");
    } else {
        assert_eq!((kicked.status, kicked.code()), (502, 101), "{}", kicked.json());
        client.ping();
    }
    bystander.ping();
    side.gateway.row("not-closed");
}

fn passwords_in_events_reach_nobody(world: &mut World) {
    let given = Given { system: true, accounts: true, poll_interval_ms: HOUR_MS };
    let side = side(world, "secretive", given, &["--log-filter", "trace"]);
    // What the server tells of one client, to know that there is a password in it.
    let mut events = broker(world).listen("$SYS.ACCOUNT.*.CONNECT");
    let client = world.clean("secret-bearing");
    let password = world.login(Connect::new(4, "")).password.unwrap();
    let (mut said, mut bytes) = (String::new(), [0; 4096]);
    while !said.contains("\"secret-bearing\"") || !said.ends_with("\r\n") {
        let length =
            events.read(&mut bytes).unwrap_or_else(|error| panic!("no event: {error} behind {said}"));
        assert_ne!(length, 0, "the server closes behind {said}");
        said += &String::from_utf8_lossy(&bytes[..length]);
        // It closes the connection of who never answers.
        events.write_all(b"PONG\r\n").unwrap();
    }
    let is_shown = said.contains(&password);
    assert_eq!(is_shown, world.kind == Kind::Nats, "2.9 shows it, 2.15 does not: {said}");
    side.gateway.row("secret-bearing");
    // One that is refused, and one that is kicked.
    let wrong = Connect {
        password: Some("nats-nobodys-s3cret".to_owned()),
        ..world.login(Connect::new(4, "refused"))
    };
    assert!(Client::over(dial(world.mqtt()), &wrong).is_err());
    let mut kicked = world.persistent("secret-bearing-too");
    side.gateway.row_when("secret-bearing-too", |row| row["clean_start"] == false);
    assert_eq!(side.gateway.kick("secret-bearing-too").status, 200);
    kicked.await_close();
    drop(client);
    eventually("an end by event", || {
        let rows = side.gateway.find("secret-bearing");
        if rows.is_empty() { Ok(()) } else { Err(format!("{rows:?}")) }
    });
    let mut written = Written::default();
    side.write(&mut written);
    assert!(written.0.iter().any(|(_, text)| text.contains("TRACE")), "nobody logs at trace level");
    for secret in world.secrets().iter().map(String::as_str).chain(["nats-nobodys-s3cret"]) {
        written.lacks(secret.as_bytes());
    }
}

fn all_is_spoken_over_tls(world: &mut World) {
    if world.kind != Kind::Nats {
        return;
    }
    let nats = Nats::start_over_tls();
    let (ca, mqtt) = (nats.ca().unwrap(), nats.mqtt());
    let (username, password) = nats.login();
    let connect = |connect: Connect| {
        let connect =
            Connect { username: Some(username.clone()), password: Some(password.clone()), ..connect };
        Client::over(over_tls(&ca, mqtt, dial(mqtt)).unwrap(), &connect).unwrap()
    };
    // No poll helps: events, records and kicks come over TLS, each in its way.
    let given = Given { system: true, accounts: true, poll_interval_ms: HOUR_MS };
    let side = Side::start(Kind::Nats, "over-tls", &nats.agent_with(given));
    let mut kept = connect(Connect::new(4, "over-tls").keep_session());
    kept.subscribe("over/tls", 1);
    side.gateway.row_when("over-tls", |row| row["connected"] == true && row["subscriptions_cnt"].is_number());
    kept.disconnect();
    side.gateway.row_when("over-tls", |row| row["connected"] == false);
    let mut back = connect(Connect::new(4, "over-tls").keep_session());
    assert!(back.session_present);
    side.gateway.row("over-tls");
    let kicked = side.gateway.kick("over-tls");
    assert_eq!(kicked.status, 200, "{}", kicked.json());
    back.await_close();
    assert!(!connect(Connect::new(4, "over-tls").keep_session()).session_present);

    let other = Certs::new();
    let arguments = nats.agent_trusting(given, &other.path("ca.pem"));
    let distrustful = Side::start_without_agreement(Kind::Nats, "distrustful", &arguments);
    await_error(&distrustful, "UnknownIssuer");
}

/// Waits until the node says that this keeps it from its broker.
fn await_error(side: &Side, words: &str) {
    eventually(&format!("word of {words:?}"), || {
        let told = side.told_node();
        match told["broker_error"].as_str() {
            Some(error) if error.contains(words) => Ok(()),
            _ => Err(format!("{told} {}", side.agent.process.log())),
        }
    });
}

fn what_keeps_the_agent_out_is_named(world: &mut World) {
    let mut written = Written::default();
    let all = Given { system: true, accounts: true, poll_interval_ms: 200 };
    let wrong = broker(world).agent_with_wrong_passwords(all);
    let wrong = Side::start_without_agreement(world.kind, "wrong-password", &wrong);
    await_error(&wrong, "authorization violation");
    assert_eq!(wrong.gateway.get("/clients").status, 503);
    wrong.write(&mut written);
    // Of the system account it says so in its log alone: the clients are known all the same.
    let system = Given { accounts: false, ..all };
    let arguments = broker(world).agent_with_wrong_passwords(system);
    let system = Side::start(world.kind, "wrong-system-password", &arguments);
    let _client = world.clean("polled");
    system.gateway.row("polled");
    eventually("the reason in the agent's log", || {
        let log = system.agent.process.log();
        if log.contains("login of NATS fails") && log.contains("authorization violation") {
            Ok(())
        } else {
            Err(log)
        }
    });
    system.write(&mut written);
    for secret in world.secrets().iter().map(String::as_str).chain([Nats::WRONG_PASSWORD]) {
        written.lacks(secret.as_bytes());
    }
}
