//! How a command ends: the exit codes, and what went wrong.
//!
//! docs/cli.md promises the codes to scripts.

use std::io;
use std::process::ExitCode;

use thiserror::Error;

use crate::api::answer::Nodes;
use crate::output::text::shown;

/// What the program's status says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done, and nothing is missing.
    Whole = 0,
    /// It could not be done, or not all of it.
    Failed = 1,
    /// What was asked for makes no sense, as the program or the gateway says.
    Usage = 2,
    /// Every node said that there is no such client, or there is no such node.
    NotFound = 3,
    /// Nodes did not answer, whose clients the answer lacks.
    NodesMissing = 4,
    /// The key is missing, wrong or may not do this.
    Refused = 5,
    /// Ctrl-C in the middle.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command could not be carried out. Texts of others are shown without what could harm a terminal.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    /// Arguments that do not fit together.
    #[error("{0}")]
    Usage(String),
    /// A file of the user's cannot be used.
    #[error("{0}")]
    Local(String),
    /// No answer, or not all of it.
    #[error("{url}: {reason}")]
    Unreachable {
        /// Who was asked.
        url: String,
        /// What happened.
        reason: String,
    },
    /// An answer that no gateway gives.
    #[error("{url}: {reason}; is that a Rollcall gateway, and its base path?")]
    NotRollcall {
        /// Who was asked.
        url: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The gateway said no.
    #[error("{}", shown(&.0.message))]
    Answered(Refusal),
    /// Stdout cannot be written.
    #[error("stdout: {0}")]
    Output(#[from] io::Error),
}

/// An answer that is an error.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// Of HTTP.
    pub(crate) status: u16,
    /// Of the body.
    pub(crate) code: i64,
    /// For the user.
    pub(crate) message: String,
    /// Which nodes are the reason, if they are.
    pub(crate) nodes: Option<Nodes>,
}

impl Failure {
    /// The status to end with. A reader of stdout who has left is no failure.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            Self::Answered(refusal) => refusal.exit(),
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Whole,
            Self::Local(_) | Self::Unreachable { .. } | Self::NotRollcall { .. } | Self::Output(_) => {
                Exit::Failed
            }
        }
    }

    /// Whether stdout's reader has left, of which nobody needs to be told.
    pub(crate) fn is_closed_output(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl Refusal {
    fn exit(&self) -> Exit {
        let lacks_nodes = self.nodes.as_ref().is_some_and(|nodes| !nodes.failed.is_empty());
        match (self.status, self.code) {
            (400, _) => Exit::Usage,
            (401 | 403 | 429, _) => Exit::Refused,
            (404, 101 | 112) => Exit::NotFound,
            (503, 101) if lacks_nodes => Exit::NodesMissing,
            _ => Exit::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::answer::FailedNode;

    #[test]
    fn every_refusal_has_its_code() {
        let silent = || FailedNode { node: "a@h".into(), reason: "timeout".into() };
        for (status, code, failed, expected) in [
            (400, 108, 0, Exit::Usage),
            (401, 102, 0, Exit::Refused),
            (403, 102, 0, Exit::Refused),
            (404, 101, 0, Exit::NotFound),
            (404, 102, 0, Exit::Failed),
            (404, 112, 0, Exit::NotFound),
            (409, 108, 0, Exit::Failed),
            (429, 102, 0, Exit::Refused),
            (502, 101, 1, Exit::Failed),
            (503, 101, 0, Exit::Failed),
            (503, 101, 1, Exit::NodesMissing),
            (503, 102, 0, Exit::Failed),
            (504, 101, 1, Exit::Failed),
        ] {
            let failed = (0..failed).map(|_| silent()).collect();
            let nodes = Some(Nodes { total: 1, answered: 0, failed });
            let refusal = Refusal { status, code, message: String::new(), nodes };
            assert_eq!(Failure::Answered(refusal).exit(), expected, "{status} {code}");
        }
    }

    #[test]
    fn a_reader_who_left_is_no_failure() {
        let closed = Failure::Output(io::ErrorKind::BrokenPipe.into());
        assert!(closed.is_closed_output() && closed.exit() == Exit::Whole);
        let full = Failure::Output(io::ErrorKind::StorageFull.into());
        assert!(!full.is_closed_output() && full.exit() == Exit::Failed);
    }
}
