//! Kinds of clients: zone, protocol and connection state together, of one node.
//!
//! As groups are ([`super::groups`]), what a node says is checked. Zones and protocols come from brokers' configurations and
//! clients' connects, so their number is bounded here ([`largest`]): a scraper keeps every combination it has ever
//! seen.

use std::collections::HashMap;

use rollcall_proto::v1::{self, ConnState, group};

use super::groups::{InvalidGroups, checked, conn_state};

/// What is put in place of zone, protocol and level of kinds that are too many.
pub const OTHER: &str = "other";

/// The longest text of a kind that is shown, bytes.
const LONGEST: usize = 128;

/// What some clients have in common. What they do not have is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind {
    /// The listener's zone.
    pub zone: String,
    /// The protocol's name.
    pub proto_name: String,
    /// The protocol's level.
    pub proto_ver: String,
    /// The connection's state as the API writes it.
    pub conn_state: &'static str,
}

/// Reads and checks the kinds of one node, `count` clients in all.
///
/// # Errors
/// [`InvalidGroups`] says what is wrong with the first bad one, or with all of them.
pub fn own_kinds(count: u64, groups: Vec<v1::Group>) -> Result<Vec<(Kind, u64)>, InvalidGroups> {
    let read = |value| match value {
        Some(group::Value::Kind(kind)) => ConnState::try_from(kind.conn_state).is_ok().then_some(kind),
        _ => None,
    };
    let kinds = checked(v1::GroupBy::Kind, count, groups, read)?;
    Ok(kinds.into_iter().map(|(kind, count)| (Kind::from(kind), count)).collect())
}

impl From<v1::Kind> for Kind {
    fn from(kind: v1::Kind) -> Self {
        let state = conn_state(kind.conn_state());
        Self {
            zone: kind.zone.map_or_else(String::new, shortened),
            proto_name: kind.proto_name.map_or_else(String::new, shortened),
            proto_ver: kind.proto_ver.map_or_else(String::new, |level| level.to_string()),
            conn_state: state.unwrap_or_default(),
        }
    }
}

fn shortened(mut text: String) -> String {
    if text.len() > LONGEST {
        text.truncate(text.floor_char_boundary(LONGEST - '…'.len_utf8()));
        text.push('…');
    }
    text
}

/// The largest kinds, at most `most`, in order; the others added up by connection state under [`OTHER`]. Kinds that look
/// the same are one.
#[must_use]
pub fn largest(kinds: Vec<(Kind, u64)>, most: usize) -> Vec<(Kind, u64)> {
    let mut kinds = added_up(kinds);
    if kinds.len() > most {
        kinds.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let others = kinds.split_off(most).into_iter().map(|(kind, count)| {
            let other = || OTHER.to_owned();
            (Kind { zone: other(), proto_name: other(), proto_ver: other(), ..kind }, count)
        });
        kinds.extend(added_up(others));
        kinds = added_up(kinds);
    }
    kinds.sort_unstable();
    kinds
}

fn added_up(kinds: impl IntoIterator<Item = (Kind, u64)>) -> Vec<(Kind, u64)> {
    let mut counts: HashMap<Kind, u64> = HashMap::new();
    for (kind, count) in kinds {
        let sum = counts.entry(kind).or_default();
        *sum = sum.saturating_add(count);
    }
    counts.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(zone: &str, conn_state: ConnState, count: u64) -> v1::Group {
        let kind = v1::Kind {
            zone: Some(zone.into()),
            proto_name: Some("MQTT".into()),
            proto_ver: Some(5),
            conn_state: conn_state.into(),
        };
        v1::Group { value: Some(group::Value::Kind(kind)), count }
    }

    fn kind(zone: &str, conn_state: &'static str) -> Kind {
        Kind { zone: zone.into(), proto_name: "MQTT".into(), proto_ver: "5".into(), conn_state }
    }

    #[test]
    fn kinds_are_read_and_what_a_node_must_not_send_is_refused() {
        use ConnState::{Connected, Disconnected};
        let bare = v1::Group { value: Some(group::Value::Kind(v1::Kind::default())), count: 2 };
        let groups = vec![group("edge", Connected, 3), group("edge", Disconnected, 4), bare.clone()];
        assert_eq!(
            own_kinds(9, groups.clone()).unwrap(),
            [(kind("edge", "connected"), 3), (kind("edge", "disconnected"), 4), (Kind::default(), 2)]
        );
        assert_eq!(own_kinds(0, vec![]).unwrap(), []);
        assert_eq!(own_kinds(8, groups.clone()), Err(InvalidGroups::Sum { sum: 9, count: 8 }));
        let twice = [groups, vec![bare]].concat();
        assert_eq!(own_kinds(11, twice), Err(InvalidGroups::Twice { at: 3 }));
        assert_eq!(own_kinds(0, vec![group("edge", Connected, 0)]), Err(InvalidGroups::Empty { at: 0 }));
        let mut unknown = group("edge", Connected, 1);
        let Some(group::Value::Kind(inner)) = &mut unknown.value else { panic!() };
        inner.conn_state = 9;
        let text = v1::Group { value: Some(group::Value::Text("edge".into())), count: 1 };
        for bad in [unknown, text, v1::Group { value: None, count: 1 }] {
            let refused = Err(InvalidGroups::Kind { at: 0, group_by: v1::GroupBy::Kind });
            assert_eq!(own_kinds(1, vec![bad]), refused);
        }
    }

    #[test]
    fn few_kinds_are_shown_and_nobody_is_lost() {
        let kinds: Vec<_> = (0..50)
            .flat_map(|n| {
                let zone = format!("zone-{n:02}");
                [(kind(&zone, "connected"), 100 + n), (kind(&zone, "disconnected"), n + 1)]
            })
            .collect();
        let total: u64 = kinds.iter().map(|(_, count)| count).sum();
        let shown = largest(kinds.clone(), 10);
        assert_eq!(shown.len(), 12);
        assert_eq!(shown.iter().map(|(_, count)| count).sum::<u64>(), total);
        assert!(shown.contains(&(kind("zone-49", "connected"), 149)));
        let other = |conn_state| Kind {
            zone: OTHER.into(),
            proto_name: OTHER.into(),
            proto_ver: OTHER.into(),
            conn_state,
        };
        assert!(shown.contains(&(other("disconnected"), (1..=50).sum())));
        assert_eq!(largest(kinds.clone(), 100).len(), 100);
        // A zone that is called so does not make two samples of one name.
        let named = (Kind { conn_state: "connected", ..other("connected") }, 1_000);
        let shown = largest([kinds, vec![named]].concat(), 10);
        let mut seen: Vec<_> = shown.iter().map(|(kind, _)| kind).collect();
        seen.dedup();
        assert_eq!((seen.len(), shown.iter().map(|(_, count)| count).sum::<u64>()), (11, total + 1_000));
    }

    #[test]
    fn texts_that_are_long_or_alike_make_one_kind() {
        let long =
            |end: &str| Kind::from(v1::Kind { zone: Some("ü".repeat(200) + end), ..v1::Kind::default() });
        assert_eq!(long("a").zone.len(), 127);
        assert_eq!(largest(vec![(long("a"), 1), (long("b"), 2)], 10), [(long("a"), 3)]);
    }
}
