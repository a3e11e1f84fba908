//! The verbs `authenticate` and `exchange`: a client proves its identity (§7.a, §10; MQTT 5.0, 4.12).

use std::ops::ControlFlow;

use jmqt_core::{Payload, StatusCode};

use crate::connection::Flow;
use crate::context::Shared;
use crate::session::Session;
use crate::tls::ClientCertificate;
use crate::validators::{
    Attached, AuthExchange, AuthRequest, AuthStep, AuthVerdict, ExchangeRequest, Grant, MqttConnect, asking,
};

/// The reason why a client received no token.
pub(crate) struct RefusedAuth {
    pub(crate) status: StatusCode,
    /// A message for users.
    pub(crate) message: String,
}

/// Asks the auth validator.
pub(crate) async fn authenticate(
    shared: &Shared,
    session: &mut Session,
    data: Payload<'_>,
    mqtt: Option<&MqttConnect<'_>>,
) -> Flow<Result<Grant, RefusedAuth>> {
    let attached = session.attached.clone();
    let has_session = session.member.is_some();
    let of_session = attached.as_ref().and_then(|attached| attached.data()).filter(|_| has_session).into();
    let upgrade = attached.as_ref().and_then(|attached| attached.upgrade());
    let certificate = session.client_certificate();
    let request = AuthRequest::new(session.info, data, &shared.handle, of_session, upgrade, mqtt)
        .with_certificate(certificate.as_ref());
    let question = asking(|| shared.validators.auth.validate_auth(&request));
    ControlFlow::Continue(match session.ask("auth validator", question).await? {
        Some(AuthVerdict::Grant(grant)) => {
            if let Some(data) = &grant.session {
                session.attach(&grant.client, data);
            }
            Ok(grant)
        }
        Some(AuthVerdict::Refuse { status, message }) if !status.is_ok() => {
            Err(RefusedAuth { status, message })
        }
        verdict => {
            if verdict.is_some() {
                session.validator_mistake("auth validator", &"it refused with status OK");
            }
            let message = "the server cannot answer this request".to_owned();
            Err(RefusedAuth { status: StatusCode::SERVER_ERROR, message })
        }
    })
}

/// A packet of an authentication exchange of MQTT 5.
#[derive(Clone, Copy)]
pub(crate) struct ExchangePacket<'a> {
    pub(crate) method: &'a str,
    pub(crate) data: Option<&'a [u8]>,
    pub(crate) client_id: &'a str,
    pub(crate) mqtt: Option<&'a MqttConnect<'a>>,
}

/// Which packet of an exchange it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExchangeTurn {
    First,
    Next,
}

/// The next step of an exchange.
pub(crate) enum ExchangeStep {
    Challenge(Vec<u8>),
    Granted(Grant, Option<Vec<u8>>),
    Refused(StatusCode),
}

/// Asks the auth validator for an exchange. `Ok(None)`: it does not know the method.
pub(crate) async fn begin_exchange(
    shared: &Shared,
    session: &mut Session,
    packet: ExchangePacket<'_>,
) -> Flow<Result<Option<Box<dyn AuthExchange>>, StatusCode>> {
    let (attached, certificate) = (session.attached.clone(), session.client_certificate());
    let request = exchange_request(shared, session, attached.as_deref(), certificate.as_ref(), packet);
    let question = asking(|| shared.validators.auth.begin_exchange(&request));
    let begun = session.ask("auth validator", question).await?;
    ControlFlow::Continue(begun.ok_or(StatusCode::SERVER_ERROR))
}

/// Passes a packet to the exchange.
pub(crate) async fn exchange(
    shared: &Shared,
    session: &mut Session,
    exchange: &mut dyn AuthExchange,
    packet: ExchangePacket<'_>,
    turn: ExchangeTurn,
) -> Flow<ExchangeStep> {
    let (attached, certificate) = (session.attached.clone(), session.client_certificate());
    let request = exchange_request(shared, session, attached.as_deref(), certificate.as_ref(), packet);
    let question = asking(|| match turn {
        ExchangeTurn::First => exchange.start(&request),
        ExchangeTurn::Next => exchange.next(&request),
    });
    let failed = ExchangeStep::Refused(StatusCode::SERVER_ERROR);
    let Some(step) = session.ask("auth exchange", question).await? else {
        return ControlFlow::Continue(failed);
    };
    let data = match &step {
        AuthStep::Challenge(data) => Some(data),
        AuthStep::Done { data, .. } => data.as_ref(),
    };
    if data.is_some_and(|data| data.len() > usize::from(u16::MAX)) {
        session.validator_mistake("auth exchange", &"its data is longer than 65,535 bytes");
        return ControlFlow::Continue(failed);
    }
    ControlFlow::Continue(match step {
        AuthStep::Challenge(data) => ExchangeStep::Challenge(data),
        AuthStep::Done { verdict: AuthVerdict::Grant(grant), data } => {
            if let Some(data) = &grant.session {
                session.attach(&grant.client, data);
            }
            ExchangeStep::Granted(grant, data)
        }
        AuthStep::Done { verdict: AuthVerdict::Refuse { status, .. }, .. } if !status.is_ok() => {
            ExchangeStep::Refused(status)
        }
        AuthStep::Done { .. } => {
            session.validator_mistake("auth exchange", &"it refused with status OK");
            failed
        }
    })
}

fn exchange_request<'a>(
    shared: &'a Shared,
    session: &Session,
    attached: Option<&'a Attached>,
    certificate: Option<&'a ClientCertificate>,
    packet: ExchangePacket<'a>,
) -> ExchangeRequest<'a> {
    let ExchangePacket { method, data, client_id, mqtt } = packet;
    let of_session = attached.and_then(Attached::data).filter(|_| session.member.is_some()).into();
    let upgrade = attached.and_then(Attached::upgrade);
    ExchangeRequest::new(session.info, method, data, client_id, &shared.handle, of_session).with(
        upgrade,
        certificate,
        mqtt,
    )
}
