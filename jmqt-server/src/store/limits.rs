//! The time limits of the database.

use std::future::Future;
use std::time::Duration;

use super::StoreError;

/// The longest wait for the database in one step of a method.
pub(super) const TIME_LIMIT: Duration = Duration::from_secs(10);

/// The longest wait for a COMMIT. It is longer than other waits, because an abandoned COMMIT
/// may have happened nevertheless.
pub(super) const COMMIT_LIMIT: Duration = Duration::from_secs(30);

/// The tolerance for times in the future. A last-seen time beyond it was written by a wrong clock. (The clocks of several
/// nodes may differ a little.)
pub(super) const FUTURE: Duration = Duration::from_secs(60);

/// The error for a missing answer from the network.
#[cfg(any(feature = "sqlite", feature = "mysql"))]
pub(super) fn no_answer() -> sqlx::Error {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

/// Waits for `work`, at most for [`TIME_LIMIT`].
pub(super) async fn limited<T>(work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let done = tokio::time::timeout(TIME_LIMIT, work).await;
    done.unwrap_or(Err(StoreError::TimedOut(TIME_LIMIT)))
}
