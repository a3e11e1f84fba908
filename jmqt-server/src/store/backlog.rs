//! Which messages go when too many wait for a client: the oldest, whatever their channels. Nothing here
//! knows what database they are in.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Instant;

use jmqt_protocol::ClientId;

use super::cursor::{self, CursorRow};
use super::limits::TIME_LIMIT;
use super::{ChannelKey, Cursor, Dropped, Seq, StoreError, StoredSubscription, Swept};

/// How many clients are looked at in one call of [`sweep`].
pub(super) const CLIENTS_AT_A_TIME: i64 = 256;

/// A store whose clients can be looked through for messages that wait.
pub(super) trait Sweep {
    /// Of the next [`CLIENTS_AT_A_TIME`] clients behind `after` those that may have more than `limit`
    /// messages to acknowledge, in order, and the last one that was looked at, unless it was the last of all.
    fn clients_behind(
        &self,
        limit: u64,
        after: Option<&ClientId>,
    ) -> impl Future<Output = Result<(Vec<ClientId>, Option<ClientId>), StoreError>> + Send;

    /// Gives up a client's oldest messages until it has `limit` left.
    fn drop_pending_of(
        &self,
        client: &ClientId,
        limit: u64,
    ) -> impl Future<Output = Result<Vec<Dropped>, StoreError>> + Send;
}

/// See [`Store::limit_pending`](super::Store::limit_pending). Clients are dealt with one after another: an
/// error after some ends it early and is not reported, so that what was dropped is; the next call meets it
/// again.
pub(super) async fn sweep(
    store: &(impl Sweep + Sync),
    limit: u64,
    after: Option<&ClientId>,
) -> Result<Swept, StoreError> {
    let until = Instant::now() + TIME_LIMIT;
    let (behind, last) = store.clients_behind(limit, after).await?;
    let mut swept = Swept { dropped: Vec::new(), more_after: after.cloned() };
    for client in behind {
        if Instant::now() > until {
            return Ok(swept);
        }
        match store.drop_pending_of(&client, limit).await {
            Err(error) if swept.dropped.is_empty() => return Err(error),
            Err(_) => return Ok(swept),
            Ok(of_client) => swept.dropped.extend(of_client),
        }
        swept.more_after = Some(client);
    }
    Ok(Swept { more_after: last, ..swept })
}

/// Tells when messages were logged.
pub(super) trait LogTimes {
    /// The next messages of a log behind `after`, in order, as many as are read at a time; each with its
    /// time in milliseconds since 1970. Empty at the log's end.
    fn times(
        &mut self,
        key: ChannelKey,
        after: Seq,
    ) -> impl Future<Output = Result<Vec<(Seq, i64)>, StoreError>> + Send;
}

/// One of a client's logs, read from its cursor on.
pub(super) struct Backlog<'s> {
    subscription: &'s StoredSubscription,
    /// Messages up to here are given up.
    up_to: Seq,
    /// What comes next, with the time it was logged.
    next: VecDeque<(Seq, i64)>,
}

impl Backlog<'_> {
    pub(super) fn key(&self) -> ChannelKey {
        self.subscription.key
    }

    /// When its next message was logged; `None` at its end.
    async fn next_logged_at(&mut self, log: &mut impl LogTimes) -> Result<Option<i64>, StoreError> {
        if self.next.is_empty() && self.up_to < self.subscription.last {
            self.next.extend(log.times(self.key(), self.up_to).await?);
        }
        Ok(self.next.front().map(|&(_, logged_at)| logged_at))
    }
}

/// How many messages a client has to lose to have `limit` left; `None` for none.
pub(super) fn excess(subscriptions: &[StoredSubscription], limit: u64) -> Option<u64> {
    let pending = |subscription: &StoredSubscription| {
        let cursor = &subscription.cursor;
        let behind = subscription.last.0.saturating_sub(cursor.acked.0);
        behind.saturating_sub(cursor::acked_beyond(cursor))
    };
    let all: u64 = subscriptions.iter().map(pending).sum();
    all.checked_sub(limit).filter(|&excess| excess > 0)
}

/// The logs that hold the `excess` oldest messages, and up to where. Logs are merged by the time of
/// their next message, so that only as many are read as have to go.
pub(super) async fn oldest<'s>(
    log: &mut impl LogTimes,
    subscriptions: &'s [StoredSubscription],
    mut excess: u64,
) -> Result<Vec<Backlog<'s>>, StoreError> {
    let mut backlogs = Vec::new();
    let mut turns = BinaryHeap::new();
    for subscription in subscriptions {
        let mut backlog = Backlog { subscription, up_to: subscription.cursor.acked, next: VecDeque::new() };
        if let Some(logged_at) = backlog.next_logged_at(log).await? {
            turns.push(Reverse((logged_at, backlogs.len())));
            backlogs.push(backlog);
        }
    }
    while let Some(Reverse((_, index))) = turns.pop().filter(|_| excess > 0) {
        let backlog = &mut backlogs[index];
        let Some((seq, _)) = backlog.next.pop_front() else {
            continue;
        };
        backlog.up_to = seq;
        excess -= u64::from(!cursor::is_acked(&backlog.subscription.cursor, seq));
        if let Some(logged_at) = backlog.next_logged_at(log).await? {
            turns.push(Reverse((logged_at, index)));
        }
    }
    backlogs.retain(|backlog| backlog.up_to > backlog.subscription.cursor.acked);
    Ok(backlogs)
}

/// Moves cursors on over what is given up, from where they are by now: what that drops, and the new rows.
pub(super) fn pass_over<'c>(
    backlogs: &[Backlog<'_>],
    client: &'c ClientId,
    cursors: Vec<(ChannelKey, Cursor)>,
) -> (Vec<Dropped>, Vec<(ChannelKey, &'c str, CursorRow)>) {
    let mut dropped = Vec::new();
    let mut rows = Vec::new();
    for (key, mut cursor) in cursors {
        let Some(backlog) = backlogs.iter().find(|backlog| backlog.key() == key) else {
            continue;
        };
        let Some(by) = backlog.up_to.0.checked_sub(cursor.acked.0).filter(|&by| by > 0) else {
            continue;
        };
        let messages = by - cursor::acked_within(&cursor, by);
        cursor::advance(&mut cursor, by);
        let (client_id, channel) = (client.clone(), backlog.subscription.channel.clone());
        dropped.push(Dropped { client: client_id, channel, key, up_to: cursor.acked, messages });
        rows.push((key, client.as_str(), cursor.into()));
    }
    (dropped, rows)
}
