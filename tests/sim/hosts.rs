//! The hosts: the real gateway and the real agent, on the simulated network.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::unfold;
use futures::{Stream, StreamExt as _};
use rollcall_gateway::Gateway;
use rollcall_gateway::byte_stream::BoxedStream;
use rollcall_gateway::cluster::Dial;
use rollcall_gateway::config::{Config as GatewayConfig, Layer};
use rollcall_node_agent::config::{BrokerConfig, Config as AgentConfig};
use rollcall_node_agent::incoming::Connection;
use rollcall_node_agent::run::run_on;
use tokio::time::{Instant, sleep};
use turmoil::net::{TcpListener, TcpStream};

use crate::broker::ScriptedBroker;
use crate::truth::address;
use crate::world::{Shared, now};

/// What an agent may take to end calls in flight; nearly none of it is ever needed.
const DRAIN: Duration = Duration::from_secs(20);

/// The most a request may take if it does not say less.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// How long an export waits for a node.
pub(crate) const EXPORT_NODE_TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) fn gateway_host(gateway: usize) -> String {
    format!("gate{gateway}")
}

fn incoming(listener: TcpListener) -> impl Stream<Item = (TcpStream, SocketAddr)> + Send {
    unfold(listener, async |listener| {
        loop {
            // A connection that is gone again before it is accepted concerns nobody.
            if let Ok(accepted) = listener.accept().await {
                return Some((accepted, listener));
            }
        }
    })
}

/// Runs whichever agent is assigned to a slot, as long as it is, and then the next.
pub(crate) async fn agent(world: Shared, slot: usize) -> turmoil::Result {
    let mut assigned = world.assigned[slot].subscribe();
    loop {
        let assignment = assigned.borrow_and_update().clone();
        let Some(assignment) = assignment else {
            assigned.changed().await?;
            continue;
        };
        let listener = TcpListener::bind("0.0.0.0:7000").await?;
        world.log(format!("slot {slot} begins as {assignment:?}"));
        world.lock().truth.occupy(slot, assignment.broker, assignment.name.clone(), now());
        let nobody = BrokerConfig::Synthetic { clients: 0, seed: 0, churn: 0 };
        let mut config = AgentConfig::new(&assignment.name, nobody);
        config.drain_timeout = DRAIN;
        let broker = Arc::new(ScriptedBroker::new(Arc::clone(&world), assignment.broker));
        let incoming = incoming(listener).map(|(stream, remote)| Connection::new(Box::new(stream), remote));
        let mut told = None;
        let stop = async {
            // Ends with the simulation if nothing else.
            let _ = assigned.wait_for(|now| now.as_ref() != Some(&assignment)).await;
            told = Some(Instant::now());
        };
        run_on(config, incoming, broker, || {}, stop).await?;
        let took = told.map(|told| told.elapsed()).unwrap_or_default();
        let mut state = world.lock();
        state.truth.vacate(slot, now());
        state.log(now(), format!("slot {slot} has drained in {took:?}"));
    }
}

#[derive(Debug)]
struct SimDial;

impl Dial for SimDial {
    fn dial(&self, address: &str) -> BoxFuture<'static, io::Result<BoxedStream>> {
        let address = address.to_owned();
        Box::pin(async move {
            let (host, port) = address.rsplit_once(':').ok_or(io::ErrorKind::InvalidInput)?;
            let port: u16 = port.parse().map_err(io::Error::other)?;
            let stream = TcpStream::connect((host, port)).await?;
            Ok(Box::new(stream) as BoxedStream)
        })
    }
}

/// Runs a gateway over all slots.
pub(crate) async fn gateway(world: Shared, gateway: usize, slots: usize) -> turmoil::Result {
    let duration = |duration: Duration| format!("{}ms", duration.as_millis()).parse();
    let layer = Layer {
        node: Some((0..slots).map(|slot| address(slot).parse()).collect::<Result<_, _>>()?),
        key: Some(vec!["ops:secret:operator".into()]),
        probe_interval: Some(duration(Duration::from_secs(1))?),
        connect_timeout: Some(duration(Duration::from_secs(1))?),
        request_timeout: Some(duration(REQUEST_TIMEOUT)?),
        export_node_timeout: Some(duration(EXPORT_NODE_TIMEOUT)?),
        ..Layer::default()
    };
    let listener = TcpListener::bind("0.0.0.0:8080").await?;
    let started = Gateway::start_with(GatewayConfig::new(layer)?, Arc::new(SimDial))?;
    world.log(format!("gateway {gateway} begins"));
    world.lock().gateways[gateway].up_since = Some(now());
    let watch = async {
        loop {
            let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
            {
                let fewest = &mut world.lock().gateways[gateway].fewest_tasks;
                *fewest = tasks.min(*fewest);
            }
            sleep(Duration::from_millis(70)).await;
        }
    };
    let incoming = incoming(listener).map(|(stream, remote)| (Box::new(stream) as BoxedStream, remote));
    tokio::select! {
        () = started.serve_on(incoming, std::future::pending()) => {}
        () = watch => {}
    }
    Ok(())
}
