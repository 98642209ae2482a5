//! What is known of one node: whether it can be asked, since when, and what went wrong. Knows neither network nor
//! clock: it is told of answers and failures.
//!
//! [`NodeState::Connected`] means that a list would be answered: only a probe that went the way of the reads, or a
//! read, makes a node so. What a caller with little time could not wait for changes nothing.
//!
//! # The circuit
//! A node that lets callers wait is not asked for a while. Precisely:
//! - A call *waited in vain* if it ran out of time after [`Policy::probe_timeout`] or more, or if no connection came
//!   about within [`AT_ONCE`]. Whoever asks for less time says nothing of the node.
//! - After [`Policy::circuit_failures`] of these in a row, probes among them, the circuit opens with the next of them that is a
//!   probe. So heavy reads alone never open it while light ones are answered.
//! - While it is open every read of the node fails at once, with the reason of the last failure. Probes go on, one at a
//!   time; they are the trial that is usually called half-open.
//! - The first answer closes it. So does a failure that comes at once: asking a node that refuses costs nobody time, and
//!   it may be back at any moment.

use std::time::{Duration, SystemTime};

use rollcall_proto::v1::{DescribeResponse, Identity};
use rollcall_proto::{Protocol, Reason};

use super::NodeState;
use super::call::CallError;

/// A failure that comes sooner cost nobody time.
const AT_ONCE: Duration = Duration::from_millis(100);

/// When a node is no longer waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How long a probe waits for the node.
    pub probe_timeout: Duration,
    /// How many calls in a row have to wait in vain before the circuit opens; 0: it never does.
    pub circuit_failures: u32,
}

/// Something that went wrong, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastError {
    /// For people, without secrets.
    pub text: String,
    /// When it happened last.
    pub at: SystemTime,
}

/// The name under which an address was known before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renamed {
    /// The name.
    pub from: String,
    /// When another was heard.
    pub at: SystemTime,
}

/// Who made a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    Request,
    Probe,
}

/// What an answer's identity says beyond the last one's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum News {
    Nothing,
    /// The first name heard at the address.
    Named,
    /// Another node is there now.
    Renamed {
        from: String,
    },
    /// The agent has started again.
    Restarted,
}

/// What is known of a node.
#[derive(Clone, Debug)]
pub(super) struct Health {
    policy: Policy,
    pub name: Option<String>,
    pub description: Option<DescribeResponse>,
    pub previous: Option<Renamed>,
    /// Incarnations seen of the node beyond the first.
    pub restarts: u64,
    pub state: NodeState,
    pub since: SystemTime,
    /// How often the state has changed, beside from unknown.
    pub changes: u64,
    pub last_seen: Option<SystemTime>,
    /// Kept when all is well again.
    pub last_error: Option<LastError>,
    /// Failures since the last answer.
    pub failures: u32,
    /// Of those, calls that waited in vain with none in between that did not.
    waited: u32,
    circuit: Option<Reason>,
    /// Why gateway and agent would misread each other; what the last description says, whether the agent is there or not.
    misread: Option<CallError>,
    incarnation: Option<u64>,
}

impl Health {
    pub(super) fn new(policy: Policy, now: SystemTime) -> Self {
        Self {
            policy,
            name: None,
            description: None,
            previous: None,
            restarts: 0,
            state: NodeState::Unknown,
            since: now,
            changes: 0,
            last_seen: None,
            last_error: None,
            failures: 0,
            waited: 0,
            circuit: None,
            misread: None,
            incarnation: None,
        }
    }

    /// Whether it answers, for all that is known.
    pub(super) fn lives(&self) -> bool {
        matches!(self.state, NodeState::Connected | NodeState::Draining)
    }

    /// Why it is no use to ask.
    pub(super) fn barred(&self) -> Option<CallError> {
        if let Some(misread) = &self.misread {
            return Some(misread.clone());
        }
        let reason = self.circuit?;
        let last = self.last_error.as_ref().map_or("", |error| error.text.as_str());
        Some(CallError::not_asked(reason, format!("not asked before a probe is answered; last: {last}")))
    }

    /// The reason that reads fail with at once, while they do.
    pub(super) fn circuit(&self) -> Option<Reason> {
        self.circuit
    }

    /// Whether the next probe should not wait for its turn: it decides whether to go on waiting for the node.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.waited > 0 && self.circuit.is_none()
    }

    /// Takes in the identity that an answer came with.
    pub(super) fn identified(&mut self, identity: &Identity, now: SystemTime) -> News {
        let incarnation = self.incarnation.replace(identity.incarnation);
        match &self.name {
            Some(name) if *name == identity.name => {
                if incarnation.is_none_or(|before| before == identity.incarnation) {
                    return News::Nothing;
                }
                self.restarts += 1;
                News::Restarted
            }
            Some(_) => {
                // What was told of the other node is not true of this one.
                let from = self.name.replace(identity.name.clone()).unwrap_or_default();
                self.description = None;
                self.restarts = 0;
                self.previous = Some(Renamed { from: from.clone(), at: now });
                News::Renamed { from }
            }
            None => {
                self.name = Some(identity.name.clone());
                News::Named
            }
        }
    }

    /// Takes in an answer.
    pub(super) fn answered(&mut self, now: SystemTime) {
        self.last_seen = Some(now);
        self.failures = 0;
        self.is_prompt();
        if matches!(self.state, NodeState::Unknown | NodeState::Unavailable) {
            self.enter(NodeState::Connected, now);
        }
    }

    /// Takes in what the agent says of itself, and whether it can be understood.
    pub(super) fn described(
        &mut self,
        description: DescribeResponse,
        now: SystemTime,
    ) -> Result<(), CallError> {
        self.last_seen = Some(now);
        let compatible = Protocol::OURS.check(Protocol::of(&description));
        self.description = Some(description);
        compatible.map_err(|error| CallError::protocol(error.to_string()))
    }

    /// Takes in that a whole probe was answered.
    pub(super) fn probed(&mut self, now: SystemTime) {
        self.answered(now);
        self.misread = None;
        let drains = self.description.as_ref().is_some_and(|description| description.draining);
        self.enter(if drains { NodeState::Draining } else { NodeState::Connected }, now);
    }

    /// Takes in that gateway and agent would misread each other.
    pub(super) fn incompatible(&mut self, error: &CallError, now: SystemTime) {
        self.is_prompt();
        self.went_wrong(error, now);
        self.misread = Some(error.clone());
        self.enter(NodeState::Incompatible, now);
    }

    /// Takes in a failure after a call of so long.
    pub(super) fn failed(&mut self, error: &CallError, took: Duration, caller: Caller, now: SystemTime) {
        if error.well {
            return self.answered(now);
        }
        let is_timeout = error.reason == Reason::Timeout && !error.told;
        if is_timeout && caller == Caller::Request && took < self.policy.probe_timeout {
            return;
        }
        self.went_wrong(error, now);
        if error.told {
            self.last_seen = Some(now);
        }
        let waited = is_timeout || error.reason == Reason::Unreachable && !error.told && took >= AT_ONCE;
        if waited {
            self.waited = self.waited.saturating_add(1);
            let is_enough = self.policy.circuit_failures > 0 && self.waited >= self.policy.circuit_failures;
            if caller == Caller::Probe && is_enough {
                self.circuit = Some(error.reason);
            }
        } else {
            self.is_prompt();
        }
        let state = match error.reason {
            Reason::Draining => NodeState::Draining,
            // A node at its limit is there, and the limit is of the moment.
            Reason::Overloaded if !self.lives() => NodeState::Connected,
            Reason::Overloaded => self.state,
            // Whether the node is too slow the probes decide: the request may have been a heavy one.
            Reason::Timeout if caller == Caller::Request => self.state,
            Reason::Unreachable | Reason::Timeout | Reason::Protocol => NodeState::Unavailable,
        };
        self.enter(state, now);
    }

    fn is_prompt(&mut self) {
        self.waited = 0;
        self.circuit = None;
    }

    fn went_wrong(&mut self, error: &CallError, now: SystemTime) {
        self.failures = self.failures.saturating_add(1);
        self.last_error = Some(LastError { text: error.to_string(), at: now });
    }

    fn enter(&mut self, state: NodeState, now: SystemTime) {
        if self.state == state {
            return;
        }
        if self.state != NodeState::Unknown {
            self.changes += 1;
        }
        self.state = state;
        self.since = now;
    }
}

#[cfg(test)]
mod tests;
