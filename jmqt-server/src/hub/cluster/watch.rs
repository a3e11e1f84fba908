//! The periodic checks of a node: missed messages, called-off sessions, dead nodes and their sessions.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use super::{BEAT_EVERY, Cluster};
use crate::bus::NodeId;
use crate::connection::CloseReason;
use crate::disconnect::Disconnect;
use crate::hub::Hub;
use crate::hub::connections::Found;
use crate::outbox::Subscription;
use crate::store::{ChannelKey, NodeBeat, SharedSession, StoreError};

/// The interval for looking for called-off sessions in the store.
const CALLED_OFF_EVERY: Duration = Duration::from_millis(500);
/// The interval at which a condemned node checks whether its sessions have ended.
const ENDING_EVERY: Duration = Duration::from_millis(100);
/// The interval for looking for sessions of dead nodes; a death triggers the check too.
const INHERIT_EVERY: Duration = Duration::from_secs(2);
/// The number of sessions of a dead node that are claimed at a time. Other nodes claim some too.
const INHERIT_AT_A_TIME: usize = 64;
/// The interval at which the first node deletes condemned nodes without sessions.
const FORGET_EVERY: Duration = Duration::from_secs(60);
/// The number of channels in one query for the last messages.
const COMPARED_AT_A_TIME: usize = 500;
/// The pause between two comparisons of all logs.
const COMPARE_AGAIN_AFTER: Duration = Duration::from_secs(2);

impl Cluster {
    /// Compares logs with the store after the bus was unavailable, after messages were dropped, and after a node was
    /// silent. Compares again after a pause, because sessions that were opening did not know their positions yet. Any
    /// number of triggers in that time causes two comparisons.
    pub(super) async fn watch_logs(&self, hub: &Arc<Hub>) {
        loop {
            self.compare.notified().await;
            for pause in [Duration::ZERO, COMPARE_AGAIN_AFTER] {
                tokio::time::sleep(pause).await;
                while let Err(error) = self.compare_with_store(hub).await {
                    self.failed(&error);
                    tokio::time::sleep(COMPARE_AGAIN_AFTER).await;
                }
            }
        }
    }

    async fn compare_with_store(&self, hub: &Arc<Hub>) -> Result<(), StoreError> {
        let mut by_key: HashMap<ChannelKey, Vec<Arc<Subscription>>> = HashMap::new();
        for (_, session) in hub.connections.sessions() {
            hub.readers.begin_missing(&session.outbox).await?;
            for subscription in session.outbox.subscriptions() {
                if let Some(key) = subscription.key() {
                    by_key.entry(key).or_default().push(subscription);
                }
            }
        }
        let keys: Vec<ChannelKey> = by_key.keys().copied().collect();
        for some in keys.chunks(COMPARED_AT_A_TIME) {
            for (key, seq) in self.store.last_seqs(some).await? {
                for subscription in by_key.get(&key).into_iter().flatten() {
                    if subscription.outbox.note_seen(subscription, key, seq) {
                        hub.resumes.begin(&subscription.outbox);
                    }
                }
            }
        }
        Ok(())
    }

    /// Ends sessions that other nodes have called off in the store: while the bus is unavailable, and after this node
    /// was considered dead.
    pub(super) async fn watch_called_off(&self, hub: &Arc<Hub>) {
        let mut tick = tokio::time::interval(CALLED_OFF_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            // The error is logged by tasks that need an answer.
            let Ok(called_off) = self.store.called_off(&self.name).await else { continue };
            for SharedSession { row, claimed_by } in called_off {
                let (client, generation) = (row.client, row.generation);
                match hub.connections.find(&client, generation) {
                    Found::Session(session) => {
                        // Claimed first, so that waiting nodes see that it is ending.
                        let claim = self.claim_own(&client, generation, session.info);
                        drop(tokio::time::timeout(CALLED_OFF_EVERY, claim).await);
                        // Called off for a newer connection, or claimed because this node was considered dead.
                        let farewell = match claimed_by {
                            Some(by) if by != self.name => Disconnect::node_was_cut_off(),
                            _ => Disconnect::takeover(None),
                        };
                        session.outbox.close_saying(CloseReason::Takeover, farewell);
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

    /// Writes this node's sign of life to the store, reads those of the others, and claims the sessions of dead
    /// nodes.
    pub(super) async fn watch_nodes(&self, hub: &Hub) {
        let mut tick = tokio::time::interval(BEAT_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut last_beat, mut forgot) = (0, Instant::now());
        loop {
            tick.tick().await;
            let beats = self.store.beat(&self.name).await;
            if beats.is_ok() {
                self.database.reach(Instant::now());
            }
            match beats {
                Ok(Some(beats)) => {
                    let own = beats.iter().find(|it| it.node == self.name).map_or(0, |it| it.beat);
                    if own == 1 && last_beat > 0 {
                        // Condemned and deleted, because it had no sessions left: no other node knows its sessions.
                        self.end_as_condemned(hub, last_beat).await;
                        continue;
                    }
                    last_beat = own;
                    self.saw(hub, &beats);
                }
                Ok(None) => self.end_as_condemned(hub, last_beat).await,
                Err(error) => {
                    // Tasks that need an answer log it too; this line reports it otherwise.
                    tracing::debug!(target: "jmqt::store", %error, "cannot read the list of nodes");
                }
            }
            if forgot.elapsed() >= FORGET_EVERY && self.is_first() {
                forgot = Instant::now();
                if let Err(error) = self.store.forget_condemned().await {
                    tracing::debug!(target: "jmqt::store", %error, "cannot remove nodes that are gone");
                }
            }
        }
    }

    fn saw(&self, hub: &Hub, beats: &[NodeBeat]) {
        let others = beats.iter().filter_map(|it| Some((NodeId::parse(&it.node)?, it.beat)));
        let others: Vec<_> = others.filter(|(node, _)| *node != self.node).collect();
        for node in self.directory.beats(&others, Instant::now()) {
            tracing::warn!(target: "jmqt::bus", %node, "a node is silent: taking its sessions over");
            self.asked.give_up(Some(node));
            self.lists.gone(node);
            self.died.notify_one();
        }
        self.interests.live(&hub.subscribers.filters, &self.directory.alive(), Instant::now());
        self.ask_for_filters();
        self.compare_if_missed();
    }

    /// Compares logs if a node has ended, because its last announcements may be lost.
    pub(super) fn compare_if_missed(&self) {
        if self.directory.may_have_missed() {
            self.compare.notify_one();
        }
    }

    /// Ends all sessions of a condemned node: other nodes have claimed them, or are about to. Afterwards the node
    /// joins the cluster again.
    async fn end_as_condemned(&self, hub: &Hub, last_beat: u64) {
        tracing::error!(
            target: "jmqt::bus",
            "other nodes have taken over the sessions of this node, because it stalled or could reach neither Redis \
             nor the database: ending the sessions"
        );
        self.condemned.store(true, Ordering::Release);
        loop {
            if hub.connections.end_all(CloseReason::Takeover, &Disconnect::node_was_cut_off()) {
                break;
            }
            tokio::time::sleep(ENDING_EVERY).await;
        }
        while let Err(error) = self.store.readmit(&self.name, last_beat).await {
            self.failed(&error);
            tokio::time::sleep(BEAT_EVERY).await;
        }
        self.condemned.store(false, Ordering::Release);
        tracing::info!(target: "jmqt::bus", "this node serves clients again");
    }

    /// Claims the sessions of dead nodes, and runs their close notifiers.
    pub(super) async fn inherit(&self) {
        let mut tick = tokio::time::interval(INHERIT_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = self.died.notified() => {}
            }
            for (node, beat) in self.directory.dead() {
                self.inherit_from(node, beat).await;
            }
            // Claims without an answer from the store may have succeeded.
            for session in self.store.claimed(&self.name).await.unwrap_or_default() {
                drop(self.notify_of(session).await);
            }
        }
    }

    /// Claims sessions of one node that was found dead with this beat.
    async fn inherit_from(&self, node: NodeId, beat: u64) {
        let of = NodeBeat { node: node.to_string(), beat };
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
                return; // their notifiers are running, or the server stops
            }
            for notified in running {
                drop(notified.await);
            }
        }
    }
}
