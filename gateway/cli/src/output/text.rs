//! Texts of clients on a terminal: nothing in them may move its cursor, colour it or turn its writing round.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde::Serialize;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// Whether a character does something instead of being seen: controls, and what turns, joins or hides its neighbours.
fn is_hostile(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// The text with such characters written as `\u{1b}`; a backslash as itself.
pub(crate) fn shown(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_hostile) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if is_hostile(character) {
            out.extend(character.escape_unicode());
        } else {
            out.push(character);
        }
    }
    Cow::Owned(out)
}

/// JSON of the same value with such characters escaped. serde_json escapes only those it must.
pub(crate) fn json(value: &impl Serialize) -> String {
    // Maps of texts to JSON values, which cannot fail to be written.
    let text = serde_json::to_string(value).unwrap_or_default();
    escaped_json(&text).into_owned()
}

/// As [`json`], of text that is JSON already and has no white space but spaces and line ends outside of its strings.
pub(crate) fn escaped_json(text: &str) -> Cow<'_, str> {
    let must = |character: char| character != '\n' && character != '\r' && is_hostile(character);
    if !text.chars().any(must) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if must(character) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(character);
        }
    }
    Cow::Owned(out)
}

/// Columns it takes on a terminal.
pub(crate) fn width(text: &str) -> usize {
    text.width()
}

/// The text cut to so many columns, with an ellipsis where something is missing.
pub(crate) fn cut(text: &str, columns: usize) -> Cow<'_, str> {
    if width(text) <= columns {
        return Cow::Borrowed(text);
    }
    let mut out = String::new();
    let mut taken = 1;
    for character in text.chars() {
        taken += character.width().unwrap_or(0);
        if taken > columns {
            break;
        }
        out.push(character);
    }
    out.push('…');
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_but_what_is_seen() {
        for (text, expected) in [
            ("meter-1", "meter-1"),
            ("ü 日本 \\", "ü 日本 \\"),
            ("a\u{1b}[2Jb", "a\\u{1b}[2Jb"),
            ("a\r\nb\tc", "a\\u{d}\\u{a}b\\u{9}c"),
            ("\u{202e}evil\u{9b}", "\\u{202e}evil\\u{9b}"),
            ("\u{200b}\u{feff}\u{e0041}", "\\u{200b}\\u{feff}\\u{e0041}"),
        ] {
            assert_eq!(shown(text), expected);
        }
    }

    #[test]
    fn escaped_json_is_the_same_value() {
        for text in ["plain", "a\u{1b}\"\\\n\u{7f}\u{9b}\u{202e}\u{e0041}ü"] {
            let json = json(&text);
            assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
            assert!(!json.chars().any(is_hostile), "{json}");
        }
    }

    #[test]
    fn what_is_cut_is_as_wide_as_may_be() {
        for (text, columns, expected) in [
            ("meter", 5, "meter"),
            ("meter", 4, "met…"),
            ("日本語", 6, "日本語"),
            ("日本語", 5, "日本…"),
            ("日本語", 4, "日…"),
            ("ab", 1, "…"),
        ] {
            assert_eq!(cut(text, columns), expected);
            assert!(width(&cut(text, columns)) <= columns);
        }
    }
}
