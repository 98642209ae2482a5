//! Ordinary MQTT clients, as applications use them: rumqttc for 3.1.1 and 5.

use std::net::SocketAddr;
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;
use std::time::Duration;

use rollcall_tests::wait::SOON;
use rumqttc::v5::Event as EventV5;
use rumqttc::v5::mqttbytes::QoS as QoSV5;
use rumqttc::v5::mqttbytes::v5::Packet as PacketV5;
use rumqttc::{Event as EventV4, Packet as PacketV4, QoS as QoSV4, v5};
use tokio::sync::oneshot;

/// What a client was told.
#[derive(Debug)]
enum Seen {
    Accepted {
        session_present: bool,
    },
    Message(Vec<u8>),
    /// The connection ended; the client does not come back.
    Closed(#[expect(dead_code, reason = "shown when a test fails")] String),
}

/// A client, connected until it is dropped, which closes the connection without goodbye.
pub(crate) struct Real {
    sender: Sender,
    seen: Receiver<Seen>,
    /// What CONNACK said.
    pub(crate) session_present: bool,
    /// Taken when dropped.
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

enum Sender {
    V4(rumqttc::AsyncClient),
    V5(v5::AsyncClient),
}

/// What CONNECT says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Login<'a> {
    pub(crate) clientid: &'a str,
    pub(crate) username: Option<&'a str>,
    /// Seconds.
    pub(crate) keepalive: u16,
    pub(crate) clean: bool,
}

impl<'a> Login<'a> {
    pub(crate) fn clean(clientid: &'a str) -> Self {
        Self { clientid, username: None, keepalive: 60, clean: true }
    }

    /// Takes up, and leaves behind, a session.
    pub(crate) fn persistent(clientid: &'a str) -> Self {
        Self { clean: false, ..Self::clean(clientid) }
    }
}

/// Session Expiry Interval of MQTT 5 clients that keep their session, seconds.
pub(crate) const EXPIRY: u32 = 300;

impl Real {
    /// MQTT 3.1.1.
    pub(crate) fn v4(broker: SocketAddr, login: Login<'_>) -> Self {
        let mut options = rumqttc::MqttOptions::new(login.clientid, broker.ip().to_string(), broker.port());
        options.set_keep_alive(Duration::from_secs(login.keepalive.into())).set_clean_session(login.clean);
        if let Some(username) = login.username {
            options.set_credentials(username, "secret");
        }
        let (client, mut connection) = rumqttc::AsyncClient::new(options, 16);
        Self::start(Sender::V4(client), async move || {
            loop {
                match connection.poll().await {
                    Ok(EventV4::Incoming(PacketV4::ConnAck(answer))) => {
                        return Seen::Accepted { session_present: answer.session_present };
                    }
                    Ok(EventV4::Incoming(PacketV4::Publish(message))) => {
                        return Seen::Message(message.payload.to_vec());
                    }
                    Ok(_) => {}
                    Err(error) => return Seen::Closed(error.to_string()),
                }
            }
        })
    }

    /// MQTT 5.
    pub(crate) fn v5(broker: SocketAddr, login: Login<'_>) -> Self {
        let mut options = v5::MqttOptions::new(login.clientid, broker.ip().to_string(), broker.port());
        options.set_keep_alive(Duration::from_secs(login.keepalive.into())).set_clean_start(login.clean);
        // Without a limit the library sets 14 MB aside for each client.
        options.set_outgoing_inflight_upper_limit(20);
        options.set_session_expiry_interval((!login.clean).then_some(EXPIRY));
        if let Some(username) = login.username {
            options.set_credentials(username, "secret");
        }
        let (client, mut connection) = v5::AsyncClient::new(options, 16);
        Self::start(Sender::V5(client), async move || {
            loop {
                match connection.poll().await {
                    Ok(EventV5::Incoming(PacketV5::ConnAck(answer))) => {
                        return Seen::Accepted { session_present: answer.session_present };
                    }
                    Ok(EventV5::Incoming(PacketV5::Publish(message))) => {
                        return Seen::Message(message.payload.to_vec());
                    }
                    Ok(_) => {}
                    Err(error) => return Seen::Closed(error.to_string()),
                }
            }
        })
    }

    /// Runs the connection on a thread of its own: the library waits for ever otherwise, as its event loop keeps
    /// itself alive.
    fn start(sender: Sender, mut next: impl AsyncFnMut() -> Seen + Send + 'static) -> Self {
        let (told, seen) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let connection = async {
                loop {
                    let news = next().await;
                    let ended = matches!(news, Seen::Closed(_));
                    if told.send(news).is_err() || ended {
                        return;
                    }
                }
            };
            runtime.block_on(async {
                tokio::select! {
                    () = connection => {}
                    _ = stopped => {}
                }
            });
        });
        let session_present = match seen.recv_timeout(SOON) {
            Ok(Seen::Accepted { session_present }) => session_present,
            other => panic!("the broker does not accept: {other:?}"),
        };
        Self { sender, seen, session_present, running: Some((stop, thread)) }
    }

    pub(crate) fn subscribe(&self, filter: &str) {
        match &self.sender {
            Sender::V4(client) => client.try_subscribe(filter, QoSV4::AtLeastOnce).unwrap(),
            Sender::V5(client) => client.try_subscribe(filter, QoSV5::AtLeastOnce).unwrap(),
        }
    }

    pub(crate) fn publish(&self, topic: &str, payload: &str) {
        let payload = payload.to_owned();
        match &self.sender {
            Sender::V4(client) => client.try_publish(topic, QoSV4::AtLeastOnce, false, payload).unwrap(),
            Sender::V5(client) => client.try_publish(topic, QoSV5::AtLeastOnce, false, payload).unwrap(),
        }
    }

    /// The next message's payload.
    pub(crate) fn receive(&self) -> String {
        match self.seen.recv_timeout(SOON) {
            Ok(Seen::Message(payload)) => String::from_utf8(payload).unwrap(),
            other => panic!("no message: {other:?}"),
        }
    }

    /// Waits until the broker closes the connection.
    pub(crate) fn await_close(&self) {
        loop {
            match self.seen.recv_timeout(SOON) {
                Ok(Seen::Closed(_)) => return,
                Ok(_) => {}
                Err(error) => panic!("the connection still stands: {error}"),
            }
        }
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            // Fails if the connection has ended already.
            let _ = stop.send(());
            let _ = thread.join();
        }
    }
}
