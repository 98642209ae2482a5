//! Which versions of the contract understand each other.
//!
//! Fields and methods that are added do not count: either side ignores what it does not know. A version counts what an
//! older side would misread. Each side says which version it speaks and the oldest it still works with; two sides
//! understand each other if neither is older than the other asks for.

use thiserror::Error;

use crate::v1::DescribeResponse;

/// What one side speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol {
    /// The version it speaks.
    pub version: u32,
    /// The oldest version of the other side that it works with.
    pub least: u32,
}

/// Two sides that would misread each other.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Incompatible {
    /// The gateway is too old for the agent.
    #[error(
        "the agent speaks protocol {agent} and works with gateways from protocol {least} on, this one speaks {gateway}: upgrade the gateway"
    )]
    OldGateway {
        /// What the gateway speaks.
        gateway: u32,
        /// What the agent speaks.
        agent: u32,
        /// The oldest that the agent works with.
        least: u32,
    },
    /// The agent is too old for the gateway.
    #[error(
        "the agent speaks protocol {agent}, this gateway works with agents from protocol {least} on: upgrade the agent"
    )]
    OldAgent {
        /// What the agent speaks.
        agent: u32,
        /// The oldest that the gateway works with.
        least: u32,
    },
}

impl Protocol {
    /// What this code speaks.
    pub const OURS: Self = Self { version: 1, least: 1 };

    /// What an agent says of itself. Agents from before there were versions say nothing, and speak the first.
    #[must_use]
    pub fn of(agent: &DescribeResponse) -> Self {
        Self { version: agent.protocol.max(1), least: agent.min_protocol.max(1) }
    }

    /// Whether this gateway and an agent understand each other.
    ///
    /// # Errors
    /// [`Incompatible`] says which of them is too old.
    pub fn check(self, agent: Self) -> Result<(), Incompatible> {
        if self.version < agent.least {
            let (gateway, least) = (self.version, agent.least);
            return Err(Incompatible::OldGateway { gateway, agent: agent.version, least });
        }
        if agent.version < self.least {
            return Err(Incompatible::OldAgent { agent: agent.version, least: self.least });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_side_that_is_too_old_is_turned_away() {
        let speaks = |version, least| Protocol { version, least };
        for (gateway, agent, outcome) in [
            (speaks(1, 1), speaks(1, 1), Ok(())),
            (speaks(1, 1), speaks(3, 1), Ok(())),
            (speaks(3, 1), speaks(1, 1), Ok(())),
            (speaks(1, 1), speaks(3, 2), Err(Incompatible::OldGateway { gateway: 1, agent: 3, least: 2 })),
            (speaks(3, 2), speaks(1, 1), Err(Incompatible::OldAgent { agent: 1, least: 2 })),
        ] {
            assert_eq!(gateway.check(agent), outcome, "{gateway:?} {agent:?}");
        }
    }

    #[test]
    fn who_says_nothing_speaks_the_first() {
        assert_eq!(Protocol::of(&DescribeResponse::default()), Protocol { version: 1, least: 1 });
        let newer = DescribeResponse { protocol: 4, min_protocol: 2, ..DescribeResponse::default() };
        assert_eq!(Protocol::of(&newer), Protocol { version: 4, least: 2 });
    }
}
