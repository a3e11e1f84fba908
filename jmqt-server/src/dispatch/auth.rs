//! `auth` (§7.a, §10).

use std::sync::Arc;

use jmqt_protocol::{Auth, AuthAck, AuthOutcome, Packet, StatusCode};

use super::CONTINUE;
use crate::session::{Core, Flow};
use crate::validators::{AuthRequest, AuthVerdict, asking};

impl Core {
    pub(super) async fn handle_auth(&mut self, auth: Auth<'_>) -> Flow {
        if let flow @ Flow::Break(_) = self.count_auth() {
            return flow;
        }
        let shared = Arc::clone(&self.shared);
        let attached = self.attached.clone();
        let has_session = self.member.is_some();
        let session = attached.as_ref().and_then(|attached| attached.data()).filter(|_| has_session).into();
        let upgrade = attached.as_ref().and_then(|attached| attached.upgrade());
        let request = AuthRequest::new(self.info, auth.data, &shared.handle, session, upgrade);
        let question = asking(|| shared.validators.auth.validate_auth(&request));
        let verdict = match self.ask("auth validator", question).await {
            Ok(verdict) => verdict,
            Err(reason) => return Flow::Break(reason),
        };
        let outcome = match &verdict {
            Some(AuthVerdict::Grant(grant)) => {
                if let Some(data) = &grant.session {
                    self.attach(&grant.client, data);
                }
                AuthOutcome::Granted {
                    token: grant.token.reveal().into(),
                    client: grant.client.as_str().into(),
                }
            }
            Some(AuthVerdict::Refuse { status, message }) if !status.is_ok() => {
                AuthOutcome::Refused { status: *status, message: message.into() }
            }
            verdict => {
                if verdict.is_some() {
                    self.validator_mistake("auth validator", &"it refused with status OK");
                }
                AuthOutcome::Refused {
                    status: StatusCode::SERVER_ERROR,
                    message: "the server could not answer this request".into(),
                }
            }
        };
        let refused = match &outcome {
            AuthOutcome::Granted { .. } => None,
            AuthOutcome::Refused { status, .. } => Some(*status),
        };
        self.answer(&Packet::AuthAck(AuthAck { outcome }));
        self.auth_answered();
        refused.map_or(CONTINUE, |status| self.count_refusal(status))
    }
}
