//! Passwords towards brokers.

use std::fmt;
use std::io;
use std::path::Path;

use zeroize::Zeroizing;

/// The longest password, bytes: larger files are some other file.
const MAX: u64 = 64 << 10;

/// A password out of a file. It is shown by no `Debug` and wiped when dropped.
#[derive(Clone)]
pub(super) struct Secret(Zeroizing<String>);

impl Secret {
    /// Reads the first line of a file, without its end. Blocks while it does.
    ///
    /// # Errors
    /// The file cannot be read, is no UTF-8, is larger than a password can be, or begins with an empty line.
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        let invalid = |message: &str| Err(io::Error::new(io::ErrorKind::InvalidData, message));
        if std::fs::metadata(path)?.len() > MAX {
            return invalid("too large for a file with a password");
        }
        let text = Zeroizing::new(std::fs::read_to_string(path)?);
        match text.lines().next().filter(|line| !line.is_empty()) {
            Some(line) => Ok(Self(Zeroizing::new(line.to_owned()))),
            None => invalid("its first line is empty, expected a password"),
        }
    }

    /// To be sent to the broker, and nowhere else.
    #[must_use]
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_of_the_file_counts_and_is_not_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        for (text, expected) in [("s3cret", "s3cret"), ("s3cret\n", "s3cret"), ("s 3\r\nmore\n", "s 3")] {
            std::fs::write(&path, text).unwrap();
            let secret = Secret::read(&path).unwrap();
            assert_eq!(secret.reveal(), expected);
            assert_eq!(format!("{secret:?}"), "Secret(..)");
        }
        for bad in ["", "\nlater"] {
            std::fs::write(&path, bad).unwrap();
            assert!(Secret::read(&path).unwrap_err().to_string().contains("expected a password"));
        }
        std::fs::write(&path, vec![b'x'; 70_000]).unwrap();
        assert!(Secret::read(&path).is_err());
        assert!(Secret::read(&directory.path().join("none")).is_err());
    }
}
