//! The verb `control`: a request to the application on a control channel (§9.d, protocol.md 2.19).

use std::ops::ControlFlow;

use jmqt_core::{ChannelName, ClientId, Payload, StatusCode};

use crate::connection::Flow;
use crate::context::Shared;
use crate::session::Session;
use crate::validators::{ControlReply, ControlRequest, asking};

/// Asks the control handler.
pub(crate) async fn control(
    shared: &Shared,
    session: &mut Session,
    client: &ClientId,
    channel: &ChannelName,
    data: Option<Payload<'_>>,
) -> Flow<ControlReply> {
    let attached = session.attached.clone();
    let of_session = attached.as_ref().and_then(|attached| attached.data()).into();
    let request = ControlRequest::new(session.info, client, channel, data, &shared.handle, of_session);
    let question = asking(|| shared.validators.control.handle_control(&request));
    let reply = session.ask("control handler", question).await?;
    ControlFlow::Continue(reply.unwrap_or(ControlReply::status(StatusCode::SERVER_ERROR)))
}
