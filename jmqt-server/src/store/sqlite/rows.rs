//! Statements with many rows, and checked reading of values.
//!
//! Every statement costs a round trip to the connection's thread, so rows are grouped in few large statements of
//! fixed sizes, which stay prepared.

use std::time::SystemTime;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use jmqt_core::{ChannelName, ClientId};
use sqlx::error::BoxDynError;
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqliteRow};
use sqlx::{Arguments as _, AssertSqlSafe, Either, Executor as _, Row as _, SqlSafeStr as _, SqlStr, Sqlite};

use crate::attributes::Attributes;
use crate::store::time::from_millis;
use crate::store::{ChannelKey, PublisherId, Seq, Stamp, StoreError, SubscriptionOptions};

/// The row counts of the statements, smallest first.
const SHAPES: [usize; 3] = [1, 8, 64];

/// A statement that takes any number of rows.
pub(super) struct MultiRow {
    columns: usize,
    shapes: [SqlStr; SHAPES.len()],
}

/// One statement with its values.
type Bound = (SqlStr, SqliteArguments);

impl MultiRow {
    /// A statement of `columns` values a row. `{rows}` in `sql` stands for `(?,?),(?,?)` and so on.
    ///
    /// Unused rows of a statement are NULL: an IN list or a join never finds them,
    /// and an INSERT must exclude them with `WHERE column1 IS NOT NULL`.
    pub(super) fn new(columns: usize, sql: &str) -> Self {
        let row = format!("({})", vec!["?"; columns].join(","));
        let shapes = SHAPES.map(|size| {
            let rows = vec![row.as_str(); size].join(",");
            let text: std::sync::Arc<str> = sql.replace("{rows}", &rows).into();
            AssertSqlSafe(text).into_sql_str() // contains only constants
        });
        Self { columns, shapes }
    }

    /// Runs the statement for all `rows`; `values` adds the values of one row. Returns the number of changed rows.
    pub(super) async fn execute<T>(
        &self,
        connection: &mut SqliteConnection,
        rows: &[T],
        values: impl Fn(&mut SqliteArguments, &T) -> Result<(), BoxDynError>,
    ) -> Result<u64, StoreError> {
        self.execute_with(connection, rows, |_| Ok(()), values).await
    }

    /// The same for a statement with parameters before `{rows}`, which `common` adds: values that all rows share.
    pub(super) async fn execute_with<T>(
        &self,
        connection: &mut SqliteConnection,
        rows: &[T],
        common: impl Fn(&mut SqliteArguments) -> Result<(), BoxDynError>,
        values: impl Fn(&mut SqliteArguments, &T) -> Result<(), BoxDynError>,
    ) -> Result<u64, StoreError> {
        let mut changed = 0;
        for (sql, arguments) in self.bind(rows, common, values)? {
            changed += run(sqlx::query_with(sql, arguments), connection).await?.1;
        }
        Ok(changed)
    }

    /// Runs the statement for all `rows` and returns the result rows in any order.
    pub(super) async fn fetch<T>(
        &self,
        connection: &mut SqliteConnection,
        rows: &[T],
        values: impl Fn(&mut SqliteArguments, &T) -> Result<(), BoxDynError>,
    ) -> Result<Vec<SqliteRow>, StoreError> {
        let mut found = Vec::new();
        for (sql, arguments) in self.bind(rows, |_| Ok(()), values)? {
            found.append(&mut run(sqlx::query_with(sql, arguments), connection).await?.0);
        }
        Ok(found)
    }

    /// Splits `rows` into statements. The rest goes into the smallest statement that holds it: empty
    /// rows cost less than another statement.
    fn bind<T>(
        &self,
        mut rows: &[T],
        common: impl Fn(&mut SqliteArguments) -> Result<(), BoxDynError>,
        values: impl Fn(&mut SqliteArguments, &T) -> Result<(), BoxDynError>,
    ) -> Result<Vec<Bound>, StoreError> {
        let mut statements = Vec::new();
        while !rows.is_empty() {
            let shape = SHAPES.iter().position(|&size| size >= rows.len()).unwrap_or(SHAPES.len() - 1);
            let (now, later) = rows.split_at(rows.len().min(SHAPES[shape]));
            let mut arguments = SqliteArguments::default();
            arguments.reserve(now.len() * self.columns, 0);
            common(&mut arguments).map_err(sqlx::Error::Encode)?;
            for row in now {
                values(&mut arguments, row).map_err(sqlx::Error::Encode)?;
            }
            statements.push((self.shapes[shape].clone(), arguments));
            rows = later;
        }
        Ok(statements)
    }
}

/// Runs one statement to its end. Returns the result rows, and the number of changed rows.
///
/// If the connection's thread ends early, sqlx ends the rows as if they were complete.
pub(super) async fn run(
    query: Query<'_, Sqlite, SqliteArguments>,
    connection: &mut SqliteConnection,
) -> Result<(Vec<SqliteRow>, u64), StoreError> {
    let (mut rows, mut done) = (Vec::new(), None);
    let mut results = connection.fetch_many(query);
    while let Some(result) = results.try_next().await? {
        match result {
            Either::Right(row) => rows.push(row),
            Either::Left(result) => done = Some(result),
        }
    }
    let done = done.ok_or(sqlx::Error::WorkerCrashed)?;
    Ok((rows, done.rows_affected()))
}

/// Adds a log position; SQLite's integers are signed.
pub(super) fn add_seq(arguments: &mut SqliteArguments, seq: Seq) -> Result<(), BoxDynError> {
    arguments.add(i64::try_from(seq.0)?)
}

/// Adds the sender of a message; NULL for the server.
pub(super) fn add_sender(
    arguments: &mut SqliteArguments,
    sender: Option<&ClientId>,
) -> Result<(), BoxDynError> {
    arguments.add(sender.map(ClientId::as_str))
}

/// Reads a channel's key.
pub(super) fn key(row: &SqliteRow, column: usize) -> Result<ChannelKey, StoreError> {
    Ok(ChannelKey(row.try_get(column)?))
}

/// Reads a log position.
pub(super) fn seq(row: &SqliteRow, column: usize) -> Result<Seq, StoreError> {
    count(row, column).map(Seq)
}

/// Reads a stamp.
pub(super) fn stamp(row: &SqliteRow, column: usize) -> Result<Stamp, StoreError> {
    count(row, column).map(Stamp)
}

/// Reads a number that is never negative.
pub(super) fn count(row: &SqliteRow, column: usize) -> Result<u64, StoreError> {
    u64::try_from(row.try_get::<i64, _>(column)?).map_err(|_| StoreError::Corrupt { what: "number" })
}

/// Reads a channel name.
pub(super) fn channel(row: &SqliteRow, column: usize) -> Result<ChannelName, StoreError> {
    ChannelName::exact(row.try_get(column)?).map_err(|_| StoreError::Corrupt { what: "channel name" })
}

/// Reads a client id.
pub(super) fn client(row: &SqliteRow, column: usize) -> Result<ClientId, StoreError> {
    ClientId::stored(row.try_get(column)?).map_err(|_| StoreError::Corrupt { what: "client id" })
}

/// Reads a publisher's id.
pub(super) fn publisher(row: &SqliteRow, column: usize) -> Result<PublisherId, StoreError> {
    PublisherId::parse(row.try_get(column)?).ok_or(StoreError::Corrupt { what: "publisher" })
}

/// Reads the sender of a message.
pub(super) fn sender(row: &SqliteRow, column: usize) -> Result<Option<ClientId>, StoreError> {
    let text: Option<&str> = row.try_get(column)?;
    text.map(ClientId::parse).transpose().map_err(|_| StoreError::Corrupt { what: "sender" })
}

/// Reads a payload.
pub(super) fn data(row: &SqliteRow, column: usize) -> Result<Bytes, StoreError> {
    Ok(Bytes::from(row.try_get::<Vec<u8>, _>(column)?))
}

/// Adds the attributes of a message; NULL for a usual JMQT message.
pub(super) fn add_attributes(
    arguments: &mut SqliteArguments,
    attributes: &Attributes,
) -> Result<(), BoxDynError> {
    arguments.add(attributes.encode())
}

/// Adds the moment of expiry of a message; NULL if it never expires.
pub(super) fn add_expiry(
    arguments: &mut SqliteArguments,
    attributes: &Attributes,
) -> Result<(), BoxDynError> {
    arguments.add(attributes.expires_at().map(|at| i64::try_from(at).unwrap_or(i64::MAX)))
}

/// Reads the attributes of a message.
pub(super) fn attributes(row: &SqliteRow, column: usize) -> Result<Attributes, StoreError> {
    let Some(encoded) = row.try_get::<Option<&[u8]>, _>(column)? else { return Ok(Attributes::NONE) };
    Attributes::decode(encoded).ok_or(StoreError::Corrupt { what: "attributes of a message" })
}

/// Adds the options of a subscription.
pub(super) fn add_options(
    arguments: &mut SqliteArguments,
    options: SubscriptionOptions,
) -> Result<(), BoxDynError> {
    arguments.add(i64::try_from(options.bits())?)
}

/// Reads the options of a subscription.
pub(super) fn options(row: &SqliteRow, column: usize) -> Result<SubscriptionOptions, StoreError> {
    count(row, column).map(SubscriptionOptions::from_bits)
}

/// Reads a time.
pub(super) fn time(row: &SqliteRow, column: usize) -> Result<SystemTime, StoreError> {
    from_millis(row.try_get(column)?).ok_or(StoreError::Corrupt { what: "time" })
}

#[cfg(test)]
mod tests {
    use sqlx::Connection as _;

    use super::super::{
        clients, commit, cursors, exchanges, expiry, filters, log, pending, publishers, sessions, wills,
    };
    use super::*;

    const SCHEMA: &str = concat!(
        include_str!("../migrations/0001_sqlite.sql"),
        include_str!("../migrations/0002_sqlite.sql"),
        include_str!("../migrations/0003_sqlite.sql"),
        include_str!("../migrations/0004_sqlite.sql"),
        include_str!("../migrations/0005_sqlite.sql"),
        include_str!("../migrations/0006_sqlite.sql"),
        include_str!("../migrations/0007_sqlite.sql"),
        include_str!("../migrations/0008_sqlite.sql"),
        include_str!("../migrations/0009_sqlite.sql"),
        include_str!("../migrations/0010_sqlite.sql"),
    );

    #[tokio::test]
    async fn no_statement_reads_a_whole_table() {
        let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        sqlx::raw_sql(SCHEMA).execute(&mut connection).await.unwrap();
        let statements = commit::statements().into_iter().chain(cursors::statements());
        let statements = statements.chain(log::statements()).chain(sessions::statements());
        let statements = statements.chain(expiry::statements()).chain(pending::statements());
        let statements = statements.chain(clients::statements()).chain(exchanges::statements());
        let statements = statements.chain(filters::statements()).chain(wills::statements());
        for statement in statements.chain(publishers::statements()) {
            for sql in &statement.shapes {
                let explain = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {}", sql.as_str()));
                for step in sqlx::query(explain).fetch_all(&mut connection).await.unwrap() {
                    let step: &str = step.try_get(3).unwrap();
                    // What may be scanned are the rows given.
                    let given = |it: &&str| {
                        *it == "v"
                            || it.starts_with('(')
                            || it.contains("CONSTANT ROW")
                            || it.contains("VALUES")
                    };
                    let scan = step.strip_prefix("SCAN ").filter(|it| !given(it));
                    assert_eq!(scan, None, "{}", sql.as_str());
                }
            }
        }
    }

    #[tokio::test]
    async fn unused_rows_of_a_statement_are_ignored() {
        let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        sqlx::raw_sql("CREATE TABLE t (a, b)").execute(&mut connection).await.unwrap();
        let insert = "INSERT INTO t SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL";
        let insert = MultiRow::new(2, insert);
        let find = MultiRow::new(1, "SELECT a FROM t WHERE a IN ({rows})");
        for many in [0, 1, 2, 8, 9, 63, 64, 65, 200] {
            sqlx::query("DELETE FROM t").execute(&mut connection).await.unwrap();
            let rows: Vec<i64> = (0..many).collect();
            let inserted = insert.execute(&mut connection, &rows, |values, row| {
                values.add(*row)?;
                values.add(None::<i64>)
            });
            assert_eq!(inserted.await.unwrap(), many as u64);
            let found = find.fetch(&mut connection, &rows, |values, row| values.add(*row)).await;
            assert_eq!(found.unwrap().len(), many as usize);
        }
    }
}
