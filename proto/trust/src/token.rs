//! Tokens: secrets that gateways show to agents, in place of certificates or beside them.
//!
//! A file holds one token a line. An agent lets in who shows any of them, a gateway shows the first, so the same file
//! does for both, and a token is replaced without a gap: added at the agents, put first at the gateways, removed at the
//! agents. Tokens are random and long (32 characters at least are asked for), so one round of SHA-256 is enough to
//! compare them by, in constant time.

use std::fmt;
use std::path::PathBuf;

use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};

use crate::follow::Text;
use crate::{Live, TrustError};

/// Characters of a token.
const LENGTHS: std::ops::RangeInclusive<usize> = 32..=512;

const EXPECTED: &str = "a token a line, 32 to 512 letters, digits and signs without spaces, such as `openssl rand -hex 32` makes";

/// The tokens of a file.
pub struct Tokens {
    first: String,
    hashes: Vec<[u8; 32]>,
}

impl Tokens {
    /// Reads the file. `what` names it in the log.
    ///
    /// # Errors
    /// [`TrustError`]
    pub fn load(what: &'static str, path: PathBuf) -> Result<Live<Self>, TrustError> {
        Live::load(what, vec![path], |texts| Self::parse(&texts[0]))
    }

    fn parse(of: &Text) -> Result<Self, TrustError> {
        let form = |message: String| TrustError::Form { path: of.path.clone(), message, expected: EXPECTED };
        let mut first = None;
        let mut hashes = Vec::new();
        for (at, line) in of.text.lines().enumerate() {
            let token = line.trim();
            if token.is_empty() || token.starts_with('#') {
                continue;
            }
            if !LENGTHS.contains(&token.len()) {
                return Err(form(format!("line {} has {} bytes", at + 1, token.len())));
            }
            if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(form(format!("line {} has other characters", at + 1)));
            }
            first.get_or_insert_with(|| token.to_owned());
            hashes.push(Sha256::digest(token).into());
        }
        let first = first.ok_or_else(|| form("it holds no token".to_owned()))?;
        Ok(Self { first, hashes })
    }

    /// The one to show.
    #[must_use]
    pub fn first(&self) -> &str {
        &self.first
    }

    /// Whether it is one of these.
    #[must_use]
    pub fn accept(&self, shown: &str) -> bool {
        let shown: [u8; 32] = Sha256::digest(shown).into();
        let any = self.hashes.iter().fold(Choice::from(0), |any, hash| any | hash.ct_eq(&shown));
        any.into()
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("number", &self.hashes.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Tokens, TrustError> {
        Tokens::parse(&Text { path: "tokens".into(), text: text.to_owned() })
    }

    #[test]
    fn any_of_the_file_is_accepted_and_the_first_is_shown() {
        let (new, old) = ("n".repeat(32), "o".repeat(40));
        let tokens = parse(&format!("# of today\n{new}\n\n  {old}\r\n")).unwrap();
        assert_eq!(tokens.first(), new);
        assert!(tokens.accept(&new) && tokens.accept(&old));
        for shown in ["", "n", &new[1..], &format!("{new} "), "# of today"] {
            assert!(!tokens.accept(shown), "{shown:?}");
        }
        assert!(!format!("{tokens:?}").contains(&new));
    }

    #[test]
    fn what_is_no_token_is_refused_by_line_and_not_repeated() {
        for (text, expected) in [
            ("", "tokens: it holds no token, expected a token a line"),
            ("# x\n\n", "tokens: it holds no token"),
            ("#\nhunter2hunter2", "tokens: line 2 has 14 bytes, expected a token a line, 32 to 512"),
            ("hunter2 hunter2 hunter2 hunter2 hunter2", "tokens: line 1 has other characters"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with(expected) && !error.contains("hunter2"), "{error}");
        }
    }
}
