//! Cursors. The first byte of the input says what the rest is, the second the order.
//!
//! - No text is a panic; what decodes is a key of the order's kind, and in another list the cursor is refused.
//! - A key that can stand in the order comes back from its cursor, or is told by it, in at most 512 bytes; one that
//!   cannot and is short, or names no node, is refused.
//! - A cursor without its end is refused; one with a change anywhere is refused, or is a key of the order's kind.

#![no_main]

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use rollcall_fuzz::clients;
use rollcall_gateway::page::cursor::{Fingerprint, InvalidCursor, MAX_LENGTH, Position, decode, encode};
use rollcall_proto::Order;
use rollcall_proto::v1::{Filter, Key, key};

/// The longest name of a node that the gateway takes from an answer.
const MOST_NODE_NAME: usize = 128;

fuzz_target!(|data: &[u8]| {
    let [kind, order, rest @ ..] = data else { return };
    let order = clients::order(*order);
    match kind % 4 {
        0 => check_text(order, &String::from_utf8_lossy(rest)),
        1 => check_text(order, &with_fingerprint(order, rest)),
        2 => {
            if let Ok(key) = Key::decode(rest) {
                check_key(order, &key);
            }
        }
        _ => {
            let mut input = Unstructured::new(rest);
            if let Ok(key) = key(order, &mut input) {
                check_key(order, &key);
                check_mutilated(order, &encode(here(order), &key), &mut input);
                check_mutated(order, &encode(here(order), &key), &mut input);
            }
        }
    }
});

fn here(order: Order) -> Fingerprint {
    Fingerprint::of(&Filter::default(), order, &[])
}

/// A list of the same order.
fn elsewhere(order: Order) -> Fingerprint {
    Fingerprint::of(&Filter { zone: vec!["edge".into()], ..Filter::default() }, order, &[])
}

fn check_text(order: Order, text: &str) {
    let Ok(position) = decode(here(order), order, text) else { return };
    assert!(text.len() <= MAX_LENGTH);
    assert_eq!(decode(elsewhere(order), order, text), Err(InvalidCursor::Mismatched));
    let Position::After(key) = &position else { return };
    assert!(order.key_from_wire(key).is_ok(), "{key:?} cannot stand in {order:?}");
    // Made by the gateway the cursor is as short as can be, so the key that fit does so again.
    let again = encode(here(order), key);
    assert_eq!(decode(here(order), order, &again), Ok(Position::After(key.clone())));
}

/// A cursor of these bytes behind its version and fingerprint, so that a mutation need not guess a hash.
fn with_fingerprint(order: Order, rest: &[u8]) -> String {
    let ours = encode(here(order), &Key::default());
    let head = URL_SAFE_NO_PAD.decode(ours).expect("a cursor is base64url");
    URL_SAFE_NO_PAD.encode([&head[..9], rest].concat())
}

fn check_key(order: Order, key: &Key) {
    if key.node.len() > MOST_NODE_NAME {
        return;
    }
    let text = encode(here(order), key);
    assert!(text.len() <= MAX_LENGTH, "{} bytes", text.len());
    let is_of_order = order.key_from_wire(key).is_ok();
    match decode(here(order), order, &text) {
        Ok(Position::After(same)) => assert!(is_of_order && same == *key, "{key:?} became {same:?}"),
        Ok(Position::Hashed(hashed)) => {
            assert!(hashed.is(key) && hashed.is_of_client(key) && key.encoded_len() > 300, "{key:?}");
            let other = Key { session: !key.session, ..key.clone() };
            assert!(!hashed.is(&other) && hashed.is_of_client(&other), "{key:?}");
        }
        Err(refused) => assert!(refused == InvalidCursor::Malformed && !is_of_order, "{refused}: {key:?}"),
    }
}

/// The beginning of a key is often a key too, but the beginning of a cursor is none.
fn check_mutilated(order: Order, text: &str, input: &mut Unstructured<'_>) {
    let end = input.choose_index(text.len()).unwrap_or_default();
    assert_eq!(decode(here(order), order, &text[..end]), Err(InvalidCursor::Malformed), "{end} of {text}");
}

fn check_mutated(order: Order, text: &str, input: &mut Unstructured<'_>) {
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..input.int_in_range(1..=4_u8).unwrap_or(1) {
        let Ok(at) = input.choose_index(bytes.len()) else { break };
        match input.arbitrary::<u8>().unwrap_or_default() {
            0..32 => drop(bytes.remove(at)),
            32..64 => bytes.truncate(at),
            64..96 => bytes.insert(at, b'A'),
            other => bytes[at] = other,
        }
    }
    check_text(order, &String::from_utf8_lossy(&bytes));
}

/// A key that mostly is of the order's kind, with texts up to what MQTT allows.
fn key(order: Order, input: &mut Unstructured<'_>) -> Result<Key> {
    let of_kind = Key::from(order.key(&clients::example().as_client_ref())).value;
    let value = match (of_kind, input.int_in_range(0..=15_u8)?) {
        (_, 0) => None,
        (_, 1) => Some(key::Value::Address(input.arbitrary()?)),
        (_, 2) | (Some(key::Value::Number(_)), _) => Some(key::Value::Number(input.arbitrary()?)),
        (_, 3) | (Some(key::Value::Text(_)), _) => Some(key::Value::Text(text(input)?)),
        (other, _) => other,
    };
    let mut node = text(input)?;
    node.truncate(node.floor_char_boundary(MOST_NODE_NAME));
    Ok(Key { value, clientid: text(input)?, node, session: input.arbitrary()? })
}

/// A piece of text, repeated, and another behind it.
fn text(input: &mut Unstructured<'_>) -> Result<String> {
    let piece = |input: &mut Unstructured<'_>| -> Result<String> {
        let length = input.int_in_range(0..=12_usize)?.min(input.len());
        Ok(String::from_utf8_lossy(input.bytes(length)?).into_owned())
    };
    let times = [0, 1, 1, 2, 8, 24, 100, 5_000][usize::from(input.int_in_range(0..=7_u8)?)];
    let start = piece(input)?.repeat(times);
    Ok(start + &piece(input)?)
}
