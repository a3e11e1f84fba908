//! CONNECT with an authentication method (4.12): the exchange before the session.

use std::ops::ControlFlow;

use jmqt_mqtt::{Connect, Frame, Packet, ReasonCode, Sender};

use super::State;
use super::accept::{accept, asked_of, refuse, refused_login, reject};
use super::exchange::{Answer, Exchange, send};
use crate::connection::{CONTINUE, CloseReason, Flow};
use crate::context::Shared;
use crate::session::verbs::ExchangePacket;
use crate::session::{Session, verbs};

/// A client whose CONNECT has not been answered.
pub(in crate::language) struct Login {
    /// The CONNECT packet.
    connect: Box<[u8]>,
    exchange: Exchange,
}

impl Login {
    /// The bytes that are held for the client.
    pub(in crate::language) const fn held(&self) -> usize {
        self.connect.len()
    }
}

/// Answers a CONNECT with this authentication method.
pub(super) async fn begin(
    shared: &Shared,
    session: &mut Session,
    state: &mut State,
    bytes: &[u8],
    connect: &Connect<'_>,
    method: &str,
) -> Flow {
    let data = connect.properties.authentication_data();
    let mqtt = asked_of(connect);
    let packet = ExchangePacket { method, data, client_id: connect.client_id, mqtt: Some(&mqtt) };
    let with = match verbs::begin_exchange(shared, session, packet).await? {
        Ok(Some(with)) => with,
        Ok(None) => return reject(shared, session, connect, ReasonCode::BAD_AUTHENTICATION_METHOD, ""),
        Err(status) => return reject(shared, session, connect, refused_login(status), ""),
    };
    let exchange = Exchange::new(with);
    proceed(shared, session, state, Login { connect: bytes.into(), exchange }, data).await
}

/// Handles a packet of a client that has not finished its exchange: only AUTH and DISCONNECT are allowed.
pub(super) async fn handle_login(
    shared: &Shared,
    session: &mut Session,
    state: &mut State,
    frame: &Frame<'_>,
) -> Flow {
    let State::Authenticating(login) = std::mem::take(state) else {
        return ControlFlow::Break(CloseReason::ServerError);
    };
    let Some((connect, method)) = connect_of(&login.connect) else {
        return ControlFlow::Break(CloseReason::ServerError); // it was decoded before
    };
    let problem = match Packet::decode(frame, connect.version, Sender::Client) {
        Ok(Packet::Auth(auth)) if auth.reason == ReasonCode::CONTINUE_AUTHENTICATION => {
            if auth.properties.authentication_method() == Some(method) {
                let data = auth.properties.authentication_data();
                return proceed(shared, session, state, *login, data).await;
            }
            "AUTH with another authentication method than CONNECT".to_owned()
        }
        Ok(Packet::Disconnect(_)) => return ControlFlow::Break(CloseReason::ClosedByClient),
        Ok(packet) => format!("a client must not send {} here", packet.packet_type().name()),
        Err(error) => error.to_string(),
    };
    shared.hub.counters.bad_packets.increment();
    tracing::debug!(target: "jmqt::session", remote = %session.info.remote, problem, "bad packet in an authentication exchange");
    refuse(session, ReasonCode::PROTOCOL_ERROR);
    ControlFlow::Break(CloseReason::ProtocolViolation)
}

/// The CONNECT packet in these bytes, and its authentication method.
fn connect_of(bytes: &[u8]) -> Option<(Connect<'_>, &str)> {
    let connect = Connect::decode(&Frame::of(bytes)?).ok()?;
    Some((connect, connect.properties.authentication_method()?))
}

/// Passes the data of a packet to the exchange, and answers the client.
async fn proceed(
    shared: &Shared,
    session: &mut Session,
    state: &mut State,
    login: Login,
    data: Option<&[u8]>,
) -> Flow {
    let Login { connect: bytes, mut exchange } = login;
    let Some((connect, method)) = connect_of(&bytes) else {
        return ControlFlow::Break(CloseReason::ServerError);
    };
    let mqtt = asked_of(&connect);
    let packet = ExchangePacket { method, data, client_id: connect.client_id, mqtt: Some(&mqtt) };
    match exchange.answer(shared, session, packet).await? {
        Answer::Challenge(data) => {
            if send(session, ReasonCode::CONTINUE_AUTHENTICATION, method, Some(&data)).is_err() {
                return reject(shared, session, &connect, ReasonCode::PACKET_TOO_LARGE, "");
            }
            session.auth_answered();
            *state = State::Authenticating(Box::new(Login { connect: bytes, exchange }));
            CONTINUE
        }
        Answer::Granted(grant, data) => {
            accept(shared, session, state, &connect, *grant, Some((method, data.as_deref()))).await
        }
        Answer::Refused(status) => reject(shared, session, &connect, refused_login(status), ""),
        Answer::TooLong => reject(shared, session, &connect, ReasonCode::QUOTA_EXCEEDED, ""),
    }
}
