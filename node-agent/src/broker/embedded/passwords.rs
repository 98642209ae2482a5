//! The file of users who may connect: one `USER:HASH` per line, HASH an Argon2 string (`$argon2id$v=19$...`).
//!
//! Empty lines and lines that begin with `#` are skipped. A user name may hold colons (the hash never does), but
//! neither control characters nor a leading `#`. Any wrong line makes the whole file wrong: a broker that
//! started without a user would look like one whose users forgot their passwords.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier};
use thiserror::Error;

/// A password file that cannot be used.
#[derive(Debug, Error)]
pub enum PasswordFileError {
    /// The file cannot be read.
    #[error("cannot read password file {path}: {source}")]
    Read {
        /// Its path.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A line is none of a password file.
    #[error("{path}:{line}: {problem}")]
    Line {
        /// Its path.
        path: PathBuf,
        /// The line's number, from 1.
        line: usize,
        /// What is wrong and what was expected, without the line itself: it may hold a password.
        problem: &'static str,
    },
    /// A user name that cannot stand in a password file.
    #[error("user name {0:?} cannot be used: it must not be empty, begin with #, or hold control characters")]
    UserName(String),
    /// An empty password.
    #[error("the password is empty")]
    EmptyPassword,
    /// The password could not be hashed.
    #[error("cannot hash the password: {0}")]
    Hash(String),
}

/// Users and the hashes of their passwords.
pub struct PasswordFile {
    users: HashMap<String, PasswordHash>,
}

// Hashes stay out of logs.
impl fmt::Debug for PasswordFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PasswordFile").field("users", &self.users.len()).finish_non_exhaustive()
    }
}

impl PasswordFile {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`PasswordFileError::Read`] or [`PasswordFileError::Line`].
    pub fn load(path: &Path) -> Result<Self, PasswordFileError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| PasswordFileError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Checks the text of a file; `path` is for messages only.
    ///
    /// # Errors
    /// [`PasswordFileError::Line`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, PasswordFileError> {
        let mut users = HashMap::new();
        for (index, line) in text.lines().enumerate() {
            let wrong = |problem| PasswordFileError::Line { path: path.to_owned(), line: index + 1, problem };
            if is_comment(line) {
                continue;
            }
            let (user, hash) = split(line).ok_or_else(|| wrong("expected USER:HASH"))?;
            if !is_user_name(user) {
                return Err(wrong("expected a user name without control characters before the last colon"));
            }
            let hash = usable_hash(hash).ok_or_else(|| {
                wrong("expected an Argon2 hash ($argon2id$v=19$m=...) after the last colon")
            })?;
            if users.insert(user.to_owned(), hash).is_some() {
                return Err(wrong("the user stands in an earlier line already, expected once"));
            }
        }
        Ok(Self { users })
    }

    /// Whether user and password belong together. Takes tens of milliseconds of CPU by design, for unknown
    /// users too, so that the time does not tell which names exist.
    #[must_use]
    pub fn verify(&self, user: &str, password: &[u8]) -> bool {
        let known = self.users.get(user);
        let Some(hash) = known.or_else(|| self.users.values().next()) else { return false };
        let matches = Argon2::default().verify_password(password, hash).is_ok();
        matches && known.is_some()
    }

    /// How many users it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// Whether nobody may connect.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }
}

/// The text of a password file with a user added, or with a new password if the user is there. All other lines
/// stay as they are. Takes tens of milliseconds of CPU.
///
/// # Errors
/// A user name or password that cannot be used, or a hash that could not be made (no random numbers).
pub fn add_user(text: &str, user: &str, password: &[u8]) -> Result<String, PasswordFileError> {
    if !is_user_name(user) {
        return Err(PasswordFileError::UserName(user.to_owned()));
    }
    if password.is_empty() {
        return Err(PasswordFileError::EmptyPassword);
    }
    let hash = Argon2::default()
        .hash_password(password)
        .map_err(|error| PasswordFileError::Hash(error.to_string()))?;
    let new_line = format!("{user}:{hash}");
    let mut lines: Vec<&str> = text.lines().collect();
    let present = lines
        .iter()
        .position(|line| !is_comment(line) && split(line).is_some_and(|(present, _)| present == user));
    match present {
        Some(index) => lines[index] = &new_line,
        None => lines.push(&new_line),
    }
    Ok(lines.join("\n") + "\n")
}

fn is_comment(line: &str) -> bool {
    line.trim().is_empty() || line.starts_with('#')
}

fn is_user_name(user: &str) -> bool {
    !user.is_empty() && !user.starts_with('#') && !user.chars().any(char::is_control)
}

fn split(line: &str) -> Option<(&str, &str)> {
    line.rsplit_once(':')
}

/// The hash, if a password could ever match it.
fn usable_hash(text: &str) -> Option<PasswordHash> {
    let hash = PasswordHash::new(text.trim_end()).ok()?;
    Algorithm::try_from(hash.algorithm.as_str()).ok()?;
    Params::try_from(&hash).ok()?;
    (hash.salt.is_some() && hash.hash.is_some()).then_some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<PasswordFile, PasswordFileError> {
        PasswordFile::parse(text, Path::new("users"))
    }

    #[test]
    fn users_can_be_added_verified_and_given_new_passwords() {
        let text = add_user("# staff\n\n", "al:ice", b"secret").unwrap();
        let text = add_user(&text, "bob", b"other").unwrap();
        assert!(text.starts_with("# staff\n\nal:ice:$argon2id$v=19$"), "{text}");
        assert!(!text.contains("secret"));
        let file = parse(&text).unwrap();
        assert_eq!(file.len(), 2);
        assert!(file.verify("al:ice", b"secret"));
        assert!(!file.verify("al:ice", b"other"));
        assert!(!file.verify("carol", b"secret"), "a password of somebody else opens nothing for a stranger");

        let changed = add_user(&text, "al:ice", b"new").unwrap();
        assert_eq!(changed.lines().count(), text.lines().count());
        let file = parse(&changed).unwrap();
        assert!(file.verify("al:ice", b"new") && !file.verify("al:ice", b"secret"));
        assert!(!format!("{file:?}").contains("argon2id"));
    }

    #[test]
    fn wrong_lines_are_refused_by_their_number_and_not_repeated() {
        let good = add_user("", "a", b"x").unwrap();
        for (line, expected) in [
            ("bob", "expected USER:HASH"),
            ("bob:hunter2", "expected an Argon2 hash"),
            ("bob:$2b$12$abcdefghijklmnopqrstuv", "expected an Argon2 hash"),
            ("bob:$argon2id$v=19$m=19456,t=2,p=1", "expected an Argon2 hash"),
            (":$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNo", "expected a user name"),
            (good.trim_end(), "earlier line"),
        ] {
            let message = parse(&format!("{good}# c\n{line}\n")).unwrap_err().to_string();
            assert!(message.starts_with("users:3: ") && message.contains(expected), "{line}: {message}");
            assert!(!message.contains("hunter2"));
        }
    }

    #[test]
    fn unusable_names_and_passwords_are_refused() {
        for user in ["", "#x", "a\nb", "a\u{7}"] {
            assert!(matches!(add_user("", user, b"x"), Err(PasswordFileError::UserName(_))), "{user:?}");
        }
        assert!(matches!(add_user("", "a", b""), Err(PasswordFileError::EmptyPassword)));
        let empty = parse("# nobody\n").unwrap();
        assert!(empty.is_empty() && !empty.verify("a", b"x"));
    }
}
