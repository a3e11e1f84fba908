//! What happens to the connection, for those who want to know.

use std::time::Duration;

use tokio::sync::broadcast;

use super::{ConnectError, DisconnectReason, Error, Information};

/// How many events may wait for a reader that is behind; older ones are skipped.
pub(crate) const EVENTS_KEPT: usize = 64;

/// One thing that happened to the connection.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// A session is open, and the subscriptions are as they should be.
    Connected {
        /// What the server said.
        information: Information,
    },
    /// The session's connection has ended.
    Disconnected {
        /// Why.
        reason: DisconnectReason,
    },
    /// There is no connection, and another attempt comes.
    Reconnecting {
        /// How many attempts have failed since the last connection.
        attempt: u32,
        /// When it comes.
        delay: Duration,
        /// Why the last attempt failed; `None` right after [`Event::Disconnected`], which has the reason.
        error: Option<ConnectError>,
    },
    /// The client does not reconnect by itself, because it would have the same fate.
    /// [`Client::reconnect`](super::Client::reconnect) starts again.
    Stopped {
        /// Why.
        reason: DisconnectReason,
    },
    /// A subscription that was made again after a reconnect was refused. It is gone, and its stream ends.
    SubscriptionLost {
        /// Its filter.
        filter: String,
        /// What the server said.
        error: Error,
    },
    /// A QoS 1 or 2 message has been waiting for half a minute to be read from its stream, or to be acknowledged by hand
    /// while others that were taken after it wait for that. The server sends no more messages once too many have no
    /// acknowledgement. Read every stream, or drop it. Comes again each minute until the message is taken.
    NotTaken {
        /// The topic of the message.
        topic: String,
    },
    /// The client has ended, by [`Client::disconnect`](super::Client::disconnect) or because trying again cannot help.
    Closed,
}

/// The events from the moment it was made. Made by [`Client::events`](super::Client::events).
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
