//! The errors of the database's driver.

use sqlx::error::DatabaseError as _;
#[cfg(feature = "sqlite")]
use sqlx::sqlite::SqliteError;

use super::{DatabaseError, MigrationError, StoreError};

pub(super) use sqlx::Error;
pub(super) use sqlx::migrate::MigrateError;

impl From<Error> for StoreError {
    fn from(error: Error) -> Self {
        Self::Database(DatabaseError(error))
    }
}

impl From<MigrateError> for StoreError {
    fn from(error: MigrateError) -> Self {
        Self::Migrate(MigrationError(error))
    }
}

/// Returns `true` if the error is from the database itself, and not from the connection.
pub(super) fn is_answer(error: &Error) -> bool {
    matches!(error, Error::Database(_))
}

/// As above, for an error during a migration.
pub(super) fn is_migration_of_damage(error: &MigrateError) -> bool {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => is_damage(error),
        _ => false,
    }
}

/// Returns `true` if SQLite reports that the file is damaged or not a database.
#[cfg(feature = "sqlite")]
pub(super) fn is_damage(error: &Error) -> bool {
    const CORRUPT: i32 = 11;
    const NOT_A_DATABASE: i32 = 26;
    let error = error.as_database_error().and_then(|error| error.try_downcast_ref::<SqliteError>());
    let code = error.and_then(|error| error.code()?.parse::<i32>().ok());
    code.is_some_and(|code| matches!(code & 0xff, CORRUPT | NOT_A_DATABASE)) // above it are details
}

#[cfg(not(feature = "sqlite"))]
pub(super) fn is_damage(_: &Error) -> bool {
    false
}
