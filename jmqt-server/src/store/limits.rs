//! How long the store waits for a database.

use std::future::Future;
use std::time::Duration;

use super::StoreError;

/// The longest wait for the database in one step of a method.
pub(super) const TIME_LIMIT: Duration = Duration::from_secs(10);

/// The longest wait for a COMMIT. It is longer than other waits, because a COMMIT that was given up
/// may have happened all the same.
pub(super) const COMMIT_LIMIT: Duration = Duration::from_secs(30);

/// A client that was last seen later than this from now was noted by a wrong clock. (Those of several nodes may
/// differ a little.)
pub(super) const FUTURE: Duration = Duration::from_secs(60);

/// The error for an answer of the network that did not come.
#[cfg(any(feature = "sqlite", feature = "mysql"))]
pub(super) fn no_answer() -> sqlx::Error {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

/// Waits for `work`, but not longer than [`TIME_LIMIT`].
pub(super) async fn limited<T>(work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let done = tokio::time::timeout(TIME_LIMIT, work).await;
    done.unwrap_or(Err(StoreError::TimedOut(TIME_LIMIT)))
}
