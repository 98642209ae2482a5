//! Everything that was written somewhere, and the search for secrets in it.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Everything that was written, by where.
#[derive(Debug, Default)]
pub struct Written(pub Vec<(String, String)>);

impl Written {
    /// That this stands there.
    pub fn add(&mut self, place: &str, text: impl Into<String>) {
        self.0.push((place.to_owned(), text.into()));
    }

    /// That a secret stands nowhere, in none of the forms in which programs write bytes.
    ///
    /// # Panics
    /// With the line in which it stands.
    pub fn lacks(&self, secret: &[u8]) {
        let hex = secret.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        let numbers: Vec<String> = secret.iter().map(u8::to_string).collect();
        let mut forms = vec![hex.to_uppercase(), hex, numbers.join(", "), numbers.join(",")];
        forms.extend(std::str::from_utf8(secret).map(str::to_owned));
        // In base64 it looks different behind one or two other bytes; the ends depend on what stands beside them.
        for shift in 0..3 {
            let shifted = STANDARD.encode([&b"xx"[..shift], secret].concat());
            let inner = &shifted[4..shifted.len() - 4];
            forms.push(inner.to_owned());
        }
        for (place, text) in &self.0 {
            for form in &forms {
                if let Some(at) = text.find(form.as_str()) {
                    let line = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
                    let shown: String =
                        text[line..].lines().next().unwrap_or_default().chars().take(600).collect();
                    panic!("{place} shows {:?} as {form:?}: {shown}", String::from_utf8_lossy(secret));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_in_whatever_form() {
        let lacks = |text: &str| {
            let mut written = Written::default();
            written.add("here", text);
            std::panic::catch_unwind(|| written.lacks(b"s3cret-of-mine")).is_ok()
        };
        assert!(lacks("nothing") && lacks("s3cret of mine"));
        let hex: String = b"s3cret-of-mine".iter().map(|byte| format!("{byte:02X}")).collect();
        for text in
            ["a s3cret-of-mine", "[115, 51, 99, 114, 101, 116, 45, 111, 102, 45, 109, 105, 110, 101]", &hex]
        {
            assert!(!lacks(text), "{text}");
        }
        for before in ["", "u", "us", "use"] {
            assert!(!lacks(&STANDARD.encode(format!("{before}s3cret-of-mine!"))), "{before}");
        }
    }
}
