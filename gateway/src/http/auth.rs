//! Who is asking: `Basic id:secret` or `Bearer secret`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use thiserror::Error;

use crate::keys::{Key, KeyRing};

/// Why nobody is let in. Nothing here repeats what was sent.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum Refused {
    /// There is no header.
    #[error("no credentials, expected the header Authorization with Basic id:secret or Bearer secret")]
    Missing,
    /// There is one that cannot be read.
    #[error("malformed Authorization header: {0}")]
    Malformed(&'static str),
    /// The key is not known or the secret is not its own; which of the two is nobody's business.
    #[error("unknown key or wrong secret")]
    Wrong,
}

/// Finds the key a request shows. A bearer may show `id:secret` as well as the secret alone.
pub(super) fn authenticate<'a>(headers: &HeaderMap, keys: &'a KeyRing) -> Result<&'a Key, Refused> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(Refused::Missing)?;
    if values.next().is_some() {
        return Err(Refused::Malformed("it is given twice"));
    }
    let value = value.to_str().map_err(|_| Refused::Malformed("expected visible ASCII"))?;
    let (scheme, credentials) = value.split_once(' ').unwrap_or((value, ""));
    let credentials = credentials.trim();
    if scheme.eq_ignore_ascii_case("basic") {
        let decoded = STANDARD
            .decode(credentials)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .ok_or(Refused::Malformed("expected base64 of id:secret after Basic"))?;
        let (id, secret) =
            decoded.split_once(':').ok_or(Refused::Malformed("expected base64 of id:secret after Basic"))?;
        keys.by_id(id, secret).ok_or(Refused::Wrong)
    } else if scheme.eq_ignore_ascii_case("bearer") {
        if credentials.is_empty() {
            return Err(Refused::Malformed("expected a secret after Bearer"));
        }
        let by_id = || credentials.split_once(':').and_then(|(id, secret)| keys.by_id(id, secret));
        keys.by_secret(credentials).or_else(by_id).ok_or(Refused::Wrong)
    } else {
        Err(Refused::Malformed("expected the scheme Basic or Bearer"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(header: &str) -> Result<String, Refused> {
        let keys = ["dash:s1:viewer", "ops:s:2:operator"].map(|text| Key::from_argument(text).unwrap());
        let ring = KeyRing::new(keys.to_vec()).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, http::HeaderValue::from_bytes(header.as_bytes()).unwrap());
        authenticate(&headers, &ring).map(|key| key.id.to_string())
    }

    fn basic(text: &str) -> String {
        format!("Basic {}", STANDARD.encode(text))
    }

    #[test]
    fn both_schemes_in_any_case() {
        assert_eq!(shown(&basic("dash:s1")).unwrap(), "dash");
        assert_eq!(shown(&basic("ops:s:2")).unwrap(), "ops");
        assert_eq!(shown(&basic("dash:s1").replace("Basic", "bAsIc ")).unwrap(), "dash");
        assert_eq!(shown("Bearer s1").unwrap(), "dash");
        assert_eq!(shown("bearer s:2").unwrap(), "ops");
        assert_eq!(shown("Bearer dash:s1").unwrap(), "dash");
    }

    #[test]
    fn everything_else_is_refused() {
        for header in [basic("dash:s2"), basic("nobody:s1"), basic("dash:"), basic(":"), "Bearer dash".into()]
        {
            assert_eq!(shown(&header), Err(Refused::Wrong), "{header}");
        }
        for header in [
            "",
            "Basic",
            "Basic ",
            "Basic !!!",
            "Basic ZGFzaA==",
            "Basic /w==",
            "Bearer",
            "Bearer  ",
            "Digest username=x",
            "dash:s1",
            "Basic Z\u{e9}",
        ] {
            assert!(matches!(shown(header), Err(Refused::Malformed(_))), "{header}");
        }
        assert_eq!(authenticate(&HeaderMap::new(), &KeyRing::default()), Err(Refused::Missing));
        let mut twice = HeaderMap::new();
        twice.append(AUTHORIZATION, http::HeaderValue::from_static("Bearer s1"));
        twice.append(AUTHORIZATION, http::HeaderValue::from_static("Bearer s1"));
        assert_eq!(authenticate(&twice, &KeyRing::default()), Err(Refused::Malformed("it is given twice")));
    }
}
