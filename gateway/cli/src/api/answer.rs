//! What a gateway answers.
//!
//! Rows are taken as they come, in the order of their fields: a gateway that is newer than this program may have more.

use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// An answer that is no error.
#[derive(Debug, Deserialize)]
pub(crate) struct Answer {
    /// About the answer.
    #[serde(default)]
    pub(crate) meta: Object,
    /// A row, or any number of them.
    #[serde(default, deserialize_with = "one_or_many")]
    pub(crate) data: Vec<Object>,
}

/// An answer that is one.
#[derive(Debug, Deserialize)]
pub(crate) struct Rejection {
    pub(crate) code: i64,
    pub(crate) message: String,
    #[serde(default)]
    pub(crate) meta: Option<RejectionMeta>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct RejectionMeta {
    #[serde(default)]
    pub(crate) nodes: Option<Nodes>,
}

/// Which nodes have answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Nodes {
    /// Expected. An error that is about some nodes tells neither this nor how many answered.
    #[serde(default)]
    pub(crate) total: u64,
    #[serde(default)]
    pub(crate) answered: u64,
    pub(crate) failed: Vec<FailedNode>,
}

/// A node whose clients are missing, and why.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct FailedNode {
    pub(crate) node: String,
    pub(crate) reason: String,
}

impl Nodes {
    /// Takes in the nodes of a further page of the same walk: a node that failed one page is missing in the whole.
    pub(crate) fn join(&mut self, page: Self) {
        self.total = self.total.max(page.total);
        for failed in page.failed {
            if !self.failed.iter().any(|known| known.node == failed.node) {
                self.failed.push(failed);
            }
        }
        self.answered = self.total.saturating_sub(self.failed.len() as u64);
    }
}

/// A JSON object with its members in the order they came.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Object(pub(crate) Vec<(String, Value)>);

impl Object {
    /// The member of this name.
    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// A member that is a text, or an empty one.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    /// A member that is a count.
    pub(crate) fn count(&self, name: &str) -> Option<u64> {
        self.get(name).and_then(Value::as_u64)
    }

    /// Puts a member in place of the one of its name, or at the end.
    pub(crate) fn set(&mut self, name: &str, value: Value) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, member)) => *member = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    /// Takes members out.
    pub(crate) fn remove(&mut self, names: &[&str]) {
        self.0.retain(|(name, _)| !names.contains(&name.as_str()));
    }

    /// Of a list's `meta`, which nodes have answered.
    pub(crate) fn nodes(&self) -> Option<Nodes> {
        self.get("nodes").and_then(|nodes| Nodes::deserialize(nodes).ok())
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Object(members))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Object>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Data {
        Many(Vec<Object>),
        One(Object),
    }

    Ok(match Data::deserialize(deserializer)? {
        Data::Many(rows) => rows,
        Data::One(row) => vec![row],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_keep_their_order_and_what_is_new_in_them() {
        for (text, rows) in [
            (r#"{"code":0,"meta":{"z":1},"data":[{"z":1,"a":{"b":null},"n":18446744073709551615}]}"#, 1),
            (r#"{"code":0,"meta":{},"data":{"z":1,"a":2}}"#, 1),
            (r#"{"code":0,"data":[]}"#, 0),
        ] {
            let answer: Answer = serde_json::from_str(text).unwrap();
            assert_eq!(answer.data.len(), rows, "{text}");
            for row in &answer.data {
                assert!(text.contains(&serde_json::to_string(row).unwrap()), "{text}");
            }
        }
    }

    #[test]
    fn a_node_that_fails_any_page_is_missing_in_the_whole() {
        let failed = |node: &str| FailedNode { node: node.into(), reason: "timeout".into() };
        let mut walk = Nodes { total: 3, answered: 3, failed: vec![] };
        walk.join(Nodes { total: 3, answered: 2, failed: vec![failed("a")] });
        walk.join(Nodes { total: 3, answered: 1, failed: vec![failed("b"), failed("a")] });
        walk.join(Nodes { total: 3, answered: 3, failed: vec![] });
        assert_eq!(walk, Nodes { total: 3, answered: 1, failed: vec![failed("a"), failed("b")] });
    }
}
