//! AUTH within a session: the client authenticates again (4.12.1).

use std::ops::ControlFlow;

use jmqt_core::{ClientId, StatusCode};
use jmqt_mqtt::{Auth, ReasonCode};

use super::exchange::{Answer, Exchange, TooLarge, send};
use super::farewell::Farewell;
use super::{Client, fail};
use crate::connection::{CONTINUE, CloseReason, Flow};
use crate::context::Shared;
use crate::session::verbs::ExchangePacket;
use crate::session::{Session, verbs};

/// Handles AUTH.
pub(super) async fn handle_auth(
    shared: &Shared,
    session: &mut Session,
    client: &mut Client,
    id: &ClientId,
    auth: &Auth<'_>,
) -> Flow {
    let method = auth.properties.authentication_method().unwrap_or_default();
    let begun = client.authentication.as_mut().filter(|of| *of.method == *method);
    let Some(authentication) = begun else {
        let problem = "AUTH without a method in CONNECT, or with another one";
        return fail(shared, session, client, ReasonCode::PROTOCOL_ERROR, problem);
    };
    let data = auth.properties.authentication_data();
    let packet = ExchangePacket { method, data, client_id: id.as_str(), mqtt: None };
    let exchange = match (auth.reason, authentication.exchange.take()) {
        (ReasonCode::RE_AUTHENTICATE, None) => match verbs::begin_exchange(shared, session, packet).await? {
            Ok(Some(with)) => Some(Exchange::new(with)),
            Ok(None) => return end(shared, session, client, StatusCode::NOT_ALLOWED),
            Err(status) => return end(shared, session, client, status),
        },
        (ReasonCode::CONTINUE_AUTHENTICATION, exchange) => exchange,
        _ => None,
    };
    let Some(mut exchange) = exchange else {
        let problem = "this AUTH is not the next step of an exchange";
        return fail(shared, session, client, ReasonCode::PROTOCOL_ERROR, problem);
    };
    session.answer_came();
    let (reason, data) = match exchange.answer(shared, session, packet).await? {
        Answer::Challenge(data) => {
            if let Some(authentication) = &mut client.authentication {
                authentication.exchange = Some(exchange);
            }
            session.expect_answer();
            (ReasonCode::CONTINUE_AUTHENTICATION, Some(data))
        }
        Answer::Granted(grant, _) if grant.client != *id => {
            return end(shared, session, client, StatusCode::NOT_ALLOWED);
        }
        Answer::Granted(grant, data) => {
            if let Err(status) = verbs::renew(shared, session, id, grant.token.reveal()).await? {
                return end(shared, session, client, status);
            }
            (ReasonCode::SUCCESS, data)
        }
        Answer::Refused(status) => return end(shared, session, client, status),
        Answer::TooLong => return fail_with(client, ReasonCode::QUOTA_EXCEEDED),
    };
    match send(session, reason, method, data.as_deref()) {
        Ok(()) => CONTINUE,
        Err(TooLarge) => fail_with(client, ReasonCode::PACKET_TOO_LARGE),
    }
}

/// Ends the session of a client that could not authenticate again [MQTT-4.12.1-2].
fn end(shared: &Shared, session: &Session, client: &mut Client, status: StatusCode) -> Flow {
    session.note_refusal("AUTH", None, status);
    shared.hub.counters.refusals_closed.increment();
    fail_with(
        client,
        match status {
            StatusCode::SERVER_ERROR => ReasonCode::UNSPECIFIED_ERROR,
            _ => ReasonCode::NOT_AUTHORIZED,
        },
    )
}

fn fail_with(client: &mut Client, reason: ReasonCode) -> Flow {
    client.farewell = Farewell::Because(reason);
    ControlFlow::Break(CloseReason::LoginRefused)
}
