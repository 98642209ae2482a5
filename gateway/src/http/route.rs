//! Which operation a path names.
//!
//! Paths are split before they are decoded, so that a client id may hold a slash (`%2F`), be `..` or be
//! `username`. The usual routers decode first, fold dots or cannot tell bad percent-encoding from a literal `%`.

use super::decode;
use super::error::ApiError;
use super::openapi;

/// An operation's place, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// `/clients`, or the clients of one node.
    Clients { node: Option<String> },
    /// `/clients/{clientid}`
    Client { node: Option<String>, clientid: String },
    /// `/clients/username/{username}`
    Username { node: Option<String>, username: String },
    /// `/client_counts`
    Counts,
    /// `/client_export`
    Export,
    /// `/client_events`
    Events,
    /// `/client_kicks`
    Kicks,
    /// `/whoami`
    Whoami,
    /// `/nodes`
    Nodes,
    /// `/nodes/{node}`
    Node { node: String },
}

/// A place whose parts are still as they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Raw<'a> {
    Clients(Option<&'a str>),
    Client(Option<&'a str>, &'a str),
    Username(Option<&'a str>, &'a str),
    Counts,
    Export,
    Events,
    Kicks,
    Whoami,
    Nodes,
    Node(&'a str),
}

impl Route {
    /// Methods that `Client` allows; all other places but `Kicks` allow [`READ`].
    const READ_AND_KICK: &'static str = "GET, HEAD, DELETE";

    /// The method that `Kicks` allows.
    const ORDER: &'static str = "POST";

    /// Finds the route of a path without the base path, and decodes its parts.
    ///
    /// # Errors
    /// `NoRoute`; `MethodNotAllowed`; `BadPath` for parts that cannot be decoded.
    pub(super) fn find(method: &http::Method, path: &str) -> Result<Self, ApiError> {
        let raw = Raw::find(path).ok_or(ApiError::NoRoute)?;
        let allow = match raw {
            Raw::Client(..) => Self::READ_AND_KICK,
            Raw::Kicks => Self::ORDER,
            _ => READ,
        };
        if !allow.split(", ").any(|allowed| allowed == method.as_str()) {
            return Err(ApiError::MethodNotAllowed { allow });
        }
        let node = |node: Option<&str>| node.map(|node| part("node", node)).transpose();
        Ok(match raw {
            Raw::Clients(on) => Self::Clients { node: node(on)? },
            Raw::Client(on, clientid) => {
                Self::Client { node: node(on)?, clientid: part("clientid", clientid)? }
            }
            Raw::Username(on, username) => {
                Self::Username { node: node(on)?, username: part("username", username)? }
            }
            Raw::Counts => Self::Counts,
            Raw::Export => Self::Export,
            Raw::Events => Self::Events,
            Raw::Kicks => Self::Kicks,
            Raw::Whoami => Self::Whoami,
            Raw::Nodes => Self::Nodes,
            Raw::Node(name) => Self::Node { node: part("node", name)? },
        })
    }
}

/// Methods of every place that can only be read.
pub(super) const READ: &str = "GET, HEAD";

/// How metrics name the route of a path under the base path, if there is one there.
pub(super) fn label(path: &str) -> Option<&'static str> {
    let described = [openapi::DOCUMENT, openapi::PAGE];
    if let Some(described) =
        described.into_iter().find(|known| path.strip_suffix('/').unwrap_or(path) == *known)
    {
        return Some(described);
    }
    Some(match Raw::find(path)? {
        Raw::Clients(None) => "/clients",
        Raw::Clients(Some(_)) => "/nodes/{node}/clients",
        Raw::Client(None, _) => "/clients/{clientid}",
        Raw::Client(Some(_), _) => "/nodes/{node}/clients/{clientid}",
        Raw::Username(None, _) => "/clients/username/{username}",
        Raw::Username(Some(_), _) => "/nodes/{node}/clients/username/{username}",
        Raw::Counts => "/client_counts",
        Raw::Export => "/client_export",
        Raw::Events => "/client_events",
        Raw::Kicks => "/client_kicks",
        Raw::Whoami => "/whoami",
        Raw::Nodes => "/nodes",
        Raw::Node(_) => "/nodes/{node}",
    })
}

impl<'a> Raw<'a> {
    fn find(path: &'a str) -> Option<Self> {
        let path = path.strip_prefix('/')?;
        let segments: Vec<&str> = path.strip_suffix('/').unwrap_or(path).split('/').collect();
        if segments.iter().any(|segment| segment.is_empty()) {
            return None;
        }
        match segments[..] {
            ["client_counts"] => Some(Self::Counts),
            ["client_export"] => Some(Self::Export),
            ["client_events"] => Some(Self::Events),
            ["client_kicks"] => Some(Self::Kicks),
            ["whoami"] => Some(Self::Whoami),
            ["nodes"] => Some(Self::Nodes),
            ["nodes", node] => Some(Self::Node(node)),
            ["nodes", node, "clients", ref rest @ ..] => Self::clients(Some(node), rest),
            ["clients", ref rest @ ..] => Self::clients(None, rest),
            _ => None,
        }
    }

    fn clients(node: Option<&'a str>, rest: &[&'a str]) -> Option<Self> {
        match *rest {
            [] => Some(Self::Clients(node)),
            [clientid] => Some(Self::Client(node, clientid)),
            ["username", username] => Some(Self::Username(node, username)),
            _ => None,
        }
    }
}

fn part(name: &'static str, raw: &str) -> Result<String, ApiError> {
    match decode::path_segment(raw) {
        Ok(text) => Ok(text.into_owned()),
        Err(why) => Err(ApiError::BadPath { name, value: raw.to_owned(), why }),
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn found(path: &str) -> Result<Route, ApiError> {
        Route::find(&Method::GET, path)
    }

    #[test]
    fn every_route_and_its_trailing_slash() {
        let on = || Some("a@127.0.0.1".to_owned());
        for (path, route) in [
            ("/clients", Route::Clients { node: None }),
            ("/clients/c", Route::Client { node: None, clientid: "c".into() }),
            ("/clients/username", Route::Client { node: None, clientid: "username".into() }),
            ("/clients/username/u", Route::Username { node: None, username: "u".into() }),
            ("/clients/username/username", Route::Username { node: None, username: "username".into() }),
            ("/clients/..", Route::Client { node: None, clientid: "..".into() }),
            ("/clients/a%2Fb+c", Route::Client { node: None, clientid: "a/b+c".into() }),
            ("/clients/%2F", Route::Client { node: None, clientid: "/".into() }),
            ("/client_counts", Route::Counts),
            ("/client_export", Route::Export),
            ("/client_events", Route::Events),
            ("/nodes", Route::Nodes),
            ("/whoami", Route::Whoami),
            ("/nodes/a@127.0.0.1", Route::Node { node: "a@127.0.0.1".into() }),
            ("/nodes/a%40127.0.0.1/clients", Route::Clients { node: on() }),
            ("/nodes/a@127.0.0.1/clients/c", Route::Client { node: on(), clientid: "c".into() }),
            ("/nodes/a@127.0.0.1/clients/username/u", Route::Username { node: on(), username: "u".into() }),
        ] {
            assert_eq!(found(path).unwrap(), route, "{path}");
            assert_eq!(found(&format!("{path}/")).unwrap(), route, "{path}/");
        }
    }

    #[test]
    fn metrics_name_routes_and_never_what_stands_in_a_path() {
        for (path, name) in [
            ("/clients", Some("/clients")),
            ("/clients/c-1/", Some("/clients/{clientid}")),
            ("/clients/%zz", Some("/clients/{clientid}")),
            ("/clients/username/u-1", Some("/clients/username/{username}")),
            ("/nodes/a@h/clients", Some("/nodes/{node}/clients")),
            ("/nodes/a@h/clients/c-1", Some("/nodes/{node}/clients/{clientid}")),
            ("/nodes/a@h/clients/username/u-1", Some("/nodes/{node}/clients/username/{username}")),
            ("/client_counts", Some("/client_counts")),
            ("/client_export", Some("/client_export")),
            ("/client_kicks", Some("/client_kicks")),
            ("/whoami", Some("/whoami")),
            ("/nodes", Some("/nodes")),
            ("/nodes/a@h", Some("/nodes/{node}")),
            ("/openapi.json", Some("/openapi.json")),
            ("/docs/", Some("/docs")),
            ("/nothing", None),
        ] {
            assert_eq!(label(path), name, "{path}");
        }
    }

    #[test]
    fn anything_else_is_no_route() {
        for path in [
            "",
            "/",
            "//",
            "clients",
            "//clients",
            "/clients//",
            "/clients//c",
            "/clients/a/b",
            "/Clients",
            "/clients/username/u/x",
            "/nodes//clients",
            "/nodes/n/client",
            "/nodes/n/clients/a/b",
            "/client_counts/zone",
            "/nodes/n/client_counts",
            "/client_export/x",
            "/client_events/x",
            "/nodes/n/client_export",
            "/client_kicks/x",
            "/nodes/n/client_kicks",
        ] {
            assert!(matches!(found(path), Err(ApiError::NoRoute)), "{path:?}");
        }
    }

    #[test]
    fn only_a_client_can_be_deleted() {
        for path in ["/clients/c", "/nodes/n/clients/c"] {
            assert!(Route::find(&Method::DELETE, path).is_ok(), "{path}");
            let refused = Route::find(&Method::POST, path);
            assert!(
                matches!(refused, Err(ApiError::MethodNotAllowed { allow: "GET, HEAD, DELETE" })),
                "{path}"
            );
        }
        for path in [
            "/clients",
            "/clients/username/u",
            "/client_counts",
            "/client_export",
            "/nodes",
            "/nodes/n",
            "/whoami",
        ] {
            let refused = Route::find(&Method::DELETE, path);
            assert!(matches!(refused, Err(ApiError::MethodNotAllowed { allow: READ })), "{path}");
            assert!(Route::find(&Method::HEAD, path).is_ok(), "{path}");
        }
    }

    #[test]
    fn kicks_are_only_posted() {
        for path in ["/client_kicks", "/client_kicks/"] {
            assert_eq!(Route::find(&Method::POST, path).unwrap(), Route::Kicks, "{path}");
            for method in [Method::GET, Method::HEAD, Method::PUT, Method::DELETE] {
                let refused = Route::find(&method, path);
                assert!(matches!(refused, Err(ApiError::MethodNotAllowed { allow: "POST" })), "{method}");
            }
        }
    }

    #[test]
    fn a_part_that_cannot_be_decoded_is_named() {
        let error = found("/clients/%zz").unwrap_err();
        assert_eq!(
            error.to_string(),
            r#"clientid "%zz" in the path: expected two hexadecimal digits after every % (a literal % is %25)"#
        );
    }
}
