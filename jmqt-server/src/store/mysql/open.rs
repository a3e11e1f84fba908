//! Opens a store: connections, locks, schema, and the state in memory.

use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::mysql::MySqlConnection;
use sqlx::{Executor as _, SqlSafeStr as _};
use tokio::sync::Mutex;

use super::commit::Committer;
use super::connection::{Connected, Connections, Connector, number};
use super::presence::{KEPT_FOR, Locks, Presence};
use super::trim::Trimming;
use super::{MySqlOptions, MySqlStore, clients, wills};
use crate::store::limits::{COMMIT_LIMIT, limited};
use crate::store::names::NameSet;
use crate::store::time::millis;
use crate::store::{DatabaseError, Epoch, StoreError};

/// The migrations from an empty database to the schema of this version, in order. A released migration never changes.
/// Each can be run again after it was interrupted.
const MIGRATIONS: [(i64, &str, &str); 10] = [
    (1, "tables", include_str!("../migrations/0001_mysql.sql")),
    (2, "stamps and sizes", include_str!("../migrations/0002_mysql.sql")),
    (3, "publishers", include_str!("../migrations/0003_mysql.sql")),
    (4, "attributes of messages", include_str!("../migrations/0004_mysql.sql")),
    (5, "options of subscriptions", include_str!("../migrations/0005_mysql.sql")),
    (6, "sessions", include_str!("../migrations/0006_mysql.sql")),
    (7, "exchanges with QoS 2", include_str!("../migrations/0007_mysql.sql")),
    (8, "filters", include_str!("../migrations/0008_mysql.sql")),
    (9, "connections without a record", include_str!("../migrations/0009_mysql.sql")),
    (10, "owners of sessions", include_str!("../migrations/0010_mysql.sql")),
];

/// The bytes of a packet in addition to the payload: names, numbers, and the statement.
const BESIDE_PAYLOAD: usize = 64 << 10;

/// The largest packet without payloads, which contains only names and cursors.
const SMALLEST_PACKET: usize = 1 << 20;

pub(super) async fn open(options: MySqlOptions) -> Result<MySqlStore, StoreError> {
    let opened = tokio::time::timeout(COMMIT_LIMIT, open_in_time(&options)).await;
    opened.unwrap_or(Err(StoreError::TimedOut(COMMIT_LIMIT)))
}

async fn open_in_time(options: &MySqlOptions) -> Result<MySqlStore, StoreError> {
    let connector = Connector::new(options);
    let connected = connector.connect_for(KEPT_FOR).await;
    let mut connected = connected.map_err(|error| cannot_connect(options, error))?;
    check_server(options, &mut connected).await?;

    let connection = &mut connected.connection;
    let locks = Locks::of_database(connection, place(options)).await?;
    limited(locks.wait_at_door(connection)).await?;
    let presence = enter(options, &connector, &locks, connection).await?;
    migrate(options, connection).await?;
    let epoch = set_up_meta(connection).await?;
    let node = add_node(connection).await?;
    let retained = match options.shared {
        true => None,
        false => {
            wills::end_all(connection).await?;
            clients::end_connections(connection).await?;
            Some(retained(connection).await?)
        }
    };
    locks.pass(connection).await?;

    let committer = match options.shared {
        // The server closes this connection after a short idle time, because its locks block others.
        true => Committer::shared(connector.connect().await?, node),
        false => Committer::alone(connected, node, locks),
    };
    Ok(MySqlStore {
        epoch,
        connections: Connections::new(connector, options.pool_size.saturating_sub(2).max(1)),
        committer: Mutex::new(committer),
        presence: Mutex::new(presence),
        retained,
        retained_limits: options.retained,
        to_trim: Trimming::default(),
        member: std::sync::Mutex::default(),
        publishers_up_to: std::sync::Mutex::default(),
        closed: AtomicBool::new(false),
    })
}

fn place(options: &MySqlOptions) -> String {
    format!("the database {} on {}:{}", options.database, options.host, options.port)
}

fn cannot_open(
    options: &MySqlOptions,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> StoreError {
    StoreError::Open { path: place(options), source: source.into() }
}

/// Adds advice to the error, if the cause is known.
fn cannot_connect(options: &MySqlOptions, error: StoreError) -> StoreError {
    let (database, user) = (&options.database, &options.user);
    let advice = match (number(&error), &error) {
        (Some(1049), _) => format!(
            "; create it with: CREATE DATABASE `{database}` CHARACTER SET utf8mb4; \
             GRANT ALTER, CREATE, DELETE, DROP, INDEX, INSERT, SELECT, UPDATE ON `{database}`.* TO '{user}'@'%'"
        ),
        (Some(1044 | 1142), _) => format!(
            "; allow it with: GRANT ALTER, CREATE, DELETE, DROP, INDEX, INSERT, SELECT, UPDATE \
             ON `{database}`.* TO '{user}'@'%'"
        ),
        (_, StoreError::Unreachable(DatabaseError(sqlx::Error::Configuration(_)))) => {
            "; MySQL takes this user's password over an encrypted connection only".to_owned()
        }
        _ => String::new(),
    };
    cannot_open(options, format!("{error}{advice}"))
}

/// Checks that the server meets the requirements.
async fn check_server(options: &MySqlOptions, connected: &mut Connected) -> Result<(), StoreError> {
    let needed = (options.largest_payload + BESIDE_PAYLOAD).max(SMALLEST_PACKET);
    if connected.max_packet < needed {
        let reason = format!(
            "the server accepts packets of up to {} bytes, and MAX_PACKET_BYTES needs {needed}: \
             raise its variable max_allowed_packet, or lower MAX_PACKET_BYTES",
            connected.max_packet
        );
        return Err(cannot_open(options, reason));
    }
    let sql = "SELECT CAST(VERSION() AS BINARY), CAST(@@innodb_flush_log_at_trx_commit AS SIGNED)";
    let (version, flush): (Vec<u8>, i64) = sqlx::query_as(sql).fetch_one(&mut connected.connection).await?;
    let version = String::from_utf8_lossy(&version);
    if !is_new_enough(&version) {
        let reason = format!("the server is {version}; expected MySQL 8.0 or MariaDB 10.6, or later");
        return Err(cannot_open(options, reason));
    }
    if flush != 1 {
        tracing::warn!(
            innodb_flush_log_at_trx_commit = flush,
            "the database does not write every commit to disk: a power failure may undo the last ones"
        );
    }
    Ok(())
}

fn is_new_enough(version: &str) -> bool {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    let (major, minor): (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let needed = if version.to_ascii_lowercase().contains("mariadb") { (10, 6) } else { (8, 0) };
    (major, minor) >= needed
}

/// Registers this store, if the stores that have the database open permit it.
async fn enter(
    options: &MySqlOptions,
    connector: &Connector,
    locks: &Locks,
    connection: &mut MySqlConnection,
) -> Result<Presence, StoreError> {
    if options.shared {
        if !locks.is_nobodys(connection).await? {
            return Err(locks.in_use());
        }
        return Presence::take_seat(connector, locks).await;
    }
    if locks.is_shared(connection).await? || !locks.take_all(connection).await? {
        return Err(locks.in_use());
    }
    Ok(Presence::default())
}

/// Runs the missing migrations. No other store does so at the same time, because the caller holds the lock `door`. (The
/// lock of `Migrator` waits forever, which MariaDB does not support.)
async fn migrate(options: &MySqlOptions, connection: &mut MySqlConnection) -> Result<(), StoreError> {
    let step = |(version, name, sql): (i64, &'static str, &'static str)| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    let newest = MIGRATIONS[MIGRATIONS.len() - 1].0;
    let mut migrator = Migrator::with_migrations(MIGRATIONS.map(step).into());
    migrator.set_locking(false);
    forget_interrupted(connection, newest).await?;
    match migrator.run_direct(None, connection, false).await {
        Err(MigrateError::VersionMissing(version) | MigrateError::Dirty(version)) => {
            let reason = format!(
                "it was written by a newer version of this program \
                 (schema {version}; this one knows schemas up to {newest})"
            );
            Err(cannot_open(options, reason))
        }
        result => Ok(result?),
    }
}

/// MySQL cannot roll back a part of a migration, so an interrupted migration is run again.
async fn forget_interrupted(connection: &mut MySqlConnection, newest: i64) -> Result<(), StoreError> {
    let sql = "DELETE FROM _sqlx_migrations WHERE success = FALSE AND version <= ?";
    match sqlx::query(sql).bind(newest).execute(connection).await {
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42S02") => Ok(()), // no such table
        result => Ok(result.map(drop)?),
    }
}

/// Reads the epoch; creates it, and the generation counter, if the database is new.
async fn set_up_meta(connection: &mut MySqlConnection) -> Result<Epoch, StoreError> {
    sqlx::query("INSERT IGNORE INTO meta (name, value) VALUES ('epoch', ?), ('generation', 0)")
        .bind(i64::from(random(getrandom::u32())?))
        .execute(&mut *connection)
        .await?;
    // Sessions of a single server got their generations from that server.
    let raise = "UPDATE meta SET value = GREATEST(value, \
        (SELECT COALESCE(MAX(generation), 0) FROM sessions)) WHERE name = 'generation'";
    connection.execute(raise).await?;
    let epoch: i64 =
        sqlx::query_scalar("SELECT value FROM meta WHERE name = 'epoch'").fetch_one(connection).await?;
    Ok(Epoch(u32::try_from(epoch).map_err(|_| StoreError::Corrupt { what: "epoch" })?))
}

/// Generates a number for this store, and inserts its row.
async fn add_node(connection: &mut MySqlConnection) -> Result<i64, StoreError> {
    let node = random(getrandom::u64())?.cast_signed();
    sqlx::query("INSERT INTO batches (node, batch, committed_at) VALUES (?, 0, ?)")
        .bind(node)
        .bind(millis(SystemTime::now()))
        .execute(connection)
        .await?;
    Ok(node)
}

fn random<T>(number: Result<T, getrandom::Error>) -> Result<T, StoreError> {
    number.map_err(|error| StoreError::Open {
        path: "the system's random numbers".to_owned(),
        source: error.into(),
    })
}

async fn retained(connection: &mut MySqlConnection) -> Result<NameSet, StoreError> {
    let set = NameSet::default();
    let sql = "SELECT c.name FROM retained AS r JOIN channels AS c ON c.id = r.channel_id";
    let names: Vec<Vec<u8>> = sqlx::query_scalar(sql).fetch_all(connection).await?;
    names.iter().for_each(|name| set.insert(&String::from_utf8_lossy(name)));
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_server_versions_are_refused() {
        for version in ["8.0.36", "8.4.0", "9.1.0-log", "10.6.16-MariaDB", "11.4.2-MariaDB-ubu2404"] {
            assert!(is_new_enough(version), "{version}");
        }
        for version in ["5.7.44", "10.5.23-MariaDB", "5.5.5-10.3.1-MariaDB", ""] {
            assert!(!is_new_enough(version), "{version}");
        }
    }
}
