//! What handles, streams and the client's task have in common.
//!
//! Locks are held for moments and never across an await. Order: routes, then outbound; an inbox's own lock comes
//! last, and nothing is locked while it is held.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use jmqt_protocol::{AuthToken, ClientId};
use tokio::sync::{Notify, broadcast, watch};

use crate::event::{EVENTS_KEPT, Event};
use crate::inbox::Inbox;
use crate::outbound::{Offer, Outbound, Phase};
use crate::push::{Fate, Settled};
use crate::routes::{Routes, Target};
use crate::{Config, DisconnectReason, Error, Publish, Push, Receipt};

/// How far the client is, for those who wait for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    Offline,
    Online(ClientId),
    /// The server ended the connection for good.
    Parked,
    Closed,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    outbound: Mutex<Outbound>,
    routes: Mutex<Routes>,
    /// Pushes of channels that have no stream of their own.
    pub(crate) everything: Arc<Inbox>,
    /// Wakes the client's task: there is something to send, or it is to end.
    pub(crate) wake: Notify,
    /// Wakes publishers: there may be room.
    room: Notify,
    /// Ends the connection to fetch what was left with the server.
    pub(crate) refetch: Notify,
    /// The application wants the client to end.
    pub(crate) closing: Notify,
    /// The application wants a connection that works, now.
    pub(crate) reconnect: Notify,
    /// Wakes tasks that wait for acknowledgements, heartbeats or readers.
    pub(crate) progress: Notify,
    /// Which publisher this client is (`pi`, protocol.md 2.23).
    pub(crate) publisher: Box<str>,
    pub(crate) state: watch::Sender<State>,
    events: Mutex<Option<broadcast::Sender<Event>>>,
    token: Mutex<Option<(ClientId, AuthToken)>>,
    /// QoS 0 pushes that were dropped by streams that are gone.
    pub(crate) dropped_pushes: AtomicU64,
}

impl Shared {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            everything: Arc::new(Inbox::new(config.stream_bytes)),
            outbound: Mutex::new(Outbound::new()),
            routes: Mutex::default(),
            wake: Notify::new(),
            room: Notify::new(),
            refetch: Notify::new(),
            closing: Notify::new(),
            reconnect: Notify::new(),
            progress: Notify::new(),
            publisher: random_name(),
            state: watch::Sender::new(State::Offline),
            events: Mutex::new(Some(broadcast::Sender::new(EVENTS_KEPT))),
            token: Mutex::new(config.token.clone()),
            dropped_pushes: AtomicU64::new(0),
            config,
        }
    }

    pub(crate) fn outbound(&self) -> MutexGuard<'_, Outbound> {
        self.outbound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn routes(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn token(&self) -> Option<(ClientId, AuthToken)> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_token(&self, token: Option<(ClientId, AuthToken)>) {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = token;
    }

    // ---- publishing --------------------------------------------------------------------------------

    /// Queues a message, or says that there is no room.
    pub(crate) fn offer(&self, publish: &Publish) -> Result<Offer, Error> {
        let (offer, wake) = {
            let mut outbound = self.outbound();
            let offer = outbound.offer(publish, &self.config)?;
            let wake = outbound.phase() == Phase::Online && outbound.tell();
            (offer, wake)
        };
        if wake {
            self.wake.notify_one();
        }
        Ok(offer)
    }

    /// Queues a message, waiting for room within the limit.
    pub(crate) async fn queue(&self, publish: &Publish) -> Result<Receipt, Error> {
        if let Offer::Taken(receipt) = self.offer(publish)? {
            return Ok(receipt);
        }
        let limit = self.config.publish_timeout;
        let queued = async {
            loop {
                let room = self.room.notified();
                tokio::pin!(room);
                room.as_mut().enable(); // before the look, so that no news of room is missed
                if let Offer::Taken(receipt) = self.offer(publish)? {
                    return Ok(receipt);
                }
                room.await;
            }
        };
        let timeout = Error::Timeout { what: "room in the queue", limit };
        tokio::time::timeout(limit, queued).await.unwrap_or(Err(timeout))
    }

    /// Publishers that wait for room look again.
    pub(crate) fn tell_of_room(&self) {
        self.room.notify_waiters();
    }

    /// Has the task send what was added to the control lane.
    pub(crate) fn wake_for(&self, mut outbound: MutexGuard<'_, Outbound>) {
        let wake = outbound.tell();
        drop(outbound);
        if wake {
            self.wake.notify_one();
        }
    }

    // ---- pushes ------------------------------------------------------------------------------------

    /// The application has taken this push (§9.a).
    pub(crate) fn acknowledge(&self, push: &Push) {
        self.settle(push, Settled::Taken);
    }

    /// A stream is done with this push.
    pub(crate) fn settle(&self, push: &Push, settled: Settled) {
        let Some(id) = push.id() else { return };
        match push.settle(settled) {
            Fate::Acknowledge => {}
            Fate::Forget => return self.routes().forget(push.channel(), id),
            Fate::Wait => return,
        }
        if !self.routes().acknowledge(push.channel(), id) {
            return;
        }
        let mut outbound = self.outbound();
        outbound.acknowledge(id);
        self.wake_for(outbound);
    }

    /// The application has not taken these: when they come again they are new.
    pub(crate) fn forget(&self, pushes: &[Push]) {
        for push in pushes {
            self.settle(push, Settled::Refused);
        }
    }

    /// A channel or a filter has got a stream of its own: what waits of it for all, because it came before, is handed over to
    /// that stream. The caller holds the routes, so that nothing comes in between.
    pub(crate) fn hand_over(&self, target: &Target, stream: &Inbox, routes: &mut Routes) {
        let (mut waiting, was_refused) =
            self.everything.take_where(|push: &Push| target.includes(push.channel()));
        let is_moved = !waiting.is_empty();
        for push in stream.offer(&mut waiting).into_iter().flatten() {
            if let Some(id) = push.id()
                && push.settle(Settled::Refused) == Fate::Forget
            {
                routes.forget(push.channel(), id);
            }
        }
        if was_refused {
            stream.inherit_overflow();
            // Else it is fetched when what was handed over has been read.
            if !is_moved {
                self.refetch.notify_one();
            }
        }
    }

    /// Adds pushes of a channel without a stream. Returns those that do not fit.
    pub(crate) fn leave_to_others(&self, pushes: &mut Vec<Push>) -> Vec<Push> {
        self.everything.offer(pushes).unwrap_or_default()
    }

    // ---- events ------------------------------------------------------------------------------------

    pub(crate) fn emit(&self, event: Event) {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(events) = &*events {
            // Nobody may be listening.
            let _ = events.send(event);
        }
    }

    pub(crate) fn events(&self) -> broadcast::Receiver<Event> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        match &*events {
            Some(events) => events.subscribe(),
            // Of a client that has ended: a channel whose sender is gone.
            None => broadcast::channel(1).1,
        }
    }

    // ---- the end -----------------------------------------------------------------------------------

    /// Asks the task to end in order.
    pub(crate) fn begin_closing(&self) {
        self.outbound().begin_closing();
        self.closing.notify_one();
        self.wake.notify_one();
        self.tell_of_room();
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.outbound().is_closing()
    }

    /// The server ended the connection for good: everyone who waits is told.
    pub(crate) fn park(&self, reason: DisconnectReason) {
        let error = Error::Disconnected(reason);
        {
            let mut routes = self.routes();
            self.outbound().park(&error);
            routes.fail_requests(&error);
        }
        // Before the streams stop: readers of ended streams look at it.
        self.state.send_replace(State::Parked);
        self.everything.stop();
        self.routes().streams().for_each(Inbox::stop);
        self.tell_of_room();
        self.progress.notify_waiters();
    }

    pub(crate) fn unpark(&self) {
        self.outbound().unpark();
        self.everything.go_on();
        self.routes().streams().for_each(Inbox::go_on);
        self.state.send_replace(State::Offline);
    }

    /// Waits until a look says that it is done. It looks after every acknowledgement, and when a session or a stream ends.
    pub(crate) async fn until<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        loop {
            let progress = self.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable(); // before the look, so that no news is missed
            if let Some(done) = look() {
                return done;
            }
            progress.await;
        }
    }

    /// The client has ended: everyone who waits is told.
    pub(crate) fn close(&self) {
        {
            let mut routes = self.routes();
            self.outbound().close();
            routes.close();
        }
        self.everything.end();
        self.emit(Event::Closed);
        self.events.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.state.send_replace(State::Closed);
        self.tell_of_room();
        self.progress.notify_waiters();
    }

    /// Waits while the server has ended the connection for good.
    pub(crate) async fn while_parked(&self) {
        // The sender lives as long as we do.
        let _ = self.state.subscribe().wait_for(|state| *state != State::Parked).await;
    }

    /// Waits until there is a session, within the time of a request.
    pub(crate) async fn online(&self) -> Result<ClientId, Error> {
        let mut state = self.state.subscribe();
        let online = async {
            loop {
                match &*state.borrow_and_update() {
                    State::Online(client) => return Ok(client.clone()),
                    State::Closed | State::Parked => self.outbound().check_open()?,
                    State::Offline => {}
                }
                if state.changed().await.is_err() {
                    return Err(Error::Closed);
                }
            }
        };
        self.within("a connection", online).await
    }

    /// Gives something the time of a request.
    pub(crate) async fn within<T>(
        &self,
        what: &'static str,
        future: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let limit = self.config.request_timeout;
        tokio::time::timeout(limit, future).await.unwrap_or(Err(Error::Timeout { what, limit }))
    }

    /// How long between looks for publishes that have waited too long.
    pub(crate) fn expiry_interval(&self) -> Duration {
        (self.config.publish_timeout / 10).clamp(Duration::from_millis(20), Duration::from_secs(5))
    }

    pub(crate) fn count_dropped_pushes(&self, dropped: u64) {
        self.dropped_pushes.fetch_add(dropped, Ordering::Relaxed);
    }
}

/// Takes back that somebody notified.
pub(crate) async fn forget(notify: &Notify) {
    tokio::select! {
        biased;
        () = notify.notified() => {}
        () = std::future::ready(()) => {}
    }
}

/// 128 random bits, as hexadecimal digits.
fn random_name() -> Box<str> {
    let mut bits = [0; 16];
    if getrandom::fill(&mut bits).is_err() {
        // Without randomness from the system: as different as an address and the time can make it.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let place = std::ptr::from_ref(&bits).addr() as u64;
        bits =
            ((now.as_nanos() << 16) ^ u128::from(place ^ u64::from(std::process::id()) << 32)).to_be_bytes();
    }
    format!("{:032x}", u128::from_be_bytes(bits)).into()
}
