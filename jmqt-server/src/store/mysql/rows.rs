//! Many rows in one statement, and values of rows checked as they are read.
//!
//! Every statement costs a trip to the server, so rows go in few large statements; their shapes are
//! fixed, so that each stays prepared.

use std::time::SystemTime;

use bytes::Bytes;
use jmqt_core::{ChannelName, ClientId};
use sqlx::error::BoxDynError;
use sqlx::mysql::{MySqlArguments, MySqlConnection, MySqlRow};
use sqlx::{Arguments as _, AssertSqlSafe, Row as _, SqlSafeStr as _, SqlStr};

use crate::store::time::from_millis;
use crate::store::{ChannelKey, Seq, Stamp, StoreError};

/// How many rows a statement can take, smallest first, where a row may come twice.
const REPEATING: [usize; 4] = [1, 8, 64, 256];

/// The same where each row is a SELECT of its own.
const TABLES: [usize; 3] = [1, 8, 64];

/// The same where every row has to come once: any number is a sum of few of these.
const EXACT: [usize; 9] = [1, 2, 4, 8, 16, 32, 64, 128, 256];

/// Bytes of a packet beside its rows. The statement itself is known to the server.
const STATEMENT_BYTES: usize = 16 << 10;

/// Bytes of a row in a packet beside its payload.
const ROW_BYTES: usize = 512;

/// A statement that takes any number of rows.
pub(super) struct MultiRow {
    shapes: Vec<(usize, SqlStr)>,
    repeats: bool,
}

impl MultiRow {
    /// A statement that may meet a row twice: where it has more places than there are rows, the last
    /// one is repeated. `{rows}` in `sql` stands for as many of `row` as there are places.
    pub(super) fn new(row: &str, separator: &str, sql: &str) -> Self {
        Self { shapes: shapes(&REPEATING, row, separator, sql), repeats: true }
    }

    /// A statement over a list of single values, `IN ({rows})`.
    pub(super) fn list(sql: &str) -> Self {
        Self::new("?", ",", sql)
    }

    /// A statement over a table of given rows, `({rows}) AS v`, with columns `a`, `b`, … of these types,
    /// `SIGNED` or `BINARY`. They are told, because servers differ in what they take a `?` for.
    pub(super) fn table(types: &[&str], sql: &str) -> Self {
        let column = |(name, kind): (char, &&str)| format!("CAST(? AS {kind}) AS {name}");
        let columns: Vec<_> = ('a'..).zip(types).map(column).collect();
        let row = format!("SELECT {}", columns.join(", "));
        Self { shapes: shapes(&TABLES, &row, " UNION ALL ", sql), repeats: true }
    }

    /// An INSERT that takes each row once.
    pub(super) fn insert(row: &str, sql: &str) -> Self {
        Self { shapes: shapes(&EXACT, row, ",", sql), repeats: false }
    }

    /// Runs it for all `rows`; `values` adds the values of one. Returns how many rows it met.
    pub(super) async fn execute<T>(
        &self,
        connection: &mut MySqlConnection,
        mut rows: &[T],
        values: impl Fn(&mut MySqlArguments, &T) -> Result<(), BoxDynError>,
    ) -> Result<u64, StoreError> {
        let mut met = 0;
        while let Some((sql, arguments)) = self.bind(&mut rows, &values)? {
            met += sqlx::query_with(sql, arguments).execute(&mut *connection).await?.rows_affected();
        }
        Ok(met)
    }

    /// Runs it for all `rows` and returns what came back: rows that were repeated may come back twice.
    pub(super) async fn fetch<T>(
        &self,
        connection: &mut MySqlConnection,
        mut rows: &[T],
        values: impl Fn(&mut MySqlArguments, &T) -> Result<(), BoxDynError>,
    ) -> Result<Vec<MySqlRow>, StoreError> {
        let mut found = Vec::new();
        while let Some((sql, arguments)) = self.bind(&mut rows, &values)? {
            found.extend(sqlx::query_with(sql, arguments).fetch_all(&mut *connection).await?);
        }
        Ok(found)
    }

    /// Takes rows for one statement; `None` when there are none left.
    fn bind<T>(
        &self,
        rows: &mut &[T],
        values: impl Fn(&mut MySqlArguments, &T) -> Result<(), BoxDynError>,
    ) -> Result<Option<(SqlStr, MySqlArguments)>, StoreError> {
        let Some(last) = rows.last() else { return Ok(None) };
        let fits = |(size, _): &&(usize, SqlStr)| {
            if self.repeats { *size >= rows.len() } else { *size <= rows.len() }
        };
        let (mut from_small, mut from_large) = (self.shapes.iter(), self.shapes.iter().rev());
        let shape = if self.repeats { from_small.find(fits) } else { from_large.find(fits) };
        let largest = self.shapes.len() - 1;
        let (size, sql) = shape.unwrap_or(&self.shapes[largest]);
        let (now, later) = rows.split_at(rows.len().min(*size));
        let mut arguments = MySqlArguments::default();
        let places = now.iter().chain(std::iter::repeat(last)).take(*size);
        for row in places {
            values(&mut arguments, row).map_err(sqlx::Error::Encode)?;
        }
        *rows = later;
        Ok(Some((sql.clone(), arguments)))
    }
}

fn shapes(sizes: &[usize], row: &str, separator: &str, sql: &str) -> Vec<(usize, SqlStr)> {
    let shape = |&size: &usize| {
        let rows = vec![row; size].join(separator);
        let text: std::sync::Arc<str> = sql.replace("{rows}", &rows).into();
        (size, AssertSqlSafe(text).into_sql_str()) // made of constants only
    };
    sizes.iter().map(shape).collect()
}

/// Adds a place in a log; the database's integers are signed.
pub(super) fn add_seq(arguments: &mut MySqlArguments, seq: Seq) -> Result<(), BoxDynError> {
    arguments.add(i64::try_from(seq.0)?)
}

/// Adds a channel's key.
pub(super) fn add_key(arguments: &mut MySqlArguments, key: &ChannelKey) -> Result<(), BoxDynError> {
    arguments.add(key.0)
}

/// Adds a name, as the bytes it is.
pub(super) fn add_name(arguments: &mut MySqlArguments, name: &str) -> Result<(), BoxDynError> {
    arguments.add(name.as_bytes())
}

/// Adds the sender of a message; NULL for the server.
pub(super) fn add_sender(
    arguments: &mut MySqlArguments,
    sender: Option<&ClientId>,
) -> Result<(), BoxDynError> {
    arguments.add(sender.map(|sender| sender.as_str().as_bytes()))
}

/// Reads a channel's key.
pub(super) fn key(row: &MySqlRow, column: usize) -> Result<ChannelKey, StoreError> {
    Ok(ChannelKey(row.try_get(column)?))
}

/// Reads a log position.
pub(super) fn seq(row: &MySqlRow, column: usize) -> Result<Seq, StoreError> {
    count(row, column).map(Seq)
}

/// Reads a stamp.
pub(super) fn stamp(row: &MySqlRow, column: usize) -> Result<Stamp, StoreError> {
    count(row, column).map(Stamp)
}

/// Reads a number that is never negative.
pub(super) fn count(row: &MySqlRow, column: usize) -> Result<u64, StoreError> {
    u64::try_from(row.try_get::<i64, _>(column)?).map_err(|_| StoreError::Corrupt { what: "number" })
}

/// Reads a text.
pub(super) fn text(row: &MySqlRow, column: usize) -> Result<&str, StoreError> {
    utf8(row.try_get(column)?)
}

/// How many payloads go into one packet: one at least.
pub(super) fn fitting(max_packet: usize, payloads: impl Iterator<Item = usize>) -> usize {
    let mut bytes = STATEMENT_BYTES;
    let fits = payloads.take_while(|payload| {
        bytes += payload + ROW_BYTES;
        bytes <= max_packet
    });
    fits.count().max(1)
}

/// Reads a text that may be missing.
pub(super) fn optional_text(row: &MySqlRow, column: usize) -> Result<Option<&str>, StoreError> {
    row.try_get::<Option<&[u8]>, _>(column)?.map(utf8).transpose()
}

fn utf8(bytes: &[u8]) -> Result<&str, StoreError> {
    std::str::from_utf8(bytes).map_err(|_| StoreError::Corrupt { what: "text" })
}

/// Reads a channel name.
pub(super) fn channel(row: &MySqlRow, column: usize) -> Result<ChannelName, StoreError> {
    let text = text(row, column)?;
    match ChannelName::parse(text) {
        Ok(name) if name.as_str() == text => Ok(name),
        _ => Err(StoreError::Corrupt { what: "channel name" }),
    }
}

/// Reads a client id.
pub(super) fn client(row: &MySqlRow, column: usize) -> Result<ClientId, StoreError> {
    ClientId::parse(text(row, column)?).map_err(|_| StoreError::Corrupt { what: "client id" })
}

/// Reads the sender of a message.
pub(super) fn sender(row: &MySqlRow, column: usize) -> Result<Option<ClientId>, StoreError> {
    let text = optional_text(row, column)?;
    text.map(ClientId::parse).transpose().map_err(|_| StoreError::Corrupt { what: "sender" })
}

/// Reads a payload.
pub(super) fn data(row: &MySqlRow, column: usize) -> Result<Bytes, StoreError> {
    Ok(Bytes::from(row.try_get::<Vec<u8>, _>(column)?))
}

/// Reads a time.
pub(super) fn time(row: &MySqlRow, column: usize) -> Result<SystemTime, StoreError> {
    from_millis(row.try_get(column)?).ok_or(StoreError::Corrupt { what: "time" })
}
