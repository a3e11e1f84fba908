//! Opens a store: lock, files, connections, schema, and the state in memory.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions as _, SqlSafeStr as _, SqlitePool};
use tokio::sync::Mutex;

use super::guard::Guard;
use super::writer::Writer;
use super::{SqliteOptions, SqliteStore, clients, filters, rows, wills};
use crate::config::Synchronous;
use crate::store::limits::TIME_LIMIT;
use crate::store::names::NameSet;
use crate::store::retained::{RetainedBy, RetainedTotals};
use crate::store::{ChannelKey, Epoch, StoreError};

/// The migrations from an empty database to the schema of this version, in order. A released migration never changes.
const MIGRATIONS: [(i64, &str, &str); 10] = [
    (1, "tables", include_str!("../migrations/0001_sqlite.sql")),
    (2, "stamps and sizes", include_str!("../migrations/0002_sqlite.sql")),
    (3, "publishers", include_str!("../migrations/0003_sqlite.sql")),
    (4, "attributes of messages", include_str!("../migrations/0004_sqlite.sql")),
    (5, "options of subscriptions", include_str!("../migrations/0005_sqlite.sql")),
    (6, "sessions", include_str!("../migrations/0006_sqlite.sql")),
    (7, "exchanges with QoS 2", include_str!("../migrations/0007_sqlite.sql")),
    (8, "filters", include_str!("../migrations/0008_sqlite.sql")),
    (9, "connections without a record", include_str!("../migrations/0009_sqlite.sql")),
    (10, "owners of sessions", include_str!("../migrations/0010_sqlite.sql")),
];

/// The number of connections that read. SQLite reads in parallel, but rarely waits for a disk.
const READERS: u32 = 2;

pub(super) async fn open(options: SqliteOptions) -> Result<SqliteStore, StoreError> {
    let path = &options.path;
    check_is_file(path)?;
    let lock = lock(path)?;
    make_private(path).map_err(|error| cannot_open(path, error))?;
    let guard = Guard::lock(path)?;

    let retained_limits = options.retained;
    let options = connect_options(&options, guard.log_pages());
    let mut connection = options.connect().await.map_err(|error| cannot_open(path, error))?;
    migrate(path, &mut connection).await?;
    let epoch = epoch(&mut connection).await?;
    wills::end_all(&mut connection).await?;
    clients::end_connections(&mut connection).await?;
    let clients = names(&mut connection, "SELECT client_id FROM clients").await?;
    let retained = "SELECT c.name FROM retained AS r JOIN channels AS c ON c.id = r.channel_id";
    let retained = names(&mut connection, retained).await?;
    let retained_totals = retained_totals(&mut connection).await?;
    let retained_by = match retained_limits.messages_per_client {
        Some(_) => retained_by(&mut connection).await?,
        None => RetainedBy::default(),
    };
    let next = "SELECT COALESCE(MAX(seq), 0) + 1 FROM sqlite_sequence WHERE name = 'channels'";
    let next_channel = sqlx::query_scalar(next).fetch_one(&mut connection).await?;
    let to_trim = left_to_trim(&mut connection).await?;
    let filters = filters::load_all(&mut connection).await?;

    guard.check_files()?; // the write-ahead log exists now
    let mut writer = Writer::new(options.clone(), connection, next_channel, retained_totals, retained_by);
    writer.to_trim.extend(&to_trim);
    writer.filters = Some(filters);
    Ok(SqliteStore {
        epoch,
        writer: Mutex::new(writer),
        readers: readers(options).await.map_err(|error| cannot_open(path, error))?,
        clients,
        retained,
        retained_limits,
        closed: AtomicBool::new(false),
        guard,
        lock,
    })
}

/// Refuses names that SQLite does not treat as files: each connection would have a separate database.
fn check_is_file(path: &Path) -> Result<(), StoreError> {
    let name = path.as_os_str().to_string_lossy();
    if name.is_empty() || name.starts_with(":memory:") || name.starts_with("file:") {
        let reason = "the database must be a file, given by its path, because acknowledged messages must survive \
            the server. For a server that keeps nothing, use a file in a temporary folder";
        return Err(cannot_open(path, reason));
    }
    Ok(())
}

fn cannot_open(path: &Path, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    StoreError::Open { path: path.display().to_string(), source: source.into() }
}

/// Locks the lock file beside the database, and creates the folder if it is missing.
fn lock(database: &Path) -> Result<File, StoreError> {
    let path = beside(database, ".lock");
    let file = make_folder(database).and_then(|()| private_file().open(&path));
    let file = file.map_err(|error| cannot_open(&path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse { path: path.display().to_string() }),
        Err(TryLockError::Error(error)) => Err(cannot_open(&path, error)),
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    // Another name of the same file must lead to the same lock.
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mut name = path.into_os_string();
    name.push(suffix);
    name.into()
}

fn make_folder(database: &Path) -> std::io::Result<()> {
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match database.parent() {
        Some(folder) => builder.recursive(true).create(folder),
        None => Ok(()),
    }
}

/// Creates the database file if it is missing. SQLite gives its other files the same permissions.
fn make_private(database: &Path) -> std::io::Result<()> {
    private_file().open(database).map(drop)
}

fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

fn connect_options(options: &SqliteOptions, log_pages: u64) -> SqliteConnectOptions {
    let synchronous = match options.synchronous {
        Synchronous::Full => SqliteSynchronous::Full,
        Synchronous::Normal => SqliteSynchronous::Normal,
    };
    SqliteConnectOptions::new()
        .filename(&options.path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(synchronous)
        // The schema has no foreign keys: related rows are written together, and every check would cost time.
        .foreign_keys(false)
        .busy_timeout(Duration::from_secs(5))
        .pragma("wal_autocheckpoint", log_pages.to_string())
        .pragma("journal_size_limit", "67108864")
        .pragma("cache_size", "-16384")
        .pragma("temp_store", "memory")
        .thread_name(|id| format!("sqlite-{id}"))
        .disable_statement_logging()
}

async fn readers(options: SqliteConnectOptions) -> Result<SqlitePool, sqlx::Error> {
    // The buffer of rows between threads is small, because a payload can be large.
    let options = options.read_only(true).row_buffer_size(16);
    SqlitePoolOptions::new()
        .min_connections(1)
        .max_connections(READERS)
        .acquire_timeout(TIME_LIMIT)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false) // a file does not disconnect
        .connect_with(options)
        .await
}

async fn migrate(path: &Path, connection: &mut SqliteConnection) -> Result<(), StoreError> {
    let step = |(version, name, sql): (i64, &'static str, &'static str)| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    let migrator = Migrator::with_migrations(MIGRATIONS.map(step).into());
    match migrator.run_direct(None, connection, false).await {
        Err(MigrateError::VersionMissing(version)) => {
            let newest = MIGRATIONS[MIGRATIONS.len() - 1].0;
            let reason = format!(
                "it was written by a newer version of this program \
                 (schema {version}; this one knows schemas up to {newest})"
            );
            Err(cannot_open(path, reason))
        }
        result => Ok(result?),
    }
}

/// Reads the epoch; generates it if the database is new.
async fn epoch(connection: &mut SqliteConnection) -> Result<Epoch, StoreError> {
    let random = getrandom::u32().map_err(|error| StoreError::Open {
        path: "the system's random numbers".to_owned(),
        source: error.into(),
    })?;
    sqlx::query("INSERT OR IGNORE INTO meta (key, value) VALUES ('epoch', ?)")
        .bind(i64::from(random))
        .execute(&mut *connection)
        .await?;
    let epoch: i64 =
        sqlx::query_scalar("SELECT value FROM meta WHERE key = 'epoch'").fetch_one(connection).await?;
    Ok(Epoch(u32::try_from(epoch).map_err(|_| StoreError::Corrupt { what: "epoch" })?))
}

async fn names(connection: &mut SqliteConnection, sql: &'static str) -> Result<NameSet, StoreError> {
    let set = NameSet::default();
    let names: Vec<String> = sqlx::query_scalar(sql).fetch_all(connection).await?;
    names.iter().for_each(|name| set.insert(name));
    Ok(set)
}

async fn retained_totals(connection: &mut SqliteConnection) -> Result<RetainedTotals, StoreError> {
    let sql = "SELECT COUNT(*), COALESCE(SUM(length(data) + COALESCE(length(attributes), 0)), 0) \
        FROM retained";
    let (messages, bytes): (i64, i64) = sqlx::query_as(sql).fetch_one(connection).await?;
    Ok(RetainedTotals { messages: messages.unsigned_abs(), bytes: bytes.unsigned_abs() })
}

async fn retained_by(connection: &mut SqliteConnection) -> Result<RetainedBy, StoreError> {
    let sql = "SELECT sender, COUNT(*) FROM retained WHERE sender IS NOT NULL GROUP BY sender";
    let counts = sqlx::query(sql).fetch_all(connection).await?;
    let counts = counts.iter().map(|row| Ok((rows::sender(row, 0)?, rows::count(row, 1)?)));
    let counts = counts.collect::<Result<Vec<_>, StoreError>>()?.into_iter();
    Ok(RetainedBy::new(counts.filter_map(|(sender, count)| Some((sender?, count)))))
}

/// Channels that the previous process has not trimmed.
async fn left_to_trim(connection: &mut SqliteConnection) -> Result<Vec<ChannelKey>, StoreError> {
    let sql = "SELECT id FROM channels AS c WHERE \
        EXISTS (SELECT 1 FROM messages AS m WHERE m.channel_id = c.id AND m.seq <= COALESCE( \
            (SELECT MIN(acked_seq) FROM subscriptions AS s WHERE s.channel_id = c.id), c.last_seq)) \
        OR (persistent_count = 0 AND NOT EXISTS (SELECT 1 FROM retained AS r WHERE r.channel_id = c.id))";
    let keys: Vec<i64> = sqlx::query_scalar(sql).fetch_all(connection).await?;
    Ok(keys.into_iter().map(ChannelKey).collect())
}
