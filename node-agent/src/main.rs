//! The node-agent's command line.

#[cfg(feature = "embedded")]
mod passwd;

use std::io::Write as _;
use std::process::ExitCode;

use rollcall_node_agent::config::args::{Args, Cli, Command, Refusal};
use rollcall_node_agent::config::{Config, Log, LogFormat};
use rollcall_node_agent::run::{RunError, bind, check_files, run_with_ready, start_broker};
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;
use tracing_subscriber::filter::{EnvFilter, FilterExt as _, filter_fn};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

/// The settings cannot be used.
const EXIT_CONFIG: u8 = 2;

fn main() -> ExitCode {
    let Cli { command, args } = match Cli::read() {
        Ok(cli) => cli,
        Err(Refusal::Asked(answer)) => {
            // Whoever asked may have closed the other end.
            let _ = answer.print();
            return ExitCode::SUCCESS;
        }
        Err(Refusal::Wrong(message)) => {
            eprintln!("error: {message}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    match command {
        None => serve(Config::load(&args)),
        Some(Command::CheckConfig(args)) => check_config(&args),
        #[cfg(feature = "embedded")]
        Some(Command::Passwd { file, user }) => passwd::add(&file, &user),
    }
}

fn check_config(args: &Args) -> ExitCode {
    let config = Config::load(args).map_err(|error| error.to_string());
    let config = config.and_then(|config| {
        check_files(&config).map_err(|error| error.to_string())?;
        Ok(config)
    });
    match config {
        Ok(config) => {
            // As above: whoever reads may have closed the other end.
            let _ = write!(std::io::stdout(), "ok\n{config}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(EXIT_CONFIG)
        }
    }
}

fn serve(config: Result<Config, impl std::fmt::Display>) -> ExitCode {
    let config = match config {
        Ok(config) => config,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    start_log(&config.log);
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(serve_until_signal(config));
    // Scans that nobody waits for any more must not hold up the end.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve_until_signal(config: Config) -> Result<(), RunError> {
    let signal_error = |error: std::io::Error| RunError::Serve(format!("signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(signal_error)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(signal_error)?;
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => info!(signal = "SIGTERM", "stopping"),
            _ = interrupt.recv() => info!(signal = "SIGINT", "stopping"),
        }
    };
    // The broker last: its listeners must not take clients for an agent that cannot listen.
    let listeners = bind(&config).await?;
    let unknown =
        |error: std::io::Error| RunError::Listen { address: config.listen, reason: error.to_string() };
    let (address, metrics) =
        (listeners.local_addr().map_err(unknown)?, listeners.metrics_addr().map_err(unknown)?);
    let broker = start_broker(&config).await?;
    let mut line = format!("ready {address}");
    for mqtt in &broker.broker().info().mqtt_addresses {
        line.push_str(" mqtt ");
        line.push_str(mqtt);
    }
    if let Some(metrics) = metrics {
        line.push_str(&format!(" metrics {metrics}"));
    }
    let ready = move || {
        // Whoever reads the line may have closed its end; that is no reason to stop.
        let mut stdout = std::io::stdout().lock();
        let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    };
    let ended = run_with_ready(config, listeners, broker.broker(), ready, shutdown).await;
    broker.shutdown().await;
    ended
}

fn start_log(log: &Log) {
    // Checked with the rest of the configuration.
    let filter =
        EnvFilter::try_new(&log.filter).unwrap_or_default().and(filter_fn(|event| !is_secret(event)));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry();
    match log.format {
        LogFormat::Text => registry.with(lines.with_ansi(false).with_filter(filter)).init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true).with_filter(filter)).init(),
    }
}

/// Whether a line is never logged, whatever the filter says: at this level the client of NATS writes out all that it
/// sends and gets, its own password and those of MQTT clients among it.
fn is_secret(event: &tracing::Metadata<'_>) -> bool {
    *event.level() == tracing::Level::TRACE && event.target().starts_with("async_nats")
}
