//! Which group of a count a client belongs to.

use crate::ClientRef;
use crate::v1::{ConnState, Group, GroupBy, Kind, group::Value};

/// The value that clients of one group have in common, borrowed from one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GroupValue<'a> {
    /// Of a zone, a protocol name or a user name.
    Text(&'a str),
    /// Of a protocol level.
    Number(u32),
    /// Of Clean Start.
    Flag(bool),
    /// Of the connection state; never unspecified.
    ConnState(ConnState),
    /// Of zone, protocol and connection state together; every client has one.
    Kind {
        /// The listener's zone.
        zone: Option<&'a str>,
        /// The protocol's name.
        proto_name: Option<&'a str>,
        /// The protocol's level.
        proto_ver: Option<u32>,
        /// The connection's state; here it may be unspecified.
        conn_state: ConnState,
    },
}

impl<'a> GroupValue<'a> {
    /// The value by which a client is grouped; `None` if it has none, or where there are no groups.
    #[must_use]
    pub fn of(group_by: GroupBy, client: &ClientRef<'a>) -> Option<Self> {
        match group_by {
            GroupBy::Unspecified => None,
            GroupBy::Zone => client.zone.map(Self::Text),
            GroupBy::ProtoName => client.proto_name.map(Self::Text),
            GroupBy::ProtoVer => client.proto_ver.map(Self::Number),
            GroupBy::ConnState => {
                Some(client.conn_state).filter(|state| *state != ConnState::Unspecified).map(Self::ConnState)
            }
            GroupBy::CleanStart => client.clean_start.map(Self::Flag),
            GroupBy::Username => client.username.map(Self::Text),
            GroupBy::Kind => Some(Self::Kind {
                zone: client.zone,
                proto_name: client.proto_name,
                proto_ver: client.proto_ver,
                conn_state: client.conn_state,
            }),
        }
    }
}

impl From<GroupValue<'_>> for Value {
    fn from(value: GroupValue<'_>) -> Self {
        match value {
            GroupValue::Text(text) => Self::Text(text.to_owned()),
            GroupValue::Number(number) => Self::Number(number),
            GroupValue::Flag(flag) => Self::Flag(flag),
            GroupValue::ConnState(state) => Self::ConnState(state.into()),
            GroupValue::Kind { zone, proto_name, proto_ver, conn_state } => Self::Kind(Kind {
                zone: zone.map(str::to_owned),
                proto_name: proto_name.map(str::to_owned),
                proto_ver,
                conn_state: conn_state.into(),
            }),
        }
    }
}

impl Group {
    /// So many clients of one value.
    #[must_use]
    pub fn of(value: Option<GroupValue<'_>>, count: u64) -> Self {
        Self { value: value.map(Value::from), count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::Client;

    #[test]
    fn each_field_gives_its_value_and_an_absent_one_none() {
        let client = Client {
            username: Some("u".into()),
            zone: Some("z".into()),
            proto_name: Some("MQTT".into()),
            proto_ver: Some(5),
            clean_start: Some(false),
            conn_state: ConnState::Idle.into(),
            ..Client::default()
        };
        let bare = Client::default();
        for (group_by, expected) in [
            (GroupBy::Unspecified, None),
            (GroupBy::Zone, Some(GroupValue::Text("z"))),
            (GroupBy::ProtoName, Some(GroupValue::Text("MQTT"))),
            (GroupBy::ProtoVer, Some(GroupValue::Number(5))),
            (GroupBy::ConnState, Some(GroupValue::ConnState(ConnState::Idle))),
            (GroupBy::CleanStart, Some(GroupValue::Flag(false))),
            (GroupBy::Username, Some(GroupValue::Text("u"))),
        ] {
            assert_eq!(GroupValue::of(group_by, &client.as_client_ref()), expected, "{group_by:?}");
            assert_eq!(GroupValue::of(group_by, &bare.as_client_ref()), None, "{group_by:?}");
        }
        let kind = |client: &Client| GroupValue::of(GroupBy::Kind, &client.as_client_ref()).map(Value::from);
        let (zone, proto_name) = (Some("z".to_owned()), Some("MQTT".to_owned()));
        let expected = Kind { zone, proto_name, proto_ver: Some(5), conn_state: ConnState::Idle.into() };
        assert_eq!(kind(&client), Some(Value::Kind(expected)));
        assert_eq!(kind(&bare), Some(Value::Kind(Kind::default())));
    }
}
