//! A defect of the plugin is the plugin's own: the broker goes on.

use rollcall_tests::mosquitto::Mosquitto;
use rollcall_tests::mqtt::{Client, Connect};
use rollcall_tests::wait::eventually;

use super::{NODE, gateway, is_refused};
use crate::world::World;

/// The first call of every kind panics; builds with debug assertions do that when they are told to.
pub(super) fn no_panic_reaches_the_broker(_: &mut World) {
    let mut broker = Mosquitto::start_with(
        Some(NODE),
        &[],
        &[("ROLLCALL_MOSQUITTO_PANICS", "login,message,disconnect,tick,cleanup")],
    );
    let gateway = gateway(&broker);
    let first = Connect { username: Some("first".into()), ..Connect::new(4, "first") };
    assert!(is_refused(&broker, &first), "where the plugin does not decide nobody else knows the user");
    let mut second = Client::connect(broker.mqtt, &Connect::new(4, "second"));
    second.subscribe("t", 0);
    for payload in [&b"counted by nobody"[..], b"counted"] {
        second.publish("t", 0, payload);
        assert_eq!(second.receive(false), payload);
    }
    gateway.row_when("second", |row| row["recv_msg"] == 1);
    second.disconnect();
    eventually("the end of the second", || match gateway.find("second") {
        rows if rows.is_empty() => Ok(()),
        rows => Err(format!("{rows:?}")),
    });
    let mut third = Client::connect(broker.mqtt, &Connect::new(4, "third"));
    gateway.row("third");
    for call in ["login", "message", "disconnect", "tick"] {
        let line = format!("a defect of the plugin in its {call}, the broker goes on without this call");
        assert_eq!(broker.log().matches(&line).count(), 1, "{}", broker.log());
    }
    third.ping();
    assert_eq!(gateway.kick("third").status, 200);
    third.await_close();
    broker.ask_to_end();
    let log = eventually("the end of the broker", || {
        if broker.is_running() { Err(broker.log()) } else { Ok(broker.log()) }
    });
    assert!(log.contains("in its cleanup, the broker goes on") && log.contains("terminating"), "{log}");
}
