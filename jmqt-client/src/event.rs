//! What happens to the connection, for those who want to know.

use std::time::Duration;

use jmqt_protocol::{ChannelName, ClientId, StatusCode};
use tokio::sync::broadcast;

use crate::{ChannelFilter, ConnectError, DisconnectReason, Error, ServerClose};

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
        /// Why the last attempt failed; `None` right after [`Event::Disconnected`], which has the reason.
        error: Option<ConnectError>,
    },
    /// The client does not reconnect by itself, because the server said not to (protocol.md 2.22): for example, a newer
    /// connection of the same client took over. [`Client::reconnect`](crate::Client::reconnect) starts again.
    Stopped {
        /// What the server said.
        close: ServerClose,
    },
    /// The application has QoS 1 pushes of this channel and has acknowledged none for a while, so the server sends no
    /// more of it, and fewer of other channels: a stream that is not read, or a callback that does not return. Told once
    /// until it acknowledges again.
    ChannelStalled {
        /// Which channel.
        channel: String,
        /// How many pushes are unacknowledged.
        unacknowledged: usize,
    },
    /// A callback panicked. It is called again for the next push or event; a QoS 1 push that it panicked at is not
    /// acknowledged, and comes again on the next connection.
    CallbackPanicked {
        /// Which one: `on_push` or `on_disconnect`.
        callback: &'static str,
    },
    /// A subscription that was made again after a reconnect was refused. It is gone, and its stream ends.
    SubscriptionLost {
        /// Which channel.
        channel: ChannelName,
        /// What the server said.
        status: StatusCode,
    },
    /// The same, of a subscription to a filter.
    FilterLost {
        /// Which filter.
        filter: ChannelFilter,
        /// Why: the server refused it, or does not support filters.
        error: Error,
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
