//! The errors of the store.

use std::io;
use std::time::Duration;

use super::driver;

/// The error of the database driver.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct DatabaseError(pub(super) driver::Error);

/// The error of the database driver during a migration of the schema.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct MigrationError(pub(super) driver::MigrateError);

/// An error of the store. Nothing was changed, except after
/// [`Unanswered`](Self::Unanswered) and [`CommittedToGone`](Self::CommittedToGone), when the outcome is unknown, and in
/// maintenance tasks, which use several transactions.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The database refused or failed: disk full, file not writable, corrupt.
    #[error("the database failed: {0}")]
    Database(#[source] DatabaseError),
    /// Another process has the database open.
    #[error("{path} is in use by another process")]
    InUse {
        /// The lock file.
        path: String,
    },
    /// The database cannot be opened or created.
    #[error("cannot open {path}: {source}")]
    Open {
        /// The database.
        path: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file of the database was deleted or replaced while it was open.
    #[error(
        "{path} was deleted or replaced while the server has it open: stop the server, then restore the file or \
         let the server create a new one"
    )]
    Gone {
        /// The database file, or its write-ahead log.
        path: String,
    },
    /// A deleted or replaced file was detected after a commit, which is in the deleted file.
    #[error(
        "{path} was deleted or replaced before a commit was complete, and the commit may be lost: stop the server, then \
         restore the file or let the server create a new one"
    )]
    CommittedToGone {
        /// The database file, or its write-ahead log.
        path: String,
    },
    /// The disk is nearly full.
    #[error("the disk of {path} is nearly full: the server stores no messages until space is freed")]
    NoRoom {
        /// The database file.
        path: String,
    },
    /// The schema could not be brought up to date.
    #[error("cannot migrate the database: {0}")]
    Migrate(#[source] MigrationError),
    /// A row contains a value that this program never writes.
    #[error("the database contains an invalid {what}")]
    Corrupt {
        /// The kind of value.
        what: &'static str,
    },
    /// The server cannot connect to the database.
    #[error("no connection to the database: {0}")]
    Unreachable(#[source] DatabaseError),
    /// The database did not answer in time.
    #[error("the database did not answer within {0:?}")]
    TimedOut(Duration),
    /// Another connection has held a lock for longer than a node is allowed to.
    #[error("another connection has locked a part of the database for too long")]
    Locked,
    /// The other nodes consider this node dead, and continue its sessions.
    #[error("the other nodes have taken over the sessions of this node")]
    Condemned,
    /// The outcome of a COMMIT is unknown: the answer of the database is missing.
    #[error("commit outcome unknown: {0}")]
    Unanswered(#[source] DatabaseError),
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Returns `true` if the cause is the database or another user of it, and not the operation.
    pub(super) fn is_of_database(&self) -> bool {
        match self {
            Self::Unreachable(_)
            | Self::TimedOut(_)
            | Self::Locked
            | Self::InUse { .. }
            | Self::Gone { .. }
            | Self::CommittedToGone { .. }
            | Self::NoRoom { .. }
            | Self::Closed => true,
            Self::Database(_)
            | Self::Open { .. }
            | Self::Migrate(_)
            | Self::Corrupt { .. }
            | Self::Condemned
            | Self::Unanswered(_) => false,
        }
    }

    /// Returns `true` if it is unknown whether the change was made, or survives a restart.
    pub(super) fn is_unknown(&self) -> bool {
        matches!(self, Self::Unanswered(_) | Self::CommittedToGone { .. })
    }

    /// Returns `true` if the database cannot be opened for a permanent reason. Errors of a database server, and a full
    /// disk, can be fixed without a change of this server.
    pub(crate) fn is_lasting(&self) -> bool {
        use io::ErrorKind::{
            InvalidFilename, IsADirectory, NotADirectory, PermissionDenied, ReadOnlyFilesystem,
        };
        let Self::Open { source, .. } = self else { return self.is_damage() };
        let kind = source.downcast_ref::<io::Error>().map(io::Error::kind);
        let is_for_good = matches!(
            kind,
            Some(InvalidFilename | IsADirectory | NotADirectory | PermissionDenied | ReadOnlyFilesystem)
        );
        is_for_good || source.downcast_ref().is_some_and(driver::is_answer)
    }

    /// Returns `true` if SQLite, or an invalid value, shows that the file is damaged or not a database.
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            Self::Corrupt { .. } => true,
            Self::Database(error) => driver::is_damage(&error.0),
            Self::Migrate(error) => driver::is_migration_of_damage(&error.0),
            _ => false,
        }
    }

    /// Returns `true` if the database has answered, and the cause is the data or the statement: a retry is likely to
    /// fail in the same way.
    pub(crate) fn is_of_data(&self) -> bool {
        match self {
            Self::Database(error) => driver::is_answer(&error.0),
            Self::Corrupt { .. } => true,
            _ => false,
        }
    }
}
