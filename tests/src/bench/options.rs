//! The benchmark's command line.

use std::path::PathBuf;

/// How the command is used.
pub const USAGE: &str = "\
usage: tests/bench/run [SUITE ...] [OPTION ...]

suites (without one, all but front; with --url all that need nothing but HTTP):
  depth    first, middle and last page, unfiltered and filtered, in three orders
  filter   get, exact, typed, time range, substring
  sort     page 1 under every sort field, both ways
  page     100 rows at 1 and 32 connections, 10,000 rows at 1, beside the same bytes served statically
  export   every row as NDJSON, gzip and CSV, and the gateway's memory meanwhile
  nodes    the same clients on 3, 10 and 50 nodes (not with --url)
  memory   an agent's memory per client (not with --url)
  writes   reads while an agent absorbs 20,000 reconnects a second (not with --url)
  mosquitto  what the plugin costs a Mosquitto broker (not with --url)
  front    what the counting front costs the embedded broker; only if it is named (not with --url)

options:
  --clients N          clients of each of three agents [default: 1000000]
  --rounds N           how often everything is measured, in turns [default: 3]
  --seconds S          how long each measurement of a round takes [default: 0.5]
  --json FILE          write all figures to a file too
  --url URL            measure what is served there, http://HOST:PORT or with a path prefix behind it
  --path-prefix PATH   what stands before /clients [default: the URL's, else /api/v4]
  --key ID:SECRET      Basic auth for --url
  --total N            rows there are, where answers have no meta.count";

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// Latency by depth.
    Depth,
    /// Latency by filter.
    Filter,
    /// Latency by sort.
    Sort,
    /// Throughput of a page.
    Page,
    /// All rows as a stream.
    Export,
    /// Latency by number of nodes.
    Nodes,
    /// Memory per client.
    Memory,
    /// Reads during writes.
    Writes,
    /// A broker with and without the plugin.
    Mosquitto,
    /// The embedded broker with and without the counting front.
    Front,
}

impl Suite {
    /// All of them, in the order they run.
    pub const ALL: [Self; 10] = [
        Self::Depth,
        Self::Filter,
        Self::Sort,
        Self::Page,
        Self::Export,
        Self::Nodes,
        Self::Memory,
        Self::Writes,
        Self::Mosquitto,
        Self::Front,
    ];

    /// As on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Depth => "depth",
            Self::Filter => "filter",
            Self::Sort => "sort",
            Self::Page => "page",
            Self::Export => "export",
            Self::Nodes => "nodes",
            Self::Memory => "memory",
            Self::Writes => "writes",
            Self::Mosquitto => "mosquitto",
            Self::Front => "front",
        }
    }

    /// Whether it needs nothing but HTTP.
    #[must_use]
    pub fn is_remote(self) -> bool {
        !matches!(self, Self::Nodes | Self::Memory | Self::Writes | Self::Mosquitto | Self::Front)
    }
}

/// Somebody else's server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remote {
    /// `HOST:PORT`.
    pub authority: String,
    /// What stands before `/clients`; no slash at its end.
    pub prefix: String,
    /// `ID:SECRET`.
    pub key: Option<(String, String)>,
    /// Rows there are, if it does not say so itself.
    pub total: Option<u64>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// In the order they run, each once.
    pub suites: Vec<Suite>,
    /// Clients of each of three agents.
    pub clients: usize,
    /// How often everything is measured.
    pub rounds: usize,
    /// How long each measurement takes.
    pub seconds: f64,
    /// Where to write all figures.
    pub json: Option<PathBuf>,
    /// What to measure in place of agents and a gateway of our own.
    pub remote: Option<Remote>,
}

/// The words of a command line.
///
/// # Errors
/// A word or value that cannot be used, named with what was expected.
pub fn parse(words: &[String]) -> Result<Options, String> {
    let mut options =
        Options { suites: Vec::new(), clients: 1_000_000, rounds: 3, seconds: 0.5, json: None, remote: None };
    let (mut url, mut remote, mut prefix) = (None, Remote::default(), None);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if !word.starts_with('-') {
            let suite = Suite::ALL.into_iter().find(|suite| suite.name() == word);
            options.suites.push(suite.ok_or_else(|| format!("{word}: there is no such suite"))?);
            continue;
        }
        let known = ["clients", "rounds", "seconds", "json", "url", "path-prefix", "key", "total"];
        if !word.strip_prefix("--").is_some_and(|name| known.contains(&name)) {
            return Err(format!("{word}: there is no such option"));
        }
        let value = words.next().ok_or_else(|| format!("{word} without a value"))?;
        let wrong = |expected: &str| format!("{word} {value}: expected {expected}");
        match word.as_str() {
            "--clients" => {
                let clients = value.parse().ok().filter(|n| (1_000..=20_000_000).contains(n));
                options.clients = clients.ok_or_else(|| wrong("1000 to 20000000"))?;
            }
            "--rounds" => {
                options.rounds = value.parse().ok().filter(|n| *n > 0).ok_or_else(|| wrong("1 or more"))?;
            }
            "--seconds" => {
                let seconds = value.parse().ok().filter(|s: &f64| *s > 0.0 && *s < 3600.0);
                options.seconds = seconds.ok_or_else(|| wrong("a number of seconds, less than 3600"))?;
            }
            "--json" => options.json = Some(value.into()),
            "--url" => url = Some(base(value).ok_or_else(|| wrong("http://HOST:PORT/PREFIX, no TLS"))?),
            "--path-prefix" => prefix = Some(trimmed(value).ok_or_else(|| wrong("a path from / on"))?),
            "--key" => {
                let (id, secret) = value.split_once(':').ok_or_else(|| wrong("ID:SECRET"))?;
                remote.key = Some((id.to_owned(), secret.to_owned()));
            }
            "--total" => remote.total = Some(value.parse().map_err(|_| wrong("a whole number"))?),
            _ => return Err(format!("{word}: there is no such option")),
        }
    }
    let only_remote = [
        ("--path-prefix", prefix.is_some()),
        ("--key", remote.key.is_some()),
        ("--total", remote.total.is_some()),
    ];
    match url {
        Some((authority, path)) => {
            remote.authority = authority;
            remote.prefix = prefix.or(path).unwrap_or_else(|| "/api/v4".to_owned());
            options.remote = Some(remote);
        }
        None => {
            if let Some((option, _)) = only_remote.iter().find(|(_, given)| *given) {
                return Err(format!("{option} without --url"));
            }
        }
    }
    let is_remote = options.remote.is_some();
    if let Some(suite) = options.suites.iter().find(|suite| is_remote && !suite.is_remote()) {
        return Err(format!("{}: this suite starts its own agents and cannot go with --url", suite.name()));
    }
    let wanted = |suite: &Suite| match &options.suites[..] {
        // Its broker takes minutes to build.
        [] if *suite == Suite::Front => false,
        [] => suite.is_remote() || !is_remote,
        some => some.contains(suite),
    };
    options.suites = Suite::ALL.into_iter().filter(wanted).collect();
    Ok(options)
}

/// `HOST:PORT`, and the path if there is one.
fn base(url: &str) -> Option<(String, Option<String>)> {
    let rest = url.strip_prefix("http://")?;
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let is_unusable = |character: char| character.is_whitespace() || "@?#".contains(character);
    if authority.is_empty() || url.contains(is_unusable) {
        return None;
    }
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let authority = if has_port { authority.to_owned() } else { format!("{authority}:80") };
    Some((authority, trimmed(path).filter(|path| !path.is_empty())))
}

/// A path without a slash at its end.
fn trimmed(path: &str) -> Option<String> {
    let path = path.trim_end_matches('/');
    (path.is_empty() || path.starts_with('/')).then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Options, String> {
        parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn without_words_everything_is_measured_that_needs_no_broker_inside() {
        let options = parsed("").unwrap();
        assert_eq!(options.suites, Suite::ALL[..9]);
        assert_eq!(parsed("front").unwrap().suites, [Suite::Front]);
        assert_eq!((options.clients, options.rounds, options.remote), (1_000_000, 3, None));
    }

    #[test]
    fn suites_run_once_and_in_their_order() {
        let options =
            parsed("writes --clients 50000 depth writes --json x.json --seconds 0.25 --rounds 2").unwrap();
        assert_eq!(options.suites, [Suite::Depth, Suite::Writes]);
        assert_eq!((options.clients, options.rounds, options.seconds), (50_000, 2, 0.25));
        assert_eq!(options.json, Some("x.json".into()));
    }

    #[test]
    fn another_server_is_measured_by_the_suites_that_need_only_http() {
        let options = parsed("--url http://peer:18083/api/v5/ --key a:b:c --total 7").unwrap();
        let expected = Remote {
            authority: "peer:18083".to_owned(),
            prefix: "/api/v5".to_owned(),
            key: Some(("a".to_owned(), "b:c".to_owned())),
            total: Some(7),
        };
        assert_eq!(options.remote, Some(expected));
        assert_eq!(options.suites, [Suite::Depth, Suite::Filter, Suite::Sort, Suite::Page, Suite::Export]);
        let prefix = |line: &str| {
            let remote = parsed(line).unwrap().remote.unwrap();
            (remote.authority, remote.prefix)
        };
        assert_eq!(prefix("--url http://[::1]:8"), ("[::1]:8".to_owned(), "/api/v4".to_owned()));
        assert_eq!(prefix("--url http://h/x --path-prefix /"), ("h:80".to_owned(), String::new()));
        assert_eq!(prefix("--url http://h --path-prefix /y/"), ("h:80".to_owned(), "/y".to_owned()));
    }

    #[test]
    fn what_cannot_be_used_is_named_with_what_was_expected() {
        for (line, expected) in [
            ("deep", "deep: there is no such suite"),
            ("--client 5", "--client: there is no such option"),
            ("-x", "-x: there is no such option"),
            ("--clients", "--clients without a value"),
            ("--clients 5", "--clients 5: expected 1000 to 20000000"),
            ("--rounds 0", "--rounds 0: expected 1 or more"),
            ("--seconds nan", "--seconds nan: expected a number of seconds, less than 3600"),
            ("--url https://h", "--url https://h: expected http://HOST:PORT/PREFIX, no TLS"),
            ("--url http://a:b@h", "--url http://a:b@h: expected http://HOST:PORT/PREFIX, no TLS"),
            ("--url http://h --key x", "--key x: expected ID:SECRET"),
            ("--url http://h --path-prefix x", "--path-prefix x: expected a path from / on"),
            ("--key a:b", "--key without --url"),
            ("--url http://h nodes", "nodes: this suite starts its own agents and cannot go with --url"),
        ] {
            assert_eq!(parsed(line).unwrap_err(), expected, "{line}");
        }
    }

    #[test]
    fn the_usage_names_every_suite_and_option() {
        for suite in Suite::ALL {
            assert!(USAGE.contains(&format!("\n  {} ", suite.name())), "{}", suite.name());
        }
        for option in ["clients", "rounds", "seconds", "json", "url", "path-prefix", "key", "total"] {
            assert!(USAGE.contains(&format!("\n  --{option} ")), "{option}");
        }
    }
}
