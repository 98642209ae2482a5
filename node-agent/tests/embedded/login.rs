//! Who may connect.

use std::path::Path;

use rollcall_node_agent::broker::embedded::passwords::add_user;
use rollcall_node_agent::broker::embedded::{
    Authentication, EmbeddedBroker, EmbeddedSettings, ListenerSettings, TlsSettings,
};
use tokio::net::TcpStream;

use crate::raw::{Connect, Raw};
use crate::sandbox::{Sandbox, listener, settings};

fn with_passwords(path: &Path) -> EmbeddedSettings {
    EmbeddedSettings { authentication: Authentication::PasswordFile(path.to_owned()), ..settings() }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_right_password_opens_the_door() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("users");
    let users = add_user("", "alice", b"wonder").unwrap();
    std::fs::write(&path, add_user(&users, "bob", b"builder").unwrap()).unwrap();
    let sandbox = Sandbox::start(with_passwords(&path)).await;
    // CONNACK: 4 and 0x86 bad user name or password, 5 and 0x87 not authorized
    for (login, v4, v5) in [
        (Some(("alice", "wonder")), 0, 0),
        (Some(("bob", "builder")), 0, 0),
        (Some(("alice", "builder")), 4, 0x86),
        (Some(("alice", "")), 4, 0x86),
        (Some(("carol", "wonder")), 4, 0x86),
        (None, 5, 0x87),
    ] {
        for (connect, expected) in [(Connect::v4("c"), v4), (Connect::v5("c"), v5), (Connect::v31("c"), v4)] {
            let connect = match login {
                Some((user, password)) => connect.login(user, password),
                None => connect,
            };
            let stream = TcpStream::connect(sandbox.address()).await.unwrap();
            let mut client = Raw::over(stream, &connect).await.expect("CONNACK");
            assert_eq!(client.connack, expected, "{login:?} level {}", connect.level);
            if expected == 0 {
                sandbox.row_when("c", |row| row.username.as_deref() == login.map(|(user, _)| user)).await;
                client.disconnect().await;
            } else {
                client.closed().await;
                assert!(sandbox.row("c").is_none_or(|row| row.username.as_deref() == Some("bob")));
            }
            sandbox.gone("c").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_used_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("users");
    let refused = async |settings| match EmbeddedBroker::start(settings).await {
        Ok(_) => panic!("it started"),
        Err(error) => error.to_string(),
    };
    let message = refused(with_passwords(&path)).await;
    assert!(message.contains("users") && message.contains("No such file"), "{message}");
    std::fs::write(&path, "# ok\nalice:wonder\n").unwrap();
    let message = refused(with_passwords(&path)).await;
    assert!(message.contains("users:2: expected an Argon2 hash") && !message.contains("wonder"), "{message}");

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let message = refused(EmbeddedSettings { listeners: vec![listener(&address)], ..settings() }).await;
    assert!(message.contains(&address) && message.contains("in use"), "{message}");

    let tls = TlsSettings { cert: directory.path().join("no.pem"), key: path };
    let broken = ListenerSettings { tls: Some(tls), ..listener("127.0.0.1:0") };
    let message = refused(EmbeddedSettings { listeners: vec![broken], ..settings() }).await;
    assert!(message.contains("no.pem"), "{message}");

    let message = refused(EmbeddedSettings { listeners: vec![], ..settings() }).await;
    assert!(message.contains("listeners"), "{message}");
}
