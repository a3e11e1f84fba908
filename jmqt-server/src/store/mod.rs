//! What survives a restart: channel logs, cursors, retained messages, sessions.
//!
//! A QoS 1 message is written once to the log of its channel, independent of the number of subscribers. The messages
//! that a client has not acknowledged are the part of the log after its cursor. All changes of a
//! log go through [`Store::commit`], one batch at a time, which makes the
//! caller (the commit queue) the only sequencer of every channel.
//!
//! Not here: connections, messages in flight, the form of packets.

mod backlog;
mod client_row;
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
#[cfg(any(feature = "sqlite", feature = "mysql"))]
mod filters;
#[cfg(any(feature = "sqlite", feature = "mysql"))]
mod forward;
mod group;
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
mod will;

use std::num::NonZeroU16;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use jmqt_core::{ChannelName, ClientId};

pub use crate::attributes::{Attributes, DataForm, Values};
pub use crate::config::{PendingLimits, RetainedLimits};
pub use crate::options::SubscriptionOptions;
pub use cluster::{ClusterStore, Entered, NodeBeat, SharedSession};
pub(crate) use commit::{CommitQueue, NotCommitted, Order, Settled, SettledBatch, SettledBatches, Tagged};
#[cfg(test)]
pub(crate) use double::Double;
pub use error::{DatabaseError, MigrationError, StoreError};
pub(crate) use failures::store_failed;
pub(crate) use group::owner_of;
#[cfg(feature = "mysql")]
pub use mysql::{MySqlOptions, MySqlStore};
pub(crate) use publisher::parse_number;
pub use publisher::{PublishId, PublisherId};
#[cfg(feature = "sqlite")]
pub use sqlite::{SqliteOptions, SqliteStore};
pub(crate) use turns::Source;
pub use will::{StoredWill, WILLS_AT_A_TIME, WillKey};

/// The key of a channel's row. Never used twice, not even after the channel was deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelKey(pub i64);

/// The position of a message in the log of its channel: 1, 2, 3 … without gaps, in commit order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Seq(pub u64);

/// A random number of each commit, stored with its messages.
/// Push ids contain it, so that they differ even if a log position is used a second time
/// after an older copy of the database was restored. Never 0, except for [`Stamp::NONE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stamp(pub u64);

impl Stamp {
    /// The stamp of messages that were stored by versions without stamps.
    pub const NONE: Self = Self(0);

    /// Generates a stamp from 1 to 2^63 - 1, because integers of databases are signed.
    fn random() -> Result<Self, StoreError> {
        match getrandom::u64() {
            Ok(number) => Ok(Self((number >> 1).max(1))),
            Err(error) => {
                Err(StoreError::Open { path: "the system's random numbers".to_owned(), source: error.into() })
            }
        }
    }
}

/// The position of a message: its channel, its number in the log, and its stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LogPlace {
    /// The channel's row.
    pub key: ChannelKey,
    /// The number.
    pub seq: Seq,
    /// The stamp of the commit.
    pub stamp: Stamp,
}

/// Identifies a database: generated at random when the database was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch(pub u32);

/// A channel with a retained message, and the message if it is short and was read in the same statement.
pub type UnderPrefix = (ChannelName, Option<Retained>);

/// The number of names that [`Store::retained_under`] returns at a time.
pub const RETAINED_PAGE: usize = 256;

/// The number of messages after the last contiguous acknowledgement that a cursor can record.
pub const CURSOR_WINDOW: u64 = 1024;

/// The messages that one client has acknowledged in the log of one channel.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cursor {
    /// Everything up to and including this one is acknowledged.
    pub acked: Seq,
    /// Bit `i` (bit `i % 64` of word `i / 64`): `acked + 1 + i` is acknowledged too. Bit 0 is
    /// never set. Empty, or [`CURSOR_WINDOW`] bits.
    pub beyond: Vec<u64>,
}

/// One operation on a channel, in the order of its [`Store::commit`] batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// A message to be logged, retained, or both.
    Append(Append),
    /// Creates a persistent subscription, which starts after the last logged message. An existing
    /// subscription keeps its cursor and gets the new options.
    Subscribe {
        /// The client that subscribes.
        client: ClientId,
        /// The channel.
        channel: ChannelName,
        /// The options.
        options: SubscriptionOptions,
    },
    /// Ends a persistent subscription and deletes its cursor, if it exists.
    Unsubscribe {
        /// The client that unsubscribes.
        client: ClientId,
        /// The channel.
        channel: ChannelName,
    },
    /// Deletes the retained message of the channel.
    ClearRetained {
        /// The channel.
        channel: ChannelName,
    },
    /// Deletes the retained message of the channel if it has expired: see [`Store::expired_retained`].
    ExpireRetained {
        /// The channel.
        channel: ChannelName,
        /// The current time.
        now: SystemTime,
    },
    /// A client releases its QoS 2 publish with this packet identifier: see [`Append::received`].
    Release {
        /// The client.
        client: ClientId,
        /// The packet identifier.
        packet: NonZeroU16,
    },
    /// Records steps of QoS 2 exchanges of one client. Each replaces the step that was recorded with this turn before.
    Send(Box<[Sent]>),
    /// Adds a subscription with a filter to the session of a client, or replaces its options. With QoS 1 or 2 every channel
    /// that the filter matches gets a cursor before its next message is logged. With QoS 0 the filter may also be the name
    /// of one channel: the store only remembers it. The cursors of a shared filter belong to its group, which exists while
    /// a stored session has a subscription with QoS 1.
    SubscribeFilter {
        /// The client, which has a stored session.
        client: ClientId,
        /// The filter, as MQTT writes it.
        filter: String,
        /// The options.
        options: SubscriptionOptions,
    },
    /// Removes a subscription with a filter, and the cursors that no other subscription of the client needs.
    UnsubscribeFilter {
        /// The client.
        client: ClientId,
        /// The filter.
        filter: String,
    },
    /// Creates the cursor of a client whose filter matches the channel, after the last logged message, unless it exists.
    /// A store adds this to a batch.
    BeginCursor {
        /// The client.
        client: ClientId,
        /// The channel.
        channel: ChannelName,
    },
    /// Deletes the cursor of a client, if it was created for a filter. A store adds this to a batch.
    EndCursor {
        /// The client.
        client: ClientId,
        /// The channel.
        channel: ChannelName,
    },
    /// Deletes the cursor of a client, if it was created for a filter and the client has acknowledged the whole log. The
    /// next message creates it again.
    EndIdleCursor {
        /// The client.
        client: ClientId,
        /// The channel.
        channel: ChannelName,
        /// The last message that the client has acknowledged, and its log.
        last: (ChannelKey, Seq),
    },
    /// Resumes the session of a client that connects, or ends it and begins another one.
    BeginSession(BeginSession),
    /// Publishes a will, if it still exists, and deletes it.
    FireWill(Box<FireWill>),
    /// Records the user to whom a stored session belongs, unless that is recorded already. No effect without a stored session.
    SetOwner {
        /// The client.
        client: ClientId,
        /// The user.
        owner: Box<str>,
    },
    /// Records the revision of the permissions for which all subscriptions of a stored session were validated:
    /// [`StoredSession::checked`]. No effect without a stored session.
    SetChecked {
        /// The client.
        client: ClientId,
        /// The revision.
        checked: Option<i64>,
    },
    /// Changes how long the session of a connected client outlives its connection. A session that lasts
    /// SESSION_EXPIRY_SECONDS stays unchanged.
    SetExpiry {
        /// The client.
        client: ClientId,
        /// The seconds.
        expiry: u32,
    },
}

/// The session of [`Operation::BeginSession`]. The caller must be the only one that changes the subscriptions of the client.
///
/// A session that was begun counts as connected, until [`Store::sessions_closed`] or [`Store::orphan_closed`] names its
/// client. Only then its expiry begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BeginSession {
    /// The client.
    pub client: ClientId,
    /// The generation of an MQTT connection, above 0: until [`Store::sessions_closed`] says that its unanswered messages are
    /// recorded, it may have sent any message of the logs. 0: a connection without packet identifiers.
    pub generation: u64,
    /// Ends an existing session: everything that is stored for the client is deleted.
    pub is_clean: bool,
    /// The seconds for which the session outlives its connection; 0: a new session is not stored. `None`, of a JMQT
    /// client: SESSION_EXPIRY_SECONDS, and a new session is stored with its first persistent subscription. A session that
    /// lasts SESSION_EXPIRY_SECONDS keeps doing so.
    pub expiry: Option<u32>,
    /// The current time. A session that has expired by then is ended, too.
    pub now: SystemTime,
    /// The user who connects; `None`: the application does not say. If a session that has not expired belongs to another user,
    /// the outcome is [`Outcome::OfAnotherOwner`].
    pub owner: Option<Box<str>>,
    /// [`StoredSession::checked`] of a new session.
    pub checked: Option<i64>,
    /// The will of the new connection. Earlier wills of the client that are not due are deleted if the session is resumed;
    /// otherwise they are due now, except those that were postponed (see [`Store::end_wills`]), which are deleted.
    pub will: Option<Box<StoredWill>>,
}

/// The will of [`Operation::FireWill`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FireWill {
    /// The will.
    pub will: WillKey,
    /// The message.
    pub append: Append,
}

/// A message for [`Operation::Append`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Append {
    /// The channel of the message.
    pub channel: ChannelName,
    /// The publisher; `None` for the server.
    pub sender: Option<ClientId>,
    /// The data, kept byte for byte.
    pub data: Bytes,
    /// The form of the data, and what only MQTT knows.
    pub attributes: Attributes,
    /// Log the message (QoS 1), if the channel has a persistent subscription at this point in the order.
    pub log: bool,
    /// Replace the retained message of the channel with this message.
    pub retain: bool,
    /// If set, a publish of `sender` that was stored before is not stored again.
    pub once: Option<PublishId>,
    /// If set, this is the packet identifier of a QoS 2 publish of `sender`. It is recorded together with the message, even
    /// if no subscription wants the message, and until [`Operation::Release`] a publish with the same identifier is
    /// not stored again.
    pub received: Option<NonZeroU16>,
}

impl Operation {
    /// The message that is appended.
    pub(crate) fn into_append(self) -> Option<Append> {
        match self {
            Self::Append(append) => Some(append),
            Self::FireWill(fire) => Some(fire.append),
            _ => None,
        }
    }

    /// The message that is appended.
    pub(crate) fn append(&self) -> Option<&Append> {
        match self {
            Self::Append(append) => Some(append),
            Self::FireWill(fire) => Some(&fire.append),
            _ => None,
        }
    }
}

impl Append {
    /// The bytes of the data and the attributes as stored.
    fn stored_bytes(&self) -> usize {
        self.data.len() + self.attributes.encoded_bytes()
    }
}

/// The outcome of the [`Operation`] at the same index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// For `Append`: the position of the message, or `None` if it was not logged.
    Appended(Option<LogPlace>),
    /// For `Append`: this publish was stored before; nothing was done.
    Repeated {
        /// The position at that time.
        receiver_is_away: bool,
    },
    /// For `Append`: the message was to be retained, its channel has no retained message, and a limit of
    /// [`RetainedLimits`] is reached. Nothing was done.
    TooManyRetained,
    /// For `Subscribe`: the subscription, old or new.
    Subscribed(StoredSubscription),
    /// For `SubscribeFilter`: the filter is stored.
    FilterSubscribed,
    /// For `Unsubscribe` and `UnsubscribeFilter`: `true` if the subscription existed.
    Unsubscribed(bool),
    /// For `EndIdleCursor`: `true` if the log has no later message.
    IdleCursorEnded(bool),
    /// For `ClearRetained` and `ExpireRetained`: `true` if a message existed.
    Cleared(bool),
    /// For `Release`: the identifier is not recorded any more.
    Released,
    /// For `Send`: the steps are recorded.
    Sent,
    /// For `BeginSession`.
    Begun {
        /// An earlier session continues.
        is_resumed: bool,
    },
    /// For `BeginSession` and `SetOwner`: the session belongs to another user; nothing was done.
    OfAnotherOwner,
    /// For `SetOwner` and `SetChecked`.
    SessionSet,
    /// For `FireWill`: the will does not exist any more; nothing was done. Otherwise the outcome is that of an `Append`.
    NoWill,
    /// For `SetExpiry`: `true` if the session has an expiry of its own.
    ExpirySet(bool),
}

/// A stored session: the client has persistent subscriptions, or began the session with
/// [`BeginSession::expiry`] above 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSession {
    /// The seconds for which the session outlives its connection; `None`: SESSION_EXPIRY_SECONDS.
    pub expiry: Option<u32>,
    /// An earlier connection has left a will that is not published yet.
    pub has_will: bool,
    /// The user to whom it belongs; `None`: unknown.
    pub owner: Option<Box<str>>,
    /// The revision of the permissions for which all its subscriptions were validated. [`MUST_CHECK`]: they must be validated
    /// when it is resumed. `None`: unknown.
    pub checked: Option<i64>,
    /// The persistent subscriptions, in the order of their channel keys.
    pub subscriptions: Vec<StoredSubscription>,
}

/// See [`StoredSession::checked`]. No revision has this number.
pub const MUST_CHECK: i64 = 0;

/// A subscription with a filter: see [`Operation::SubscribeFilter`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFilter {
    /// The filter, as MQTT writes it.
    pub filter: String,
    /// The options of the last `SubscribeFilter`.
    pub options: SubscriptionOptions,
}

/// The sessions that [`Store::expire`] ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// Sessions without an expiry of their own, if their clients were last seen before this time; `None`: none of them.
    pub seen_before: Option<SystemTime>,
    /// Sessions with an expiry of their own that have ended by this time.
    pub now: SystemTime,
}

/// A persistent subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSubscription {
    /// The channel.
    pub channel: ChannelName,
    /// The key of its row.
    pub key: ChannelKey,
    /// The acknowledgements of the client.
    pub cursor: Cursor,
    /// The last message logged in the channel when this was read.
    pub last: Seq,
    /// The options of the last `Subscribe`.
    pub options: SubscriptionOptions,
}

impl StoredSubscription {
    /// Returns `true` if the log may have messages that the client has not acknowledged.
    pub(crate) fn is_behind(&self) -> bool {
        self.cursor.acked < self.last
    }
}

/// How much a store has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoredTotals {
    /// Channels with a retained message.
    pub retained: u64,
    /// Messages in the logs.
    pub messages: u64,
    /// Clients that are remembered, and have no session.
    pub absent_clients: u64,
}

/// The query of [`Store::totals`].
const COUNT_ALL: &str = "SELECT (SELECT COUNT(*) FROM retained), (SELECT COUNT(*) FROM messages), \
    (SELECT COUNT(*) FROM clients AS c WHERE NOT EXISTS \
    (SELECT 1 FROM sessions AS s WHERE s.client_id = c.client_id))";

/// A retained message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retained {
    /// The publisher; `None` for the server.
    pub sender: Option<ClientId>,
    /// The data.
    pub data: Bytes,
    /// The form of the data, and what only MQTT knows.
    pub attributes: Attributes,
}

impl Retained {
    /// The bytes of the data and the attributes as stored.
    fn bytes(&self) -> usize {
        self.data.len() + self.attributes.encoded_bytes()
    }
}

/// A logged message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedMessage {
    /// Its place.
    pub seq: Seq,
    /// The stamp of the commit that stored it.
    pub stamp: Stamp,
    /// The publisher; `None` for the server.
    pub sender: Option<ClientId>,
    /// The data.
    pub data: Bytes,
    /// The form of the data, and what only MQTT knows.
    pub attributes: Attributes,
}

/// A part of a log, and the end of the log, read at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogPart {
    /// The requested messages, in order.
    pub messages: Vec<LoggedMessage>,
    /// The last message logged in the channel; 0 if the channel does not exist. Messages missing up to there are
    /// deleted for
    /// good. Later messages may be in the log already, if the database answers from an older state.
    pub last: Seq,
}

/// The QoS 2 exchanges of a client that are not complete.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exchanges {
    /// The packet identifiers of its publishes that it has not released.
    pub received: Vec<NonZeroU16>,
    /// The messages that it has not received completely, in the order in which they were sent.
    pub sent: Vec<Sent>,
}

/// A message that was sent to a client, or is about to be sent: with QoS 2, or without an answer when its connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// The client.
    pub client: ClientId,
    /// The packet identifier.
    pub packet: NonZeroU16,
    /// Increases with every message of the client, whose packet identifiers are used again.
    pub turn: u64,
    /// The message; `None` if it is in no log.
    pub place: Option<(ChannelKey, Seq)>,
    /// What the message waits for.
    pub step: SentStep,
}

/// What a message that was sent waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SentStep {
    /// QoS 2: the client has not received the message, as far as is known.
    Receive,
    /// QoS 2: the client has received the message, and will forget the packet identifier.
    Release,
    /// QoS 1: the client has not received the message, as far as is known.
    Acknowledge,
    /// The same, and the client may have received the message with its computed identifier, too.
    AcknowledgeRenamed,
    /// Not one message: those of the log up to this one may have been sent with QoS 1 on a connection whose end is not
    /// recorded. The turn is the key of the channel.
    Perhaps,
}

impl SentStep {
    /// The number in the table.
    pub(crate) const fn number(self) -> i64 {
        match self {
            Self::Receive => 0,
            Self::Release => 1,
            Self::Acknowledge => 2,
            Self::Perhaps => 3,
            Self::AcknowledgeRenamed => 4,
        }
    }

    pub(crate) const fn from_number(number: u64) -> Self {
        match number {
            0 => Self::Receive,
            2 => Self::Acknowledge,
            3 => Self::Perhaps,
            4 => Self::AcknowledgeRenamed,
            _ => Self::Release,
        }
    }
}

impl Sent {
    /// The messages of a log up to `last` may have been sent.
    pub(crate) fn perhaps(client: &ClientId, key: ChannelKey, last: Seq) -> Self {
        Self {
            client: client.clone(),
            packet: NonZeroU16::MIN,
            turn: key.0.unsigned_abs(),
            place: Some((key, last)),
            step: SentStep::Perhaps,
        }
    }
}

/// Whether the messages that a connection has sent, and that have no answer, are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unanswered {
    /// The store has a record of each of them, or there are none.
    Recorded,
    /// Any message of the logs may have been sent.
    Unknown,
}

/// New values for a cursor, to be written by [`Store::save_cursors`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CursorUpdate {
    /// The client.
    pub client: ClientId,
    /// The key of the channel.
    pub key: ChannelKey,
    /// The new cursor value.
    pub cursor: Cursor,
}

/// One session, stored in case this process dies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRow {
    /// The client.
    pub client: ClientId,
    /// Increases with every `conn` of this process; together with `node` it identifies the session.
    pub generation: u64,
    /// The process that serves the session: an id generated at random when the process starts.
    pub node: String,
    /// `SOCKET`, `SSL_SOCKET`, `WEB_SOCKET` or `SSL_WEB_SOCKET`.
    pub protocol: String,
    /// The client's address.
    pub address: String,
    /// When it began.
    pub since: SystemTime,
}

/// Pending messages that were dropped because they exceeded the limits of one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// The client.
    pub client: ClientId,
    /// The channel.
    pub channel: ChannelName,
    /// The key of its row.
    pub key: ChannelKey,
    /// The cursor is now at least here. Messages after it may have been dropped too.
    pub up_to: Seq,
    /// The number of dropped messages.
    pub messages: u64,
}

/// The result of one call of [`Store::limit_pending`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Swept {
    /// The dropped messages.
    pub dropped: Vec<Dropped>,
    /// The last checked client, after which the next call continues; `None` if no client is left.
    pub more_after: Option<ClientId>,
}

/// A client that did not return in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expired {
    /// The client.
    pub client: ClientId,
    /// The number of removed persistent subscriptions.
    pub subscriptions: u64,
}

/// The result of one call of [`Store::forget_publishers`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forgotten {
    /// The number of deleted publishers.
    pub publishers: u64,
    /// `true` if the call reached the last publisher.
    pub is_round_complete: bool,
}

/// Returns `true` if a client is absent, and blocks it from now on: see [`Store::expire`].
pub type IsAway<'a> = dyn for<'c> FnMut(&'c ClientId) -> bool + Send + 'a;

/// The storage of channel logs, cursors, retained messages and sessions.
///
/// `Ok` from a method that writes means: committed, and on disk as far as the database is configured
/// for it (SQLite: `synchronous=FULL`). `Err` means that nothing was changed, with two exceptions. After
/// [`StoreError::Unanswered`] and [`StoreError::CommittedToGone`] the outcome is unknown, so
/// [`commit`](Self::commit) must not be repeated.
/// The maintenance methods (`save_cursors`, `trim`, `sessions_*`, `expire`, `limit_pending`, `forget_publishers`)
/// use several transactions, may have done a part, and can be repeated.
///
/// Methods may be called from any task at the same time, except that [`commit`](Self::commit) is
/// called by one task only, one batch after another.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The identity of the database.
    fn epoch(&self) -> Epoch;

    /// Carries out `batch` in order, as if one by one, all or nothing, and returns as many outcomes.
    ///
    /// `pubAck` to publishers and `subAck` to subscribers depend on `Ok` (§9.a, protocol.md 2.13).
    ///
    /// The ids of stored publishes are recorded with the messages (protocol.md 2.23). A publish that
    /// was not stored, because the channel has no persistent subscription, may be accepted again.
    async fn commit(&self, batch: &[Operation]) -> Result<Vec<Outcome>, StoreError>;

    /// The client's session, expired or not; `None` if nothing is stored for the client.
    async fn session(&self, client: &ClientId) -> Result<Option<StoredSession>, StoreError>;

    /// The user to whom the client's session belongs, unless the session has expired; `None` if that is unknown.
    async fn session_owner(&self, client: &ClientId) -> Result<Option<Box<str>>, StoreError>;

    /// Sets [`StoredSession::checked`] of the next few sessions after `after`, in the order of their clients, to [`MUST_CHECK`].
    /// Returns the last of these clients, after which the next call continues; `None` if no client is left.
    async fn uncheck_sessions(&self, after: Option<&ClientId>) -> Result<Option<ClientId>, StoreError>;

    /// The client's persistent subscriptions, in the order of their channel keys.
    async fn subscriptions(&self, client: &ClientId) -> Result<Vec<StoredSubscription>, StoreError>;

    /// The client's QoS 2 exchanges that are not complete. The read waits for commits in progress that concern them,
    /// also those of other nodes.
    async fn exchanges(&self, client: &ClientId) -> Result<Exchanges, StoreError>;

    /// The client's persistent subscription to this channel.
    async fn subscription(
        &self,
        client: &ClientId,
        channel: &ChannelName,
    ) -> Result<Option<StoredSubscription>, StoreError>;

    /// Returns `true` if a stored session has a shared subscription with QoS 1 in the group of this owner: then the group has
    /// a cursor in every channel with messages that match.
    async fn has_group(&self, owner: &ClientId) -> Result<bool, StoreError>;

    /// The client's subscriptions with filters, in the order of the filters.
    async fn filters(&self, client: &ClientId) -> Result<Vec<StoredFilter>, StoreError>;

    /// Returns `true` if this channel may have a retained message. `false` is certain
    /// for all finished calls of [`commit`](Self::commit), not for pending ones.
    fn may_have_retained(&self, channel: &ChannelName) -> bool;

    /// The retained message of the channel. The read sees every commit that has been answered.
    async fn read_retained(&self, channel: &ChannelName) -> Result<Option<Retained>, StoreError>;

    /// The retained messages of the channels that have one, or may have one, in the same order. A database server
    /// reads them with one statement.
    async fn retained_among(&self, channels: &[ChannelName]) -> Result<Vec<ChannelName>, StoreError> {
        Ok(channels.iter().filter(|channel| self.may_have_retained(channel)).cloned().collect())
    }

    /// The channels with a retained message whose names begin with `prefix` and follow `after`, in order, at most
    /// [`RETAINED_PAGE`]. The read sees every commit that has been answered.
    async fn retained_under(
        &self,
        prefix: &str,
        after: Option<&ChannelName>,
    ) -> Result<Vec<UnderPrefix>, StoreError>;

    /// Messages of one log after `after`, in order: at most `messages`, and no more after
    /// `bytes` of payload have been collected (at least one message, if one exists). They are read together with the end of
    /// the log in one statement, whose answer may be older than the last commit if a proxy reads from replicas.
    async fn read_log(
        &self,
        key: ChannelKey,
        after: Seq,
        messages: usize,
        bytes: usize,
    ) -> Result<LogPart, StoreError>;

    /// Writes cursors. Never moves a cursor backwards, and never creates a subscription: updates that are behind the
    /// stored cursor or have no row are ignored.
    async fn save_cursors(&self, updates: &[CursorUpdate]) -> Result<(), StoreError>;

    /// Deletes the records of complete QoS 2 exchanges. The cursors of their messages must have been saved before.
    async fn forget_sent(&self, complete: &[Sent]) -> Result<(), StoreError>;

    /// Deletes the messages that all cursors of these channels have passed, and channels that have no
    /// subscription, no message and no retained message left. It also deletes the remains of unsubscriptions, expiry and
    /// crashes, so it must be called from time to time even without channels. Returns the
    /// number of deleted messages.
    async fn trim(&self, channels: &[ChannelKey]) -> Result<u64, StoreError>;

    /// Stores sessions that have begun.
    async fn sessions_opened(&self, sessions: &[SessionRow]) -> Result<(), StoreError>;

    /// Deletes sessions whose close notifier has run, and records when their clients were last seen and when their stored
    /// sessions end (only for clients that have a [`StoredSession`]). Unless the messages without an answer are recorded, the
    /// next [`BeginSession`] of such a client notes for each of its cursors that messages may have been sent.
    async fn sessions_closed(
        &self,
        sessions: &[(ClientId, u64)],
        node: &str,
        unanswered: Unanswered,
    ) -> Result<(), StoreError>;

    /// Records that the connections of these sessions of `node` have ended: their wills are due when their delays are over,
    /// or when the stored session ends. [`sessions_closed`](Self::sessions_closed) and
    /// [`orphan_closed`](Self::orphan_closed) do so, too, for wills that are not recorded yet. A will that would be due
    /// earlier than `at_least` seconds from now is postponed until then.
    async fn end_wills(
        &self,
        sessions: &[(ClientId, u64)],
        node: &str,
        at_least: u32,
    ) -> Result<(), StoreError>;

    /// Deletes the wills of these sessions of `node`.
    async fn delete_wills(&self, sessions: &[(ClientId, u64)], node: &str) -> Result<(), StoreError>;

    /// Wills that are due, of all clients or of one, those that are due longest first: at most [`WILLS_AT_A_TIME`], after the
    /// first `skip`.
    async fn due_wills(
        &self,
        of: Option<&ClientId>,
        now: SystemTime,
        skip: usize,
    ) -> Result<Vec<StoredWill>, StoreError>;

    /// Claims the sessions of other processes for `node` and returns them, oldest first.
    /// The caller must run their close notifiers; [`orphan_closed`] deletes them.
    ///
    /// [`orphan_closed`]: Self::orphan_closed
    async fn claim_orphans(&self, node: &str) -> Result<Vec<SessionRow>, StoreError>;

    /// Deletes one claimed session, after its close notifier has run. Otherwise as [`sessions_closed`](Self::sessions_closed).
    async fn orphan_closed(&self, session: &SessionRow) -> Result<(), StoreError>;

    /// Deletes the stored sessions that are `due` and whose clients have no session row, with their persistent
    /// subscriptions, and returns these clients. It calls `is_away` for each client first, and skips the client on `false`:
    /// a session that has just begun has no row yet. After `true`, `is_away` blocks the client until this
    /// method returns.
    async fn expire(&self, due: Due, is_away: &mut IsAway<'_>) -> Result<Vec<Expired>, StoreError>;

    /// Drops pending messages of clients that exceed their limits: the oldest messages of the channel that
    /// has most, and in the client's own point-to-point channel the oldest messages of the publisher that has most. A
    /// call checks the next few clients in the order of their ids, after `after` or from the first one. For a client
    /// with very many messages it may drop only a part; later calls drop the rest.
    async fn limit_pending(
        &self,
        limits: PendingLimits,
        after: Option<&ClientId>,
    ) -> Result<Swept, StoreError>;

    /// Deletes publishers that have not published for a day. A call checks the next few; after the
    /// last publisher, the next call begins again with the first one.
    async fn forget_publishers(&self, now: SystemTime) -> Result<Forgotten, StoreError>;

    /// Channels whose retained messages have expired, to be deleted with [`Operation::ExpireRetained`]: at most
    /// [`RETAINED_PAGE`], those that are due longest first. Reading never relies on the deletion:
    /// [`read_retained`](Self::read_retained) returns expired messages too.
    async fn expired_retained(&self, now: SystemTime) -> Result<Vec<ChannelName>, StoreError>;

    /// How much is stored. The database counts its rows for this.
    async fn totals(&self) -> Result<StoredTotals, StoreError>;

    /// Returns `true` if the files of the database are known to be missing, so that nothing can be committed.
    fn is_gone(&self) -> bool {
        false
    }

    /// The size of the files of the database, if they are files of this machine.
    fn bytes_on_disk(&self) -> Option<u64> {
        None
    }

    /// Finishes running operations and closes the database. Later calls fail with [`StoreError::Closed`].
    async fn close(&self);
}
