//! Selects the messages to drop when a client has too many pending messages. Independent of the kind of database.
//!
//! Shares are fair: the channel with most pending messages loses its oldest messages first, until the rest of all
//! channels fits. So a publisher to one channel does not displace pending messages of other channels. A client's own
//! point-to-point channel, to which all clients may publish, has a separate, smaller limit. In it, the
//! publisher with most pending messages loses first. Its messages are deleted one by one, because no other client reads
//! them.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use jmqt_core::ClientId;

use super::cursor::{self, CursorRow};
use super::{ChannelKey, Cursor, Dropped, PendingLimits, Seq, StoreError, StoredSubscription, Swept};
use crate::log_limit::log_limited;

/// The number of subscriptions that one call of [`sweep`] checks, unless a single client has more.
pub(super) const SUBSCRIPTIONS_AT_A_TIME: i64 = 512;

/// The most subscriptions of one client that are checked.
pub(super) const MOST_SUBSCRIPTIONS: i64 = 1 << 20;

/// After this time a call of [`sweep`] begins no further step. Finished steps stay done, and the next
/// calls continue from there.
const TURN: Duration = Duration::from_millis(500);

/// The number of cursors that one transaction moves.
const CUTS_AT_A_TIME: usize = 256;

/// The number of messages of a point-to-point channel that one statement reads,
pub(super) const LOOKED_AT: i64 = 1024;

/// and that one turn reads.
const MOST_LOOKED_AT: usize = 200_000;

/// The most messages that one transaction deletes.
const DELETED_AT_A_TIME: u64 = 2048;

/// The share of one publisher in the limits of a point-to-point channel: a tenth.
pub(super) const SHARE_OF_ONE: u64 = 10;

/// The pending messages of a client in one channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pending {
    pub(super) key: ChannelKey,
    pub(super) messages: u64,
    pub(super) bytes: u64,
    /// `true` for the client's own point-to-point channel.
    pub(super) is_own: bool,
}

/// The messages to keep of one channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kept {
    key: ChannelKey,
    messages: u64,
    bytes: u64,
}

/// A message of a point-to-point channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OwnMessage {
    pub(super) seq: Seq,
    pub(super) sender: Option<ClientId>,
    pub(super) bytes: u64,
}

/// A channel whose messages are dropped up to a position.
#[derive(Debug)]
pub(super) struct Cut {
    subscription: StoredSubscription,
    up_to: Seq,
}

impl Cut {
    pub(super) fn key(&self) -> ChannelKey {
        self.subscription.key
    }
}

/// A store that can be searched for clients with pending messages. Each call is one short step.
pub(super) trait Sweep {
    /// Checks the next [`SUBSCRIPTIONS_AT_A_TIME`] subscriptions after those of `after`. Returns the clients that may
    /// exceed
    /// a limit, in order, and the last checked client, unless no client is left.
    /// A client with more subscriptions than that is returned alone, whether or not it exceeds a limit.
    fn clients_behind(
        &self,
        limits: PendingLimits,
        after: Option<&ClientId>,
    ) -> impl Future<Output = Result<(Vec<ClientId>, Option<ClientId>), StoreError>> + Send;

    /// The channels with pending messages for the client, of its first [`MOST_SUBSCRIPTIONS`] subscriptions.
    fn pending_of(&self, client: &ClientId) -> impl Future<Output = Result<Vec<Pending>, StoreError>> + Send;

    /// The client's subscriptions to these channels that exist.
    fn positions(
        &self,
        client: &ClientId,
        keys: &[ChannelKey],
    ) -> impl Future<Output = Result<Vec<StoredSubscription>, StoreError>> + Send;

    /// The first message after `after` from which on at most `bytes` of payload are logged.
    fn first_within(
        &self,
        key: ChannelKey,
        after: Seq,
        bytes: u64,
    ) -> impl Future<Output = Result<Option<Seq>, StoreError>> + Send;

    /// Moves cursors forward over dropped messages.
    fn raise(
        &self,
        client: &ClientId,
        cuts: &[Cut],
    ) -> impl Future<Output = Result<Vec<Dropped>, StoreError>> + Send;

    /// The last [`LOOKED_AT`] messages of a log after `after` and before `before`, the newest first.
    fn newest(
        &self,
        key: ChannelKey,
        after: Seq,
        before: Seq,
    ) -> impl Future<Output = Result<Vec<OwnMessage>, StoreError>> + Send;

    /// Deletes messages of a log, and returns their number.
    fn delete(
        &self,
        key: ChannelKey,
        ranges: &[RangeInclusive<u64>],
    ) -> impl Future<Output = Result<u64, StoreError>> + Send;
}

/// See [`Store::limit_pending`](super::Store::limit_pending). Clients are handled one after another. A client with
/// invalid data is logged and skipped, so that it does not delay others. Another error after some clients ends the
/// call early and is not returned, so that the caller gets the dropped messages; the next call meets the error again.
pub(super) async fn sweep(
    store: &(impl Sweep + Sync),
    limits: PendingLimits,
    after: Option<&ClientId>,
) -> Result<Swept, StoreError> {
    let until = Instant::now() + TURN;
    let (behind, last) = store.clients_behind(limits, after).await?;
    let mut swept = Swept { dropped: Vec::new(), more_after: after.cloned() };
    for client in behind {
        match limit_client(store, &client, limits, &mut swept.dropped).await {
            Err(error) if error.is_of_data() => {
                log_limited!(
                    warn, target: "jmqt::store", %client, %error,
                    "cannot limit the pending messages of a client; continuing with the others"
                );
            }
            Err(error) if swept.dropped.is_empty() => return Err(error),
            Err(_) => return Ok(swept),
            Ok(()) => {}
        }
        swept.more_after = Some(client);
        if Instant::now() > until {
            return Ok(swept);
        }
    }
    Ok(Swept { more_after: last, ..swept })
}

/// Handles one client, or a part of its messages if this takes long, so that other clients do not wait.
async fn limit_client(
    store: &(impl Sweep + Sync),
    client: &ClientId,
    limits: PendingLimits,
    dropped: &mut Vec<Dropped>,
) -> Result<(), StoreError> {
    let pending = store.pending_of(client).await?;
    let until = Instant::now() + TURN;
    for chunk in kept(&pending, limits).chunks(CUTS_AT_A_TIME) {
        let keys: Vec<_> = chunk.iter().map(|kept| kept.key).collect();
        let mut cuts = Vec::new();
        for subscription in store.positions(client, &keys).await? {
            let Some(kept) = chunk.iter().find(|kept| kept.key == subscription.key) else { continue };
            if let Some(up_to) = place_of_cut(store, &subscription, *kept).await? {
                cuts.push(Cut { subscription, up_to });
            }
        }
        dropped.extend(store.raise(client, &cuts).await?);
        if Instant::now() > until {
            return Ok(());
        }
    }
    if let Some(own) = pending.iter().find(|pending| pending.is_own)
        && let Some(own) = store.positions(client, &[own.key]).await?.pop()
    {
        dropped.extend(limit_own(store, client, &own, limits).await?);
    }
    Ok(())
}

/// The bounds below which a client is within its limits: messages in total, messages of the own channel, and bytes.
pub(super) fn bounds(limits: PendingLimits) -> [i64; 3] {
    let share = limits.own_messages / SHARE_OF_ONE;
    [limits.messages, share, limits.bytes / SHARE_OF_ONE].map(|it| i64::try_from(it).unwrap_or(i64::MAX))
}

/// The channels that must lose messages, and the rest of each.
fn kept(pending: &[Pending], limits: PendingLimits) -> Vec<Kept> {
    let shared = || pending.iter().filter(|pending| !pending.is_own);
    let messages = Level::of(shared().map(|pending| pending.messages), limits.messages);
    let bytes = Level::of(shared().map(|pending| pending.bytes), limits.bytes);
    let mut one_more = messages.as_ref().map_or(0, |level| level.one_more);
    let mut list = Vec::new();
    for pending in shared() {
        let too_many = messages.as_ref().filter(|level| pending.messages > level.height);
        let too_large = bytes.as_ref().filter(|level| pending.bytes > level.height);
        if too_many.is_none() && too_large.is_none() {
            continue;
        }
        let left = too_many.map_or(pending.messages, |level| {
            let extra = u64::from(one_more > 0);
            one_more -= extra;
            level.height + extra
        });
        let bytes = too_large.map_or(u64::MAX, |level| level.height);
        list.push(Kept { key: pending.key, messages: left, bytes });
    }
    list
}

/// The level to which the greatest of several amounts must be reduced, so that their sum is within a
/// limit.
#[derive(Debug, PartialEq, Eq)]
struct Level {
    height: u64,
    /// The number of reduced amounts that may be one higher: the remainder of the division of the limit.
    one_more: u64,
}

impl Level {
    /// `None` if the amounts are within the limit.
    fn of(amounts: impl Iterator<Item = u64>, limit: u64) -> Option<Self> {
        let mut amounts: Vec<_> = amounts.collect();
        amounts.sort_unstable();
        let mut left = limit;
        for (index, amount) in amounts.iter().enumerate() {
            let others = (amounts.len() - index) as u64;
            if *amount > left / others {
                return Some(Self { height: left / others, one_more: left % others });
            }
            left -= amount;
        }
        None
    }
}

/// The position up to which messages must be dropped so that at most this is left; `None` if none must be dropped.
async fn place_of_cut(
    store: &(impl Sweep + Sync),
    subscription: &StoredSubscription,
    kept: Kept,
) -> Result<Option<Seq>, StoreError> {
    let (cursor, last) = (&subscription.cursor, subscription.last);
    let pending = pending_messages(subscription);
    let mut up_to = passed(cursor, pending.saturating_sub(kept.messages));
    if kept.bytes < u64::MAX {
        let first = store.first_within(subscription.key, up_to, kept.bytes).await?;
        up_to = up_to.max(first.map_or(last, |Seq(first)| Seq(first.saturating_sub(1))));
    }
    Ok(Some(up_to.min(last)).filter(|up_to| *up_to > cursor.acked))
}

/// The number of unacknowledged messages of a subscription.
fn pending_messages(subscription: &StoredSubscription) -> u64 {
    let cursor = &subscription.cursor;
    let behind = subscription.last.0.saturating_sub(cursor.acked.0);
    behind.saturating_sub(cursor::acked_beyond(cursor))
}

/// The position up to which this number of messages is not acknowledged.
fn passed(cursor: &Cursor, messages: u64) -> Seq {
    let remembered = cursor.beyond.len() as u64 * 64;
    let (mut seq, mut left) = (cursor.acked.0, messages);
    while left > 0 && seq < cursor.acked.0 + remembered {
        seq += 1;
        left -= u64::from(!cursor::is_acked(cursor, Seq(seq)));
    }
    Seq(seq + left)
}

/// Keeps the newest messages of a client's own channel, in fair shares of their publishers.
async fn limit_own(
    store: &(impl Sweep + Sync),
    client: &ClientId,
    own: &StoredSubscription,
    limits: PendingLimits,
) -> Result<Option<Dropped>, StoreError> {
    let mut chosen = Chosen::new(limits);
    let (mut before, mut looked_at) = (Seq(own.last.0 + 1), 0);
    loop {
        let page = store.newest(own.key, own.cursor.acked, before).await?;
        let Some(last) = page.last() else { break };
        before = last.seq;
        looked_at += page.len();
        page.into_iter().filter(|it| !cursor::is_acked(&own.cursor, it.seq)).for_each(|it| chosen.add(it));
        if looked_at >= MOST_LOOKED_AT {
            break;
        }
    }
    let until = Instant::now() + TURN;
    let mut messages = 0;
    for ranges in portions(chosen.finish()) {
        messages += store.delete(own.key, &ranges).await?;
        if Instant::now() > until {
            break;
        }
    }
    let (client, channel) = (client.clone(), own.channel.clone());
    let dropped = Dropped { client, channel, key: own.key, up_to: own.cursor.acked, messages };
    Ok(Some(dropped).filter(|dropped| dropped.messages > 0))
}

/// Splits ranges into portions of about the number of messages that one transaction deletes.
fn portions(ranges: Vec<RangeInclusive<u64>>) -> Vec<Vec<RangeInclusive<u64>>> {
    let (mut portions, mut room) = (vec![Vec::new()], DELETED_AT_A_TIME);
    for range in ranges {
        let (mut first, last) = range.into_inner();
        while first <= last {
            let end = last.min(first + room - 1);
            if let Some(portion) = portions.last_mut() {
                portion.push(first..=end);
            }
            room -= end - first + 1;
            if room == 0 {
                portions.push(Vec::new());
                room = DELETED_AT_A_TIME;
            }
            first = end + 1;
        }
    }
    portions.retain(|portion| !portion.is_empty());
    portions
}

/// Selects messages of a point-to-point channel, which are given newest first.
struct Chosen {
    limits: PendingLimits,
    senders: HashMap<Option<ClientId>, usize>,
    /// The kept messages of each sender, newest first.
    kept: Vec<Vec<(u64, u64)>>,
    count: u64,
    /// The messages to delete, newest first.
    gone: Vec<u64>,
}

impl Chosen {
    fn new(limits: PendingLimits) -> Self {
        Self { limits, senders: HashMap::new(), kept: Vec::new(), count: 0, gone: Vec::new() }
    }

    fn add(&mut self, message: OwnMessage) {
        let next = self.kept.len();
        let sender = *self.senders.entry(message.sender).or_insert(next);
        if sender == next {
            self.kept.push(Vec::new());
        }
        let of_sender = &mut self.kept[sender];
        let bytes: u64 = of_sender.iter().map(|(_, bytes)| bytes).sum();
        let share = |limit: u64| (limit / SHARE_OF_ONE).max(1);
        let fits = (of_sender.len() as u64) < share(self.limits.own_messages)
            && (of_sender.is_empty() || bytes + message.bytes <= share(self.limits.bytes));
        if !fits {
            self.gone.push(message.seq.0);
            return;
        }
        of_sender.push((message.seq.0, message.bytes));
        self.count += 1;
        if self.count > self.limits.own_messages.saturating_mul(4).saturating_add(LOOKED_AT as u64) {
            self.share_out();
        }
    }

    /// Takes messages from the senders that have most, until the sum fits.
    fn share_out(&mut self) {
        let counts = self.kept.iter().map(|of_sender| of_sender.len() as u64);
        let messages = Level::of(counts, self.limits.own_messages);
        let sizes = self.kept.iter().map(|of_sender| of_sender.iter().map(|(_, bytes)| bytes).sum());
        let bytes = Level::of(sizes, self.limits.bytes);
        let mut one_more = messages.as_ref().map_or(0, |level| level.one_more);
        for of_sender in &mut self.kept {
            let mut left = of_sender.len();
            if let Some(level) = messages.as_ref().filter(|level| left as u64 > level.height) {
                let extra = u64::from(one_more > 0);
                one_more -= extra;
                left = usize::try_from(level.height + extra).unwrap_or(left);
            }
            if let Some(level) = &bytes {
                let mut sum = 0;
                let fit = of_sender.iter().take_while(|(_, bytes)| {
                    sum += bytes;
                    sum <= level.height
                });
                left = left.min(fit.count());
            }
            self.gone.extend(of_sender.drain(left..).map(|(seq, _)| seq));
        }
        self.count = self.kept.iter().map(|of_sender| of_sender.len() as u64).sum();
    }

    /// The messages to delete, in ascending ranges.
    fn finish(mut self) -> Vec<RangeInclusive<u64>> {
        self.share_out();
        self.gone.sort_unstable();
        let mut ranges: Vec<RangeInclusive<u64>> = Vec::new();
        for seq in self.gone {
            match ranges.last_mut() {
                Some(range) if *range.end() + 1 == seq => *range = *range.start()..=seq,
                _ => ranges.push(seq..=seq),
            }
        }
        ranges
    }
}

/// Moves cursors forward over messages to drop, from their current positions. Returns the dropped messages and the new
/// rows.
pub(super) fn pass_over<'c>(
    cuts: &[Cut],
    client: &'c ClientId,
    cursors: Vec<(ChannelKey, Cursor)>,
) -> (Vec<Dropped>, Vec<(ChannelKey, &'c str, CursorRow)>) {
    let mut dropped = Vec::new();
    let mut rows = Vec::new();
    for (key, mut cursor) in cursors {
        let Some(cut) = cuts.iter().find(|cut| cut.key() == key) else {
            continue;
        };
        let Some(by) = cut.up_to.0.checked_sub(cursor.acked.0).filter(|&by| by > 0) else {
            continue;
        };
        let messages = by - cursor::acked_within(&cursor, by);
        cursor::advance(&mut cursor, by);
        let (client_id, channel) = (client.clone(), cut.subscription.channel.clone());
        dropped.push(Dropped { client: client_id, channel, key, up_to: cursor.acked, messages });
        rows.push((key, client.as_str(), cursor.into()));
    }
    (dropped, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: PendingLimits = PendingLimits { messages: 100, bytes: 1000, own_messages: 20 };

    #[test]
    fn the_greatest_amounts_are_reduced_to_one_level_that_uses_the_whole_limit() {
        let level = |amounts: &[u64], limit| Level::of(amounts.iter().copied(), limit);
        assert_eq!(level(&[3, 4, 5], 12), None);
        assert_eq!(level(&[100, 10, 10], 50), Some(Level { height: 30, one_more: 0 }));
        assert_eq!(level(&[100, 100, 1], 50), Some(Level { height: 24, one_more: 1 }));
        assert_eq!(level(&[1, 1, 1, 1], 2), Some(Level { height: 0, one_more: 2 }));
        assert_eq!(level(&[], 0), None);
    }

    #[test]
    fn only_the_channel_with_most_pending_messages_loses_messages() {
        let channel = |key, messages, bytes| Pending { key: ChannelKey(key), messages, bytes, is_own: false };
        let kept = |pending: &[Pending]| kept(pending, LIMITS);
        assert_eq!(kept(&[channel(1, 10, 100), channel(2, 90, 900)]), []);
        let left = |key, messages, bytes| Kept { key: ChannelKey(key), messages, bytes };
        assert_eq!(kept(&[channel(1, 10, 100), channel(2, 5000, 900)]), [left(2, 90, u64::MAX)]);
        assert_eq!(kept(&[channel(1, 10, 100), channel(2, 90, 5000)]), [left(2, 90, 900)]);
        let own = Pending { is_own: true, ..channel(3, 5000, 5000) };
        assert_eq!(kept(&[own, channel(1, 10, 100)]), []);
    }

    fn gone(messages: impl DoubleEndedIterator<Item = (u64, &'static str)>) -> Vec<RangeInclusive<u64>> {
        let mut chosen = Chosen::new(LIMITS);
        for (seq, sender) in messages.rev() {
            let sender = Some(ClientId::parse(sender).unwrap());
            chosen.add(OwnMessage { seq: Seq(seq), sender, bytes: 1 });
        }
        chosen.finish()
    }

    #[test]
    fn in_a_point_to_point_channel_the_publisher_with_most_pending_messages_loses_messages() {
        let flood = (1..=2).map(|seq| (seq, "bob")).chain((3..=10_000).map(|seq| (seq, "mallory")));
        assert_eq!(gone(flood), [3..=9998]);
        let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k"];
        let many = (1..=22u64).map(|seq| (seq, names[(seq - 1) as usize / 2]));
        assert_eq!(gone(many).iter().map(|range| range.end() - range.start() + 1).sum::<u64>(), 2);
    }

    #[test]
    fn the_bytes_of_one_publisher_are_limited_too() {
        let mut chosen = Chosen::new(LIMITS);
        for seq in (1..=4).rev() {
            chosen.add(OwnMessage { seq: Seq(seq), sender: None, bytes: 60 });
        }
        assert_eq!(chosen.finish(), [1..=3]);
    }

    #[test]
    fn deletions_of_one_transaction_are_bounded() {
        let portions = portions(vec![1..=5000, 6000..=6000]);
        assert_eq!(portions, [vec![1..=2048], vec![2049..=4096], vec![4097..=5000, 6000..=6000]]);
    }
}
