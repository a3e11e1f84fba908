//! What handles, streams and the client's task have in common. The lock is held for moments and never across an await.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jmqt_mqtt::{Packet, Qos};
use tokio::sync::{Notify, broadcast, oneshot, watch};

use super::event::{EVENTS_KEPT, Event};
use super::message::Delivery;
use super::outbound::{Offer, Outbound, Phase};
use super::received::{Answer, Received};
use super::routes::Routes;
use super::unclaimed::Unclaimed;
use super::untaken::Untaken;
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
    pub(crate) unclaimed: Unclaimed,
    untaken: Untaken,
    /// Those who want to authenticate again, until that begins.
    pub(super) reauthenticate: Vec<super::authentication::Done>,
    pub(crate) information: Option<Information>,
}

impl Inner {
    /// No stream wants it: it counts as taken.
    fn drop_unclaimed(&mut self, message: &Message) {
        self.unclaimed.count();
        let Some(delivery) = message.delivery().filter(|delivery| delivery.take()) else { return };
        let mut answers = Vec::new();
        self.received.taken(delivery.qos, delivery.serial, &mut answers);
        self.answer(answers);
    }

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
            unclaimed: Unclaimed::default(),
            untaken: Untaken::default(),
            reauthenticate: Vec::new(),
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

    /// Authenticates within the session, or with a new connection.
    pub(crate) async fn reauthenticate(&self) -> Result<(), Error> {
        if self.options.authentication.is_none() {
            let advice = "give Options::authenticate a method";
            return Err(Error::NotAvailable { what: "method to authenticate with", advice });
        }
        let mut status = self.status.subscribe();
        let answered = {
            let mut inner = self.lock();
            inner.outbound.check_open()?;
            let is_online = *status.borrow_and_update() == Status::Online;
            is_online.then(|| {
                let (done, answered) = oneshot::channel();
                inner.reauthenticate.push(done);
                answered
            })
        };
        self.wake.notify_one();
        // The sender lives as long as we do.
        if let Some(answered) = answered {
            if let Ok(outcome) = answered.await {
                return outcome;
            }
            // The connection was lost: the next one authenticates.
            let _ = status.changed().await;
        }
        let _ = status.wait_for(|status| *status != Status::Offline).await;
        self.lock().outbound.check_open()
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

    /// Looks after messages that nobody takes, from time to time.
    pub(crate) fn look_at_clock(&self) {
        let mut inner = self.lock();
        inner.outbound.expire(&self.options);
        let due = inner.unclaimed.due(self.everything.arrived());
        for message in due.map(|place| self.everything.take_until(place)).unwrap_or_default() {
            inner.drop_unclaimed(&message);
        }
        let untold = inner.unclaimed.tell();
        let Inner { untaken, received, routes, unclaimed, .. } = &mut *inner;
        let is_unread = |serial| {
            let is_it = |message: &Message| message.delivery().is_some_and(|known| known.serial == serial);
            routes.inboxes().any(|inbox| inbox.has(is_it))
                || unclaimed.is_read() && self.everything.has(is_it)
        };
        let neglected = untaken.look(received.oldest(), is_unread);
        self.wake_for(inner);
        if let Some(count) = untold {
            tracing::warn!(
                count,
                "Messages that no stream is for were dropped: read Client::messages, or end the subscriptions"
            );
        }
        if let Some(topic) = neglected {
            tracing::warn!(topic, "A message is not taken from its stream: messages after it have to wait");
            self.emit(Event::NotTaken { topic });
        }
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

    /// A connection begins.
    pub(crate) fn begin(&self, information: &Information) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        inner.information = Some(information.clone());
        inner.received.begin(information.session_present);
        inner.unclaimed.session();
        if !information.session_present {
            // What was not taken is limited like QoS 0 now, or it would grow with each session that is lost.
            inner.routes.inboxes().chain([&*self.everything]).for_each(Inbox::forget_acknowledgements);
        }
        inner.outbound.begin(information);
        inner.routes.resume(&mut inner.outbound, information);
    }

    /// Hands a message to the streams it is for.
    pub(crate) fn deliver(&self, message: &Message, packet: &jmqt_mqtt::Publish<'_>) {
        let mut inner = self.lock();
        let (qos, mut answers) = (message.qos(), Vec::new());
        let serial = match packet.delivery.id() {
            None => None,
            Some(id) => {
                let cost = crate::inbox::Waiting::cost(message);
                let what = (message.shared_topic(), cost);
                match inner.received.arrive(qos, (id, packet.delivery.dup()), what, &mut answers) {
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
        let is_dropped_later = inner.unclaimed.is_acknowledged();
        let takes = |inbox: &Arc<Inbox<Message>>| {
            let serial = serial.filter(|_| !is_dropped_later || !Arc::ptr_eq(inbox, &self.everything));
            inbox.offer(&mut vec![message.for_stream(serial)]).is_some() && serial.is_some()
        };
        let taken = streams.iter().filter(|inbox| takes(inbox)).count();
        if let Some(serial) = serial {
            debug_assert!(qos != Qos::AtMostOnce);
            inner.received.delivered(qos, serial, taken, &mut answers);
            inner.answer(answers);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jmqt_mqtt::{Delivery, PacketId, Properties};
    use tokio::time::advance;

    use super::*;
    use crate::mqtt::{Messages, Subscription};

    fn shared() -> Arc<Shared> {
        let shared = Shared::new(Options::default());
        shared.begin(&Information::of_test());
        Arc::new(shared)
    }

    fn arrive(shared: &Shared, number: u16) {
        let delivery = Delivery::AtLeastOnce { id: PacketId::new(number).unwrap(), dup: false };
        let properties = Properties::EMPTY;
        let packet = jmqt_mqtt::Publish { delivery, retain: false, topic: "a", properties, payload: b"x" };
        shared.deliver(&Message::new("a".into(), &packet, None), &packet);
    }

    /// Packet ids of the PUBACKs that were sent since the last call.
    fn acknowledged(shared: &Shared) -> Vec<u16> {
        let mut sent = Vec::new();
        shared.lock().outbound.take(&mut sent);
        sent.chunks(4).map(|packet| u16::from_be_bytes([packet[2], packet[3]])).collect()
    }

    async fn next(messages: &mut Messages) -> Message {
        tokio::time::timeout(Duration::ZERO, messages.next()).await.unwrap().unwrap()
    }

    #[tokio::test(start_paused = true)] // [MQTT-4.5.0-2]
    async fn what_no_stream_is_for_waits_ten_seconds_for_one_and_is_acknowledged_then() {
        let shared = shared();
        arrive(&shared, 1);
        for look in [0, 5] {
            advance(Duration::from_secs(look)).await;
            shared.look_at_clock();
        }
        arrive(&shared, 2);
        assert!(acknowledged(&shared).is_empty());
        advance(Duration::from_secs(5)).await;
        shared.look_at_clock();
        assert_eq!(acknowledged(&shared), [1]);
        let mut messages = Messages::new(Arc::clone(&shared));
        advance(Duration::from_secs(3600)).await;
        shared.look_at_clock();
        assert!(acknowledged(&shared).is_empty());
        // A stream that took it and goes away has taken it.
        next(&mut messages).await;
        drop(messages);
        assert_eq!(acknowledged(&shared), [2]);
        assert_eq!(shared.lock().unclaimed.dropped(), 1);
    }

    #[tokio::test(start_paused = true)] // [MQTT-4.5.0-2]
    async fn ten_seconds_later_what_no_stream_is_for_is_acknowledged_at_once_and_still_waits() {
        let shared = shared();
        advance(Duration::from_secs(10)).await;
        shared.look_at_clock();
        arrive(&shared, 1);
        assert_eq!(acknowledged(&shared), [1]);
        let mut messages = Messages::new(Arc::clone(&shared));
        next(&mut messages).await;
        arrive(&shared, 2);
        assert!(acknowledged(&shared).is_empty());
        next(&mut messages).await;
        drop(messages);
        assert_eq!(acknowledged(&shared), [2]);
        arrive(&shared, 3);
        assert_eq!(acknowledged(&shared), [3]);
        for _ in 0..3 {
            shared.look_at_clock();
            advance(Duration::from_secs(5)).await;
        }
        assert_eq!(shared.lock().unclaimed.dropped(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_is_not_read_is_told_of_once_a_minute() {
        let shared = shared();
        let mut events = crate::mqtt::Events(shared.events());
        let messages = Messages::new(Arc::clone(&shared));
        arrive(&shared, 1);
        let mut told = 0;
        for _ in 0..30 {
            advance(Duration::from_secs(5)).await;
            shared.look_at_clock();
            while let Ok(Some(event)) = tokio::time::timeout(Duration::ZERO, events.next()).await {
                assert!(matches!(&event, Event::NotTaken { topic } if topic == "a"), "{event:?}");
                told += 1;
            }
        }
        assert_eq!(told, 2);
        drop(messages);
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_in_use_is_told_of_only_if_others_wait_for_it() {
        let shared = shared();
        let mut events = crate::mqtt::Events(shared.events());
        let mut messages = Messages::new(Arc::clone(&shared)).acknowledge_by_hand();
        (1..=3).for_each(|number| arrive(&shared, number));
        let _in_use = next(&mut messages).await;
        let done = next(&mut messages).await;
        let mut is_told = async || {
            for _ in 0..10 {
                advance(Duration::from_secs(5)).await;
                shared.look_at_clock();
            }
            tokio::time::timeout(Duration::ZERO, events.next()).await.is_ok()
        };
        assert!(!is_told().await);
        shared.taken(done.delivery().unwrap());
        assert!(is_told().await);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_unread_does_not_grow_with_each_session_that_the_server_loses() {
        let options = Options { stream_bytes: 10_000, ..Options::default() };
        let shared = Arc::new(Shared::new(options));
        let inbox = Arc::new(Inbox::taking_all_acknowledged(shared.options.stream_bytes));
        let stream = Subscription::new(Arc::clone(&shared), Arc::clone(&inbox), "a");
        for _ in 0..100 {
            let mut inner = shared.lock();
            let Inner { outbound, routes, .. } = &mut *inner;
            if !routes.has("a", &inbox) {
                let options = jmqt_mqtt::SubscribeOptions::of_qos(Qos::AtLeastOnce);
                drop(routes.subscribe("a", (options, Arc::clone(&inbox)), (outbound, None)).unwrap());
            }
            drop(inner);
            shared.begin(&Information::of_test());
            (1..=128).for_each(|number| arrive(&shared, number));
        }
        assert!(stream.dropped() > 90 * 128, "{}", stream.dropped());
    }
}
