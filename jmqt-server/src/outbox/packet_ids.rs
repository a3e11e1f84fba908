//! Packet identifiers: short numbers by which a client acknowledges messages, and those of messages that it publishes
//! with QoS 2 and has not released.
//!
//! JMQT clients have none: a push id of JMQT says which message it is.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::RangeInclusive;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use jmqt_core::ClientId;

use super::received::Received;
use crate::message::PushId;
use crate::store::{ChannelKey, LogPlace, Sent, SentStep, Seq, Stamp};
use crate::wire::PacketId;

/// The least and the greatest limit for messages without an answer, whatever the window is.
const MIN_UNANSWERED: usize = 1024;
const MAX_UNANSWERED: usize = 60_000;

/// The last identifier of messages in no log, in sessions that outlive their connections. A crash forgets which are in use.
const LAST_UNLOGGED: u16 = 4095;
/// The last identifier of messages in logs whose computed one is in use. They have records.
const LAST_RECORDED: u16 = 8191;
/// The number of identifiers that are computed from the places of messages: the others.
const COMPUTED_IDS: u16 = u16::MAX - LAST_RECORDED;
/// While fewer messages than this are without an answer, each has an identifier of its kind.
const FEW: usize = 2048;

/// The step that a sent message waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// QoS 1: the store records the message, because its identifier cannot be computed. It has not been sent.
    RecordFirst,
    /// The acknowledgement of a QoS 1 message.
    Acknowledge,
    /// A QoS 1 message of an earlier connection is sent again.
    AcknowledgeAgain,
    /// QoS 2: the store records the message, which has not been sent.
    Record,
    /// QoS 2: a message of an earlier connection is sent again.
    SendAgain,
    /// QoS 2: the client has received the message.
    Receive,
    /// QoS 2: the store records that the client has received the message.
    RecordReception,
    /// QoS 2: the client has forgotten the packet identifier.
    Complete,
}

/// A sent message without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unanswered {
    pub(super) push: PushId,
    step: Step,
    /// The turn of a message of a session that outlives its connection; otherwise 0.
    turn: u64,
    /// The store has a record of the message.
    is_recorded: bool,
    /// The message was sent on an earlier connection.
    pub(super) is_resumed: bool,
    /// The message may have been sent on an earlier connection, of which there is no record.
    is_perhaps_sent: bool,
}

impl Unanswered {
    /// Returns `true` if the store has a record of the message.
    pub(super) fn is_recorded(&self) -> bool {
        self.is_recorded
    }
}

/// The packet identifiers of one session.
#[derive(Default)]
pub(super) struct PacketIds {
    /// The identifier that was used last.
    last: u16,
    /// The same for messages in logs whose computed identifier is in use.
    last_recorded: u16,
    /// The turn of the last message, or 0.
    turn: u64,
    sent: HashMap<PacketId, Unanswered, foldhash::fast::RandomState>,
    /// QoS 2 publishes of the client that it has not released.
    received: Received,
    /// The QoS 1 messages that wait for the store. Others must not overtake them.
    to_record_first: usize,
    /// Created on first use.
    records: Option<Box<Records>>,
}

/// The messages of a log that may have been sent on an earlier connection, of which there is no record.
#[derive(Debug)]
struct Perhaps {
    /// The first one that has not been sent on this connection.
    next: u64,
    /// The last one.
    last: u64,
}

/// The identifier for a message that has not been sent on this connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) id: PacketId,
    /// It can be computed again. Otherwise a QoS 1 message of a log must be recorded before it is sent.
    pub(super) is_computed: bool,
    /// The message may have been sent on an earlier connection.
    pub(super) is_perhaps_sent: bool,
}

/// The identifier of a message of a persistent subscription, unless it is in use: then the message gets another one, which
/// the store records. It depends on nothing but the place of the message, so it is the same after a crash. The logs of
/// different channels begin at different identifiers.
pub(super) fn computed((ChannelKey(key), Seq(seq)): (ChannelKey, Seq)) -> PacketId {
    const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;
    let begin = key.unsigned_abs().wrapping_mul(SPREAD) >> 48;
    let number = begin.wrapping_add(seq) % u64::from(COMPUTED_IDS);
    let id = u16::try_from(number).ok().and_then(|number| PacketId::new(LAST_RECORDED + 1 + number));
    id.unwrap_or(PacketId::MAX) // it is never 0
}

impl Perhaps {
    /// Returns `true` if a message that has not been sent again may be known to the client by this identifier.
    fn may_use(&self, key: ChannelKey, id: PacketId) -> bool {
        if id.get() <= LAST_RECORDED || self.next > self.last {
            return false;
        }
        let (first, count) = (u64::from(computed((key, Seq(self.next))).get()), u64::from(COMPUTED_IDS));
        (u64::from(id.get()) + count - first) % count <= self.last - self.next
    }
}

/// What the store records about the messages that were sent.
struct Records {
    client: ClientId,
    /// Steps that the store must record, in order, and the messages that are sent afterwards; for a step that is
    /// followed by a PUBREL there are no bytes.
    waiting: Vec<(PacketId, Bytes)>,
    waiting_bytes: usize,
    /// Messages of earlier connections that have not been sent again, in order.
    again: VecDeque<PacketId>,
    /// Messages of earlier connections that the client has received, in order, until PUBREL is sent again.
    released: Vec<PacketId>,
    /// The log places of the messages of earlier connections that the cursors have not passed. With a record if the exchange
    /// is complete: it is deleted when the cursor has passed the message.
    resumed: HashMap<(ChannelKey, u64), Option<Sent>, foldhash::fast::RandomState>,
    /// The logs whose messages may have been sent on an earlier connection.
    perhaps: HashMap<ChannelKey, Perhaps, foldhash::fast::RandomState>,
    /// Identifiers that two of these messages have.
    ambiguous: HashSet<PacketId, foldhash::fast::RandomState>,
    /// Complete exchanges, whose records can be deleted when the cursors are saved.
    complete: Vec<Sent>,
}

impl Records {
    fn new(client: &ClientId) -> Self {
        Self {
            client: client.clone(),
            waiting: Vec::new(),
            waiting_bytes: 0,
            again: VecDeque::new(),
            released: Vec::new(),
            resumed: HashMap::default(),
            perhaps: HashMap::default(),
            ambiguous: HashSet::default(),
            complete: Vec::new(),
        }
    }

    /// All messages of the log that may have been sent have been sent again, or are gone.
    fn end_perhaps(&mut self, key: ChannelKey) {
        if let Some(Perhaps { last, .. }) = self.perhaps.remove(&key) {
            self.complete.push(Sent::perhaps(&self.client, key, Seq(last)));
        }
    }

    fn wait(&mut self, id: PacketId, bytes: Bytes) {
        self.waiting_bytes += bytes.len();
        self.waiting.push((id, bytes));
    }

    fn of(&self, packet: PacketId, unanswered: &Unanswered) -> Sent {
        sent_as(&self.client, packet, unanswered)
    }
}

/// The record of a message.
fn sent_as(client: &ClientId, packet: PacketId, unanswered: &Unanswered) -> Sent {
    let is_other = |place| computed(place) != packet;
    let is_renamed = unanswered.is_perhaps_sent && unanswered.push.place().is_some_and(is_other);
    Sent {
        client: client.clone(),
        packet,
        turn: unanswered.turn,
        place: unanswered.push.place(),
        step: match unanswered.step {
            Step::Record | Step::SendAgain | Step::Receive => SentStep::Receive,
            Step::RecordReception | Step::Complete => SentStep::Release,
            _ if is_renamed => SentStep::AcknowledgeRenamed,
            Step::RecordFirst | Step::Acknowledge | Step::AcknowledgeAgain => SentStep::Acknowledge,
        },
    }
}

/// A QoS 2 publish of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reception {
    New,
    /// The client has sent it before, and has not released it.
    Repeated,
    /// The client leaves more publishes unreleased than it may.
    TooMany,
}

/// The effect of an acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// No message waits for it.
    Unknown,
    /// The exchange of this message is complete.
    Done(Unanswered),
    /// The exchange continues.
    Continues,
    /// The exchange continues when the store has recorded the step.
    Waits,
}

/// The state of a message of an earlier connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resumed {
    /// Its exchange continues.
    UnderWay,
    /// Its exchange is complete.
    Complete,
}

/// The packet that a recorded step allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Allowed {
    /// The message itself.
    Message,
    /// PUBREL.
    Release,
}

/// Messages of an earlier connection to send again: consecutive ones of one log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Again {
    /// `None` if the message is in no log.
    pub(super) key: Option<ChannelKey>,
    /// The packet identifiers, with ascending numbers of the messages.
    pub(super) packets: Vec<(PacketId, u64)>,
}

impl PacketIds {
    /// Returns `true` if the client has left too many messages without an answer. Those of ended subscriptions are not in the
    /// window any more, but keep their identifiers.
    fn has_too_many(&self, window: usize) -> bool {
        self.sent.len() >= (2 * window).clamp(MIN_UNANSWERED, MAX_UNANSWERED)
    }

    /// The identifier for a message of a persistent subscription, in a session that outlives its connection; `None` if the
    /// client has left too many messages without an answer.
    pub(super) fn choose(&mut self, place: (ChannelKey, Seq), window: usize) -> Option<Chosen> {
        if self.has_too_many(window) {
            return None;
        }
        let (id, is_perhaps_sent) = (computed(place), self.is_perhaps_sent(place));
        let is_own = match is_perhaps_sent {
            true => !self.sent.contains_key(&id) && !self.is_ambiguous(place, id),
            false => !self.is_taken(id),
        };
        if is_own {
            return Some(Chosen { id, is_computed: true, is_perhaps_sent });
        }
        let last = if self.sent.len() < FEW { LAST_RECORDED } else { u16::MAX };
        let id = self.next_free(self.last_recorded, LAST_UNLOGGED + 1..=last);
        self.last_recorded = id.get();
        Some(Chosen { id, is_computed: false, is_perhaps_sent })
    }

    /// Returns `true` if one of two messages may have been sent with this identifier, and it is not known which. Then nobody
    /// gets it on this connection: the client could take the one for a repetition of the other.
    fn is_ambiguous(&mut self, (key, _): (ChannelKey, Seq), id: PacketId) -> bool {
        let Some(records) = &mut self.records else { return false };
        let is_other = |(of, it): (&ChannelKey, &Perhaps)| *of != key && it.may_use(*of, id);
        let is_ambiguous = records.ambiguous.contains(&id) || records.perhaps.iter().any(is_other);
        if is_ambiguous {
            records.ambiguous.insert(id);
        }
        is_ambiguous
    }

    /// The identifier for another message; `None` if the client has left too many messages without an answer.
    pub(super) fn next(&mut self, window: usize, outlives: bool) -> Option<PacketId> {
        if self.has_too_many(window) {
            return None;
        }
        let last = if outlives && self.sent.len() < FEW { LAST_UNLOGGED } else { u16::MAX };
        let id = self.next_free(self.last, 1..=last);
        self.last = id.get();
        Some(id)
    }

    /// The first free identifier after `last`. There are fewer messages without an answer than identifiers.
    fn next_free(&self, mut last: u16, of: RangeInclusive<u16>) -> PacketId {
        let mut tried: u32 = 0;
        loop {
            last = if of.contains(&last) && last < *of.end() { last + 1 } else { *of.start() };
            tried += 1;
            // If very many messages may have been sent before, each identifier may be one of theirs.
            let is_any = tried > u32::from(u16::MAX);
            if let Some(id) = PacketId::new(last)
                && !self.sent.contains_key(&id)
                && (is_any || !self.is_taken(id))
            {
                return id;
            }
        }
    }

    /// Returns `true` if the client may know a message by this identifier.
    fn is_taken(&self, id: PacketId) -> bool {
        let is_reserved = |records: &Records| {
            records.ambiguous.contains(&id) || records.perhaps.iter().any(|(key, it)| it.may_use(*key, id))
        };
        self.sent.contains_key(&id) || self.records.as_deref().is_some_and(is_reserved)
    }

    /// Returns `true` if a message may have been sent on an earlier connection, of which there is no record.
    fn is_perhaps_sent(&self, (key, Seq(seq)): (ChannelKey, Seq)) -> bool {
        self.records.as_ref().and_then(|records| records.perhaps.get(&key)).is_some_and(|it| seq <= it.last)
    }

    /// Returns `true` if a message has to wait: it may have been sent before, and another one has its identifier.
    pub(super) fn must_wait(&self, key: ChannelKey, seq: u64) -> bool {
        let place = (key, Seq(seq));
        self.is_perhaps_sent(place)
            && self.sent.get(&computed(place)).is_some_and(|other| other.push.place() != Some(place))
    }

    /// Records that all messages of a log before `next` have been sent on this connection, or need not be sent.
    pub(super) fn passed(&mut self, key: ChannelKey, next: u64) {
        let Some(records) = self.records.as_mut().filter(|records| !records.perhaps.is_empty()) else {
            return;
        };
        if let Some(perhaps) = records.perhaps.get_mut(&key) {
            perhaps.next = perhaps.next.max(next);
            if perhaps.next > perhaps.last {
                records.end_perhaps(key);
            }
        }
    }

    /// Returns `true` if messages of logs may have been sent on earlier connections, of which there is no record.
    pub(super) fn has_perhaps(&self) -> bool {
        self.records.as_ref().is_some_and(|records| !records.perhaps.is_empty())
    }

    pub(super) fn sent(&mut self, id: PacketId, push: PushId, exactly_once: bool) {
        let step = if exactly_once { Step::Receive } else { Step::Acknowledge };
        self.sent.insert(
            id,
            Unanswered { push, step, turn: 0, is_recorded: false, is_resumed: false, is_perhaps_sent: false },
        );
    }

    /// Records a QoS 1 message of a session that outlives its connection.
    pub(super) fn sent_in_turn(&mut self, id: PacketId, push: PushId) {
        let turn = self.next_turn();
        let step = Step::Acknowledge;
        self.sent.insert(
            id,
            Unanswered { push, step, turn, is_recorded: false, is_resumed: false, is_perhaps_sent: false },
        );
    }

    fn next_turn(&mut self) -> u64 {
        if self.turn == 0 {
            // A record of an earlier session that is deleted late never has a turn of this one.
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            self.turn = u64::try_from(since.as_micros()).unwrap_or_default();
        }
        self.turn += 1;
        self.turn
    }

    /// Returns `true` if QoS 1 messages wait for the store. Those that follow must wait, too.
    pub(super) fn has_to_record_first(&self) -> bool {
        self.to_record_first > 0
    }

    /// Holds a message until the store has recorded it.
    pub(super) fn record(
        &mut self,
        client: &ClientId,
        id: PacketId,
        push: PushId,
        exactly_once: bool,
        is_perhaps_sent: bool,
        bytes: Bytes,
    ) {
        let turn = self.next_turn();
        let records = self.records.get_or_insert_with(|| Box::new(Records::new(client)));
        records.wait(id, bytes);
        let step = if exactly_once { Step::Record } else { Step::RecordFirst };
        self.to_record_first += usize::from(!exactly_once);
        self.sent.insert(
            id,
            Unanswered { push, step, turn, is_recorded: true, is_resumed: false, is_perhaps_sent },
        );
    }

    /// The bytes of the messages that wait for the store.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.records.as_ref().map_or(0, |records| records.waiting_bytes)
    }

    /// Returns `true` if steps wait for the store.
    pub(super) fn has_waiting(&self) -> bool {
        self.records.as_ref().is_some_and(|records| !records.waiting.is_empty())
    }

    /// Takes the steps that the store must record, and the packets that may be sent [afterwards](Self::recorded).
    pub(super) fn take_waiting(&mut self) -> (Box<[Sent]>, Vec<(PacketId, Bytes)>) {
        let Some(records) = &mut self.records else { return Default::default() };
        records.waiting_bytes = 0;
        let waiting = std::mem::take(&mut records.waiting);
        let step = |(id, _): &(PacketId, Bytes)| Some(records.of(*id, self.sent.get(id)?));
        (waiting.iter().filter_map(step).collect(), waiting)
    }

    /// The store has recorded a step.
    pub(super) fn recorded(&mut self, id: PacketId) -> Option<Allowed> {
        let unanswered = self.sent.get_mut(&id)?;
        match unanswered.step {
            Step::Record => {
                unanswered.step = Step::Receive;
                Some(Allowed::Message)
            }
            Step::RecordFirst => {
                unanswered.step = Step::Acknowledge;
                self.to_record_first = self.to_record_first.saturating_sub(1);
                Some(Allowed::Message)
            }
            Step::RecordReception => {
                unanswered.step = Step::Complete;
                Some(Allowed::Release)
            }
            _ => None,
        }
    }

    /// Continues the exchanges of earlier connections.
    pub(super) fn restore_sent(&mut self, client: &ClientId, sent: &[Sent]) {
        if sent.is_empty() {
            return;
        }
        let mut records = Box::new(Records::new(client));
        // A packet identifier is used again when the exchange before is complete.
        let messages = sent.iter().filter(|sent| sent.step != SentStep::Perhaps);
        let last_of: HashMap<PacketId, u64> = messages.map(|sent| (sent.packet, sent.turn)).collect();
        for sent in sent {
            if let (SentStep::Perhaps, Some((key, Seq(last)))) = (sent.step, sent.place) {
                records.perhaps.insert(key, Perhaps { next: 1, last });
                continue;
            }
            self.turn = self.turn.max(sent.turn);
            if last_of.get(&sent.packet).is_some_and(|last| *last > sent.turn) {
                match sent.place {
                    Some((key, Seq(seq))) => drop(records.resumed.insert((key, seq), Some(sent.clone()))),
                    None => records.complete.push(sent.clone()),
                }
                continue;
            }
            let step = match sent.step {
                SentStep::Receive => Step::SendAgain,
                SentStep::Release => Step::Complete,
                SentStep::Acknowledge | SentStep::AcknowledgeRenamed | SentStep::Perhaps => {
                    Step::AcknowledgeAgain
                }
            };
            let is_renamed = sent.step == SentStep::AcknowledgeRenamed;
            records.ambiguous.extend(sent.place.filter(|_| is_renamed).map(computed));
            let push = match sent.place {
                Some((key, seq)) => {
                    records.resumed.insert((key, seq.0), None);
                    PushId::Logged(LogPlace { key, seq, stamp: Stamp::NONE })
                }
                None => PushId::Memory { process: 0, number: 0 },
            };
            match step {
                Step::Complete => records.released.push(sent.packet),
                _ => records.again.push_back(sent.packet),
            }
            let unanswered = Unanswered {
                push,
                step,
                turn: sent.turn,
                is_recorded: true,
                is_resumed: true,
                is_perhaps_sent: is_renamed,
            };
            self.sent.insert(sent.packet, unanswered);
        }
        self.records = Some(records);
    }

    /// Returns `true` if there are messages of earlier connections that the cursors have not passed.
    pub(super) fn has_resumed(&self) -> bool {
        self.records.as_ref().is_some_and(|records| !records.resumed.is_empty())
    }

    /// The state of a message, if it was sent on an earlier connection. The cursor passes a complete one now.
    pub(super) fn pass_resumed(&mut self, key: ChannelKey, seq: u64) -> Option<Resumed> {
        let records = self.records.as_mut()?;
        let Entry::Occupied(mut entry) = records.resumed.entry((key, seq)) else { return None };
        let Some(record) = entry.get_mut().take() else { return Some(Resumed::UnderWay) };
        entry.remove();
        records.complete.push(record);
        Some(Resumed::Complete)
    }

    /// The number of messages of one log that were sent on earlier connections and have no answer.
    pub(super) fn resumed_of(&self, key: ChannelKey) -> usize {
        let Some(records) = &self.records else { return 0 };
        records.resumed.iter().filter(|((of, _), record)| *of == key && record.is_none()).count()
    }

    /// Finds the complete messages that the cursors have passed, or that are in logs without a subscription.
    pub(super) fn forget_passed(&mut self, is_ahead: impl Fn(ChannelKey, u64) -> bool) {
        let Some(records) = &mut self.records else { return };
        let gone = records.resumed.extract_if(|(key, seq), record| record.is_some() && !is_ahead(*key, *seq));
        records.complete.extend(gone.filter_map(|(_, record)| record));
    }

    /// The subscription to a log has ended.
    pub(super) fn forget_log(&mut self, key: ChannelKey) {
        if let Some(records) = &mut self.records {
            records.end_perhaps(key);
        }
    }

    /// Treats messages of earlier connections up to this one, which have been dropped, as those of ended subscriptions.
    pub(super) fn give_up_resumed(&mut self, key: ChannelKey, Seq(up_to): Seq) -> Vec<u64> {
        let Some(records) = &mut self.records else { return Vec::new() };
        let gone = records.resumed.extract_if(|(of, seq), _| *of == key && *seq <= up_to);
        let mut under_way = Vec::new();
        for ((_, seq), record) in gone {
            match record {
                Some(record) => records.complete.push(record),
                None => under_way.push(seq),
            }
        }
        under_way
    }

    /// Returns `true` if messages of an earlier connection have not been sent again.
    pub(super) fn is_sending_again(&self) -> bool {
        self.records.as_ref().is_some_and(|records| !records.again.is_empty())
    }

    /// The number of messages without an answer, except those that have not been sent again.
    pub(super) fn under_way(&self) -> usize {
        self.sent.len() - self.records.as_ref().map_or(0, |records| records.again.len())
    }

    /// The next messages to send again, at most this many.
    pub(super) fn next_again(&self, most: usize) -> Option<Again> {
        let again = &self.records.as_ref()?.again;
        let place = |id: &PacketId| self.sent.get(id)?.push.place();
        let first = *again.front()?;
        let Some((key, _)) = place(&first) else {
            return Some(Again { key: None, packets: vec![(first, 0)] });
        };
        let mut packets: Vec<(PacketId, u64)> = Vec::new();
        for id in again.iter().take(most) {
            match place(id) {
                Some((of, Seq(seq))) if of == key && packets.last().is_none_or(|(_, last)| *last < seq) => {
                    packets.push((*id, seq));
                }
                _ => break,
            }
        }
        Some(Again { key: Some(key), packets })
    }

    /// Inserts records of messages that the client has acknowledged.
    pub(super) fn restore_complete(&mut self, client: &ClientId, complete: Vec<Sent>) {
        if !complete.is_empty() {
            self.records.get_or_insert_with(|| Box::new(Records::new(client))).complete.extend(complete);
        }
    }

    /// The QoS 1 messages in logs without an answer that the store has no record of, in order. A message that waits for its
    /// record may have been sent on an earlier connection.
    pub(super) fn unrecorded(&self, client: &ClientId) -> Vec<Sent> {
        let is_unrecorded = |sent: &Unanswered| match sent.step {
            Step::Acknowledge => sent.turn > 0 && !sent.is_recorded,
            Step::RecordFirst => sent.is_perhaps_sent,
            _ => false,
        };
        let unrecorded =
            self.sent.iter().filter(|(_, sent)| is_unrecorded(sent) && sent.push.place().is_some());
        let mut unrecorded: Vec<_> =
            unrecorded.map(|(packet, sent)| sent_as(client, *packet, sent)).collect();
        unrecorded.sort_unstable_by_key(|sent| sent.turn);
        unrecorded
    }

    /// Returns `true` if a message that has not been sent again has QoS 2.
    pub(super) fn is_exactly_once(&self, id: PacketId) -> bool {
        self.sent.get(&id).is_some_and(|sent| sent.step == Step::SendAgain)
    }

    /// Records that a message is sent again, or that it cannot be: its exchange then continues as if the client had
    /// received it.
    pub(super) fn sent_again(&mut self, id: PacketId, was_sent: bool) {
        let (Some(records), Some(unanswered)) = (&mut self.records, self.sent.get_mut(&id)) else { return };
        records.again.retain(|waiting| *waiting != id);
        match unanswered.step {
            Step::AcknowledgeAgain => unanswered.step = Step::Acknowledge,
            _ if was_sent => unanswered.step = Step::Receive,
            _ => {
                unanswered.step = Step::RecordReception;
                records.wait(id, Bytes::new());
            }
        }
    }

    /// Takes the messages for which PUBREL is sent again, in order.
    pub(super) fn take_released(&mut self) -> Vec<PacketId> {
        self.records.as_mut().map(|records| std::mem::take(&mut records.released)).unwrap_or_default()
    }

    /// Takes the complete exchanges whose records can be deleted.
    pub(super) fn take_complete(&mut self) -> Vec<Sent> {
        self.records.as_mut().map(|records| std::mem::take(&mut records.complete)).unwrap_or_default()
    }

    fn take_step(&mut self, id: PacketId, expected: Step, next: Option<Step>) -> Effect {
        let Entry::Occupied(mut entry) = self.sent.entry(id) else { return Effect::Unknown };
        let unanswered = *entry.get();
        match next {
            _ if unanswered.step != expected => Effect::Unknown,
            Some(next) => {
                entry.get_mut().step = next;
                Effect::Continues
            }
            None => {
                entry.remove();
                if self.sent.is_empty() {
                    self.sent = HashMap::default(); // an idle session is small
                }
                Effect::Done(unanswered)
            }
        }
    }

    /// The exchange of a message is complete. Its record is deleted when the cursor has passed the message, which is now
    /// if `has_passed`.
    pub(super) fn forget_record(&mut self, id: PacketId, ended: &Unanswered, has_passed: bool) {
        let Some(records) = &mut self.records else { return };
        let complete = records.of(id, ended);
        let Some((key, Seq(seq))) = complete.place.filter(|_| ended.is_resumed) else {
            return records.complete.push(complete);
        };
        match records.resumed.entry((key, seq)) {
            Entry::Occupied(mut entry) if !has_passed => *entry.get_mut() = Some(complete),
            entry => {
                if let Entry::Occupied(entry) = entry {
                    entry.remove();
                }
                records.complete.push(complete);
            }
        }
    }

    /// The client has acknowledged a QoS 1 message.
    pub(super) fn acknowledged(&mut self, id: PacketId) -> Effect {
        self.take_step(id, Step::Acknowledge, None)
    }

    /// The client has received a QoS 2 message, or has refused it.
    pub(super) fn was_received(&mut self, id: PacketId, is_refused: bool) -> Effect {
        let unanswered = self.sent.get(&id).copied();
        match unanswered {
            Some(Unanswered { step: Step::Receive, .. }) if is_refused => {
                self.take_step(id, Step::Receive, None)
            }
            Some(Unanswered { step: Step::Receive, is_recorded: false, .. }) => {
                self.take_step(id, Step::Receive, Some(Step::Complete))
            }
            Some(Unanswered { step: Step::Receive, .. }) => {
                self.take_step(id, Step::Receive, Some(Step::RecordReception));
                if let Some(records) = &mut self.records {
                    records.wait(id, Bytes::new());
                }
                Effect::Waits
            }
            // It repeats an answer.
            Some(Unanswered { step: Step::RecordReception, .. }) => Effect::Waits,
            Some(Unanswered { step: Step::Complete, .. }) => Effect::Continues,
            _ => Effect::Unknown,
        }
    }

    /// The client has completed the exchange of a QoS 2 message.
    pub(super) fn completed(&mut self, id: PacketId) -> Effect {
        self.take_step(id, Step::Complete, None)
    }

    /// Records a QoS 2 publish of the client, which may have so many unreleased ones.
    pub(super) fn receive(&mut self, id: PacketId, maximum: u16) -> Reception {
        if self.received.contains(id) {
            return Reception::Repeated;
        }
        if self.received.len() >= usize::from(maximum) {
            return Reception::TooMany;
        }
        self.received.insert(id);
        Reception::New
    }

    /// Inserts the publishes of earlier connections.
    pub(super) fn restore_received(&mut self, ids: &[PacketId]) {
        ids.iter().for_each(|id| self.received.insert(*id));
    }

    /// Returns `true` if the client has not released this publish.
    pub(super) fn is_received(&self, id: PacketId) -> bool {
        self.received.contains(id)
    }

    /// The client has released its publish, or it was refused; returns `false` if it is unknown.
    pub(super) fn release(&mut self, id: PacketId) -> bool {
        self.received.remove(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(number: u64) -> PushId {
        PushId::Memory { process: 1, number }
    }

    fn logged(seq: u64) -> PushId {
        PushId::Logged(LogPlace { key: ChannelKey(1), seq: Seq(seq), stamp: Stamp(5) })
    }

    fn id(number: u16) -> PacketId {
        PacketId::new(number).unwrap()
    }

    fn bob() -> ClientId {
        ClientId::parse("bob").unwrap()
    }

    fn is_done(effect: Effect, of: PushId) -> bool {
        matches!(effect, Effect::Done(unanswered) if unanswered.push == of)
    }

    #[test] // 2.2.1: an identifier is not used again before the exchange is complete
    fn identifiers_in_use_are_skipped() {
        let mut ids = PacketIds { last: u16::MAX - 1, ..PacketIds::default() };
        for (number, expected) in [(1, u16::MAX), (2, 1), (3, 2)] {
            let id = ids.next(128, false).unwrap();
            assert_eq!(id.get(), expected);
            ids.sent(id, push(number), false);
        }
        ids.last = u16::MAX;
        assert_eq!(ids.next(128, false).unwrap().get(), 3);
    }

    #[test] // it must neither loop for ever nor use an identifier twice
    fn a_client_that_answers_nothing_runs_out_of_identifiers() {
        let mut ids = PacketIds::default();
        let mut count = 0;
        while let Some(id) = ids.next(100_000, false) {
            ids.sent(id, push(1), false);
            count += 1;
        }
        assert_eq!(count, MAX_UNANSWERED);
        assert!(is_done(ids.acknowledged(PacketId::MIN), push(1)));
        assert!(ids.next(100_000, false).is_some());
    }

    #[test] // 4.3.3
    fn an_exchange_with_qos_2_has_its_steps_in_order() {
        let mut ids = PacketIds::default();
        let (one, two) = (ids.next(128, false).unwrap(), id(9));
        ids.sent(one, push(1), true);
        assert_eq!(ids.acknowledged(one), Effect::Unknown);
        assert_eq!(ids.completed(one), Effect::Unknown);
        assert_eq!(ids.was_received(one, false), Effect::Continues);
        assert_eq!(ids.was_received(one, false), Effect::Continues, "repeated");
        assert!(is_done(ids.completed(one), push(1)));
        assert_eq!(ids.completed(one), Effect::Unknown);
        ids.sent(two, push(2), true);
        assert!(is_done(ids.was_received(two, true), push(2)), "refused");
        assert!(ids.take_complete().is_empty());
    }

    #[test]
    fn a_recorded_exchange_waits_for_the_store_twice() {
        let mut ids = PacketIds::default();
        ids.record(&bob(), id(1), logged(7), true, false, Bytes::from_static(b"message"));
        assert_eq!(ids.was_received(id(1), false), Effect::Unknown, "it has not been sent");
        let (steps, packets) = ids.take_waiting();
        assert_eq!((steps[0].place, steps[0].step), (Some((ChannelKey(1), Seq(7))), SentStep::Receive));
        assert_eq!(packets, [(id(1), Bytes::from_static(b"message"))]);
        assert!(!ids.has_waiting() && ids.waiting_bytes() == 0);
        assert_eq!(ids.recorded(id(1)), Some(Allowed::Message));
        for _ in 0..2 {
            assert_eq!(ids.was_received(id(1), false), Effect::Waits);
        }
        assert_eq!(ids.completed(id(1)), Effect::Unknown, "PUBREL has not been sent");
        let (later, packets) = ids.take_waiting();
        assert_eq!((later[0].turn, later[0].step, packets.len()), (steps[0].turn, SentStep::Release, 1));
        assert_eq!(ids.recorded(id(1)), Some(Allowed::Release));
        assert_eq!(ids.was_received(id(1), false), Effect::Continues, "PUBREL is repeated");
        let Effect::Done(ended) = ids.completed(id(1)) else { panic!("it is complete") };
        assert_eq!((ended.push, ids.take_complete()), (logged(7), Vec::new()));
        ids.forget_record(id(1), &ended, true);
        assert_eq!(ids.take_complete(), *later);
    }

    #[test] // 4.4
    fn exchanges_of_an_earlier_connection_continue_with_their_identifiers() {
        let mut ids = PacketIds::default();
        let sent = |packet, seq, is_released| Sent {
            client: bob(),
            packet: id(packet),
            turn: u64::from(packet),
            place: Some((ChannelKey(1), Seq(seq))),
            step: if is_released { SentStep::Release } else { SentStep::Receive },
        };
        let in_no_log = Sent { place: None, ..sent(4, 0, false) };
        ids.restore_sent(&bob(), &[sent(1, 5, true), sent(2, 6, false), sent(3, 8, false), in_no_log]);
        assert_eq!(
            (ids.next(128, false), ids.under_way(), ids.resumed_of(ChannelKey(1))),
            (Some(id(5)), 1, 3)
        );
        assert_eq!(ids.pass_resumed(ChannelKey(1), 5), Some(Resumed::UnderWay));
        assert_eq!(ids.pass_resumed(ChannelKey(1), 7), None);
        assert_eq!(ids.take_released(), [id(1)]);
        let again = ids.next_again(10).unwrap();
        assert_eq!((again.key, again.packets), (Some(ChannelKey(1)), vec![(id(2), 6), (id(3), 8)]));
        ids.sent_again(id(2), true);
        ids.sent_again(id(3), false);
        assert_eq!(ids.next_again(10), Some(Again { key: None, packets: vec![(id(4), 0)] }));
        ids.sent_again(id(4), false);
        assert!(!ids.is_sending_again());
        let (steps, _) = ids.take_waiting();
        assert_eq!(
            steps.iter().map(|it| (it.packet, it.step)).collect::<Vec<_>>(),
            [(id(3), SentStep::Release), (id(4), SentStep::Release)]
        );
        assert_eq!(ids.was_received(id(2), false), Effect::Waits);
        let Effect::Done(ended) = ids.completed(id(1)) else { panic!("it is complete") };
        assert!(ended.is_resumed);
        ids.forget_record(id(1), &ended, false);
        assert!(ids.take_complete().is_empty());
        assert_eq!(ids.pass_resumed(ChannelKey(1), 5), Some(Resumed::Complete));
        assert_eq!((ids.pass_resumed(ChannelKey(1), 5), ids.take_complete().len()), (None, 1));
    }

    #[test] // the record of a complete exchange is deleted late, and its identifier is used again before
    fn of_several_records_with_one_identifier_the_last_one_continues() {
        let mut ids = PacketIds::default();
        let sent = |turn, seq, is_released| Sent {
            client: bob(),
            packet: id(1),
            turn,
            place: Some((ChannelKey(1), Seq(seq))),
            step: if is_released { SentStep::Release } else { SentStep::Receive },
        };
        ids.restore_sent(&bob(), &[sent(1, 5, true), sent(2, 6, true), sent(3, 7, false)]);
        assert_eq!((ids.take_released(), ids.resumed_of(ChannelKey(1)), ids.under_way()), (vec![], 1, 0));
        assert_eq!(ids.next_again(9).unwrap().packets, [(id(1), 7)]);
        assert_eq!(ids.pass_resumed(ChannelKey(1), 5), Some(Resumed::Complete));
        assert_eq!(ids.take_complete(), [sent(1, 5, true)]);
        ids.forget_passed(|_, _| false);
        assert_eq!(ids.take_complete(), [sent(2, 6, true)]);
        assert_eq!(ids.pass_resumed(ChannelKey(1), 7), Some(Resumed::UnderWay));
    }

    #[test] // 4.3.3: a repeated PUBLISH is not delivered again before it is released
    fn a_publish_is_received_once_until_it_is_released() {
        let mut ids = PacketIds::default();
        let id = id(7);
        assert_eq!((ids.receive(id, 1), ids.receive(id, 1)), (Reception::New, Reception::Repeated));
        assert!(ids.release(id) && !ids.release(id));
        assert_eq!(ids.receive(id, 1), Reception::New);
    }

    #[test] // 3.2.2.3.3, 4.4: a publish of an earlier connection is repeated, not received
    fn a_client_with_the_most_unreleased_publishes_can_only_repeat_them() {
        let mut ids = PacketIds::default();
        let earlier: Vec<_> = (1..=7).filter_map(PacketId::new).collect();
        ids.restore_received(&earlier);
        assert_eq!(ids.receive(earlier[0], 7), Reception::Repeated);
        assert_eq!(ids.receive(PacketId::MAX, 7), Reception::TooMany);
        assert!(ids.release(earlier[0]));
        assert_eq!(ids.receive(PacketId::MAX, 7), Reception::New);
    }
}
