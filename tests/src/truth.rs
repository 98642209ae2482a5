//! What may be answered while nodes fail: all of what the nodes that answered have, and the names of the others.
//!
//! A check takes an answer as it came and says what is wrong with it. Nothing here knows which nodes were well: an answer
//! that names a node as failed is held to that, and one that names none is held to be whole.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::http::Response;
use crate::model::{Query, identity, rendered};

/// Why a node may be missing.
const REASONS: [&str; 5] = ["unreachable", "timeout", "overloaded", "protocol", "draining"];

/// The clients of a cluster that do not change, and its nodes.
#[derive(Clone, Debug)]
pub struct Truth {
    /// Rows as in a table.
    pub rows: Vec<Value>,
    /// Names, in the gateway's order.
    pub nodes: Vec<String>,
    /// How the gateway reaches each, host:port. It calls nodes so that have never told their name.
    pub addresses: Vec<String>,
}

/// How an answer that is right came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every node answered.
    Whole,
    /// Some nodes are named as missing.
    Partial,
    /// An error, which names the nodes that are missing.
    Refused,
}

/// What is wrong with an answer.
pub type Wrong = String;

impl Truth {
    /// What a page must be.
    ///
    /// # Errors
    /// [`Wrong`].
    pub fn list(
        &self,
        query: &Query,
        page: usize,
        limit: usize,
        response: &Response,
    ) -> Result<Verdict, Wrong> {
        let body = json(response)?;
        let scope = self.scope(query);
        if response.status != 200 {
            return self.refusal(response.status, &body, &scope, true);
        }
        let failed = self.failed(&body, &scope)?;
        let expected = self.select(query, &failed);
        let meta = &body["meta"];
        same("count", &meta["count"], &json!(expected.len()))?;
        let start = expected.len().min((page - 1) * limit);
        let end = expected.len().min(start + limit);
        same_rows(rows(&body)?, &expected[start..end])?;
        same("hasnext", &meta["hasnext"], &json!(end < expected.len()))?;
        Ok(verdict(&failed))
    }

    /// What one client must be.
    ///
    /// # Errors
    /// [`Wrong`].
    pub fn get(&self, clientid: &str, response: &Response) -> Result<Verdict, Wrong> {
        let body = json(response)?;
        let query = Query { filters: vec![("clientid".into(), clientid.into())], ..Query::default() };
        let scope = self.scope(&query);
        if response.status != 200 {
            let verdict = self.refusal(response.status, &body, &scope, false)?;
            let failed = self.failed(&body, &scope)?;
            return match self.select(&query, &failed).first() {
                Some(row) => Err(format!("refused, though {} has it and answered", row["node"])),
                None => Ok(verdict),
            };
        }
        let failed = self.failed(&body, &scope)?;
        let rows = rows(&body)?;
        if rows.is_empty() && !failed.is_empty() {
            return Err(format!("said to be nowhere, though {failed:?} did not answer"));
        }
        same_rows(rows, &self.select(&query, &failed))?;
        Ok(verdict(&failed))
    }

    /// What a count by `node` must be.
    ///
    /// # Errors
    /// [`Wrong`].
    pub fn count(&self, query: &Query, response: &Response) -> Result<Verdict, Wrong> {
        let body = json(response)?;
        let scope = self.scope(query);
        if response.status != 200 {
            return self.refusal(response.status, &body, &scope, true);
        }
        let failed = self.failed(&body, &scope)?;
        let expected = self.select(query, &failed);
        same("count", &body["meta"]["count"], &json!(expected.len()))?;
        let mut groups: BTreeMap<&str, usize> = BTreeMap::new();
        for row in expected {
            *groups.entry(row["node"].as_str().unwrap_or_default()).or_default() += 1;
        }
        let told: BTreeMap<&str, usize> = rows(&body)?
            .iter()
            .filter_map(|group| {
                Some((group["value"].as_str()?, usize::try_from(group["count"].as_u64()?).ok()?))
            })
            .collect();
        if told != groups {
            return Err(format!("groups are {told:?}, expected {groups:?}"));
        }
        Ok(verdict(&failed))
    }

    /// What an export as NDJSON must be: of nodes that failed, all or none at the beginning, and where it broke off no
    /// gap before that.
    ///
    /// # Errors
    /// [`Wrong`].
    pub fn export(&self, query: &Query, response: &Response) -> Result<Verdict, Wrong> {
        let scope = self.scope(query);
        if response.status != 200 {
            return self.refusal(response.status, &json(response)?, &scope, true);
        }
        let text = std::str::from_utf8(&response.body).map_err(|error| error.to_string())?;
        let mut lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).map_err(|error| format!("{error}: {line}")))
            .collect::<Result<_, _>>()?;
        let end = lines.pop().ok_or("nothing at all")?;
        same("the last line's count", &end["meta"]["count"], &json!(lines.len()))?;
        let failed = self.failed(&end, &scope)?;
        same("complete", &end["meta"]["complete"], &json!(failed.is_empty()))?;
        if failed.is_empty() {
            same_rows(&lines, &self.select(query, &failed))?;
            return Ok(Verdict::Whole);
        }
        let names: Vec<&String> = failed.iter().collect();
        let without = |bits: usize| -> BTreeSet<String> {
            let is_in = |at: &usize| bits >> at & 1 == 1;
            (0..names.len()).filter(is_in).map(|at| names[at].clone()).collect()
        };
        let from_the_start = (0..1_usize << names.len()).map(without);
        let mut wrong = String::new();
        for missing in from_the_start {
            let expected = self.select(query, &missing);
            // If all that failed were missing from the start, nothing broke off.
            let is_short = lines.len() < expected.len() && missing.len() < failed.len();
            let end = if is_short { lines.len() } else { expected.len() };
            match same_rows(&lines, &expected[..end]) {
                Ok(()) => return Ok(Verdict::Partial),
                Err(why) => wrong = why,
            }
        }
        Err(format!("no beginning of an export that lacks {failed:?}: {wrong}"))
    }

    /// An error that nodes are the reason of. If `all`, it takes that every node in scope failed.
    ///
    /// # Errors
    /// [`Wrong`].
    pub fn refusal(&self, status: u16, body: &Value, scope: &[String], all: bool) -> Result<Verdict, Wrong> {
        let message = body["message"].as_str().unwrap_or_default();
        if status == 504 && body["code"] == 101 && message.contains("deadline") {
            return Ok(Verdict::Refused);
        }
        if status != 503 || body["code"] != 101 {
            return Err(format!("status {status}: {body}"));
        }
        // A node in the scope may be one whose agent has not told its name yet.
        if message.contains("no agent has answered yet") {
            return Ok(Verdict::Refused);
        }
        let failed = self.failed(body, scope)?;
        if failed.is_empty() || all && failed.len() < scope.len() {
            return Err(format!("refused though only {failed:?} of {scope:?} failed: {body}"));
        }
        match failed
            .iter()
            .find(|name| !message.contains(name.as_str()) && !message.contains(self.address(name)))
        {
            Some(name) => Err(format!("the message does not name {name}: {message}")),
            None => Ok(Verdict::Refused),
        }
    }

    /// The names in `meta.nodes.failed`, of nodes in scope; with those that answered they are all.
    ///
    /// # Errors
    /// [`Wrong`].
    pub fn failed(&self, body: &Value, scope: &[String]) -> Result<BTreeSet<String>, Wrong> {
        let nodes = &body["meta"]["nodes"];
        let mut names = BTreeSet::new();
        for node in nodes["failed"].as_array().ok_or_else(|| format!("no failed nodes: {body}"))? {
            let told = node["node"].as_str().unwrap_or_default();
            let at = self.addresses.iter().position(|address| address == told);
            let name = at.map_or(told, |at| &self.nodes[at]);
            if !scope.iter().any(|expected| expected == name) || !names.insert(name.to_owned()) {
                return Err(format!("{told:?} is named as failed, expected some of {scope:?} once"));
            }
            if !REASONS.iter().any(|reason| node["reason"] == *reason) {
                return Err(format!("{} is no reason", node["reason"]));
            }
        }
        // Errors tell only who failed.
        if body["code"] != 101 {
            same("nodes.total", &nodes["total"], &json!(scope.len()))?;
            same("nodes.answered", &nodes["answered"], &json!(scope.len() - names.len()))?;
        }
        Ok(names)
    }

    /// The nodes a query asks.
    #[must_use]
    pub fn scope(&self, query: &Query) -> Vec<String> {
        if query.nodes.is_empty() { self.nodes.clone() } else { query.nodes.clone() }
    }

    fn address(&self, name: &str) -> &str {
        let at = self.nodes.iter().position(|node| node == name);
        at.map_or("", |at| &self.addresses[at])
    }

    /// The rows a query selects without those of some nodes.
    fn select(&self, query: &Query, without: &BTreeSet<String>) -> Vec<&Value> {
        let mut rows = query.select(&self.rows);
        rows.retain(|row| !row["node"].as_str().is_some_and(|node| without.contains(node)));
        rows
    }
}

/// The body of an answer that must be JSON.
///
/// # Errors
/// [`Wrong`].
pub fn json(response: &Response) -> Result<Value, Wrong> {
    serde_json::from_slice(&response.body).map_err(|error| {
        format!("status {}, no JSON ({error}): {}", response.status, String::from_utf8_lossy(&response.body))
    })
}

fn verdict(failed: &BTreeSet<String>) -> Verdict {
    if failed.is_empty() { Verdict::Whole } else { Verdict::Partial }
}

/// The rows of a body.
///
/// # Errors
/// [`Wrong`].
pub fn rows(body: &Value) -> Result<&[Value], Wrong> {
    body["data"].as_array().map(Vec::as_slice).ok_or_else(|| format!("data is no array: {body}"))
}

fn same(what: &str, got: &Value, expected: &Value) -> Result<(), Wrong> {
    if got == expected { Ok(()) } else { Err(format!("{what} is {got}, expected {expected}")) }
}

fn same_rows(got: &[Value], expected: &[&Value]) -> Result<(), Wrong> {
    for (at, (row, model)) in got.iter().zip(expected).enumerate() {
        if identity(row) != identity(model) || *row != rendered(model) {
            return Err(format!("row {at} is {row}, expected {}", rendered(model)));
        }
    }
    same("the number of rows", &json!(got.len()), &json!(expected.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn truth() -> Truth {
        let row = |node: &str, id: &str| json!({"node": node, "clientid": id, "conn_state": "connected"});
        Truth {
            rows: vec![row("a", "1"), row("a", "3"), row("b", "2")],
            nodes: vec!["a".into(), "b".into()],
            addresses: vec!["h:1".into(), "h:2".into()],
        }
    }

    fn answer(status: u16, body: &str) -> Response {
        Response { status, headers: Vec::new(), body: body.as_bytes().to_vec() }
    }

    fn list(ids: &[(&str, &str)], count: usize, failed: &[&str]) -> Response {
        let rows: Vec<Value> = ids
            .iter()
            .map(|(node, id)| rendered(&json!({"node": node, "clientid": id, "conn_state": "connected"})))
            .collect();
        let named: Vec<Value> =
            failed.iter().map(|node| json!({"node": node, "reason": "timeout"})).collect();
        let nodes = json!({"total": 2, "answered": 2 - failed.len(), "failed": named});
        let body =
            json!({"code": 0, "data": rows, "meta": {"count": count, "hasnext": false, "nodes": nodes}});
        answer(200, &body.to_string())
    }

    #[test]
    fn an_answer_is_held_to_what_it_says_of_the_nodes() {
        let truth = truth();
        let check = |response: &Response| truth.list(&Query::default(), 1, 10, response);
        assert_eq!(check(&list(&[("a", "1"), ("b", "2"), ("a", "3")], 3, &[])), Ok(Verdict::Whole));
        assert_eq!(check(&list(&[("a", "1"), ("a", "3")], 2, &["b"])), Ok(Verdict::Partial));
        assert_eq!(check(&list(&[("a", "1"), ("a", "3")], 2, &["h:2"])), Ok(Verdict::Partial));
        for wrong in [
            list(&[("a", "1"), ("a", "3")], 2, &[]),
            list(&[("a", "1"), ("b", "2"), ("a", "3")], 3, &["b"]),
            list(&[("b", "2"), ("a", "1"), ("a", "3")], 3, &[]),
            list(&[("a", "1"), ("b", "2"), ("a", "3")], 2, &[]),
            list(&[("a", "1"), ("a", "3")], 2, &["c"]),
            list(&[("a", "1"), ("a", "1"), ("b", "2"), ("a", "3")], 4, &[]),
            answer(500, r#"{"code":101,"message":"x"}"#),
            answer(
                503,
                r#"{"code":101,"message":"x","meta":{"nodes":{"total":2,"answered":1,"failed":[{"node":"b","reason":"timeout"}]}}}"#,
            ),
        ] {
            assert!(check(&wrong).is_err(), "{}", String::from_utf8_lossy(&wrong.body));
        }
    }

    #[test]
    fn nobody_is_denied_while_a_node_is_silent() {
        let truth = truth();
        assert_eq!(truth.get("2", &list(&[("b", "2")], 1, &["a"])), Ok(Verdict::Partial));
        assert_eq!(truth.get("9", &list(&[], 0, &[])), Ok(Verdict::Whole));
        assert!(truth.get("9", &list(&[], 0, &["a"])).is_err());
        assert!(truth.get("2", &list(&[], 0, &[])).is_err());
        let refused = r#"{"code":101,"message":"not b","meta":{"nodes":{"total":2,"answered":1,"failed":[{"node":"b","reason":"timeout"}]}}}"#;
        assert_eq!(truth.get("2", &answer(503, refused)), Ok(Verdict::Refused));
        assert!(truth.get("1", &answer(503, refused)).is_err(), "a has it and answered");
    }

    #[test]
    fn an_export_has_no_gap_and_says_when_it_is_short() {
        let truth = truth();
        let export = |ids: &[(&str, &str)], failed: &[&str], complete: bool| {
            let body = list(ids, ids.len(), failed).json();
            let mut lines: Vec<String> =
                body["data"].as_array().unwrap().iter().map(Value::to_string).collect();
            let meta = json!({"complete": complete, "count": ids.len(), "nodes": body["meta"]["nodes"]});
            lines.push(json!({"meta": meta}).to_string());
            truth.export(&Query::default(), &answer(200, &lines.join("\n")))
        };
        assert_eq!(export(&[("a", "1"), ("b", "2"), ("a", "3")], &[], true), Ok(Verdict::Whole));
        assert_eq!(export(&[("a", "1"), ("a", "3")], &["b"], false), Ok(Verdict::Partial));
        assert_eq!(export(&[("a", "1"), ("b", "2")], &["b"], false), Ok(Verdict::Partial));
        assert!(export(&[("a", "1"), ("b", "2")], &[], true).is_err());
        assert!(export(&[("b", "2"), ("a", "3")], &["b"], false).is_err(), "a gap");
        assert!(export(&[("a", "1"), ("b", "2")], &["b"], true).is_err());
        assert!(truth.export(&Query::default(), &answer(200, "")).is_err());
    }
}
