//! Percent-decoding that refuses what it cannot decode, and the values in messages.

use std::borrow::Cow;
use std::fmt;

use percent_encoding::percent_decode_str;
use thiserror::Error;

/// Text that stands for no text.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum InvalidEncoding {
    /// A percent sign without its digits.
    #[error("expected two hexadecimal digits after every % (a literal % is %25)")]
    Percent,
    /// The bytes are no UTF-8.
    #[error("expected percent-encoded UTF-8")]
    Utf8,
}

/// Decodes a segment of a path, in which `+` is a plus.
///
/// # Errors
/// [`InvalidEncoding`].
pub(crate) fn path_segment(raw: &str) -> Result<Cow<'_, str>, InvalidEncoding> {
    let bytes = raw.as_bytes();
    for (at, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%') {
        if !bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
            return Err(InvalidEncoding::Percent);
        }
    }
    percent_decode_str(raw).decode_utf8().map_err(|_| InvalidEncoding::Utf8)
}

/// Decodes a name or value of a query string, in which `+` is a space.
///
/// # Errors
/// [`InvalidEncoding`].
pub(crate) fn query_part(raw: &str) -> Result<String, InvalidEncoding> {
    path_segment(&raw.replace('+', " ")).map(Cow::into_owned)
}

/// A value from outside as a message shows it: quoted, control characters escaped, cut where it is long.
pub(crate) struct Shown<'a>(pub(crate) &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 100;
        match self.0.char_indices().nth(MOST) {
            None => write!(f, "{:?}", self.0),
            Some((end, _)) => write!(f, "{:?}... ({} bytes)", &self.0[..end], self.0.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plus_is_a_plus_in_paths_and_a_space_in_queries() {
        assert_eq!(path_segment("a+b%2Fc%20d").unwrap(), "a+b/c d");
        assert_eq!(query_part("a+b%2Bc").unwrap(), "a b+c");
    }

    #[test]
    fn bad_encoding_is_refused() {
        for raw in ["%", "%2", "%zz", "a%2", "%%25", "%+1", "%2é"] {
            assert_eq!(path_segment(raw), Err(InvalidEncoding::Percent), "{raw}");
        }
        for raw in ["%ff", "%C3", "%ED%A0%80"] {
            assert_eq!(path_segment(raw), Err(InvalidEncoding::Utf8), "{raw}");
        }
    }

    #[test]
    fn long_values_are_cut_at_a_character() {
        assert_eq!(Shown("a\tb").to_string(), r#""a\tb""#);
        let long = Shown(&"é".repeat(101)).to_string();
        assert!(long.ends_with("é\"... (202 bytes)"), "{long}");
    }
}
