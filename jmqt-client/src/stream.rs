//! Pushes as the application takes them: [`Subscription`] for one channel, [`Pushes`] for all others.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
use jmqt_protocol::ChannelName;

use crate::inbox::{Inbox, Taken};
use crate::push::Settled;
use crate::routes::{Left, Taker, Target};
use crate::shared::Shared;
use crate::{ChannelFilter, Push};

/// How many pushes a [`Subscription`] takes from its inbox under one lock.
const BATCH: usize = 512;
/// How many [`Pushes`] takes: what it has not been asked for may yet go to a stream of its own.
const ONE: usize = 1;

/// Who acknowledges QoS 1 pushes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Acknowledge {
    /// The stream, when it is asked for the next push.
    WhenPolledOn,
    /// The application, with [`Client::acknowledge`](crate::Client::acknowledge).
    ByHand,
}

/// The reading end of one inbox.
#[derive(Debug)]
struct Reader {
    shared: Arc<Shared>,
    inbox: Arc<Inbox>,
    batch: VecDeque<Push>,
    /// How many pushes the batch may hold.
    most: usize,
    refetch: bool,
    /// What the application was given last and has yet to be acknowledged.
    given: Option<Push>,
    acknowledge: Acknowledge,
}

impl Reader {
    fn new(shared: Arc<Shared>, inbox: Arc<Inbox>, most: usize) -> Self {
        Self {
            shared,
            inbox,
            batch: VecDeque::new(),
            most,
            refetch: false,
            given: None,
            acknowledge: Acknowledge::WhenPolledOn,
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Push>> {
        if let Some(given) = self.given.take() {
            self.shared.acknowledge(&given);
        }
        if self.batch.is_empty() {
            if std::mem::take(&mut self.refetch) {
                self.shared.refetch.notify_one();
            }
            match self.inbox.take(&mut self.batch, self.most, context.waker()) {
                Taken::Some { refetch } => self.refetch = refetch,
                Taken::Nothing => {
                    self.batch = VecDeque::new();
                    return Poll::Pending;
                }
                Taken::Stopped => {
                    self.batch = VecDeque::new();
                    return Poll::Ready(None);
                }
                Taken::End => {
                    self.shared.progress.notify_waiters();
                    return Poll::Ready(None);
                }
            }
        }
        let push = self.batch.pop_front();
        if let Some(push) = &push
            && push.id().is_some()
            && self.acknowledge == Acknowledge::WhenPolledOn
        {
            self.given = Some(push.clone());
        }
        Poll::Ready(push)
    }
}

impl Reader {
    /// The application has not taken what it was given last: it comes again.
    fn give_back(&mut self) {
        if let Some(given) = self.given.take() {
            self.shared.forget(&[given]);
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.give_back();
        if self.refetch {
            self.shared.refetch.notify_one();
        }
        self.inbox.put_back(std::mem::take(&mut self.batch).into_iter());
    }
}

macro_rules! stream {
    ($name:ident) => {
        impl $name {
            /// The next push; `None` once there will be no more: [`Client::ended`](crate::Client::ended) says why, if it is
            /// because the client has ended. Asking for it acknowledges the one before, if
            /// that was QoS 1 (§9.a), unless acknowledging is done by hand.
            ///
            /// # Cancel safety
            /// Nothing is lost if the future is dropped; the push before is acknowledged all the same.
            pub async fn next(&mut self) -> Option<Push> {
                poll_fn(|context| self.reader.poll(context)).await
            }

            /// Leaves acknowledging to the application: [`Client::acknowledge`](crate::Client::acknowledge).
            pub fn acknowledge_by_hand(mut self) -> Self {
                self.reader.acknowledge = Acknowledge::ByHand;
                self
            }

            /// How many QoS 0 pushes this stream has lost because it was not read in time.
            #[must_use]
            pub fn dropped(&self) -> u64 {
                self.reader.inbox.dropped()
            }
        }

        impl Stream for $name {
            type Item = Push;

            fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Push>> {
                self.reader.poll(context)
            }
        }
    };
}

/// The pushes of one channel. Made by [`Client::subscribe`](crate::Client::subscribe).
///
/// It holds up to `stream_bytes` of pushes that were not read: then the oldest QoS 0 go, and are counted; QoS 1
/// stay unacknowledged, and the server sends no more of them than the window. It ends when the channel is
/// unsubscribed from, subscribed to again, or lost, and when the client ends.
///
/// When the server has ended the connection for good ([`Event::Stopped`](crate::Event::Stopped): a takeover, for example) the
/// stream hands out what has come and then says `None`, and [`Client::ended`](crate::Client::ended) says why. After
/// [`Client::reconnect`](crate::Client::reconnect) the subscription is made again, and the same stream can be read on.
///
/// Dropping it unsubscribes, if the subscription is temporary, and what it had not been asked for is gone with the
/// subscription. [`detach`](Self::detach) keeps the subscription: what was not read, and what comes, goes to [`Pushes`]. So
/// it is with a persistent subscription, also when its stream is dropped: it is meant to outlive the process, and ends by
/// [`Client::unsub`](crate::Client::unsub). The last push, if the stream was not asked for another one, is not acknowledged
/// and comes again on the next connection.
#[derive(Debug)]
#[must_use = "pushes wait in it to be read"]
pub struct Subscription {
    reader: Reader,
    channel: ChannelName,
}

/// How a [`Subscription`] comes to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    Dropped,
    Detached,
    Refused,
}

impl Subscription {
    pub(crate) fn new(shared: Arc<Shared>, inbox: Arc<Inbox>, channel: ChannelName) -> Self {
        Self { reader: Reader::new(shared, inbox, BATCH), channel }
    }

    /// The channel.
    #[must_use]
    pub const fn channel(&self) -> &ChannelName {
        &self.channel
    }
}

impl Subscription {
    /// Drops the stream and keeps the subscription. What was not read, and what comes, goes to [`Pushes`].
    pub fn detach(mut self) {
        self.leave(Leaving::Detached);
    }

    /// The server has refused the subscription: what was handed over to the stream waits for all again.
    pub(crate) fn refuse(mut self) {
        self.leave(Leaving::Refused);
    }

    fn leave(&mut self, leaving: Leaving) {
        self.reader.leave(&Target::Channel(self.channel.clone()), leaving);
    }
}

impl Reader {
    /// From here on the channel, or the filter, has no stream.
    fn leave(&mut self, target: &Target, leaving: Leaving) {
        let (shared, inbox) = (Arc::clone(&self.shared), Arc::clone(&self.inbox));
        let (left, unread) = {
            let mut routes = shared.routes();
            let mut outbound = shared.outbound();
            let left = routes.leave(target, &inbox, leaving == Leaving::Detached, &mut outbound);
            shared.wake_for(outbound);
            let mut unread: Vec<_> = self.batch.drain(..).collect();
            unread.extend(inbox.abandon());
            let is_for_all = left == Left::Kept
                || (leaving == Leaving::Refused
                    && matches!(target, Target::Channel(channel)
                        if matches!(routes.taker(channel.as_str()), Taker::Everyone)));
            // With the routes held: what comes meanwhile comes behind it.
            (left, if is_for_all { shared.leave_to_others(&mut unread) } else { unread })
        };
        shared.count_dropped_pushes(inbox.dropped());
        // Of pushes that other streams have too nobody waits for the part of a subscription that has ended.
        let settled = if left == Left::Unsubscribed { Settled::Left } else { Settled::Refused };
        let given = self.given.take();
        for push in unread.iter().chain(&given) {
            shared.settle(push, settled);
        }
        shared.progress.notify_waiters();
    }
}

/// The pushes of all channels that a filter matches. Made by [`Client::subscribe_filter`](crate::Client::subscribe_filter).
///
/// Its limit, its end and its acknowledgements are those of a [`Subscription`]; dropping it ends a temporary subscription. If several streams
/// have a push, because their filters match or one is of the channel itself, it is acknowledged when each has taken it.
#[derive(Debug)]
#[must_use = "pushes wait in it to be read"]
pub struct FilterSubscription {
    reader: Reader,
    filter: ChannelFilter,
}

impl FilterSubscription {
    pub(crate) fn new(shared: Arc<Shared>, inbox: Arc<Inbox>, filter: ChannelFilter) -> Self {
        Self { reader: Reader::new(shared, inbox, BATCH), filter }
    }

    /// The filter.
    #[must_use]
    pub const fn filter(&self) -> &ChannelFilter {
        &self.filter
    }

    /// Drops the stream and keeps the subscription. What was not read, and what comes, goes to [`Pushes`].
    pub fn detach(mut self) {
        self.leave(Leaving::Detached);
    }

    fn leave(&mut self, leaving: Leaving) {
        self.reader.leave(&Target::Filter(self.filter.clone()), leaving);
    }
}

impl Drop for FilterSubscription {
    fn drop(&mut self) {
        self.leave(Leaving::Dropped);
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.leave(Leaving::Dropped);
    }
}

/// The pushes of all channels that have no [`Subscription`]: of point-to-point messages, of subscriptions that the
/// server made, of those made with [`Client::sub`](crate::Client::sub). Made by
/// [`Client::pushes`](crate::Client::pushes).
///
/// Its limit is that of a [`Subscription`]. They are kept also while there is no `Pushes`; if there are several,
/// each push goes to one of them. When a channel gets a `Subscription`, what waits of it here moves there; what has been
/// handed out here does not come again there. It ends as a `Subscription` does when the client ends or is stopped.
#[derive(Debug)]
#[must_use = "pushes wait in it to be read"]
pub struct Pushes {
    reader: Reader,
}

impl Pushes {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let inbox = Arc::clone(&shared.everything);
        Self { reader: Reader::new(shared, inbox, ONE) }
    }

    /// Whether there will be no more, also if the client connects again.
    pub(crate) fn is_over(&self) -> bool {
        self.reader.inbox.is_done()
    }

    /// The last push has not been taken, and is not acknowledged.
    pub(crate) fn give_back(&mut self) {
        self.reader.give_back();
    }
}

stream!(Subscription);
stream!(FilterSubscription);
stream!(Pushes);
