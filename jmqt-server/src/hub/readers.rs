//! Readers of logs for persistent subscriptions with filters.
//!
//! The store creates a cursor in each channel that a filter matches when a message is appended. The client's reader of the
//! log is created when the first such message is delivered, or when the session resumes and is behind: a subscription with
//! the name of the channel, which stands for all subscriptions of the client that match.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use jmqt_core::{ChannelName, ClientId};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::commits::Commits;
use super::error::HubError;
use super::resume::Resumes;
use super::subscribers::Subscribers;
use crate::counters::Counters;
use crate::options::SubscriptionOptions;
use crate::outbox::{Outbox, Reader, Stage, Subscription};
use crate::store::{ChannelKey, Operation, Outcome, Seq, Store, StoreError, StoredSubscription};

/// The pause before the cursor of a reader is read again after a failure.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// A reader for filters without a message for this time, or up to twice as long, is ended.
const IDLE: Duration = Duration::from_secs(300);

/// The number of cursors of new readers that are read at a time.
const READS: usize = 16;
/// The number of idle cursors that are ended together.
const ENDED_TOGETHER: usize = 128;

/// The readers for filters that had nothing to do at the last look, and the last messages that they have read.
#[derive(Default)]
pub(crate) struct IdleReaders(HashMap<(ChannelKey, ClientId), Seq, foldhash::fast::RandomState>);

/// Begins and ends readers.
pub(crate) struct Readers {
    subscribers: Arc<Subscribers>,
    resumes: Arc<Resumes>,
    commits: Arc<Commits>,
    store: Arc<dyn Store>,
    counters: Arc<Counters>,
    /// Limits the number of cursors of new readers that are read at a time.
    reads: Semaphore,
}

impl Readers {
    pub(super) fn new(
        subscribers: Arc<Subscribers>,
        resumes: Arc<Resumes>,
        commits: Arc<Commits>,
        store: Arc<dyn Store>,
        counters: Arc<Counters>,
    ) -> Self {
        Self { subscribers, resumes, commits, store, counters, reads: Semaphore::new(READS) }
    }

    /// Begins a reader of the log of a channel, in which there is this message, for a subscription that lacks one.
    pub(super) fn begin(
        self: &Arc<Self>,
        of: &Arc<Subscription>,
        channel: &ChannelName,
        seen: (ChannelKey, Seq),
    ) {
        let reader = match of.outbox.begin_reader(of, channel, seen) {
            Reader::Created(reader) => {
                self.subscribers.add_to_channel(&reader);
                if reader.stage() == Stage::Ended {
                    return self.subscribers.leave(&reader); // meanwhile
                }
                reader
            }
            Reader::Begun(reader) => reader,
            Reader::Exists => return self.resumes.begin(&of.outbox),
            Reader::Unwanted => return,
        };
        self.subscribers.filters.options_changed();
        drop(self.subscribers.of(channel)); // it stands for the others from now on
        let readers = Arc::clone(self);
        tokio::spawn(async move { readers.attach(&reader).await });
    }

    /// Reads the cursor of a reader.
    async fn attach(self: &Arc<Self>, reader: &Arc<Subscription>) {
        let Subscription { client, channel, outbox, .. } = &**reader;
        loop {
            let stored = {
                // It is never closed.
                let Ok(_place) = self.reads.acquire().await else { return };
                self.store.subscription(client, channel).await
            };
            if reader.stage() == Stage::Ended || outbox.closed().is_some() {
                return;
            }
            match stored {
                Ok(Some(stored)) => {
                    outbox.attach(reader, &stored);
                    self.resumes.begin(outbox);
                    return outbox.flush();
                }
                // The message was stored before the filter.
                Ok(None) => return self.end(outbox, reader),
                Err(StoreError::Closed) => return,
                Err(error) => self.failed(&error),
            }
            sleep(TRY_AGAIN).await;
        }
    }

    fn end(&self, outbox: &Outbox, reader: &Arc<Subscription>) {
        if reader.own_options().is_of_filter() {
            self.subscribers.remove(outbox, &reader.channel);
        } else {
            outbox.end_reader(reader);
            reader.set_options(reader.own_options());
        }
        self.subscribers.filters.options_changed();
    }

    /// Begins readers of the logs where messages for filters may have been missed.
    pub(super) async fn begin_missing(self: &Arc<Self>, outbox: &Arc<Outbox>) -> Result<(), StoreError> {
        let Some(client) = outbox.client_with_filters() else { return Ok(()) };
        for stored in self.store.subscriptions(&client).await? {
            if stored.is_behind()
                && outbox.serves(&stored.channel)
                && outbox.subscription(stored.channel.as_str()).is_none_or(|it| !it.is_reader())
                && let Some(filter) = self.subscribers.filters.lacking_reader(outbox, &stored.channel)
            {
                self.begin(&filter, &stored.channel, (stored.key, stored.last));
            }
        }
        Ok(())
    }

    /// Returns `true` if a persistent subscription of the client with a filter needs a reader of this channel.
    pub(super) fn is_needed(&self, outbox: &Arc<Outbox>, channel: &ChannelName) -> bool {
        self.subscribers.filters.lacking_reader(outbox, channel).is_some()
    }

    /// Ends readers for filters that have nothing to do, until the server stops. A client with the filter `#` would
    /// otherwise have a reader and a cursor in each channel that ever had a message.
    pub(crate) async fn end_idle_regularly(self: Arc<Self>, stop: CancellationToken) {
        let mut idle = IdleReaders::default();
        while stop.run_until_cancelled(sleep(IDLE)).await.is_some() {
            self.end_idle(&mut idle).await;
        }
    }

    /// Ends the readers for filters that have had nothing to do since the last call.
    pub(crate) async fn end_idle(self: &Arc<Self>, idle: &mut IdleReaders) {
        let mut still_idle = IdleReaders::default();
        let groups = self.subscribers.groups.all().into_iter().map(|(_, group)| group);
        for outbox in self.subscribers.connections.outboxes().into_iter().chain(groups) {
            let Some(client) = outbox.client_with_filters() else { continue };
            let mut ended = Vec::new();
            let mut look = |channel: &ChannelName, (key, seq), end: &dyn Fn() -> bool| {
                let place = (key, client.clone());
                if idle.0.get(&place) == Some(&seq) && end() {
                    ended.push((channel.clone(), (key, seq)));
                } else {
                    still_idle.0.insert(place, seq);
                }
            };
            for reader in outbox.subscriptions().into_iter().filter(|it| it.own_options().is_of_filter()) {
                let Some(last) = reader.idle_at() else { continue };
                look(&reader.channel, last, &|| {
                    let has_ended = outbox.end_idle_reader(&reader, last);
                    if has_ended {
                        self.subscribers.leave(&reader);
                    }
                    has_ended
                });
            }
            for stored in self.idle_cursors_without_reader(&outbox, &client).await {
                look(&stored.channel, (stored.key, stored.last), &|| true);
            }
            self.subscribers.filters.options_changed();
            for some in ended.chunks(ENDED_TOGETHER) {
                self.end_idle_cursors(&outbox, &client, some).await;
            }
        }
        *idle = still_idle;
    }

    /// The cursors for filters of earlier connections: a reader is begun only for those that are behind.
    async fn idle_cursors_without_reader(
        &self,
        outbox: &Arc<Outbox>,
        client: &ClientId,
    ) -> Vec<StoredSubscription> {
        let mut stored = match self.store.subscriptions(client).await {
            Ok(stored) => stored,
            Err(error) => {
                self.failed(&error);
                return Vec::new();
            }
        };
        stored.retain(|it| {
            it.options.is_of_filter()
                && it.cursor.acked == it.last
                && outbox.serves(&it.channel)
                && outbox.subscription(it.channel.as_str()).is_none_or(|here| !here.is_reader())
        });
        stored
    }

    /// Deletes the cursors of readers that have been ended, unless there is another message meanwhile.
    async fn end_idle_cursors(
        self: &Arc<Self>,
        outbox: &Arc<Outbox>,
        client: &ClientId,
        ended: &[(ChannelName, (ChannelKey, Seq))],
    ) {
        let ending = ended.iter().map(|(channel, last)| {
            self.commits.commit(Operation::EndIdleCursor {
                client: client.clone(),
                channel: channel.clone(),
                last: *last,
            })
        });
        let outcomes = join_all(ending).await;
        let has_ended = |outcome: &Result<_, _>| matches!(outcome, Ok(Outcome::IdleCursorEnded(true)));
        // A message that the store has taken before may have been offered to a reader that had ended.
        if !outcomes.iter().all(has_ended)
            && let Err(error) = self.begin_missing(outbox).await
        {
            self.failed(&error);
        }
    }

    /// Ends the readers that no subscription of the client needs any more.
    pub(super) fn end_unneeded(&self, outbox: &Arc<Outbox>) {
        for reader in outbox.subscriptions() {
            let own = reader.own_options();
            let is_for_filters = own.is_of_filter() || own.qos() == jmqt_core::Qos::AtMostOnce;
            if is_for_filters && reader.is_reader() && !self.is_needed(outbox, &reader.channel) {
                self.end(outbox, &reader);
            } else if !own.is_of_filter() {
                reader.set_options(own); // the others are added when the receivers of the channel are computed
            }
        }
        self.subscribers.filters.options_changed();
    }

    /// An own subscription of the client to this channel ends, and its reader goes on for filters.
    pub(super) fn keep(&self, outbox: &Outbox, subscription: &Subscription) {
        outbox.set_options(subscription, SubscriptionOptions::OF_FILTER);
        self.subscribers.filters.options_changed();
        drop(self.subscribers.of(&subscription.channel));
    }

    fn failed(&self, error: &StoreError) {
        HubError::of_store(error, &self.counters);
    }
}
