//! The plugin between the broker's thread and the agent's: takes events to the table, carries kicks out in the broker's
//! time, starts and ends the agent.

use std::collections::VecDeque;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::unistd::gethostname;
use rollcall_node_agent::run::{RunError, bind, check_files, run};
use thiserror::Error;
use tokio::runtime::Runtime;
use tokio::sync::{Notify, oneshot, watch};
use tracing::{debug, error, info, warn};

use crate::broker::MosquittoBroker;
use crate::configuration::Configuration;
use crate::log::Lines;
use crate::options::{InvalidOption, Logins, Options};
use crate::persistence;
use crate::table::{BrokerCalls, Facts, Handle, Standing, Table, Verdict};

/// How often there is a round while nothing waits for one, at most. The loop comes round once for every packet of a busy
/// broker, and a round for each took a tenth of what the broker needs for a message.
const ROUND_MS: i64 = 10;

/// How many sessions the broker is asked about, and how many clients' subscriptions are read, in one round of its loop.
const MOST_A_ROUND: usize = 500;

/// How many kicks are carried out in one round.
const MOST_KICKS_A_ROUND: usize = 100;

/// How long the broker's end may be held up by the agent's.
const LONGEST_END: Duration = Duration::from_secs(3);

/// Threads of the agent. The broker has one of its own and would like to keep its core.
const THREADS: usize = 2;

/// Why there is no agent.
#[derive(Debug, Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Option(#[from] InvalidOption),
    #[error("the agent's threads cannot be started: {0}")]
    Threads(#[from] std::io::Error),
    #[error("the agent's threads cannot be kept from the broker's signals: {0}")]
    Signals(#[from] nix::errno::Errno),
    #[error(transparent)]
    Agent(#[from] RunError),
}

/// What the two sides share.
pub(crate) struct Shared {
    table: Mutex<Table>,
    /// What is not known of the broker's clients.
    pub(crate) gap: Option<Gap>,
    /// The broker's, once it is known.
    pub(crate) version: OnceLock<String>,
    kicks: Mutex<VecDeque<Kick>>,
    /// Something waits in the table to be told.
    pub(crate) news: Notify,
    /// Whether the broker's loop has ever come round.
    has_ticked: watch::Sender<bool>,
    /// Something waits for a round: a login, the end of a connection, a kick.
    is_awaited: AtomicBool,
}

/// What is known from the beginning not to be known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Gap {
    /// The sessions that the broker has loaded, and why.
    Loaded(String),
    /// Clients that are known by their certificates, until they send something.
    Certified,
}

/// The table of a broker that has just loaded its sessions, and what it lacks.
fn first_table() -> (Table, Option<Gap>) {
    let mut table = Table::default();
    let gap = match load(&mut table) {
        Ok(true) => Some(Gap::Certified),
        Ok(false) => None,
        Err(reason) => Some(Gap::Loaded(reason)),
    };
    if let Some(gap) = &gap {
        warn!(?gap, "not all clients of the broker are known");
    }
    (table, gap)
}

/// Fills the table with the sessions that the broker has loaded. Whether others log in unseen.
fn load(table: &mut Table) -> Result<bool, String> {
    let configuration = Configuration::of_this_process()
        .map_err(|error| format!("the broker's configuration cannot be read as its user: {error}"))?;
    if let Some(keeper) = &configuration.keeper {
        return Err(format!("{keeper} keeps them, expected mosquitto's own file"));
    }
    if let Some(path) = configuration.persistence_file() {
        let mut sessions =
            persistence::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let host = gethostname().map_err(|error| format!("the host's name: {error}"))?;
        for bridge in configuration.bridges(&host.to_string_lossy()) {
            sessions.remove(&bridge);
        }
        info!(file = %path.display(), sessions = sessions.len(), "the broker has loaded sessions");
        table.load(sessions, now_ms());
    }
    Ok(configuration.has_unseen_logins)
}

/// The broker's version, which its interface has no call for: its program says it when it is asked for help.
fn version() -> Option<String> {
    let mut program = Command::new("/proc/self/exe");
    let help = program.arg("-h").stdin(Stdio::null()).stderr(Stdio::null()).output();
    let help = help.inspect_err(|error| debug!(%error, "the broker's version cannot be asked for")).ok()?;
    let help = String::from_utf8_lossy(&help.stdout);
    let version = help.lines().next()?.strip_prefix("mosquitto version ")?.split_whitespace().next()?;
    Some(version.to_owned())
}

/// A kick that waits for the broker's thread.
struct Kick {
    clientid: String,
    session: u64,
    outcome: oneshot::Sender<Kicked>,
}

/// What a kick has found and left.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kicked {
    pub(crate) was_there: bool,
    pub(crate) standing: Standing,
}

impl Shared {
    pub(crate) fn new(table: Table, gap: Option<Gap>) -> Self {
        Self {
            table: Mutex::new(table),
            gap,
            version: OnceLock::new(),
            kicks: Mutex::default(),
            news: Notify::new(),
            has_ticked: watch::Sender::new(false),
            is_awaited: AtomicBool::new(false),
        }
    }

    /// Waits until the broker's loop comes round for the first time.
    pub(crate) async fn first_tick(&self) {
        // The sender lives as long as `self`, so this cannot fail.
        let _ = self.has_ticked.subscribe().wait_for(|has_ticked| *has_ticked).await;
    }

    pub(crate) fn table(&self) -> MutexGuard<'_, Table> {
        // Each change is made whole before anything of it can fail.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kicks(&self) -> MutexGuard<'_, VecDeque<Kick>> {
        self.kicks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes a session's connection when the broker's loop comes round, and says how it stands then; `None` if the
    /// broker ends before.
    pub(crate) async fn kick(&self, clientid: &str, session: u64) -> Option<Kicked> {
        let (outcome, kicked) = oneshot::channel();
        self.kicks().push_back(Kick { clientid: clientid.to_owned(), session, outcome });
        self.is_awaited.store(true, Ordering::Release);
        kicked.await.ok()
    }
}

/// The plugin, as long as the broker has it loaded.
pub(crate) struct Plugin {
    shared: Arc<Shared>,
    logins: Logins,
    lines: Lines,
    /// When there is a round though nothing waits for one, by a clock that is read in nanoseconds and goes in steps.
    next_round_ms: AtomicI64,
    /// `None` once it has ended.
    agent: Mutex<Option<RunningAgent>>,
}

struct RunningAgent {
    runtime: Runtime,
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl Plugin {
    /// Starts the agent. Its address is bound when this returns.
    pub(crate) fn start(options: &[(String, String)], lines: Lines) -> Result<Self, StartError> {
        let Options { logins, mqtt_address, agent: config } = Options::read(options)?;
        // An agent that found one amiss would end by itself, and leave the broker without.
        check_files(&config)?;
        lines.begin(&config.log);
        let (table, gap) = first_table();
        let shared = Arc::new(Shared::new(table, gap));
        let runtime = without_signals(|| {
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(THREADS)
                .thread_name("rollcall")
                .enable_all()
                .build()
        })??;
        let asking = Arc::clone(&shared);
        runtime.spawn_blocking(move || version().map(|version| asking.version.set(version)));
        let listener = runtime.block_on(bind(&config))?;
        let address = listener.local_addr()?;
        let broker = Arc::new(MosquittoBroker::new(Arc::clone(&shared), mqtt_address));
        let (stop, stopped) = oneshot::channel::<()>();
        let (end, ended) = oneshot::channel();
        let node = config.node_name.clone();
        runtime.spawn(async move {
            let shutdown = async {
                // Dropped, it means the same.
                let _ = stopped.await;
            };
            if let Err(error) = run(config, listener, broker, shutdown).await {
                error!(%error, "the agent has ended, the broker goes on without it");
            }
            // Nobody waits if the broker has gone on.
            let _ = end.send(());
        });
        info!(%node, %address, ?logins, "the node-agent is up");
        let agent = Mutex::new(Some(RunningAgent { runtime, stop, ended }));
        Ok(Self { shared, logins, lines, next_round_ms: AtomicI64::new(0), agent })
    }

    /// What to answer about a login.
    pub(crate) fn login(&self, handle: Handle, facts: Option<Facts>, password: Option<&[u8]>) -> Login {
        let Some(facts) = facts else { return self.next() };
        self.shared.is_awaited.store(true, Ordering::Release);
        match self.shared.table().authenticating(handle, facts, password) {
            Verdict::NotOurs => self.next(),
            Verdict::Allow => Login::Allow,
            Verdict::Refuse => Login::Refuse,
        }
    }

    fn next(&self) -> Login {
        match self.logins {
            Logins::Defer => Login::Defer,
            Logins::Open => Login::Allow,
        }
    }

    pub(crate) fn message(&self, handle: Handle, calls: &dyn BrokerCalls) {
        let mut table = self.shared.table();
        if !table.message(handle) {
            table.first_message(handle, calls, now_ms());
        }
    }

    pub(crate) fn disconnected(&self, handle: Handle, calls: &dyn BrokerCalls) {
        self.shared.table().disconnected(handle, calls, now_ms());
        self.shared.is_awaited.store(true, Ordering::Release);
        self.shared.news.notify_one();
    }

    /// The broker's loop has come round. False if nothing was to be done yet.
    pub(crate) fn tick(&self, calls: &dyn BrokerCalls) -> bool {
        let now_ms = coarse_ms();
        let is_awaited = self.shared.is_awaited.swap(false, Ordering::AcqRel);
        if !is_awaited && now_ms < self.next_round_ms.load(Ordering::Relaxed) {
            return false;
        }
        self.next_round_ms.store(now_ms.saturating_add(ROUND_MS), Ordering::Relaxed);
        self.round(calls);
        true
    }

    /// No lock is held while the broker closes connections, because it tells of each at once.
    fn round(&self, calls: &dyn BrokerCalls) {
        let now_ms = now_ms();
        self.shared.table().settle(calls, now_ms);
        for _ in 0..MOST_KICKS_A_ROUND {
            let Some(kick) = self.shared.kicks().pop_front() else { break };
            // Whoever asked may have given up.
            let _ = kick.outcome.send(self.kick(&kick.clientid, kick.session, calls, now_ms));
        }
        let due = self.shared.table().due(now_ms, MOST_A_ROUND);
        for (clientid, session) in due {
            self.look_at(&clientid, session, calls, now_ms);
        }
        let has_news = {
            let mut table = self.shared.table();
            table.sweep(calls, MOST_A_ROUND, now_ms);
            table.has_news()
        };
        if has_news {
            self.shared.news.notify_one();
        }
        self.shared.has_ticked.send_if_modified(|has_ticked| !std::mem::replace(has_ticked, true));
    }

    fn kick(&self, clientid: &str, session: u64, calls: &dyn BrokerCalls, now_ms: i64) -> Kicked {
        let before = self.shared.table().standing(clientid, session);
        if before == Standing::Connected {
            calls.kick(clientid);
        }
        self.look_at(clientid, session, calls, now_ms);
        let standing = self.shared.table().standing(clientid, session);
        Kicked { was_there: before != Standing::Gone, standing }
    }

    /// Asks the broker whether it keeps a session that has no connection.
    fn look_at(&self, clientid: &str, session: u64, calls: &dyn BrokerCalls, now_ms: i64) {
        if self.shared.table().may_ask(clientid, session, now_ms) {
            let is_kept = calls.kick(clientid);
            self.shared.table().looked_at(clientid, session, is_kept, now_ms);
        }
    }

    /// Hands the agent's log lines to the broker's log.
    pub(crate) fn write_log(&self, write: impl FnMut(tracing::Level, &str)) {
        self.lines.drain(write);
    }

    /// Ends the agent.
    pub(crate) fn end(&self) {
        let Some(agent) = self.agent.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        let RunningAgent { runtime, stop, ended } = agent;
        // It may have ended by itself.
        let _ = stop.send(());
        // Calls that take longer are cut off with the runtime.
        let _ = runtime.block_on(async { tokio::time::timeout(LONGEST_END, ended).await });
        runtime.shutdown_background();
    }
}

/// The answer to a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Login {
    Allow,
    Refuse,
    /// Let others decide.
    Defer,
}

/// Threads made meanwhile take no signals: those are the broker's.
fn without_signals<T>(make: impl FnOnce() -> T) -> Result<T, nix::errno::Errno> {
    use nix::sys::signal::{SigSet, SigmaskHow};
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let made = make();
    before.thread_set_mask()?;
    Ok(made)
}

/// Milliseconds since some moment, in steps of a few. Without a clock every loop has its round.
fn coarse_ms() -> i64 {
    use nix::time::{ClockId, clock_gettime};
    clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE)
        .map_or(i64::MAX, |now| now.tv_sec() * 1_000 + now.tv_nsec() / 1_000_000)
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
