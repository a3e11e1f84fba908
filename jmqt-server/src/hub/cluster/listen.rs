//! Receives messages from other nodes and sends to them: announcements of sessions, pushes, requests, beats.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use super::directory::Part;
use super::{ARRIVALS_KIB, Arrival, BEAT_EVERY, Cluster, Fences};
use crate::bus::{
    Body, BusEvent, BusEvents, BusMessage, Control, Digest, LoggedMessages, Messages, NodeId, Share,
};
use crate::connection::CloseReason;
use crate::disconnect::Disconnect;
use crate::hub::{DirtyOutboxes, Hub};
use crate::outbox::Flush;
use crate::wire::Pushes;

/// A connection that returned no beat for this long is dead.
const DEAF_AFTER: Duration = Duration::from_secs(3);
/// The number of channels in one announcement of log ends.
const LISTED_AT_A_TIME: usize = 500;
/// The number of events that are handled before the sockets are written to.
const EVENTS_AT_A_TIME: usize = 64;

/// Tracks whether this node's own messages come back.
struct Echo {
    /// The time when the connection was established or returned the last beat; `None` before the first connection.
    last: Option<Instant>,
    /// The time of this node's last beat, or when it would have been due.
    beaten: Instant,
}

impl Echo {
    fn new(now: Instant) -> Self {
        Self { last: None, beaten: now }
    }

    /// Returns `true` if the connection is dead. Called at every beat.
    fn is_missed(&mut self, now: Instant) -> bool {
        let since_beat = now - std::mem::replace(&mut self.beaten, now);
        if since_beat > BEAT_EVERY * 2 {
            // This node stalled itself: the echo gets its whole time again.
            self.last = self.last.map(|_| now);
        }
        self.last.is_some_and(|last| now - last > DEAF_AFTER)
    }
}

impl Cluster {
    /// Receives and sends as long as the bus exists.
    pub(super) async fn listen(self: &Arc<Self>, hub: &Arc<Hub>, events: &mut BusEvents) {
        let mut beat = tokio::time::interval(BEAT_EVERY);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut echo = Echo::new(Instant::now());
        let mut dirty = DirtyOutboxes::default();
        loop {
            tokio::select! {
                biased; // the own beat is due even if events arrive without a pause
                _ = beat.tick() => self.beat(&mut echo),
                event = events.next() => {
                    let Some(event) = event else { return };
                    self.handle(hub, event, events.is_empty(), &mut echo, &mut dirty).await;
                    // Events that have arrived are handled before the sockets are written.
                    for _ in 1..EVENTS_AT_A_TIME {
                        let Some(event) = events.next_at_once() else { break };
                        self.handle(hub, event, false, &mut echo, &mut dirty).await;
                    }
                    dirty.flush();
                }
            }
        }
    }

    fn beat(&self, echo: &mut Echo) {
        let is_missed = echo.is_missed(Instant::now());
        if !self.bus.is_up() {
            return;
        }
        if is_missed {
            tracing::warn!(target: "jmqt::bus", "no heartbeat came back from Redis; reconnecting");
            self.bus.reset();
            return;
        }
        self.show(None);
        self.ask_for_lists();
        self.ask_for_filters();
        for some in self.tails().chunks(LISTED_AT_A_TIME) {
            self.bus.broadcast(&Control::Tails(some.to_vec()));
        }
    }

    async fn handle(
        self: &Arc<Self>,
        hub: &Arc<Hub>,
        event: BusEvent,
        is_alone: bool,
        echo: &mut Echo,
        dirty: &mut DirtyOutboxes,
    ) {
        match event {
            BusEvent::Up => self.link_up(hub, echo),
            BusEvent::Down => {
                hub.subscribers.groups.take_from_nodes(None);
                echo.last = None;
                self.directory.link_down();
                self.lists.give_up();
                self.asked.give_up(None);
                *self.fences() = Fences::default();
            }
            BusEvent::NobodyThere(node) => {
                hub.subscribers.groups.take_from_nodes(Some(node));
                self.directory.not_listening(node);
                self.look_at_confirmations();
                self.asked.give_up(Some(node));
            }
            BusEvent::Message(BusMessage { from, body }) => match body {
                Body::Qos0(messages) => {
                    let flush = if is_alone { Flush::Now } else { Flush::Later };
                    push_from_elsewhere(hub, messages, flush, dirty).await;
                }
                Body::Qos1(messages) => self.arrived_messages(hub, messages),
                Body::Share(Share { name, message }) => {
                    hub.subscribers.groups.hear(&*hub.bus, from, &name, message)
                }
                Body::Control(control) if from == self.node => self.heard_itself(control, echo),
                Body::Control(control) => self.heard(hub, from, control),
            },
        }
    }

    fn arrived_messages(&self, hub: &Hub, arrived: LoggedMessages) {
        let bytes: usize = arrived.messages.iter().map(|message| message.data.as_bytes().len()).sum();
        let kib = u32::try_from(1 + bytes / 1024).unwrap_or(u32::MAX);
        match Arc::clone(&self.arrivals_room).try_acquire_many_owned(kib.min(ARRIVALS_KIB)) {
            Ok(room) => self.arrived(hub, Arrival::Pushes(arrived, room)),
            Err(_) => self.missed(hub),
        }
    }

    fn missed(&self, hub: &Hub) {
        hub.counters.bus_dropped.increment();
        self.compare.notify_one(); // missed messages are found in the log
    }

    fn arrived(&self, hub: &Hub, arrival: Arrival) {
        if self.arrivals.try_send(arrival).is_err() {
            self.missed(hub);
        }
    }

    fn link_up(&self, hub: &Hub, echo: &mut Echo) {
        let now = Instant::now();
        echo.last = Some(now);
        self.directory.link_up(now);
        self.interests.link_up(&hub.subscribers.filters, now);
        hub.subscribers.groups.tell_members();
        self.told().say_hello(&*self.bus, self.has_database());
        self.compare.notify_one();
    }

    /// Sends a sign of life to one node, or to all.
    fn show(&self, to: Option<NodeId>) {
        self.told().beat(&*self.bus, to, self.has_database());
    }

    fn ask_for_lists(&self) {
        for node in self.directory.to_ask(Instant::now()) {
            self.bus.send(node, &Control::WantSessions);
        }
    }

    fn beaten(&self, hub: &Hub, from: NodeId, (sessions, filters): (Digest, Digest), has_database: bool) {
        if self.interests.beaten(&hub.subscribers.filters, from, filters, Instant::now()) {
            self.ask_for_filters();
        }
        if self.directory.beaten(from, sessions, has_database, Instant::now()) {
            tracing::info!(
                target: "jmqt::bus", node = %from, sessions = sessions.count,
                "the session list of another node is incomplete: requesting it again"
            );
            self.ask_for_lists();
        }
    }

    /// Handles this node's own messages, which arrive in order among those of the other nodes.
    fn heard_itself(&self, control: Control, echo: &mut Echo) {
        match control {
            Control::Beat { .. } | Control::Hello { .. } => echo.last = Some(Instant::now()),
            Control::Fence(number) => self.fence_came_back(number),
            Control::Tails(tails) => self.told_tails(&tails),
            _ => {}
        }
    }

    fn heard(self: &Arc<Self>, hub: &Arc<Hub>, from: NodeId, control: Control) {
        if matches!(control, Control::Leaving) {
            self.directory.left(from);
            self.asked.give_up(Some(from));
            self.lists.gone(from);
            self.interests.gone(&hub.subscribers.filters, from);
            self.look_at_confirmations();
            self.compare_if_missed();
            return;
        }
        self.directory.heard(from, Instant::now());
        self.compare_if_missed();
        match control {
            Control::Beat { sessions, filters, has_database } => {
                self.beaten(hub, from, (sessions, filters), has_database);
            }
            Control::Hello { sessions, filters, has_database } => {
                self.beaten(hub, from, (sessions, filters), has_database);
                self.show(Some(from));
            }
            Control::WantSessions => self.tell_sessions(hub, from),
            Control::Sessions { list, part, digest, sessions, last } => {
                let place = (list, part, last);
                match self.directory.listed(from, place, digest, &sessions, Instant::now()) {
                    Part::Unwanted => return,
                    Part::Taken => {}
                    Part::Last(sessions) => {
                        tracing::info!(target: "jmqt::bus", node = %from, sessions, "received the session list of another node");
                        self.ask_for_lists();
                    }
                }
                self.bus.send(from, &Control::GotSessions { list, part });
            }
            Control::GotSessions { list, part } => self.lists.got(from, list, part),
            Control::Opened(presence) => self.directory.opened(from, &presence),
            Control::Closed { client, generation } => self.directory.closed(from, &client, generation),
            Control::FilterAdded(filter) => {
                self.interests.added(&hub.subscribers.filters, from, &filter, Instant::now());
            }
            Control::FilterRemoved(filter) => self.interests.removed(&hub.subscribers.filters, from, &filter),
            Control::WantFilters => self.tell_filters(from),
            Control::Filters { list, part, filters, last } => {
                let place = (list, part, last);
                self.interests.listed(&hub.subscribers.filters, from, place, filters, Instant::now());
            }
            Control::AreFiltersKnown(number) => self.bus.send(from, &Control::FiltersAreKnown(number)),
            Control::FiltersAreKnown(number) => {
                self.interests.confirmed(from, number);
                self.look_at_confirmations();
            }
            Control::Tails(tails) => self.arrived(hub, Arrival::Tails(tails)),
            Control::Ask { number, request } => self.answer(hub, from, number, request),
            Control::Answer { number, answer } => self.asked.answered(number, answer),
            Control::Disconnect { client, farewell } => {
                if let Some(outbox) = hub.connections.outbox(&client) {
                    let farewell = farewell.map_or_else(Disconnect::usual, Disconnect::from);
                    outbox.close_saying(CloseReason::ByApplication, farewell);
                }
            }
            Control::RevalidateAll => hub.revalidations.begin_to_ask(),
            Control::Fence(_) | Control::Leaving => {}
        }
    }
}

/// Delivers QoS 0 messages that were published on another node.
async fn push_from_elsewhere(hub: &Hub, messages: Messages, flush: Flush, dirty: &mut DirtyOutboxes) {
    let Messages { channel, sender, run } = messages;
    let pushes = Pushes::of_run(channel.clone(), sender.clone(), run);
    hub.subscribers.push_here(&channel, sender.as_ref(), &pushes, flush, dirty).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_connection_without_an_echo_is_dead_after_three_seconds() {
        let start = Instant::now();
        let mut echo = Echo::new(start);
        assert!(!echo.is_missed(start));
        echo.last = Some(start);
        for second in 1..=3 {
            assert!(!echo.is_missed(start + SECOND * second));
        }
        assert!(echo.is_missed(start + SECOND * 4));
    }

    #[test]
    fn a_stalled_node_waits_for_the_echo_again() {
        let start = Instant::now();
        let mut echo = Echo::new(start);
        echo.last = Some(start);
        for second in [30, 31, 32, 33] {
            assert!(!echo.is_missed(start + SECOND * second), "{second}");
        }
        assert!(echo.is_missed(start + SECOND * 34));
    }
}
