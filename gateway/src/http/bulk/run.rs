//! The kicks of a bulk kick, one after the other at their rate, and the lines that tell of them.
//!
//! It runs on its own, not in its answer's body: a kick that has begun comes to its end and on record, whoever listens. No
//! more begin once nobody does, once the gateway is shutting down, or once one cannot be put on record; a client that
//! reads slowly holds up those that have not begun.

use std::collections::HashMap;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{self, JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until, timeout_at};

use super::lines::{ClientLine, LastLine, Progress, ProgressLine, Stop};
use super::turns::{FAILURES, Turns};
use crate::audit::{Outcome, Totals};
use crate::cluster::{Cluster, ClusterError, Ended, KickAnswer, Scope, Session};
use crate::http::Drain;
use crate::http::error::ApiError;
use crate::http::kicks::elsewhere;
use crate::http::pieces::Pieces;
use crate::http::record::{Ending, Pending};
use crate::page::completeness::{Completeness, FailedNode};

/// How often a line says how far it has come.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Kicks that are late may be made up for, up to those of so much time.
const MOST_BEHIND: Duration = Duration::from_millis(100);

/// How long a client is waited for that does not read, once the gateway is to end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// One kick to be.
#[derive(Clone, Debug)]
pub(super) enum Target {
    /// Of a client, wherever it is then.
    Client(String),
    /// Of a session that was found.
    Session(Session),
}

/// A bulk kick that is about to begin.
pub(super) struct Run {
    pub(super) cluster: Cluster,
    pub(super) drain: Drain,
    pub(super) scope: Scope,
    pub(super) targets: Vec<Target>,
    /// How long each may take.
    pub(super) each: Duration,
    /// Kicks a second.
    pub(super) rate: u32,
    /// Of finding them.
    pub(super) completeness: Completeness,
    pub(super) pieces: Pieces,
    /// On record as asked for.
    pub(super) pending: Pending,
    /// Taken until the end.
    pub(super) place: OwnedSemaphorePermit,
}

/// The state of a bulk kick.
struct Going {
    targets: Vec<Target>,
    turns: Turns,
    begun: JoinSet<Report>,
    /// Of each that has begun the number of its target.
    numbers: HashMap<task::Id, usize>,
    completeness: Completeness,
    totals: Totals,
    done: u64,
    /// Written, not yet handed over.
    lines: Vec<u8>,
    stopped: Option<Stop>,
}

impl Run {
    pub(super) async fn run(self) {
        let Self { cluster, drain, scope, targets, each, rate, completeness, pieces, pending, place } = self;
        let from = Instant::now();
        let mut going = Going::new(targets, completeness);
        going.tell_progress();
        let mut ticks = interval_at(from + PROGRESS_INTERVAL, PROGRESS_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let pause = Duration::from_secs(1) / rate;
        let mut due = from;
        while going.stopped.is_none() && (going.turns.has_next() || !going.begun.is_empty()) {
            tokio::select! {
                biased;
                Some(ended) = going.begun.join_next_with_id() => going.take_in(ended),
                () = drain.begun() => going.stopped = Some(Stop::Draining),
                () = pieces.client_gone() => going.stopped = Some(Stop::ClientGone),
                _ = ticks.tick() => going.tell_progress(),
                () = sleep_until(due), if going.turns.has_next() => {
                    let Some(number) = going.turns.next() else { continue };
                    let target = going.targets[number].clone();
                    let pending = pending.one(target.clientid(), target.node(&scope));
                    let kick = Kick { cluster: cluster.clone(), scope: scope.clone(), target, pending };
                    let task = going.begun.spawn(kick.carry_out(each));
                    going.numbers.insert(task.id(), number);
                    due = (due + pause).max(Instant::now().checked_sub(MOST_BEHIND).unwrap_or(due));
                }
            }
            while let Some(ended) = going.begun.try_join_next_with_id() {
                going.take_in(ended);
            }
            going.hand_over(&pieces, &drain).await;
        }
        while let Some(ended) = going.begun.join_next_with_id().await {
            going.take_in(ended);
            going.hand_over(&pieces, &drain).await;
        }
        let request = pending.request().map(str::to_owned);
        going.end(&pieces, &drain, pending).await;
        let Going { totals, stopped, .. } = going;
        tracing::info!(
            target: "rollcall_gateway::access",
            request,
            ?totals,
            ?stopped,
            duration_ms = from.elapsed().as_micros() as f64 / 1000.0,
            "bulk kick ended"
        );
        drop(place);
    }
}

impl Going {
    fn new(targets: Vec<Target>, completeness: Completeness) -> Self {
        Self {
            turns: Turns::new(queues(&targets)),
            targets,
            begun: JoinSet::new(),
            numbers: HashMap::new(),
            completeness,
            totals: Totals::default(),
            done: 0,
            lines: Vec::new(),
            stopped: None,
        }
    }

    fn take_in(&mut self, ended: Result<(task::Id, Report), JoinError>) {
        let (number, report) = match ended {
            Ok((task, report)) => (self.numbers.remove(&task), report),
            Err(error) => {
                // Its place in the record says that its outcome is unknown.
                tracing::error!(%error, "a kick has no outcome");
                let message = "a defect of the gateway; it may have been carried out".to_owned();
                (self.numbers.remove(&error.id()), Report::new(Outcome::Unknown, Some(message)))
            }
        };
        // Every task was given a number when it began.
        let Some(number) = number else { return };
        if report.unrecorded {
            self.stopped.get_or_insert(Stop::Unrecorded);
        }
        for node in &report.failed {
            self.completeness.lacks(node.clone());
        }
        let given_up = self.turns.ended(number, report.owner_failed);
        self.tell(number, &report);
        for number in given_up {
            self.tell(number, &Report::given_up());
        }
    }

    fn tell(&mut self, number: usize, report: &Report) {
        let total = match report.outcome {
            Some(Outcome::Kicked) => &mut self.totals.kicked,
            Some(Outcome::Gone) => &mut self.totals.gone,
            Some(Outcome::Moved) => &mut self.totals.moved,
            Some(Outcome::NotFound) => &mut self.totals.not_found,
            Some(Outcome::Unknown) => &mut self.totals.unknown,
            Some(_) => &mut self.totals.failed,
            None => &mut self.totals.left,
        };
        *total += 1;
        self.done += u64::from(report.outcome.is_some());
        let target = &self.targets[number];
        let line = ClientLine {
            clientid: target.clientid(),
            node: target.found_on(),
            outcome: report.outcome,
            kicked_on: &report.kicked_on,
            message: report.message.as_deref(),
        };
        write(&mut self.lines, &line);
    }

    fn tell_progress(&mut self) {
        let (done, of, kicked) = (self.done, self.targets.len() as u64, self.totals.kicked);
        write(&mut self.lines, &ProgressLine { progress: Progress { done, of, kicked } });
    }

    /// Hands over what is written, if anybody takes it. Once the gateway is to end, who is slow is not waited for.
    async fn hand_over(&mut self, pieces: &Pieces, drain: &Drain) {
        if self.lines.is_empty() || self.stopped == Some(Stop::ClientGone) {
            self.lines.clear();
            return;
        }
        let is_taken = tokio::select! {
            taken = pieces.send(std::mem::take(&mut self.lines).into()) => taken.is_ok(),
            () = no_longer_waited_for(drain) => false,
        };
        if !is_taken {
            self.stopped = Some(Stop::ClientGone);
        }
    }

    /// Tells of what has not begun, and of the whole.
    async fn end(&mut self, pieces: &Pieces, drain: &Drain, pending: Pending) {
        for number in self.turns.left() {
            self.tell(number, &Report::left());
        }
        let whole = if self.stopped.is_none() { Outcome::Done } else { Outcome::Stopped };
        let message = self.stopped.map(|stop| stop.to_string());
        let ending = Ending { totals: Some(self.totals), message, ..Ending::new(whole) };
        pending.end(ending).await;
        let count = self.targets.len() as u64;
        write(&mut self.lines, &LastLine::new(count, self.totals, self.stopped, &self.completeness));
        self.hand_over(pieces, drain).await;
        tokio::select! {
            // Whoever has gone does not mind.
            _ = pieces.end() => {}
            () = no_longer_waited_for(drain) => {}
        }
    }
}

/// Ready some time after the gateway is told to end.
async fn no_longer_waited_for(drain: &Drain) {
    drain.begun().await;
    sleep(LAST_WORDS).await;
}

/// A line of JSON.
fn write(lines: &mut Vec<u8>, line: &impl Serialize) {
    // Keys are text and writing to memory cannot fail.
    let _ = serde_json::to_writer(&mut *lines, line);
    lines.push(b'\n');
}

/// Of each target, the number of the queue it stands in: one for each node, or one for all where their nodes are not
/// known.
fn queues(targets: &[Target]) -> Vec<usize> {
    let mut nodes: Vec<Option<&str>> = Vec::new();
    let mut queue = |node| match nodes.iter().position(|other| *other == node) {
        Some(known) => known,
        None => {
            nodes.push(node);
            nodes.len() - 1
        }
    };
    targets.iter().map(|target| queue(target.found_on())).collect()
}

impl Target {
    fn clientid(&self) -> &str {
        match self {
            Self::Client(clientid) => clientid,
            Self::Session(session) => session.clientid(),
        }
    }

    /// The node that had it, where that is known.
    fn found_on(&self) -> Option<&str> {
        match self {
            Self::Client(_) => None,
            Self::Session(session) => Some(session.node()),
        }
    }

    /// The only node it is kicked on, where there is one.
    fn node<'a>(&'a self, scope: &'a Scope) -> Option<&'a str> {
        match (self, scope) {
            (Self::Client(_), Scope::Only(nodes)) if nodes.len() == 1 => nodes.first().map(String::as_str),
            _ => self.found_on(),
        }
    }
}

/// One kick.
struct Kick {
    cluster: Cluster,
    scope: Scope,
    target: Target,
    /// Not yet on record.
    pending: Pending,
}

/// What became of one.
#[derive(Debug)]
struct Report {
    /// `None` if it has not begun.
    outcome: Option<Outcome>,
    kicked_on: Vec<String>,
    message: Option<String>,
    /// Nodes that did not answer.
    failed: Vec<FailedNode>,
    /// The node with the session is among them.
    owner_failed: bool,
    /// It was not carried out, since it could not be put on record.
    unrecorded: bool,
}

impl Kick {
    async fn carry_out(mut self, each: Duration) -> Report {
        if let Err(error) = self.pending.begin(None).await {
            let clientid = self.target.clientid();
            tracing::error!(%error, %clientid, "a kick cannot be put on record, so it is not carried out");
            let message = ApiError::Unrecorded.to_string();
            return Report { unrecorded: true, ..Report::new(Outcome::Failed, Some(message)) };
        }
        let deadline = Instant::now() + each;
        let kick = async {
            match &self.target {
                Target::Client(clientid) => {
                    Report::of_client(self.cluster.kick(clientid, &self.scope, deadline).await)
                }
                Target::Session(session) => {
                    Report::of_session(session.node(), self.cluster.end(session, deadline).await)
                }
            }
        };
        let late = |_| Report::new(Outcome::Unknown, Some(ApiError::Deadline { kick: true }.to_string()));
        let report = timeout_at(deadline, kick).await.unwrap_or_else(late);
        let ending = Ending {
            kicked_on: report.kicked_on.clone(),
            message: report.message.clone(),
            ..Ending::new(report.outcome.unwrap_or(Outcome::Unknown))
        };
        self.pending.end(ending).await;
        report
    }
}

impl Report {
    fn new(outcome: Outcome, message: Option<String>) -> Self {
        Self {
            outcome: Some(outcome),
            kicked_on: Vec::new(),
            message,
            failed: Vec::new(),
            owner_failed: false,
            unrecorded: false,
        }
    }

    /// Of one that is not begun.
    fn left() -> Self {
        Self { outcome: None, ..Self::new(Outcome::Failed, None) }
    }

    /// Of one that is not tried.
    fn given_up() -> Self {
        let message = format!("not tried, since its node has failed {FAILURES} kicks in a row");
        Self::new(Outcome::Failed, Some(message))
    }

    fn of_client(answer: Result<KickAnswer, ClusterError>) -> Self {
        let error = match answer {
            Ok(KickAnswer { kicked_on, completeness }) => {
                let message = elsewhere(&completeness);
                let failed = completeness.failed;
                return Self { kicked_on, failed, ..Self::new(Outcome::Kicked, message) };
            }
            Err(error) => error,
        };
        let outcome = match &error {
            ClusterError::NotFound { .. } => Outcome::NotFound,
            ClusterError::Moved { .. } => Outcome::Moved,
            error if error.may_have_kicked() => Outcome::Unknown,
            _ => Outcome::Failed,
        };
        let report = Self::new(outcome, Some(error.to_string()));
        match error {
            ClusterError::OwnerFailed { kicked_on, failed, .. }
            | ClusterError::Moved { kicked_on, failed, .. } => Self { kicked_on, failed, ..report },
            ClusterError::NobodyAnswered { failed } | ClusterError::NotFoundIncomplete { failed, .. } => {
                Self { failed, ..report }
            }
            _ => report,
        }
    }

    fn of_session(node: &str, ended: Ended) -> Self {
        let told = |outcome, message: &str| Self::new(outcome, Some(message.to_owned()));
        match ended {
            Ended::Kicked => Self { kicked_on: vec![node.to_owned()], ..Self::new(Outcome::Kicked, None) },
            Ended::Gone => told(Outcome::Gone, "the session had ended"),
            Ended::Moved => {
                told(Outcome::Moved, "the client has another session by now, which was left alone")
            }
            Ended::Restarted => told(
                Outcome::Moved,
                "the node has started again, and which of its sessions this was is not known",
            ),
            Ended::Refused(owner) => Self {
                failed: vec![owner.clone()],
                owner_failed: true,
                ..told(Outcome::Failed, &format!("node {} refused the kick ({})", owner.node, owner.reason))
            },
            Ended::Unknown(owner) => {
                let FailedNode { node, reason, .. } = &owner;
                let message =
                    format!("node {node} did not confirm the kick ({reason}); it may have been carried out");
                Self { failed: vec![owner], owner_failed: true, ..Self::new(Outcome::Unknown, Some(message)) }
            }
        }
    }
}
