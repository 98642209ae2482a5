//! Which address speaks for which node.
//!
//! Expected are the addresses of the configuration. What a node is called its agent says, so two addresses may claim one
//! name. Decided by nothing but who claims it and who answers, so that every request is answered alike:
//! - The first address in the configuration's order that claims a name and answers has it; if none answers, the one
//!   that had it last.
//! - Another address that claims it and answers is in [conflict](Standing::Contested): its rows could not be told from
//!   the first's, nor a kick be routed, so it is probed and not asked. It is called by its address, because the name is
//!   somebody else's.
//! - Another address that is silent has [lost the name](Standing::Superseded): the node may have moved. Who is there now is
//!   not known before it says so, and until then it is called by its address.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::Notify;

/// What an address is to the name that it claimed last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// The name is its own, or it has claimed none.
    Own,
    /// It answers under the name of another address.
    Contested {
        /// Whose name it is.
        holder: usize,
    },
    /// It is silent, and another address answers under its name.
    Superseded {
        /// Whose name it is now.
        holder: usize,
    },
}

/// All addresses, by their number in the configuration.
#[derive(Debug)]
pub(super) struct Roster {
    seats: Mutex<Vec<Seat>>,
}

#[derive(Debug)]
struct Seat {
    address: String,
    name: Option<String>,
    lives: bool,
    standing: Standing,
    /// When the standing changed last; at first the start.
    since: SystemTime,
    /// How often it became contested, and ceased to be.
    changes: u64,
    /// Asks for a probe.
    wake: Arc<Notify>,
}

/// An address's standing and how it came to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub standing: Standing,
    /// The address that has the name.
    pub holder: Option<String>,
    pub since: SystemTime,
    pub changes: u64,
}

impl Roster {
    pub(super) fn new(addresses: &[String], now: SystemTime) -> Self {
        let seat = |address: &String| Seat {
            address: address.clone(),
            name: None,
            lives: false,
            standing: Standing::Own,
            since: now,
            changes: 0,
            wake: Arc::default(),
        };
        Self { seats: Mutex::new(addresses.iter().map(seat).collect()) }
    }

    /// What asks for a probe of an address.
    pub(super) fn wake(&self, index: usize) -> Arc<Notify> {
        Arc::clone(&self.lock()[index].wake)
    }

    /// Takes in what an address claims and whether it answers. Whose standing that changes is probed soon: both have to
    /// say again who they are.
    pub(super) fn update(&self, index: usize, name: Option<&str>, lives: bool, now: SystemTime) {
        let mut seats = self.lock();
        let seat = &mut seats[index];
        if seat.name.as_deref() == name && seat.lives == lives {
            return;
        }
        seat.name = name.map(str::to_owned);
        seat.lives = lives;
        let standings: Vec<Standing> = (0..seats.len()).map(|index| standing(&seats, index)).collect();
        for (index, standing) in standings.into_iter().enumerate() {
            let before = std::mem::replace(&mut seats[index].standing, standing);
            if before == standing {
                continue;
            }
            let seat = &mut seats[index];
            seat.since = now;
            let is_contested = matches!(standing, Standing::Contested { .. });
            seat.changes += u64::from(is_contested != matches!(before, Standing::Contested { .. }));
            seat.wake.notify_one();
            if let Standing::Contested { holder } = standing {
                let seat = &seats[index];
                let (name, holder) = (seat.name.as_deref().unwrap_or_default(), &seats[holder]);
                holder.wake.notify_one();
                tracing::error!(
                    %name, first = %holder.address, second = %seat.address,
                    "two agents claim one node name, the second is not asked"
                );
            }
        }
    }

    /// How an address stands.
    pub(super) fn seen(&self, index: usize) -> Seen {
        let seats = self.lock();
        let Seat { standing, since, changes, .. } = seats[index];
        let holder = match standing {
            Standing::Own => None,
            Standing::Contested { holder } | Standing::Superseded { holder } => Some(holder),
        };
        Seen { standing, holder: holder.map(|holder| seats[holder].address.clone()), since, changes }
    }

    /// Whether the name that an address claims is its own.
    pub(super) fn owns(&self, index: usize) -> bool {
        self.lock()[index].standing == Standing::Own
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Seat>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn standing(seats: &[Seat], index: usize) -> Standing {
    let Some(name) = &seats[index].name else { return Standing::Own };
    let claims = || (0..seats.len()).filter(|&other| seats[other].name.as_ref() == Some(name));
    let answers = claims().find(|&other| seats[other].lives);
    let had_it = || claims().find(|&other| seats[other].standing == Standing::Own);
    let holder = answers.or_else(had_it).unwrap_or(index);
    match seats[index].lives {
        _ if holder == index => Standing::Own,
        true => Standing::Contested { holder },
        false => Standing::Superseded { holder },
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    const OWN: Standing = Standing::Own;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn roster() -> Roster {
        Roster::new(&["h0", "h1", "h2"].map(str::to_owned), at(0))
    }

    fn standings(roster: &Roster) -> [Standing; 3] {
        [0, 1, 2].map(|index| roster.seen(index).standing)
    }

    #[test]
    fn of_two_that_answer_under_one_name_the_first_of_the_configuration_has_it_whoever_came_first() {
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            let roster = roster();
            for index in order {
                roster.update(index, Some(if index == 1 { "other" } else { "same" }), true, at(1));
            }
            assert_eq!(standings(&roster), [OWN, OWN, Standing::Contested { holder: 0 }], "{order:?}");
        }
    }

    #[test]
    fn a_conflict_ends_when_one_is_gone_or_calls_itself_otherwise() {
        let roster = roster();
        roster.update(0, Some("same"), true, at(1));
        roster.update(2, Some("same"), true, at(2));
        let seen = roster.seen(2);
        assert_eq!((seen.holder.as_deref(), seen.since, seen.changes), (Some("h0"), at(2), 1));
        roster.update(0, Some("same"), false, at(3));
        assert_eq!(standings(&roster), [Standing::Superseded { holder: 2 }, OWN, OWN]);
        assert_eq!((roster.seen(2).since, roster.seen(2).changes), (at(3), 2));
        roster.update(0, Some("same"), true, at(4));
        assert_eq!(standings(&roster), [OWN, OWN, Standing::Contested { holder: 0 }]);
        roster.update(2, Some("third"), true, at(5));
        assert_eq!(standings(&roster), [OWN; 3]);
        assert_eq!((roster.seen(0).changes, roster.seen(2).changes), (0, 4));
    }

    #[test]
    fn a_node_that_moved_to_another_address_keeps_its_name_and_the_old_address_loses_it() {
        let roster = roster();
        roster.update(0, Some("moves"), true, at(1));
        roster.update(0, Some("moves"), false, at(2));
        assert!(roster.owns(0), "it stays expected under its name");
        roster.update(1, Some("moves"), true, at(3));
        assert_eq!(standings(&roster), [Standing::Superseded { holder: 1 }, OWN, OWN]);
        roster.update(1, Some("moves"), false, at(4));
        assert_eq!(standings(&roster), [Standing::Superseded { holder: 1 }, OWN, OWN], "it was there last");
    }

    #[tokio::test]
    async fn both_sides_of_a_conflict_are_asked_again() {
        let roster = roster();
        for index in [0, 2] {
            roster.update(index, Some("same"), true, at(1));
        }
        for index in [0, 2] {
            roster.wake(index).notified().await;
        }
    }
}
