//! A whole cluster on loopback: three broker nodes with their agents, a gateway, and a few clients that chatter.
//!
//! Everything runs in this one process, by the same library calls that the real binaries make. Ports are the usual ones
//! where they are free, any others where not.

mod chatter;

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};

use rollcall_gateway::config::Layer;
use rollcall_gateway::config::values::{KeyArgument, NodeAddress};
use rollcall_node_agent::broker::embedded::{EmbeddedSettings, ListenerSettings};
use rollcall_node_agent::config::{BrokerConfig, Config as AgentConfig};
use rollcall_node_agent::run::{StartedBroker, start_broker};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing_subscriber::EnvFilter;

/// The nodes and the ports they like best.
const NODES: [(&str, u16); 3] = [("a@127.0.0.1", 1883), ("b@127.0.0.1", 1884), ("c@127.0.0.1", 1885)];

/// The port the gateway likes best.
const GATEWAY_PORT: u16 = 8081;

/// The one key, as EMQX' documentation has it in its examples.
const KEY: &str = "app_id:app_secret";

/// One node: where MQTT clients connect, where the gateway does.
struct DemoNode {
    broker: StartedBroker,
    agent: AgentConfig,
    agent_listener: TcpListener,
    mqtt: SocketAddr,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let filter = EnvFilter::new("warn");
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();

    let (stop, stopped) = watch::channel(false);
    let stopping = |mut stopped: watch::Receiver<bool>| async move {
        // An error means that `stop` is gone, which is as good.
        let _ = stopped.wait_for(|stop| *stop).await;
    };

    let mut nodes = Vec::new();
    for (name, port) in NODES {
        nodes.push(start_node(name, port).await?);
    }
    let mqtt = [nodes[0].mqtt, nodes[1].mqtt, nodes[2].mqtt];
    let mut agents = Vec::new();
    let mut tasks = JoinSet::new();
    let mut brokers = Vec::new();
    for node in nodes {
        agents.push(NodeAddress(node.agent_listener.local_addr()?.to_string()));
        let DemoNode { broker, agent, agent_listener, .. } = node;
        let serve =
            rollcall_node_agent::run::run(agent, agent_listener, broker.broker(), stopping(stopped.clone()));
        tasks.spawn(async move { serve.await.map_err(|error| error.to_string()) });
        brokers.push(broker);
    }

    let listener = bind(GATEWAY_PORT).await?;
    let gateway = listener.local_addr()?;
    let config = rollcall_gateway::Config::new(Layer {
        node: Some(agents),
        key: Some(vec![KeyArgument::from(format!("{KEY}:operator").as_str())]),
        ..Layer::default()
    })?;
    let serve = rollcall_gateway::run(config, listener, stopping(stopped));
    tasks.spawn(async move { serve.await.map_err(|error| error.to_string()) });

    let clients = tokio::spawn(chatter::run(mqtt));
    print!("{}", banner(gateway, mqtt));

    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminate.recv() => {}
        // A part that ends before it is told to has failed.
        Some(ended) = tasks.join_next() => ended??,
    }
    println!("\nstopping");
    clients.abort();
    stop.send_replace(true);
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    for broker in brokers {
        broker.shutdown().await;
    }
    Ok(())
}

async fn start_node(name: &str, port: u16) -> Result<DemoNode, Box<dyn Error>> {
    let started = match start_broker(&agent_config(name, port)).await {
        Ok(broker) => broker,
        // Most likely the port is taken. If it is something else, this fails too, and says what.
        Err(_) => start_broker(&agent_config(name, 0)).await?,
    };
    let addresses = started.broker().info().mqtt_addresses.clone();
    let mqtt = addresses.first().ok_or("the broker has no listener")?.parse()?;
    let agent_listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    Ok(DemoNode { broker: started, agent: agent_config(name, port), agent_listener, mqtt })
}

fn agent_config(name: &str, port: u16) -> AgentConfig {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let settings = EmbeddedSettings {
        node_name: name.to_owned(),
        listeners: vec![ListenerSettings { address, ..ListenerSettings::default() }],
        ..EmbeddedSettings::default()
    };
    AgentConfig::new(name, BrokerConfig::Embedded(settings))
}

/// Listens on the port, or on a free one if it is taken.
async fn bind(port: u16) -> std::io::Result<TcpListener> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await,
    }
}

fn banner(gateway: SocketAddr, mqtt: [SocketAddr; 3]) -> String {
    let [a, b, c] = mqtt;
    let api = format!("http://{gateway}/api/v4");
    let port = b.port();
    let (id, secret) = KEY.split_once(':').unwrap_or((KEY, ""));
    format!(
        "Rollcall is up: three MQTT broker nodes that answer as one.

  node a@127.0.0.1   mqtt://{a}
  node b@127.0.0.1   mqtt://{b}
  node c@127.0.0.1   mqtt://{c}
  gateway            {api}   key {KEY}
  page               http://{gateway}/   key id {id}, secret {secret}

Open the page in a browser, or try in another terminal:

  1. List all clients, three a page, the longest connected first:
     curl -u {KEY} '{api}/clients?_sort=connected_at&_limit=3'

  2. The same by the command line, rollcall clients:
     export ROLLCALL_URL=http://{gateway} ROLLCALL_KEY={KEY}
     cargo run -q -p rollcall-cli -- clients --sort connected_at --limit 3

  3. Connect a client of your own to any node, and find it with one request:
     mosquitto_sub -p {port} -i me -t 'home/#' -v
     curl -u {KEY} {api}/clients/me

  4. Kick a client, wherever it is (the sample clients come back after five seconds):
     curl -u {KEY} -X DELETE {api}/clients/thermometer-attic

Ctrl-C stops everything.
"
    )
}
