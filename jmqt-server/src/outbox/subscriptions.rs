//! The subscriptions of a session and their changes.

use std::sync::Arc;

use bytes::Bytes;
use jmqt_core::{ChannelName, ClientId, Persistence};

use super::position::LogPosition;
use super::subscription::{LogState, Named, Stage, Subscription};
use super::{Outbox, Phase, State};
use crate::message::{PushId, RetainedPush};
use crate::name_map::NameSet;
use crate::options::{Grant, SubscriptionOptions};
use crate::store::{ChannelKey, Seq, StoredSubscription};
use crate::wire::{self, RetainedPieces};

/// Subscriptions by channel name.
#[derive(Default)]
pub(super) struct Subscriptions {
    by_name: NameSet<Named>,
    /// The number of those that only read a log for filters.
    of_filters: u32,
    /// The number of those that the store keeps without a place in a log.
    kept: u32,
}

/// What becomes of a request for a reader.
pub(crate) enum Reader {
    /// It was created, and must be added to its channel and attached.
    Created(Arc<Subscription>),
    /// An existing subscription becomes the reader, and must be attached.
    Begun(Arc<Subscription>),
    /// It exists.
    Exists,
    /// No subscription needs it any more.
    Unwanted,
}

impl Subscriptions {
    /// The number of subscriptions of the client itself.
    pub(super) fn len(&self) -> usize {
        self.by_name.len().saturating_sub(self.of_filters as usize)
    }

    fn get(&self, channel: &str) -> Option<&Arc<Subscription>> {
        self.by_name.get(channel).map(|Named(subscription)| subscription)
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Subscription>> {
        self.by_name.iter().map(|Named(subscription)| subscription)
    }

    fn insert(&mut self, subscription: &Arc<Subscription>) -> bool {
        let is_new = self.by_name.insert(Named(Arc::clone(subscription)));
        if is_new {
            self.of_filters += u32::from(subscription.own_options().is_of_filter());
            self.kept += u32::from(subscription.log().is_kept());
        }
        is_new
    }

    fn remove(&mut self, channel: &str) -> Option<Arc<Subscription>> {
        let Named(subscription) = self.by_name.take(channel)?;
        self.of_filters -= u32::from(subscription.own_options().is_of_filter());
        self.kept -= u32::from(subscription.log().is_kept());
        Some(subscription)
    }

    /// Removes at most this many subscriptions.
    fn take(&mut self, limit: usize) -> Vec<Arc<Subscription>> {
        let taken = self.by_name.extract_if(|_| true).take(limit);
        taken.map(|Named(subscription)| subscription).collect()
    }
}

impl Outbox {
    pub(crate) fn subscription(&self, channel: &str) -> Option<Arc<Subscription>> {
        self.lock().subscriptions.get(channel).cloned()
    }

    /// The subscription of the client to this channel or filter; `None` if it only reads a log for filters.
    pub(crate) fn own_subscription(&self, name: &str) -> Option<Arc<Subscription>> {
        self.subscription(name).filter(|subscription| !subscription.own_options().is_of_filter())
    }

    /// The client, if a stored subscription has a filter.
    pub(crate) fn client_with_filters(&self) -> Option<ClientId> {
        let state = self.lock();
        let is_kept = |it: &&Arc<Subscription>| it.log().is_kept();
        let mut all = state.subscriptions.all().filter(|_| state.subscriptions.kept > 0);
        all.find(is_kept).map(|it| it.client.clone())
    }

    /// Returns `true` if a stored subscription of the client has a filter.
    pub(crate) fn has_filters(&self) -> bool {
        self.lock().subscriptions.kept > 0
    }

    /// Sets the options of a subscription. It becomes one of the client, or one that only reads a log for filters.
    pub(crate) fn set_options(&self, subscription: &Subscription, options: SubscriptionOptions) {
        let mut state = self.lock();
        let before = subscription.own_options().is_of_filter();
        subscription.set_options(options);
        if subscription.stage() != Stage::Ended {
            let of_filters = &mut state.subscriptions.of_filters;
            *of_filters = (*of_filters + u32::from(options.is_of_filter())).saturating_sub(u32::from(before));
        }
    }

    /// Sets whether the store keeps the subscription of a group, so that its messages are read from logs.
    pub(crate) fn keep_group(&self, subscription: &Subscription, is_kept: bool) {
        let mut state = self.lock();
        let mut log = subscription.log();
        let was_kept = log.is_kept();
        *log = if is_kept { LogState::Filter } else { LogState::Temporary };
        let kept = state.subscriptions.kept + u32::from(is_kept);
        state.subscriptions.kept = kept.saturating_sub(u32::from(was_kept));
    }

    /// Begins a reader of a channel for a subscription that lacks one. `seen` is a message in the log.
    pub(crate) fn begin_reader(
        &self,
        of: &Subscription,
        channel: &ChannelName,
        seen: (ChannelKey, Seq),
    ) -> Reader {
        let mut state = self.lock();
        if state.closed().is_some() || of.stage() == Stage::Ended {
            return Reader::Unwanted;
        }
        if let Some(existing) = state.subscriptions.get(channel.as_str()).cloned() {
            let mut log = existing.log();
            return match &mut *log {
                LogState::Filter | LogState::Temporary => {
                    state.subscriptions.kept -= u32::from(log.is_kept());
                    *log = LogState::Attaching { seen: Some(seen) };
                    drop(log);
                    Reader::Begun(existing)
                }
                _ => {
                    drop(log);
                    drop(state);
                    self.note_seen(&existing, seen.0, seen.1);
                    Reader::Exists
                }
            };
        }
        let (client, outbox) = (of.client.clone(), Arc::clone(&of.outbox));
        let log = LogState::Attaching { seen: Some(seen) };
        let reader = Subscription::new(channel.clone(), client, outbox, Stage::Live, log);
        reader.set_options(SubscriptionOptions::OF_FILTER.shared_as(of.own_options()));
        let reader = Arc::new(reader);
        state.subscriptions.insert(&reader);
        Reader::Created(reader)
    }

    /// Ends the reader of a subscription of the client, which stays. It was needed for filters only.
    pub(crate) fn end_reader(&self, subscription: &Subscription) {
        let mut state = self.lock();
        self.detach_locked(&mut state, subscription);
        self.pump(&mut state);
    }

    /// The number of subscriptions of the client, and the number of persistent ones. The client's own point-to-point
    /// channel is not counted.
    pub(crate) fn subscription_counts(&self, own_channel: &str) -> (usize, usize) {
        let state = self.lock();
        let own = state.subscriptions.get(own_channel);
        let own_persistent = own.is_some_and(|own| own.persistence() == Persistence::Persistent);
        let Subscriptions { by_name, of_filters, kept } = &state.subscriptions;
        let (of_filters, kept) = (*of_filters as usize, *kept as usize);
        let persistent = (state.deliveries.persistent_count() + kept).saturating_sub(of_filters);
        (
            by_name.len().saturating_sub(of_filters + usize::from(own.is_some())),
            persistent.saturating_sub(usize::from(own_persistent)),
        )
    }

    pub(crate) fn subscriptions(&self) -> Vec<Arc<Subscription>> {
        self.lock().subscriptions.all().cloned().collect()
    }

    /// Adds a subscription. An existing one with this name is kept.
    pub(crate) fn insert_subscription(&self, subscription: &Arc<Subscription>) -> bool {
        let mut state = self.lock();
        // An existing subscription is kept.
        state.closed().is_none() && state.subscriptions.insert(subscription)
    }

    /// Ends a subscription: none of its messages is pushed after this returns.
    pub(crate) fn remove_subscription(&self, channel: &str) -> Option<Arc<Subscription>> {
        let mut state = self.lock();
        let subscription = state.subscriptions.remove(channel)?;
        self.end_subscription(&mut state, &subscription);
        Some(subscription)
    }

    /// Ends a reader for filters if it is still [idle](Subscription::idle_at) there.
    pub(crate) fn end_idle_reader(&self, reader: &Arc<Subscription>, last: (ChannelKey, Seq)) -> bool {
        let mut state = self.lock();
        if !reader.own_options().is_of_filter() || reader.idle_at() != Some(last) {
            return false;
        }
        if state.subscriptions.remove(reader.channel.as_str()).is_none() {
            return false;
        }
        self.end_subscription(&mut state, reader);
        true
    }

    fn end_subscription(&self, state: &mut State, subscription: &Subscription) {
        subscription.set_stage(Stage::Ended);
        self.detach_locked(state, subscription);
        state.deliveries.forget(&subscription.channel);
        self.pump(state);
    }

    /// Ends at most this many subscriptions and returns them, to be removed from their channels; `None` if none is
    /// left. Called at the end of a session, or of one that did not begin.
    pub(crate) fn remove_subscriptions(&self, limit: usize) -> Option<Vec<Arc<Subscription>>> {
        let mut state = self.lock();
        let removed = state.subscriptions.take(limit);
        for subscription in &removed {
            subscription.set_stage(Stage::Ended);
        }
        state.held = None;
        // It holds references back to the subscriptions, and they to this outbox.
        let window = state.deliveries.take_window();
        drop(state);
        drop(window);
        (!removed.is_empty()).then_some(removed)
    }

    /// Sets the log position of a persistent subscription that the store has returned.
    pub(crate) fn attach(&self, subscription: &Arc<Subscription>, stored: &StoredSubscription) {
        let mut state = self.lock();
        if subscription.stage() == Stage::Ended {
            return;
        }
        let mut log = subscription.log();
        let seen = match *log {
            LogState::Attaching { seen } => seen,
            LogState::Changing(ref mut changing) => {
                let changing = std::mem::take(&mut **changing);
                // Messages from the new start on are pushed from the log.
                let is_in_log = |id: PushId| {
                    id.place().is_some_and(|(key, seq)| key == stored.key && seq.0 > stored_up_to(stored))
                };
                let earlier = changing.kept.into_iter().filter(|(id, _)| !is_in_log(*id));
                self.push_kept(&mut state, subscription, earlier);
                changing.seen
            }
            LogState::Temporary | LogState::Filter | LogState::Share { .. } => None,
            LogState::Attached(_) => return,
        };
        let mut position = LogPosition::new(stored);
        if let Some((key, Seq(seq))) = seen
            && key == position.key
        {
            position.seen = position.seen.max(seq);
        }
        state.deliveries.attach(subscription, &mut position);
        *log = LogState::Attached(Box::new(position));
    }

    /// Marks a temporary subscription as becoming persistent. Nothing is pushed until the store has returned the
    /// position. [`end_change`](Self::end_change) must be called afterwards in every case.
    pub(crate) fn begin_change(&self, subscription: &Subscription) {
        let _state = self.lock();
        let mut log = subscription.log();
        if let LogState::Temporary = *log {
            *log = LogState::Changing(Box::default());
        }
    }

    /// Ends a change. If the subscription has not become persistent, it is temporary as before, and the kept messages
    /// follow.
    pub(crate) fn end_change(&self, subscription: &Arc<Subscription>) {
        let mut state = self.lock();
        let mut log = subscription.log();
        let LogState::Changing(changing) = &mut *log else { return };
        let kept = std::mem::take(&mut changing.kept);
        *log = LogState::Temporary;
        drop(log);
        if subscription.stage() != Stage::Ended {
            self.push_kept(&mut state, subscription, kept);
        }
        self.flush_locked(&mut state);
    }

    fn push_kept(
        &self,
        state: &mut State,
        subscription: &Arc<Subscription>,
        kept: impl IntoIterator<Item = (PushId, Bytes)>,
    ) {
        for (id, bytes) in kept {
            if !self.push_temporary(state, subscription, id, bytes) {
                return;
            }
        }
    }

    /// Makes a persistent subscription temporary, and forgets its log position.
    pub(crate) fn detach(&self, subscription: &Subscription) {
        let mut state = self.lock();
        self.detach_locked(&mut state, subscription);
        self.pump(&mut state);
    }

    fn detach_locked(&self, state: &mut State, subscription: &Subscription) {
        let mut log = subscription.log();
        if let LogState::Attached(position) = &*log {
            state.deliveries.detach(subscription, position);
        }
        *log = LogState::Temporary;
    }

    /// Sends the held messages of a subscription whose `subAck` and retained message are queued. Returns `true` if
    /// the queue is full now.
    pub(crate) fn open(
        &self,
        subscription: &Arc<Subscription>,
        answer: Option<Vec<u8>>,
        mut retained: Option<RetainedPush>,
    ) -> bool {
        if let Some(answer) = answer {
            self.answer(answer);
        }
        // Until the queue is counted with it, it is counted by itself.
        let counted = retained.as_mut().and_then(|retained| retained.counted.take());
        let retained =
            retained.and_then(|retained| self.retained_of(subscription, &subscription.channel, retained));
        let mut state = self.lock();
        if let Some(retained) = retained {
            match (subscription.stage(), state.phase) {
                (Stage::Ended, _) | (_, Phase::Closed(_)) => {} // in the meantime, and nothing follows that
                // Nothing comes before the `connAck`.
                (_, Phase::Connecting) => self.hold_retained(&mut state, subscription, retained),
                (_, Phase::Live | Phase::Leaving) => {
                    self.append_retained_to(&mut state, subscription, retained)
                }
            }
        }
        if subscription.stage() == Stage::Opening {
            subscription.set_stage(Stage::Live);
        }
        if state.is_flowing() {
            self.release_held(&mut state);
        }
        if counted.is_some() {
            self.count(&mut state);
        }
        self.is_full(&state)
    }

    /// Queues the retained message of a channel for a subscription with a filter, unless it has ended.
    pub(crate) fn append_matching_retained(
        &self,
        subscription: &Arc<Subscription>,
        channel: &ChannelName,
        mut retained: RetainedPush,
    ) -> bool {
        let _counted = retained.counted.take();
        let retained = self.retained_of(subscription, channel, retained);
        let mut state = self.lock();
        if let Some(retained) = retained
            && subscription.stage() != Stage::Ended
            && state.closed().is_none()
        {
            self.append_retained_to(&mut state, subscription, retained);
            self.count(&mut state);
        }
        self.is_full(&state)
    }

    /// Queues a retained message of an existing subscription, unless it has ended.
    pub(crate) fn append_retained(&self, channel: &ChannelName, mut retained: RetainedPush) {
        let _counted = retained.counted.take();
        let Some(subscription) = self.subscription(channel.as_str()) else { return };
        let Some(retained) = self.retained_of(&subscription, channel, retained) else { return };
        let mut state = self.lock();
        if state.subscriptions.get(channel.as_str()).is_some() {
            self.append_retained_to(&mut state, &subscription, retained);
            self.count(&mut state);
        }
    }

    fn retained_of(
        &self,
        subscription: &Subscription,
        channel: &ChannelName,
        retained: RetainedPush,
    ) -> Option<OwnRetained> {
        let (form, options) = (self.form(), subscription.options());
        let id = (form.is_mqtt() && options.grant(retained.data.attributes().qos()) == Grant::Acknowledged)
            .then_some(retained.id);
        let pieces = wire::retained(form, channel, retained, options)?;
        let length = pieces.head.len() + pieces.data.len() + pieces.tail.len();
        if length > self.packet_limit() {
            self.context.counters.pushes_dropped.increment();
            return None;
        }
        Some(OwnRetained { id, pieces })
    }

    /// Holds a retained message until the `connAck` is queued.
    fn hold_retained(&self, state: &mut State, subscription: &Arc<Subscription>, retained: OwnRetained) {
        match retained.id {
            None if state.has_aliases() => {
                state.held.get_or_insert_default().hold(joined(retained.pieces));
            }
            None => state.held.get_or_insert_default().hold_retained(retained.pieces),
            // It waits with the other acknowledged messages.
            Some(id) => drop(self.push_temporary(state, subscription, id, joined(retained.pieces))),
        }
    }

    fn append_retained_to(&self, state: &mut State, subscription: &Arc<Subscription>, retained: OwnRetained) {
        match retained.id {
            None if state.has_aliases() => self.append_messages(state, joined(retained.pieces)),
            None => append_retained(state, retained.pieces),
            Some(id) => drop(self.push_temporary(state, subscription, id, joined(retained.pieces))),
        }
    }
}

/// A retained message for one subscription.
struct OwnRetained {
    /// Set if the client acknowledges it.
    id: Option<PushId>,
    pieces: RetainedPieces,
}

fn joined(RetainedPieces { head, data, tail }: RetainedPieces) -> Bytes {
    [&head[..], &data, &tail].concat().into()
}

/// The last position before the messages of a persistent subscription.
fn stored_up_to(stored: &StoredSubscription) -> u64 {
    LogPosition::new(stored).next - 1
}

fn append_retained(state: &mut State, retained: RetainedPieces) {
    state.writer.push_copy(&retained.head);
    state.writer.push(retained.data);
    state.writer.push_copy(&retained.tail);
}
