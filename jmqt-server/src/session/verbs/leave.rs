//! The verb `leave`: a client ends its session (§9.f, protocol.md 2.16).

use std::ops::ControlFlow;

use jmqt_core::ClientId;

use crate::connection::{CloseReason, Flow};
use crate::context::Shared;
use crate::session::Session;
use crate::validators::{DisconnectNotice, asking};

/// Calls the disconnect notifier, and ends the connection.
pub(crate) async fn leave(shared: &Shared, session: &mut Session, client: &ClientId) -> Flow {
    let attached = session.attached.clone();
    let of_session = attached.as_ref().and_then(|attached| attached.data()).into();
    let notice = DisconnectNotice::new(session.info, client, &shared.handle, of_session);
    let question = asking(|| shared.validators.disconnect.on_disconnect(&notice));
    // A failure of the notifier has been logged; the session still ends.
    session.ask("disconnect notifier", question).await?;
    ControlFlow::Break(CloseReason::Disconnected)
}
