//! Why the store could not do something.

use std::io;
use std::time::Duration;

use super::driver;

/// What the database's driver says about a failure.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct DatabaseError(pub(super) driver::Error);

/// What the database's driver says about a schema that it could not bring up to date.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct MigrationError(pub(super) driver::MigrateError);

/// Why the store could not do it. Nothing of what was asked has happened, except after
/// [`Unanswered`](Self::Unanswered) and [`CommittedToGone`](Self::CommittedToGone), when that is not known, and in tasks that
/// clean up, which work in several transactions.
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
    /// The database cannot be opened or made.
    #[error("cannot open {path}: {source}")]
    Open {
        /// What was to be opened.
        path: String,
        /// Why not.
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
    /// The same was noticed after a commit, which has happened in a file that has no name any more.
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
    /// A row holds what this program never wrote.
    #[error("the database contains an invalid {what}")]
    Corrupt {
        /// Which value.
        what: &'static str,
    },
    /// There is no connection to the database, and none could be made.
    #[error("no connection to the database: {0}")]
    Unreachable(#[source] DatabaseError),
    /// No answer in time.
    #[error("the database did not answer within {0:?}")]
    TimedOut(Duration),
    /// Somebody else kept locked what was needed, for longer than any node may.
    #[error("another connection has locked a part of the database for too long")]
    Locked,
    /// The database was told to commit, and it is not known what became of that: it has happened, or it
    /// has not.
    #[error("commit outcome unknown: {0}")]
    Unanswered(#[source] DatabaseError),
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Whether the reason lies with the database, or with others who use it, and not with what it was asked.
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
            | Self::Unanswered(_) => false,
        }
    }

    /// Whether it has happened, or is there after a restart, is not known.
    pub(super) fn is_unknown(&self) -> bool {
        matches!(self, Self::Unanswered(_) | Self::CommittedToGone { .. })
    }

    /// Whether the database cannot be opened for a reason that does not pass by itself. What a database server says may
    /// be put right there, and what a full disk says by making room.
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

    /// Whether SQLite says that its file is damaged or is no database, or a value shows it.
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            Self::Corrupt { .. } => true,
            Self::Database(error) => driver::is_damage(&error.0),
            Self::Migrate(error) => driver::is_migration_of_damage(&error.0),
            _ => false,
        }
    }

    /// Whether the database has answered, and the reason lies with the data or the statement: trying again soon is likely to
    /// fail in the same way.
    pub(crate) fn is_of_data(&self) -> bool {
        match self {
            Self::Database(error) => driver::is_answer(&error.0),
            Self::Corrupt { .. } => true,
            _ => false,
        }
    }
}
