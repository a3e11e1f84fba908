//! Messages as the application takes them: [`Subscription`] for one filter, [`Messages`] for all others.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
use jmqt_mqtt::Qos;

use super::Message;
use super::shared::Shared;
use crate::inbox::{Inbox, Taken};

/// The reading end of one inbox.
#[derive(Debug)]
struct Reader {
    shared: Arc<Shared>,
    inbox: Arc<Inbox<Message>>,
    batch: VecDeque<Message>,
    /// What the application was given last and has yet to be acknowledged.
    given: Option<Message>,
    by_hand: bool,
}

impl Reader {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Message>> {
        self.acknowledge();
        match self.inbox.take(&mut self.batch, 1, context.waker()) {
            Taken::Some { .. } => {}
            Taken::Nothing => return Poll::Pending,
            Taken::Stopped | Taken::End => return Poll::Ready(None),
        }
        let message = self.batch.pop_front();
        if !self.by_hand {
            self.given.clone_from(&message);
        }
        Poll::Ready(message)
    }

    fn acknowledge(&mut self) {
        if let Some(given) = self.given.take()
            && let Some(delivery) = given.delivery()
        {
            self.shared.taken(delivery);
        }
    }
}

macro_rules! stream {
    ($name:ident) => {
        impl $name {
            /// The next message; `None` once there will be no more. Asking for it acknowledges the one before, if that was
            /// QoS 1 or 2, unless acknowledging is done by hand.
            ///
            /// # Cancel safety
            /// Nothing is lost if the future is dropped; the message before is acknowledged all the same.
            pub async fn next(&mut self) -> Option<Message> {
                poll_fn(|context| self.reader.poll(context)).await
            }

            /// Leaves acknowledging to the application: [`Client::acknowledge`](super::Client::acknowledge).
            pub fn acknowledge_by_hand(mut self) -> Self {
                self.reader.by_hand = true;
                self
            }

            /// How many messages this stream has lost because it was not read in time: QoS 0, and those of a session that the
            /// server has lost.
            #[must_use]
            pub fn dropped(&self) -> u64 {
                self.reader.inbox.dropped()
            }
        }

        impl Stream for $name {
            type Item = Message;

            fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Message>> {
                self.reader.poll(context)
            }
        }
    };
}

/// The messages of one subscription. Made by [`Client::subscribe`](super::Client::subscribe).
///
/// Dropping it unsubscribes, and acknowledges what it had not been asked for; in a session that outlives the connection the
/// subscription stays, and ends by [`Client::unsubscribe`](super::Client::unsubscribe).
#[derive(Debug)]
#[must_use = "messages wait in it to be read"]
pub struct Subscription {
    reader: Reader,
    filter: Box<str>,
    pub(crate) granted: Qos,
}

impl Subscription {
    pub(crate) fn new(shared: Arc<Shared>, inbox: Arc<Inbox<Message>>, filter: &str) -> Self {
        let reader = Reader { shared, inbox, batch: VecDeque::new(), given: None, by_hand: false };
        Self { reader, filter: filter.into(), granted: Qos::AtMostOnce }
    }

    /// The filter.
    #[must_use]
    pub fn filter(&self) -> &str {
        &self.filter
    }

    /// The highest QoS that the server grants, which may be lower than what was asked for.
    #[must_use]
    pub const fn granted(&self) -> Qos {
        self.granted
    }
}

impl Subscription {
    /// Drops the stream and keeps the subscription: what was not read, and what comes, goes to [`Messages`]. If the server
    /// loses the session, the subscription is made again as long as the client lives.
    pub fn detach(mut self) {
        self.reader.acknowledge();
        let shared = Arc::clone(&self.reader.shared);
        let mut inner = shared.lock();
        let mut unread = self.reader.inbox.abandon();
        if inner.routes.has(&self.filter, &self.reader.inbox) {
            inner.routes.lead_to(&self.filter, Arc::clone(&shared.everything));
        }
        shared.everything.offer(&mut unread);
        drop(inner);
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.reader.acknowledge();
        let shared = Arc::clone(&self.reader.shared);
        let is_persistent = shared.options.is_persistent();
        let unread = {
            let mut inner = shared.lock();
            let unread = self.reader.inbox.abandon();
            let guard = &mut *inner;
            if guard.routes.has(&self.filter, &self.reader.inbox) {
                if is_persistent {
                    guard.routes.detach(&self.filter);
                } else if let Err(error) = guard.routes.unsubscribe(&self.filter, &mut guard.outbound, None) {
                    tracing::debug!(%error, "Cannot unsubscribe");
                }
            }
            shared.wake_for(inner);
            unread
        };
        shared.all_taken(&unread);
    }
}

/// The messages that no [`Subscription`] is for: of a session that was there before, for example. Made by
/// [`Client::messages`](super::Client::messages).
///
/// While it exists, such messages wait in it to be read, as in any stream. Without one they are
/// [dropped](super::Client::unclaimed_messages) after 10 seconds.
#[derive(Debug)]
#[must_use = "messages wait in it to be read"]
pub struct Messages {
    reader: Reader,
}

impl Messages {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let inbox = Arc::clone(&shared.everything);
        shared.lock().unclaimed.reader_begins();
        Self { reader: Reader { shared, inbox, batch: VecDeque::new(), given: None, by_hand: false } }
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        self.reader.acknowledge();
        self.reader.shared.lock().unclaimed.reader_ends();
    }
}

stream!(Subscription);
stream!(Messages);
