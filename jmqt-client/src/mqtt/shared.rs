//! What handles, streams and the client's task have in common. The lock is held for moments and never across an await.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jmqt_mqtt::{Packet, Qos};
use tokio::sync::{Notify, broadcast, watch};

use super::event::{EVENTS_KEPT, Event};
use super::message::Delivery;
use super::outbound::{Offer, Outbound, Phase};
use super::received::{Answer, Received};
use super::routes::Routes;
use super::{Error, Information, Message, Options, Publish, Receipt};
use crate::inbox::Inbox;

/// How far the client is, for those who wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Offline,
    Online,
    Stopped,
    Closed,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) outbound: Outbound,
    pub(crate) received: Received,
    pub(crate) routes: Routes,
    pub(crate) information: Option<Information>,
}

impl Inner {
    pub(crate) fn answer(&mut self, answers: Vec<Answer>) {
        for answer in answers {
            match answer {
                Answer::PubAck(id) => {
                    self.outbound.send_ack(Packet::PubAck, id, jmqt_mqtt::ReasonCode::SUCCESS)
                }
                Answer::PubRec(id) => {
                    self.outbound.send_ack(Packet::PubRec, id, jmqt_mqtt::ReasonCode::SUCCESS)
                }
            }
        }
    }
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) options: Options,
    inner: Mutex<Inner>,
    /// Messages that have no stream of their own.
    pub(crate) everything: Arc<Inbox<Message>>,
    pub(crate) wake: Notify,
    room: Notify,
    pub(crate) closing: Notify,
    pub(crate) reconnect: Notify,
    pub(crate) status: watch::Sender<Status>,
    events: Mutex<Option<broadcast::Sender<Event>>>,
}

impl Shared {
    pub(crate) fn new(options: Options) -> Self {
        let inner = Inner {
            outbound: Outbound::new(options.version),
            received: Received::default(),
            routes: Routes::default(),
            information: None,
        };
        Self {
            inner: Mutex::new(inner),
            everything: Arc::new(Inbox::taking_all_acknowledged(options.stream_bytes)),
            wake: Notify::new(),
            room: Notify::new(),
            closing: Notify::new(),
            reconnect: Notify::new(),
            status: watch::Sender::new(Status::Offline),
            events: Mutex::new(Some(broadcast::Sender::new(EVENTS_KEPT))),
            options,
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the task send what was added.
    pub(crate) fn wake_for(&self, mut inner: MutexGuard<'_, Inner>) {
        if inner.outbound.tell() {
            drop(inner);
            self.wake.notify_one();
        }
    }

    pub(crate) fn offer(&self, publish: &Publish) -> Result<Offer, Error> {
        let mut inner = self.lock();
        let offer = inner.outbound.offer(publish, &self.options)?;
        if inner.outbound.phase() == Phase::Online {
            self.wake_for(inner);
        }
        Ok(offer)
    }

    /// Queues a message, waiting for room within the limit.
    pub(crate) async fn queue(&self, publish: &Publish) -> Result<Receipt, Error> {
        let limit = self.options.publish_timeout;
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

    pub(crate) fn tell_of_room(&self) {
        self.room.notify_waiters();
    }

    /// A stream has taken a message, or will not.
    pub(crate) fn taken(&self, delivery: &Delivery) {
        if !delivery.take() {
            return;
        }
        let mut inner = self.lock();
        let mut answers = Vec::new();
        inner.received.taken(delivery.qos, delivery.serial, &mut answers);
        inner.answer(answers);
        self.wake_for(inner);
    }

    pub(crate) fn all_taken(&self, messages: &[Message]) {
        messages.iter().filter_map(Message::delivery).for_each(|delivery| self.taken(delivery));
    }

    /// Whether the socket is not read, because the application has too much to take.
    pub(crate) fn holds(&self) -> bool {
        let (waiting, bytes) = self.lock().received.waiting();
        // A server of MQTT 5 knows the limit, and sends other packets at it.
        let most =
            usize::from(self.options.receive_maximum) + usize::from(self.options.version.has_properties());
        waiting >= most || bytes > self.options.stream_bytes.saturating_add(self.options.max_packet_bytes)
    }

    pub(crate) fn emit(&self, event: Event) {
        if let Some(events) = &*self.events.lock().unwrap_or_else(PoisonError::into_inner) {
            // Nobody may be listening.
            let _ = events.send(event);
        }
    }

    pub(crate) fn events(&self) -> broadcast::Receiver<Event> {
        match &*self.events.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(events) => events.subscribe(),
            None => broadcast::channel(1).1,
        }
    }

    pub(crate) fn begin_closing(&self) {
        self.lock().outbound.begin_closing();
        self.closing.notify_one();
        self.wake.notify_one();
        self.tell_of_room();
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.lock().outbound.is_closing()
    }

    /// The client stops until the application wants another connection.
    pub(crate) fn stop(&self, error: &Error) {
        let mut inner = self.lock();
        inner.outbound.stop(error);
        inner.routes.fail(error);
        inner.routes.inboxes().for_each(Inbox::stop);
        drop(inner);
        self.everything.stop();
        self.status.send_replace(Status::Stopped);
        self.tell_of_room();
    }

    pub(crate) fn go_on(&self) {
        let mut inner = self.lock();
        inner.outbound.go_on();
        inner.routes.inboxes().for_each(Inbox::go_on);
        drop(inner);
        self.everything.go_on();
        self.status.send_replace(Status::Offline);
    }

    /// The client has ended: everyone who waits is told.
    pub(crate) fn close(&self) {
        let mut inner = self.lock();
        inner.outbound.close();
        let error = inner.outbound.check_open().err().unwrap_or(Error::Closed);
        inner.routes.fail(&error);
        inner.routes.inboxes().for_each(Inbox::end);
        drop(inner);
        self.everything.end();
        self.emit(Event::Closed);
        self.events.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.status.send_replace(Status::Closed);
        self.tell_of_room();
    }

    /// Hands a message to the streams it is for.
    pub(crate) fn deliver(&self, message: &Message, packet: &jmqt_mqtt::Publish<'_>) {
        let mut inner = self.lock();
        let (qos, mut answers) = (message.qos(), Vec::new());
        let serial = match packet.delivery.id() {
            None => None,
            Some(id) => {
                let cost = crate::inbox::Waiting::cost(message);
                match inner.received.arrive(qos, (id, packet.delivery.dup()), cost, &mut answers) {
                    super::received::Arrival::New(serial) => Some(serial),
                    super::received::Arrival::Known => {
                        inner.answer(answers);
                        return;
                    }
                }
            }
        };
        let mut streams = inner.routes.targets(packet);
        if streams.is_empty() {
            streams.push(Arc::clone(&self.everything));
        }
        // With the lock held: a stream that begins meanwhile takes over what came before, and misses nothing.
        let takes =
            |inbox: &Arc<Inbox<Message>>| inbox.offer(&mut vec![message.for_stream(serial)]).is_some();
        let taken = streams.iter().filter(|inbox| takes(inbox)).count();
        if let Some(serial) = serial {
            debug_assert!(qos != Qos::AtMostOnce);
            inner.received.delivered(qos, serial, taken, &mut answers);
            inner.answer(answers);
        }
    }
}
