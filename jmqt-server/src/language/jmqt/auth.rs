//! `auth` (§7.a, §10).

use jmqt_protocol::{Auth, AuthAck, AuthOutcome, Packet};

use super::answer::answer;
use crate::connection::{CONTINUE, Flow};
use crate::context::Shared;
use crate::session::{Session, verbs};

pub(super) async fn handle_auth(shared: &Shared, session: &mut Session, auth: Auth<'_>) -> Flow {
    session.count_auth()?;
    let authenticated = verbs::authenticate(shared, session, auth.data, None).await?;
    let outcome = match &authenticated {
        Ok(grant) => {
            AuthOutcome::Granted { token: grant.token.reveal().into(), client: grant.client.as_str().into() }
        }
        Err(refused) => AuthOutcome::Refused { status: refused.status, message: (&refused.message).into() },
    };
    answer(session, &Packet::AuthAck(AuthAck { outcome }));
    session.auth_answered();
    match authenticated {
        Ok(_) => CONTINUE,
        Err(refused) => session.count_refusal(refused.status),
    }
}
