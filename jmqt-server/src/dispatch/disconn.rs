//! `disconn` (§9.f, protocol.md 2.16).

use std::sync::Arc;

use jmqt_protocol::ClientId;

use crate::connection::CloseReason;
use crate::session::{Core, Flow};
use crate::validators::{DisconnectNotice, asking};

impl Core {
    pub(super) async fn handle_disconn(&mut self, client: &ClientId) -> Flow {
        let shared = Arc::clone(&self.shared);
        let attached = self.attached.clone();
        let session = attached.as_ref().and_then(|attached| attached.data()).into();
        let notice = DisconnectNotice::new(self.info, client, &shared.handle, session);
        let question = asking(|| shared.validators.disconnect.on_disconnect(&notice));
        // A notifier that failed has been logged; the session ends all the same.
        match self.ask("disconnect notifier", question).await {
            Ok(_) => Flow::Break(CloseReason::Disconnected),
            Err(reason) => Flow::Break(reason),
        }
    }
}
