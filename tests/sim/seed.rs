//! One seed: a cluster, what goes wrong in it, what is asked of it, and what came out.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::sleep;
use turmoil::Sim;

use crate::churn::Churn;
use crate::fault::{self, Fault, Link, Planned};
use crate::hosts::{self, gateway_host};
use crate::kicks;
use crate::load::Client;
use crate::truth::{Truth, host};
use crate::world::{Assignment, Shared, World, now};

/// A step of the network, milliseconds.
const TICK: u64 = 5;

/// Time for the gateways to find their nodes.
const QUIET: u64 = 1_000;

/// How long a gateway's tasks are counted for.
const COUNTING: u64 = 1_000;

/// Time for connections that broke unseen to be found out, which keep-alives take 8 s for, and to be made anew.
const SETTLE: u64 = 12_000;

/// What an agent that has no call in flight may take to stop: its connections get a second to close.
const MOST_DRAIN: Duration = Duration::from_millis(1_500);

/// What came out.
pub(crate) struct Outcome {
    pub(crate) hash: u64,
    pub(crate) events: usize,
    pub(crate) answers: u64,
    pub(crate) violations: Vec<String>,
}

/// What a seed makes of the cluster.
#[derive(Debug)]
struct Shape {
    gateways: usize,
    slots: usize,
    clients: u64,
    workers: u64,
    churn: f64,
    until: u64,
}

impl Shape {
    fn of(rng: &mut StdRng) -> Self {
        Self {
            gateways: rng.random_range(1..=2),
            slots: rng.random_range(2..=5),
            clients: *[12, 60, 250, 600][..].get(rng.random_range(0..4)).unwrap_or(&60),
            workers: rng.random_range(2..=5),
            churn: *[0.0, 5.0, 40.0, 150.0][..].get(rng.random_range(0..4)).unwrap_or(&5.0),
            until: QUIET + COUNTING + rng.random_range(4_000..9_000),
        }
    }
}

/// Runs one seed. Only the first run in a process is the same as any other of that seed.
pub(crate) fn run(seed: u64, show_log: bool) -> Outcome {
    let mut rng = StdRng::seed_from_u64(seed);
    let shape = Shape::of(&mut rng);
    let planned = fault::plan(&mut rng, shape.gateways, shape.slots, QUIET + COUNTING, shape.until);
    let mut truth = Truth::new(shape.slots, shape.slots);
    let mut churn = Churn::new(StdRng::seed_from_u64(rng.random()), shape.clients * 2, shape.churn);
    churn.populate(&mut truth, shape.clients);
    let world = Arc::new(World::new(truth, StdRng::seed_from_u64(rng.random()), shape.gateways, show_log));
    world.lock().log(0, format!("{shape:?}"));
    world.lock().excuses = fault::excuses(&planned);
    for (slot, assigned) in world.assigned.iter().enumerate() {
        assigned.send_replace(Some(own(slot)));
    }

    let mut sim = turmoil::Builder::new()
        .rng_seed(rng.random())
        .simulation_duration(Duration::from_secs(3600))
        .tick_duration(Duration::from_millis(TICK))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(rng.random_range(2..12)))
        .repair_rate(0.05)
        .tcp_capacity(4096)
        .enable_random_order()
        .build();
    for slot in 0..shape.slots {
        let world = Arc::clone(&world);
        sim.host(host(slot), move || hosts::agent(Arc::clone(&world), slot));
    }
    for gateway in 0..shape.gateways {
        let (world, slots) = (Arc::clone(&world), shape.slots);
        sim.host(gateway_host(gateway), move || hosts::gateway(Arc::clone(&world), gateway, slots));
    }
    let load = load(Arc::clone(&world), shape.gateways, shape.workers, shape.until, rng.random());
    sim.client("ops", load);

    let mut faults = Faults { world: Arc::clone(&world), planned, mended: Vec::new() };
    loop {
        let now = sim.elapsed().as_millis() as u64;
        faults.tick(&mut sim, now);
        if now < shape.until {
            let mut state = world.lock();
            churn.tick(&mut state, now, TICK);
        }
        match sim.step() {
            Ok(true) => break,
            Ok(false) => {}
            Err(error) => {
                world.lock().violations.push(format!("a host failed: {error}"));
                break;
            }
        }
    }
    let mut state = world.lock();
    let wrong = kicks::out_of_place(&state);
    state.violations.extend(wrong);
    Outcome {
        hash: state.hash(),
        events: state.events(),
        answers: state.answers,
        violations: std::mem::take(&mut state.violations),
    }
}

/// The agent that belongs to a slot.
fn own(slot: usize) -> Assignment {
    Assignment { broker: slot, name: format!("n{slot}@sim") }
}

/// The clients' part, from the beginning to the end of the simulation.
async fn load(world: Shared, gateways: usize, workers: u64, until: u64, seed: u64) -> turmoil::Result {
    sleep(Duration::from_millis(QUIET)).await;
    let tasks_before = fewest_tasks(&world).await;
    let client = |number| Client {
        world: Arc::clone(&world),
        gateways,
        rng: StdRng::seed_from_u64(seed.wrapping_add(number)),
    };
    let work = (0..workers).map(|number| tokio::task::spawn_local(client(number).work(until)));
    for worker in futures::future::join_all(work).await {
        worker?;
    }
    while now() < until {
        sleep(Duration::from_millis(100)).await;
    }
    sleep(Duration::from_millis(SETTLE)).await;
    let tasks_after = fewest_tasks(&world).await;
    for (gateway, (before, after)) in tasks_before.into_iter().zip(tasks_after).enumerate() {
        world.log(format!("gateway {gateway} has {after} tasks, {before} before the load"));
        if after > before {
            world.wrong(format!("gateway {gateway} has {after} tasks left, {before} before the load"));
        }
    }
    client(workers).verify().await;
    let begun = tokio::time::Instant::now();
    for slot in &world.assigned {
        slot.send_replace(None);
    }
    let is_running = |world: &Shared| {
        let occupants = &world.lock().truth.occupants;
        occupants.iter().any(|slot| slot.last().is_some_and(|last| last.to.is_none()))
    };
    while is_running(&world) && begun.elapsed() < MOST_DRAIN {
        sleep(Duration::from_millis(20)).await;
    }
    if is_running(&world) {
        world.wrong("an agent has calls in flight, though nobody asks anything".to_owned());
    }
    Ok(())
}

/// The fewest tasks each gateway has within a time.
async fn fewest_tasks(world: &Shared) -> Vec<usize> {
    for gateway in &mut world.lock().gateways {
        gateway.fewest_tasks = usize::MAX;
    }
    sleep(Duration::from_millis(COUNTING)).await;
    world.lock().gateways.iter().map(|gateway| gateway.fewest_tasks).collect()
}

/// The faults to come, and those to be mended.
struct Faults {
    world: Shared,
    planned: Vec<Planned>,
    mended: Vec<Planned>,
}

impl Faults {
    fn tick(&mut self, sim: &mut Sim<'_>, now: u64) {
        let (over, running) = std::mem::take(&mut self.mended).into_iter().partition(|fault| fault.to <= now);
        self.mended = running;
        for planned in over {
            self.world.lock().log(now, format!("mended: {:?}", planned.fault));
            self.mend(sim, planned.fault);
        }
        let (begin, later) =
            std::mem::take(&mut self.planned).into_iter().partition(|fault| fault.from <= now);
        self.planned = later;
        for planned in begin {
            self.world.lock().log(now, format!("fault until {}: {:?}", planned.to, planned.fault));
            self.begin(sim, planned.fault, now);
            self.mended.push(planned);
        }
    }

    fn begin(&self, sim: &mut Sim<'_>, fault: Fault, now: u64) {
        match fault {
            Fault::Partition(link) => sim.partition(gateway_host(link.gateway), host(link.slot)),
            Fault::DeafAgent(link) => sim.partition_oneway(gateway_host(link.gateway), host(link.slot)),
            Fault::DumbAgent(link) => sim.partition_oneway(host(link.slot), gateway_host(link.gateway)),
            Fault::Hold(link) => sim.hold(gateway_host(link.gateway), host(link.slot)),
            Fault::Delay(link, ms) => set_latency(sim, link, ms),
            Fault::Loss(link, one_in) => {
                sim.set_link_fail_rate(gateway_host(link.gateway), host(link.slot), 1.0 / one_in as f64);
            }
            Fault::CrashAgent(slot) => self.crash(sim, slot, now),
            Fault::BounceAgent(slot) => {
                self.crash(sim, slot, now);
                sim.bounce(host(slot));
            }
            Fault::StopAgent(slot) => drop(self.world.assigned[slot].send_replace(None)),
            Fault::CrashGateway(gateway) => {
                sim.crash(gateway_host(gateway));
                self.world.lock().gateways[gateway].up_since = None;
            }
            Fault::SlowBroker(broker, ms) => self.world.lock().slow[broker] = ms,
            Fault::Swap(one, other) => {
                self.world.assigned[one].send_replace(Some(own(other)));
                self.world.assigned[other].send_replace(Some(own(one)));
            }
            Fault::SameName(one, other) => {
                let taken = Assignment { name: own(other).name, ..own(one) };
                self.world.assigned[one].send_replace(Some(taken));
            }
        }
    }

    fn mend(&self, sim: &mut Sim<'_>, fault: Fault) {
        match fault {
            Fault::Partition(link) | Fault::DeafAgent(link) | Fault::DumbAgent(link) | Fault::Hold(link) => {
                sim.release(gateway_host(link.gateway), host(link.slot));
            }
            Fault::Delay(link, _) => set_latency(sim, link, 2),
            Fault::Loss(link, _) => {
                sim.set_link_fail_rate(gateway_host(link.gateway), host(link.slot), 0.0);
                sim.release(gateway_host(link.gateway), host(link.slot));
            }
            Fault::CrashAgent(slot) => restart(sim, host(slot)),
            Fault::CrashGateway(gateway) => restart(sim, gateway_host(gateway)),
            Fault::BounceAgent(_) => {}
            Fault::StopAgent(slot) | Fault::SameName(slot, _) => self.give_back(slot),
            Fault::SlowBroker(broker, _) => self.world.lock().slow[broker] = 0,
            Fault::Swap(one, other) => {
                self.give_back(one);
                self.give_back(other);
            }
        }
    }

    fn give_back(&self, slot: usize) {
        self.world.assigned[slot].send_replace(Some(own(slot)));
    }

    fn crash(&self, sim: &mut Sim<'_>, slot: usize, now: u64) {
        sim.crash(host(slot));
        self.world.lock().truth.vacate(slot, now);
    }
}

fn set_latency(sim: &Sim<'_>, Link { gateway, slot }: Link, ms: u64) {
    sim.set_link_latency(gateway_host(gateway), host(slot), Duration::from_millis(ms));
}

fn restart(sim: &mut Sim<'_>, host: String) {
    if !sim.is_host_running(host.as_str()) {
        sim.bounce(host);
    }
}
