//! The errors of the hub.

use std::time::Duration;

use crate::counters::Counters;
use crate::store::{NotCommitted, StoreError, store_failed};

/// An error of a hub operation.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HubError {
    #[error("the store failed")]
    Store,
    /// The operation may have been committed.
    #[error("commit outcome unknown")]
    Unknown,
    #[error("the limit of retained messages is reached (MAX_RETAINED_MESSAGES, MAX_RETAINED_BYTES)")]
    TooManyRetained,
    #[error("the outbound queues of all clients together are full (MAX_TOTAL_OUTBOUND_BYTES)")]
    NoRoom,
    #[error("the client id belongs to another user")]
    OfAnotherOwner,
    #[error("the session has ended")]
    SessionEnded,
    #[error("the client is connecting to another node")]
    Superseded,
    #[error("the client's sessions were taken over too often; retry in {0:?}")]
    TooManyTakeovers(Duration),
}

impl From<NotCommitted> for HubError {
    fn from(error: NotCommitted) -> Self {
        match error {
            NotCommitted::Failed => Self::Store,
            NotCommitted::Unknown => Self::Unknown,
        }
    }
}

impl HubError {
    /// Logs and counts a failure of the store. The request is answered SERVER_ERROR.
    pub(super) fn of_store(error: &StoreError, counters: &Counters) -> Self {
        store_failed(counters, "the store failed", error);
        Self::Store
    }
}
