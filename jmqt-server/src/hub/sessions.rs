//! The beginning and the end of a session (protocol.md 2.2, 2.3, 2.16).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join_all;
use jmqt_protocol::{ChannelName, ClientId, Persistence};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::connections::{Claim, Connections, Registered};
use super::{Hub, HubError, Message, STORE_TIMEOUT, Tag};
use crate::log_limit::log_limited;
use crate::session::{LogState, Outbox, Stage};
use crate::validators::{CloseReason, ConnectionInfo};

/// How long a `conn` waits for the client's older session to end.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the end of a session waits for its last pushes to leave for other nodes.
const SENT_TIMEOUT: Duration = Duration::from_secs(1);

/// What a connection validator did through the handle of its request (2.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Recorded {
    Subscribe(ChannelName, Persistence),
    Unsubscribe(ChannelName),
    Publish(Message),
}

/// A `conn` that the application has accepted.
pub(crate) struct NewSession<'a> {
    pub(crate) client: &'a ClientId,
    pub(crate) outbox: &'a Arc<Outbox>,
    pub(crate) info: ConnectionInfo,
    pub(crate) window: u32,
    pub(crate) careful: bool,
    pub(crate) recorded: Vec<Recorded>,
}

/// A session that exists, and has been told nothing yet.
pub(crate) struct OpenedSession {
    pub(crate) generation: u64,
    retained: Vec<(ChannelName, Bytes)>,
    /// The next `conn` of this client waits until the caller has noted the session.
    _claim: Claim,
}

/// Takes a session out of the table again if its opening fails or is given up.
struct Unfinished<'a>(Option<(&'a Connections, &'a ClientId)>);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some((connections, client)) = self.0 {
            connections.unregister(client);
        }
    }
}

impl Hub {
    /// Carries out an accepted `conn`, in the order of protocol.md 2.2, up to the `connAck`.
    ///
    /// # Errors
    /// The store failed, or an older session did not end in time; then there is no session.
    ///
    /// # Cancel safety
    /// Dropped early, there is no session; the caller clears the tables with
    /// [`close_tables`](Self::close_tables).
    pub(crate) async fn open_session(
        self: &Arc<Self>,
        new: NewSession<'_>,
    ) -> Result<OpenedSession, HubError> {
        let claim = timeout(TAKEOVER_TIMEOUT, self.connections.claim(new.client)).await;
        let Ok(claim) = claim else {
            log_limited!(error, target: "jmqt::session", client = %new.client, "the older session did not end in time");
            return Err(HubError::SessionEnded);
        };
        let mut entered = match &self.cluster {
            Some(cluster) => {
                let janitor = &self.janitor;
                let begun =
                    cluster.begin_session(&self.connections, janitor, &claim, new.client, new.info).await;
                if matches!(begun, Err(HubError::Superseded)) {
                    new.outbox.close(CloseReason::Takeover); // the newer one wins (2.4)
                }
                Some(begun?)
            }
            None => None,
        };
        let generation = match &entered {
            Some(session) => session.generation,
            None => self.janitor.next_generation(),
        };
        new.outbox.set_window(new.window, new.careful);
        let registered = Registered { outbox: Arc::clone(new.outbox), info: new.info, generation };
        self.connections.register(&claim, registered);
        let mut unfinished = Unfinished(Some((&self.connections, new.client)));
        if let (Some(cluster), Some(session)) = (&self.cluster, &mut entered) {
            if !session.registered() {
                new.outbox.close(CloseReason::Takeover);
            }
            cluster.announce(new.client, generation, new.info).await;
        }
        let retained = match self.restore_and_carry_out(&new).await {
            Ok(retained) => retained,
            Err(error) => {
                self.close_tables(new.outbox).await;
                return Err(error);
            }
        };
        unfinished.0 = None;
        match entered {
            Some(session) => drop(session.keep()),
            None => self.janitor.session_opened(new.client, generation, new.info),
        }
        self.counters.sessions_opened.increment();
        Ok(OpenedSession { generation, retained, _claim: claim })
    }

    /// What follows the `connAck`: the first window of pending pushes, the retained messages, then
    /// whatever was held back (2.3).
    pub(crate) async fn start_pushing(self: &Arc<Self>, outbox: &Arc<Outbox>, opened: OpenedSession) {
        self.resume_first(outbox).await;
        for (_, bytes) in opened.retained {
            outbox.append(bytes);
        }
        outbox.go_live();
        self.resume(outbox); // what has been logged since the first window
    }

    async fn restore_and_carry_out(
        self: &Arc<Self>,
        new: &NewSession<'_>,
    ) -> Result<Vec<(ChannelName, Bytes)>, HubError> {
        let mut retained = self.restore(new).await?;
        self.carry_out(new, &mut retained).await?;
        let own = ChannelName::of_client(new.client);
        if new.outbox.subscription(own.as_str()).is_none() {
            self.insert(new.outbox, new.client, &own, Stage::Live, LogState::Temporary).await?;
        }
        Ok(retained)
    }

    /// Enters the client's persistent subscriptions, and gathers their retained messages.
    async fn restore(&self, new: &NewSession<'_>) -> Result<Vec<(ChannelName, Bytes)>, HubError> {
        let _turn = self.change_of(new.client).await;
        let mut retained = Vec::new();
        let stored = self.stored_subscriptions(new.client).await?;
        // All at once: each waits until it is heard of by other nodes.
        let inserted = stored.iter().map(|stored| {
            let log = LogState::Attaching { seen: None };
            self.insert(new.outbox, new.client, &stored.channel, Stage::Live, log)
        });
        try_join_all(inserted).await?;
        // Read again now that nothing can pass unseen: what is logged from here on is offered.
        for stored in self.stored_subscriptions(new.client).await? {
            if let Some(subscription) = new.outbox.subscription(stored.channel.as_str()) {
                new.outbox.attach(&subscription, &stored);
            }
            if let Some(bytes) = self.retained_push(new.outbox, &stored.channel).await? {
                retained.push((stored.channel, bytes));
            }
        }
        Ok(retained)
    }

    async fn stored_subscriptions(
        &self,
        client: &ClientId,
    ) -> Result<Vec<crate::store::StoredSubscription>, HubError> {
        self.store.subscriptions(client).await.map_err(|error| self.store_failed(&error))
    }

    /// What the connection validator recorded, in its order.
    async fn carry_out(
        self: &Arc<Self>,
        new: &NewSession<'_>,
        retained: &mut Vec<(ChannelName, Bytes)>,
    ) -> Result<(), HubError> {
        for recorded in &new.recorded {
            match recorded {
                Recorded::Subscribe(channel, persistence) => {
                    let _turn = self.change_of(new.client).await;
                    let subscribed =
                        self.force_in_turn(new.outbox, new.client, channel, *persistence).await?;
                    retained.retain(|(of, _)| of != channel);
                    retained.extend(subscribed.retained.map(|bytes| (channel.clone(), bytes)));
                }
                Recorded::Unsubscribe(channel) => {
                    self.unsubscribe(new.outbox, new.client, channel).await?;
                    retained.retain(|(of, _)| of != channel);
                }
                Recorded::Publish(message) => self.publish(message.clone()).await?,
            }
        }
        Ok(())
    }

    /// Ends a session in the tables: nothing is pushed to it any more, its cursors are on disk.
    /// Returns whether it had persistent subscriptions, or may come to have had.
    pub(crate) async fn close_tables(&self, outbox: &Arc<Outbox>) -> bool {
        let cursors = outbox.take_moved_cursors();
        let subscriptions = outbox.remove_all_subscriptions();
        let mut persistent = outbox.is_changing();
        for subscription in &subscriptions {
            persistent |= subscription.persistence() == Persistence::Persistent;
            self.leave(subscription);
        }
        if !cursors.is_empty() {
            self.janitor.save_cursors(cursors).await;
        }
        persistent
    }

    /// Waits until what a session has asked for is done: a session of the same client that began before,
    /// here or on another node, could be overtaken by it (2.10), or find its subscriptions otherwise than
    /// they are going to be.
    pub(crate) async fn settle_session(&self, outbox: &Outbox) {
        if outbox.is_with_store() {
            // What is behind it in the queue is answered when it has been carried out.
            let (reply, carried_out) = oneshot::channel();
            let settled = async {
                if self.queue.submit(None, Tag::Reply(reply)).await.is_ok() {
                    drop(carried_out.await);
                }
            };
            drop(timeout(STORE_TIMEOUT, settled).await);
        }
        if self.cluster.is_some() {
            drop(timeout(SENT_TIMEOUT, self.bus.sent()).await);
        }
    }

    /// The session is over, close notifier included, unless that was another node's to run: the next
    /// `conn` of this client may go on.
    pub(crate) async fn close_session(
        &self,
        client: &ClientId,
        generation: u64,
        is_known: bool,
        was_notified: bool,
    ) {
        if was_notified {
            self.janitor.session_closed(client, generation, is_known || self.cluster.is_some()).await;
        }
        self.connections.unregister(client);
        self.counters.sessions_closed.increment();
    }
}
