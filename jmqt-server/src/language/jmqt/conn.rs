//! `conn` (§7.c, protocol.md 2.2 to 2.4, 2.8, 2.9, 2.23).

use std::ops::ControlFlow;

use jmqt_core::{ClientId, StatusCode};
use jmqt_protocol::{Conn, ConnAck, Packet};

use super::answer::answer;
use crate::connection::{CONTINUE, CloseReason, Flow};
use crate::context::Shared;
use crate::disconnect::Disconnect;
use crate::session::verbs::{Language, NotOpened, Opening, PublisherId, Redelivery};
use crate::session::{Session, verbs};

pub(super) async fn handle_conn(shared: &Shared, session: &mut Session, conn: Conn<'_>) -> Flow {
    let Ok(client) = ClientId::parse(&conn.client) else {
        return refuse(session, StatusCode::INVALID_PACKET);
    };
    let Ok(publisher) = publisher(&conn) else {
        return refuse(session, StatusCode::INVALID_PACKET);
    };
    let loses_bursts = conn.window.is_none() && !session.info.protocol.is_websocket();
    let opening = Opening {
        client,
        token: &conn.token,
        window: conn.window,
        redelivery: if loses_bursts { Redelivery::Careful } else { Redelivery::AtOnce },
        publisher,
        language: Language::Jmqt,
    };
    match verbs::open(shared, session, opening).await? {
        Ok(opened) => {
            accept(shared, session);
            verbs::start(shared, session, opened).await
        }
        Err(NotOpened::Refused(status)) => refuse(session, status),
        Err(NotOpened::TooManyTakeovers(wait)) => {
            // This connection ends with any result.
            let _ = refuse(session, StatusCode::SERVER_ERROR);
            session.outbox.close_saying(CloseReason::TryLater, Disconnect::too_many_takeovers(wait));
            ControlFlow::Break(CloseReason::TryLater)
        }
    }
}

/// Handles a `conn` within a session. It succeeds if it names the same client (2.4).
pub(super) fn handle_conn_again(
    shared: &Shared,
    session: &mut Session,
    client: &ClientId,
    conn: &Conn<'_>,
) -> Flow {
    match publisher(conn) {
        _ if conn.client != client.as_str() => refuse(session, StatusCode::NOT_ALLOWED),
        Ok(publisher) => {
            session.publisher = publisher;
            accept(shared, session);
            CONTINUE
        }
        Err(InvalidPublisher) => refuse(session, StatusCode::INVALID_PACKET),
    }
}

fn accept(shared: &Shared, session: &mut Session) {
    let ack = ConnAck {
        status: StatusCode::OK,
        timeout_seconds: Some(shared.limits.timeout_seconds),
        remembers_publishes: session.publisher.is_some(),
    };
    answer(session, &Packet::ConnAck(ack));
}

fn refuse(session: &mut Session, status: StatusCode) -> Flow {
    let ack = ConnAck { status, timeout_seconds: None, remembers_publishes: false };
    answer(session, &Packet::ConnAck(ack));
    session.count_refusal(status)
}

/// The `pi` of a `conn` is empty or too long.
struct InvalidPublisher;

fn publisher(conn: &Conn<'_>) -> Result<Option<PublisherId>, InvalidPublisher> {
    let Some(publisher) = &conn.publisher else { return Ok(None) };
    PublisherId::parse(publisher).map(Some).ok_or(InvalidPublisher)
}
