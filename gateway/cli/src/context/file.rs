//! The file with the contexts: gateways by name, one of them current.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Secret;
use crate::exit::Failure;

/// All of the file.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contexts {
    /// The context that is used unless another is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    /// By name.
    #[serde(default)]
    pub(crate) contexts: BTreeMap<String, Context>,
}

/// A gateway, and what it takes to ask it. Paths are relative to the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    /// Where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) url: Option<String>,
    /// The key itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<Secret>,
    /// Or the file it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key_file: Option<PathBuf>,
    /// A file with authorities to trust, in PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<PathBuf>,
}

impl Contexts {
    /// Reads the file; one that is not there has no contexts.
    ///
    /// # Errors
    /// It cannot be read or is not understood. Its text is not shown, since there may be keys in it.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let failed = |why: String| Failure::Local(format!("{}{why}", path.display()));
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(failed(format!(": {error}"))),
        };
        let mut contexts: Self = toml::from_str(&text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            failed(format!(":{}: {}", before.matches('\n').count() + 1, error.message()))
        })?;
        let folder = path.parent().unwrap_or(Path::new("."));
        for context in contexts.contexts.values_mut() {
            for file in [&mut context.key_file, &mut context.ca].into_iter().flatten() {
                *file = folder.join(&*file);
            }
        }
        Ok(contexts)
    }

    /// The context of this name, or the current one.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn context(mut self, name: Option<&str>) -> Result<Context, Failure> {
        let Some(name) = name.or(self.current.as_deref()).map(str::to_owned) else {
            return Err(Failure::Usage(
                "no gateway is named, expected --url URL, ROLLCALL_URL or a context (rollcall context set NAME --url URL)"
                    .to_owned(),
            ));
        };
        self.contexts.remove(&name).ok_or_else(|| self.unknown(&name))
    }

    /// The error for a name that no context has.
    pub(crate) fn unknown(&self, name: &str) -> Failure {
        let known: Vec<&str> = self.contexts.keys().map(String::as_str).collect();
        let known = if known.is_empty() {
            "there is none".to_owned()
        } else {
            format!("expected one of {}", known.join(", "))
        };
        Failure::Usage(format!("there is no context {name:?}, {known}"))
    }

    /// Puts the file in place, whole and for its owner alone.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn write(&self, path: &Path) -> Result<(), Failure> {
        let text = toml::to_string(self).map_err(|error| Failure::Local(error.to_string()))?;
        let write = || {
            // A link stays one: what it leads to is replaced.
            let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
            let folder =
                path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            std::fs::create_dir_all(folder)?;
            // Made with mode 600.
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(text.as_bytes())?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            Ok::<_, io::Error>(())
        };
        write().map_err(|error| Failure::Local(format!("{}: {error}", path.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_file_is_told_without_its_keys() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        for (text, named) in [
            ("[contexts.a]\nurl = \"http://h\"\nkey = \"hush hush\"\n", ":3:"),
            ("[contexts.a]\nkey = \"hush\nurl = 1", ":2:"),
            ("[contexts.a]\nkeys = \"hush\"\n", "keys"),
            ("curent = \"hush\"\n", "curent"),
        ] {
            std::fs::write(&path, text).unwrap();
            let said = Contexts::read(&path).unwrap_err().to_string();
            assert!(
                said.contains("config.toml:") && said.contains(named) && !said.contains("hush"),
                "{said}"
            );
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/config.toml");
        assert!(Contexts::read(&path).unwrap().contexts.is_empty());
        let context = Context {
            url: Some("https://h".into()),
            key: Secret::new("id:hush").ok(),
            key_file: None,
            ca: Some("/ca.pem".into()),
        };
        let contexts =
            Contexts { current: Some("a.b".into()), contexts: [("a.b".to_owned(), context.clone())].into() };
        contexts.write(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Contexts::read(&path).unwrap().context(None).unwrap(), context);
    }
}
