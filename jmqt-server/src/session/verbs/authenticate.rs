//! The verb `authenticate`: a client proves its identity (§7.a, §10).

use std::ops::ControlFlow;

use jmqt_core::{Payload, StatusCode};

use crate::connection::Flow;
use crate::context::Shared;
use crate::session::Session;
use crate::validators::{AuthRequest, AuthVerdict, Grant, MqttConnect, asking};

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
