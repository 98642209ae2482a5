//! How gateway and node-agents know each other: certificates, keys and tokens, out of files that are followed while the
//! program runs; and how whoever guesses is slowed down.
//!
//! In reading order:
//! - [`follow`]: files that change; [`Live`]: a value made of them;
//! - [`tls`]: what a server shows and asks for, and what a client does;
//! - [`token`]: secrets shared by both sides;
//! - [`guesses`]: how many wrong ones an address may show.
//!
//! Both sides' decisions (whom to let in, what to say of a refusal) stay in their own crates; here is only what they
//! would otherwise have twice.

pub mod follow;
pub mod guesses;
mod live;
mod pem;
pub mod tls;
pub mod token;

use std::path::PathBuf;

use thiserror::Error;

pub use self::live::Live;

/// Files that cannot be used. Messages hold nothing of what stands in them.
#[derive(Debug, Error)]
pub enum TrustError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {message}, expected {expected}", path.display())]
    Form {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        message: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A certificate and a key that cannot be used together.
    #[error("certificate {} and key {}: {source}", certificate.display(), key.display())]
    Unfit {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
}
