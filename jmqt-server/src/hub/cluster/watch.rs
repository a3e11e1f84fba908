//! What a node looks for as long as it runs: what it has missed, sessions that others have called off, who is
//! dead, and what the dead have left.

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

/// Sessions that others have called off in the store are looked for this often.
const CALLED_OFF_EVERY: Duration = Duration::from_millis(500);
/// A node that ends its sessions because it was condemned looks this often whether they have ended.
const ENDING_EVERY: Duration = Duration::from_millis(100);
/// Sessions that the dead have left are looked for this often, and when a node dies.
const INHERIT_EVERY: Duration = Duration::from_secs(2);
/// Of the sessions that a dead node has left, so many are claimed at a time: others take some too.
const INHERIT_AT_A_TIME: usize = 64;
/// The first node forgets those that were condemned, and of which nothing is left, this often.
const FORGET_EVERY: Duration = Duration::from_secs(60);
/// The store is asked for the last messages of so many channels at a time.
const COMPARED_AT_A_TIME: usize = 500;
/// Between two looks at all logs.
const COMPARE_AGAIN_AFTER: Duration = Duration::from_secs(2);

impl Cluster {
    /// Looks in the store for what was missed while the bus was away, or too fast, or said by a node that was
    /// not heard. Once more a little later: some sessions were just being opened, and did not know yet where
    /// they stand. However often there is a reason to look, it is done twice in that time.
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
                        hub.resume(&subscription.outbox);
                    }
                }
            }
        }
        Ok(())
    }

    /// Ends the sessions that others have called off in the store: while the bus is away, and after this
    /// node was thought dead.
    pub(super) async fn watch_called_off(&self, hub: &Arc<Hub>) {
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
                        // Called off for a newer connection, or claimed because this node was thought dead.
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

    /// Shows in the store that this node is there, sees there who is not, and claims what the dead have
    /// left.
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
                        // Condemned, and forgotten since nothing was left of it: nobody knows of what it has.
                        self.end_as_condemned(hub, last_beat).await;
                        continue;
                    }
                    last_beat = own;
                    self.saw(&beats);
                }
                Ok(None) => self.end_as_condemned(hub, last_beat).await,
                Err(error) => {
                    // Those who need an answer log it too; this one tells of it when nobody does.
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

    fn saw(&self, beats: &[NodeBeat]) {
        let others = beats.iter().filter_map(|it| Some((NodeId::parse(&it.node)?, it.beat)));
        let others: Vec<_> = others.filter(|(node, _)| *node != self.node).collect();
        for node in self.directory.beats(&others, Instant::now()) {
            tracing::warn!(target: "jmqt::bus", %node, "a node is silent: taking its sessions over");
            self.asked.give_up(Some(node));
            self.lists.gone(node);
            self.died.notify_one();
        }
        self.compare_if_missed();
    }

    /// A node that ended may have taken with it the news of what it appended last.
    pub(super) fn compare_if_missed(&self) {
        if self.directory.may_have_missed() {
            self.compare.notify_one();
        }
    }

    /// The others thought this node dead, and have told of the end of its sessions, or are about to. So
    /// they end, and then it is a node again.
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

    /// Claims the sessions that dead nodes have left, and has their close notifiers run.
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
            // What was claimed without an answer of the store, and may have been claimed all the same.
            for session in self.store.claimed(&self.name).await.unwrap_or_default() {
                drop(self.notify_of(session).await);
            }
        }
    }

    /// Does so for one that was found dead with this beat.
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
                return; // they are being notified of, or the server stops
            }
            for notified in running {
                drop(notified.await);
            }
        }
    }
}
