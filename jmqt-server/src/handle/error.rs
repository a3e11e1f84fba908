//! Why a handle could not do what it was asked to do.

use jmqt_core::ChannelName;

use crate::hub::HubError;

/// Why a [`ServerHandle`](crate::ServerHandle) could not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandleError {
    /// A control channel, or a point-to-point channel that this may not be done to: to be subscribed to, of another
    /// client; to be published to in a client's name, its own (protocol.md 2.11, 2.20).
    #[error("channel {0} does not allow this operation")]
    InvalidChannel(ChannelName),
    /// A temporary subscription of a client that is not connected.
    #[error("the client is not connected")]
    NotConnected,
    /// A QoS 1 message was to be retained, and MAX_RETAINED_MESSAGES or MAX_RETAINED_BYTES are there already: it was not
    /// published. (One of QoS 0 is pushed and not retained, which is counted and logged.)
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
            HubError::SessionEnded | HubError::Superseded | HubError::TooManyTakeovers(_) => {
                Self::NotConnected
            }
        }
    }
}
