//! What every answer must be, given what is so.
//!
//! A list is compared with the truth of the time from request to answer: who was there all that time on a node that
//! answered must be shown, who was not there at any moment of it must not. A node is named as failed only if it has a cause. Nodes that the answer names as failed, and
//! addresses behind which an agent came or went meanwhile, owe nothing.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use rollcall_tests::http::encode;
use serde_json::Value;

use crate::broker::figure;
use crate::http::{Answer, Answered};
use crate::truth::{Session, Truth, Version, Window};
use crate::world::State;

/// A list's order. By whether they are connected clients change their places meanwhile, as they do by all that a new
/// connection brings; by the others they stay where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
    Clientid,
    Username,
    Zone,
    Node,
    CreatedAt,
    ExpiryInterval,
    Connected,
}

impl Sort {
    pub(crate) const ALL: [Self; 7] = [
        Self::Clientid,
        Self::Username,
        Self::Zone,
        Self::Node,
        Self::CreatedAt,
        Self::ExpiryInterval,
        Self::Connected,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Clientid => "clientid",
            Self::Username => "username",
            Self::Zone => "zone",
            Self::Node => "node",
            Self::CreatedAt => "created_at",
            Self::ExpiryInterval => "expiry_interval",
            Self::Connected => "connected",
        }
    }

    fn compare(self, at_a: At<'_>, at_b: At<'_>) -> Ordering {
        let (a, b) = (at_a.session, at_b.session);
        match self {
            Self::Clientid => a.clientid.cmp(&b.clientid),
            Self::Username => a.username.cmp(&b.username),
            Self::Zone => a.zone.cmp(b.zone),
            Self::Node => at_a.node.cmp(at_b.node),
            Self::CreatedAt => a.created_ms.cmp(&b.created_ms),
            Self::ExpiryInterval => a.uid.cmp(&b.uid),
            Self::Connected => at_a.is_connected.cmp(&at_b.is_connected),
        }
    }
}

/// Which clients, in which order.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    pub(crate) sort: Sort,
    pub(crate) descending: bool,
    pub(crate) zone: Option<&'static str>,
    pub(crate) like: Option<String>,
    pub(crate) connected: Option<bool>,
}

impl Selection {
    /// As query parameters, each with its `&`.
    pub(crate) fn parameters(&self) -> String {
        let mut text = format!("&_sort={}", self.sort.name());
        if self.descending {
            text.push_str("&_order=desc");
        }
        text + &self.filter()
    }

    /// The filter alone, as query parameters.
    pub(crate) fn filter(&self) -> String {
        let mut text = String::new();
        if let Some(zone) = self.zone {
            text.push_str(&format!("&zone={zone}"));
        }
        if let Some(like) = &self.like {
            text.push_str(&format!("&_like_clientid={like}"));
        }
        if let Some(connected) = self.connected {
            text.push_str(if connected { "&conn_state=connected" } else { "&conn_state=disconnected" });
        }
        text
    }

    /// The filter alone, as that of a bulk kick.
    pub(crate) fn members(&self) -> Value {
        let mut members = serde_json::Map::new();
        if let Some(zone) = self.zone {
            members.insert("zone".to_owned(), zone.into());
        }
        if let Some(like) = &self.like {
            members.insert("_like_clientid".to_owned(), like.as_str().into());
        }
        if let Some(connected) = self.connected {
            let state = if connected { "connected" } else { "disconnected" };
            members.insert("conn_state".to_owned(), state.into());
        }
        members.into()
    }

    /// Whether a client with this id may match.
    pub(crate) fn may_match(&self, clientid: &str) -> bool {
        self.like.as_ref().is_none_or(|like| clientid.contains(like.as_str()))
    }

    pub(crate) fn matches(&self, session: &Session, version: &Version) -> bool {
        self.zone.is_none_or(|zone| session.zone == zone)
            && self.may_match(&session.clientid)
            && self.connected.is_none_or(|connected| version.is_connected == connected)
    }

    /// Whether a session that was there all the time kept its place in the order.
    fn keeps_place(&self, session: &Session, window: Window) -> bool {
        let mut states = session.within(window).map(|version| version.is_connected);
        let first = states.next();
        self.sort != Sort::Connected || states.all(|state| Some(state) == first)
    }

    /// The total order of the API: the sorted field, absent last, then client id and node.
    fn order(&self, a: At<'_>, b: At<'_>) -> Ordering {
        let (x, y) = (a.session, b.session);
        let is_absent = |session: &Session| self.sort == Sort::Username && session.username.is_none();
        let by_field = is_absent(x).cmp(&is_absent(y)).then_with(|| {
            let order = self.sort.compare(a, b);
            if self.descending { order.reverse() } else { order }
        });
        by_field.then_with(|| x.clientid.cmp(&y.clientid)).then_with(|| a.node.cmp(b.node))
    }
}

/// A session under the name of its node, as it was at some moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At<'a> {
    pub(crate) session: &'a Session,
    pub(crate) node: &'a str,
    pub(crate) is_connected: bool,
}

/// Who answered, as the answer has it.
#[derive(Debug)]
pub(crate) struct Nodes {
    /// Slots that may be among the failed.
    excused: BTreeSet<usize>,
    pub(crate) all_answered: bool,
}

pub(crate) type Wrong = Vec<String>;

/// Every expected node is counted or named; a node that nobody could have reached is named.
pub(crate) fn nodes(truth: &Truth, window: Window, meta: &Value, wrong: &mut Wrong) -> Nodes {
    let slots = truth.occupants.len();
    let nodes = &meta["nodes"];
    let (total, answered) = (nodes["total"].as_u64(), nodes["answered"].as_u64());
    let failed = nodes["failed"].as_array().cloned().unwrap_or_default();
    if total != Some(slots as u64) {
        wrong.push(format!("{total:?} nodes in all, expected {slots}"));
    }
    if answered.map(|answered| answered + failed.len() as u64) != total {
        wrong.push(format!("answered and failed are not all nodes: {nodes}"));
    }
    let mut excused = BTreeSet::new();
    for failed in &failed {
        let label = failed["node"].as_str().unwrap_or_default();
        let slots = truth.slots_of(label);
        if slots.is_empty() {
            wrong.push(format!("failed node {label:?} is none of the cluster"));
        }
        excused.extend(slots);
    }
    let silent = (0..slots).filter(|&slot| truth.is_empty(slot, window)).count();
    if silent > failed.len() {
        wrong.push(format!("{silent} nodes were down all the time, {} are named", failed.len()));
    }
    Nodes { excused, all_answered: failed.is_empty() }
}

impl Nodes {
    /// Where all of them answered.
    pub(crate) fn whole() -> Self {
        Self { excused: BTreeSet::new(), all_answered: true }
    }

    /// What must be seen: who was there all the time on nodes that answered.
    pub(crate) fn owed<'a>(&self, truth: &'a Truth, window: Window, selection: &Selection) -> Vec<At<'a>> {
        let mut owed = Vec::new();
        for slot in (0..truth.occupants.len()).filter(|slot| !self.excused.contains(slot)) {
            let Some(occupant) = truth.stable(slot, window) else { continue };
            owed.extend(
                truth
                    .sessions()
                    .iter()
                    .filter(|session| session.broker == occupant.broker)
                    .filter(|session| {
                        session.throughout(window, |version| selection.matches(session, version))
                    })
                    .map(|session| {
                        let is_connected =
                            session.within(window).next().is_some_and(|version| version.is_connected);
                        At { session, node: &occupant.name, is_connected }
                    }),
            );
        }
        owed
    }

    pub(crate) fn owes(&self, truth: &Truth, window: Window, clientid: &str) -> bool {
        self.owed(truth, window, &everyone()).iter().any(|at| at.session.clientid == clientid)
    }
}

pub(crate) fn everyone() -> Selection {
    Selection { sort: Sort::Clientid, descending: false, zone: None, like: None, connected: None }
}

/// What may be seen: who was there at some moment, on any node.
pub(crate) fn possible<'a>(truth: &'a Truth, window: Window, selection: &Selection) -> Vec<&'a Session> {
    let sessions = truth.sessions().iter();
    sessions
        .filter(|session| session.within(window).any(|version| selection.matches(session, version)))
        .filter(|session| !truth.names(session.broker, window).is_empty())
        .collect()
}

/// The sessions that rows stand for; each must have been there, under the name and with the values it is shown with.
fn rows<'a>(
    state: &'a State,
    window: Window,
    selection: &Selection,
    rows: &'a [Value],
    wrong: &mut Wrong,
) -> Vec<At<'a>> {
    let truth = &state.truth;
    let mut shown: Vec<At<'_>> = Vec::with_capacity(rows.len());
    for row in rows {
        let uid = row["expiry_interval"].as_u64().and_then(|uid| u32::try_from(uid).ok()).unwrap_or(0);
        let Some(session) = truth.session(uid) else {
            wrong.push(format!("a row of nobody: {row}"));
            continue;
        };
        let node = row["node"].as_str().unwrap_or_default();
        if !truth.names(session.broker, window).contains(node) {
            wrong.push(format!("a row under the name of a node that does not have it: {row}"));
        }
        let is_connected = row["connected"].as_bool();
        let is_so = row["clientid"] == session.clientid.as_str()
            && row["username"] == session.username.as_deref().unwrap_or("undefined")
            && row["zone"] == session.zone
            && session.within(window).any(|version| {
                Some(version.is_connected) == is_connected && selection.matches(session, version)
            });
        // Where the broker is too slow a figure is left out.
        let is_so = is_so && (row["mqueue_len"].is_null() || row["mqueue_len"] == figure(uid));
        if !is_so {
            wrong.push(format!("a row that was not so at any moment: {row}, truly {session:?}"));
        }
        if let Some(known) = state.kicks.confirmed.get(&uid).filter(|known| **known <= window.from) {
            wrong.push(format!("{} is shown though its kick was confirmed at {known} ms", session.clientid));
        }
        shown.push(At { session, node, is_connected: is_connected == Some(true) });
    }
    if !shown.is_sorted_by(|a, b| selection.order(*a, *b).is_lt()) {
        wrong.push("the rows are not strictly increasing".to_owned());
    }
    shown
}

/// Where a page begins and how long it may be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    Page { page: u64, limit: u64 },
    Cursor { limit: u64 },
}

/// A page of a list. Gives the uids shown if the page is one that a walk may rely on.
pub(crate) fn list(
    state: &State,
    answered: &Answered,
    selection: &Selection,
    place: Place,
    wrong: &mut Wrong,
) -> Option<Vec<u32>> {
    let (truth, window) = (&state.truth, answered.window);
    let body = success(answered, wrong)?;
    let nodes = nodes(truth, window, &body["meta"], wrong);
    let data = body["data"].as_array().cloned().unwrap_or_default();
    let shown = rows(state, window, selection, &data, wrong);
    let uids: Vec<u32> = shown.iter().map(|at| at.session.uid).collect();
    let owed = nodes.owed(truth, window, selection);
    let possible = possible(truth, window, selection);
    let (count, is_consistent) = (body["meta"]["count"].as_u64(), body["meta"]["consistent"] == true);
    between(count, owed.len(), possible.len(), wrong);
    let limit = match place {
        Place::Page { limit, .. } | Place::Cursor { limit } => limit,
    };
    if uids.len() as u64 > limit {
        wrong.push(format!("{} rows where {limit} were asked for", uids.len()));
    }
    // Where a list or a cursor begins it goes on by keys, whatever nodes do meanwhile; a page by number may say that it
    // is not what it would have been at any moment.
    let goes_by_keys = matches!(place, Place::Cursor { .. } | Place::Page { page: 1, .. });
    if !is_consistent && !goes_by_keys {
        return None;
    }
    let owed: Vec<At<'_>> = owed.into_iter().filter(|at| selection.keeps_place(at.session, window)).collect();
    let is_shown = |at: &&At<'_>| uids.contains(&at.session.uid);
    if let (Some(&first), Some(&last)) = (shown.first(), shown.last()) {
        let inside = |at: &&At<'_>| {
            selection.order(first, **at).is_lt() && selection.order(**at, last).is_lt() && !is_shown(at)
        };
        for lost in owed.iter().filter(inside) {
            wrong.push(format!("{} was there all the time and is not shown", lost.session.clientid));
        }
    }
    let is_end = body["meta"]["hasnext"] == false && limit > 0;
    let cursor = body["meta"]["cursor"].as_str().unwrap_or_default();
    if limit > 0 && cursor.is_empty() != is_end {
        wrong.push("hasnext and cursor do not say the same".to_owned());
    }
    if let (true, Some(&last)) = (is_end, shown.last()) {
        for lost in owed.iter().filter(|at| selection.order(last, **at).is_lt()) {
            wrong.push(format!("{} stands behind the end of the list", lost.session.clientid));
        }
    }
    if let Place::Page { page, limit } = place {
        let offset = (page - 1) * limit;
        let before = |at: &At<'_>| shown.first().is_some_and(|first| selection.order(*at, *first).is_lt());
        let owed_before = owed.iter().filter(|at| before(at)).count() as u64;
        if owed_before > offset {
            wrong.push(format!("{owed_before} clients stand before the page, which begins behind {offset}"));
        }
        let may_be_before = |session: &&Session| {
            let names = truth.names(session.broker, window);
            session.within(window).any(|version| {
                let is_connected = version.is_connected;
                names.iter().any(|node| before(&At { session, node, is_connected }))
            })
        };
        let most_before = possible.iter().copied().filter(may_be_before).count() as u64;
        if !shown.is_empty() && most_before < offset {
            wrong.push(format!(
                "at most {most_before} clients can stand before the page, which begins behind {offset}"
            ));
        }
        if is_end && shown.is_empty() && owed.len() as u64 > offset {
            wrong.push(format!("nothing behind {offset} rows where {} are", owed.len()));
        }
    }
    nodes.all_answered.then_some(uids)
}

/// A walk in which every node answered every page: `seen` are its rows in order, `window` is from the first request
/// to the last answer.
pub(crate) fn walk(state: &State, window: Window, selection: &Selection, seen: &[u32], wrong: &mut Wrong) {
    let mut unique = BTreeSet::new();
    for uid in seen.iter().copied().filter(|uid| !unique.insert(*uid)) {
        // An agent that was restarted numbers its sessions anew, and so may move the client where the page begins.
        let slots = 0..state.truth.occupants.len();
        let mut stable = slots.filter_map(|slot| state.truth.stable(slot, window));
        if let Some(session) = state.truth.session(uid)
            && selection.keeps_place(session, window)
            && stable.any(|occupant| occupant.broker == session.broker)
        {
            wrong.push(format!("a walk shows {} twice", session.clientid));
        }
    }
    let whole = Nodes::whole();
    let owed = whole.owed(&state.truth, window, selection).into_iter();
    for owed in owed.filter(|at| selection.keeps_place(at.session, window)) {
        if !unique.contains(&owed.session.uid) {
            wrong.push(format!("a walk skipped {}, who stayed", owed.session.clientid));
        }
    }
}

/// A count, maybe in groups by zone.
pub(crate) fn count(state: &State, answered: &Answered, selection: &Selection, wrong: &mut Wrong) {
    let Some(body) = success(answered, wrong) else { return };
    let (truth, window) = (&state.truth, answered.window);
    let nodes = nodes(truth, window, &body["meta"], wrong);
    let count = body["meta"]["count"].as_u64();
    let owed = nodes.owed(truth, window, selection).len();
    between(count, owed, possible(truth, window, selection).len(), wrong);
    let Some(groups) = body["data"].as_array().filter(|groups| !groups.is_empty()) else { return };
    let sum: u64 = groups.iter().filter_map(|group| group["count"].as_u64()).sum();
    if Some(sum) != count {
        wrong.push(format!("groups of {sum} in all under a count of {count:?}"));
    }
    for group in groups {
        let zone = crate::truth::ZONES.into_iter().find(|zone| group["value"] == *zone);
        let narrowed = Selection { zone, ..selection.clone() };
        let owed = nodes.owed(truth, window, &narrowed).len();
        between(group["count"].as_u64(), owed, possible(truth, window, &narrowed).len(), wrong);
    }
}

pub(crate) fn between(count: Option<u64>, least: usize, most: usize, wrong: &mut Wrong) {
    if !count.is_some_and(|count| (least as u64..=most as u64).contains(&count)) {
        wrong.push(format!("a count of {count:?} where there were {least} to {most}"));
    }
}

/// Everything under one client id.
pub(crate) fn get(state: &State, answered: &Answered, clientid: &str, wrong: &mut Wrong) {
    let (truth, window) = (&state.truth, answered.window);
    let Some(body) = success(answered, wrong) else { return };
    let nodes = nodes(truth, window, &body["meta"], wrong);
    let data = body["data"].as_array().cloned().unwrap_or_default();
    if data.is_empty() && !nodes.all_answered {
        wrong.push("not found, though not every node said so".to_owned());
    }
    let shown = rows(state, window, &everyone(), &data, wrong);
    if shown.iter().any(|at| at.session.clientid != clientid) {
        wrong.push("another client than asked for".to_owned());
    }
    let owed = nodes.owed(truth, window, &everyone());
    for owed in owed.iter().filter(|at| at.session.clientid == clientid) {
        if !shown.iter().any(|at| at.session.uid == owed.session.uid) {
            wrong.push(format!("{clientid} was there all the time on {} and is not shown", owed.node));
        }
    }
}

/// An export in NDJSON.
pub(crate) fn ndjson(state: &State, answered: &Answered, selection: &Selection, wrong: &mut Wrong) {
    let Some(answer) = &answered.answer else { return };
    if answer.status == 503 {
        return refused(answer, wrong);
    }
    let (truth, window) = (&state.truth, answered.window);
    let mut lines = answer.lines();
    let end = lines.pop_if(|line| line.get("meta").is_some());
    if answer.is_whole && end.is_none() {
        wrong.push("an export that ends well without a last line".to_owned());
    }
    let shown = rows(state, window, selection, &lines, wrong);
    let Some(end) = end else { return };
    let nodes = nodes(truth, window, &end["meta"], wrong);
    let is_complete = end["meta"]["complete"] == true;
    if is_complete != nodes.all_answered {
        wrong.push(format!("complete is {is_complete} in {end}"));
    }
    if end["meta"]["count"] != shown.len() {
        wrong.push(format!("{} rows over the line {end}", shown.len()));
    }
    // A node that failed midway ends the export, and nothing tells it from one that failed before.
    let covers = |at: &At<'_>| {
        let is_before = |last: &At<'_>| selection.order(*at, *last).is_lt();
        is_complete || selection.keeps_place(at.session, window) && shown.last().is_some_and(is_before)
    };
    for owed in nodes.owed(truth, window, selection).into_iter().filter(covers) {
        if !shown.iter().any(|at| at.session.uid == owed.session.uid) {
            wrong.push(format!("an export without {}, who was there all the time", owed.session.clientid));
        }
    }
}

/// An export in CSV of client ids and expiry intervals: whole, or broken off for everyone to see.
pub(crate) fn csv(state: &State, answered: &Answered, selection: &Selection, wrong: &mut Wrong) {
    let Some(answer) = &answered.answer else { return };
    if answer.status == 503 {
        return refused(answer, wrong);
    }
    if !answer.is_whole {
        return;
    }
    let text = String::from_utf8_lossy(&answer.body);
    let uids: BTreeSet<u32> =
        text.lines().skip(1).filter_map(|line| line.rsplit_once(',')?.1.parse().ok()).collect();
    let whole = Nodes::whole();
    for owed in whole.owed(&state.truth, answered.window, selection) {
        if !uids.contains(&owed.session.uid) {
            let clientid = &owed.session.clientid;
            wrong.push(format!("a CSV that looks whole without {clientid}, who was there all the time"));
        }
    }
    if (0..state.truth.occupants.len()).any(|slot| state.truth.is_empty(slot, answered.window)) {
        wrong.push("a CSV that looks whole though a node was down".to_owned());
    }
}

/// A time in which every node answers, if nothing is wrong with it.
const ENOUGH_MS: u64 = 1_000;

/// Nobody is named without a reason: a node is called a liar only where names are in disorder, and where no fault is
/// planned only the time may have been too short.
pub(crate) fn blame(state: &State, answered: &Answered, wrong: &mut Wrong) {
    let Some(answer) = &answered.answer else { return };
    let text = String::from_utf8_lossy(&answer.body);
    // Of an export it is the last line that names nodes.
    let line = text.lines().last().unwrap_or_default();
    let body = serde_json::from_str::<Value>(line).unwrap_or_else(|_| answer.json());
    for failed in body["meta"]["nodes"]["failed"].as_array().into_iter().flatten() {
        let reason = failed["reason"].as_str();
        // A broker that does not do as it is told fails the kick, by the same words.
        let is_unconfirmed = state.kicks.unconfirmed.iter().any(|(at, clientid, expected)| {
            let Window { from, to } = answered.window;
            (from..=to).contains(at) && reason == Some(expected) && is_kick_of(answered, clientid)
        });
        let is_excused = match reason {
            _ if is_unconfirmed => true,
            Some("protocol") => state.excuses.names,
            Some("timeout") => state.excuses.any || is_short(answered),
            Some("unreachable" | "overloaded" | "draining") => state.excuses.any,
            _ => false,
        };
        if !is_excused {
            wrong.push(format!("a node is named that did nothing wrong: {failed}"));
        }
    }
}

/// Whether a request gave a node so little time that it may have been too little.
pub(crate) fn is_short(answered: &Answered) -> bool {
    answered.asked.timeout_ms.is_some_and(|timeout| timeout < ENOUGH_MS)
}

/// Whether a request has kicked, or tried to kick, this client.
fn is_kick_of(answered: &Answered, clientid: &str) -> bool {
    match (answered.asked.method, &answered.answer) {
        ("DELETE", _) => answered.asked.target == format!("/clients/{}", encode(clientid)),
        ("POST", Some(answer)) => answer.lines().iter().any(|line| line["clientid"] == clientid),
        _ => false,
    }
}

/// The body of a 200. What else may come is an error that says which node or time is lacking.
fn success(answered: &Answered, wrong: &mut Wrong) -> Option<Value> {
    let answer = answered.answer.as_ref()?;
    let body = answer.json();
    match (answer.status, body["code"].as_u64()) {
        (200, Some(0)) => return Some(body),
        (503, Some(101)) => refused(answer, wrong),
        (504, Some(101)) => {}
        _ => wrong.push(format!("{} answered {}", answered.asked.target, shown(answer))),
    }
    None
}

/// A 503 names the nodes that are lacking.
pub(crate) fn refused(answer: &Answer, wrong: &mut Wrong) {
    let body = answer.json();
    let failed = body["meta"]["nodes"]["failed"].as_array().map_or(0, Vec::len);
    if body["code"] != 101 || failed == 0 {
        wrong.push(format!("a refusal that names no node: {}", shown(answer)));
    }
}

pub(crate) fn shown(answer: &Answer) -> String {
    format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body))
}
