//! API keys: who may read, who may kick.
//!
//! Secrets are random and long, so one round of SHA-256 is enough to keep them: there is nothing to guess, and a
//! slow hash on every request would only invite overload. Secrets are compared in constant time and unknown ids cost
//! what known ones cost.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};
use thiserror::Error;

/// What a key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Read everything.
    Viewer,
    /// Read everything and kick clients.
    Operator,
}

impl Role {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
        }
    }
}

impl FromStr for Role {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        [Self::Viewer, Self::Operator].into_iter().find(|role| role.as_str() == text).ok_or(InvalidKey::Role)
    }
}

/// A key that cannot be one. Messages hold no secret.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum InvalidKey {
    /// The id has a form that Basic authentication or a log line cannot hold.
    #[error("key id {0:?}: expected 1 to 64 of letters, digits, dot, dash, underscore")]
    Id(String),
    /// The role is none.
    #[error("expected the role viewer or operator")]
    Role,
    /// There is no secret.
    #[error("the secret is empty")]
    NoSecret,
    /// Not three parts.
    #[error("expected ID:SECRET:ROLE")]
    Form,
    /// The hash is none.
    #[error("key {0:?}: sha256 is not 64 hexadecimal digits")]
    Hash(String),
    /// Two keys of one id.
    #[error("there are two keys {0:?}")]
    SameId(String),
    /// Two keys of one secret, which a bearer could not tell apart.
    #[error("keys {0:?} and {1:?} have the same secret")]
    SameSecret(String, String),
}

/// The SHA-256 of a secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// Hashes a secret.
    #[must_use]
    pub fn of(secret: &str) -> Self {
        Self(Sha256::digest(secret.as_bytes()).into())
    }

    /// 64 hexadecimal digits.
    #[must_use]
    pub fn to_hex(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Reads 64 hexadecimal digits.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut hash = [0; 32];
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        for (at, byte) in hash.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
        }
        Some(Self(hash))
    }

    fn is(&self, other: &Self) -> Choice {
        self.0.ct_eq(&other.0)
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(..)")
    }
}

/// A key, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Names the key in Basic authentication and in the access log.
    pub id: Arc<str>,
    /// What it may do.
    pub role: Role,
    /// What its secret hashes to.
    pub hash: SecretHash,
}

impl Key {
    /// Makes a key of parts.
    ///
    /// # Errors
    /// [`InvalidKey::Id`].
    pub fn new(id: &str, role: Role, hash: SecretHash) -> Result<Self, InvalidKey> {
        let ordinary = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if id.is_empty() || id.len() > 64 || !id.bytes().all(ordinary) {
            return Err(InvalidKey::Id(id.to_owned()));
        }
        Ok(Self { id: id.into(), role, hash })
    }

    /// Reads `ID:SECRET:ROLE`; the secret may hold colons.
    ///
    /// # Errors
    /// [`InvalidKey`], which does not hold the secret.
    pub fn from_argument(text: &str) -> Result<Self, InvalidKey> {
        let (id, rest) = text.split_once(':').ok_or(InvalidKey::Form)?;
        let (secret, role) = rest.rsplit_once(':').ok_or(InvalidKey::Form)?;
        if secret.is_empty() {
            return Err(InvalidKey::NoSecret);
        }
        Self::new(id, role.parse()?, SecretHash::of(secret))
    }
}

/// Every key that is let in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRing {
    keys: Vec<Key>,
    by_id: HashMap<Arc<str>, usize>,
}

impl KeyRing {
    /// Puts keys together.
    ///
    /// # Errors
    /// `SameId`, `SameSecret`.
    pub fn new(keys: Vec<Key>) -> Result<Self, InvalidKey> {
        let mut by_id = HashMap::new();
        for (at, key) in keys.iter().enumerate() {
            if by_id.insert(Arc::clone(&key.id), at).is_some() {
                return Err(InvalidKey::SameId(key.id.to_string()));
            }
            if let Some(other) = keys[..at].iter().find(|other| other.hash == key.hash) {
                return Err(InvalidKey::SameSecret(other.id.to_string(), key.id.to_string()));
            }
        }
        Ok(Self { keys, by_id })
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether nobody is let in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether this very key is among them: its id, with its secret.
    #[must_use]
    pub fn has(&self, key: &Key) -> bool {
        self.by_id.get(&key.id).is_some_and(|at| self.keys[*at].hash == key.hash)
    }

    /// The key of that id, if the secret is its own.
    #[must_use]
    pub fn by_id(&self, id: &str, secret: &str) -> Option<&Key> {
        let presented = SecretHash::of(secret);
        let found = self.by_id.get(id).map(|at| &self.keys[*at]);
        // No secret is known that hashes to zeros, so an unknown id fails after the same work.
        let expected = found.map_or(SecretHash([0; 32]), |key| key.hash);
        if bool::from(expected.is(&presented)) { found } else { None }
    }

    /// The key of that secret. Every key is compared, so the time tells nothing but their number.
    #[must_use]
    pub fn by_secret(&self, secret: &str) -> Option<&Key> {
        let presented = SecretHash::of(secret);
        let mut found = None;
        for key in &self.keys {
            if bool::from(key.hash.is(&presented)) {
                found = Some(key);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring() -> KeyRing {
        let keys = ["dash:s1:viewer", "ops:s:2:operator"].map(|text| Key::from_argument(text).unwrap());
        KeyRing::new(keys.to_vec()).unwrap()
    }

    #[test]
    fn a_key_is_found_by_id_and_secret_or_by_secret() {
        let ring = ring();
        assert_eq!(ring.by_id("dash", "s1").unwrap().role, Role::Viewer);
        assert_eq!(ring.by_id("ops", "s:2").unwrap().role, Role::Operator);
        assert_eq!(&*ring.by_secret("s:2").unwrap().id, "ops");
        for (id, secret) in [("dash", "s:2"), ("dash", ""), ("", "s1"), ("nobody", "s1"), ("dash", "s1 ")] {
            assert_eq!(ring.by_id(id, secret), None, "{id}:{secret}");
        }
        assert_eq!(ring.by_secret("dash:s1"), None);
    }

    #[test]
    fn keys_that_cannot_be_are_refused_without_their_secret() {
        for (text, error) in [
            ("nocolons", InvalidKey::Form),
            ("a:b", InvalidKey::Form),
            ("a::viewer", InvalidKey::NoSecret),
            ("a:hush:root", InvalidKey::Role),
            ("a b:hush:viewer", InvalidKey::Id("a b".into())),
            (":hush:viewer", InvalidKey::Id(String::new())),
        ] {
            assert_eq!(Key::from_argument(text), Err(error.clone()), "{text}");
            assert!(!error.to_string().contains("hush"));
        }
        let key = |text| Key::from_argument(text).unwrap();
        let same_id = KeyRing::new(vec![key("a:1:viewer"), key("a:2:viewer")]).unwrap_err();
        assert_eq!(same_id, InvalidKey::SameId("a".into()));
        let same_secret = KeyRing::new(vec![key("a:1:viewer"), key("b:1:operator")]).unwrap_err();
        assert_eq!(same_secret, InvalidKey::SameSecret("a".into(), "b".into()));
    }

    #[test]
    fn hashes_survive_hex_and_stay_out_of_debug_output() {
        let hash = SecretHash::of("abc");
        assert_eq!(hash.to_hex(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(SecretHash::from_hex(&hash.to_hex()), Some(hash));
        assert_eq!(SecretHash::from_hex("ba78"), None);
        assert_eq!(SecretHash::from_hex(&"+1".repeat(32)), None);
        assert!(!format!("{:?}", ring()).contains("ba78"));
    }
}
