//! Somebody who asks a gateway for everything there is to ask, at random, and checks every answer.
//!
//! An answer has to be right by [`Truth`], and to come by the deadline and the contract's 250 ms. What a busy machine adds to
//! that is allowed for ([`SLACK`]).

use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};

use crate::http::{self, Response, basic, encode};
use crate::model::{Query, random_query};
use crate::rows::EPOCH_MS;
use crate::sandbox::{BASE, OPERATOR};
use crate::truth::{self, Truth, Verdict, Wrong};

/// By how much an answer may come later than the contract says, on a machine that does a dozen other things.
pub const SLACK: Duration = Duration::from_secs(3);

/// What the contract adds to a deadline.
const GRACE: Duration = Duration::from_millis(250);

/// Pages of a walk that may be refused before it is given up.
const MOST_REFUSALS: usize = 3;

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A page of a list.
    List,
    /// A whole list by cursor.
    Walk,
    /// One client.
    Get,
    /// A count by node.
    Count,
    /// An export as NDJSON.
    Export,
    /// A kick of a client that has not been kicked before.
    Kick,
    /// A bulk kick of some of those.
    KickMany,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::List, Self::Walk, Self::Get, Self::Count, Self::Export, Self::Kick, Self::KickMany];
}

/// How often requests of one kind came out in what way.
#[derive(Debug, Default)]
pub struct Tally {
    /// Answers over all nodes.
    pub whole: AtomicU64,
    /// Answers that name what they lack.
    pub partial: AtomicU64,
    /// Errors that name what they lack.
    pub refused: AtomicU64,
    /// No answer: the connection broke. Only where the gateway, or the way to it, is disturbed.
    pub broken: AtomicU64,
    /// The slowest answer, microseconds.
    pub slowest: AtomicU64,
}

/// What all askers of a test share.
#[derive(Debug)]
pub struct Asked {
    /// What is true.
    pub truth: Truth,
    /// Clients to be kicked: id and node, each once.
    spares: Vec<(String, String)>,
    next_spare: AtomicUsize,
    /// Of each node, how often its table was, or may have been, read anew.
    restarts: Vec<AtomicU64>,
    /// By kind.
    tallies: [Tally; Kind::ALL.len()],
    /// What was wrong, with the request.
    wrong: Mutex<Vec<Wrong>>,
    /// The gateway's deadline.
    pub timeout: Duration,
}

/// One who asks.
#[derive(Debug)]
pub struct Asker<'a> {
    asked: &'a Asked,
    gateway: SocketAddr,
    random: StdRng,
    /// Whether a connection may break without an answer.
    may_break: bool,
}

impl Asked {
    /// Of a gateway whose deadline is `timeout`.
    #[must_use]
    pub fn new(truth: Truth, spares: Vec<(String, String)>, timeout: Duration) -> Self {
        let restarts = truth.nodes.iter().map(|_| AtomicU64::new(0)).collect();
        Self {
            truth,
            spares,
            next_spare: AtomicUsize::new(0),
            restarts,
            tallies: std::array::from_fn(|_| Tally::default()),
            wrong: Mutex::default(),
            timeout,
        }
    }

    /// The rows of `per_node` clients of each node that are there to be kicked. No list of an [`Asker`] shows them: their
    /// sessions began later than those it asks for.
    #[must_use]
    pub fn spare_rows(nodes: &[String], per_node: usize) -> Vec<Value> {
        let rows = |node: &String| {
            let node = node.clone();
            (0..per_node).map(move |at| {
                json!({
                    "node": node, "clientid": format!("spare-{at}-of-{node}"), "conn_state": "connected",
                    "created_at_ms": EPOCH_MS + 1_000_000_000_i64, "connected_at_ms": EPOCH_MS + 1_000_000_000_i64,
                })
            })
        };
        nodes.iter().flat_map(rows).collect()
    }

    /// Someone who asks this gateway.
    #[must_use]
    pub fn asker(&self, gateway: SocketAddr, random: StdRng, may_break: bool) -> Asker<'_> {
        Asker { asked: self, gateway, random, may_break }
    }

    /// Says that a node is about to start again, with the clients of its table.
    pub fn note_restart(&self, node: usize) {
        self.restarts[node].fetch_add(1, Ordering::SeqCst);
    }

    /// How requests of a kind came out.
    #[must_use]
    pub fn tally(&self, kind: Kind) -> &Tally {
        let at = Kind::ALL.iter().position(|other| *other == kind).unwrap_or_default();
        &self.tallies[at]
    }

    /// All that was wrong so far.
    #[must_use]
    pub fn wrong(&self) -> Vec<Wrong> {
        self.wrong.lock().map(|wrong| wrong.clone()).unwrap_or_default()
    }

    /// Notes that something was wrong.
    pub fn note_wrong(&self, wrong: Wrong) {
        if let Ok(mut all) = self.wrong.lock() {
            all.push(wrong);
        }
    }

    /// Requests of all kinds so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        let of = |tally: &Tally| {
            [&tally.whole, &tally.partial, &tally.refused, &tally.broken]
                .iter()
                .map(|count| count.load(Ordering::Relaxed))
                .sum::<u64>()
        };
        self.tallies.iter().map(of).sum()
    }

    /// Asserts that nothing was wrong.
    ///
    /// # Panics
    /// If something was, with the first of it.
    pub fn assert_right(&self) {
        let wrong = self.wrong();
        let first: Vec<&Wrong> = wrong.iter().take(3).collect();
        assert!(wrong.is_empty(), "{} wrong answers of {}: {first:#?}", wrong.len(), self.requests());
    }

    fn note(&self, kind: Kind, outcome: Result<Option<Verdict>, Wrong>) {
        let tally = self.tally(kind);
        match outcome {
            Ok(Some(Verdict::Whole)) => &tally.whole,
            Ok(Some(Verdict::Partial)) => &tally.partial,
            Ok(Some(Verdict::Refused)) => &tally.refused,
            Ok(None) => &tally.broken,
            Err(wrong) => {
                self.note_wrong(format!("{kind:?}: {wrong}"));
                return;
            }
        }
        .fetch_add(1, Ordering::Relaxed);
    }
}

impl Asker<'_> {
    /// Asks something of any kind.
    pub fn ask_any(&mut self) {
        let kind = *Kind::ALL.choose(&mut self.random).unwrap_or(&Kind::List);
        // Those to be kicked have to last.
        let is_too_many = kind == Kind::KickMany && self.random.random_bool(0.7);
        self.ask(if is_too_many { Kind::List } else { kind });
    }

    /// Asks something of this kind and notes how it came out.
    pub fn ask(&mut self, kind: Kind) {
        // When nobody is left to be kicked.
        let is_over = self.asked.next_spare.load(Ordering::Relaxed) >= self.asked.spares.len();
        let is_kick = matches!(kind, Kind::Kick | Kind::KickMany);
        let kind = if is_kick && is_over { Kind::Get } else { kind };
        let outcome = match kind {
            Kind::List => self.list(),
            Kind::Walk => self.walk(),
            Kind::Get => self.get(),
            Kind::Count => self.count(),
            Kind::Export => self.export(),
            Kind::Kick => self.kick(),
            Kind::KickMany => self.kick_many(),
        };
        self.asked.note(kind, outcome);
    }

    /// Sends a request; `None` if no answer came and none had to.
    fn send(&self, kind: Kind, method: &str, target: &str) -> Result<Option<Response>, Wrong> {
        let authorization = basic(OPERATOR.0, OPERATOR.1);
        let head = format!(
            "{method} {BASE}{target} HTTP/1.1\r\nhost: h\r\nconnection: close\r\nauthorization: {authorization}\r\n\r\n"
        );
        self.exchange(kind, &format!("{method} {target}"), head.as_bytes())
    }

    /// Sends the bytes of a request.
    fn exchange(&self, kind: Kind, what: &str, request: &[u8]) -> Result<Option<Response>, Wrong> {
        let begun = Instant::now();
        let answer = http::send(self.gateway, request);
        let took = begun.elapsed();
        let waits = match kind {
            // For the nodes twice: until they begin, and for the next rows.
            Kind::Export => 3,
            // Until it is known who the nodes are, and then for kicks that are all asked for at once.
            Kind::KickMany => 2,
            _ => 1,
        };
        let most = (self.asked.timeout + GRACE) * waits + SLACK;
        self.asked.tally(kind).slowest.fetch_max(took.as_micros() as u64, Ordering::Relaxed);
        if took > most {
            return Err(format!("{what} took {took:?}, expected at most {most:?}"));
        }
        match answer {
            Ok(response) => Ok(Some(response)),
            Err(error) if self.may_break && error.kind() != io::ErrorKind::TimedOut => Ok(None),
            Err(error) => Err(format!("{what}: {error}")),
        }
    }

    fn query(&mut self) -> Query {
        let truth = &self.asked.truth;
        let mut query = random_query(&mut self.random, &truth.rows, &truth.nodes);
        // Of the clients in the tables, without those to be kicked, whoever else is there.
        query.filters.retain(|(name, _)| name != "_lte_created_at");
        query.filters.push(("_lte_created_at".into(), (EPOCH_MS / 1000 + 100_000).to_string()));
        query
    }

    fn list(&mut self) -> Result<Option<Verdict>, Wrong> {
        let query = self.query();
        let limit = self.random.random_range(1..60);
        let page = self.random.random_range(1..8);
        let target = query.target(page, limit);
        let Some(response) = self.send(Kind::List, "GET", &target)? else { return Ok(None) };
        let verdict = self.asked.truth.list(&query, page, limit, &response);
        verdict.map(Some).map_err(|wrong| format!("{target}: {wrong}"))
    }

    fn walk(&mut self) -> Result<Option<Verdict>, Wrong> {
        let query = self.query();
        let limit = self.random.random_range(20..200);
        let expected = query.select(&self.asked.truth.rows);
        let (mut cursor, mut walked) = (String::new(), Vec::new());
        let mut refusals = 0;
        loop {
            let target = format!("{}&_partial=false", query.target_behind(&cursor, limit));
            let Some(response) = self.send(Kind::Walk, "GET", &target)? else { return Ok(None) };
            let body = truth::json(&response)?;
            if response.status != 200 {
                let scope = self.asked.truth.scope(&query);
                let refused = self.asked.truth.refusal(response.status, &body, &scope, false);
                refused.map_err(|wrong| format!("{target}: {wrong}"))?;
                refusals += 1;
                if refusals > MOST_REFUSALS {
                    return Ok(Some(Verdict::Refused));
                }
                continue;
            }
            walked.extend(truth::rows(&body)?.iter().map(crate::model::identity));
            body["meta"]["cursor"].as_str().unwrap_or_default().clone_into(&mut cursor);
            if cursor.is_empty() {
                break;
            }
        }
        let expected: Vec<_> = expected.into_iter().map(crate::model::identity).collect();
        if walked != expected {
            return Err(format!(
                "a walk of {query:?} by {limit} has {} clients, expected {}, or in another order",
                walked.len(),
                expected.len()
            ));
        }
        Ok(Some(Verdict::Whole))
    }

    fn get(&mut self) -> Result<Option<Verdict>, Wrong> {
        let row = self.asked.truth.rows.choose(&mut self.random);
        let own = row.and_then(|row| row["clientid"].as_str()).filter(|id| !id.is_empty());
        // Now and then one whom nobody has.
        let clientid = own.filter(|_| self.random.random_bool(0.8)).unwrap_or("nobody").to_owned();
        let target = format!("/clients/{}", encode(&clientid));
        let Some(response) = self.send(Kind::Get, "GET", &target)? else { return Ok(None) };
        let verdict = self.asked.truth.get(&clientid, &response);
        verdict.map(Some).map_err(|wrong| format!("{target}: {wrong}"))
    }

    fn count(&mut self) -> Result<Option<Verdict>, Wrong> {
        let query = Query { sort: None, order: None, ..self.query() };
        let target = query.target(1, 1).replace("/clients?_page=1&_limit=1", "/client_counts?_group_by=node");
        let Some(response) = self.send(Kind::Count, "GET", &target)? else { return Ok(None) };
        let verdict = self.asked.truth.count(&query, &response);
        verdict.map(Some).map_err(|wrong| format!("{target}: {wrong}"))
    }

    fn export(&mut self) -> Result<Option<Verdict>, Wrong> {
        let query = self.query();
        let target = query.target(1, 1).replace("/clients?_page=1&_limit=1&", "/client_export?");
        let Some(response) = self.send(Kind::Export, "GET", &target)? else { return Ok(None) };
        // Exports have a limit of their own.
        if response.status == 503 && response.header("retry-after").is_some() {
            return Ok(Some(Verdict::Refused));
        }
        let verdict = self.asked.truth.export(&query, &response);
        verdict.map(Some).map_err(|wrong| format!("{target}: {wrong}"))
    }

    /// Kicks somebody for the first time. Whoever is kicked stays away until the node starts again.
    fn kick(&mut self) -> Result<Option<Verdict>, Wrong> {
        let at = self.asked.next_spare.fetch_add(1, Ordering::Relaxed);
        let Some((clientid, node)) = self.asked.spares.get(at) else { return Ok(Some(Verdict::Refused)) };
        let truth = &self.asked.truth;
        let number = truth.nodes.iter().position(|name| name == node).unwrap_or_default();
        let restarts = || self.asked.restarts[number].load(Ordering::SeqCst);
        let before = restarts();
        let target = format!("/clients/{clientid}");
        let Some(response) = self.send(Kind::Kick, "DELETE", &target)? else { return Ok(None) };
        let body = truth::json(&response)?;
        let wrong = |what: &str| format!("kick of {clientid} on {node}: {what}: {} {body}", response.status);
        match response.status {
            200 => {
                let failed = truth.failed(&body, &truth.nodes).map_err(|why| wrong(&why))?;
                if body["data"] != json!([{"node": node, "clientid": clientid}]) || failed.contains(node) {
                    return Err(wrong("not there"));
                }
                if let Some(after) = self.send(Kind::Get, "GET", &target)?
                    && after.status == 200
                    && !truth::rows(&truth::json(&after)?)?.is_empty()
                    && restarts() == before
                {
                    return Err(wrong("confirmed, and still shown"));
                }
                Ok(Some(if failed.is_empty() { Verdict::Whole } else { Verdict::Partial }))
            }
            502 | 504 if body["code"] == 101 => Ok(Some(Verdict::Refused)),
            503 if body["message"].as_str().is_some_and(|text| text.contains("kept moving")) => {
                if restarts() == before { Err(wrong("it stood still")) } else { Ok(Some(Verdict::Refused)) }
            }
            503 => {
                truth.refusal(503, &body, &truth.nodes, false).map_err(|why| wrong(&why))?;
                if truth.failed(&body, &truth.nodes)?.contains(node) {
                    Ok(Some(Verdict::Refused))
                } else {
                    Err(wrong("its node answered"))
                }
            }
            _ => Err(wrong("expected 200, or an error that names its node")),
        }
    }

    /// Kicks some at once for the first time.
    fn kick_many(&mut self) -> Result<Option<Verdict>, Wrong> {
        let count = self.random.random_range(2..=4);
        let from = self.asked.next_spare.fetch_add(count, Ordering::Relaxed);
        let all = self.asked.spares.iter().skip(from).take(count);
        let truth = &self.asked.truth;
        let restarts = |node: &str| {
            let number = truth.nodes.iter().position(|name| name == node).unwrap_or_default();
            self.asked.restarts[number].load(Ordering::SeqCst)
        };
        let spares: Vec<_> = all.map(|(clientid, node)| (clientid, node, restarts(node))).collect();
        if spares.is_empty() {
            return Ok(Some(Verdict::Refused));
        }
        let ids: Vec<&String> = spares.iter().map(|(clientid, ..)| *clientid).collect();
        let body = json!({"clientids": ids, "rate": 1000}).to_string();
        let (authorization, length) = (basic(OPERATOR.0, OPERATOR.1), body.len());
        let request = format!(
            "POST {BASE}/client_kicks HTTP/1.1\r\nhost: h\r\nconnection: close\r\nauthorization: {authorization}\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        let what = format!("bulk kick of {body}");
        let Some(response) = self.exchange(Kind::KickMany, &what, request.as_bytes())? else {
            return Ok(None);
        };
        let wrong = |why: &str| {
            format!("{what}: {why}: {} {}", response.status, String::from_utf8_lossy(&response.body))
        };
        if response.status != 200 {
            // Bulk kicks have a limit of their own.
            let is_full = response.status == 503 && response.header("retry-after").is_some();
            let is_late = response.status == 504 && truth::json(&response)?["code"] == 101;
            let is_refusal = is_full || is_late;
            return is_refusal.then_some(Some(Verdict::Refused)).ok_or_else(|| wrong("expected 200"));
        }
        let text = String::from_utf8_lossy(&response.body);
        let lines: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
        let mut lines = lines.map_err(|error| wrong(&error.to_string()))?;
        let last = lines.pop().ok_or_else(|| wrong("nothing at all"))?;
        lines.retain(|line| line.get("progress").is_none());
        let failed = truth.failed(&last, &truth.nodes).map_err(|why| wrong(&why))?;
        if lines.len() != spares.len() || last["meta"]["count"] != lines.len() {
            return Err(wrong("not one line for each"));
        }
        let mut is_whole = failed.is_empty();
        for &(clientid, node, before) in &spares {
            let line = lines.iter().find(|line| line["clientid"] == clientid.as_str());
            let line = line.ok_or_else(|| wrong(&format!("nothing is said of {clientid}")))?;
            match line["outcome"].as_str() {
                Some("kicked") if line["kicked_on"] == json!([node]) => {}
                Some("failed" | "unknown") if failed.contains(node) => is_whole = false,
                // Its agent may have started again.
                Some("moved") if restarts(node) != before => {}
                _ => return Err(wrong(&format!("{clientid} is on {node}"))),
            }
        }
        if last["meta"]["complete"] != is_whole {
            return Err(wrong("complete is not so"));
        }
        let is_kicked = |clientid: &str| {
            lines.iter().any(|line| line["clientid"] == clientid && line["outcome"] == "kicked")
        };
        if let Some((clientid, node, before)) = spares.into_iter().find(|(clientid, ..)| is_kicked(clientid))
            && let Some(after) = self.send(Kind::Get, "GET", &format!("/clients/{clientid}"))?
            && after.status == 200
            && !truth::rows(&truth::json(&after)?)?.is_empty()
            && restarts(node) == before
        {
            return Err(wrong(&format!("{clientid} is said to be kicked, and is shown")));
        }
        Ok(Some(if is_whole { Verdict::Whole } else { Verdict::Partial }))
    }
}
