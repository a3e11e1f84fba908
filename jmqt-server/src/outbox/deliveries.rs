//! QoS 1 pushes. Pushes that fit into the window are appended. The others wait: in the log for a persistent
//! subscription, in memory for a temporary one.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use jmqt_core::{ChannelName, Qos};

use super::packet_ids::{Chosen, PacketIds, Resumed};
use super::position::{LogPosition, Reached, Source};
use super::subscription::{Changing, LogState, Stage, Subscription};
use super::window::{Redelivery, Window};
use super::writer::Writer;
use super::{Outbox, State};
use crate::connection::CloseReason;
use crate::message::{Pieces, PushId};
use crate::options::Grant;
use crate::packet_trace;
use crate::store::{ChannelKey, LogPlace, Seq};
use crate::wire::{self, LoggedPushes};

/// Where a message comes from if it cannot be sent any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// It is in the log that a persistent subscription reads.
    Log,
    /// It is in memory only, for a temporary subscription.
    Memory,
}

/// The result of an [`Outbox::offer`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Offered {
    /// The caller must call [`flush`](Outbox::flush).
    pub(crate) flush: bool,
    /// Not all pushes were accepted. The rest must be read from the log.
    pub(crate) behind: bool,
    /// The pushes are in a log, and the subscription has no reader of it.
    pub(crate) lacks_reader: bool,
}

/// The QoS 1 part of a session.
#[derive(Default)]
pub(super) struct Deliveries {
    /// Created on first use.
    window: Option<Box<Window>>,
    window_size: u32,
    redelivery: Redelivery,
    /// The session is in the list of sessions with moved cursors.
    pub(super) cursors_listed: bool,
    /// The store keeps the QoS 2 exchanges of the session.
    pub(super) keeps_exchanges: bool,
    /// The session is in the list of sessions whose steps must be recorded.
    pub(super) records_listed: bool,
}

impl Deliveries {
    pub(super) fn window(&mut self) -> &mut Window {
        let (size, redelivery) = (self.window_size as usize, self.redelivery);
        self.window.get_or_insert_with(|| Box::new(Window::new(size, redelivery)))
    }

    pub(super) fn packet_ids(&mut self) -> &mut PacketIds {
        self.window().packet_ids.get_or_insert_default()
    }

    /// The packet identifiers, if they have been created.
    pub(super) fn made_packet_ids(&self) -> Option<&PacketIds> {
        self.window.as_ref()?.packet_ids.as_deref()
    }

    pub(super) fn made_packet_ids_mut(&mut self) -> Option<&mut PacketIds> {
        self.window.as_mut()?.packet_ids.as_deref_mut()
    }

    /// The window, if it has been created.
    pub(super) fn made_window(&self) -> Option<&Window> {
        self.window.as_deref()
    }

    pub(super) fn made_window_mut(&mut self) -> Option<&mut Window> {
        self.window.as_deref_mut()
    }

    pub(super) fn take_window(&mut self) -> Option<Box<Window>> {
        self.window.take()
    }

    pub(super) fn waiting_bytes(&self) -> usize {
        self.window.as_ref().map_or(0, |window| window.waiting_bytes())
    }

    pub(super) fn persistent_count(&self) -> usize {
        self.window.as_ref().map_or(0, |window| window.by_key.len())
    }

    /// Adds a subscription with its log position.
    pub(super) fn attach(&mut self, subscription: &Arc<Subscription>, position: &mut LogPosition) {
        let window = self.window();
        window.by_key.insert(position.key, Arc::clone(subscription));
        window.count_resumed(position);
        if let Some(ids) = &mut window.packet_ids {
            ids.passed(position.key, position.next);
        }
        list_if_behind(window, subscription, position);
    }

    /// Removes a subscription and its log position.
    pub(super) fn detach(&mut self, subscription: &Subscription, position: &LogPosition) {
        let Some(window) = &mut self.window else { return };
        window.by_key.remove(&position.key);
        if let Some(ids) = &mut window.packet_ids {
            ids.forget_log(position.key);
        }
        window.logged_ended(position.in_flight as usize);
        window.redeliveries_ended_up_to(position.key, u64::MAX);
        window.behind.retain(|behind| behind.channel != subscription.channel);
    }

    /// Removes the subscription to this channel, which has ended.
    pub(super) fn forget(&mut self, channel: &ChannelName) {
        if let Some(window) = &mut self.window {
            window.forget(channel);
        }
    }

    /// Returns `true` if the session must be added to the list of those whose steps must be recorded.
    pub(super) fn is_first_to_record(&mut self) -> bool {
        !std::mem::replace(&mut self.records_listed, true)
    }

    /// Returns `true` if the session must be added to the list of sessions with moved cursors.
    pub(super) fn is_first_to_move(&mut self) -> bool {
        !std::mem::replace(&mut self.cursors_listed, true)
    }
}

impl Outbox {
    /// Sets the number of pushes that may be unacknowledged.
    pub(crate) fn set_window(&self, window_size: u32, redelivery: Redelivery) {
        let mut state = self.lock();
        state.deliveries.window_size = window_size;
        state.deliveries.redelivery = redelivery;
    }

    pub(crate) fn window_full_since(&self) -> Option<Instant> {
        // An MQTT client may acknowledge whenever it wants.
        if self.form().is_mqtt() {
            return None;
        }
        self.lock().deliveries.window.as_ref()?.full_since()
    }

    /// Offers QoS 1 pushes to one subscription. Pushes that fit into the window are appended; the others wait in the
    /// log (persistent subscription) or in memory (temporary subscription).
    pub(crate) fn offer(
        &self,
        subscription: &Arc<Subscription>,
        logged: &LoggedPushes,
        source: Source,
    ) -> Offered {
        let (form, options) = (self.form(), subscription.options());
        // A reader may have QoS 0 for a moment, until it ends. Its cursor needs acknowledgements.
        let grant = match options.grant(Qos::AtLeastOnce) {
            Grant::Unacknowledged if subscription.is_reader() => Grant::Acknowledged,
            grant => grant,
        };
        // Now, because it must not run under the lock.
        let own;
        let framed = match options.is_special() {
            false => logged.framed(form, grant),
            true => {
                if let Some(group) = &self.group {
                    return self.offer_to_group(group, subscription, logged, source);
                }
                own = subscription.with_terms(|terms| logged.framed_for(form, grant, terms));
                &own
            }
        };
        let mut state = self.lock();
        if state.closed().is_some() || subscription.stage() == Stage::Ended {
            return Offered { flush: false, behind: false, lacks_reader: false };
        }
        let mut log = subscription.log();
        let mut lacks_reader = false;
        let (moved, behind) = match &mut *log {
            LogState::Filter if grant == Grant::Acknowledged && logged.last_logged().is_some() => {
                lacks_reader = true;
                (false, false)
            }
            LogState::Temporary | LogState::Filter | LogState::Share { .. } => {
                self.offer_temporary(&mut state, subscription, logged, framed, grant);
                (false, false)
            }
            LogState::Changing(changing) => {
                changing.seen = changing.seen.max(logged.last_logged());
                self.keep(&mut state, subscription, changing, logged, framed);
                (false, false)
            }
            LogState::Attaching { seen } => {
                // Keys are never reused, so the greatest belongs to the current log.
                *seen = (*seen).max(logged.last_logged());
                (false, true)
            }
            // They may belong to a deleted log, whose channel and subscription were created again.
            LogState::Attached(position) if source.log(logged).is_some_and(|log| log != position.key) => {
                (false, false)
            }
            // It was attached just now.
            LogState::Attached(position) if grant == Grant::Unacknowledged => {
                position.see(logged);
                list_if_behind(state.deliveries.window(), subscription, position);
                (false, position.is_behind())
            }
            LogState::Attached(position) => {
                self.offer_logged(&mut state, subscription, position, logged, framed, source);
                (position.dirty, position.is_behind())
            }
        };
        drop(log);
        self.count(&mut state);
        let list = moved && state.deliveries.is_first_to_move();
        let flush = !state.writer.is_empty() && state.writer.is_first_to_append();
        drop(state);
        if list {
            subscription.outbox.list_moved_cursors();
        }
        Offered { flush, behind, lacks_reader }
    }

    fn offer_temporary(
        &self,
        state: &mut State,
        subscription: &Arc<Subscription>,
        logged: &LoggedPushes,
        framed: &Pieces,
        grant: Grant,
    ) {
        for (index, message) in logged.messages.iter().enumerate() {
            if subscription.skips(message.sender.as_ref()) {
                continue; // a publisher does not receive its own message (2.11)
            }
            let bytes = framed.cut(index..index + 1);
            if !self.is_sendable(&bytes) {
                continue;
            }
            if grant == Grant::Unacknowledged {
                self.push_unacknowledged(state, subscription, bytes);
                continue;
            }
            if !self.push_temporary(state, subscription, message.id, bytes) {
                return;
            }
        }
    }

    /// Pushes or queues one message of a temporary subscription. Returns `false` if there is no room, which ends the
    /// connection.
    pub(super) fn push_temporary(
        &self,
        state: &mut State,
        subscription: &Arc<Subscription>,
        id: PushId,
        bytes: Bytes,
    ) -> bool {
        let may_flow = !state.is_connecting() && subscription.stage() == Stage::Live;
        let has_room = may_flow && !self.is_full(state);
        if has_room && state.deliveries.window().try_send_temporary(id, subscription) {
            self.context.counters.pushes_sent.increment();
            packet_trace::pushed(
                subscription.client.as_str(),
                subscription.channel.as_str(),
                1,
                1,
                bytes.len(),
            );
            self.send(state, subscription, id, bytes, Origin::Memory);
            return true;
        }
        let waits = state.deliveries.window().wait(id, subscription, bytes, self.limit());
        if !waits {
            self.overflow(state);
        }
        waits
    }

    /// Appends a push that the client acknowledges.
    pub(super) fn send(
        &self,
        state: &mut State,
        subscription: &Subscription,
        push: PushId,
        bytes: Bytes,
        origin: Origin,
    ) {
        let form = self.form();
        if !form.is_mqtt() {
            return state.writer.push(bytes);
        }
        let (window, keeps) = (state.deliveries.window_size as usize, state.deliveries.keeps_exchanges);
        let ids = state.deliveries.packet_ids();
        let place = push.place().filter(|_| keeps && origin == Origin::Log);
        let chosen = match place {
            Some(place) => ids.choose(place, window),
            None => {
                let next = ids.next(window, keeps);
                next.map(|id| Chosen { id, is_computed: false, is_perhaps_sent: false })
            }
        };
        let Some(Chosen { id, is_computed, is_perhaps_sent }) = chosen else { return self.overflow(state) };
        // The options may have changed to QoS 0 since it was encoded.
        let granted = match subscription.options().qos() {
            Qos::AtMostOnce => Qos::AtLeastOnce,
            granted => granted,
        };
        let mut addressed = wire::address(form, &bytes, granted, id);
        let exactly_once = addressed.exactly_once;
        if is_perhaps_sent && !exactly_once {
            addressed.bytes = wire::address_again(form, &bytes, false, id);
        }
        // The identifier of a QoS 1 message must survive a crash, too.
        let is_unsafe = place.is_some() && (!is_computed || ids.has_to_record_first());
        if keeps && (exactly_once || is_unsafe) {
            let is_perhaps_sent = is_perhaps_sent && !exactly_once;
            ids.record(&subscription.client, id, push, exactly_once, is_perhaps_sent, addressed.bytes);
            if state.deliveries.is_first_to_record() {
                self.context.unrecorded.add(&subscription.outbox);
            }
            return;
        }
        match keeps {
            true => ids.sent_in_turn(id, push),
            false => ids.sent(id, push, exactly_once),
        }
        self.append_messages(state, addressed.bytes);
    }

    /// Returns `false` for a message that this client does not receive: it has expired, or is too large.
    fn is_sendable(&self, bytes: &Bytes) -> bool {
        let is_sendable = !bytes.is_empty() && bytes.len() <= self.packet_limit();
        if !is_sendable {
            self.context.counters.pushes_dropped.increment();
        }
        is_sendable
    }

    /// Appends a message without acknowledgement, if there is room.
    fn push_unacknowledged(&self, state: &mut State, subscription: &Subscription, bytes: Bytes) {
        if state.writer.len() + state.held_bytes() + bytes.len() > self.limit() && state.waiting() > 0 {
            self.context.counters.pushes_dropped.increment();
            return;
        }
        self.context.counters.pushes_sent.increment();
        if state.is_connecting() || subscription.stage() == Stage::Opening {
            state.held.get_or_insert_default().hold(bytes);
        } else {
            self.append_messages(state, bytes);
        }
    }

    /// Closes the connection because a QoS 1 push has no room. Dropping the push would be an unreported loss (2.14).
    fn overflow(&self, state: &mut State) {
        state.close(CloseReason::QueueOverflow);
        self.waker.wake();
    }

    fn keep(
        &self,
        state: &mut State,
        subscription: &Subscription,
        changing: &mut Changing,
        logged: &LoggedPushes,
        framed: &Pieces,
    ) {
        for (index, message) in logged.messages.iter().enumerate() {
            if subscription.skips(message.sender.as_ref()) {
                continue; // a publisher does not receive its own message (2.11)
            }
            let bytes = framed.cut(index..index + 1);
            if !changing.kept.is_empty() && changing.bytes + bytes.len() > self.limit() {
                return self.overflow(state);
            }
            changing.bytes += bytes.len();
            changing.kept.push((message.id, bytes));
        }
    }

    fn offer_logged(
        &self,
        state: &mut State,
        subscription: &Arc<Subscription>,
        position: &mut LogPosition,
        logged: &LoggedPushes,
        framed: &Pieces,
        source: Source,
    ) {
        let (limit, is_addressed) = (self.limit(), self.form().is_mqtt());
        let flowing =
            (source != Source::Live || !state.is_connecting()) && subscription.stage() != Stage::Opening;
        position.see(logged);
        let has_resumed =
            is_addressed && state.deliveries.made_packet_ids().is_some_and(|ids| ids.has_resumed());
        let has_perhaps =
            is_addressed && state.deliveries.made_packet_ids().is_some_and(|ids| ids.has_perhaps());
        let mut run = 0..0; // messages to be appended in one piece
        let (mut sent, mut sent_bytes) = (0, 0);
        let mut is_behind = false;
        for (index, message) in logged.messages.iter().enumerate() {
            let PushId::Logged(LogPlace { seq: Seq(seq), stamp, .. }) = message.id else {
                // In no log: the subscription was temporary when it was committed, or is again, and this is not
                // known here yet.
                if source == Source::Live && !subscription.skips(message.sender.as_ref()) {
                    append_run(&mut state.writer, framed, std::mem::replace(&mut run, 0..0));
                    let bytes = framed.cut(index..index + 1);
                    if !self.push_temporary(state, subscription, message.id, bytes) {
                        return;
                    }
                }
                continue;
            };
            if is_behind {
                continue;
            }
            match position.reach(seq, source) {
                Reached::Next => {}
                Reached::Passed => continue,
                Reached::Beyond => {
                    is_behind = true;
                    continue;
                }
            }
            let length = framed.ends[index] as usize - framed.start(index);
            // For the cursor, the client's own message is acknowledged (2.11), and so is one that must not be sent.
            if subscription.skips(message.sender.as_ref()) || length == 0 || length > self.packet_limit() {
                position.pass_over(seq);
                continue;
            }
            if position.acked.contains(seq) {
                position.next += 1;
                continue;
            }
            // A message of an earlier connection is not sent as a new one.
            if has_resumed
                && let Some(resumed) = state.deliveries.packet_ids().pass_resumed(position.key, seq)
            {
                match resumed {
                    Resumed::UnderWay => position.next += 1,
                    Resumed::Complete => position.pass_over(seq),
                }
                continue;
            }
            if position.stamps.take_early(Seq(seq), stamp) {
                position.pass_over(seq);
                continue;
            }
            let redelivery = seq <= position.pending_until;
            let window = state.deliveries.window();
            let queued = state.writer.len() + window.unrecorded_bytes() + framed.start(run.end)
                - framed.start(run.start);
            if !flowing
                || window.room_for_logged(position.in_flight) == 0
                || queued > 0 && queued + length > limit
                || redelivery && !window.has_room_for_redelivery(length)
                || has_perhaps && window.must_wait(position.key, seq)
            {
                is_behind = true;
                continue;
            }
            if redelivery {
                window.redelivered(position.key, seq, length);
                self.context.counters.redeliveries.increment();
            }
            window.logged_sent(1);
            position.sent(Seq(seq), stamp);
            sent += 1;
            sent_bytes += length;
            if is_addressed {
                let bytes = framed.cut(index..index + 1);
                self.send(state, subscription, message.id, bytes, Origin::Log);
                continue;
            }
            if run.is_empty() || run.end != index {
                append_run(&mut state.writer, framed, run);
                run = index..index;
            }
            run.end = index + 1;
        }
        append_run(&mut state.writer, framed, run);
        self.context.counters.pushes_sent.add(sent);
        packet_trace::pushed(
            subscription.client.as_str(),
            subscription.channel.as_str(),
            1,
            sent,
            sent_bytes,
        );
        position.finish(logged, source);
        if has_perhaps {
            state.deliveries.packet_ids().passed(position.key, position.next);
        }
        list_if_behind(state.deliveries.window(), subscription, position);
    }

    /// Records the acknowledgement of a push. Returns `false` if that push is not outstanding (2.14).
    pub(crate) fn acknowledge(self: &Arc<Self>, id: PushId) -> bool {
        let mut state = self.lock();
        let Some(window) = &mut state.deliveries.window else { return false };
        let (mut moved, mut temporary) = (false, None);
        let counted = match id {
            PushId::Logged(place) => {
                let persistent = window.by_key.get(&place.key).cloned();
                let named = persistent.map(|subscription| acknowledge_logged(window, &subscription, place));
                moved = named == Some(InLog::Moved);
                // It may have been pushed before the subscription became persistent (2.20).
                moved || named == Some(InLog::Kept) || window.acknowledge_temporary(id).is_some()
            }
            PushId::Memory { .. } => {
                temporary = window.acknowledge_temporary(id);
                temporary.is_some()
            }
        };
        if counted {
            self.pump(&mut state);
        }
        let list = moved && state.deliveries.is_first_to_move();
        drop(state);
        if list {
            self.list_moved_cursors();
        }
        if let Some(subscription) = temporary
            && subscription.options().is_shared()
            && let Some(group) = subscription.group()
        {
            group.share_acknowledged(id);
        }
        counted
    }

    /// Sends waiting temporary pushes while the window and the queue have room.
    pub(super) fn pump(&self, state: &mut State) {
        let limit = self.limit();
        if !state.is_flowing() {
            return;
        }
        while state.writer.len() < limit
            && let Some(window) = &mut state.deliveries.window
            && let Some((id, subscription, bytes)) = window.next_waiting()
        {
            self.context.counters.pushes_sent.increment();
            self.send(state, &subscription, id, bytes, Origin::Memory);
        }
    }

    /// Records that the log has messages up to `seq`, which may not have been offered. Returns `true` if the client
    /// is behind.
    pub(crate) fn note_seen(&self, subscription: &Arc<Subscription>, key: ChannelKey, seq: Seq) -> bool {
        let mut state = self.lock();
        let mut log = subscription.log();
        match &mut *log {
            LogState::Attached(position) if position.key == key => {
                position.seen = position.seen.max(seq.0);
                list_if_behind(state.deliveries.window(), subscription, position);
                position.is_behind()
            }
            LogState::Changing(changing) => {
                changing.seen = changing.seen.max(Some((key, seq)));
                false
            }
            LogState::Attaching { seen } => {
                *seen = (*seen).max(Some((key, seq)));
                false
            }
            _ => false,
        }
    }
}

/// The effect of the acknowledgement of a logged message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InLog {
    /// The message is not outstanding.
    Nothing,
    /// The acknowledgement is kept until the message is read.
    Kept,
    /// The cursor has changed.
    Moved,
}

fn acknowledge_logged(window: &mut Window, subscription: &Subscription, place: LogPlace) -> InLog {
    let LogPlace { key: _, seq: Seq(seq), stamp } = place;
    let mut log = subscription.log();
    let LogState::Attached(position) = &mut *log else { return InLog::Nothing };
    if seq >= position.next {
        // It may name a push of an earlier connection that has not been repeated yet.
        let may_exist = seq <= position.pending_until.min(position.acked.horizon());
        let is_kept =
            may_exist && !position.acked.contains(seq) && position.stamps.acknowledge_early(Seq(seq), stamp);
        return if is_kept { InLog::Kept } else { InLog::Nothing };
    }
    if !position.stamps.was_pushed(Seq(seq), stamp) || !position.acked.insert(seq) {
        return InLog::Nothing;
    }
    position.stamps.forget_up_to(position.acked.up_to());
    position.dirty = true;
    position.in_flight = position.in_flight.saturating_sub(1);
    window.logged_ended(1);
    if seq <= position.pending_until {
        window.redelivery_ended(position.key, seq);
    }
    InLog::Moved
}

pub(super) fn list_if_behind(
    window: &mut Window,
    subscription: &Arc<Subscription>,
    position: &mut LogPosition,
) {
    if position.is_behind() && !std::mem::replace(&mut position.listed, true) {
        window.behind.push_back(Arc::clone(subscription));
    }
}

fn append_run(writer: &mut Writer, framed: &Pieces, run: Range<usize>) {
    if !run.is_empty() {
        writer.push(framed.cut(run));
    }
}
