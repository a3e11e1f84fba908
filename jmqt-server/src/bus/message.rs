//! The messages between nodes, and their encoding.
//!
//! Client messages are sent in a form that is independent of the clients' languages: a short binary header, then the
//! data of each message after its length. The receiving node encodes them once for each form that its clients
//! need. All other messages are rare, and JSON.
//!
//! All nodes of a cluster use the same version of this format: it is the first byte. The last bytes are a seal
//! (`seal.rs`), which is verified before anything but the version is read.

use bytes::{Buf, BufMut, Bytes};
use jmqt_core::{ChannelName, ClientId, DisconnectCode};
use serde::{Deserialize, Serialize};

use crate::attributes::Attributes;
use crate::connection::{ConnectionInfo, Protocol};
use crate::disconnect::Disconnect;
use crate::message::{Data, LoggedPush, Pieces, PushId, Run, ShareMessage, place};
use crate::store::{ChannelKey, Epoch, LogPlace, Seq, Stamp};

/// The first byte of every message.
const VERSION: u8 = 6;
const QOS0: u8 = 0;
const QOS1: u8 = 1;
const CONTROL: u8 = 2;
/// As [`QOS0`] and [`QOS1`], sent to a node because of its filters. A node that has joined the channel drops it.
const QOS0_FOR_FILTERS: u8 = 3;
const QOS1_FOR_FILTERS: u8 = 4;
/// Something about the group of a shared subscription, which has a kind of its own.
const SHARE: u8 = 5;
const SHARE_MEMBERS: u8 = 0;
const SHARE_PUSH: u8 = 1;
const SHARE_GIVE: u8 = 2;
const SHARE_DONE: u8 = 3;
const SHARE_RETURNED: u8 = 4;
const SHARE_ARE_HELD: u8 = 5;
const SHARE_NOT_HELD: u8 = 6;
const NOBODY: u16 = u16::MAX;
/// The size of the length before the data of a message.
const LENGTH_BYTES: usize = size_of::<u32>();

/// The id of a server process, generated at random at its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct NodeId(pub(crate) u64);

impl std::fmt::Display for NodeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl NodeId {
    /// Parses the output of `Display`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        u64::from_str_radix(text, 16).ok().filter(|_| text.len() == 16).map(Self)
    }
}

/// The reason why messages are sent to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Because {
    /// The node has joined the channel, or has its only subscriber.
    Joined,
    /// A filter of the node matches the channel.
    Filters,
}

/// The sender: a node, and the database that the nodes of its cluster share. Log positions
/// are valid only for this database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Speaker {
    pub(crate) node: NodeId,
    pub(crate) epoch: Epoch,
}

/// A message from another node, or from this node: a bus also returns the node's own messages.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BusMessage {
    pub(crate) from: NodeId,
    pub(crate) body: Body,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Qos0(Messages),
    Qos1(LoggedMessages),
    Share(Share),
    Control(Control),
}

/// Something about the group of a shared subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Share {
    /// `$share/GROUP/FILTER`.
    pub(crate) name: ChannelName,
    pub(crate) message: ShareMessage,
}

/// QoS 0 messages of one channel and publisher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Messages {
    pub(crate) channel: ChannelName,
    pub(crate) sender: Option<ClientId>,
    pub(crate) run: Run,
}

/// QoS 1 messages of one channel, in the order of its log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LoggedMessages {
    pub(crate) channel: ChannelName,
    pub(crate) messages: Vec<LoggedPush>,
}

impl Body {
    /// The channel of client messages.
    pub(crate) fn channel(&self) -> Option<&ChannelName> {
        match self {
            Self::Qos0(messages) => Some(&messages.channel),
            Self::Qos1(messages) => Some(&messages.channel),
            Self::Share(_) | Self::Control(_) => None,
        }
    }
}

/// A client's session, as other nodes see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Presence {
    pub(crate) client: String,
    pub(crate) generation: u64,
    pub(crate) protocol: String,
    pub(crate) address: String,
}

/// A digest of the sessions of a node. A node that has received all messages about these sessions computes the same
/// digest. It is independent of the order in which sessions begin and end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Digest {
    pub(crate) count: u64,
    hash: u64,
}

impl Digest {
    pub(crate) fn add(&mut self, client: &str, generation: u64) {
        self.count = self.count.wrapping_add(1);
        self.hash = self.hash.wrapping_add(session_hash(client, generation));
    }

    pub(crate) fn remove(&mut self, client: &str, generation: u64) {
        self.count = self.count.wrapping_sub(1);
        self.hash = self.hash.wrapping_sub(session_hash(client, generation));
    }
}

/// FNV-1a, and the mixing of splitmix64: equal on nodes that were built by different compilers.
fn session_hash(client: &str, generation: u64) -> u64 {
    let of_client = client.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut hash = of_client ^ generation.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// A control message to all nodes, or to one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Control {
    /// A heartbeat, sent every second.
    Beat {
        /// The digest of the sessions that the node has announced.
        sessions: Digest,
        /// The digest of the filters that the node has announced.
        #[serde(default)]
        filters: Digest,
        /// `true` if the node has recently reached the database.
        has_database: bool,
    },
    /// A heartbeat that receivers answer with their own to the sender, because its connection is new.
    Hello {
        sessions: Digest,
        #[serde(default)]
        filters: Digest,
        has_database: bool,
    },
    /// This node stops: other nodes need not wait for a missing heartbeat.
    Leaving,
    /// Requests the sessions of every receiver.
    WantSessions,
    /// The sessions of this node, in several parts: sessions that were known before the first part and are
    /// in no part have ended.
    Sessions {
        list: u64,
        /// The number of the part, from 0, without gaps.
        part: u32,
        /// The digest of the sessions when the first part is sent.
        digest: Digest,
        sessions: Vec<Presence>,
        last: bool,
    },
    /// A part of such a list has arrived; the next may be sent.
    GotSessions {
        list: u64,
        part: u32,
    },
    /// A session begins.
    Opened(Presence),
    /// A session has ended.
    Closed {
        client: String,
        generation: u64,
    },
    /// A client of this node has subscribed with a filter that no other client of the node has.
    FilterAdded(String),
    /// No client of this node has the filter any more.
    FilterRemoved(String),
    /// Requests the filters of one node.
    WantFilters,
    /// The filters of this node, in several parts, with nothing in between.
    Filters {
        list: u64,
        /// The number of the part, from 0, without gaps.
        part: u32,
        filters: Vec<String>,
        last: bool,
    },
    /// Asks each receiver to confirm that it knows the filters that were announced before.
    AreFiltersKnown(u64),
    FiltersAreKnown(u64),
    /// A message that the sender sends to itself, to see that it arrives.
    Fence(u64),
    /// The last messages of channels to which this node has recently appended.
    Tails(Vec<(String, i64, u64)>),
    /// A request to one node; the [`Answer`](Self::Answer) repeats `number`.
    Ask {
        number: u64,
        request: Request,
    },
    Answer {
        number: u64,
        answer: Answer,
    },
    /// Validates all sessions of the receiver and their subscriptions again.
    RevalidateAll,
    /// Closes a client's connection for the application.
    Disconnect {
        client: String,
        /// The disconnect reason for the client. Older versions of this server omit it.
        #[serde(default)]
        farewell: Option<Farewell>,
    },
}

/// The disconnect reason for a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Farewell {
    code: u16,
    message: String,
    retry_after_seconds: Option<u32>,
}

impl From<&Disconnect> for Farewell {
    fn from(disconnect: &Disconnect) -> Self {
        Self {
            code: disconnect.code().code(),
            message: disconnect.message().to_owned(),
            retry_after_seconds: disconnect.retry_after_seconds(),
        }
    }
}

impl From<Farewell> for Disconnect {
    fn from(farewell: Farewell) -> Self {
        Self::from_parts(DisconnectCode::new(farewell.code), farewell.message, farewell.retry_after_seconds)
    }
}

/// The origin of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    pub(crate) protocol: String,
    pub(crate) address: String,
}

impl Origin {
    pub(crate) fn of(info: ConnectionInfo) -> Self {
        Self { protocol: info.protocol.as_str().to_owned(), address: info.remote.to_string() }
    }

    pub(crate) fn info(&self) -> Option<ConnectionInfo> {
        connection_info(&self.protocol, &self.address)
    }
}

/// The origin of a connection, as stores and nodes write it.
pub(crate) fn connection_info(protocol: &str, address: &str) -> Option<ConnectionInfo> {
    Some(ConnectionInfo { remote: address.parse().ok()?, protocol: Protocol::from_name(protocol)? })
}

/// A request to another node for a client that is connected there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Ends the sessions of a client that are older than a generation, including their close notifiers.
    EndSessions {
        client: String,
        below: u64,
        /// The connection that takes over. Older versions of this server omit it.
        #[serde(default)]
        by: Option<Origin>,
    },
    Subscribe {
        client: String,
        channel: String,
        persistent: bool,
    },
    Unsubscribe {
        client: String,
        channel: String,
    },
    Subscriptions {
        client: String,
    },
    /// Validates the session of a client and its subscriptions again.
    Revalidate {
        client: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    Done,
    /// `true` if the subscription existed.
    Existed(bool),
    /// Channels, and the persistence of each subscription.
    Subscriptions(Vec<(String, bool)>),
    Revalidated(Revalidated),
    /// The client is not connected there.
    NotHere,
    /// The request has been carried out as far as possible: the node cannot reach the database, and leaves the
    /// rest to the node that asked.
    WithoutDatabase,
    /// The store failed.
    Failed,
    /// The node is busy: repeat the request.
    Busy,
}

/// What a node has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Revalidated {
    pub(crate) sessions: u64,
    pub(crate) ended: u64,
    pub(crate) closed: u64,
    pub(crate) failed: u64,
}

/// The received bytes are not a message of a node of this cluster and version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NotAMessage(&'static str);

fn header(from: Speaker, kind: u8, room: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(14 + room);
    out.put_u8(VERSION);
    out.put_u8(kind);
    out.put_u64(from.node.0);
    out.put_u32(from.epoch.0);
    out
}

/// The version of the sender, if it differs from this node's version.
pub(crate) fn other_version(payload: &[u8]) -> Option<u8> {
    payload.first().copied().filter(|version| *version != VERSION)
}

/// Returns `true` for pushes and what belongs to them, which may be dropped when the queue is full.
pub(crate) fn is_pushes(payload: &[u8]) -> bool {
    payload.get(1).is_some_and(|kind| *kind != CONTROL)
}

/// Returns `true` for pushes that were sent to this node because of its filters.
pub(crate) fn is_for_filters(payload: &[u8]) -> bool {
    payload.get(1).is_some_and(|kind| matches!(*kind, QOS0_FOR_FILTERS | QOS1_FOR_FILTERS))
}

/// Returns `true` for the headers of pushes of one channel and publisher, for whatever reason they are sent.
pub(crate) fn is_of_same_publisher(one: &[u8], other: &[u8]) -> bool {
    one.get(2..) == other.get(2..)
}

/// Returns `true` if `node` is the sender.
pub(crate) fn is_from(payload: &[u8], node: NodeId) -> bool {
    payload.get(2..10).is_some_and(|from| from == node.0.to_be_bytes())
}

/// Encodes QoS 0 messages. Returns the bytes, and the length of the header: more messages of the same
/// channel and publisher may be appended.
pub(crate) fn encode_qos0(
    from: Speaker,
    because: Because,
    channel: &ChannelName,
    sender: Option<&ClientId>,
    run: &Run,
) -> (Vec<u8>, usize) {
    let names = channel.as_str().len() + sender.map_or(0, |sender| sender.as_str().len());
    // The bytes around each piece of data in a run are at least as long as a length.
    let kind = if because == Because::Joined { QOS0 } else { QOS0_FOR_FILTERS };
    let mut out = header(from, kind, 4 + names + run.pieces.bytes.len());
    let header = put_qos0(&mut out, channel, sender, run);
    (out, header)
}

/// Returns the length of the header.
fn put_qos0(out: &mut Vec<u8>, channel: &ChannelName, sender: Option<&ClientId>, run: &Run) -> usize {
    put_text(out, channel.as_str());
    put_sender(out, sender);
    put_attributes(out, &run.attributes);
    let header = out.len();
    for data in run.data() {
        put_data(out, data);
    }
    header
}

pub(crate) fn encode_qos1(
    from: Speaker,
    because: Because,
    channel: &ChannelName,
    messages: &[LoggedPush],
) -> Vec<u8> {
    let data: usize = messages.iter().map(|message| message.data.as_bytes().len()).sum();
    let kind = if because == Because::Joined { QOS1 } else { QOS1_FOR_FILTERS };
    let mut out = header(from, kind, 600 + 64 * messages.len() + data);
    put_qos1(&mut out, channel, messages);
    out
}

fn put_qos1(out: &mut Vec<u8>, channel: &ChannelName, messages: &[LoggedPush]) {
    put_text(out, channel.as_str());
    out.put_u32(place(messages.len()));
    for message in messages {
        match message.id {
            PushId::Logged(LogPlace { key, seq, stamp }) => {
                out.put_u8(0);
                out.put_i64(key.0);
                out.put_u64(seq.0);
                out.put_u64(stamp.0);
            }
            PushId::Memory { process, number } => {
                out.put_u8(1);
                out.put_u32(process);
                out.put_u64(number);
            }
        }
        put_sender(out, message.sender.as_ref());
        put_attributes(out, message.data.attributes());
        put_data(out, message.data.as_bytes());
    }
}

/// Encodes something about a group. Returns the bytes, and the length of the header if more messages without
/// acknowledgement may be appended, otherwise 0.
pub(crate) fn encode_share(from: Speaker, name: &ChannelName, message: &ShareMessage) -> (Vec<u8>, usize) {
    let mut out = header(from, SHARE, 600);
    put_text(&mut out, name.as_str());
    let mut header = 0;
    match message {
        ShareMessage::Members { count, knows_yours } => {
            out.put_u8(SHARE_MEMBERS);
            out.put_u32(*count);
            out.put_u8((*knows_yours).into());
        }
        ShareMessage::Push { channel, sender, run } => {
            out.put_u8(SHARE_PUSH);
            header = put_qos0(&mut out, channel, sender.as_ref(), run);
        }
        ShareMessage::Give { channel, messages } => {
            out.put_u8(SHARE_GIVE);
            put_qos1(&mut out, channel, messages);
        }
        ShareMessage::Done(numbers) => put_numbers(&mut out, SHARE_DONE, numbers),
        ShareMessage::Returned(numbers) => put_numbers(&mut out, SHARE_RETURNED, numbers),
        ShareMessage::AreHeld(numbers) => put_numbers(&mut out, SHARE_ARE_HELD, numbers),
        ShareMessage::NotHeld(numbers) => put_numbers(&mut out, SHARE_NOT_HELD, numbers),
    }
    (out, header)
}

fn put_numbers(out: &mut Vec<u8>, kind: u8, numbers: &[u64]) {
    out.put_u8(kind);
    numbers.iter().for_each(|number| out.put_u64(*number));
}

pub(crate) fn encode_control(from: Speaker, control: &Control) -> Vec<u8> {
    let mut out = header(from, CONTROL, 100);
    // Strings and numbers always serialize to JSON.
    drop(serde_json::to_writer(&mut out, control));
    out
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    // Names have at most 512 bytes.
    out.put_u16(u16::try_from(text.len()).unwrap_or(NOBODY - 1));
    out.extend_from_slice(text.as_bytes());
}

/// Writes data after its length.
fn put_data(out: &mut Vec<u8>, data: &[u8]) {
    out.put_u32(place(data.len()));
    out.extend_from_slice(data);
}

fn put_sender(out: &mut Vec<u8>, sender: Option<&ClientId>) {
    match sender {
        Some(sender) => put_text(out, sender.as_str()),
        None => out.put_u16(NOBODY),
    }
}

impl BusMessage {
    /// Decodes a message of a node with this database.
    pub(crate) fn decode(mut payload: Bytes, epoch: Epoch) -> Result<Self, NotAMessage> {
        if number(payload.try_get_u8())? != VERSION {
            return Err(NotAMessage("the message has another format version"));
        }
        let kind = number(payload.try_get_u8())?;
        let from = NodeId(number(payload.try_get_u64())?);
        if number(payload.try_get_u32())? != epoch.0 {
            return Err(NotAMessage("the sender uses another database"));
        }
        let body = match kind {
            QOS0 | QOS0_FOR_FILTERS => Body::Qos0(decode_qos0(payload)?),
            QOS1 | QOS1_FOR_FILTERS => Body::Qos1(decode_qos1(payload)?),
            SHARE => Body::Share(decode_share(payload)?),
            CONTROL => Body::Control(decode_control(&payload)?),
            _ => return Err(NotAMessage("unknown kind of message")),
        };
        Ok(Self { from, body })
    }
}

fn decode_control(payload: &[u8]) -> Result<Control, NotAMessage> {
    let control = serde_json::from_slice(payload).map_err(|_| NotAMessage("unknown control message"))?;
    if let Control::Tails(tails) = &control {
        tails.iter().try_for_each(|(.., seq)| check_seq(*seq))?;
    }
    Ok(control)
}

/// Log positions are at most `i64::MAX`, so that adding to them cannot overflow.
fn check_seq(seq: u64) -> Result<(), NotAMessage> {
    i64::try_from(seq).map(drop).map_err(|_| NotAMessage("the message has an invalid log position"))
}

fn decode_qos0(mut payload: Bytes) -> Result<Messages, NotAMessage> {
    let channel = take_channel(&mut payload)?;
    let sender = take_sender(&mut payload)?;
    let attributes = take_attributes(&mut payload)?;
    let mut ends = Vec::new();
    let mut rest = &payload[..];
    while !rest.is_empty() {
        let length = number(rest.try_get_u32())? as usize;
        rest = rest.get(length..).ok_or(NotAMessage("the message is truncated"))?;
        ends.push(place(payload.len() - rest.len()));
    }
    let pieces = Pieces { bytes: payload, ends: ends.into() };
    Ok(Messages { channel, sender, run: Run { attributes, pieces, before: LENGTH_BYTES, behind: 0 } })
}

fn decode_qos1(mut payload: Bytes) -> Result<LoggedMessages, NotAMessage> {
    let channel = take_channel(&mut payload)?;
    let count = number(payload.try_get_u32())? as usize;
    // Each message takes at least 19 bytes: an impossible count reserves no memory.
    let mut messages = Vec::with_capacity(count.min(payload.len() / 19));
    for _ in 0..count {
        let id = match number(payload.try_get_u8())? {
            0 => PushId::Logged(LogPlace {
                key: ChannelKey(number(payload.try_get_i64())?),
                seq: Seq(number(payload.try_get_u64())?),
                stamp: Stamp(number(payload.try_get_u64())?),
            }),
            1 => PushId::Memory {
                process: number(payload.try_get_u32())?,
                number: number(payload.try_get_u64())?,
            },
            _ => return Err(NotAMessage("unknown kind of push id")),
        };
        let sender = take_sender(&mut payload)?;
        if let PushId::Logged(LogPlace { seq, .. }) = id {
            check_seq(seq.0)?;
        }
        let attributes = take_attributes(&mut payload)?;
        let length = number(payload.try_get_u32())?;
        // The seal proves that a node sent it, and that node has checked the JSON.
        let data = Data::new(take_bytes(&mut payload, length as usize)?, attributes);
        messages.push(LoggedPush { id, sender, data });
    }
    if !payload.is_empty() {
        return Err(NotAMessage("extra bytes after the last message"));
    }
    Ok(LoggedMessages { channel, messages })
}

fn decode_share(mut payload: Bytes) -> Result<Share, NotAMessage> {
    let name = take_channel(&mut payload)?;
    let message = match number(payload.try_get_u8())? {
        SHARE_MEMBERS => ShareMessage::Members {
            count: number(payload.try_get_u32())?,
            knows_yours: number(payload.try_get_u8())? != 0,
        },
        SHARE_PUSH => {
            let Messages { channel, sender, run } = decode_qos0(payload)?;
            ShareMessage::Push { channel, sender, run }
        }
        SHARE_GIVE => {
            let LoggedMessages { channel, messages } = decode_qos1(payload)?;
            ShareMessage::Give { channel, messages }
        }
        SHARE_DONE => ShareMessage::Done(take_numbers(&payload)?),
        SHARE_RETURNED => ShareMessage::Returned(take_numbers(&payload)?),
        SHARE_ARE_HELD => ShareMessage::AreHeld(take_numbers(&payload)?),
        SHARE_NOT_HELD => ShareMessage::NotHeld(take_numbers(&payload)?),
        _ => return Err(NotAMessage("unknown kind of message about a group")),
    };
    Ok(Share { name, message })
}

fn take_numbers(payload: &[u8]) -> Result<Vec<u64>, NotAMessage> {
    let (numbers, rest) = payload.as_chunks();
    match rest {
        [] => Ok(numbers.iter().copied().map(u64::from_be_bytes).collect()),
        _ => Err(NotAMessage("the message is truncated")),
    }
}

fn put_attributes(out: &mut Vec<u8>, attributes: &Attributes) {
    let encoded = attributes.encode().unwrap_or_default();
    out.put_u32(place(encoded.len()));
    out.extend_from_slice(&encoded);
}

fn take_attributes(payload: &mut Bytes) -> Result<Attributes, NotAMessage> {
    let length = number(payload.try_get_u32())? as usize;
    if length == 0 {
        return Ok(Attributes::NONE);
    }
    let encoded = take_bytes(payload, length)?;
    Attributes::decode(&encoded).ok_or(NotAMessage("the message has invalid attributes"))
}

fn number<T>(taken: Result<T, bytes::TryGetError>) -> Result<T, NotAMessage> {
    taken.map_err(|_| NotAMessage("the message is truncated"))
}

fn take_bytes(payload: &mut Bytes, length: usize) -> Result<Bytes, NotAMessage> {
    if payload.len() < length {
        return Err(NotAMessage("the message is truncated"));
    }
    Ok(payload.split_to(length))
}

fn take_channel(payload: &mut Bytes) -> Result<ChannelName, NotAMessage> {
    let length = number(payload.try_get_u16())?;
    let text = take_bytes(payload, length.into())?;
    let name = std::str::from_utf8(&text).ok().and_then(|text| ChannelName::exact(text).ok());
    name.ok_or(NotAMessage("not a channel name"))
}

fn take_sender(payload: &mut Bytes) -> Result<Option<ClientId>, NotAMessage> {
    let length = number(payload.try_get_u16())?;
    if length == NOBODY {
        return Ok(None);
    }
    let text = take_bytes(payload, length.into())?;
    let client = std::str::from_utf8(&text).ok().and_then(|text| ClientId::parse(text).ok());
    client.map(Some).ok_or(NotAMessage("not a client id"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EPOCH: Epoch = Epoch(0xabcd_0001);
    const HERE: Speaker = Speaker { node: NodeId(0xfeed_0000_0000_0001), epoch: EPOCH };

    fn channel(name: &str) -> ChannelName {
        ChannelName::parse(name).unwrap()
    }

    fn read(payload: Vec<u8>) -> Body {
        let message = BusMessage::decode(payload.into(), EPOCH).unwrap();
        assert_eq!(message.from, HERE.node);
        message.body
    }

    #[test]
    fn a_node_id_is_parsed_from_its_text() {
        for node in [HERE.node, NodeId(0), NodeId(u64::MAX)] {
            assert_eq!(NodeId::parse(&node.to_string()), Some(node));
        }
        assert_eq!(NodeId::parse("fe"), None);
        assert_eq!(NodeId::parse("another node"), None);
    }

    #[test]
    fn qos_0_messages_are_decoded_as_encoded_and_more_may_be_appended() {
        let sender = ClientId::parse("alice").unwrap();
        // A run may have other bytes around each piece.
        let pieces = Pieces { bytes: Bytes::from_static(b"<1>;<22>;"), ends: [4, 9].into() };
        let run = Run { attributes: Attributes::NONE, pieces, before: 1, behind: 2 };
        for sender in [Some(sender), None] {
            let (mut payload, header) =
                encode_qos0(HERE, Because::Joined, &channel("news"), sender.as_ref(), &run);
            assert_eq!(&payload[header..], b"\0\0\0\x011\0\0\0\x0222");
            assert!(is_pushes(&payload));
            payload.extend_from_slice(b"\0\0\0\x013");
            let Body::Qos0(read) = read(payload) else { panic!("something else") };
            assert_eq!((read.channel, read.sender), (channel("news"), sender));
            assert_eq!(read.run.data().collect::<Vec<_>>(), [&b"1"[..], b"22", b"3"]);
        }
    }

    fn qos1() -> LoggedMessages {
        let message = |id, sender: Option<&str>, data: &'static str| {
            let sender = sender.map(|sender| ClientId::parse(sender).unwrap());
            LoggedPush { id, sender, data: Data::checked_before(data.into()) }
        };
        let place = LogPlace { key: ChannelKey(7), seq: Seq(i64::MAX as u64), stamp: Stamp(u64::MAX >> 1) };
        LoggedMessages {
            channel: channel("#bob"),
            messages: vec![
                message(PushId::Logged(place), Some("alice"), "1"),
                message(PushId::Memory { process: 3, number: 9 }, None, "22"),
            ],
        }
    }

    fn encode(messages: &LoggedMessages) -> Vec<u8> {
        encode_qos1(HERE, Because::Joined, &messages.channel, &messages.messages)
    }

    #[test]
    fn qos_1_messages_are_decoded_as_encoded() {
        let payload = encode(&qos1());
        assert!(is_pushes(&payload));
        assert_eq!(read(payload), Body::Qos1(qos1()));
    }

    #[test]
    fn messages_about_groups_are_decoded_as_encoded() {
        let name = channel_of_share();
        let LoggedMessages { channel, messages } = qos1();
        let pieces = Pieces { bytes: Bytes::from_static(b"122"), ends: [1, 3].into() };
        let run = Run { attributes: Attributes::NONE, pieces, before: 0, behind: 0 };
        let numbers = vec![0, 1 << 63 | 7, u64::MAX];
        let told = [
            ShareMessage::Members { count: 3, knows_yours: true },
            ShareMessage::Members { count: 0, knows_yours: false },
            ShareMessage::Give { channel: channel.clone(), messages },
            ShareMessage::Done(numbers.clone()),
            ShareMessage::Returned(numbers.clone()),
            ShareMessage::AreHeld(numbers),
            ShareMessage::NotHeld(Vec::new()),
        ];
        for message in told {
            let (payload, header) = encode_share(HERE, &name, &message);
            assert!(is_pushes(&payload) && header == 0);
            assert_eq!(read(payload), Body::Share(Share { name: name.clone(), message }));
        }
        let push = ShareMessage::Push { channel, sender: None, run };
        let (mut payload, header) = encode_share(HERE, &name, &push);
        assert_eq!(&payload[header..], b"\0\0\0\x011\0\0\0\x0222");
        payload.extend_from_slice(b"\0\0\0\x013");
        let Body::Share(Share { message: ShareMessage::Push { run, .. }, .. }) = read(payload) else {
            panic!("something else")
        };
        assert_eq!(run.data().collect::<Vec<_>>(), [&b"1"[..], b"22", b"3"]);
        let (mut odd, _) = encode_share(HERE, &name, &ShareMessage::Done(vec![1]));
        odd.push(0);
        assert!(BusMessage::decode(odd.into(), EPOCH).is_err());
    }

    fn channel_of_share() -> ChannelName {
        ChannelName::exact("$share/g/#").unwrap()
    }

    #[test]
    fn truncated_and_inconsistent_messages_are_refused() {
        let whole = encode(&qos1());
        for length in 0..whole.len() {
            let cut = Bytes::copy_from_slice(&whole[..length]);
            assert!(BusMessage::decode(cut, EPOCH).is_err(), "{length} bytes");
        }
        let longer = [&whole[..], b"1"].concat();
        assert!(BusMessage::decode(longer.into(), EPOCH).is_err());
        let mut other = whole.clone();
        assert_eq!(other_version(&other), None);
        other[0] = 9;
        assert_eq!(other_version(&other), Some(9));
        assert!(BusMessage::decode(other.into(), EPOCH).is_err());
    }

    #[test]
    fn messages_of_nodes_with_another_database_are_refused() {
        let payload = encode_control(HERE, &Control::Leaving);
        assert!(BusMessage::decode(payload.into(), Epoch(EPOCH.0 + 1)).is_err());
    }

    #[test]
    fn invalid_log_positions_are_refused() {
        let mut messages = qos1();
        let place = LogPlace { key: ChannelKey(7), seq: Seq(u64::MAX), stamp: Stamp(1) };
        messages.messages[0].id = PushId::Logged(place);
        assert!(BusMessage::decode(encode(&messages).into(), EPOCH).is_err());
        let tails = encode_control(HERE, &Control::Tails(vec![("news".to_owned(), 7, u64::MAX)]));
        assert!(BusMessage::decode(tails.into(), EPOCH).is_err());
    }

    #[test]
    fn a_digest_identifies_a_set_of_sessions_in_any_order() {
        let (mut one, mut other) = (Digest::default(), Digest::default());
        let sessions = [("alice", 1), ("bob", 2), ("carol", 3), ("alice", u64::MAX)];
        sessions.iter().for_each(|(client, generation)| one.add(client, *generation));
        sessions.iter().rev().for_each(|(client, generation)| other.add(client, *generation));
        assert_eq!((one, one.count), (other, 4));
        other.remove("bob", 2);
        other.add("bob", 4);
        assert_ne!(one, other, "another session of the same client");
        sessions.iter().for_each(|(client, generation)| one.remove(client, *generation));
        assert_eq!(one, Digest::default());
    }

    #[test]
    fn control_messages_are_decoded_as_encoded() {
        let presence = Presence {
            client: "böb \"the\" builder".to_owned(),
            generation: u64::MAX,
            protocol: "SOCKET".to_owned(),
            address: "[::1]:9".to_owned(),
        };
        let request =
            Request::Subscribe { client: "bob".to_owned(), channel: "news".to_owned(), persistent: true };
        let by = Some(Origin { protocol: "SOCKET".to_owned(), address: "[::1]:9".to_owned() });
        let kick = Disconnect::kick("so long");
        let end = Request::EndSessions { client: "bob".to_owned(), below: 7, by };
        let mut digest = Digest::default();
        digest.add("bob", 7);
        let controls = [
            Control::Beat { sessions: digest, filters: Digest::default(), has_database: true },
            Control::FilterAdded("a/+/\u{e9}".to_owned()),
            Control::Filters { list: 4, part: 0, filters: vec!["#".to_owned()], last: true },
            Control::Opened(presence.clone()),
            Control::Sessions { list: 4, part: 0, digest, sessions: vec![presence], last: false },
            Control::Ask { number: 1, request },
            Control::Ask { number: 2, request: end },
            Control::Disconnect { client: "bob".to_owned(), farewell: Some((&kick).into()) },
            Control::Answer { number: 1, answer: Answer::Subscriptions(vec![("news".to_owned(), true)]) },
            Control::Tails(vec![("news".to_owned(), -1, i64::MAX as u64)]),
        ];
        for control in controls {
            let payload = encode_control(HERE, &control);
            assert!(!is_pushes(&payload));
            assert_eq!(read(payload), Body::Control(control));
        }
    }

    #[test] // nodes of a cluster are replaced one by one
    fn messages_of_the_previous_version_are_decoded() {
        let mut payload = header(HERE, CONTROL, 0);
        payload.extend_from_slice(br#"{"Disconnect":{"client":"bob"}}"#);
        let disconnect = Control::Disconnect { client: "bob".to_owned(), farewell: None };
        assert_eq!(read(payload), Body::Control(disconnect));
        let mut payload = header(HERE, CONTROL, 0);
        payload.extend_from_slice(
            br#"{"Ask":{"number":1,"request":{"EndSessions":{"client":"bob","below":7}}}}"#,
        );
        let request = Request::EndSessions { client: "bob".to_owned(), below: 7, by: None };
        assert_eq!(read(payload), Body::Control(Control::Ask { number: 1, request }));
    }

    proptest! {
        #[test]
        fn no_bytes_do_any_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0u8..7) {
            drop(BusMessage::decode(Bytes::from(bytes.clone()), EPOCH));
            let mut payload = header(HERE, kind, 0);
            payload.extend(bytes);
            drop(BusMessage::decode(payload.into(), EPOCH));
        }
    }
}
