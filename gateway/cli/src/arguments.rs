//! What is typed.

mod filter;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

pub(crate) use filter::{Filter, Parameter};

/// The clients of a cluster of MQTT brokers: list, search, count, export, watch and kick them
#[derive(Debug, Parser)]
#[command(
    name = "rollcall",
    version,
    after_help = "Which gateway is asked, and with which key, comes from options, else from ROLLCALL_URL, ROLLCALL_KEY or \
    ROLLCALL_KEY_FILE and ROLLCALL_CA, else from a context (rollcall context --help).\n\n\
    Exit status: 0 done, 1 failed, 2 usage, 3 not found, 4 nodes are missing in the answer, 5 the key is refused."
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) gateway: GatewayFlags,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Which gateway is asked, as whom and how.
#[derive(Debug, Args)]
#[command(next_help_heading = "Gateway")]
pub(crate) struct GatewayFlags {
    /// The context to use instead of the current one and of the environment
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// Where the gateway is.
    #[arg(
        long,
        global = true,
        value_name = "URL",
        help = "The gateway, such as https://gateway.example:8443; without a path /api/v4 follows [env: ROLLCALL_URL]"
    )]
    pub(crate) url: Option<String>,
    /// A file with the API key, ID:SECRET or SECRET alone [env: ROLLCALL_KEY_FILE, or the key itself: ROLLCALL_KEY]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// Authorities to trust for https, in PEM, instead of the system's [env: ROLLCALL_CA]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// The file with the contexts [default: ~/.config/rollcall/config.toml] [env: ROLLCALL_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// How long the gateway may take to answer, such as 500ms or 10s [default: the gateway's request_timeout]
    #[arg(long, global = true, value_name = "TIME", value_parser = time)]
    pub(crate) timeout: Option<Duration>,
    /// Take an answer that lacks nodes for whole: they are named all the same, but the exit status is 0
    #[arg(long, global = true)]
    pub(crate) partial_ok: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The nodes that the gateway expects, whether they answer or not
    Nodes(Nodes),
    /// The clients of all nodes
    Clients(Clients),
    /// Everything about one client
    Client(Client),
    /// End clients' connections and sessions, by their ids or by filters
    Kick(Kick),
    /// How many clients there are
    Count(Count),
    /// Every client that matches, however many there are, as NDJSON or CSV
    Export(Export),
    /// The clients with the most of something, live
    Top(Top),
    /// Contexts: gateways by name
    #[command(subcommand)]
    Context(Context),
    /// Print a script that completes commands and options in a shell
    Completion {
        /// Which
        shell: Shell,
    },
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns, fitted to the terminal's width
    #[default]
    Table,
    /// A table with more columns
    Wide,
    /// One JSON object: data, and meta with the nodes that are missing
    Json,
    /// A JSON object a line
    Ndjson,
    /// RFC 4180, with a header line
    Csv,
}

/// How it is written.
#[derive(Debug, Args)]
pub(crate) struct Output {
    /// How it is written
    #[arg(short = 'o', long = "output", value_name = "FORMAT", value_enum, default_value_t)]
    pub(crate) format: Format,
    /// Tables without their line of titles
    #[arg(long)]
    pub(crate) no_headers: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Nodes {
    /// Only this one
    pub(crate) node: Option<String>,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Clients {
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// The field to sort by, or a statistic for the first 10000
    #[arg(long, value_name = "FIELD", default_value = "clientid")]
    pub(crate) sort: String,
    /// The largest first
    #[arg(long)]
    pub(crate) desc: bool,
    /// Rows of a page, at most 10000 [default: 100, with --all 1000]
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u32>,
    /// Which page, from 1
    #[arg(long, value_name = "N", conflicts_with = "all", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) page: Option<u64>,
    /// All pages, one after the other
    #[arg(long)]
    pub(crate) all: bool,
    /// Only these fields, separated by commas
    #[arg(long, value_name = "FIELDS", value_delimiter = ',')]
    pub(crate) fields: Vec<String>,
    /// Ask again and again, until Ctrl-C
    #[arg(long, conflicts_with = "all")]
    pub(crate) watch: bool,
    #[command(flatten)]
    pub(crate) interval: Interval,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// How often something live is asked for.
#[derive(Debug, Args)]
pub(crate) struct Interval {
    /// How often, such as 500ms or 10s
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = time)]
    pub(crate) interval: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct Client {
    /// The client's id
    #[arg(value_name = "ID")]
    pub(crate) clientid: String,
    /// Only these fields, separated by commas
    #[arg(long, value_name = "FIELDS", value_delimiter = ',')]
    pub(crate) fields: Vec<String>,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Kick {
    /// The clients' ids; or filters instead
    #[arg(value_name = "ID")]
    pub(crate) clientids: Vec<String>,
    /// A file with an id a line; - is stdin
    #[arg(long, value_name = "FILE")]
    pub(crate) from: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// Say who would be kicked, and kick nobody
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask; needed where there is no terminal to ask at
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Needed beside --yes if there are no filters or they match everybody
    #[arg(long)]
    pub(crate) everybody: bool,
    /// Kick nobody if it would be more [default: the gateway's, 1000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) max: Option<u64>,
    /// Kicks a second [default: the gateway's, 100]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rate: Option<u64>,
    /// How it is written: table, or ndjson as the gateway sends it
    #[arg(short = 'o', long = "output", value_name = "FORMAT", value_enum, default_value_t)]
    pub(crate) format: KickFormat,
}

/// How a kick is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum KickFormat {
    /// A line for each client
    #[default]
    Table,
    /// A JSON object for each client, and one with meta at the end
    Ndjson,
}

#[derive(Debug, Args)]
pub(crate) struct Count {
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// How many of each: node, zone, proto_name, proto_ver, conn_state, clean_start or username
    #[arg(long, value_name = "FIELD")]
    pub(crate) by: Option<String>,
    /// How many groups at the most, the largest [default: 100]
    #[arg(long, value_name = "N", requires = "by", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) top: Option<u64>,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// How it is written
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: ExportFormat,
    /// Only these fields, separated by commas
    #[arg(long, value_name = "FIELDS", value_delimiter = ',')]
    pub(crate) fields: Vec<String>,
    /// The field to sort by, which cannot be a statistic
    #[arg(long, value_name = "FIELD", default_value = "clientid")]
    pub(crate) sort: String,
    /// The largest first
    #[arg(long)]
    pub(crate) desc: bool,
    /// Where to; written to FILE.part, which becomes FILE once it is whole [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

/// How an export is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// A JSON object a line
    #[default]
    Ndjson,
    /// RFC 4180, with a header line
    Csv,
}

#[derive(Debug, Args)]
pub(crate) struct Top {
    /// The statistic to sort by, such as mqueue_len, recv_msg or subscriptions_cnt
    #[arg(value_name = "STATISTIC", default_value = "mqueue_len")]
    pub(crate) statistic: String,
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// How many clients [default: as many as the terminal has room for, else 20]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10000))]
    pub(crate) limit: Option<u32>,
    /// Ask once, on a terminal too
    #[arg(long)]
    pub(crate) once: bool,
    #[command(flatten)]
    pub(crate) interval: Interval,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Context {
    /// The contexts there are; the current one has a star
    List,
    /// Make a context the current one
    Use {
        /// Which
        name: String,
    },
    /// Make or change a context, with --url, --key-file and --ca
    Set {
        /// Which
        name: String,
        /// Read the key from stdin and keep it in the file of the contexts
        #[arg(long, conflicts_with = "key_file")]
        key_stdin: bool,
    },
    /// Remove a context
    Remove {
        /// Which
        name: String,
    },
}

fn time(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time >= Duration::from_millis(1) => Ok(time),
        _ => Err("expected a time such as 500ms, 2s or 1m".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn what_excludes_each_other_is_refused() {
        for arguments in [
            "clients --page 2 --all",
            "clients --page 0",
            "clients --watch --all",
            "clients --state gone",
            "clients --ip host",
            "clients --interval 0s",
            "count --top 3",
            "kick --rate 0 a",
            "context set a --key-stdin --key-file b",
            "top --limit 0",
            "client",
        ] {
            let typed = ["rollcall"].into_iter().chain(arguments.split(' '));
            assert!(Arguments::try_parse_from(typed).is_err(), "{arguments}");
        }
    }
}
