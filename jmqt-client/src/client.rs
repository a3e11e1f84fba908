//! The handle that applications hold.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use jmqt_protocol::{
    AuthToken, ChannelKind, ChannelName, ClientId, Packet, Payload, Persistence, Pub, Qos, Retain,
};
use tokio::sync::oneshot;

use crate::event::{Event, Events};
use crate::inbox::Inbox;
use crate::outbound::Phase;
use crate::routes::{Answer, Target};
use crate::shared::{Shared, State};
use crate::stream::{FilterSubscription, Pushes, Subscription};
use crate::{
    Config, ConnectError, DisconnectReason, Error, IntoChannel, IntoFilter, Publish, Push, Receipt, Step,
    reconnect,
};

/// A client of one server, or of the nodes of one cluster. Clones are handles of the same client; when the last one is dropped it closes by itself.
#[derive(Debug, Clone)]
pub struct Client {
    handle: Arc<Handle>,
}

/// Ends the client when nobody holds it any more. Streams do not count.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.begin_closing();
    }
}

/// A control request's answer (§9.d).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    data: Option<Box<str>>,
}

impl Reply {
    /// The answer's data as JSON text, byte for byte; `None` if it had none.
    #[must_use]
    pub fn data(&self) -> Option<&str> {
        self.data.as_deref()
    }

    /// The data as a value; data that is absent counts as `null`.
    ///
    /// # Errors
    /// What `serde_json` says of data of another shape.
    pub fn json<'d, T: serde::Deserialize<'d>>(&'d self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.data().unwrap_or("null"))
    }
}

impl Client {
    /// Connects, and opens a session: `auth`, unless there is a token, then `conn` (§7.a to §7.d). From then on the
    /// client reconnects by itself, as its configuration says. A URL is a configuration too.
    ///
    /// Of several servers each is tried once. A server that answers that it has failed (status 5), or that says to come
    /// later, is tried again for as long as `connect_timeout`.
    ///
    /// ```no_run
    /// use jmqt_client::{Client, Config};
    ///
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// let config = Config::url("jmqt://localhost:8010")?.auth(r#"{"client_name":"alice"}"#)?;
    /// let client = Client::connect(config).await?;
    /// println!("connected as {}", client.connected().await?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ConnectError`] says which step of the first attempt failed, and gives a hint. There is then no client.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn connect<C>(config: C) -> Result<Self, ConnectError>
    where
        C: TryInto<Config>,
        ConnectError: From<C::Error>,
    {
        let (first, outcome) = oneshot::channel();
        let client = Self::spawn(config.try_into()?, Some(first))?;
        outcome.await.unwrap_or(Err(ConnectError::Closed))?;
        // The session is open; that nothing had to be made again takes one more turn of the task.
        match client.connected().await {
            Ok(_) => Ok(client),
            Err(Error::Disconnected(reason)) => {
                let close = reason.server_close().cloned();
                let told = |close| ConnectError::ByServer { step: Step::Subscriptions, close };
                Err(close.map_or(ConnectError::Closed, told))
            }
            Err(_) => Err(ConnectError::Closed),
        }
    }

    /// Asks for a token and opens no session (§7.a): for programs that pass tokens to clients. Put into a
    /// [`Config::token`], it opens one.
    ///
    /// # Errors
    /// [`ConnectError`] as for [`connect`](Self::connect).
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn authenticate(config: &Config) -> Result<(ClientId, AuthToken), ConnectError> {
        crate::connect::authenticate(config).await
    }

    /// Starts to connect, and goes on trying until it works: publishes wait in the queue until then.
    ///
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`ConnectError::Url`] and [`ConnectError::Config`]: a value is out of range.
    pub fn start<C>(config: C) -> Result<Self, ConnectError>
    where
        C: TryInto<Config>,
        ConnectError: From<C::Error>,
    {
        Self::spawn(config.try_into()?, None)
    }

    fn spawn(config: Config, first: reconnect::First) -> Result<Self, ConnectError> {
        config.check()?;
        let shared = Arc::new(Shared::new(config));
        tokio::spawn(reconnect::run(Arc::clone(&shared), first));
        Ok(Self { handle: Arc::new(Handle { shared }) })
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    // ---- the session -------------------------------------------------------------------------------

    /// Waits until there is a session, and says who we are in it.
    ///
    /// # Errors
    /// [`Error::Timeout`] if there is none within `request_timeout`, [`Error::Disconnected`], [`Error::Closed`].
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped.
    pub async fn connected(&self) -> Result<ClientId, Error> {
        self.shared().online().await
    }

    /// Whether there is a session now.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        matches!(*self.shared().state.borrow(), State::Online(_))
    }

    /// Why there is no connection, if the client does not come back by itself: [`Error::Disconnected`] after the server ended the
    /// connection for good ([`Event::Stopped`]), until [`reconnect`](Self::reconnect), and after any end of the connection with
    /// [`Reconnect::Off`](crate::Reconnect::Off); [`Error::Closed`] once the client was [closed](Self::close). `None` while it is connected, or tries to be.
    ///
    /// ```no_run
    /// # async fn run(client: jmqt_client::Client, mut news: jmqt_client::Subscription) {
    /// while let Some(push) = news.next().await {
    ///     println!("{}", push.data());
    /// }
    /// if let Some(why) = client.ended() {
    ///     eprintln!("{why}"); // for example: 4500 TAKEOVER
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn ended(&self) -> Option<Error> {
        self.shared().outbound().check_open().err()
    }

    /// Who we are, and the token that says so: what was configured, or what `auth` granted last.
    #[must_use]
    pub fn token(&self) -> Option<(ClientId, AuthToken)> {
        self.shared().token()
    }

    /// What happens to the connection from now on.
    ///
    /// ```no_run
    /// # async fn run(client: jmqt_client::Client) -> Result<(), jmqt_client::Error> {
    /// use jmqt_client::Event;
    ///
    /// let mut events = client.events();
    /// while let Some(event) = events.next().await {
    ///     match event {
    ///         Event::Connected { .. } => println!("connected"),
    ///         Event::Disconnected { reason } => println!("lost: {reason}"),
    ///         _ => {}
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn events(&self) -> Events {
        Events(self.shared().events())
    }

    /// Wants a connection that works, now:
    ///
    /// - after the server has ended the connection for good ([`Event::Stopped`]), the client connects again;
    /// - while it waits for the next attempt, it tries at once;
    /// - while it is connected, it asks the server for a sign of life, and connects again if there is none within three
    ///   seconds; but not while an answer is due that the server's application may be thinking about. An application calls it when it knows that the network has changed; that the machine was suspended
    ///   the client notices by itself.
    pub fn reconnect(&self) {
        self.shared().reconnect.notify_one();
    }

    /// Ends the client in order: sends what is queued and `disconn`, waits for the acknowledgements that are still
    /// due, then closes the socket (§9.f). At most `close_timeout`; what is then without an acknowledgement fails
    /// with [`Error::Closed`].
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = jmqt_client::Client::connect("jmqt://localhost").await?;
    /// client.close().await; // without it, the end of the program cuts off what is queued
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// Dropping the future leaves the client closing.
    pub async fn close(&self) {
        let mut state = self.shared().state.subscribe();
        self.shared().begin_closing();
        // The sender lives as long as we do.
        let _ = state.wait_for(|state| *state == State::Closed).await;
    }

    /// Waits until the server has everything that was published before: QoS 1 is acknowledged, and the server has
    /// answered a heartbeat that was sent behind the last QoS 0 message.
    ///
    /// # Errors
    /// [`Error::Timeout`] after `publish_timeout`, [`Error::Disconnected`], [`Error::Closed`]. That a QoS 1 message was
    /// refused its [`Receipt`] tells.
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped.
    pub async fn flush(&self) -> Result<(), Error> {
        let (shared, limit) = (self.shared(), self.shared().config.publish_timeout);
        let last = shared.outbound().last_id();
        let flushed = async {
            loop {
                // QoS 0 leaves in one piece, and the heartbeat behind it.
                let (session, beat) = shared
                    .until(|| {
                        let mut outbound = shared.outbound();
                        if let Err(error) = outbound.check_open() {
                            return Some(Err(error));
                        }
                        if outbound.phase() != Phase::Online {
                            return None;
                        }
                        let sent = (outbound.session(), outbound.beat());
                        shared.wake_for(outbound);
                        Some(Ok(sent))
                    })
                    .await?;
                let is_flushed = shared
                    .until(|| {
                        let outbound = shared.outbound();
                        if let Err(error) = outbound.check_open() {
                            return Some(Err(error));
                        }
                        if outbound.session() != session || outbound.phase() != Phase::Online {
                            return Some(Ok(false)); // again on the next connection
                        }
                        let answered = outbound.beats_answered() >= beat;
                        (answered && outbound.is_acknowledged_up_to(last)).then_some(Ok(true))
                    })
                    .await?;
                if is_flushed {
                    return Ok(());
                }
            }
        };
        let timeout = Error::Timeout { what: "the server's having everything", limit };
        tokio::time::timeout(limit, flushed).await.unwrap_or(Err(timeout))
    }

    /// Ends the client when its work is done: temporary subscriptions end, what the streams hold is read to the end and
    /// acknowledged, everything published is [flushed](Self::flush), then the client is [closed](Self::close). Messages
    /// of persistent subscriptions that come meanwhile stay with the server.
    ///
    /// Each [`Subscription`](crate::Subscription) ends by itself when it has been read; they have `request_timeout` for it.
    ///
    /// # Errors
    /// What went wrong first, as for [`unsub`](Self::unsub) and [`flush`](Self::flush); [`Error::Timeout`] if a stream
    /// was not read to its end. The client is closed all the same.
    ///
    /// # Cancel safety
    /// If the future is dropped the client is not closed.
    pub async fn drain(&self) -> Result<(), Error> {
        let outcome = self.drain_streams().await;
        let outcome = match outcome {
            Ok(()) => self.flush().await,
            failed => failed,
        };
        self.close().await;
        outcome
    }

    async fn drain_streams(&self) -> Result<(), Error> {
        let shared = self.shared();
        let (answers, inboxes) = {
            let mut routes = shared.routes();
            let mut outbound = shared.outbound();
            outbound.check_open()?;
            let drained = routes.drain(&mut outbound);
            shared.wake_for(outbound);
            drained
        };
        for answered in answers {
            self.answer("unsub", answered).await?;
        }
        let read = async {
            shared.until(|| inboxes.iter().all(|inbox| inbox.is_done()).then_some(())).await;
            Ok(())
        };
        shared.within("the reading of the streams", read).await
    }

    // ---- publishing --------------------------------------------------------------------------------

    /// Publishes a message (§7.k). QoS 0: returns when it is queued, or, if it is [checked](Publish::checked), when the server
    /// has handled it. QoS 1: when the server has acknowledged it.
    ///
    /// Messages leave in the order in which they are queued, each QoS for itself. While there is no session they
    /// wait, as long as it takes. A QoS 1 message that was sent before a connection broke is sent again on the next one.
    /// A server that follows protocol.md 2.23 recognises it if only the acknowledgement was lost; from any other it arrives
    /// twice then.
    ///
    /// ```no_run
    /// use jmqt_client::{Client, Publish};
    ///
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = Client::connect("jmqt://localhost").await?;
    /// client.publish(&Publish::json("weather", "rain")?).await?; // QoS 0: on its way
    /// client.publish(&Publish::json("weather", "sun")?.at_least_once()).await?; // QoS 1: the server has it
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`] with the server's status, [`Error::QueueFull`], [`Error::Dropped`], [`Error::Timeout`],
    /// [`Error::PacketTooLarge`], [`Error::WrongChannel`] for a control channel, [`Error::Disconnected`],
    /// [`Error::Closed`].
    ///
    /// # Cancel safety
    /// A message that was queued is sent also if the future is dropped.
    pub async fn publish(&self, message: &Publish) -> Result<(), Error> {
        self.queue(message).await?.await
    }

    /// Queues a message, and hands back the receipt of its acknowledgement, so that many can be under way.
    ///
    /// # Errors
    /// As [`publish`](Self::publish), but for [`Error::Refused`] and [`Error::Dropped`], which the receipt tells.
    ///
    /// # Cancel safety
    /// If the future is dropped the message is not queued, or will be sent.
    pub async fn queue(&self, message: &Publish) -> Result<Receipt, Error> {
        check_channel(message)?;
        // Lets the client's task have its turn on a runtime of one thread.
        tokio::task::coop::consume_budget().await;
        self.shared().queue(message).await
    }

    /// [`queue`](Self::queue) without waiting for room.
    ///
    /// # Errors
    /// [`Error::QueueFull`] also where the configuration would wait.
    pub fn try_queue(&self, message: &Publish) -> Result<Receipt, Error> {
        check_channel(message)?;
        match self.shared().offer(message)? {
            crate::outbound::Offer::Taken(receipt) => Ok(receipt),
            crate::outbound::Offer::Full => Err(Error::QueueFull { limit: self.shared().config.queue_bytes }),
        }
    }

    /// How many publishes were dropped to make room for newer ones.
    #[must_use]
    pub fn dropped_publishes(&self) -> u64 {
        self.shared().outbound().dropped()
    }

    // ---- subscribing -------------------------------------------------------------------------------

    /// Subscribes to a channel (§7.g). Its pushes come in [`pushes`](Self::pushes).
    ///
    /// The subscription is made again on every new connection. To change between persistent and temporary,
    /// unsubscribe first (§9.c).
    ///
    /// # Errors
    /// [`Error::Refused`] with the server's status, [`Error::InvalidChannel`], [`Error::WrongChannel`],
    /// [`Error::AlreadySubscribed`] with the other persistence, [`Error::Disconnected`], [`Error::Closed`];
    /// [`Error::Timeout`] if there is no answer within `request_timeout`, while the client goes on trying.
    ///
    /// # Cancel safety
    /// If the future is dropped the subscription may be made all the same.
    pub async fn sub(&self, channel: impl IntoChannel, persistence: Persistence) -> Result<(), Error> {
        let channel = channel.into_channel()?;
        check_plain(&channel, "sub")?;
        self.sub_to(&Target::Channel(channel), persistence, None).await
    }

    /// Subscribes to all channels that a filter matches (protocol.md 2.25), until the filter is
    /// [unsubscribed](Self::unsub_filter) from. Their pushes come in [`pushes`](Self::pushes), except those of channels that have
    /// a stream of their own.
    ///
    /// # Errors
    /// As [`subscribe_filter`](Self::subscribe_filter).
    ///
    /// # Cancel safety
    /// If the future is dropped the subscription may be made all the same.
    pub async fn sub_filter(&self, filter: impl IntoFilter, persistence: Persistence) -> Result<(), Error> {
        self.sub_to(&Target::Filter(filter.into_filter()?), persistence, None).await
    }

    /// Subscribes to all channels that a filter matches (protocol.md 2.25), and hands back the stream of their pushes. The
    /// subscription is made again on every new connection. A temporary one ends when the stream is dropped.
    ///
    /// ```no_run
    /// use jmqt_client::{Client, Persistence};
    ///
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = Client::connect("jmqt://localhost").await?;
    /// let mut temperatures = client.subscribe_filter("rooms/+/temperature", Persistence::Temporary).await?;
    /// while let Some(push) = temperatures.next().await {
    ///     println!("{}: {}", push.channel(), push.data());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidFilter`]; [`Error::FiltersNotSupported`] if the server does not know filters; [`Error::Refused`] with
    /// the server's status, as a rule 7 NOT_ALLOWED, because the application has to allow filters;
    /// [`Error::AlreadySubscribed`], [`Error::Disconnected`], [`Error::Closed`], [`Error::Timeout`].
    ///
    /// # Cancel safety
    /// If the future is dropped a temporary subscription ends; a persistent one may be made all the same.
    pub async fn subscribe_filter(
        &self,
        filter: impl IntoFilter,
        persistence: Persistence,
    ) -> Result<FilterSubscription, Error> {
        let filter = filter.into_filter()?;
        let inbox = Arc::new(Inbox::new(self.shared().config.stream_bytes));
        let stream = FilterSubscription::new(Arc::clone(self.shared()), Arc::clone(&inbox), filter.clone());
        self.sub_to(&Target::Filter(filter), persistence, Some(inbox)).await?;
        Ok(stream)
    }

    /// Subscribes to a channel, and hands back the stream of its pushes. A temporary subscription ends when the stream is
    /// dropped.
    ///
    /// The server sends what has waited for a persistent subscription as soon as the client is connected, often before this
    /// call. It is not lost: pushes of this channel that wait in [`pushes`](Self::pushes) come first in the stream. Those that
    /// a [`Pushes`] or [`on_push`](Self::on_push) has handed out are not handed out again: an application that reads
    /// both makes its subscriptions first.
    ///
    /// ```no_run
    /// use jmqt_client::{Client, Persistence};
    ///
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = Client::connect("jmqt://localhost").await?;
    /// let mut news = client.subscribe("news", Persistence::Temporary).await?;
    /// while let Some(push) = news.next().await { // acknowledges the push before
    ///     println!("{} says {}", push.publisher(), push.data());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`sub`](Self::sub); after [`Error::Timeout`] the client goes on trying for a persistent subscription only.
    ///
    /// # Cancel safety
    /// If the future is dropped a temporary subscription ends; a persistent one may be made all the same.
    pub async fn subscribe(
        &self,
        channel: impl IntoChannel,
        persistence: Persistence,
    ) -> Result<Subscription, Error> {
        let channel = channel.into_channel()?;
        let inbox = Arc::new(Inbox::new(self.shared().config.stream_bytes));
        let stream = Subscription::new(Arc::clone(self.shared()), Arc::clone(&inbox), channel.clone());
        check_plain(&channel, "sub")?;
        match self.sub_to(&Target::Channel(channel), persistence, Some(inbox)).await {
            Ok(()) => Ok(stream),
            Err(error) => {
                if matches!(error, Error::Refused { .. }) {
                    stream.refuse();
                }
                Err(error)
            }
        }
    }

    async fn sub_to(
        &self,
        target: &Target,
        persistence: Persistence,
        inbox: Option<Arc<Inbox>>,
    ) -> Result<(), Error> {
        let shared = self.shared();
        let answered = {
            let mut routes = shared.routes();
            let mut outbound = shared.outbound();
            outbound.check_open()?;
            let answered = routes.subscribe(target, persistence, inbox.clone(), &mut outbound)?;
            if let Some(inbox) = inbox {
                shared.hand_over(target, &inbox, &mut routes);
            }
            shared.wake_for(outbound);
            answered
        };
        self.answer("sub", answered).await
    }

    /// Unsubscribes from a channel (§7.i). Its stream ends.
    ///
    /// # Errors
    /// As [`sub`](Self::sub).
    ///
    /// # Cancel safety
    /// If the future is dropped the subscription may end all the same.
    pub async fn unsub(&self, channel: impl IntoChannel) -> Result<(), Error> {
        let channel = channel.into_channel()?;
        check_plain(&channel, "unsub")?;
        self.unsub_from(&Target::Channel(channel)).await
    }

    /// Unsubscribes from a filter. Its stream ends.
    ///
    /// # Errors
    /// As [`subscribe_filter`](Self::subscribe_filter).
    ///
    /// # Cancel safety
    /// If the future is dropped the subscription may end all the same.
    pub async fn unsub_filter(&self, filter: impl IntoFilter) -> Result<(), Error> {
        self.unsub_from(&Target::Filter(filter.into_filter()?)).await
    }

    async fn unsub_from(&self, target: &Target) -> Result<(), Error> {
        let shared = self.shared();
        let answered = {
            let mut routes = shared.routes();
            let mut outbound = shared.outbound();
            outbound.check_open()?;
            let answered = routes.unsubscribe(target, &mut outbound);
            shared.wake_for(outbound);
            answered
        };
        self.answer("unsub", answered).await
    }

    async fn answer(&self, request: &'static str, answered: oneshot::Receiver<Answer>) -> Result<(), Error> {
        let what = if request == "sub" { "the answer to a sub" } else { "the answer to an unsub" };
        let status =
            self.shared().within(what, async { answered.await.unwrap_or(Err(Error::Closed)) }).await?;
        if status.is_ok() { Ok(()) } else { Err(Error::Refused { request, status, reply: None }) }
    }

    /// The stream of pushes that have none of their own.
    pub fn pushes(&self) -> Pushes {
        Pushes::new(Arc::clone(self.shared()))
    }

    /// Says that a QoS 1 push has been taken, for streams that are
    /// [acknowledged by hand](Subscription::acknowledge_by_hand) (§7.n). Without effect on a QoS 0 push, and the
    /// second time.
    pub fn acknowledge(&self, push: &Push) {
        self.shared().acknowledge(push);
    }

    /// How many QoS 0 pushes were dropped because no stream was read in time.
    #[must_use]
    pub fn dropped_pushes(&self) -> u64 {
        self.shared().everything.dropped() + self.shared().dropped_pushes.load(Ordering::Relaxed)
    }

    // ---- requests ----------------------------------------------------------------------------------

    /// Asks the server's application something, on a control channel (`$name`), and waits for its reply (§9.d).
    /// `data` is JSON text, or nothing.
    ///
    /// ```no_run
    /// use jmqt_client::{Client, Payload};
    ///
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = Client::connect("jmqt://localhost").await?;
    /// let reply = client.request("$add", Some(Payload::parse("[1,2]")?)).await?;
    /// println!("{:?}", reply.data());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`] with the application's status, and its [reply](Error::reply); [`Error::ConnectionLost`] if the connection went while the
    /// request was under way; [`Error::Timeout`] if there is no session, or no reply, within `request_timeout`;
    /// [`Error::WrongChannel`], [`Error::PacketTooLarge`], [`Error::Closed`].
    ///
    /// # Cancel safety
    /// If the future is dropped the request may be carried out all the same.
    pub async fn request(
        &self,
        channel: impl IntoChannel,
        data: Option<Payload<'_>>,
    ) -> Result<Reply, Error> {
        let channel = channel.into_channel()?;
        if channel.kind() != ChannelKind::Control {
            let because = "control channels begin with `$`";
            return Err(Error::WrongChannel { request: "request", because });
        }
        let shared = self.shared();
        let reply = async {
            shared.online().await?;
            let (id, answered) = {
                let mut outbound = shared.outbound();
                if !outbound.has_session() {
                    return Err(Error::ConnectionLost);
                }
                let asked = outbound.request(shared.config.max_packet_bytes, |id, out| {
                    let (channel, id) = (channel.as_str().into(), Some(id.into()));
                    let (qos, retain) = (Qos::AtMostOnce, Retain::No);
                    Packet::Pub(Pub { channel, data, is_literal: false, qos, retain, id }).encode(out);
                })?;
                shared.wake_for(outbound);
                asked
            };
            let _forget = Forget { shared, id };
            answered.await.unwrap_or(Err(Error::Closed))
        };
        let (status, data) = shared.within("the answer to a request", reply).await?;
        if status.is_ok() {
            Ok(Reply { data })
        } else {
            Err(Error::Refused { request: "request", status, reply: data })
        }
    }

    // ---- callbacks ---------------------------------------------------------------------------------

    /// Calls `callback` with every push that has no stream of its own; when it returns, a QoS 1 push is
    /// acknowledged. It runs on a task of its own, one push at a time, and must not block.
    ///
    /// If it panics, that is logged and told as [`Event::CallbackPanicked`], the push is not acknowledged, and the next one
    /// is handed over.
    pub fn on_push(&self, mut callback: impl FnMut(Push) + Send + 'static) {
        let mut pushes = self.pushes();
        let shared = Arc::clone(self.shared());
        // Ends with the client.
        tokio::spawn(async move {
            while !pushes.is_over() {
                while let Some(push) = pushes.next().await {
                    if !call(&shared, "on_push", || callback(push)) {
                        pushes.give_back();
                    }
                }
                shared.while_parked().await;
            }
        });
    }

    /// Calls `callback` whenever a session ends, with the reason.
    pub fn on_disconnect(&self, mut callback: impl FnMut(DisconnectReason) + Send + 'static) {
        let mut events = self.events();
        let shared = Arc::clone(self.shared());
        // Ends with the client.
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                if let Event::Disconnected { reason } = event {
                    call(&shared, "on_disconnect", || callback(reason));
                }
            }
        });
    }
}

/// `false` if the callback panicked. What it works on is its own: nothing of ours can be left half done.
fn call(shared: &Shared, name: &'static str, callback: impl FnOnce()) -> bool {
    let is_done = catch_unwind(AssertUnwindSafe(callback)).is_ok();
    if !is_done {
        tracing::error!(callback = name, "A callback panicked; it will be called again for the next event");
        shared.emit(Event::CallbackPanicked { callback: name });
    }
    is_done
}

/// Takes back that somebody waits for an answer.
struct Forget<'s> {
    shared: &'s Shared,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.shared.outbound().forget_request(self.id);
    }
}

fn check_channel(message: &Publish) -> Result<(), Error> {
    if message.channel.kind() == ChannelKind::Control {
        let because = "it is a control channel, which is asked with `request`";
        return Err(Error::WrongChannel { request: "publish", because });
    }
    Ok(())
}

fn check_plain(channel: &ChannelName, request: &'static str) -> Result<(), Error> {
    let because = match channel.kind() {
        ChannelKind::Plain => return Ok(()),
        ChannelKind::Control => "it is a control channel, which is asked with `request`",
        ChannelKind::PeerToPeer => "it is a point-to-point channel, which the server subscribes clients to",
    };
    Err(Error::WrongChannel { request, because })
}
