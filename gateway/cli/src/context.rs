//! Which gateway is asked, and as whom: options over the environment over a context.
//!
//! A key goes only where it belongs: who names a gateway by `--url` or `ROLLCALL_URL` gets neither key nor authorities
//! of a context, and who names a context by `--context` gets nothing of the environment.

pub(crate) mod file;
mod secret;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Uri;

use crate::arguments::GatewayFlags;
use crate::exit::Failure;
pub(crate) use secret::Secret;

/// Where the API is, if the URL does not say.
const BASE: &str = "/api/v4";

/// A gateway, and what it takes to ask it.
#[derive(Debug)]
pub(crate) struct Target {
    /// Scheme, host and base path, without a slash at its end.
    pub(crate) base: String,
    pub(crate) key: Option<Secret>,
    /// Authorities to trust, in PEM, instead of the system's.
    pub(crate) ca: Option<Vec<u8>>,
    pub(crate) timeout: Option<Duration>,
    /// What the user should be told about it.
    pub(crate) warnings: Vec<String>,
}

/// The variables of the environment that count.
#[derive(Debug, Default)]
pub(crate) struct Environment(HashMap<String, String>);

impl Environment {
    /// Of this process. Empty variables count as none.
    pub(crate) fn of_process() -> Self {
        Self::of(
            std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
        )
    }

    fn of(variables: impl Iterator<Item = (String, String)>) -> Self {
        let known = |name: &str| name.starts_with("ROLLCALL_") || matches!(name, "HOME" | "XDG_CONFIG_HOME");
        Self(variables.filter(|(name, value)| known(name) && !value.is_empty()).collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from)
    }
}

/// Where the contexts are kept.
///
/// # Errors
/// Neither an option nor the environment tells.
pub(crate) fn config_path(flags: &GatewayFlags, environment: &Environment) -> Result<PathBuf, Failure> {
    let home = || {
        let config = environment.path("HOME").map(|home| home.join(".config"));
        environment.path("XDG_CONFIG_HOME").or(config).map(|folder| folder.join("rollcall/config.toml"))
    };
    flags.config.clone().or_else(|| environment.path("ROLLCALL_CONFIG")).or_else(home).ok_or_else(|| {
        Failure::Local("there is no place for contexts: HOME and ROLLCALL_CONFIG are not set".to_owned())
    })
}

/// The gateway to ask.
///
/// # Errors
/// None is named, or what is named cannot be used.
pub(crate) fn target(flags: &GatewayFlags, environment: &Environment) -> Result<Target, Failure> {
    // Not for clap to tell: it does not see what stands before the command beside what stands behind it.
    if flags.context.is_some() && flags.url.is_some() {
        return Err(Failure::Usage("both --context and --url are given, expected one of them".to_owned()));
    }
    let mut warnings = Vec::new();
    let environment = if flags.context.is_some() {
        // Only where the contexts are.
        &Environment(
            ["HOME", "XDG_CONFIG_HOME", "ROLLCALL_CONFIG"]
                .iter()
                .filter_map(|name| Some(((*name).to_owned(), environment.get(name)?.to_owned())))
                .collect(),
        )
    } else {
        environment
    };
    let named = flags.url.clone().or_else(|| environment.get("ROLLCALL_URL").map(str::to_owned));
    let context = match named {
        Some(url) => file::Context { url: Some(url), ..file::Context::default() },
        None => {
            let path = config_path(flags, environment)?;
            let context = file::Contexts::read(&path)?.context(flags.context.as_deref())?;
            if context.key.is_some() {
                warnings.extend(secret::too_open(&path));
            }
            context
        }
    };
    let url = context.url.ok_or_else(|| Failure::Local("the context has no url".to_owned()))?;
    let (base, in_the_open) = base(&url).map_err(Failure::Usage)?;
    let key_file = flags.key_file.clone();
    let key = match (key_file, environment.get("ROLLCALL_KEY"), environment.path("ROLLCALL_KEY_FILE")) {
        (Some(file), ..) | (None, None, Some(file)) => Some(read_key(&file, &mut warnings)?),
        (None, Some(key), _) => {
            Some(Secret::new(key).map_err(|why| Failure::Local(format!("ROLLCALL_KEY: {why}")))?)
        }
        (None, None, None) => match context.key_file {
            Some(file) => Some(read_key(&file, &mut warnings)?),
            None => context.key,
        },
    };
    if key.is_some() && in_the_open {
        warnings.push(format!("{base}: the key is sent without encryption, expected https"));
    }
    let ca = flags.ca.clone().or_else(|| environment.path("ROLLCALL_CA")).or(context.ca);
    let ca = ca.map(|path| read(&path)).transpose()?;
    Ok(Target { base, key, ca, timeout: flags.timeout, warnings })
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::Local(format!("{}: {error}", path.display())))
}

fn read_key(path: &Path, warnings: &mut Vec<String>) -> Result<Secret, Failure> {
    let key = Secret::read(path).map_err(|error| Failure::Local(format!("{}: {error}", path.display())))?;
    warnings.extend(secret::too_open(path));
    Ok(key)
}

/// Scheme, host and base path of a URL, and whether it is plain HTTP to another host.
///
/// # Errors
/// What was expected. The value may hold a password.
pub(crate) fn base(url: &str) -> Result<(String, bool), String> {
    let expected = "expected a URL such as https://gateway.example:8443";
    let uri: Uri = url.parse().map_err(|_| format!("{}: {expected}", shown(url)))?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(format!("{}: {expected}", shown(url)));
    };
    if authority.as_str().contains('@') {
        return Err(
            "the URL has a user name or password, expected none: the key stands in a file, see --key-file"
                .to_owned(),
        );
    }
    if !matches!(scheme, "http" | "https") || uri.query().is_some() {
        return Err(format!("{}: {expected}", shown(url)));
    }
    let path = match uri.path().trim_end_matches('/') {
        "" => BASE,
        path => path,
    };
    let host = authority.host().trim_matches(['[', ']']);
    let is_loopback =
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    Ok((format!("{scheme}://{authority}{path}"), scheme == "http" && !is_loopback))
}

/// A URL that is no URL may hold a password all the same.
fn shown(url: &str) -> String {
    if url.contains('@') { "the URL".to_owned() } else { format!("{url:?}") }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::arguments::Arguments;

    fn of(flags: &[&str], variables: &[(&str, &str)]) -> Result<Target, String> {
        let typed = ["rollcall", "nodes"].iter().chain(flags);
        let flags = Arguments::try_parse_from(typed).unwrap().gateway;
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        target(&flags, &Environment::of(variables)).map_err(|failure| failure.to_string())
    }

    fn key(target: &Target) -> &str {
        target.key.as_ref().map_or("none", Secret::reveal)
    }

    #[test]
    fn urls_are_taken_or_told_why_not() {
        for (url, expected) in [
            ("http://127.0.0.1:8081", "http://127.0.0.1:8081/api/v4"),
            ("http://[::1]:8081/", "http://[::1]:8081/api/v4"),
            ("https://h/base/", "https://h/base"),
        ] {
            assert_eq!(base(url), Ok((expected.to_owned(), false)));
        }
        assert_eq!(base("http://h"), Ok(("http://h/api/v4".to_owned(), true)));
        for bad in ["h:8081", "ftp://h", "https://u:hush@h", "u:hush@h", "https://h/?a=b", "", "http://"] {
            let said = base(bad).unwrap_err();
            assert!(said.contains("expected") && !said.contains("hush"), "{bad}: {said}");
        }
    }

    #[test]
    fn options_come_before_the_environment_and_that_before_contexts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::write(
            &path,
            "current = \"one\"\n[contexts.one]\nurl = \"http://127.0.0.1:1\"\nkey = \"one:k\"\n\
             [contexts.two]\nurl = \"http://127.0.0.1:2\"\nkey_file = \"two.key\"\n",
        )
        .unwrap();
        std::fs::write(folder.path().join("two.key"), "two:k\n").unwrap();
        let config = ("ROLLCALL_CONFIG", path.to_str().unwrap());

        let one = of(&[], &[config]).unwrap();
        assert_eq!((one.base.as_str(), key(&one)), ("http://127.0.0.1:1/api/v4", "one:k"));
        let two = of(&["--context", "two"], &[config, ("ROLLCALL_URL", "http://h"), ("ROLLCALL_KEY", "e")])
            .unwrap();
        assert_eq!((two.base.as_str(), key(&two)), ("http://127.0.0.1:2/api/v4", "two:k"));
        let other_key = of(&[], &[config, ("ROLLCALL_KEY", "e:k")]).unwrap();
        assert_eq!((other_key.base.as_str(), key(&other_key)), ("http://127.0.0.1:1/api/v4", "e:k"));
        // A context's key goes to its own gateway only.
        let elsewhere = of(&[], &[config, ("ROLLCALL_URL", "http://127.0.0.1:3")]).unwrap();
        assert_eq!((elsewhere.base.as_str(), key(&elsewhere)), ("http://127.0.0.1:3/api/v4", "none"));
        let by_option = of(
            &["--url", "http://h"],
            &[config, ("ROLLCALL_URL", "http://127.0.0.1:3"), ("ROLLCALL_KEY", "e:k")],
        );
        let by_option = by_option.unwrap();
        assert_eq!((by_option.base.as_str(), key(&by_option)), ("http://h/api/v4", "e:k"));
        assert!(by_option.warnings[0].contains("without encryption"));

        assert!(of(&["--context", "two", "--url", "http://h"], &[config]).unwrap_err().contains("both"));
        assert!(of(&["--context", "three"], &[config]).unwrap_err().contains("three"));
        assert!(of(&[], &[("HOME", "/nowhere")]).unwrap_err().contains("--url"));
        assert!(of(&[], &[]).unwrap_err().contains("HOME"));
        assert!(!format!("{one:?}").contains("one:k"));
    }
}
