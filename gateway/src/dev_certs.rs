//! Certificates for development: an authority, one certificate for each agent, and the gateway's two.
//!
//! What each certificate may be used for stands in it, so that one authority does for all: agents' and the gateway's HTTPS
//! certificate identify servers, the gateway's other one a client, and an agent cannot pass for a gateway. The
//! authority's name follows from its key, so that its two files are enough to go on with it: run again, it signs for
//! more hosts. Files are never overwritten. Decided against: a path into production. An authority whose key lies beside
//! what it signs protects nobody from who can read the folder.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use jiff::ToSpan as _;
use jiff::civil::Date;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// How long the authority is valid, days.
const AUTHORITY_DAYS: u32 = 3650;

/// The longest that certificates may be valid, days.
const MOST_DAYS: u32 = 3650;

/// What is to be made.
#[derive(Clone, Debug)]
pub struct DevCerts {
    /// Where the files go; made if it is not there.
    pub dir: PathBuf,
    /// The agents' hosts, as the gateway's `node` names them.
    pub agents: Vec<Host>,
    /// The gateways' hosts, as their users name them.
    pub gateways: Vec<Host>,
    /// How long the certificates are valid, from 1 to 3650.
    pub days: u32,
}

/// A name or address that a certificate can be made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host(String);

/// A text that is no host.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0:?}: expected a host without a port, such as node-1.example.org, 10.0.0.7 or ::1")]
pub struct InvalidHost(String);

/// Why there are no certificates.
#[derive(Debug, Error)]
pub enum DevCertsError {
    /// Nothing was asked for.
    #[error("no host: expected --agent HOST, --gateway HOST or both")]
    NoHost,
    /// A host is given twice.
    #[error("host {0:?} is given twice, expected once")]
    Twice(String),
    /// The time is out of its range.
    #[error("days {0}: expected 1 to {MOST_DAYS}")]
    Days(u32),
    /// A file that would be made is there.
    #[error("{} exists and is not overwritten: remove it, or give another --dir", .0.display())]
    Exists(PathBuf),
    /// One half of the authority is missing.
    #[error("{} is there and {} is not: expected both, to go on with this authority, or none", there.display(), missing.display())]
    HalfAnAuthority {
        /// The half that is there.
        there: PathBuf,
        /// The other.
        missing: PathBuf,
    },
    /// The authority's files are none of this command's.
    #[error("{} is not the certificate of {}: expected an authority made by this command", certificate.display(), key.display())]
    OtherAuthority {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// The system says no.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The cryptography says no. Never with anything of a key.
    #[error("cannot make a certificate: {0}")]
    Rcgen(#[from] rcgen::Error),
}

/// What was made. Shown, it says how to use it.
#[derive(Debug)]
pub struct Made {
    asked: DevCerts,
    is_new_authority: bool,
    until: Date,
}

/// A file to be written.
struct Pem {
    path: PathBuf,
    text: String,
    is_secret: bool,
}

/// What a certificate is for.
#[derive(Clone, Copy)]
enum Purpose {
    Server,
    Client,
}

// === impl Host ===

impl Host {
    /// The host as certificates and addresses name it; IPv6 without brackets.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As it stands before a port.
    fn in_address(&self) -> String {
        if self.0.contains(':') { format!("[{}]", self.0) } else { self.0.clone() }
    }

    fn file_stem(&self) -> String {
        format!("agent-{}", self.0.replace(':', "-"))
    }
}

impl FromStr for Host {
    type Err = InvalidHost;

    fn from_str(text: &str) -> Result<Self, InvalidHost> {
        let host = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        match ServerName::try_from(host) {
            // What TLS clients compare with.
            Ok(name) => Ok(Self(name.to_str().to_ascii_lowercase())),
            Err(_) => Err(InvalidHost(text.to_owned())),
        }
    }
}

// === impl DevCerts ===

impl DevCerts {
    /// Makes keys and certificates and writes them; on an error nothing is left behind.
    ///
    /// # Errors
    /// [`DevCertsError`]
    pub fn make(self) -> Result<Made, DevCertsError> {
        self.check()?;
        let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
        let (authority, mut files) = self.authority(today)?;
        let is_new_authority = !files.is_empty();
        let until = today.saturating_add(i64::from(self.days).days());
        let issuer = Issuer::from_params(&authority.0, &authority.1);
        for agent in &self.agents {
            let hosts = std::slice::from_ref(agent);
            files.extend(self.issue(&issuer, &agent.file_stem(), hosts, Purpose::Server, today)?);
        }
        if !self.gateways.is_empty() {
            files.extend(self.issue(&issuer, "gateway", &self.gateways, Purpose::Client, today)?);
            files.extend(self.issue(&issuer, "https", &self.gateways, Purpose::Server, today)?);
        }
        if let Some(file) = files.iter().find(|file| file.path.exists()) {
            return Err(DevCertsError::Exists(file.path.clone()));
        }
        fs::create_dir_all(&self.dir).map_err(|source| failed(&self.dir, source))?;
        write_all(&files)?;
        Ok(Made { asked: self, is_new_authority, until })
    }

    fn check(&self) -> Result<(), DevCertsError> {
        if self.agents.is_empty() && self.gateways.is_empty() {
            return Err(DevCertsError::NoHost);
        }
        for hosts in [&self.agents, &self.gateways] {
            let mut rest = hosts.iter();
            while let Some(host) = rest.next() {
                if rest.as_slice().contains(host) {
                    return Err(DevCertsError::Twice(host.0.clone()));
                }
            }
        }
        if !(1..=MOST_DAYS).contains(&self.days) {
            return Err(DevCertsError::Days(self.days));
        }
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The authority of the folder, or a new one and its files.
    fn authority(&self, today: Date) -> Result<((CertificateParams, KeyPair), Vec<Pem>), DevCertsError> {
        let (certificate, key) = (self.path("ca.pem"), self.path("ca.key"));
        match (certificate.exists(), key.exists()) {
            (true, true) => {
                let other =
                    || DevCertsError::OtherAuthority { certificate: certificate.clone(), key: key.clone() };
                let text = fs::read_to_string(&key).map_err(|source| failed(&key, source))?;
                let pair = KeyPair::from_pem(&text).map_err(|_| other())?;
                let there = fs::read(&certificate).map_err(|source| failed(&certificate, source))?;
                let params = authority_params(&pair, today);
                if !is_certificate_of(&there, &pair, &params) {
                    return Err(other());
                }
                Ok(((params, pair), Vec::new()))
            }
            (false, false) => {
                let pair = KeyPair::generate()?;
                let params = authority_params(&pair, today);
                let files = vec![
                    Pem { path: certificate, text: params.self_signed(&pair)?.pem(), is_secret: false },
                    Pem { path: key, text: pair.serialize_pem(), is_secret: true },
                ];
                Ok(((params, pair), files))
            }
            (true, false) => Err(DevCertsError::HalfAnAuthority { there: certificate, missing: key }),
            (false, true) => Err(DevCertsError::HalfAnAuthority { there: key, missing: certificate }),
        }
    }

    /// A new key and its certificate.
    fn issue(
        &self,
        issuer: &Issuer<'_, &KeyPair>,
        stem: &str,
        hosts: &[Host],
        purpose: Purpose,
        today: Date,
    ) -> Result<[Pem; 2], DevCertsError> {
        let names: Vec<String> = hosts.iter().map(|host| host.0.clone()).collect();
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = named(&format!("rollcall development {stem}"));
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![match purpose {
            Purpose::Server => ExtendedKeyUsagePurpose::ServerAuth,
            Purpose::Client => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        valid(&mut params, today, self.days);
        let pair = KeyPair::generate()?;
        let certificate = params.signed_by(&pair, issuer)?.pem();
        Ok([
            Pem { path: self.path(&format!("{stem}.pem")), text: certificate, is_secret: false },
            Pem { path: self.path(&format!("{stem}.key")), text: pair.serialize_pem(), is_secret: true },
        ])
    }
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    // X.520 allows 64 characters.
    name.push(DnType::CommonName, common_name.chars().take(64).collect::<String>());
    name
}

/// From yesterday, so that a clock that is a little late does not matter.
fn valid(params: &mut CertificateParams, today: Date, days: u32) {
    let day = |date: Date| {
        rcgen::date_time_ymd(date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    params.not_before = day(today.saturating_sub(1.days()));
    params.not_after = day(today.saturating_add(i64::from(days).days()));
}

fn authority_params(pair: &KeyPair, today: Date) -> CertificateParams {
    let hash = Sha256::digest(pair.subject_public_key_info());
    let hash: String = hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let mut params = CertificateParams::default();
    params.distinguished_name = named(&format!("rollcall development authority {hash}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid(&mut params, today, AUTHORITY_DAYS);
    params
}

/// Whether a PEM text is a certificate under the authority's name whose key is this pair's.
fn is_certificate_of(pem: &[u8], pair: &KeyPair, params: &CertificateParams) -> bool {
    let Ok(certificate) = CertificateDer::from_pem_slice(pem) else { return false };
    let Some(DnValue::Utf8String(name)) = params.distinguished_name.get(&DnType::CommonName) else {
        return false;
    };
    let contains = |part: &[u8]| certificate.windows(part.len()).any(|window| window == part);
    contains(&pair.subject_public_key_info()) && contains(name.as_bytes())
}

fn failed(path: &Path, source: io::Error) -> DevCertsError {
    DevCertsError::Io { path: path.to_owned(), source }
}

fn write_all(files: &[Pem]) -> Result<(), DevCertsError> {
    for (at, file) in files.iter().enumerate() {
        if let Err(source) = file.write() {
            for written in &files[..at] {
                // What remains is named by the next attempt.
                let _ = fs::remove_file(&written.path);
            }
            return Err(failed(&file.path, source));
        }
    }
    Ok(())
}

impl Pem {
    fn write(&self) -> io::Result<()> {
        let mode = if self.is_secret { 0o600 } else { 0o644 };
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&self.path)?;
        file.write_all(self.text.as_bytes()).and_then(|()| file.sync_all()).inspect_err(|_| {
            let _ = fs::remove_file(&self.path);
        })
    }
}

// === impl Made ===

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asked, is_new_authority, until } = self;
        let file = |name: &str| asked.path(name).display().to_string();
        let authority = if *is_new_authority { "a new authority" } else { "the authority that is there" };
        writeln!(f, "FOR DEVELOPMENT ONLY: signed by {authority}, {}, until {until}.", file("ca.pem"))?;
        writeln!(
            f,
            "Whoever can read {} can pass for every agent and gateway. In production use an authority of your own.",
            file("ca.key")
        )?;
        for agent in &asked.agents {
            let (host, stem) = (agent.as_str(), agent.file_stem());
            let listen = match host.parse() {
                Ok(address) => std::net::SocketAddr::new(address, 18830).to_string(),
                // What the name leads to, this command does not ask.
                Err(_) => "0.0.0.0:18830".to_owned(),
            };
            writeln!(f, "\nThe agent at {host}:")?;
            writeln!(f, "  rollcall-agent --node-name NAME --listen {listen} \\")?;
            writeln!(
                f,
                "      --tls-cert {} --tls-key {} \\",
                file(&format!("{stem}.pem")),
                file(&format!("{stem}.key"))
            )?;
            writeln!(f, "      --tls-client-ca {}", file("ca.pem"))?;
        }
        let Some(gateway) = asked.gateways.first() else { return Ok(()) };
        writeln!(f, "\nThe gateway:")?;
        writeln!(
            f,
            "  rollcall-gateway --listen ADDRESS:8443 --tls-cert {} --tls-key {} \\",
            file("https.pem"),
            file("https.key")
        )?;
        let (ca, pem, key) = (file("ca.pem"), file("gateway.pem"), file("gateway.key"));
        writeln!(f, "      --node-ca {ca} --node-cert {pem} --node-key {key} \\")?;
        for agent in &asked.agents {
            writeln!(f, "      --node {}:18830 \\", agent.in_address())?;
        }
        writeln!(f, "      --key-file keys.toml")?;
        writeln!(f, "\nIts users, with a key of keys.toml:")?;
        writeln!(f, "  curl --cacert {ca} -u ID:SECRET https://{}:8443/api/v4/nodes", gateway.in_address())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn hosts(texts: &[&str]) -> Vec<Host> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn asked(dir: &Path, agents: &[&str], gateways: &[&str]) -> DevCerts {
        DevCerts { dir: dir.to_owned(), agents: hosts(agents), gateways: hosts(gateways), days: 365 }
    }

    #[test]
    fn hosts_are_names_and_addresses_without_ports() {
        for (text, host) in [
            ("localhost", "localhost"),
            ("10.0.0.7", "10.0.0.7"),
            ("[::1]", "::1"),
            ("::1", "::1"),
            ("Node-1.Example.org", "node-1.example.org"),
        ] {
            assert_eq!(text.parse::<Host>().unwrap().as_str(), host);
        }
        for text in ["", "host:7070", "10.0.0.7:1", "[::1]:1", "https://host", "a b", "a/b", "../x", "*"] {
            assert_eq!(text.parse::<Host>(), Err(InvalidHost(text.to_owned())));
        }
    }

    #[test]
    fn keys_are_for_their_owner_alone_and_nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("certs");
        let made = asked(&dir, &["::1", "node-1.example.org"], &["localhost"]).make().unwrap();
        assert!(made.is_new_authority);
        let mut names: Vec<String> = fs::read_dir(&dir)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let name = entry.file_name().into_string().unwrap();
                let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
                assert_eq!(mode & 0o077 == 0, name.ends_with(".key"), "{name} has mode {mode:o}");
                name
            })
            .collect();
        names.sort();
        let stems = ["agent---1", "agent-node-1.example.org", "ca", "gateway", "https"];
        let expected: Vec<_> =
            stems.iter().flat_map(|stem| [format!("{stem}.key"), format!("{stem}.pem")]).collect();
        assert_eq!(names, expected);

        let before = fs::read(dir.join("gateway.key")).unwrap();
        let error = asked(&dir, &["10.0.0.1"], &["localhost"]).make().unwrap_err().to_string();
        assert!(error.contains("gateway.pem exists and is not overwritten"), "{error}");
        assert_eq!(fs::read(dir.join("gateway.key")).unwrap(), before);
        assert!(!dir.join("agent-10.0.0.1.pem").exists(), "half of it was made");

        let authority = fs::read(dir.join("ca.pem")).unwrap();
        assert!(!asked(&dir, &["10.0.0.1"], &[]).make().unwrap().is_new_authority);
        assert!(dir.join("agent-10.0.0.1.pem").exists());
        assert_eq!(fs::read(dir.join("ca.pem")).unwrap(), authority);
    }

    #[test]
    fn an_authority_that_cannot_be_gone_on_with_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        for dir in [&one, &other] {
            asked(dir, &["a"], &[]).make().unwrap();
        }
        fs::copy(other.join("ca.pem"), one.join("ca.pem")).unwrap();
        let error = asked(&one, &["b"], &[]).make().unwrap_err().to_string();
        assert!(error.contains("ca.pem is not the certificate of") && error.contains("ca.key"), "{error}");
        fs::remove_file(one.join("ca.key")).unwrap();
        let error = asked(&one, &["b"], &[]).make().unwrap_err().to_string();
        assert!(error.contains("expected both"), "{error}");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |asked: DevCerts| asked.make().unwrap_err().to_string();
        assert!(refused(asked(folder.path(), &[], &[])).starts_with("no host"));
        assert_eq!(
            refused(asked(folder.path(), &["a", "b", "A"], &[])),
            "host \"a\" is given twice, expected once"
        );
        for days in [0, MOST_DAYS + 1] {
            let asked = DevCerts { days, ..asked(folder.path(), &["a"], &[]) };
            assert_eq!(refused(asked), format!("days {days}: expected 1 to 3650"));
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
