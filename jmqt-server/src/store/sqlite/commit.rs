//! One batch: loads the needed rows, carries out the batch in memory, writes the changed rows.

use std::sync::LazyLock;
use std::time::SystemTime;

use jmqt_core::{ChannelName, ClientId};
use sqlx::error::BoxDynError;
use sqlx::sqlite::{SqliteArguments, SqliteConnection};
use sqlx::{Arguments as _, Row as _};

use super::rescue::MayCopy;
use super::rows::{self, MultiRow};
use super::writer::Writer;
use super::{SqliteStore, clients, cursors, exchanges, filters, publishers, wills};
use crate::store::cursor::CursorRow;
use crate::store::filters::PersistentFilters;
use crate::store::limits::limited;
use crate::store::plan::{ChannelRow, Plan};
use crate::store::retained::RetainedRoom;
use crate::store::time::millis;
use crate::store::{ChannelKey, Operation, Outcome, Stamp, StoreError};

static CHANNELS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        1,
        "SELECT name, id, last_seq, persistent_count, total_bytes FROM channels WHERE name IN ({rows})",
    )
});
/// `length` reads only the header of a row; `bytes` is stored after the payload.
static RETAINED: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        1,
        "SELECT channel_id, length(data) + COALESCE(length(attributes), 0), expires_at, sender FROM retained \
         WHERE channel_id IN ({rows})",
    )
});

static MAKE_CHANNELS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        5,
        "INSERT INTO channels (id, name, last_seq, persistent_count, total_bytes) \
         SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL",
    )
});
static CHANGE_CHANNELS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        4,
        "UPDATE channels SET last_seq = v.column2, persistent_count = v.column3, total_bytes = v.column4 \
         FROM (VALUES {rows}) AS v WHERE channels.id = v.column1",
    )
});
static LOG: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        6,
        "INSERT INTO messages (created_at, stamp, channel_id, seq, bytes_before, sender, data, attributes) \
         SELECT ?, ?, * FROM (VALUES {rows}) WHERE column1 IS NOT NULL",
    )
});
static SUBSCRIBE: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        5,
        "INSERT OR REPLACE INTO subscriptions (channel_id, client_id, acked_seq, acked_beyond, options) \
         SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL",
    )
});
/// The join tells SQLite the types it needs to use the keys; bare VALUES would mean a full scan.
static UNSUBSCRIBE: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        2,
        "DELETE FROM subscriptions WHERE (client_id, channel_id) IN \
         (SELECT s.client_id, s.channel_id FROM (VALUES {rows}) AS v CROSS JOIN subscriptions AS s \
         ON s.channel_id = v.column1 AND s.client_id = v.column2)",
    )
});
static RETAIN: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        6,
        "INSERT OR REPLACE INTO retained (channel_id, bytes, sender, data, attributes, expires_at) \
         SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL",
    )
});
static CLEAR: LazyLock<MultiRow> =
    LazyLock::new(|| MultiRow::new(1, "DELETE FROM retained WHERE channel_id IN ({rows})"));
static ADD_CLIENTS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        2,
        "INSERT OR IGNORE INTO clients (client_id, last_seen) \
         SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL",
    )
});
static FORGET_CLIENTS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        1,
        "DELETE FROM clients WHERE client_id IN ({rows}) AND language = 0 AND NOT EXISTS \
         (SELECT 1 FROM subscriptions AS s WHERE s.client_id = clients.client_id) \
         RETURNING client_id",
    )
});
/// Deletes channels that have no content left.
static FORGET_CHANNELS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        1,
        "DELETE FROM channels WHERE id IN ({rows}) AND persistent_count = 0 \
         AND NOT EXISTS (SELECT 1 FROM messages AS m WHERE m.channel_id = channels.id) \
         AND NOT EXISTS (SELECT 1 FROM retained AS r WHERE r.channel_id = channels.id)",
    )
});

#[cfg(test)]
pub(super) fn statements() -> [&'static MultiRow; 12] {
    [
        &CHANNELS,
        &RETAINED,
        &MAKE_CHANNELS,
        &CHANGE_CHANNELS,
        &LOG,
        &SUBSCRIBE,
        &UNSUBSCRIBE,
        &RETAIN,
        &CLEAR,
        &ADD_CLIENTS,
        &FORGET_CLIENTS,
        &FORGET_CHANNELS,
    ]
}

impl SqliteStore {
    /// See [`Store::commit`](crate::store::Store::commit).
    pub(super) async fn commit_batch(&self, batch: &[Operation]) -> Result<Vec<Outcome>, StoreError> {
        let mut plan = self.plan(batch)?;
        if plan.concerns_nothing() {
            return Ok(plan.carry_out(batch, &mut 0));
        }
        let mut writer = self.writer().await?;
        let mut filters = writer.take_filters().await?;
        let may_change = filters::may_change(&filters, batch);
        let result = self.commit_with_filters(&mut writer, &mut filters, batch, plan, may_change).await;
        if result.is_ok() || !may_change {
            writer.filters = Some(filters);
        }
        result
    }

    fn plan<'b>(&self, batch: &'b [Operation]) -> Result<Plan<'b>, StoreError> {
        Ok(Plan::new(batch, Stamp::random()?, |name| self.retained.may_contain(name.as_str())))
    }

    /// Adds the steps to the batch that the filters need, and commits it.
    async fn commit_with_filters<'b>(
        &self,
        writer: &mut Writer,
        filters: &mut PersistentFilters,
        batch: &'b [Operation],
        plan: Plan<'b>,
        may_change: bool,
    ) -> Result<Vec<Outcome>, StoreError> {
        let mut outdated = Vec::new();
        if may_change {
            outdated = limited(filters::prepare(writer.connection()?, filters, batch)).await?;
        }
        let Some(expanded) = filters.expanded(batch, &outdated) else {
            let outcomes = self.commit_plan(writer, batch, plan).await?;
            filters.ended_groups_are_gone();
            return Ok(outcomes);
        };
        let plan = self.plan(&expanded.batch)?;
        let outcomes = self.commit_plan(writer, &expanded.batch, plan).await?;
        let outcomes = expanded.outcomes(outcomes);
        filters.committed(expanded);
        filters.ended_groups_are_gone();
        Ok(outcomes)
    }

    async fn commit_plan<'b>(
        &self,
        writer: &mut Writer,
        batch: &'b [Operation],
        mut plan: Plan<'b>,
    ) -> Result<Vec<Outcome>, StoreError> {
        let prepared = limited(async {
            load(writer.connection()?, &mut plan, batch).await?;
            writer.load_publishers(&mut plan).await?;
            exchanges::load(writer.connection()?, &mut plan).await?;
            let room = RetainedRoom { limits: self.retained_limits, totals: writer.retained };
            plan.put_room(room, &writer.retained_by, batch);
            let outcomes = plan.carry_out(batch, &mut writer.next_channel);
            if plan.is_unchanged() {
                return Ok((outcomes, Vec::new(), Vec::new()));
            }
            if !plan.messages().is_empty() || !plan.retained().is_empty() || !plan.new_wills().is_empty() {
                let messages: usize =
                    plan.messages().iter().map(|message| message.append.stored_bytes()).sum();
                let retained: usize = plan.retained().iter().map(|(_, _, retained)| retained.bytes()).sum();
                let wills: usize = plan.new_wills().iter().map(|will| will.stored_bytes()).sum();
                self.check_room(writer.connection()?, (messages + retained + wills) as u64).await?;
            }
            self.expect(&plan);
            writer.begin().await?;
            let gone = write(writer.connection()?, &plan).await?;
            let forgotten = publishers::write(writer.connection()?, &plan).await?;
            exchanges::write(writer.connection()?, &plan).await?;
            Ok((outcomes, gone, forgotten))
        })
        .await;
        let (outcomes, gone, forgotten) = writer.finish(prepared).await?;
        writer.retained = plan.room().totals;
        writer.retained_by.committed(plan.take_retained_by());
        writer.publishers.keep(plan.take_publishers());
        writer.publishers.forget(&forgotten);
        for client in gone.iter().chain(plan.gone_clients()) {
            self.clients.remove(client.as_str());
        }
        for (_, channel) in plan.cleared() {
            self.retained.remove(channel.as_str());
        }
        writer.to_trim.extend(&plan.left());
        // The state in memory belongs to the open files, even if they are deleted.
        if let Err(error) = self.guard.check_commit() {
            self.rescue(writer, MayCopy::No).await;
            return Err(error);
        }
        Ok(outcomes)
    }

    /// Fails if there is no room for another message. Trimmed messages free space in the database, but not on the disk.
    async fn check_room(&self, connection: &mut SqliteConnection, bytes: u64) -> Result<(), StoreError> {
        if self.guard.has_room(bytes) {
            return Ok(());
        }
        let sql = "SELECT freelist_count * page_size FROM pragma_freelist_count, pragma_page_size";
        let unused: i64 = sqlx::query_scalar(sql).fetch_one(connection).await?;
        self.guard.check_room(unused.unsigned_abs())
    }

    /// Adds the new names of the batch to the names in memory.
    fn expect(&self, plan: &Plan<'_>) {
        for (_, client, ..) in plan.subscribed().into_iter().filter(|(_, client, ..)| !client.is_group()) {
            self.clients.insert(client.as_str());
        }
        for (client, _) in plan.changed_clients() {
            self.clients.insert(client.as_str());
        }
        for (_, channel, _) in plan.retained() {
            self.retained.insert(channel.as_str());
        }
    }
}

/// Inserts the needed rows into `plan`.
async fn load<'b>(
    connection: &mut SqliteConnection,
    plan: &mut Plan<'b>,
    batch: &'b [Operation],
) -> Result<(), StoreError> {
    let names = plan.names();
    let by_name = CHANNELS.fetch(connection, &names, |values, name| values.add(name.as_str()));
    for row in by_name.await? {
        let (name, key) = (rows::channel(&row, 0)?, rows::key(&row, 1)?);
        let (last, persistent, bytes) = (rows::seq(&row, 2)?, rows::count(&row, 3)?, rows::count(&row, 4)?);
        plan.put_channel(&name, ChannelRow { key, last, persistent, bytes });
    }

    clients::load(connection, plan, batch).await?;
    filters::load(connection, plan).await?;
    wills::load(connection, plan).await?;
    let pairs = plan.subscriptions_to_load(batch);
    for (key, client, cursor, options) in cursors::fetch(connection, &pairs).await? {
        if let Ok(index) = pairs.binary_search(&(key, &client)) {
            plan.put_subscription(key, pairs[index].1, cursor, options);
        }
    }

    let keys = plan.retained_to_load(batch);
    for row in RETAINED.fetch(connection, &keys, add_key).await? {
        let (key, bytes, until) = (rows::key(&row, 0)?, rows::count(&row, 1)?, row.try_get(2)?);
        plan.put_retained(key, bytes, until, rows::sender(&row, 3)?);
    }
    Ok(())
}

/// Writes the changed rows, and returns the clients that have no subscription any more.
async fn write(connection: &mut SqliteConnection, plan: &Plan<'_>) -> Result<Vec<ClientId>, StoreError> {
    write_channels(connection, plan).await?;
    write_messages(connection, plan).await?;
    let gone = write_subscriptions(connection, plan).await?;
    write_retained(connection, plan).await?;
    wills::write(connection, plan).await?;
    forget_channels(connection, &plan.left()).await?;
    Ok(gone)
}

async fn write_channels(connection: &mut SqliteConnection, plan: &Plan<'_>) -> Result<(), StoreError> {
    let (made, changed) = (plan.made(), plan.changed());
    let make = MAKE_CHANNELS.execute(connection, &made, |values, channel| {
        values.add(channel.key.map(|key| key.0))?;
        values.add(channel.name.map(ChannelName::as_str))?;
        rows::add_seq(values, channel.last)?;
        values.add(i64::try_from(channel.persistent)?)?;
        values.add(i64::try_from(channel.bytes)?)
    });
    make.await?;
    let change = CHANGE_CHANNELS.execute(connection, &changed, |values, channel| {
        values.add(channel.key.map(|key| key.0))?;
        rows::add_seq(values, channel.last)?;
        values.add(i64::try_from(channel.persistent)?)?;
        values.add(i64::try_from(channel.bytes)?)
    });
    change.await?;
    Ok(())
}

async fn write_messages(connection: &mut SqliteConnection, plan: &Plan<'_>) -> Result<(), StoreError> {
    let common = |values: &mut SqliteArguments| {
        values.add(millis(SystemTime::now()))?;
        values.add(i64::try_from(plan.stamp().0)?)
    };
    let log = LOG.execute_with(connection, plan.messages(), common, |values, message| {
        values.add(message.key.0)?;
        rows::add_seq(values, message.seq)?;
        values.add(i64::try_from(message.bytes_before)?)?;
        rows::add_sender(values, message.append.sender.as_ref())?;
        values.add(&message.append.data[..])?;
        rows::add_attributes(values, &message.append.attributes)
    });
    log.await?;
    Ok(())
}

async fn write_subscriptions(
    connection: &mut SqliteConnection,
    plan: &Plan<'_>,
) -> Result<Vec<ClientId>, StoreError> {
    let (gone, new) = (plan.unsubscribed(), plan.subscribed());
    UNSUBSCRIBE.execute(connection, &gone, add_pair).await?;
    let subscribe = SUBSCRIBE.execute(connection, &new, |values, (key, client, cursor, options)| {
        let cursor = CursorRow::from((*cursor).clone());
        values.add(key.0)?;
        values.add(client.as_str())?;
        rows::add_seq(values, cursor.acked)?;
        values.add(cursor.beyond)?;
        rows::add_options(values, *options)
    });
    subscribe.await?;
    let now = millis(SystemTime::now());
    let clients: Vec<_> = new.iter().filter(|(_, client, ..)| !client.is_group()).collect();
    let add = ADD_CLIENTS.execute(connection, &clients, |values, (_, client, ..)| {
        values.add(client.as_str())?;
        values.add(now)
    });
    add.await?;
    clients::write(connection, plan).await?;
    filters::write(connection, plan).await?;
    let forget = FORGET_CLIENTS.fetch(connection, &gone, |values, (_, client)| values.add(client.as_str()));
    forget.await?.iter().map(|row| rows::client(row, 0)).collect()
}

async fn write_retained(connection: &mut SqliteConnection, plan: &Plan<'_>) -> Result<(), StoreError> {
    let (retained, cleared) = (plan.retained(), plan.cleared());
    let retain = RETAIN.execute(connection, &retained, |values, (key, _, retained)| {
        values.add(key.0)?;
        values.add(i64::try_from(retained.bytes())?)?;
        rows::add_sender(values, retained.sender.as_ref())?;
        values.add(&retained.data[..])?;
        rows::add_attributes(values, &retained.attributes)?;
        rows::add_expiry(values, &retained.attributes)
    });
    retain.await?;
    CLEAR.execute(connection, &cleared, |values, (key, _)| values.add(key.0)).await?;
    Ok(())
}

/// Deletes channels that have no subscription, message or retained message left.
pub(super) async fn forget_channels(
    connection: &mut SqliteConnection,
    channels: &[ChannelKey],
) -> Result<(), StoreError> {
    FORGET_CHANNELS.execute(connection, channels, add_key).await?;
    Ok(())
}

fn add_key(values: &mut SqliteArguments, key: &ChannelKey) -> Result<(), BoxDynError> {
    values.add(key.0)
}

fn add_pair(
    values: &mut SqliteArguments,
    (key, client): &(ChannelKey, &ClientId),
) -> Result<(), BoxDynError> {
    values.add(key.0)?;
    values.add(client.as_str())
}
