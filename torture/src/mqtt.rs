//! A connection and a session of an MQTT client that sends the given packets and shows the received ones.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jmqt_mqtt::{
    Connect, Disconnect, Frame, Packet, PacketType, Peek, Place, Properties, Property, PropertyBuf, Qos,
    ReasonCode, Sender, Version, Will, peek,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::connection::open;
use crate::session::{ANSWER_TIMEOUT, LEAVE_TIMEOUT, RETRY_EVERY, Shared};
use crate::{Random, Target};

/// Longer than any load runs, in seconds.
pub(crate) const EXPIRY: u32 = 3600;
/// In seconds; a client pings more often.
const KEEP_ALIVE: u16 = 25;
/// The most messages that a client of MQTT 5 wants to have unacknowledged.
const RECEIVE_MAXIMUM: u16 = 24;

/// One connection.
#[derive(Debug)]
struct Link {
    local: SocketAddr,
    stream: TcpStream,
    version: Version,
    received: Vec<u8>,
}

impl Link {
    async fn send(&mut self, packet: &Packet<'_>) -> io::Result<()> {
        self.stream.write_all(&packet.to_bytes(self.version).unwrap()).await
    }

    /// The next packet as bytes; `None` at the end.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Ok(Peek::Known(header)) = peek(&self.received, usize::MAX)
                && header.packet_length() <= self.received.len()
            {
                let rest = self.received.split_off(header.packet_length());
                return Some(std::mem::replace(&mut self.received, rest));
            }
            match self.stream.read_buf(&mut self.received).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }
}

/// A session that outlives its connections; its end is noted when it is dropped.
pub(crate) struct MqttSession {
    /// The session existed before.
    pub(crate) is_resumed: bool,
    link: Link,
    shared: Arc<Shared>,
    name: String,
    number: usize,
}

impl Drop for MqttSession {
    fn drop(&mut self) {
        self.shared.journal.session_ended(self.number);
    }
}

impl MqttSession {
    pub(crate) async fn send(&mut self, packet: &Packet<'_>) -> Option<()> {
        self.link.send(packet).await.ok()
    }

    /// The next packet, until the end of the connection.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn next<T>(&mut self, look: impl FnOnce(Packet<'_>) -> T) -> Option<T> {
        loop {
            let bytes = self.link.next().await?;
            let decoded =
                Frame::of(&bytes).map(|frame| Packet::decode(&frame, self.link.version, Sender::Server));
            match decoded {
                // Nothing but the end follows.
                Some(Ok(Packet::Disconnect(disconnect))) if !is_an_error_of_the_client(disconnect.reason) => {
                }
                Some(Ok(packet)) => return Some(look(packet)),
                other => {
                    let problem = format!("{} received {other:?}: {bytes:02x?}", self.name);
                    self.shared.journal.problem(problem);
                    return None;
                }
            }
        }
    }

    /// The client's end of the connection.
    pub(crate) const fn local(&self) -> SocketAddr {
        self.link.local
    }

    /// Ends the connection without DISCONNECT. Returns `true` if the server has ended it because of that, as far as the client can
    /// see.
    pub(crate) async fn abandon(mut self) -> bool {
        if self.link.stream.shutdown().await.is_err() {
            return false;
        }
        let ended = timeout(LEAVE_TIMEOUT, async {
            let mut bytes = [0; 64];
            // What it sends is the reason why it ends the connection by itself.
            matches!(self.link.stream.read(&mut bytes).await, Ok(0))
        });
        ended.await.unwrap_or(false)
    }

    /// Says that the client leaves, and waits for the end; `false` if that does not come.
    pub(crate) async fn leave(mut self) -> bool {
        let packet = Disconnect { reason: ReasonCode::SUCCESS, properties: Properties::EMPTY };
        let _ = self.send(&Packet::Disconnect(packet)).await;
        timeout(LEAVE_TIMEOUT, async { while self.link.next().await.is_some() {} }).await.is_ok()
    }
}

/// Whether the server ends the connection because of what this client does: none of them does anything wrong.
fn is_an_error_of_the_client(reason: ReasonCode) -> bool {
    [ReasonCode::MALFORMED_PACKET, ReasonCode::PROTOCOL_ERROR, ReasonCode::RECEIVE_MAXIMUM_EXCEEDED]
        .contains(&reason)
}

/// What a client connects with.
#[derive(Clone, Copy)]
pub(crate) struct Connecting<'a> {
    pub(crate) client: &'a str,
    pub(crate) version: Version,
    pub(crate) has_session: bool,
    /// In seconds.
    pub(crate) expiry: u32,
    /// Topic and payload.
    pub(crate) will: Option<(&'a str, &'a [u8])>,
}

impl Shared {
    /// A session at any target that accepts the client; tries until there is one. A client that has no session yet begins
    /// with a clean one.
    pub(crate) async fn connect_mqtt(
        self: &Arc<Self>,
        client: &str,
        version: Version,
        has_session: bool,
        random: &mut Random,
    ) -> MqttSession {
        let connect = Connecting { client, version, has_session, expiry: EXPIRY, will: None };
        loop {
            let target = *random.choose(&self.targets);
            match self.try_connect_mqtt(connect, target).await {
                Ok(session) => {
                    // Before MQTT 5 there may be one whose CONNACK was lost.
                    let may_be_resumed = has_session || version != Version::V5;
                    let present = session.is_resumed;
                    if has_session && !present || !may_be_resumed && present {
                        self.journal.problem(format!("{client} was answered session present {present}"));
                    }
                    return session;
                }
                Err(_) => tokio::time::sleep(RETRY_EVERY).await,
            }
        }
    }

    pub(crate) async fn try_connect_mqtt(
        self: &Arc<Self>,
        connecting: Connecting<'_>,
        target: Target,
    ) -> io::Result<MqttSession> {
        let Connecting { client, version, has_session, expiry, will } = connecting;
        let late = |_| io::Error::from(io::ErrorKind::TimedOut);
        let (stream, local) = timeout(ANSWER_TIMEOUT, open(target)).await.map_err(late)??;
        let link = Link { local, stream, version, received: Vec::new() };
        let number = self.journal.conn_sent(client, link.local);
        let shared = Arc::clone(self);
        let mut session = MqttSession { is_resumed: false, link, shared, name: client.to_owned(), number };
        let mut properties = PropertyBuf::new();
        if version == Version::V5 {
            properties.push(Property::SessionExpiryInterval(expiry)).unwrap();
            properties.push(Property::ReceiveMaximum(RECEIVE_MAXIMUM)).unwrap();
        }
        let place = Place::Packet(PacketType::Connect);
        let packet = Packet::Connect(Connect {
            version,
            // Before MQTT 5 a clean session ends with its connection.
            clean_start: !has_session && version == Version::V5,
            keep_alive: KEEP_ALIVE,
            client_id: client,
            will: will.map(|(topic, payload)| Will {
                qos: Qos::AtLeastOnce,
                retain: false,
                topic,
                payload,
                properties: Properties::EMPTY,
            }),
            user_name: None,
            password: None,
            properties: properties.for_place(place, Sender::Client).unwrap(),
        });
        session.link.send(&packet).await?;
        let answer = session.next(|packet| match packet {
            Packet::ConnAck(ack) => Ok((ack.reason, ack.session_present)),
            other => Err(format!("{other:?}")),
        });
        let answer = timeout(ANSWER_TIMEOUT, answer).await.map_err(late)?;
        match answer.ok_or(io::ErrorKind::UnexpectedEof)? {
            Ok((reason, is_resumed)) if !reason.is_error() => {
                self.journal.session_opened(number);
                session.is_resumed = is_resumed;
                Ok(session)
            }
            Ok(_) => Err(io::ErrorKind::ConnectionRefused.into()),
            Err(other) => {
                self.journal.problem(format!("{client} was answered {other} to its CONNECT"));
                Err(io::ErrorKind::InvalidData.into())
            }
        }
    }
}

/// How often an MQTT client sends PINGREQ.
pub(crate) const PING_EVERY: Duration = Duration::from_secs(8);
