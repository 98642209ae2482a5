//! `rollcall-gateway`: arguments to configuration to [`Gateway`].

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use rollcall_gateway::Gateway;
use rollcall_gateway::config::{Config, Layer, LogFormat};
use rollcall_gateway::dev_certs::{DevCerts, Host};
use rollcall_gateway::key_file::KeyFile;
use rollcall_gateway::keys::Role;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// EMQX 4's Clients API over a cluster of Rollcall node-agents
///
/// Prints `ready ADDR` on stdout when it serves; logs go to stderr.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Every option is also an environment variable (--request-timeout is \
    ROLLCALL_GATEWAY_REQUEST_TIMEOUT) and, but for --config and --key, a key of the configuration file \
    (request_timeout). Options come before the environment, and that before the file."
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<What>,
    #[command(flatten)]
    options: Layer,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Say whether the configuration can be used, and do nothing else
    CheckConfig {
        #[command(flatten)]
        options: Box<Layer>,
    },
    /// Create, list and revoke API keys; a running gateway sees changes within a second or two
    #[command(subcommand)]
    Key(KeyCommand),
    /// Make an authority and certificates for development, and say how to use them
    ///
    /// Writes ca.pem, a certificate agent-HOST.pem for each agent, and for the gateway gateway.pem (what it shows to agents)
    /// and https.pem (what it shows to its users), with their keys (.key). Run again it signs for more hosts. No file is
    /// ever overwritten.
    DevCerts {
        /// Where the files go; made if it is not there
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// An agent's host, as --node names it; may be repeated (or several between commas)
        #[arg(long, value_name = "HOST", value_delimiter = ',')]
        agent: Vec<Host>,
        /// A gateway's host, as its users name it; may be repeated (or several between commas)
        #[arg(long, value_name = "HOST", value_delimiter = ',')]
        gateway: Vec<Host>,
        /// How long the certificates are valid
        #[arg(long, value_name = "N", default_value_t = 365)]
        days: u32,
    },
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Make a key and print it, once, as ID:SECRET
    Create {
        /// The key file; made if there is none
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
        /// Names the key, in Basic authentication and in the access log
        #[arg(long)]
        id: String,
        /// What the key may do: read, or also kick
        #[arg(long)]
        role: Role,
        /// What it is for
        #[arg(long, default_value = "")]
        comment: String,
    },
    /// Print id, role, time and comment of every key
    List {
        /// The key file
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Remove a key
    Revoke {
        /// The key file
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
        /// Which
        #[arg(long)]
        id: String,
    },
}

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let Arguments { command, options } = Arguments::parse();
    let outcome = match command {
        None => load(options).and_then(serve),
        Some(What::CheckConfig { options: after }) => load(after.over(options)).map(|config| {
            say(&format!("the configuration is good: {} nodes", config.cluster.nodes.len()));
        }),
        Some(_) if options != Layer::default() => {
            Err("options of the gateway mean nothing to this command".into())
        }
        Some(What::Key(command)) => key(command),
        Some(What::DevCerts { dir, agent, gateway, days }) => {
            let made = DevCerts { dir, agents: agent, gateways: gateway, days }.make();
            made.map(|made| say(made.to_string().trim_end())).map_err(Into::into)
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rollcall-gateway: {error}");
            ExitCode::FAILURE
        }
    }
}

fn load(options: Layer) -> Result<Config, Failure> {
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())));
    Ok(Config::load(options, environment)?)
}

#[tokio::main]
async fn serve(config: Config) -> Result<(), Failure> {
    log_to_stderr(&config)?;
    if config.keys_in_the_open {
        tracing::warn!("a key came by command line or environment, which is for tests; use a key file");
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let listen = config.listen;
    let listener =
        TcpListener::bind(listen).await.map_err(|error| format!("cannot listen on {listen}: {error}"))?;
    let gateway = Gateway::start(config)?;
    say(&format!("ready {}", listener.local_addr()?));
    gateway.serve(listener, shutdown).await;
    Ok(())
}

fn log_to_stderr(config: &Config) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&config.log_filter)?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    match config.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(())
}

fn key(command: KeyCommand) -> Result<(), Failure> {
    match command {
        KeyCommand::Create { file, id, role, comment } => {
            let secret = KeyFile::at(&file).create(&id, role, &comment)?;
            eprintln!("key {id} is in {}; its secret is shown only now:", file.display());
            say(&format!("{id}:{secret}"));
        }
        KeyCommand::List { file } => {
            for key in KeyFile::at(file).entries()? {
                say(&format!("{}\t{}\t{}\t{}", key.id, key.role.as_str(), key.created_at, key.comment));
            }
        }
        KeyCommand::Revoke { file, id } => {
            KeyFile::at(&file).revoke(&id)?;
            eprintln!(
                "key {id} is revoked; gateways that use {} refuse it in a second or two",
                file.display()
            );
        }
    }
    Ok(())
}

/// One line on stdout. Whoever reads it may be gone, which is no reason to end.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
