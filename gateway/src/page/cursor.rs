//! Cursors: where a walk over a list goes on.
//!
//! A cursor is the place of the last client shown, not a page number, so a walk over a changing cluster neither
//! skips a client that stayed nor shows one twice. It is opaque text: base64url of a version, a fingerprint of the
//! list it belongs to (filter, order, nodes), and a key with its length. Nothing is kept for it in the gateway, and it never expires.
//! It carries a position and no permission, so a forged one can at worst begin elsewhere; it is not signed.
//!
//! At most [`MAX_LENGTH`] bytes: MQTT allows ids and user names of 64 KiB, so a key that does not fit is cut, and
//! the cursor says so. The node and session number in it still name the client, and whoever reads the cursor
//! looks the whole key up among the few clients that share the beginning ([`Position::Cut`]).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message as _;
use rollcall_proto::{Order, SortField, v1};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// The longest cursor, bytes of text.
pub const MAX_LENGTH: usize = 512;

/// The form of cursors this code makes and reads.
const VERSION: u8 = 1;

const WHOLE: u8 = 0;
const CUT: u8 = 1;

/// Bytes of a text that is cut; two of these and a node's name of at most 128 bytes fit.
const CUT_TEXT: usize = 96;

/// The list a cursor belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint([u8; 8]);

impl Fingerprint {
    /// The fingerprint of a list. `nodes` are the names in its scope, none for all.
    #[must_use]
    pub fn of(filter: &v1::Filter, order: Order, nodes: &[String]) -> Self {
        let mut nodes = nodes.to_vec();
        nodes.sort();
        let mut digest = Sha256::new();
        // Each part with its length, so that no two lists of parts run together.
        for part in [filter.encode_to_vec(), v1::Order::from(order).encode_to_vec()]
            .into_iter()
            .chain(nodes.into_iter().map(String::into_bytes))
        {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        let mut start = [0; 8];
        start.copy_from_slice(&digest.finalize()[..8]);
        Self(start)
    }
}

/// A place in a list.
#[derive(Clone, Debug, PartialEq)]
pub enum Position {
    /// Behind the client of this key.
    After(v1::Key),
    /// Behind the client of this node and session, whose key begins like this one; this one sorts before it.
    Cut(v1::Key),
}

/// A cursor that cannot be used.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum InvalidCursor {
    /// It is not what a gateway of this version gives out.
    #[error("malformed")]
    Malformed,
    /// It belongs to a list with another filter, order or set of nodes.
    #[error("of another list")]
    Mismatched,
}

impl InvalidCursor {
    /// What should have come in its place, for the error message.
    #[must_use]
    pub fn expected(self) -> &'static str {
        match self {
            Self::Malformed => "a cursor as meta.cursor gives it",
            Self::Mismatched => {
                "a cursor of the same list: filters, _sort, _order and nodes must stay as they were"
            }
        }
    }
}

/// The cursor behind the client of this key.
#[must_use]
pub fn encode(fingerprint: Fingerprint, order: Order, key: &v1::Key) -> String {
    let text = |kind: u8, key: &v1::Key| {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&fingerprint.0);
        bytes.push(kind);
        let length = u16::try_from(key.encoded_len()).unwrap_or(u16::MAX);
        bytes.extend_from_slice(&length.to_be_bytes());
        key.encode_raw(&mut bytes);
        URL_SAFE_NO_PAD.encode(bytes)
    };
    let whole = text(WHOLE, key);
    if whole.len() <= MAX_LENGTH { whole } else { text(CUT, &cut(order, key)) }
}

/// Reads a cursor of this list.
///
/// # Errors
/// [`InvalidCursor`].
pub fn decode(fingerprint: Fingerprint, order: Order, text: &str) -> Result<Position, InvalidCursor> {
    if text.len() > MAX_LENGTH {
        return Err(InvalidCursor::Malformed);
    }
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidCursor::Malformed)?;
    let Some((&VERSION, rest)) = bytes.split_first() else { return Err(InvalidCursor::Malformed) };
    let (list, rest) = rest.split_first_chunk::<8>().ok_or(InvalidCursor::Malformed)?;
    let (kind, rest) = rest.split_first().ok_or(InvalidCursor::Malformed)?;
    let (length, key) = rest.split_first_chunk::<2>().ok_or(InvalidCursor::Malformed)?;
    // The beginning of a key is often a key too, so a cursor that lost its end would begin elsewhere.
    if usize::from(u16::from_be_bytes(*length)) != key.len() {
        return Err(InvalidCursor::Malformed);
    }
    let key = v1::Key::decode(key).map_err(|_| InvalidCursor::Malformed)?;
    if *list != fingerprint.0 {
        return Err(InvalidCursor::Mismatched);
    }
    order.key_from_wire(&key).map_err(|_| InvalidCursor::Malformed)?;
    match *kind {
        WHOLE => Ok(Position::After(key)),
        CUT => Ok(Position::Cut(key)),
        _ => Err(InvalidCursor::Malformed),
    }
}

/// The beginning of a key, sorting before the key itself.
fn cut(order: Order, key: &v1::Key) -> v1::Key {
    use v1::key::Value;
    let shorten = |text: &str, is_sorted: bool| {
        let (short, rest) = text.split_at(text.floor_char_boundary(CUT_TEXT));
        if !(is_sorted && order.descending) || rest.is_empty() {
            return short.to_owned();
        }
        // What sorts descending must not be less than the whole, so the last character there is stands for the rest.
        // Where the rest begins with that one, it stands for as much more as it takes. Nothing sorts before a text
        // of nothing else; such a client is looked up in vain.
        let mut short = short;
        if rest.starts_with(char::MAX) {
            let mut shorter = short.trim_end_matches(char::MAX).chars();
            shorter.next_back();
            short = shorter.as_str();
        }
        format!("{short}{}", char::MAX)
    };
    v1::Key {
        value: match &key.value {
            Some(Value::Text(text)) => Some(Value::Text(shorten(text, true))),
            other => other.clone(),
        },
        clientid: shorten(&key.clientid, matches!(order.field, SortField::Unspecified | SortField::Clientid)),
        node: key.node.clone(),
        session: key.session,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rollcall_proto::KeyRef;

    use super::*;

    fn order() -> impl Strategy<Value = Order> {
        let fields = vec![SortField::Clientid, SortField::Username, SortField::Port, SortField::Node];
        (proptest::sample::select(fields), any::<bool>())
            .prop_map(|(field, descending)| Order { field, descending })
    }

    fn client() -> impl Strategy<Value = v1::Client> {
        let text = || prop_oneof!["[a-c]{0,3}", "[aü😀]{90,400}", "a{200,3000}"];
        (
            text(),
            proptest::option::of(text()),
            "[a-z@.]{1,128}",
            any::<u64>(),
            proptest::option::of(0..70_000_u32),
        )
            .prop_map(|(clientid, username, node, session, port)| v1::Client {
                clientid,
                username,
                node,
                session,
                port,
                ..v1::Client::default()
            })
    }

    fn fingerprint(order: Order) -> Fingerprint {
        Fingerprint::of(&v1::Filter::default(), order, &[])
    }

    proptest! {
        #[test]
        fn a_cursor_is_short_and_leads_back_to_its_key(order in order(), client in client()) {
            let view = client.as_client_ref();
            let key = v1::Key::from(order.key(&view));
            let text = encode(fingerprint(order), order, &key);
            prop_assert!(text.len() <= MAX_LENGTH, "{} bytes", text.len());
            match decode(fingerprint(order), order, &text).unwrap() {
                Position::After(same) => prop_assert_eq!(same, key),
                Position::Cut(beginning) => {
                    prop_assert_eq!((&beginning.node, beginning.session), (&key.node, key.session));
                    let beginning = KeyRef { session: 0, ..order.key_from_wire(&beginning).unwrap() };
                    prop_assert!(order.compare(&beginning, &order.key(&view)).is_le());
                }
            }
        }

        #[test]
        fn no_text_is_a_panic(order in order(), text in "\\PC{0,600}", bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = decode(fingerprint(order), order, &text);
            let _ = decode(fingerprint(order), order, &URL_SAFE_NO_PAD.encode(&bytes));
            let mut ours = vec![VERSION];
            ours.extend(fingerprint(order).0);
            ours.extend(bytes);
            let _ = decode(fingerprint(order), order, &URL_SAFE_NO_PAD.encode(ours));
        }
    }

    #[test]
    fn what_is_cut_before_the_last_character_there_is_still_sorts_before_the_whole() {
        let order = Order { descending: true, ..Order::default() };
        let key = |clientid: String| v1::Key { clientid, node: "n".into(), session: 1, value: None };
        for at in [88, 89, 91, 92, 95] {
            let whole = key("a".repeat(at) + &char::MAX.to_string().repeat(3) + &"b".repeat(500));
            let text = encode(fingerprint(order), order, &whole);
            let Ok(Position::Cut(beginning)) = decode(fingerprint(order), order, &text) else {
                panic!("{at}: not cut")
            };
            let [beginning, whole] = [&beginning, &whole].map(|key| order.key_from_wire(key).unwrap());
            assert!(order.compare(&beginning, &whole).is_lt(), "{at}: {beginning:?}");
        }
    }

    #[test]
    fn a_cursor_belongs_to_its_list() {
        let ascending = Order::default();
        let descending = Order { descending: true, ..ascending };
        let filter = |zone: &str| v1::Filter { zone: vec![zone.into()], ..v1::Filter::default() };
        let key = v1::Key { clientid: "c".into(), node: "n".into(), session: 1, value: None };
        let here = Fingerprint::of(&filter("a"), ascending, &["x".into(), "y".into()]);
        let text = encode(here, ascending, &key);
        assert_eq!(Fingerprint::of(&filter("a"), ascending, &["y".into(), "x".into()]), here);
        for elsewhere in [
            Fingerprint::of(&filter("b"), ascending, &["x".into(), "y".into()]),
            Fingerprint::of(&filter("a"), descending, &["x".into(), "y".into()]),
            Fingerprint::of(&filter("a"), ascending, &["xy".into()]),
            Fingerprint::of(&filter("a"), ascending, &[]),
        ] {
            assert_eq!(decode(elsewhere, ascending, &text), Err(InvalidCursor::Mismatched));
        }
    }

    #[test]
    fn what_is_no_cursor_is_malformed() {
        let order = Order::default();
        let key = v1::Key { clientid: "c".into(), node: "n".into(), session: 1, value: None };
        let good = encode(fingerprint(order), order, &key);
        let nameless = encode(fingerprint(order), order, &v1::Key { node: String::new(), ..key });
        let mut newer = URL_SAFE_NO_PAD.decode(&good).unwrap();
        newer[0] += 1;
        for end in 0..good.len() {
            assert_eq!(
                decode(fingerprint(order), order, &good[..end]),
                Err(InvalidCursor::Malformed),
                "{end}"
            );
        }
        for bad in
            ["x", "!", &format!("{good}="), &nameless, &URL_SAFE_NO_PAD.encode(newer), &"A".repeat(513)]
        {
            assert_eq!(decode(fingerprint(order), order, bad), Err(InvalidCursor::Malformed), "{bad}");
        }
    }
}
