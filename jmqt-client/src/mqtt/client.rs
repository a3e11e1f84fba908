//! The handle that applications hold.

use std::sync::Arc;

use jmqt_mqtt::{Filter, ReasonCode, SubscribeOptions};
use tokio::sync::oneshot;

use super::shared::{Shared, Status};
use super::{
    ConnectError, Error, Events, Information, Message, Messages, Options, Publish, Receipt, Subscription,
    outbound, run,
};
use crate::inbox::Inbox;

/// A client of one server, or of the nodes of one cluster. Clones are handles of the same client; when the last one is dropped
/// it closes by itself.
#[derive(Debug, Clone)]
pub struct Client {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.begin_closing();
    }
}

impl Client {
    /// Connects, and opens a session. From then on the client reconnects by itself, as its options say.
    ///
    /// # Errors
    /// [`ConnectError`] says which step failed, and gives a hint. There is then no client.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn connect(options: Options) -> Result<Self, ConnectError> {
        let (first, outcome) = oneshot::channel();
        let client = Self::spawn(options, Some(first))?;
        outcome.await.unwrap_or(Err(ConnectError::Closed))?;
        let mut status = client.shared().status.subscribe();
        let known = status.wait_for(|status| *status != Status::Offline).await.map(|status| *status);
        if matches!(known, Ok(Status::Closed)) { Err(ConnectError::Closed) } else { Ok(client) }
    }

    /// Starts to connect, and goes on trying until it works: publishes wait in the queue until then. Must be called within a
    /// tokio runtime.
    ///
    /// # Errors
    /// [`ConnectError::Option`]: a value is out of range.
    pub fn start(options: Options) -> Result<Self, ConnectError> {
        Self::spawn(options, None)
    }

    fn spawn(options: Options, first: run::First) -> Result<Self, ConnectError> {
        options.check()?;
        let shared = Arc::new(Shared::new(options));
        tokio::spawn(run::run(Arc::clone(&shared), first));
        Ok(Self { handle: Arc::new(Handle { shared }) })
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    /// What the server said in its last CONNACK.
    #[must_use]
    pub fn information(&self) -> Option<Information> {
        self.shared().lock().information.clone()
    }

    /// Whether there is a session now.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        *self.shared().status.borrow() == Status::Online
    }

    /// Why there is no connection, if the client does not come back by itself: [`Error::Stopped`] until
    /// [`reconnect`](Self::reconnect), and after any end of the connection with [`Reconnect::Off`](crate::Reconnect::Off);
    /// [`Error::Closed`] once the client was closed by [`disconnect`](Self::disconnect).
    #[must_use]
    pub fn ended(&self) -> Option<Error> {
        self.shared().lock().outbound.check_open().err()
    }

    /// What happens to the connection from now on.
    #[must_use]
    pub fn events(&self) -> Events {
        Events(self.shared().events())
    }

    /// Wants a connection that works, now: a client that has stopped or waits tries at once, a connected one asks the server
    /// for a sign of life.
    pub fn reconnect(&self) {
        self.shared().reconnect.notify_one();
    }

    /// Authenticates again within the session (MQTT 5, 4.12.1), with a new exchange of
    /// [`Options::authenticate`](super::Options::authenticate): before a token expires, for example. Messages flow meanwhile. If
    /// there is no connection, or it is lost, the next one has authenticated when it is there, and that counts.
    ///
    /// # Errors
    /// [`Error::NotAvailable`] without a method, [`Error::Authentication`] if the exchange cannot begin,
    /// [`Error::Timeout`] after `request_timeout`, [`Error::Stopped`] if the server refuses, which ends the connection, and
    /// [`Error::Closed`].
    ///
    /// # Cancel safety
    /// If the future is dropped the exchange goes on.
    pub async fn reauthenticate(&self) -> Result<(), Error> {
        let limit = self.shared().options.request_timeout;
        let timeout = Error::Timeout { what: "to authenticate again", limit };
        tokio::time::timeout(limit, self.shared().reauthenticate()).await.unwrap_or(Err(timeout))
    }

    /// Ends the client in order: sends what is queued, waits for the acknowledgements that are still due, then sends
    /// DISCONNECT, so that the will is not published. At most `close_timeout`; what is then without an acknowledgement fails
    /// with [`Error::Closed`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves the client closing.
    pub async fn disconnect(&self) {
        let mut status = self.shared().status.subscribe();
        self.shared().begin_closing();
        // The sender lives as long as we do.
        let _ = status.wait_for(|status| *status == Status::Closed).await;
    }

    /// Publishes a message. QoS 0: returns when it is queued. QoS 1 and 2: when the server has acknowledged it, with its
    /// reason code, for example [`ReasonCode::NO_MATCHING_SUBSCRIBERS`].
    ///
    /// Messages leave in the order in which they are queued, QoS 0 and the others each for themselves.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::QueueFull`], [`Error::Dropped`], [`Error::Expired`], [`Error::OutcomeUnknown`],
    /// [`Error::Timeout`], [`Error::PacketTooLarge`], [`Error::NotAvailable`], [`Error::NotInVersion`], [`Error::Stopped`],
    /// [`Error::Closed`].
    ///
    /// # Cancel safety
    /// A message that was queued is sent also if the future is dropped.
    pub async fn publish(&self, message: &Publish) -> Result<ReasonCode, Error> {
        self.queue(message).await?.await
    }

    /// Queues a message, and hands back the receipt of its acknowledgement, so that many can be under way.
    ///
    /// # Errors
    /// As [`publish`](Self::publish), but for what the receipt tells.
    ///
    /// # Cancel safety
    /// If the future is dropped the message is not queued, or will be sent.
    pub async fn queue(&self, message: &Publish) -> Result<Receipt, Error> {
        tokio::task::coop::consume_budget().await;
        self.shared().queue(message).await
    }

    /// [`queue`](Self::queue) without waiting for room.
    ///
    /// # Errors
    /// [`Error::QueueFull`] also where the options would wait.
    pub fn try_queue(&self, message: &Publish) -> Result<Receipt, Error> {
        match self.shared().offer(message)? {
            outbound::Offer::Taken(receipt) => Ok(receipt),
            outbound::Offer::Full => Err(Error::QueueFull { limit: self.shared().options.queue_bytes }),
        }
    }

    /// How many publishes were dropped: to make room for newer ones, or QoS 0 that the server does not take.
    #[must_use]
    pub fn dropped_publishes(&self) -> u64 {
        self.shared().lock().outbound.dropped()
    }

    /// Subscribes to a filter, with a QoS or with all options, and hands back the stream of its messages. The subscription is
    /// made again whenever the server has lost the session. An earlier stream of the same filter ends.
    ///
    /// Messages that came before for no stream, of a session that was there already, come first; they wait for
    /// [some seconds](Self::messages).
    ///
    /// ```no_run
    /// # async fn run(client: jmqt_client::mqtt::Client) -> Result<(), jmqt_client::mqtt::Error> {
    /// use jmqt_client::mqtt::{Qos, RetainHandling, SubscribeOptions};
    ///
    /// let mut options = SubscribeOptions::of_qos(Qos::ExactlyOnce);
    /// options.no_local = true; // MQTT 5
    /// options.retain_handling = RetainHandling::DoNotSend;
    /// let mut orders = client.subscribe("$share/workers/orders/#", Qos::AtLeastOnce).await?;
    /// let mut chat = client.subscribe("chat/+", options).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`] with the server's reason, [`Error::InvalidTopic`], [`Error::NotInVersion`],
    /// [`Error::NotAvailable`], [`Error::Timeout`] if there is no answer within `request_timeout`, [`Error::Stopped`],
    /// [`Error::Closed`].
    ///
    /// # Cancel safety
    /// If the future is dropped the subscription ends, as with its stream.
    pub async fn subscribe(
        &self,
        filter: &str,
        options: impl Into<SubscribeOptions>,
    ) -> Result<Subscription, Error> {
        let shared = self.shared();
        let options = options.into();
        let parsed = Filter::parse(filter)
            .map_err(|because| Error::InvalidTopic { topic: filter.to_owned(), because })?;
        if !shared.options.version.has_properties() && options != SubscribeOptions::of_qos(options.qos) {
            return Err(Error::NotInVersion { what: "options of a subscription" });
        }
        let inbox = Arc::new(Inbox::taking_all_acknowledged(shared.options.stream_bytes));
        let mut stream = Subscription::new(Arc::clone(shared), Arc::clone(&inbox), filter);
        let answered = {
            let mut inner = shared.lock();
            inner.outbound.check_open()?;
            let guard = &mut *inner;
            if let Some(information) = &guard.information {
                check_available(parsed, information)?;
            }
            let server = (&mut guard.outbound, guard.information.as_ref());
            let answered = guard.routes.subscribe(filter, (options, Arc::clone(&inbox)), server)?;
            let (mut waiting, _) = shared.everything.take_where(|message| parsed.matches(message.topic()));
            inbox.offer(&mut waiting);
            shared.wake_for(inner);
            answered
        };
        stream.granted = self.answer("the answer to a SUBSCRIBE", answered).await?;
        Ok(stream)
    }

    /// Ends the subscription to a filter, also one of an earlier process in the same session. Its stream ends.
    ///
    /// # Errors
    /// As [`subscribe`](Self::subscribe).
    ///
    /// # Cancel safety
    /// If the future is dropped the subscription may end all the same.
    pub async fn unsubscribe(&self, filter: &str) -> Result<(), Error> {
        Filter::parse(filter).map_err(|because| Error::InvalidTopic { topic: filter.to_owned(), because })?;
        let (done, answered) = oneshot::channel();
        {
            let mut inner = self.shared().lock();
            inner.outbound.check_open()?;
            let guard = &mut *inner;
            guard.routes.unsubscribe(filter, &mut guard.outbound, Some(done))?;
            self.shared().wake_for(inner);
        }
        self.answer("the answer to an UNSUBSCRIBE", answered).await
    }

    async fn answer<T>(
        &self,
        what: &'static str,
        answered: oneshot::Receiver<Result<T, Error>>,
    ) -> Result<T, Error> {
        let limit = self.shared().options.request_timeout;
        match tokio::time::timeout(limit, answered).await {
            Ok(answer) => answer.unwrap_or(Err(Error::Closed)),
            Err(_) => Err(Error::Timeout { what, limit }),
        }
    }

    /// The stream of messages that no subscription of this client is for: those of subscriptions whose stream was
    /// [detached](Subscription::detach), and those that an earlier process made in the same session.
    ///
    /// While there is such a stream, its messages wait to be read and are acknowledged then, as in any other. Without one they
    /// wait 10 seconds, within `stream_bytes`, for a [`subscribe`](Self::subscribe) or for this call, and are dropped then:
    /// [`unclaimed_messages`](Self::unclaimed_messages) counts them, and the log says so once a minute. In the first 10 seconds
    /// of the client's first session those that wait are not acknowledged, so that nothing is lost while an application
    /// starts; later they are acknowledged when they come, so that they do not hold up others [MQTT-4.5.0-2].
    ///
    /// There may be several at a time; each message goes to one of them.
    pub fn messages(&self) -> Messages {
        Messages::new(Arc::clone(self.shared()))
    }

    /// How many messages were dropped because no stream was for them, and there was none of [`messages`](Self::messages).
    #[must_use]
    pub fn unclaimed_messages(&self) -> u64 {
        self.shared().lock().unclaimed.dropped()
    }

    /// Says that a message has been taken, for streams that are
    /// [acknowledged by hand](Subscription::acknowledge_by_hand). Without effect on a QoS 0 message, and the second time.
    pub fn acknowledge(&self, message: &Message) {
        if let Some(delivery) = message.delivery() {
            self.shared().taken(delivery);
        }
    }
}

/// What the server said it does not do.
fn check_available(filter: Filter<'_>, information: &Information) -> Result<(), Error> {
    let missing = |what, advice| Err(Error::NotAvailable { what, advice });
    if filter.has_wildcard() && !information.wildcards_available {
        return missing("wildcard subscriptions", "subscribe to each topic");
    }
    if filter.group().is_some() && !information.shared_available {
        return missing("shared subscriptions", "subscribe without $share/GROUP/");
    }
    Ok(())
}
