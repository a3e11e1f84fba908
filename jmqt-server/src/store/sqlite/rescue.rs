//! Saves the data after the database file, or its write-ahead log, was deleted or replaced.
//!
//! The process has both files open, so it can still read the acknowledged data; after its end the data is lost. If only the
//! log is deleted, the log is folded into the database. If the log is replaced (the next start would read the new file), or
//! if the database is deleted or replaced, all data is copied into a new file
//! beside the database.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection as _, Row as _};

use super::rows;
use crate::store::StoreError;
use crate::store::limits::limited;

/// The delay after a failed rescue.
const PAUSE: Duration = Duration::from_secs(10);

/// The time limit for copying the database.
const COPY_LIMIT: Duration = Duration::from_secs(600);

/// The kind of loss.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Loss {
    /// The write-ahead log was deleted.
    Log { database: PathBuf },
    /// The database was deleted or replaced, or the log was replaced.
    Files { database: PathBuf },
}

/// `Yes` if there is time to copy the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MayCopy {
    Yes,
    No,
}

/// The state of the rescue.
#[derive(Debug, Default)]
pub(super) struct Rescue {
    is_done: bool,
    tried: Option<Instant>,
}

impl Rescue {
    /// Saves as much data as possible, unless this is done, or has just failed. Copying may take long, so it needs
    /// `may_copy`.
    pub(super) async fn run(&mut self, connection: &mut SqliteConnection, loss: Loss, may_copy: MayCopy) {
        let is_copy = matches!(loss, Loss::Files { .. });
        if self.is_done
            || (is_copy && may_copy == MayCopy::No)
            || self.tried.is_some_and(|tried| tried.elapsed() < PAUSE)
        {
            return;
        }
        self.tried = Some(Instant::now());
        let saved = match &loss {
            Loss::Log { database } => fold(connection).await.map(|()| database.clone()),
            Loss::Files { database } => copy(connection, database).await,
        };
        match saved {
            Ok(path) => {
                self.is_done = true;
                tracing::error!(
                    target: "jmqt::store", path = %path.display(),
                    "files of the database were deleted or replaced; this file contains all acknowledged data: \
                     stop the server, and start it again with this file as SQLITE_PATH"
                );
            }
            Err(error) => tracing::error!(
                target: "jmqt::store", %error,
                "files of the database were deleted or replaced, and the acknowledged data could not be saved: \
                 do not kill the server; copy the database out of its open files, or stop it with SIGTERM"
            ),
        }
    }

    /// Resets the state after the files exist again.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}

/// Folds the write-ahead log into the database; both may have any name.
async fn fold(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    limited(async {
        let row = sqlx::query("PRAGMA wal_checkpoint(FULL)").fetch_one(&mut *connection).await?;
        let (is_busy, in_log, folded): (i64, i64, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        if is_busy != 0 || in_log != folded { Err(StoreError::Locked) } else { Ok(()) }
    })
    .await
}

/// Copies the database into a new file beside it, which only the owner may read.
async fn copy(connection: &mut SqliteConnection, database: &Path) -> Result<PathBuf, StoreError> {
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut path = database.to_owned().into_os_string();
    path.push(format!(".saved-{seconds}"));
    let path = PathBuf::from(path);
    let cannot_make =
        |error: io::Error| StoreError::Open { path: path.display().to_string(), source: error.into() };
    make(&path).map_err(cannot_make)?;
    let copying = async {
        connection.ping().await?;
        let vacuum = sqlx::query("VACUUM INTO ?").bind(path.display().to_string());
        rows::run(vacuum, connection).await?;
        Ok(())
    };
    let copied = tokio::time::timeout(COPY_LIMIT, copying).await;
    copied.unwrap_or(Err(StoreError::TimedOut(COPY_LIMIT)))?;
    Ok(path)
}

/// Creates an empty file, which SQLite treats as a new database.
fn make(path: &Path) -> io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}
