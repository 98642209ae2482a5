//! Kicks: which were asked for and carried out, what answers to them must be, and that they end whom they were asked to end
//! and nobody else.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::check::{self, Nodes, Selection, Wrong, refused, shown};
use crate::http::{Answer, Answered, Asked};
use crate::truth::{Session, Truth, Window};
use crate::world::State;

/// How long after a kick the same client is not kicked again: what one kick did must not be taken for another's.
const KICK_PAUSE: u64 = 8_000;

/// Clients that a dry run shows.
const SAMPLE: usize = 100;

/// Kicks asked for and carried out.
#[derive(Debug, Default)]
pub(crate) struct Kicks {
    pub(crate) asked: Vec<AskedKick>,
    /// When which session was ended by one.
    pub(crate) done: Vec<(u64, u32)>,
    /// When a broker did not confirm one, of which client, and the reason its node is then named for.
    pub(crate) unconfirmed: Vec<(u64, String, &'static str)>,
    /// Sessions that a confirmed kick has ended, and when that was known.
    pub(crate) confirmed: BTreeMap<u32, u64>,
}

/// One request for kicks.
#[derive(Clone, Debug)]
pub(crate) struct AskedKick {
    whom: Whom,
    from: u64,
    /// When it had to be known who matches.
    found_by: u64,
    /// When it was answered, or given up.
    pub(crate) to: u64,
    /// It was refused as a whole.
    was_refused: bool,
    /// Of whom the answer says that nothing was ended, by filter on which node.
    spared: Vec<(String, Option<String>)>,
}

/// Whom a kick is asked for.
#[derive(Clone, Debug)]
pub(crate) enum Whom {
    /// These, wherever they are.
    Clients(Vec<String>),
    /// The sessions that match.
    Matching(Selection),
}

impl Whom {
    fn may_mean(&self, clientid: &str) -> bool {
        match self {
            Self::Clients(ids) => ids.iter().any(|id| id == clientid),
            Self::Matching(selection) => selection.may_match(clientid),
        }
    }

    /// Whether both may mean the same client.
    fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Clients(ids), other) | (other, Self::Clients(ids)) => {
                ids.iter().any(|id| other.may_mean(id))
            }
            (Self::Matching(_), Self::Matching(_)) => true,
        }
    }
}

impl Kicks {
    /// Notes what is about to be asked for; `None` if it may mean somebody whom another kick may still end.
    pub(crate) fn begin(&mut self, whom: Whom, asked: &Asked, now: u64) -> Option<usize> {
        let is_in_doubt = |kick: &AskedKick| kick.to + KICK_PAUSE > now && kick.whom.overlaps(&whom);
        if self.asked.iter().any(is_in_doubt) {
            return None;
        }
        self.asked.push(AskedKick {
            whom,
            from: now,
            found_by: now + asked.deadline_ms(),
            // Until it is answered it may take as long as this.
            to: now + asked.most_ms().unwrap_or_default(),
            was_refused: false,
            spared: Vec::new(),
        });
        Some(self.asked.len() - 1)
    }
}

impl AskedKick {
    /// The time of which what was found may be true.
    fn finding(&self) -> Window {
        Window { from: self.from, to: self.found_by.min(self.to) }
    }

    /// Whether it may end this session.
    fn means(&self, session: &Session) -> bool {
        match &self.whom {
            Whom::Clients(ids) => ids.contains(&session.clientid) && session.born() <= self.to,
            Whom::Matching(selection) => {
                session.within(self.finding()).any(|version| selection.matches(session, version))
            }
        }
    }

    /// Whether its answer says that it has not ended this session. Where two agents follow one broker, a line about one
    /// of them says nothing of what the other did.
    fn spares(&self, truth: &Truth, session: &Session) -> bool {
        let window = Window { from: self.from, to: self.to + KICK_PAUSE };
        let names = truth.names(session.broker, window);
        self.was_refused
            || self.spared.iter().any(|(clientid, node)| {
                *clientid == session.clientid
                    && node.as_ref().is_none_or(|node| names.len() == 1 && names.contains(node.as_str()))
            })
    }
}

/// Sessions that ended though nobody asked for it, or the answer says that they have not, or that began after the kick was
/// answered; and several where one was asked for.
pub(crate) fn out_of_place(state: &State) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut by_request = vec![BTreeMap::<&str, Vec<&Session>>::new(); state.kicks.asked.len()];
    for &(at, uid) in &state.kicks.done {
        let Some(session) = state.truth.session(uid) else { continue };
        let client = session.clientid.as_str();
        let mut asked = state.kicks.asked.iter().enumerate();
        let asked =
            asked.find(|(_, asked)| asked.from <= at && at <= asked.to + KICK_PAUSE && asked.means(session));
        match asked {
            Some((_, asked)) if asked.spares(&state.truth, session) => {
                wrong.push(format!("at {at} ms: {client} was kicked, which the answer denies"));
            }
            Some((request, _)) => by_request[request].entry(client).or_default().push(session),
            None => wrong.push(format!("at {at} ms: {client} was kicked, which nobody asked for")),
        }
    }
    for (asked, clients) in state.kicks.asked.iter().zip(by_request) {
        let window = Window { from: asked.from, to: asked.to + KICK_PAUSE };
        for (client, sessions) in clients {
            let [first, second, ..] = sessions[..] else { continue };
            let is_excused = match &asked.whom {
                // Where a client is on several brokers it is looked for once more.
                Whom::Clients(_) => state.truth.sessions().iter().any(|session| {
                    session.clientid == client
                        && session.broker != first.broker
                        && session.within(window).next().is_some()
                }),
                // Two agents that follow one broker are read at different moments.
                Whom::Matching(_) => state.truth.names(first.broker, window).len() > 1,
            };
            if second.broker == first.broker && !is_excused {
                wrong.push(format!("one kick of {client} at {} ms ended two of its sessions", asked.from));
            }
        }
    }
    wrong
}

/// The sessions of a client that were kicked within the time.
fn kicked<'a>(
    truth: &'a Truth,
    window: Window,
    clientid: &'a str,
) -> impl Iterator<Item = &'a Session> + Clone {
    truth.sessions().iter().filter(move |session| {
        let is_meanwhile = session.ended.is_some_and(|ended| window.from <= ended && ended <= window.to);
        session.clientid == clientid && session.kicked && is_meanwhile
    })
}

/// A kick of one client. Sessions that it is known to have ended are noted.
pub(crate) fn one(state: &mut State, answered: &Answered, clientid: &str, wrong: &mut Wrong) {
    let window = answered.window;
    let Some(answer) = &answered.answer else { return };
    let truth = &state.truth;
    let body = answer.json();
    match (answer.status, body["code"].as_u64()) {
        (200, Some(0)) => {
            let nodes = check::nodes(truth, window, &body["meta"], wrong);
            if nodes.owes(truth, window, clientid) {
                wrong.push(format!("the kick of {clientid} was confirmed and it is still there"));
            }
            let data = body["data"].as_array().cloned().unwrap_or_default();
            let on = data.iter().map(|row| row["node"].as_str().unwrap_or_default());
            was_kicked_on(truth, window, clientid, on, wrong);
            let ended: Vec<u32> = kicked(truth, window, clientid).map(|session| session.uid).collect();
            state.kicks.confirmed.extend(ended.into_iter().map(|uid| (uid, window.to)));
        }
        (404, Some(112)) => not_found(truth, window, clientid, wrong),
        (502..=504, Some(101)) => {}
        _ => wrong.push(format!("a kick answered {}", shown(answer))),
    }
}

/// A client is said to be kicked on these nodes.
fn was_kicked_on<'a>(
    truth: &Truth,
    window: Window,
    clientid: &str,
    on: impl Iterator<Item = &'a str>,
    wrong: &mut Wrong,
) {
    let mut on = on.peekable();
    if on.peek().is_none() {
        wrong.push("a kick that names no node".to_owned());
    }
    for node in on {
        let mut kicked = kicked(truth, window, clientid);
        if !kicked.any(|session| truth.names(session.broker, window).contains(node)) {
            wrong.push(format!("{clientid} is said to be kicked on {node}, where it was not"));
        }
    }
}

fn not_found(truth: &Truth, window: Window, clientid: &str, wrong: &mut Wrong) {
    if Nodes::whole().owes(truth, window, clientid) {
        wrong.push(format!("{clientid} is said not to be there, and was all the time"));
    }
    if (0..truth.occupants.len()).any(|slot| truth.is_empty(slot, window)) {
        wrong.push(format!("{clientid} is said not to be there, though a node was down"));
    }
    if kicked(truth, window, clientid).next().is_some() {
        wrong.push(format!("{clientid} is said not to be there, and was kicked"));
    }
}

/// A bulk kick of at most so many. Sessions that it is known to have ended, or not to have ended, are noted.
pub(crate) fn many(state: &mut State, answered: &Answered, kick: usize, most: u64, wrong: &mut Wrong) {
    let Some(answer) = &answered.answer else { return };
    let body = answer.json();
    match (answer.status, body["code"].as_u64()) {
        (200, _) => return stream(state, answered, answer, kick, wrong),
        (503, Some(101)) => refused(answer, wrong),
        (504, Some(101)) => {}
        (409, Some(108)) => {
            let asked = &state.kicks.asked[kick];
            let possible = match &asked.whom {
                Whom::Clients(ids) => ids.len(),
                Whom::Matching(selection) => check::possible(&state.truth, answered.window, selection).len(),
            };
            if possible as u64 <= most {
                wrong.push(format!(
                    "a bulk kick is refused as too large, and may be about {possible} at most"
                ));
            }
        }
        // The gateway carries out as many as it may.
        (503, Some(102)) if shown(answer).contains("bulk kicks already") => {}
        _ => wrong.push(format!("a bulk kick answered {}", shown(answer))),
    }
    state.kicks.asked[kick].was_refused = true;
}

/// The lines of a bulk kick.
fn stream(state: &mut State, answered: &Answered, answer: &Answer, kick: usize, wrong: &mut Wrong) {
    let (window, asked) = (answered.window, state.kicks.asked[kick].clone());
    let mut lines = answer.lines();
    let end = lines.pop_if(|line| line.get("meta").is_some());
    let (progress, lines): (Vec<Value>, Vec<Value>) =
        lines.into_iter().partition(|line| line.get("progress").is_some());
    let mut told = BTreeSet::new();
    for line in &lines {
        if !told.insert((text(line, "clientid"), line["node"].as_str())) {
            wrong.push(format!("told twice: {line}"));
        }
    }
    let mut spared = Vec::new();
    let mut confirmed = Vec::new();
    for line in &lines {
        one_of_many(state, answered, &asked, line, wrong);
        let (clientid, kicked_on) = (text(line, "clientid"), kicked_on(line));
        let outcome = text(line, "outcome");
        if outcome != "unknown" && kicked_on.is_empty() {
            spared.push((clientid.to_owned(), line["node"].as_str().map(str::to_owned)));
        }
        confirmed.extend(
            kicked(&state.truth, window, clientid)
                .filter(|session| {
                    let names = state.truth.names(session.broker, window);
                    kicked_on.iter().any(|node| names.contains(node))
                })
                .map(|session| (session.uid, window.to)),
        );
    }
    match &end {
        Some(end) => whole(state, answered, &asked, (&lines, &progress), end, wrong),
        None if answer.is_whole => wrong.push("a bulk kick that ends well without a last line".to_owned()),
        None => {}
    }
    state.kicks.confirmed.extend(confirmed);
    state.kicks.asked[kick].spared = spared;
}

fn text<'a>(line: &'a Value, key: &str) -> &'a str {
    line[key].as_str().unwrap_or_default()
}

fn kicked_on(line: &Value) -> Vec<&str> {
    line["kicked_on"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// What became of one client or session.
fn one_of_many(state: &State, answered: &Answered, asked: &AskedKick, line: &Value, wrong: &mut Wrong) {
    let (truth, window) = (&state.truth, answered.window);
    let (clientid, node) = (text(line, "clientid"), line["node"].as_str());
    let kicked_on = kicked_on(line);
    let is_asked_for = match (&asked.whom, node) {
        (Whom::Clients(ids), None) => ids.iter().any(|id| id == clientid),
        (Whom::Matching(_), Some(node)) => truth.sessions().iter().any(|session| {
            session.clientid == clientid
                && asked.means(session)
                && truth.names(session.broker, asked.finding()).contains(node)
        }),
        _ => false,
    };
    if !is_asked_for {
        wrong.push(format!("a bulk kick tells of somebody who was not meant: {line}"));
    }
    let is_by_filter = node.is_some();
    match text(line, "outcome") {
        "kicked" if is_by_filter && kicked_on != node.as_slice() => {
            wrong.push(format!("kicked elsewhere than it was found: {line}"));
        }
        "kicked" => was_kicked_on(truth, window, clientid, kicked_on.into_iter(), wrong),
        "not_found" if !is_by_filter && kicked_on.is_empty() => not_found(truth, window, clientid, wrong),
        "gone" if is_by_filter && kicked_on.is_empty() => {
            let owed = Nodes::whole().owed(truth, window, &check::everyone());
            if owed.iter().any(|at| at.session.clientid == clientid && Some(at.node) == node) {
                wrong.push(format!("said to be gone, and was there all the time: {line}"));
            }
        }
        "moved" if kicked_on.is_empty() => {}
        "failed" if kicked_on.is_empty() => {}
        "moved" | "unknown" if !is_by_filter && !kicked_on.is_empty() => {
            was_kicked_on(truth, window, clientid, kicked_on.into_iter(), wrong);
        }
        "unknown" if kicked_on.is_empty() => {
            let is_unconfirmed = state
                .kicks
                .unconfirmed
                .iter()
                .any(|(at, of, _)| of == clientid && (window.from..=window.to).contains(at));
            if !is_unconfirmed && !state.excuses.any && !check::is_short(answered) {
                wrong.push(format!("said to be unknown, though nothing went wrong: {line}"));
            }
        }
        _ => wrong.push(format!("a bulk kick that makes no sense: {line}")),
    }
}

/// A bulk kick that came to its end.
fn whole(
    state: &State,
    answered: &Answered,
    asked: &AskedKick,
    (lines, progress): (&[Value], &[Value]),
    end: &Value,
    wrong: &mut Wrong,
) {
    let (truth, window, meta) = (&state.truth, answered.window, &end["meta"]);
    let is = |line: &Value, outcomes: &[&str]| outcomes.contains(&text(line, "outcome"));
    let nodes = check::nodes(truth, window, meta, wrong);
    if meta["count"] != lines.len() || meta.get("stopped").is_some() {
        wrong.push(format!("{} clients over the line {end}", lines.len()));
    }
    for outcome in ["kicked", "gone", "moved", "not_found", "failed", "unknown", "left"] {
        let count = lines.iter().filter(|line| is(line, &[outcome])).count();
        if meta["outcomes"][outcome] != count {
            wrong.push(format!("{count} are {outcome} over the line {end}"));
        }
    }
    let is_complete =
        nodes.all_answered && !lines.iter().any(|line| is(line, &["failed", "unknown", "left"]));
    if meta["complete"] != is_complete {
        wrong.push(format!("complete should be {is_complete} in {end}"));
    }
    let done: Vec<Option<u64>> = progress.iter().map(|line| line["progress"]["done"].as_u64()).collect();
    let is_of_all = |line: &Value| line["progress"]["of"] == lines.len();
    if !done.is_sorted() || done.first() != Some(&Some(0)) || !progress.iter().all(is_of_all) {
        wrong.push(format!("progress that makes no sense: {progress:?}"));
    }
    match &asked.whom {
        Whom::Clients(ids) => {
            for id in ids {
                if !lines.iter().any(|line| line["clientid"] == id.as_str()) {
                    wrong.push(format!("{id} was to be kicked, and nothing is said of it"));
                }
            }
            for line in lines.iter().filter(|line| is(line, &["kicked"])) {
                if nodes.owes(truth, window, text(line, "clientid")) {
                    wrong.push(format!("said to be kicked, and still there: {line}"));
                }
            }
            if nodes.all_answered && lines.iter().any(|line| is(line, &["failed"])) {
                wrong.push(format!("failed, though every node answered: {end}"));
            }
        }
        Whom::Matching(selection) => {
            for owed in nodes.owed(truth, asked.finding(), selection) {
                let clientid = owed.session.clientid.as_str();
                if !lines.iter().any(|line| line["clientid"] == clientid && line["node"] == owed.node) {
                    wrong
                        .push(format!("{clientid} on {} matched all the time and is not told of", owed.node));
                }
            }
            let all = Nodes::whole().owed(truth, window, &check::everyone());
            for line in lines.iter().filter(|line| is(line, &["kicked"])) {
                let is_it = |at: &&check::At<'_>| {
                    line["clientid"] == at.session.clientid.as_str() && line["node"] == at.node
                };
                if all.iter().any(|at| is_it(&at)) {
                    wrong.push(format!("said to be kicked, and still there: {line}"));
                }
            }
        }
    }
    for session in truth.sessions().iter().filter(|session| asked.means(session) && session.kicked) {
        let is_told = |line: &Value| {
            line["clientid"] == session.clientid.as_str() && is(line, &["kicked", "moved", "unknown"])
        };
        let is_meanwhile = session.ended.is_some_and(|ended| (window.from..=window.to).contains(&ended));
        if is_meanwhile && !lines.iter().any(is_told) {
            wrong.push(format!("{} was kicked, and nothing is said of that", session.clientid));
        }
    }
}

/// A dry run.
pub(crate) fn dry_run(state: &State, answered: &Answered, whom: &Whom, most: u64, wrong: &mut Wrong) {
    let Some(answer) = &answered.answer else { return };
    let body = answer.json();
    match (answer.status, body["code"].as_u64()) {
        (200, Some(0)) => {}
        (503, Some(101)) => return refused(answer, wrong),
        (504, Some(101)) => return,
        (503, Some(102)) if shown(answer).contains("bulk kicks already") => return,
        _ => return wrong.push(format!("a dry run answered {}", shown(answer))),
    }
    let (truth, window, meta) = (&state.truth, answered.window, &body["meta"]);
    let nodes = check::nodes(truth, window, meta, wrong);
    let ids_or = |selection: &Selection, session: &Session| match whom {
        Whom::Clients(ids) => ids.contains(&session.clientid),
        Whom::Matching(_) => selection.may_match(&session.clientid),
    };
    let everyone = check::everyone();
    let selection = if let Whom::Matching(selection) = whom { selection } else { &everyone };
    let owed = nodes.owed(truth, window, selection);
    let owed = owed.iter().filter(|at| ids_or(selection, at.session)).count();
    let possible = check::possible(truth, window, selection);
    let possible: Vec<_> = possible.into_iter().filter(|session| ids_or(selection, session)).collect();
    let count = meta["count"].as_u64();
    check::between(count, owed, possible.len(), wrong);
    let by_node = meta["by_node"].as_array().cloned().unwrap_or_default();
    let sum: u64 = by_node.iter().filter_map(|node| node["count"].as_u64()).sum();
    let limited = if let Whom::Clients(ids) = whom { Some(ids.len() as u64) } else { count };
    if Some(sum) != count || meta["within_max"] != limited.is_some_and(|limited| limited <= most) {
        wrong.push(format!("a dry run that makes no sense: {meta}"));
    }
    let rows = body["data"].as_array().cloned().unwrap_or_default();
    if rows.len() > SAMPLE {
        wrong.push(format!("{} rows in a dry run", rows.len()));
    }
    for row in rows {
        let (clientid, node) = (text(&row, "clientid"), text(&row, "node"));
        let is_it = |session: &&Session| {
            session.clientid == clientid && truth.names(session.broker, window).contains(node)
        };
        if !possible.iter().any(is_it) {
            wrong.push(format!("a dry run shows somebody who was not meant: {row}"));
        }
    }
}
