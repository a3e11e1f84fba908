//! What survives a restart: channel logs, cursors, retained messages, sessions.
//!
//! A QoS 1 message is written once to its channel's log, however many clients are subscribed; what a
//! client still owes acknowledgements for is the part of the log behind its cursor. Everything that
//! touches a channel's log goes through [`Store::commit`], one batch at a time, which makes the
//! caller (the commit queue) the only sequencer of every channel.
//!
//! Not here: who is connected, what is in flight, what a packet looks like.

mod backlog;
mod cluster;
mod commit;
mod cursor;
#[cfg(test)]
mod double;
#[cfg(any(feature = "sqlite", feature = "mysql"))]
mod driver;
#[cfg(not(any(feature = "sqlite", feature = "mysql")))]
#[path = "no_driver.rs"]
mod driver;
mod error;
mod failures;
mod limits;
#[cfg(feature = "mysql")]
mod mysql;
mod names;
mod plan;
mod publisher;
mod retained;
mod retained_cache;
#[cfg(feature = "sqlite")]
mod sqlite;
mod time;
mod to_trim;
mod turns;

use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use jmqt_core::{ChannelName, ClientId};

pub use crate::config::{PendingLimits, RetainedLimits};
pub use cluster::{ClusterStore, Entered, NodeBeat, SharedSession};
pub(crate) use commit::{CommitQueue, NotCommitted, Order, Settled, SettledBatches, Tagged};
#[cfg(test)]
pub(crate) use double::Double;
pub use error::{DatabaseError, MigrationError, StoreError};
pub(crate) use failures::store_failed;
#[cfg(feature = "mysql")]
pub use mysql::{MySqlOptions, MySqlStore};
pub(crate) use publisher::parse_number;
pub use publisher::{PublishId, PublisherId};
#[cfg(feature = "sqlite")]
pub use sqlite::{SqliteOptions, SqliteStore};
pub(crate) use turns::Source;

/// Names a channel's row. Never given out twice, not even after the channel was forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelKey(pub i64);

/// A message's place in its channel's log: 1, 2, 3 … without gaps, in commit order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Seq(pub u64);

/// A number that all messages of one commit have in common, made at random for each commit, and stored with
/// them. Push ids contain it, so that they differ even if a place in a log is given out a second time,
/// as happens after an older copy of the database was restored. Never 0, except for [`Stamp::NONE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stamp(pub u64);

impl Stamp {
    /// That of messages that were stored by versions which had no stamps.
    pub const NONE: Self = Self(0);

    /// Makes one up, from 1 to 2^63 - 1: databases' integers are signed.
    fn random() -> Result<Self, StoreError> {
        match getrandom::u64() {
            Ok(number) => Ok(Self((number >> 1).max(1))),
            Err(error) => {
                Err(StoreError::Open { path: "the system's random numbers".to_owned(), source: error.into() })
            }
        }
    }
}

/// Where a message is: its channel, its number there, and the stamp that it was given with the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LogPlace {
    /// The channel's row.
    pub key: ChannelKey,
    /// The number.
    pub seq: Seq,
    /// The stamp of the commit.
    pub stamp: Stamp,
}

/// Tells one database from another: made at random when the database was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch(pub u32);

/// How many messages beyond the last contiguous acknowledgement a cursor can remember.
pub const CURSOR_WINDOW: u64 = 1024;

/// What one client has acknowledged of one channel's log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cursor {
    /// Everything up to and including this one is acknowledged.
    pub acked: Seq,
    /// Bit `i` (bit `i % 64` of word `i / 64`): `acked + 1 + i` is acknowledged too. Bit 0 is
    /// never set. Empty, or [`CURSOR_WINDOW`] bits.
    pub beyond: Vec<u64>,
}

/// One thing to be done to a channel, in the place its [`Store::commit`] batch gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// A message to be logged, retained, or both.
    Append(Append),
    /// Makes a persistent subscription, which starts after the last message logged so far. If there
    /// is one already, it stays as it is.
    Subscribe {
        /// Who subscribes.
        client: ClientId,
        /// To what.
        channel: ChannelName,
    },
    /// Ends a persistent subscription and forgets its cursor. If there is none, nothing happens.
    Unsubscribe {
        /// Who unsubscribes.
        client: ClientId,
        /// From what.
        channel: ChannelName,
    },
    /// Forgets the channel's retained message.
    ClearRetained {
        /// Which channel.
        channel: ChannelName,
    },
}

/// A message for [`Operation::Append`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Append {
    /// Where it was published.
    pub channel: ChannelName,
    /// Who published it; `None` for the server.
    pub sender: Option<ClientId>,
    /// The payload, JSON text, kept byte for byte.
    pub data: Bytes,
    /// Log it (QoS 1), if the channel has a persistent subscription at this place in the order.
    pub log: bool,
    /// Replace the channel's retained message with it.
    pub retain: bool,
    /// If there is one, a publish of `sender` that has been taken already is not taken again.
    pub once: Option<PublishId>,
}

/// What came of an [`Operation`], in the same place of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// For `Append`: the message's place, or `None` if it was not logged.
    Appended(Option<LogPlace>),
    /// For `Append`: this publish has been taken before, and nothing was done.
    Repeated {
        /// As it was then.
        receiver_is_away: bool,
    },
    /// For `Append`: it was to be retained, and its channel has no retained message, and there is no room for one
    /// more ([`RetainedLimits`]). Nothing was done.
    TooManyRetained,
    /// For `Subscribe`: the subscription, old or new.
    Subscribed(StoredSubscription),
    /// For `Unsubscribe`: whether there was a subscription.
    Unsubscribed(bool),
    /// For `ClearRetained`: whether there was a message.
    Cleared(bool),
}

/// A persistent subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSubscription {
    /// The channel.
    pub channel: ChannelName,
    /// Its row.
    pub key: ChannelKey,
    /// What the client has acknowledged.
    pub cursor: Cursor,
    /// The last message logged in the channel when this was read.
    pub last: Seq,
}

/// A retained message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retained {
    /// Who published it; `None` for the server.
    pub sender: Option<ClientId>,
    /// The payload, JSON text.
    pub data: Bytes,
}

/// A logged message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedMessage {
    /// Its place.
    pub seq: Seq,
    /// The stamp of the commit that stored it.
    pub stamp: Stamp,
    /// Who published it; `None` for the server.
    pub sender: Option<ClientId>,
    /// The payload, JSON text.
    pub data: Bytes,
}

/// A part of a log, and where the log ends, as both were at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogPart {
    /// The messages that were asked for, in order.
    pub messages: Vec<LoggedMessage>,
    /// The last message logged in the channel; 0 if there is no such channel. What is missing up to there is gone for
    /// good. What comes behind it may be in the log already, if the database answers from an older state.
    pub last: Seq,
}

/// New values for a cursor, to be written by [`Store::save_cursors`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CursorUpdate {
    /// Whose.
    pub client: ClientId,
    /// In which channel.
    pub key: ChannelKey,
    /// What it is now.
    pub cursor: Cursor,
}

/// One session, as it is remembered for the case that this process dies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRow {
    /// Whose.
    pub client: ClientId,
    /// Rises with every `conn` of this process; with `node` it names the session.
    pub generation: u64,
    /// Which process serves it: made at random when the process starts.
    pub node: String,
    /// `SOCKET`, `SSL_SOCKET`, `WEB_SOCKET` or `SSL_WEB_SOCKET`.
    pub protocol: String,
    /// The client's address.
    pub address: String,
    /// When it began.
    pub since: SystemTime,
}

/// Pending messages that were given up, because there were too many for one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// Whose.
    pub client: ClientId,
    /// Of which channel.
    pub channel: ChannelName,
    /// Its row.
    pub key: ChannelKey,
    /// The cursor now stands here at least. Messages behind it may have been given up too.
    pub up_to: Seq,
    /// How many messages were given up.
    pub messages: u64,
}

/// What one call of [`Store::limit_pending`] has done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Swept {
    /// What was given up.
    pub dropped: Vec<Dropped>,
    /// The last client that was looked at, for the next call to go on behind; `None` if it was the last one.
    pub more_after: Option<ClientId>,
}

/// A client that did not come back in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expired {
    /// Who.
    pub client: ClientId,
    /// How many persistent subscriptions were removed.
    pub subscriptions: u64,
}

/// What one call of [`Store::forget_publishers`] has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forgotten {
    /// How many were forgotten.
    pub publishers: u64,
    /// Whether it came to the last one.
    pub is_round_complete: bool,
}

/// Whether a client is not here, and kept away from now on: see [`Store::expire`].
pub type IsAway<'a> = dyn for<'c> FnMut(&'c ClientId) -> bool + Send + 'a;

/// Where channel logs, cursors, retained messages and sessions are kept.
///
/// `Ok` from a method that writes means: committed, and on disk as far as the database was told to
/// care (SQLite: `synchronous=FULL`). `Err` means nothing of it happened, with two exceptions: after
/// [`StoreError::Unanswered`] and [`StoreError::CommittedToGone`] nobody knows what is left of it, so
/// [`commit`](Self::commit) must not be tried again then;
/// and the methods that tidy (`save_cursors`, `trim`, `sessions_*`, `expire`, `limit_pending`, `forget_publishers`)
/// work in several transactions, may have done a part, and can simply be repeated.
///
/// Methods may be called from any task at the same time, except that [`commit`](Self::commit) is
/// called by one task only, one batch after another.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Which database this is.
    fn epoch(&self) -> Epoch;

    /// Carries out `batch` in order, as if one by one, all or nothing, and returns as many outcomes.
    ///
    /// The publishers' `pubAck` and the subscribers' `subAck` rest on `Ok` (§9.a, protocol.md 2.13).
    ///
    /// Which publishes were taken is remembered with the messages that were stored (protocol.md 2.23). A publish that
    /// was not stored, because nobody is persistently subscribed, may be taken again.
    async fn commit(&self, batch: &[Operation]) -> Result<Vec<Outcome>, StoreError>;

    /// The client's persistent subscriptions, in the order of their channel keys.
    async fn subscriptions(&self, client: &ClientId) -> Result<Vec<StoredSubscription>, StoreError>;

    /// Whether a read of this channel's retained message could find one. `false` is certain;
    /// it counts what [`commit`](Self::commit) has done, not what is still on its way there.
    fn may_have_retained(&self, channel: &ChannelName) -> bool;

    /// The channel's retained message. It sees every commit that has been answered.
    async fn read_retained(&self, channel: &ChannelName) -> Result<Option<Retained>, StoreError>;

    /// Those of the channels that have a retained message, or may have one, in the same order: read at once, where reading
    /// takes a trip to a server for each.
    async fn retained_among(&self, channels: &[ChannelName]) -> Result<Vec<ChannelName>, StoreError> {
        Ok(channels.iter().filter(|channel| self.may_have_retained(channel)).cloned().collect())
    }

    /// Messages of one log behind `after`, in order: at most `messages`, and no more after
    /// `bytes` of payload have been gathered (so one at least, if there is one). They are read with the end of the log in one
    /// statement, whose answer may be older than the last commit where a proxy lets replicas answer.
    async fn read_log(
        &self,
        key: ChannelKey,
        after: Seq,
        messages: usize,
        bytes: usize,
    ) -> Result<LogPart, StoreError>;

    /// Writes cursors. Never moves one backwards, never makes a subscription: what is behind the
    /// stored cursor or has no row is left out.
    async fn save_cursors(&self, updates: &[CursorUpdate]) -> Result<(), StoreError>;

    /// Deletes what lies behind every cursor of these channels, and channels that have no
    /// subscription, no message and no retained message left. What unsubscribing, expiry or a crash left
    /// behind is worked off too, so it is to be called now and then with no channels at all. Returns how
    /// many messages went.
    async fn trim(&self, channels: &[ChannelKey]) -> Result<u64, StoreError>;

    /// Remembers sessions that have begun.
    async fn sessions_opened(&self, sessions: &[SessionRow]) -> Result<(), StoreError>;

    /// Forgets sessions whose close notifier has run, and notes when their clients were last seen
    /// (only of clients that have persistent subscriptions).
    async fn sessions_closed(&self, sessions: &[(ClientId, u64)], node: &str) -> Result<(), StoreError>;

    /// The sessions that other processes left behind, oldest first, now marked as claimed by `node`.
    /// Their close notifiers are the caller's to run; [`orphan_closed`] forgets them.
    ///
    /// [`orphan_closed`]: Self::orphan_closed
    async fn claim_orphans(&self, node: &str) -> Result<Vec<SessionRow>, StoreError>;

    /// Forgets one claimed session, after its close notifier has run, and notes when the client was seen.
    async fn orphan_closed(&self, session: &SessionRow) -> Result<(), StoreError>;

    /// Removes the persistent subscriptions of clients last seen before `before` that have no
    /// session row, and says whose. Each client is put to `is_away` first, and spared if that says no:
    /// a session that has just begun has no row yet. Whoever says yes keeps the client away until this
    /// returns.
    async fn expire(&self, before: SystemTime, is_away: &mut IsAway<'_>) -> Result<Vec<Expired>, StoreError>;

    /// Gives up pending messages of clients that have more of them than allowed: the oldest of the channel that
    /// has most, and in the client's own point-to-point channel the oldest of the publisher who has most. A
    /// call looks at the next few clients by their ids, those behind `after` or the first ones. Of a client
    /// that has very much it may give up a part only; the rest is for later rounds.
    async fn limit_pending(
        &self,
        limits: PendingLimits,
        after: Option<&ClientId>,
    ) -> Result<Swept, StoreError>;

    /// Forgets publishers that have not published for a day. A call looks at the next few; the one after the
    /// last begins again with the first ones.
    async fn forget_publishers(&self, now: SystemTime) -> Result<Forgotten, StoreError>;

    /// Whether the files of the database are known to be gone, so that nothing can be committed.
    fn is_gone(&self) -> bool {
        false
    }

    /// Finishes what is running and closes the database. Later calls fail with [`StoreError::Closed`].
    async fn close(&self);
}
