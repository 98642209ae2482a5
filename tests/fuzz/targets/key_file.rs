//! Key files.
//!
//! - A file that is read gives a key for each entry, with an id that Basic authentication can hold, and none of its
//!   secrets' hashes is shown.
//! - A file whose keys go together takes another key and gives it up again; all others stay as they were.
//! - A refusal names the file and shows no hash that is none; one about the form names a line that the file has.

#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use rollcall_fuzz::file;
use rollcall_fuzz::mutate::{self, Form};
use rollcall_gateway::key_file::{KeyFile, KeyFileError};
use rollcall_gateway::keys::{InvalidKey, Key, KeyRing, Role};

/// Values at which something changes: hashes of 64 bytes, of less, and what is none.
const FORM: Form = Form {
    separator: '\n',
    equals: " = ",
    values: &[
        "'2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881'",
        "'2D711642B726B04401627CA9FBAC32F5C8530FB1903CC4DB02258717921A4881'",
        "'+d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881'",
        "'2üü642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881'",
        "'2d711642'",
        "'a-key-of-this-test'",
        "'dash'",
        "'ops'",
        "'x/y'",
        "'viewer'",
        "'operator'",
        "''",
        "\"\\u0000\\n\"",
        "'\"\\ü'",
        "5",
    ],
    accepted: &[include_str!("../corpus/key_file/two"), include_str!("../corpus/key_file/inline")],
};

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutate::mutate(data, size, max_size, seed, 0, |input, noise| mutate::text(input, FORM, noise))
});

fuzz_target!(|data: &[u8]| {
    let path = file::write("keys.toml", data);
    let file = KeyFile::at(&path);
    match file.keys() {
        Ok(keys) => check_read(&file, &keys),
        Err(error) => check_refused(data, &error),
    }
});

fn check_read(file: &KeyFile, keys: &[Key]) {
    let entries = file.entries().expect("what was read is read again");
    assert_eq!(entries.len(), keys.len());
    for (entry, key) in entries.iter().zip(keys) {
        assert_eq!((entry.id.as_str(), entry.role), (&*key.id, key.role));
        let is_ordinary = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        assert!((1..=64).contains(&key.id.len()) && key.id.bytes().all(is_ordinary), "{:?}", key.id);
        assert_eq!(format!("{:?}", key.hash), "SecretHash(..)");
    }
    let ring = KeyRing::new(keys.to_vec());
    match &ring {
        Ok(ring) => assert_eq!(ring.is_empty(), keys.is_empty()),
        Err(InvalidKey::SameId(id)) => assert!(keys.iter().filter(|key| *key.id == **id).count() > 1),
        Err(InvalidKey::SameSecret(..)) => {}
        Err(error) => panic!("{error} of keys that were read"),
    }
    let new = "a-key-of-this-test";
    if keys.iter().any(|key| &*key.id == new) {
        assert!(file.create(new, Role::Viewer, "").is_err());
        return;
    }
    let secret = file.create(new, Role::Operator, "a \"comment\"\n").expect("a key is added");
    let more = file.keys().expect("a file with a key added is read");
    assert_eq!(&more[..keys.len()], keys);
    assert_eq!((&*more[keys.len()].id, more.len()), (new, keys.len() + 1));
    if ring.is_ok() {
        let ring = KeyRing::new(more).expect("a new id and a new secret go together with others");
        assert_eq!(ring.by_id(new, &secret).map(|key| key.role), Some(Role::Operator));
        assert_eq!(ring.by_secret(&secret).map(|key| &*key.id), Some(new));
    }
    file.revoke(new).expect("a key that is there is revoked");
    assert_eq!(file.keys().expect("a file with a key revoked is read"), keys);
    let left = file.entries().expect("the same");
    assert!(
        entries.iter().zip(&left).all(|(a, b)| (&a.created_at, &a.comment) == (&b.created_at, &b.comment))
    );
}

fn check_refused(data: &[u8], error: &KeyFileError) {
    let message = error.to_string();
    assert!(message.starts_with("key file ") && message.contains("keys.toml"), "{message}");
    match error {
        KeyFileError::Io { .. } => assert!(std::str::from_utf8(data).is_err(), "{message}"),
        KeyFileError::Form { line, .. } => {
            let lines = 1 + data.iter().filter(|byte| **byte == b'\n').count();
            assert!((1..=lines).contains(line), "{message}, but there are {lines} lines");
        }
        KeyFileError::Key { source, .. } => {
            assert!(matches!(source, InvalidKey::Id(_) | InvalidKey::Hash(_)), "{message}");
        }
        KeyFileError::NoSuchKey { .. } => panic!("{message}, but none was asked for"),
    }
    // What stands where a hash should be may be a secret.
    let KeyFileError::Key { source: InvalidKey::Hash(id), .. } = error else { return };
    for word in data.split(|byte| !byte.is_ascii_alphanumeric()).filter(|word| word.len() >= 32) {
        let word = std::str::from_utf8(word).unwrap_or_default();
        assert!(id.contains(word) || !message.contains(word), "{message}");
    }
}
