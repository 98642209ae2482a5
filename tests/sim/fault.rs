//! What goes wrong, and when.
//!
//! A fault has a target, a beginning and an end at which it is mended. Two faults may overlap; what one of them mends the
//! other has no more of.

use rand::RngExt as _;
use rand::rngs::StdRng;

use crate::world::Excuses;

/// Between a gateway and an agent's host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    pub(crate) gateway: usize,
    pub(crate) slot: usize,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// Nothing gets through either way.
    Partition(Link),
    /// What the gateway sends is lost.
    DeafAgent(Link),
    /// What the agent sends is lost.
    DumbAgent(Link),
    /// What is sent waits, and arrives when the fault is mended.
    Hold(Link),
    /// What is sent takes so many milliseconds.
    Delay(Link, u64),
    /// One message in so many takes the link down for a while.
    Loss(Link, u64),
    /// The host of an agent is gone, and comes back with a new incarnation.
    CrashAgent(usize),
    /// The agent is restarted at once.
    BounceAgent(usize),
    /// The agent is told to stop, and drains.
    StopAgent(usize),
    /// The host of a gateway is gone.
    CrashGateway(usize),
    /// The broker takes so many milliseconds for figures and kicks.
    SlowBroker(usize, u64),
    /// Two agents swap their addresses.
    Swap(usize, usize),
    /// The first agent takes the second's name.
    SameName(usize, usize),
}

/// A fault at its time, milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Planned {
    pub(crate) fault: Fault,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// Faults over a time, more or less of them.
pub(crate) fn plan(rng: &mut StdRng, gateways: usize, slots: usize, from: u64, to: u64) -> Vec<Planned> {
    let count = rng.random_range(0..=9);
    let mut planned: Vec<Planned> = (0..count)
        .map(|_| {
            let fault = fault(rng, gateways, slots);
            let begins = rng.random_range(from..to - 200);
            let lasts = if rng.random() { rng.random_range(50..900) } else { rng.random_range(900..7000) };
            Planned { fault, from: begins, to: (begins + lasts).min(to) }
        })
        .collect();
    planned.sort_by_key(|planned| planned.from);
    planned
}

/// What nodes may be named for while these go on.
pub(crate) fn excuses(planned: &[Planned]) -> Excuses {
    let is_of_names = |planned: &Planned| matches!(planned.fault, Fault::Swap(..) | Fault::SameName(..));
    Excuses { any: !planned.is_empty(), names: planned.iter().any(is_of_names) }
}

fn fault(rng: &mut StdRng, gateways: usize, slots: usize) -> Fault {
    let link = Link { gateway: rng.random_range(0..gateways), slot: rng.random_range(0..slots) };
    let other = (link.slot + rng.random_range(1..slots)) % slots;
    match rng.random_range(0..20) {
        0 | 1 => Fault::Partition(link),
        2 | 3 => Fault::DeafAgent(link),
        4 | 5 => Fault::DumbAgent(link),
        6 | 7 => Fault::Hold(link),
        8 | 9 => Fault::Delay(link, rng.random_range(20..800)),
        10 => Fault::Loss(link, rng.random_range(5..100)),
        11 | 12 => Fault::CrashAgent(link.slot),
        13 => Fault::BounceAgent(link.slot),
        14 => Fault::StopAgent(link.slot),
        15 => Fault::CrashGateway(link.gateway),
        16 | 17 => Fault::SlowBroker(link.slot, rng.random_range(50..2500)),
        18 => Fault::Swap(link.slot, other),
        _ => Fault::SameName(link.slot, other),
    }
}
