//! Errors of a handle.

use jmqt_core::ChannelName;

use crate::hub::HubError;

/// An error of a [`ServerHandle`](crate::ServerHandle).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandleError {
    /// A control channel, or a point-to-point channel that does not allow the operation: a client can be subscribed
    /// only to its own, and a message of a client cannot be published to its own (protocol.md 2.11, 2.20).
    #[error("channel {0} does not allow this operation")]
    InvalidChannel(ChannelName),
    /// A temporary subscription of a client that is not connected.
    #[error("the client is not connected")]
    NotConnected,
    /// MAX_RETAINED_MESSAGES or MAX_RETAINED_BYTES is reached, and the QoS 1 message to be retained was not
    /// published. A QoS 0 message is pushed and not retained in this case, which is counted and logged.
    #[error("the limit of retained messages is reached (MAX_RETAINED_MESSAGES, MAX_RETAINED_BYTES)")]
    TooManyRetained,
    /// The database failed; the log has the reason.
    #[error("the store failed")]
    Store,
}

impl From<HubError> for HandleError {
    fn from(error: HubError) -> Self {
        match error {
            HubError::Store | HubError::Unknown | HubError::NoRoom => Self::Store,
            HubError::TooManyRetained => Self::TooManyRetained,
            HubError::SessionEnded
            | HubError::Superseded
            | HubError::TooManyTakeovers(_)
            | HubError::OfAnotherOwner => Self::NotConnected,
        }
    }
}
