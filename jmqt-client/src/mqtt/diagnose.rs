//! The steps to a session, one by one, with their times.

use std::time::Duration;

use jmqt_mqtt::{Disconnect, Packet, Properties, ReasonCode};

use super::connect::{self, Session};
use super::{ConnectError, Information, Options};
use crate::Finding;
use crate::diagnose::words;
use crate::way::Found;

/// Goes every step to a session with the first of the servers, and ends the session. `report` hears of each step that is done.
///
/// # Errors
/// [`ConnectError`] says which step failed, and gives a hint.
///
/// # Cancel safety
/// Dropping the future closes the connection.
pub async fn diagnose(
    options: &Options,
    report: &mut (dyn FnMut(Finding) + Send),
) -> Result<Information, ConnectError> {
    options.check()?;
    let mut in_words = |step, took, found: Found| {
        let (found, warning) = words(&found);
        report(Finding { step, took, found, warning });
    };
    let client = (options.client_id.as_str(), options.clean_start);
    let mut session = connect::open(options, &options.servers[0], client, &mut in_words).await?;
    leave(&mut session, options).await;
    Ok(session.information)
}

/// Sends DISCONNECT. The session ends also if the server does not take it.
async fn leave(session: &mut Session, options: &Options) {
    const LAST_WORDS: Duration = Duration::from_secs(1);
    let goodbye = Disconnect { reason: ReasonCode::SUCCESS, properties: Properties::EMPTY };
    if Packet::Disconnect(goodbye).encode(options.version, session.link.portion()).is_err() {
        return;
    }
    session.link.send();
    let goodbye = session.link.close_frame();
    session.link.send_framed(&goodbye);
    let _ = tokio::time::timeout(LAST_WORDS, session.link.finish()).await;
}
