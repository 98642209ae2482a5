//! What the broker's own configuration says that its plugin interface does not: from which file it has loaded sessions,
//! which of them are its bridges', and whether some clients log in where plugins do not see it.
//!
//! It is read when the plugin is loaded, which is after the broker has read it and before it lets anybody in. The broker
//! does not say where it stands, so it is looked for where the broker was told to look: in its command line.
//!
//! Of the form only so much is known as is needed: lines of a word and a value, comments, and `include_dir`. What does
//! not fit has stopped the broker before it loads plugins.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// The name of the file if none is given.
const DEFAULT_FILE: &str = "mosquitto.db";

/// What is of interest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Configuration {
    is_persistent: bool,
    location: Option<PathBuf>,
    file: Option<PathBuf>,
    bridges: Vec<Bridge>,
    /// Another plugin that keeps sessions, as Mosquitto 2.1 brings one (`mosquitto_persist_sqlite.so`).
    pub(crate) keeper: Option<String>,
    /// Clients of some listener are known by their certificates, and log in past the plugins.
    pub(crate) has_unseen_logins: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Bridge {
    name: String,
    remote: Option<String>,
    local: Option<String>,
}

/// Why the configuration is not known.
#[derive(Debug, Error)]
pub(crate) enum Unknown {
    /// It cannot be read.
    #[error("{path}: {source}")]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The broker is told by other means.
    #[error("the broker's command line cannot be read: {0}")]
    CommandLine(io::Error),
}

impl Configuration {
    /// That of the broker in this process.
    pub(crate) fn of_this_process() -> Result<Self, Unknown> {
        let line = fs::read("/proc/self/cmdline").map_err(Unknown::CommandLine)?;
        match path_in(&line) {
            // Without a file it has its defaults.
            None => Ok(Self::default()),
            Some(path) => Self::read(&path),
        }
    }

    /// That of a file and what it includes.
    fn read(path: &Path) -> Result<Self, Unknown> {
        let mut configuration = Self::default();
        let text = read(path)?;
        for line in lines(&text) {
            match line {
                ("include_dir", folder) => {
                    for path in files_in(Path::new(folder))? {
                        // Files that are included include no others.
                        lines(&read(&path)?).for_each(|(word, value)| configuration.take(word, value));
                    }
                }
                (word, value) => configuration.take(word, value),
            }
        }
        Ok(configuration)
    }

    fn take(&mut self, word: &str, value: &str) {
        let is_true = matches!(value, "true" | "1");
        match word {
            "persistence" | "retained_persistence" => self.is_persistent = is_true,
            "persistence_location" => self.location = Some(value.into()),
            "persistence_file" => self.file = Some(value.into()),
            "use_identity_as_username" | "use_subject_as_username" => self.has_unseen_logins |= is_true,
            "plugin" | "global_plugin" | "plugin_load" if value.contains("persist") => {
                self.keeper = Some(value.to_owned());
            }
            "connection" => self.bridges.push(Bridge { name: value.to_owned(), ..Bridge::default() }),
            "clientid" | "remote_clientid" => {
                if let Some(bridge) = self.bridges.last_mut() {
                    bridge.remote = Some(value.to_owned());
                }
            }
            "local_clientid" => {
                if let Some(bridge) = self.bridges.last_mut() {
                    bridge.local = Some(value.to_owned());
                }
            }
            _ => {}
        }
    }

    /// The file that the broker loads sessions from, if it does.
    pub(crate) fn persistence_file(&self) -> Option<PathBuf> {
        let file = self.file.as_deref().unwrap_or(Path::new(DEFAULT_FILE));
        self.is_persistent
            .then(|| self.location.as_deref().map_or(file.to_owned(), |folder| folder.join(file)))
    }

    /// The client ids that the broker's own bridges have in it, on this host.
    pub(crate) fn bridges(&self, host: &str) -> Vec<String> {
        let ids = self.bridges.iter().map(|bridge| {
            let remote = || bridge.remote.clone().unwrap_or_else(|| format!("{host}.{}", bridge.name));
            bridge.local.clone().unwrap_or_else(|| format!("local.{}", remote()))
        });
        ids.collect()
    }
}

/// What stands behind the last `-c` of a command line, whose arguments end with null characters.
fn path_in(line: &[u8]) -> Option<PathBuf> {
    let mut arguments = line.split(|byte| *byte == 0).skip(1);
    let mut path = None;
    while let Some(argument) = arguments.next() {
        match argument {
            b"-c" | b"--config-file" => path = arguments.next().or(path),
            _ => {}
        }
    }
    path.map(|path| OsString::from_vec(path.to_owned()).into())
}

fn read(path: &Path) -> Result<String, Unknown> {
    let bytes = fs::read(path).map_err(|source| Unknown::Unreadable { path: path.to_owned(), source })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn files_in(folder: &Path) -> Result<Vec<PathBuf>, Unknown> {
    let unreadable = |source| Unknown::Unreadable { path: folder.to_owned(), source };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "conf") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Words and values.
fn lines(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| {
        let (word, value) = line.trim().split_once(' ')?;
        Some((word, value.trim()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_the_one_that_the_command_line_names() {
        let path = |line: &[u8]| path_in(line).map(|path| path.display().to_string());
        assert_eq!(path(b"mosquitto\0"), None);
        assert_eq!(path(b"mosquitto\0-d\0-c\0/etc/m.conf\0-v\0"), Some("/etc/m.conf".into()));
        assert_eq!(path(b"mosquitto\0--config-file\0m.conf\0"), Some("m.conf".into()));
        assert_eq!(path(b"-c\0not this\0-p\x001883\0"), None);
        assert_eq!(path(b"mosquitto\0-c\0"), Some(String::new()));
    }

    #[test]
    fn sessions_bridges_and_logins_are_found_in_what_is_included_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("more")).unwrap();
        let main = format!(
            "# persistence false\npersistence true\n  persistence_location  /var/lib/my sessions/ \ninclude_dir {}\n",
            path("more").display()
        );
        fs::write(path("main.conf"), main).unwrap();
        fs::write(
            path("more/1.conf"),
            "persistence_file a.db\nconnection one\naddress x\nconnection two\nclientid r\n",
        )
        .unwrap();
        fs::write(
            path("more/2.conf"),
            "connection three\nlocal_clientid l\nremote_clientid r\ninclude_dir /nowhere\n",
        )
        .unwrap();
        fs::write(path("more/3.other"), "persistence_file b.db\n").unwrap();
        let read = Configuration::read(&path("main.conf")).unwrap();
        assert_eq!(read.persistence_file(), Some("/var/lib/my sessions/a.db".into()));
        assert_eq!(read.bridges("host"), ["local.host.one", "local.r", "l"]);
        assert_eq!((read.has_unseen_logins, read.keeper), (false, None));
        fs::write(path("more/1.conf"), "global_plugin /usr/lib/mosquitto_persist_sqlite.so\n").unwrap();
        let keeper = Configuration::read(&path("main.conf")).unwrap().keeper;
        assert_eq!(keeper.as_deref(), Some("/usr/lib/mosquitto_persist_sqlite.so"));
        fs::write(path("more/2.conf"), "persistence false\nuse_subject_as_username true\n").unwrap();
        let read = Configuration::read(&path("main.conf")).unwrap();
        assert_eq!((read.persistence_file(), read.has_unseen_logins), (None, true));
        assert_eq!(Configuration::default().persistence_file(), None);
        let only = Configuration { is_persistent: true, ..Configuration::default() };
        assert_eq!(only.persistence_file(), Some("mosquitto.db".into()));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let main = folder.path().join("main.conf");
        let error = Configuration::read(&main).unwrap_err().to_string();
        assert!(error.contains("main.conf: "), "{error}");
        fs::write(&main, "include_dir /nowhere/at/all\n").unwrap();
        let error = Configuration::read(&main).unwrap_err().to_string();
        assert!(error.contains("/nowhere/at/all: "), "{error}");
    }
}
