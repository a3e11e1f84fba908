//! From packet text to the handler of its type.
//!
//! Handlers ask the validators, call the hub, and answer through the session they were given. Nothing
//! here knows sockets or databases.

mod auth;
mod conn;
mod control;
mod disconn;
mod publish;
mod push_ack;
mod sub;
mod unsub;

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::sync::Arc;

use jmqt_protocol::{
    AuthAck, AuthOutcome, ConnAck, DecodeError, Echo, Packet, PacketType, PubAck, Qos, StatusCode, SubAck,
    UnsubAck, decode,
};

use crate::connection::CloseReason;
use crate::outbox::Flush;
use crate::packet_trace;
use crate::session::{Core, Flow, Member, cost};

/// A packet of more bytes than this can take a thread for a while: up to 10 ns a byte, if it is made of tiny members.
const LONG_PACKET: usize = 64 * 1024;

const CONTINUE: Flow = ControlFlow::Continue(());

impl Core {
    /// Handles one packet text.
    pub(crate) async fn handle_text(&mut self, text: &[u8]) -> Flow {
        let Ok(text) = std::str::from_utf8(text) else {
            return self.bad_packet(&"it is not UTF-8");
        };
        let decoded = match text.len() > LONG_PACKET {
            false => decode(text),
            true => match Box::pin(self.decode_long(text)).await {
                Ok(decoded) => decoded,
                Err(reason) => return ControlFlow::Break(reason),
            },
        };
        if packet_trace::is_on()
            && let Ok(packet) = &decoded
        {
            packet_trace::received(self.name(), self.info.remote, packet, text.len());
        }
        match decoded {
            // By far the most, and as few moves as possible for them.
            Ok(Packet::Pub(publish)) if let Some(member) = &self.member => {
                let client = member.client.clone();
                self.good_packet();
                self.handle_pub(&client, &publish).await
            }
            Ok(Packet::PushAck(ack)) if self.member.is_some() => {
                self.good_packet();
                self.handle_push_ack(&ack)
            }
            Ok(packet) => Box::pin(self.handle_packet(packet)).await,
            Err(error) => {
                if let DecodeError::BadField { kind, problem, echo } = &error {
                    self.answer_bad_field(*kind, problem, echo);
                }
                self.bad_packet(&error)
            }
        }
    }

    /// Long packets take turns, and not all threads are at them: many clients that send them hold up each other and
    /// nobody else.
    async fn decode_long<'t>(
        &mut self,
        text: &'t str,
    ) -> Result<Result<Packet<'t>, DecodeError>, CloseReason> {
        let turn = Arc::clone(&self.shared.long_packets).acquire_owned();
        let _turn = self.wait(turn).await?;
        self.spend(cost::LOOK);
        Ok(decode(text))
    }

    async fn handle_packet(&mut self, packet: Packet<'_>) -> Flow {
        // What was published before is delivered before.
        self.deliver_run(Flush::Later).await;
        self.spend(cost::REQUEST);
        match self.member.clone() {
            Some(member) => self.handle_in_session(member, packet).await,
            None => self.handle_before_conn(packet).await,
        }
    }

    /// The packets of a session that are not its daily bread.
    async fn handle_in_session(&mut self, member: Member, packet: Packet<'_>) -> Flow {
        let kind = packet.packet_type();
        let flow = match packet {
            Packet::Hb => {
                self.answer(&Packet::HbAck);
                CONTINUE
            }
            Packet::Sub(sub) => self.handle_sub(&member.client, sub).await,
            Packet::Unsub(unsub) => self.handle_unsub(&member.client, unsub).await,
            Packet::Auth(auth) => self.handle_auth(auth).await,
            Packet::Conn(conn) => self.handle_conn_again(&member.client, &conn),
            Packet::Disconn(_) => self.handle_disconn(&member.client).await,
            _ => return self.bad_packet(&format_args!("a client does not send {kind}")),
        };
        self.good_packet();
        flow
    }

    /// Before `conn` has succeeded only `auth` and `conn` are answered (2.1).
    async fn handle_before_conn(&mut self, packet: Packet<'_>) -> Flow {
        let flow = match packet {
            Packet::Auth(auth) => self.handle_auth(auth).await,
            Packet::Conn(conn) => self.handle_conn(conn).await,
            other => {
                let kind = other.packet_type();
                return self.bad_packet(&format_args!("{kind} before conn"));
            }
        };
        self.good_packet();
        flow
    }

    /// A known type with an unusable field is told so, with whatever could be read (2.5). Before
    /// `conn` nothing but `auth` and `conn` is answered (2.1).
    fn answer_bad_field(&mut self, kind: PacketType, problem: &str, echo: &Echo) {
        if self.member.is_none() && !matches!(kind, PacketType::Auth | PacketType::Conn) {
            return;
        }
        let status = StatusCode::INVALID_PACKET;
        let channel = echo.channel.as_deref().map(Cow::Borrowed);
        let packet = match kind {
            PacketType::Auth => {
                let outcome = AuthOutcome::Refused { status, message: problem.into() };
                Packet::AuthAck(AuthAck { outcome })
            }
            PacketType::Conn => {
                Packet::ConnAck(ConnAck { status, timeout_seconds: None, remembers_publishes: false })
            }
            PacketType::Sub => Packet::SubAck(SubAck { status, channel }),
            PacketType::Unsub => Packet::UnsubAck(UnsubAck { status, channel }),
            // A QoS 0 publish is answered only if it has an id.
            PacketType::Pub if echo.id.is_none() && echo.qos == Qos::AtMostOnce => return,
            PacketType::Pub => {
                let id = echo.id.as_deref().map(Cow::Borrowed);
                Packet::PubAck(PubAck { status, id, data: None })
            }
            _ => return,
        };
        self.answer(&packet);
    }
}
