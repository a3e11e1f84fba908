//! Statements with many rows, and checked reading of values.
//!
//! Every statement costs a round trip to the server, so rows are grouped in few large statements of fixed
//! sizes, which stay prepared.

use std::time::SystemTime;

use bytes::Bytes;
use jmqt_core::{ChannelName, ClientId};
use sqlx::error::BoxDynError;
use sqlx::mysql::{MySqlArguments, MySqlConnection, MySqlRow};
use sqlx::{Arguments as _, AssertSqlSafe, Row as _, SqlSafeStr as _, SqlStr};

use crate::attributes::Attributes;
use crate::store::time::from_millis;
use crate::store::{ChannelKey, Seq, Stamp, StoreError, SubscriptionOptions};

/// The row counts of statements in which a row may be repeated, smallest first.
const REPEATING: [usize; 4] = [1, 8, 64, 256];

/// The same for statements in which each row is a separate SELECT.
const TABLES: [usize; 3] = [1, 8, 64];

/// The same for statements in which no row may be repeated: every number is the sum of few of these.
const EXACT: [usize; 9] = [1, 2, 4, 8, 16, 32, 64, 128, 256];

/// The bytes of a packet in addition to its rows. The statement itself is prepared on the server.
const STATEMENT_BYTES: usize = 16 << 10;

/// The bytes of a row in a packet in addition to its payload.
const ROW_BYTES: usize = 512;

/// A statement that takes any number of rows.
pub(super) struct MultiRow {
    shapes: Vec<(usize, SqlStr)>,
    repeats: bool,
}

impl MultiRow {
    /// A statement in which a row may be repeated: if it has more places than rows, the last
    /// row is repeated. `{rows}` in `sql` is replaced with one `row` for each place.
    pub(super) fn new(row: &str, separator: &str, sql: &str) -> Self {
        Self { shapes: shapes(&REPEATING, row, separator, sql), repeats: true }
    }

    /// A statement over a list of single values, `IN ({rows})`.
    pub(super) fn list(sql: &str) -> Self {
        Self::new("?", ",", sql)
    }

    /// A statement over a table of given rows, `({rows}) AS v`, with columns `a`, `b`, … of these types,
    /// `SIGNED` or `BINARY`. The types are explicit, because servers differ in the type of a `?`.
    pub(super) fn table(types: &[&str], sql: &str) -> Self {
        let column = |(name, kind): (char, &&str)| format!("CAST(? AS {kind}) AS {name}");
        let columns: Vec<_> = ('a'..).zip(types).map(column).collect();
        let row = format!("SELECT {}", columns.join(", "));
        Self { shapes: shapes(&TABLES, &row, " UNION ALL ", sql), repeats: true }
    }

    /// An INSERT without repeated rows.
    pub(super) fn insert(row: &str, sql: &str) -> Self {
        Self { shapes: shapes(&EXACT, row, ",", sql), repeats: false }
    }

    /// Runs the statement for all `rows`; `values` adds the values of one row. Returns the number of affected rows.
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

    /// Runs the statement for all `rows` and returns the result rows: repeated rows may occur twice.
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

    /// Takes rows for one statement; `None` when no rows are left.
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

/// Adds a log position; the integers of the database are signed.
pub(super) fn add_seq(arguments: &mut MySqlArguments, seq: Seq) -> Result<(), BoxDynError> {
    arguments.add(i64::try_from(seq.0)?)
}

/// Adds a channel's key.
pub(super) fn add_key(arguments: &mut MySqlArguments, key: &ChannelKey) -> Result<(), BoxDynError> {
    arguments.add(key.0)
}

/// Adds a name as bytes.
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

/// The number of payloads that fit into one packet, at least one.
pub(super) fn fitting(max_packet: usize, payloads: impl Iterator<Item = usize>) -> usize {
    let mut bytes = STATEMENT_BYTES;
    let fits = payloads.take_while(|payload| {
        bytes += payload + ROW_BYTES;
        bytes <= max_packet
    });
    fits.count().max(1)
}

/// Reads a text that may be NULL.
pub(super) fn optional_text(row: &MySqlRow, column: usize) -> Result<Option<&str>, StoreError> {
    row.try_get::<Option<&[u8]>, _>(column)?.map(utf8).transpose()
}

fn utf8(bytes: &[u8]) -> Result<&str, StoreError> {
    std::str::from_utf8(bytes).map_err(|_| StoreError::Corrupt { what: "text" })
}

/// Reads a channel name.
pub(super) fn channel(row: &MySqlRow, column: usize) -> Result<ChannelName, StoreError> {
    ChannelName::exact(text(row, column)?).map_err(|_| StoreError::Corrupt { what: "channel name" })
}

/// Reads a client id.
pub(super) fn client(row: &MySqlRow, column: usize) -> Result<ClientId, StoreError> {
    ClientId::stored(text(row, column)?).map_err(|_| StoreError::Corrupt { what: "client id" })
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

/// Adds the attributes of a message; NULL for a usual JMQT message.
pub(super) fn add_attributes(
    arguments: &mut MySqlArguments,
    attributes: &Attributes,
) -> Result<(), BoxDynError> {
    arguments.add(attributes.encode())
}

/// Adds the moment of expiry of a message; NULL if it never expires.
pub(super) fn add_expiry(arguments: &mut MySqlArguments, attributes: &Attributes) -> Result<(), BoxDynError> {
    arguments.add(attributes.expires_at().map(|at| i64::try_from(at).unwrap_or(i64::MAX)))
}

/// Reads the attributes of a message.
pub(super) fn attributes(row: &MySqlRow, column: usize) -> Result<Attributes, StoreError> {
    let Some(encoded) = row.try_get::<Option<&[u8]>, _>(column)? else { return Ok(Attributes::NONE) };
    Attributes::decode(encoded).ok_or(StoreError::Corrupt { what: "attributes of a message" })
}

/// Adds the options of a subscription.
pub(super) fn add_options(
    arguments: &mut MySqlArguments,
    options: SubscriptionOptions,
) -> Result<(), BoxDynError> {
    arguments.add(i64::try_from(options.bits())?)
}

/// Reads the options of a subscription.
pub(super) fn options(row: &MySqlRow, column: usize) -> Result<SubscriptionOptions, StoreError> {
    count(row, column).map(SubscriptionOptions::from_bits)
}

/// Reads a time.
pub(super) fn time(row: &MySqlRow, column: usize) -> Result<SystemTime, StoreError> {
    from_millis(row.try_get(column)?).ok_or(StoreError::Corrupt { what: "time" })
}
