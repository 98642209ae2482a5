//! What clients of MQTT 5 go through, where the broker speaks it: the suite's steps once more, and what a session is told
//! about its own end.

use std::time::Duration;

use rollcall_tests::mqtt::{self, Client, Connect};
use rollcall_tests::wait::within;
use serde_json::json;

use crate::suite::{self, Step};
use crate::world::{MQTT_5, World};

pub(crate) const STEPS: [(&str, Step); 11] = [
    ("mqtt_5_a_client_is_listed_as_it_connected", |world| {
        world.by_mqtt_5(suite::a_client_is_listed_as_it_connected);
    }),
    ("mqtt_5_figures_are_told_as_the_capabilities_say", |world| {
        world.by_mqtt_5(suite::figures_are_told_as_the_capabilities_say);
    }),
    ("mqtt_5_filters_find_the_client", |world| world.by_mqtt_5(suite::filters_find_the_client)),
    ("mqtt_5_what_a_client_does_changes_its_row", |world| {
        world.by_mqtt_5(suite::what_a_client_does_changes_its_row);
    }),
    ("mqtt_5_a_clean_session_ends_with_its_connection", |world| {
        world.by_mqtt_5(suite::a_clean_session_ends_with_its_connection);
    }),
    ("mqtt_5_an_offline_session_is_listed_and_comes_back", |world| {
        world.by_mqtt_5(suite::an_offline_session_is_listed_and_comes_back);
    }),
    ("mqtt_5_a_takeover_is_one_row", |world| world.by_mqtt_5(suite::a_takeover_is_one_row)),
    ("mqtt_5_a_kick_ends_connection_and_session", |world| {
        world.by_mqtt_5(suite::a_kick_ends_connection_and_session);
    }),
    ("mqtt_5_a_kick_ends_an_offline_session", |world| world.by_mqtt_5(suite::a_kick_ends_an_offline_session)),
    ("mqtt_5_a_client_that_comes_back_after_a_kick_stays", |world| {
        world.by_mqtt_5(suite::a_client_that_comes_back_after_a_kick_stays);
    }),
    ("mqtt_5_a_session_lasts_as_long_as_its_client_says", a_session_lasts_as_long_as_its_client_says),
];

fn connect(world: &World, clientid: &str, clean: bool, expiry: Option<u32>) -> Client {
    let connect = Connect { clean, expiry, ..Connect::new(MQTT_5, clientid) };
    Client::connect(world.mqtt(), &world.login(connect))
}

fn a_session_lasts_as_long_as_its_client_says(world: &mut World) {
    // One that begins clean and is to be kept.
    let kept = connect(world, "expiry-kept", true, Some(600));
    let row = world.gateway.row("expiry-kept");
    assert_eq!(row["clean_start"], true, "{row}");
    let is_told = !row["expiry_interval"].is_null();
    assert!(!is_told || row["expiry_interval"] == 600, "{row}");
    kept.disconnect();
    world.gateway.row_when("expiry-kept", |row| row["connected"] == false);
    let back = connect(world, "expiry-kept", false, Some(700));
    assert!(back.session_present);
    world.gateway.row_when("expiry-kept", |row| {
        row["connected"] == true && row["clean_start"] == false && (!is_told || row["expiry_interval"] == 700)
    });

    // One that takes up what there is and leaves nothing behind.
    let brief = connect(world, "expiry-none", false, None);
    let row = world.gateway.row("expiry-none");
    assert!(row["expiry_interval"].is_null() || row["expiry_interval"] == 0, "{row}");
    brief.disconnect();
    world.await_gone("expiry-none");

    // One that lasts for two seconds.
    let short = connect(world, "expiry-short", true, Some(2));
    world.gateway.row("expiry-short");
    drop(short);
    within(Duration::from_secs(60), "end of a session that expires", || {
        let rows = world.gateway.find("expiry-short");
        if rows.is_empty() { Ok(()) } else { Err(format!("{rows:?}")) }
    });
    assert!(!connect(world, "expiry-short", false, None).session_present);

    // One whose client changes its mind as it leaves: reason, length of properties, Session Expiry Interval, zero.
    let mut leaving = connect(world, "expiry-left", true, Some(600));
    world.gateway.row("expiry-left");
    leaving.send(&mqtt::packet(0xe0, &[0, 5, 0x11, 0, 0, 0, 0])).unwrap();
    drop(leaving);
    world.await_gone("expiry-left");
    assert!(!connect(world, "expiry-left", false, None).session_present);

    let kicked = world.gateway.kick("expiry-kept");
    assert_eq!(kicked.json()["data"], json!([{"node": world.node, "clientid": "expiry-kept"}]));
    assert!(!connect(world, "expiry-kept", false, None).session_present);
}
