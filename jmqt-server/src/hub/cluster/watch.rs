//! What a node does as long as it runs: it hears the others, shows that it is there, notices who is not,
//! and takes over what the dead have left.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use jmqt_protocol::ChannelName;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::sessions::presence;
use super::{Arrival, Cluster};
use crate::bus::{Body, BusEvent, BusEvents, BusMessage, Control, NodeId, Presence, Qos0Pushes};
use crate::hub::connections::Found;
use crate::hub::{DirtyOutboxes, Hub, Pushes};
use crate::session::{Flush, Subscription};
use crate::store::{ChannelKey, NodeBeat, SharedSession};
use crate::validators::CloseReason;

/// A node shows that it is there this often.
const BEAT_EVERY: Duration = Duration::from_secs(1);
/// A link that brought no beat back for so long is dead.
const DEAF_AFTER: Duration = Duration::from_secs(3);
/// Sessions that others have called off in the store are looked for this often.
pub(super) const CALLED_OFF_EVERY: Duration = Duration::from_millis(500);
/// A node that ends its sessions because it was condemned looks this often whether they have ended.
const ENDING_EVERY: Duration = Duration::from_millis(100);
/// Sessions that the dead have left are looked for this often, and when a node dies.
const INHERIT_EVERY: Duration = Duration::from_secs(2);
/// Of the sessions that a dead node has left, so many are claimed at a time: others take some too.
const INHERIT_AT_A_TIME: usize = 64;
/// One message lists so many sessions, or the last messages of so many channels.
const LISTED_AT_A_TIME: usize = 500;
/// The store is asked for the last messages of so many channels at a time.
const COMPARED_AT_A_TIME: usize = 500;
/// So much is handled before the sockets are written to.
const EVENTS_AT_A_TIME: usize = 64;

/// How far one's own voice can be heard.
struct Echo {
    /// When the link came up, or brought the last beat back.
    last: Instant,
}

impl Cluster {
    /// Serves the cluster until it is told to stop.
    pub(crate) async fn run(self: Arc<Self>, hub: Arc<Hub>, mut events: BusEvents, stop: CancellationToken) {
        let watching = async {
            tokio::join!(self.watch_called_off(&hub), self.watch_nodes(&hub), self.inherit());
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.listen(&hub, &mut events) => {}
            () = watching => {}
        }
        self.tasks.close();
        if let Err(error) = self.store.leave(&self.name).await {
            self.failed(&error); // the others will miss this node, and find that nothing is left of it
        }
        self.bus.broadcast(&Control::Leaving);
    }

    async fn listen(self: &Arc<Self>, hub: &Arc<Hub>, events: &mut BusEvents) {
        let mut beat = tokio::time::interval(BEAT_EVERY);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut echo = Echo { last: Instant::now() };
        let mut dirty = DirtyOutboxes::default();
        loop {
            tokio::select! {
                biased; // one's own beat is due also while others talk without a pause
                _ = beat.tick() => self.beat(&echo),
                event = events.next() => {
                    let Some(event) = event else { return };
                    self.handle(hub, event, events.is_empty(), &mut echo, &mut dirty).await;
                    // What has come meanwhile is handled before anything is written.
                    for _ in 1..EVENTS_AT_A_TIME {
                        let Some(event) = events.next_at_once() else { break };
                        self.handle(hub, event, false, &mut echo, &mut dirty).await;
                    }
                    dirty.flush();
                }
            }
        }
    }

    fn beat(&self, echo: &Echo) {
        if !self.bus.is_up() {
            return;
        }
        if echo.last.elapsed() > DEAF_AFTER {
            tracing::warn!(target: "jmqt::bus", "nothing comes back from Redis: connecting anew");
            self.bus.reset();
            return;
        }
        self.bus.broadcast(&Control::Beat);
        let tails = self.take_tails();
        for some in tails.chunks(LISTED_AT_A_TIME) {
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
                self.directory.link_down();
                self.no_answers(None);
                self.fences.lock().unwrap_or_else(PoisonError::into_inner).clear();
            }
            BusEvent::NobodyThere(node) => {
                self.directory.not_listening(node);
                self.no_answers(Some(node));
            }
            BusEvent::Message(BusMessage { from, body }) => match body {
                Body::Qos0(pushes) => {
                    let flush = if is_alone { Flush::Now } else { Flush::Later };
                    hub.push_from_elsewhere(&pushes, flush, dirty).await;
                }
                Body::Qos1(pushes) => self.arrived(hub, Arrival::Pushes(pushes)),
                Body::Control(control) if from == self.node => self.heard_itself(control, echo),
                Body::Control(control) => self.heard(hub, from, control),
            },
        }
    }

    fn arrived(&self, hub: &Hub, arrival: Arrival) {
        if self.arrivals.try_send(arrival).is_err() {
            hub.counters.bus_dropped.increment(); // who misses something finds it in the log
        }
    }

    fn link_up(self: &Arc<Self>, hub: &Arc<Hub>, echo: &mut Echo) {
        echo.last = Instant::now();
        self.directory.link_up(echo.last);
        self.bus.broadcast(&Control::Beat);
        self.bus.broadcast(&Control::WantSessions);
        self.tell_sessions(hub, None);
        let (cluster, hub) = (Arc::clone(self), Arc::clone(hub));
        self.tasks.spawn(async move { cluster.compare_with_store(&hub).await });
    }

    /// What comes back: one's own words, in the order they were said in among those of the others.
    fn heard_itself(&self, control: Control, echo: &mut Echo) {
        match control {
            Control::Beat => echo.last = Instant::now(),
            Control::Fence(number) => {
                let fence = self.fences.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
                if let Some(fence) = fence {
                    let _ = fence.send(()); // whoever waited may have given up
                }
            }
            _ => {}
        }
    }

    fn heard(self: &Arc<Self>, hub: &Arc<Hub>, from: NodeId, control: Control) {
        if matches!(control, Control::Leaving) {
            self.directory.left(from);
            self.no_answers(Some(from));
            return;
        }
        if self.directory.heard(from, Instant::now()) {
            self.bus.send(from, &Control::WantSessions);
        }
        match control {
            Control::WantSessions => self.tell_sessions(hub, Some(from)),
            Control::Sessions { list, sessions, last } => {
                self.directory.listed(from, list, &sessions, last);
            }
            Control::Opened(presence) => self.directory.opened(from, &presence),
            Control::Closed { client, generation } => self.directory.closed(from, &client, generation),
            Control::Tails(tails) => self.arrived(hub, Arrival::Tails(tails)),
            Control::Ask { number, request } => self.answer(hub, from, number, request),
            Control::Answer { number, answer } => self.answered(number, answer),
            Control::Disconnect { client } => {
                if let Some(outbox) = hub.connections.outbox(&client) {
                    outbox.close(CloseReason::ByApplication);
                }
            }
            Control::Beat | Control::Fence(_) | Control::Leaving => {}
        }
    }

    /// Tells one node, or all, of this one's sessions.
    fn tell_sessions(&self, hub: &Hub, to: Option<NodeId>) {
        let list = self.number();
        let sessions: Vec<Presence> = hub
            .connections
            .sessions()
            .iter()
            .map(|(client, session)| presence(client, session.generation, session.info))
            .collect();
        let say = |sessions: &[Presence], last| {
            let control = Control::Sessions { list, sessions: sessions.to_vec(), last };
            match to {
                Some(node) => self.bus.send(node, &control),
                None => self.bus.broadcast(&control),
            }
        };
        for some in sessions.chunks(LISTED_AT_A_TIME) {
            say(some, false);
        }
        say(&[], true);
    }

    /// The bus was away: looks in the store for what was missed.
    async fn compare_with_store(&self, hub: &Arc<Hub>) {
        let mut by_key: HashMap<ChannelKey, Vec<Arc<Subscription>>> = HashMap::new();
        for (_, session) in hub.connections.sessions() {
            for subscription in session.outbox.subscriptions() {
                if let Some(key) = subscription.key() {
                    by_key.entry(key).or_default().push(subscription);
                }
            }
        }
        let keys: Vec<ChannelKey> = by_key.keys().copied().collect();
        for some in keys.chunks(COMPARED_AT_A_TIME) {
            let last = match self.store.last_seqs(some).await {
                Ok(last) => last,
                Err(error) => {
                    self.failed(&error);
                    return; // the next message of each channel shows what is missing
                }
            };
            for (key, seq) in last {
                for subscription in by_key.get(&key).into_iter().flatten() {
                    if subscription.outbox.note_seen(subscription, key, seq) {
                        hub.resume(&subscription.outbox);
                    }
                }
            }
        }
    }

    /// Ends the sessions that others have called off in the store: while the bus is away, and after this
    /// node was thought dead.
    async fn watch_called_off(&self, hub: &Arc<Hub>) {
        let mut tick = tokio::time::interval(CALLED_OFF_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            // An error has been logged by those who need an answer.
            let Ok(called_off) = self.store.called_off(&self.name).await else { continue };
            for SharedSession { row, claimed_by } in called_off {
                let (client, generation) = (row.client, row.generation);
                match hub.connections.find(&client, generation) {
                    Found::Session(session) => {
                        // Claimed first, so that whoever waits for it sees that it is being ended.
                        let claim = self.claim_own(&client, generation, session.info);
                        drop(tokio::time::timeout(CALLED_OFF_EVERY, claim).await);
                        session.outbox.close(CloseReason::Takeover);
                    }
                    Found::Opening(opening) => opening.cancel(),
                    // Its row has outlived it, unless another node is running its notifier.
                    Found::Nothing if claimed_by.is_none_or(|by| by == self.name) => {
                        hub.janitor.forget_session(&client, generation);
                    }
                    Found::Nothing | Found::Unknown => {}
                }
            }
        }
    }

    /// Shows in the store that this node is there, sees there who is not, and claims what the dead have
    /// left.
    async fn watch_nodes(&self, hub: &Hub) {
        let mut tick = tokio::time::interval(BEAT_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            match self.store.beat(&self.name).await {
                Ok(Some(beats)) => self.saw(&beats),
                Ok(None) => self.end_as_condemned(hub).await,
                Err(error) => {
                    // Those who need an answer log it too; this one tells of it when nobody does.
                    tracing::debug!(target: "jmqt::store", %error, "the nodes cannot be looked for");
                }
            }
        }
    }

    fn saw(&self, beats: &[NodeBeat]) {
        let others = beats.iter().filter_map(|it| Some((NodeId::parse(&it.node)?, it.beat)));
        let others: Vec<_> = others.filter(|(node, _)| *node != self.node).collect();
        for node in self.directory.beats(&others, Instant::now()) {
            tracing::warn!(target: "jmqt::bus", %node, "a node is silent: its sessions are taken over");
            self.no_answers(Some(node));
            self.died.notify_one();
        }
    }

    /// The others thought this node dead, and have told of the end of its sessions, or are about to. So
    /// they end, and then it is a node again.
    async fn end_as_condemned(&self, hub: &Hub) {
        tracing::error!(
            target: "jmqt::bus",
            "this node stood still, or could reach neither Redis nor the database, and the others have taken \
             its sessions over: ending them"
        );
        self.condemned.store(true, Ordering::Release);
        loop {
            let sessions = hub.connections.sessions();
            if sessions.is_empty() {
                break;
            }
            for (_, session) in sessions {
                session.outbox.close(CloseReason::Takeover);
            }
            tokio::time::sleep(ENDING_EVERY).await;
        }
        while let Err(error) = self.store.readmit(&self.name).await {
            self.failed(&error);
            tokio::time::sleep(BEAT_EVERY).await;
        }
        self.condemned.store(false, Ordering::Release);
        tracing::info!(target: "jmqt::bus", "this node serves clients again");
    }

    /// Claims the sessions that dead nodes have left, and has their close notifiers run.
    async fn inherit(&self) {
        let mut tick = tokio::time::interval(INHERIT_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = self.died.notified() => {}
            }
            for node in self.directory.dead() {
                self.inherit_from(node).await;
            }
            // What was claimed without an answer of the store, and may have been claimed all the same.
            for session in self.store.claimed(&self.name).await.unwrap_or_default() {
                drop(self.notify_of(session).await);
            }
        }
    }

    async fn inherit_from(&self, node: NodeId) {
        let of = node.to_string();
        while self.directory.is_dead(node) {
            let claimed = match self.store.claim_sessions_of(&of, &self.name, INHERIT_AT_A_TIME).await {
                Ok(claimed) => claimed,
                Err(error) => {
                    self.failed(&error);
                    return;
                }
            };
            if claimed.is_empty() {
                return;
            }
            let mut running = Vec::with_capacity(claimed.len());
            for session in claimed {
                running.extend(self.notify_of(session).await);
            }
            if running.is_empty() {
                return; // they are being notified of, or the server stops
            }
            for notified in running {
                drop(notified.await);
            }
        }
    }
}

impl Hub {
    /// Delivers QoS 0 pushes that were published on another node.
    async fn push_from_elsewhere(&self, pushes: &Qos0Pushes, flush: Flush, dirty: &mut DirtyOutboxes) {
        let encoded = Pushes::from_nul(pushes.pushes.clone());
        self.push_here(&pushes.channel, pushes.sender.as_ref(), &encoded, flush, dirty).await;
    }

    /// The log of a channel has messages that may not have been heard of.
    pub(in crate::hub) fn note_tail(self: &Arc<Self>, channel: &str, key: i64, seq: u64) {
        let Ok(channel) = ChannelName::parse(channel) else { return };
        let Some(members) = self.members(&channel) else { return };
        for subscription in members.iter() {
            let outbox = &subscription.outbox;
            if outbox.note_seen(subscription, ChannelKey(key), crate::store::Seq(seq)) {
                self.resume(outbox);
            }
        }
    }
}
