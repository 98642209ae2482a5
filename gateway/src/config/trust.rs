//! What the gateway shows and whom it trusts: its own certificate, TLS and a token towards agents. Files that are followed
//! later on are read here for the first time.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use rollcall_trust::tls::{ClientFiles, ServerFiles};
use rollcall_trust::token::Tokens;
use rollcall_trust::{Live, TrustError};
use rustls::ServerConfig;
use rustls::pki_types::ServerName;

use super::{ConfigError, Layer, unfit};
use crate::cluster::NodeTls;

/// The gateway's own certificate.
pub(super) fn https(certificate: &Path, key: &Path) -> Result<Live<ServerConfig>, TrustError> {
    let files = ServerFiles {
        what: "the certificate of HTTPS",
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        clients: None,
        protocols: &[b"h2", b"http/1.1"],
    };
    files.load()
}

/// TLS towards agents, if it is asked for.
pub(super) fn node_tls(told: &Layer) -> Result<Option<NodeTls>, ConfigError> {
    let Some(ca) = &told.node_ca else {
        let others = [
            ("node-domain", told.node_domain.is_some()),
            ("node-cert", told.node_cert.is_some()),
            ("node-key", told.node_key.is_some()),
        ];
        return match others.into_iter().find(|(_, is_told)| *is_told) {
            Some((key, _)) => {
                Err(unfit(format!("{key} without node-ca: TLS to agents needs their authority")))
            }
            None => Ok(None),
        };
    };
    let identity = match (&told.node_cert, &told.node_key) {
        (Some(cert), Some(key)) => Some((cert.clone(), key.clone())),
        (None, None) => None,
        (Some(_), None) => return Err(unfit("node-cert without node-key: expected both or none")),
        (None, Some(_)) => return Err(unfit("node-key without node-cert: expected both or none")),
    };
    let domain = told.node_domain.as_deref().map(|domain| match ServerName::try_from(domain) {
        Ok(name) => Ok(name.to_owned()),
        Err(_) => Err(unfit(format!("node-domain {domain:?}: expected a name or address of a certificate"))),
    });
    let domain = domain.transpose()?;
    let files = ClientFiles {
        what: "the certificates towards agents",
        ca: ca.clone(),
        identity,
        protocols: &[b"h2"],
    };
    Ok(Some(NodeTls { files: Arc::new(files.load()?), domain }))
}

/// The token towards agents, if there is one and it is safe on its way.
pub(super) fn node_token(
    told: &Layer,
    nodes: &[String],
    has_tls: bool,
) -> Result<Option<Arc<Live<Tokens>>>, ConfigError> {
    let Some(path) = &told.node_token_file else { return Ok(None) };
    let is_loopback = |node: &str| {
        let host = node.rsplit_once(':').map_or(node, |(host, _)| host);
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
    };
    if !has_tls
        && told.insecure != Some(true)
        && let Some(node) = nodes.iter().find(|node| !is_loopback(node))
    {
        return Err(unfit(format!(
            "node-token-file without node-ca: the token would go to {node} for all the network to read; give node-ca, \
             or say insecure"
        )));
    }
    Ok(Some(Arc::new(Tokens::load("the token towards agents", path.clone())?)))
}
