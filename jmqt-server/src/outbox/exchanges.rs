//! The QoS 2 exchanges of a session: the publishes that the client has not released, and, if the session outlives the
//! connection, the steps that the store records.
//!
//! Such a session sends a QoS 2 message when the store has recorded it, and PUBREL when the store has recorded that the
//! client has the message. The records are deleted later, after the cursors are saved.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use jmqt_core::ClientId;
use tokio::sync::Notify;

use super::Outbox;
use super::packet_ids::{Allowed, Effect, Reception};
use super::subscription::{LogState, Subscription};
use crate::connection::CloseReason;
use crate::message::PushId;
use crate::options::Grant;
use crate::store::{ChannelKey, Exchanges, Sent, Seq};
use crate::wire::{self, LoggedPushes, PacketId};

/// The effect of an acknowledgement with a packet identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Acknowledged {
    /// No message waits for it.
    Unknown,
    /// The exchange is complete.
    Done,
    /// The exchange continues.
    Continues,
    /// The exchange continues when the store has recorded the step.
    Waits,
}

/// Messages of an earlier connection to send again: consecutive ones of one log.
pub(crate) struct SendAgain {
    /// The subscription and its log; `None` if the subscription has ended, or the message is in no log.
    pub(crate) log: Option<(Arc<Subscription>, ChannelKey)>,
    /// The packet identifiers, with ascending numbers of the messages.
    pub(crate) packets: Vec<(PacketId, u64)>,
}

/// The most messages that are sent again at a time.
const AGAIN_AT_A_TIME: usize = 64;

/// Sessions with steps that the store must record.
#[derive(Default)]
pub(crate) struct Unrecorded {
    sessions: Mutex<Vec<Arc<Outbox>>>,
    arrived: Notify,
}

impl Unrecorded {
    pub(super) fn add(&self, outbox: &Arc<Outbox>) {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(outbox));
        self.arrived.notify_one();
    }

    /// Waits for sessions, and takes them.
    pub(crate) async fn take(&self) -> Vec<Arc<Outbox>> {
        loop {
            let sessions = std::mem::take(&mut *self.sessions.lock().unwrap_or_else(PoisonError::into_inner));
            if !sessions.is_empty() {
                return sessions;
            }
            self.arrived.notified().await;
        }
    }
}

/// Steps of QoS 2 exchanges that the store must record before the packets are sent.
pub(crate) struct ToRecord {
    pub(crate) steps: Box<[Sent]>,
    pub(crate) packets: Vec<(PacketId, Bytes)>,
}

impl Outbox {
    /// Lets the store keep the QoS 2 exchanges of this session, and continues those of earlier connections.
    pub(crate) fn keep_exchanges(&self, client: &ClientId, exchanges: &Exchanges) {
        let deliveries = &mut self.lock().deliveries;
        deliveries.keeps_exchanges = true;
        if *exchanges != Exchanges::default() {
            let window = deliveries.window();
            // The cursor may have been saved, or another client may have acknowledged a message, without its record being
            // deleted.
            let (complete, sent): (Vec<_>, Vec<_>) =
                exchanges.sent.iter().cloned().partition(|sent| window.has_acknowledged(sent));
            let ids = deliveries.packet_ids();
            ids.restore_received(&exchanges.received);
            ids.restore_sent(client, &sent);
            ids.restore_complete(client, complete);
            let window = deliveries.window();
            window.is_sending_again = window.packet_ids.as_ref().is_some_and(|ids| ids.is_sending_again());
            let subscriptions: Vec<_> = window.by_key.values().cloned().collect();
            for subscription in subscriptions {
                if let LogState::Attached(position) = &mut *subscription.log() {
                    window.count_resumed(position);
                    if let Some(ids) = &mut window.packet_ids {
                        ids.passed(position.key, position.next);
                    }
                }
            }
        }
    }

    /// Returns `true` if the store keeps the QoS 2 exchanges of this session.
    pub(crate) fn keeps_exchanges(&self) -> bool {
        self.lock().deliveries.keeps_exchanges
    }

    /// Records a QoS 2 publish of the client, which may have so many unreleased ones.
    pub(crate) fn receive(&self, id: PacketId, maximum: u16) -> Reception {
        self.lock().deliveries.packet_ids().receive(id, maximum)
    }

    /// Returns `true` if the client has not released this QoS 2 publish.
    pub(crate) fn is_received(&self, id: PacketId) -> bool {
        self.lock().deliveries.packet_ids().is_received(id)
    }

    /// The client has released its QoS 2 publish, or it was refused; returns `false` if it is unknown.
    pub(crate) fn release(&self, id: PacketId) -> bool {
        self.lock().deliveries.packet_ids().release(id)
    }

    /// The client has acknowledged a QoS 1 message with this packet identifier.
    pub(crate) fn acknowledge_packet(self: &Arc<Self>, id: PacketId) -> Acknowledged {
        let effect = self.lock().deliveries.packet_ids().acknowledged(id);
        self.end_exchange(id, effect)
    }

    /// The client has received a QoS 2 message, or has refused it.
    pub(crate) fn packet_received(self: &Arc<Self>, id: PacketId, is_refused: bool) -> Acknowledged {
        let effect = {
            let mut state = self.lock();
            let effect = state.deliveries.packet_ids().was_received(id, is_refused);
            if effect == Effect::Waits && state.deliveries.is_first_to_record() {
                self.context.unrecorded.add(self);
            }
            effect
        };
        self.end_exchange(id, effect)
    }

    /// The client has completed the exchange of a QoS 2 message.
    pub(crate) fn packet_completed(self: &Arc<Self>, id: PacketId) -> Acknowledged {
        let effect = self.lock().deliveries.packet_ids().completed(id);
        self.end_exchange(id, effect)
    }

    fn end_exchange(self: &Arc<Self>, id: PacketId, effect: Effect) -> Acknowledged {
        match effect {
            Effect::Unknown => Acknowledged::Unknown,
            Effect::Continues => Acknowledged::Continues,
            Effect::Waits => Acknowledged::Waits,
            Effect::Done(ended) => {
                let has_passed = if ended.is_resumed {
                    self.acknowledge_resumed(ended.push)
                } else {
                    // The subscription may have ended meanwhile.
                    self.acknowledge(ended.push);
                    true
                };
                if ended.is_recorded() {
                    let mut state = self.lock();
                    if let Some(ids) = state.deliveries.made_packet_ids_mut() {
                        ids.forget_record(id, &ended, has_passed);
                    }
                    let list = state.deliveries.is_first_to_move();
                    drop(state);
                    if list {
                        self.list_moved_cursors();
                    }
                }
                Acknowledged::Done
            }
        }
    }

    /// Records the acknowledgement of a message of an earlier connection. Returns `false` if the message is too far ahead
    /// of the cursor, which then passes it later.
    fn acknowledge_resumed(&self, push: PushId) -> bool {
        let Some((key, Seq(seq))) = push.place() else { return true };
        let mut state = self.lock();
        let Some(window) = state.deliveries.made_window_mut() else { return true };
        let Some(subscription) = window.by_key.get(&key).cloned() else { return true };
        let mut has_passed = true;
        if let LogState::Attached(position) = &mut *subscription.log() {
            has_passed = position.acked.insert(seq) || position.acked.contains(seq);
            position.dirty = true;
            position.in_flight = position.in_flight.saturating_sub(1);
            window.logged_ended(1);
        }
        self.pump(&mut state);
        has_passed
    }

    /// Takes the steps that the store must record, and the packets that [follow](Self::settle_recorded). Call
    /// [`record_submitted`](Self::record_submitted) afterwards.
    pub(crate) fn take_unrecorded(&self) -> Option<ToRecord> {
        let mut state = self.lock();
        if state.closed().is_some() {
            return None;
        }
        let ids = state.deliveries.made_window_mut()?.packet_ids.as_mut()?;
        let (steps, packets) = ids.take_waiting();
        if steps.is_empty() {
            state.deliveries.records_listed = false;
            return None;
        }
        state.settling.records += 1;
        Some(ToRecord { steps, packets })
    }

    /// Records that the steps have been submitted to the store. Later steps follow them.
    pub(crate) fn record_submitted(self: &Arc<Self>) {
        let mut state = self.lock();
        let has_more = state.deliveries.made_packet_ids().is_some_and(|ids| ids.has_waiting());
        state.deliveries.records_listed = has_more;
        if has_more {
            self.context.unrecorded.add(self);
        }
    }

    /// Sends the packets whose steps are recorded. If the store has failed, the connection ends. Returns `true` if the
    /// caller must flush.
    pub(crate) fn settle_recorded(&self, packets: Vec<(PacketId, Bytes)>, is_stored: bool) -> bool {
        let mut state = self.lock();
        state.settling.records = state.settling.records.saturating_sub(1);
        if !is_stored {
            state.close(CloseReason::StoreUnclear);
            self.waker.wake();
            return false;
        }
        if state.closed().is_some() {
            return false;
        }
        for (id, bytes) in packets {
            match state.deliveries.packet_ids().recorded(id) {
                Some(Allowed::Message) => self.append_messages(&mut state, bytes),
                Some(Allowed::Release) => {
                    let release = wire::release(self.form(), id);
                    state.writer.push_copy(&release);
                }
                None => {}
            }
        }
        self.count(&mut state);
        state.writer.is_first_to_append()
    }

    /// Sends PUBREL again for the messages of earlier connections that the client has received.
    pub(crate) fn release_again(&self) {
        let mut state = self.lock();
        let Some(ids) = state.deliveries.made_packet_ids_mut() else { return };
        for id in ids.take_released() {
            let release = wire::release(self.form(), id);
            state.writer.push_copy(&release);
        }
    }

    /// Returns `true` if messages of an earlier connection must be sent again. No other message with an acknowledgement is
    /// sent before.
    pub(crate) fn is_sending_again(&self) -> bool {
        self.lock().deliveries.made_window().is_some_and(|window| window.is_sending_again)
    }

    /// The QoS 1 messages without an answer, which the store must record at the end of the connection, so that they are sent
    /// again with their packet identifiers.
    pub(crate) fn take_unanswered(&self) -> Box<[Sent]> {
        let state = self.lock();
        if !state.deliveries.keeps_exchanges {
            return Box::default();
        }
        let Some(window) = state.deliveries.made_window() else { return Box::default() };
        let Some(ids) = &window.packet_ids else { return Box::default() };
        let Some(client) = window.by_key.values().next().map(|subscription| &subscription.client) else {
            return Box::default();
        };
        // Messages of groups go to other members.
        let temporary = window.temporary_places();
        let is_kept = |sent: &Sent| {
            let place = sent.place.map(|(key, Seq(seq))| (key, seq));
            place.is_some_and(|place| window.by_key.contains_key(&place.0) && !temporary.contains(&place))
        };
        ids.unrecorded(client).into_iter().filter(is_kept).collect()
    }

    /// The next messages to send again; `None` if there are none, or no room for them.
    pub(crate) fn next_again(&self) -> Option<SendAgain> {
        let state = self.lock();
        if state.closed().is_some() || self.is_full(&state) {
            return None;
        }
        let window = state.deliveries.made_window()?;
        let room = window.room_for_again();
        let again = window.packet_ids.as_ref()?.next_again(room.min(AGAIN_AT_A_TIME))?;
        let log = again.key.and_then(|key| Some((Arc::clone(window.by_key.get(&key)?), key)));
        (room > 0).then_some(SendAgain { log, packets: again.packets })
    }

    /// Sends a message again with its packet identifier.
    pub(crate) fn send_again(
        self: &Arc<Self>,
        subscription: &Subscription,
        id: PacketId,
        message: &LoggedPushes,
    ) {
        let form = self.form();
        let framed = subscription.with_terms(|terms| message.framed_for(form, Grant::Acknowledged, terms));
        let bytes = framed.cut(0..1);
        if bytes.is_empty() || bytes.len() > self.packet_limit() {
            return self.give_up_again(id);
        }
        let mut state = self.lock();
        let exactly_once = state.deliveries.packet_ids().is_exactly_once(id);
        let again = wire::address_again(form, &bytes, exactly_once, id);
        state.deliveries.packet_ids().sent_again(id, true);
        self.append_messages(&mut state, again);
        self.context.counters.redeliveries.increment();
        self.context.counters.pushes_sent.increment();
        self.note_sent_again(&mut state);
    }

    /// Continues the exchange of a message that cannot be sent again as if the client had received it: a client that has
    /// not received it answers that it does not know the packet identifier.
    pub(crate) fn give_up_again(self: &Arc<Self>, id: PacketId) {
        let mut state = self.lock();
        if !state.deliveries.packet_ids().is_exactly_once(id) {
            state.deliveries.packet_ids().sent_again(id, false);
            self.note_sent_again(&mut state);
            drop(state);
            self.acknowledge_packet(id);
            return;
        }
        state.deliveries.packet_ids().sent_again(id, false);
        if state.deliveries.is_first_to_record() {
            self.context.unrecorded.add(self);
        }
        self.note_sent_again(&mut state);
    }

    fn note_sent_again(&self, state: &mut super::State) {
        self.count(state);
        let window = state.deliveries.window();
        window.is_sending_again = window.packet_ids.as_ref().is_some_and(|ids| ids.is_sending_again());
        if !window.is_sending_again {
            self.pump(state);
        }
    }
}
