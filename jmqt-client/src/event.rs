//! What happens to the connection, for those who want to know.

use std::time::Duration;

use jmqt_protocol::{ChannelName, ClientId, StatusCode};
use tokio::sync::broadcast;

use crate::DisconnectReason;

/// How many events may wait for a reader that is behind; older ones are skipped.
pub(crate) const EVENTS_KEPT: usize = 64;

/// One thing that happened to the connection.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// A session is open, and the subscriptions are as they should be.
    Connected {
        /// Who we are.
        client: ClientId,
    },
    /// The session has ended.
    Disconnected {
        /// Why.
        reason: DisconnectReason,
    },
    /// There is no session, and another attempt comes.
    Reconnecting {
        /// How many attempts have failed since the last session.
        attempt: u32,
        /// When it comes.
        delay: Duration,
    },
    /// A subscription that was made again after a reconnect was refused. It is gone, and its stream ends.
    SubscriptionLost {
        /// Which channel.
        channel: ChannelName,
        /// What the server said.
        status: StatusCode,
    },
    /// The client has ended, by [`Client::close`](crate::Client::close) or because trying again cannot help.
    Closed,
}

/// The events from the moment it was made. Made by [`Client::events`](crate::Client::events).
///
/// A reader that is more than 64 events behind misses the oldest.
#[derive(Debug)]
pub struct Events(pub(crate) broadcast::Receiver<Event>);

impl Events {
    /// The next event; `None` once the client has ended and everything has been read.
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            match self.0.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}
