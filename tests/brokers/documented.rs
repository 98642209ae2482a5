//! Capabilities are those of the table in docs/brokers.md, and true of rows.

use std::collections::BTreeMap;

use rollcall_tests::sandbox::Agent;
use serde_json::Value;

use crate::suite::Step;
use crate::world::{Side, World};

pub(crate) const STEPS: [(&str, Step); 1] = [(
    "brokers_that_are_no_real_ones_can_what_is_documented",
    brokers_that_are_no_real_ones_can_what_is_documented,
)];

/// What stands before the table.
const HEADING: &str = "## Capabilities";

/// How an agent is set up, as cells of the table call it.
#[derive(Clone, Copy, Default)]
pub(crate) struct Setup {
    /// Clients pass its counting front.
    pub(crate) front: bool,
    /// It has a login of the clients' account.
    pub(crate) login: bool,
}

impl Setup {
    /// Whether a node of this setup can what has this cell.
    fn is_meant_by(self, cell: &str) -> bool {
        match cell {
            "yes" => true,
            "no" => false,
            "front" => self.front,
            "login" => self.login,
            other => panic!("a cell says {other:?}, expected yes, no, front or login"),
        }
    }
}

/// Capability and cell of a broker's column.
fn column(broker: &str) -> BTreeMap<String, String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/brokers.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (_, text) = text.split_once(HEADING).unwrap();
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
    };
    let mut lines =
        text.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let head = cells(lines.next().unwrap());
    let at = head
        .iter()
        .position(|name| name == broker)
        .unwrap_or_else(|| panic!("no column {broker} in {head:?}"));
    lines.skip(1).map(cells).map(|cells| (cells[0].clone(), cells[at].clone())).collect()
}

/// That a node can what the table says, and nothing else.
pub(crate) fn assert_is_documented(broker: &str, setup: Setup, capabilities: &[String]) {
    let column = column(broker);
    for (capability, cell) in &column {
        let is_told = capabilities.contains(capability);
        assert_eq!(is_told, setup.is_meant_by(cell), "{broker}: {capability} is documented as {cell:?}");
    }
    for capability in capabilities {
        assert!(column.contains_key(capability), "{broker}: {capability} is in no row of the table");
    }
}

fn names(node: &Value) -> Vec<String> {
    node["capabilities"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

/// Those without clients of MQTT, and the embedded one behind its front.
fn brokers_that_are_no_real_ones_can_what_is_documented(_: &mut World) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("table"), "").unwrap();
    std::fs::write(path("front.toml"), "[embedded]\ncounting_front = true\n").unwrap();
    let front = Setup { front: true, ..Setup::default() };
    for (broker, setup, arguments) in [
        ("file", Setup::default(), vec!["--broker", "file", "--file", &path("table")]),
        ("synthetic", Setup::default(), vec!["--broker", "synthetic", "--clients", "1"]),
        ("embedded", front, vec!["--config", &path("front.toml"), "--mqtt-listen", "127.0.0.1:0"]),
    ] {
        let side = Side::of(Agent::start(&format!("{broker}@127.0.0.1"), &arguments));
        assert_is_documented(broker, setup, &names(&side.told_node()));
    }
}

/// That rows of a broker have what its agent says that it tells.
pub(crate) fn fields_are_told_as_the_capabilities_say(world: &mut World) {
    let setup = Setup { front: world.is_counted, login: world.outside().is_some() };
    let capabilities = world.capabilities();
    assert_is_documented(world.kind.name(), setup, &capabilities);
    // Of three clients: one that comes and goes, one that stays, and one that has left.
    let mut clean = world.clean("fields-clean");
    clean.subscribe("fields/+", 1);
    let mut kept = world.persistent("fields-kept");
    kept.subscribe("fields/+", 1);
    let mut away = world.persistent("fields-away");
    away.subscribe("fields/+", 1);
    for clientid in ["fields-kept", "fields-away"] {
        world.gateway.row_when(clientid, |row| {
            row["connected"] == true && (row["clean_start"] == false || row["clean_start"].is_null())
        });
    }
    world.gateway.row_when("fields-clean", |row| {
        row["connected"] == true && (row["clean_start"] == true || row["clean_start"].is_null())
    });
    away.disconnect();
    if world.can("offline-sessions") {
        world.gateway.row_when("fields-away", |row| row["connected"] == false);
    } else {
        world.await_gone("fields-away");
    }
    let rows = world.gateway.get("/clients?_like_clientid=fields-").rows();
    let fields: Vec<String> = column(world.kind.name())
        .into_keys()
        .filter_map(|name| Some(name.strip_prefix("identity:")?.to_owned()))
        .collect();
    assert_eq!(fields.len(), 14, "{fields:?}");
    for field in fields {
        let is_told = capabilities.contains(&format!("identity:{field}"));
        // Nobody's is called so, and a row is never without.
        let is_shown = |row: &Value| !row[&field].is_null() && row[&field] != "undefined";
        let is_nobodys = field == "username" && world.outside().is_none();
        assert_eq!(rows.iter().any(is_shown), is_told && !is_nobodys, "{field} of {rows:?}");
    }
    for clientid in ["fields-kept", "fields-away"] {
        world.forget(clientid);
    }
}
