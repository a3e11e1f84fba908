//! MQTT 3.1, 3.1.1 and 5.0: from packet to the handler of its type (numbers in comments are sections of MQTT 5.0).
//!
//! A malformed packet ends the connection at once (4.13). This room does not depend on sockets, databases or validators.

mod accept;
mod ack;
mod auth;
mod connect;
mod control;
mod disconnect;
mod exchange;
mod farewell;
mod login;
mod publish;
mod replies;
mod subscribe;

use std::ops::ControlFlow;

use jmqt_core::ClientId;
use jmqt_mqtt::{
    Ack, Answer, Connect, DecodeError, Disconnect, Frame, Packet, PacketType, Properties, Property,
    PropertyBuf, ReasonCode, Sender, Version,
};

use crate::connection::{CONTINUE, CloseReason, Flow};
use crate::context::Shared;
use crate::counters::Kind;
use crate::session::Session;
use crate::wire::{Form, mqtt_framed};

use exchange::Authentication;
use farewell::Farewell;
pub(super) use farewell::{close_code, goodbye};
use login::Login;
use replies::Replies;

/// The state of an MQTT connection.
#[derive(Default)]
pub(super) enum State {
    #[default]
    New,
    /// CONNECT began an authentication exchange.
    Authenticating(Box<Login>),
    Connected(Box<Client>),
}

impl State {
    pub(super) const fn client(&self) -> Option<&Client> {
        match self {
            Self::Connected(client) => Some(client),
            _ => None,
        }
    }

    /// The bytes that are held for a client without a session.
    pub(super) fn held(&self) -> usize {
        match self {
            Self::Authenticating(login) => login.held(),
            _ => 0,
        }
    }
}

/// The state of an MQTT connection that other tasks do not see, from the CONNACK on.
pub(crate) struct Client {
    version: Version,
    /// The seconds for which the session outlives the connection.
    expiry: u32,
    /// The store knows the session.
    is_stored: bool,
    /// The client wants reason strings and user properties in answers (3.1.2.11.7).
    wants_reasons: bool,
    /// The topics of the client's aliases, from alias 1 on (3.3.2.3.4).
    aliases: Vec<Option<Box<str>>>,
    /// The store has a will of the client.
    has_will: bool,
    /// Created on first use.
    replies: Option<Box<Replies>>,
    /// If CONNECT had an authentication method.
    authentication: Option<Box<Authentication>>,
    farewell: Farewell,
}

impl Client {
    /// Returns `true` if the session outlives the connection.
    const fn is_persistent(&self) -> bool {
        self.expiry > 0
    }

    pub(super) const fn leaves_will(&self) -> bool {
        self.has_will
    }

    pub(super) const fn is_stored(&self) -> bool {
        self.is_stored
    }
}

/// Handles one packet.
pub(super) async fn handle(shared: &Shared, session: &mut Session, state: &mut State, packet: &[u8]) -> Flow {
    let Some(frame) = Frame::of(packet) else {
        // The transport has cut it.
        return ControlFlow::Break(CloseReason::ServerError);
    };
    let client = match state {
        State::Connected(client) => client,
        State::New => {
            session.count_packet(Kind::Connect);
            return match Connect::decode(&frame) {
                Ok(connect) => {
                    Box::pin(connect::handle_connect(shared, session, state, packet, connect)).await
                }
                Err(error) => refuse_before_connect(shared, session, &error),
            };
        }
        State::Authenticating(_) => {
            session.count_packet(Kind::Auth);
            return Box::pin(login::handle_login(shared, session, state, &frame)).await;
        }
    };
    let Some(member) = &session.member else {
        return ControlFlow::Break(CloseReason::ServerError); // no packet follows a refused CONNECT
    };
    let id = member.client.clone();
    match Packet::decode(&frame, client.version, Sender::Client) {
        Ok(Packet::Publish(publish)) => publish::handle_publish(shared, session, client, &id, &publish).await,
        Ok(Packet::PubAck(ack)) => ack::handle_puback(shared, session, &ack),
        Ok(packet) => Box::pin(handle_packet(shared, session, client, &id, packet)).await,
        Err(error) => refuse_packet(shared, session, client, &error),
    }
}

/// Counts one of the less frequent packets.
fn count(session: &Session, packet: &Packet<'_>) {
    session.count_packet(match packet {
        Packet::PubRec(_) | Packet::PubRel(_) | Packet::PubComp(_) => Kind::Acknowledge,
        Packet::PingReq => Kind::Ping,
        Packet::Subscribe(_) => Kind::Subscribe,
        Packet::Unsubscribe(_) => Kind::Unsubscribe,
        Packet::Disconnect(_) => Kind::Disconnect,
        Packet::Auth(_) => Kind::Auth,
        _ => return,
    });
}

/// Handles the less frequent packets of a session.
async fn handle_packet(
    shared: &Shared,
    session: &mut Session,
    client: &mut Client,
    id: &ClientId,
    packet: Packet<'_>,
) -> Flow {
    count(session, &packet);
    match packet {
        Packet::PubRec(ack) => ack::handle_pubrec(shared, session, client, &ack),
        Packet::PubRel(ack) => ack::handle_pubrel(shared, session, client, id, &ack).await,
        Packet::PubComp(ack) => ack::handle_pubcomp(shared, session, &ack),
        Packet::PingReq => answer(session, &Packet::PingResp),
        Packet::Subscribe(subscribe) => {
            session.begin_request().await;
            subscribe::handle_subscribe(shared, session, client, id, subscribe).await
        }
        Packet::Unsubscribe(unsubscribe) => {
            session.begin_request().await;
            subscribe::handle_unsubscribe(shared, session, client, id, unsubscribe).await
        }
        Packet::Disconnect(disconnect) => {
            session.begin_request().await;
            disconnect::handle_disconnect(shared, session, client, id, &disconnect).await
        }
        Packet::Auth(auth) => {
            session.begin_request().await;
            auth::handle_auth(shared, session, client, id, &auth).await
        }
        // A second CONNECT (3.1.0-2), and packets that only a server sends.
        packet => {
            let kind = packet.packet_type().name();
            fail(
                shared,
                session,
                client,
                ReasonCode::PROTOCOL_ERROR,
                &format!("a client must not send {kind} here"),
            )
        }
    }
}

/// Queues a packet. One that is larger than the client accepts is not sent (3.1.2.11.4).
fn answer(session: &mut Session, packet: &Packet<'_>) -> Flow {
    if let Some(bytes) = fitting(session, packet) {
        let is_full = session.outbox.answer(bytes);
        session.answered(is_full);
    }
    CONTINUE
}

/// Encodes a packet within the size that the client accepts, if need be without the reason string (3.4.2.2.2).
fn fitting(session: &Session, packet: &Packet<'_>) -> Option<Vec<u8>> {
    let fits = |bytes: &Vec<u8>| bytes.len() <= session.outbox.packet_limit();
    let encode = |packet: &Packet<'_>| Some(mqtt_framed(session.outbox.form(), packet)).filter(fits);
    encode(packet).or_else(|| match *packet {
        Packet::PubAck(ack) => encode(&Packet::PubAck(Ack { properties: Properties::EMPTY, ..ack })),
        Packet::PubRec(ack) => encode(&Packet::PubRec(Ack { properties: Properties::EMPTY, ..ack })),
        Packet::Disconnect(disconnect) => {
            encode(&Packet::Disconnect(Disconnect { properties: Properties::EMPTY, ..disconnect }))
        }
        _ => None,
    })
}

/// Ends the connection because of an error of the client.
fn fail(shared: &Shared, session: &Session, client: &mut Client, reason: ReasonCode, problem: &str) -> Flow {
    shared.hub.counters.bad_packets.increment();
    tracing::debug!(target: "jmqt::session", client = session.name(), remote = %session.info.remote, %reason, problem, "bad packet");
    client.farewell = Farewell::Because(reason);
    ControlFlow::Break(CloseReason::ProtocolViolation)
}

fn refuse_packet(shared: &Shared, session: &Session, client: &mut Client, error: &DecodeError) -> Flow {
    let reason = match error.packet {
        // A second one (3.1.0-2), with a fault of its own for which DISCONNECT has no code.
        Some(PacketType::Connect) => ReasonCode::PROTOCOL_ERROR,
        _ => error.violation.reason(),
    };
    fail(shared, session, client, reason, &error.to_string())
}

/// Answers a packet before a valid CONNECT, and ends the connection.
fn refuse_before_connect(shared: &Shared, session: &mut Session, error: &DecodeError) -> Flow {
    shared.hub.counters.bad_packets.increment();
    tracing::debug!(target: "jmqt::session", remote = %session.info.remote, %error, "bad packet");
    if let Answer::ConnAck(version, reason) = error.answer() {
        session.outbox.set_form(Form::of_mqtt(version, session.info.protocol.is_websocket()), u32::MAX);
        accept::refuse(session, reason);
    }
    ControlFlow::Break(CloseReason::ProtocolViolation)
}

/// Properties with a reason for people, if the client wants it.
fn reason_string(client: &Client, text: &str) -> PropertyBuf {
    let mut properties = PropertyBuf::new();
    if client.version == Version::V5 && client.wants_reasons {
        // A text that is too long is left out.
        let _ = properties.push(Property::ReasonString(text));
    }
    properties
}

/// The properties as they belong into a packet of the server.
fn of_packet(properties: &PropertyBuf, kind: PacketType) -> Properties<'_> {
    let place = jmqt_mqtt::Place::Packet(kind);
    properties.for_place(place, Sender::Server).unwrap_or(Properties::EMPTY)
}
