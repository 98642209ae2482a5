//! Cursors: where a walk over a list goes on.
//!
//! A cursor is the place of the last client shown, not a page number, so a walk over a changing cluster neither
//! skips a client that stayed where it was nor shows one twice. It is opaque text: base64url of a version, a fingerprint of
//! the list it belongs to (filter, order, nodes), and a key with its length. Nothing is kept for it in the gateway, and it
//! never expires. It carries a position and no permission, so a forged one can at worst begin elsewhere; it is not signed.
//!
//! At most [`MAX_LENGTH`] bytes: MQTT allows ids and user names of 64 KiB, so a key may not fit. Then the cursor names the
//! client by its node and session number, and tells the key by a hash ([`Position::Hashed`]): whoever reads it asks that node for the
//! client, and goes on only if the key is that one still. Wherever else the client stands by then, what lies between
//! would be skipped or come again. Decided against cutting the key: behind the beginning of a key there may be clients
//! without end, and a client that has moved among them would not be found to have moved.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message as _;
use rollcall_proto::{Order, v1};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// The longest cursor, bytes of text.
pub const MAX_LENGTH: usize = 512;

/// The form of cursors this code makes and reads.
const VERSION: u8 = 1;

const WHOLE: u8 = 0;
/// 1 was the beginning of a key.
const HASHED: u8 = 2;

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
    /// Behind the client of a key that was too long.
    Hashed(HashedKey),
}

/// A key that can be told when it is met, and where to meet it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashedKey {
    /// Whose client it is.
    pub node: String,
    /// The client's session.
    pub session: u64,
    clientid: [u8; 8],
    key: [u8; 16],
}

impl HashedKey {
    fn of(key: &v1::Key) -> Self {
        Self {
            node: key.node.clone(),
            session: key.session,
            clientid: hash(key.clientid.as_bytes()),
            key: hash(&key.encode_to_vec()),
        }
    }

    /// Whether this is the key.
    #[must_use]
    pub fn is(&self, key: &v1::Key) -> bool {
        *self == Self::of(key)
    }

    /// Whether this key is the same client's, wherever it stands.
    #[must_use]
    pub fn is_of_client(&self, key: &v1::Key) -> bool {
        self.clientid == hash::<8>(key.clientid.as_bytes())
    }

    fn to_bytes(&self) -> Vec<u8> {
        [&self.session.to_be_bytes(), &self.clientid[..], &self.key, self.node.as_bytes()].concat()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (session, rest) = bytes.split_first_chunk()?;
        let (&clientid, rest) = rest.split_first_chunk()?;
        let (&key, node) = rest.split_first_chunk()?;
        let node = std::str::from_utf8(node).ok().filter(|node| !node.is_empty())?;
        Some(Self { node: node.to_owned(), session: u64::from_be_bytes(*session), clientid, key })
    }
}

/// The beginning of a hash; far shorter than one that withstands whoever looks for another text of it, as that would gain nothing.
fn hash<const BYTES: usize>(bytes: &[u8]) -> [u8; BYTES] {
    let mut start = [0; BYTES];
    start.copy_from_slice(&Sha256::digest(bytes)[..BYTES]);
    start
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
pub fn encode(fingerprint: Fingerprint, key: &v1::Key) -> String {
    let text = |kind: u8, place: &[u8]| {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&fingerprint.0);
        bytes.push(kind);
        let length = u16::try_from(place.len()).unwrap_or(u16::MAX);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(place);
        URL_SAFE_NO_PAD.encode(bytes)
    };
    // Base64 makes four letters of three bytes.
    let fits = key.encoded_len() < MAX_LENGTH;
    let whole = fits.then(|| text(WHOLE, &key.encode_to_vec())).filter(|whole| whole.len() <= MAX_LENGTH);
    whole.unwrap_or_else(|| text(HASHED, &HashedKey::of(key).to_bytes()))
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
    let (length, place) = rest.split_first_chunk::<2>().ok_or(InvalidCursor::Malformed)?;
    // The beginning of a key is often a key too, so a cursor that lost its end would begin elsewhere.
    if usize::from(u16::from_be_bytes(*length)) != place.len() {
        return Err(InvalidCursor::Malformed);
    }
    let position = match *kind {
        WHOLE => v1::Key::decode(place).map(Position::After).map_err(|_| InvalidCursor::Malformed)?,
        HASHED => HashedKey::from_bytes(place).map(Position::Hashed).ok_or(InvalidCursor::Malformed)?,
        _ => return Err(InvalidCursor::Malformed),
    };
    if *list != fingerprint.0 {
        return Err(InvalidCursor::Mismatched);
    }
    if let Position::After(key) = &position {
        order.key_from_wire(key).map_err(|_| InvalidCursor::Malformed)?;
    }
    Ok(position)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rollcall_proto::SortField;

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
            let text = encode(fingerprint(order), &key);
            prop_assert!(text.len() <= MAX_LENGTH, "{} bytes", text.len());
            match decode(fingerprint(order), order, &text).unwrap() {
                Position::After(same) => prop_assert_eq!(same, key),
                Position::Hashed(hashed) => {
                    prop_assert_eq!((&hashed.node, hashed.session), (&key.node, key.session));
                    prop_assert!(hashed.is(&key) && hashed.is_of_client(&key));
                    prop_assert!(key.encoded_len() > 300, "{} bytes fit", key.encoded_len());
                    let elsewhere = v1::Key { session: key.session ^ 1, ..key.clone() };
                    let renamed = v1::Key { clientid: key.clientid.clone() + "x", ..key.clone() };
                    let moved = v1::Key { value: Some(v1::key::Value::Text("x".into())), ..key };
                    prop_assert!(!hashed.is(&elsewhere) && !hashed.is(&renamed) && !hashed.is(&moved));
                    prop_assert!(hashed.is_of_client(&moved) && !hashed.is_of_client(&renamed));
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
    fn a_cursor_belongs_to_its_list() {
        let ascending = Order::default();
        let descending = Order { descending: true, ..ascending };
        let filter = |zone: &str| v1::Filter { zone: vec![zone.into()], ..v1::Filter::default() };
        let key = v1::Key { clientid: "c".into(), node: "n".into(), session: 1, value: None };
        let here = Fingerprint::of(&filter("a"), ascending, &["x".into(), "y".into()]);
        let text = encode(here, &key);
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
        let good = encode(fingerprint(order), &key);
        let nameless = |clientid: &str| {
            let key = v1::Key { node: String::new(), clientid: clientid.into(), ..key.clone() };
            encode(fingerprint(order), &key)
        };
        let (nameless, long_nameless) = (nameless("c"), nameless(&"c".repeat(400)));
        let mut newer = URL_SAFE_NO_PAD.decode(&good).unwrap();
        newer[0] += 1;
        for end in 0..good.len() {
            assert_eq!(
                decode(fingerprint(order), order, &good[..end]),
                Err(InvalidCursor::Malformed),
                "{end}"
            );
        }
        for bad in [
            "x",
            "!",
            &format!("{good}="),
            &nameless,
            &long_nameless,
            &URL_SAFE_NO_PAD.encode(newer),
            &"A".repeat(513),
        ] {
            assert_eq!(decode(fingerprint(order), order, bad), Err(InvalidCursor::Malformed), "{bad}");
        }
    }
}
