//! The journal of a load: what its clients sent and received.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jmqt_mqtt::Qos;
use serde::Deserialize;

use crate::mqtt_kind::Kind;
use crate::notices::now;

/// A message: its publisher's number, and its own, from 0 on.
pub type Message = (u32, u32);

/// The name of a channel.
#[must_use]
pub fn channel_name(channel: u32) -> String {
    format!("c/{channel}")
}

/// The data of a message.
#[must_use]
pub fn payload(publisher: u32, n: u32) -> String {
    format!(r#"{{"p":{publisher},"n":{n}}}"#)
}

/// The message with this data.
#[must_use]
pub fn message_of(data: &[u8]) -> Option<Message> {
    #[derive(Deserialize)]
    struct Data {
        p: u32,
        n: u32,
    }
    serde_json::from_slice(data).ok().map(|Data { p, n }| (p, n))
}

/// What became of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sent {
    /// The channel's number.
    pub channel: u32,
    /// How often it was published.
    pub attempts: u32,
    /// How often the answer was another status than 1.
    pub refusals: u32,
    /// Status 1 was received.
    pub is_acked: bool,
}

/// The messages of one publisher, by number.
#[derive(Debug, Clone, Default)]
pub struct PublisherLog {
    /// Its client id.
    pub name: String,
    /// What it is, if it speaks MQTT.
    pub mqtt: Option<Kind>,
    /// What it has published.
    pub messages: Vec<Sent>,
    /// How many were acknowledged.
    pub acked: usize,
    /// Its messages are wills; of each, the client's end of the connection. A will is acknowledged if the client has seen that the
    /// server ended the connection after the client did.
    pub wills: Option<Vec<SocketAddr>>,
}

impl PublisherLog {
    /// The QoS that it publishes with.
    #[must_use]
    pub fn qos(&self) -> Qos {
        self.mqtt.map_or(Qos::AtLeastOnce, |kind| kind.qos)
    }

    /// Whether a message that it publishes again is stored once: JMQT clients say who publishes (protocol.md 2.23).
    #[must_use]
    pub fn is_stored_once(&self) -> bool {
        self.mqtt.is_none_or(|kind| kind.qos == Qos::ExactlyOnce)
    }
}

/// What one subscriber has received.
#[derive(Debug, Clone, Default)]
pub struct SubscriberLog {
    /// Its client id.
    pub name: String,
    /// What it is, if it speaks MQTT.
    pub mqtt: Option<Kind>,
    /// It is a group with a shared subscription, whose members take the messages in turn.
    pub is_group: bool,
    /// Messages in the order of their first receipt.
    pub firsts: Vec<Message>,
    /// The push ids that each message came under, as hashes.
    pub ids: HashMap<Message, Vec<u64>>,
    /// Receipts that were not the first of their message.
    pub repeats: usize,
    message_of_id: HashMap<u64, Message>,
    /// The ids of this connection.
    in_connection: HashSet<u64>,
    /// The messages of this connection, if it speaks MQTT.
    messages_in_connection: HashSet<Message>,
}

/// One `conn`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionLog {
    /// The client.
    pub client: String,
    /// The client's end of the connection.
    pub local: SocketAddr,
    /// When the `connAck` came, if it did, in microseconds of the system's clock.
    pub opened: Option<u64>,
    /// When the connection ended.
    pub ended: Option<u64>,
}

/// Everything.
#[derive(Debug)]
pub struct Journal {
    publishers: Vec<Mutex<PublisherLog>>,
    subscribers: Vec<Mutex<SubscriberLog>>,
    sessions: Mutex<Vec<SessionLog>>,
    problems: Mutex<Vec<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is wrong a thousand times is not told a thousand times.
const PROBLEMS: usize = 200;

impl Journal {
    /// For this many publishers, `p0` and so on, and subscribers, `s0` and so on, and behind each of them this many that
    /// speak MQTT.
    #[must_use]
    pub fn new(publishers: u32, subscribers: u32, mqtt: u32) -> Self {
        Self::with_wills_and_groups(publishers, subscribers, mqtt, 0, 0)
    }

    /// In addition, behind the publishers this many clients with wills, and behind the subscribers this many groups.
    #[must_use]
    pub fn with_wills_and_groups(
        publishers: u32,
        subscribers: u32,
        mqtt: u32,
        wills: u32,
        groups: u32,
    ) -> Self {
        let kind = |number: u32, jmqt: u32| number.checked_sub(jmqt).map(Kind::of);
        let publisher = |number| {
            let (name, mqtt) = (format!("p{number}"), kind(number, publishers));
            Mutex::new(PublisherLog { name, mqtt, ..PublisherLog::default() })
        };
        let subscriber = |number| {
            let (name, mqtt) = (format!("s{number}"), kind(number, subscribers));
            Mutex::new(SubscriberLog { name, mqtt, ..SubscriberLog::default() })
        };
        let mourned = |number| {
            let name = format!("p{}", publishers + mqtt + number);
            Mutex::new(PublisherLog { name, wills: Some(Vec::new()), ..PublisherLog::default() })
        };
        let group = |number| {
            let (name, mqtt) = (format!("g{number}"), Some(Kind::IN_GROUP));
            Mutex::new(SubscriberLog { name, mqtt, is_group: true, ..SubscriberLog::default() })
        };
        Self {
            publishers: (0..publishers + mqtt).map(publisher).chain((0..wills).map(mourned)).collect(),
            subscribers: (0..subscribers + mqtt).map(subscriber).chain((0..groups).map(group)).collect(),
            sessions: Mutex::default(),
            problems: Mutex::default(),
        }
    }

    /// A publisher's notes.
    pub fn publisher(&self, number: u32) -> MutexGuard<'_, PublisherLog> {
        lock(&self.publishers[number as usize])
    }

    /// A subscriber's notes.
    pub fn subscriber(&self, number: u32) -> MutexGuard<'_, SubscriberLog> {
        lock(&self.subscribers[number as usize])
    }

    /// How many publishers and subscribers there are.
    #[must_use]
    pub fn clients(&self) -> (u32, u32) {
        let count = |length: usize| u32::try_from(length).unwrap();
        (count(self.publishers.len()), count(self.subscribers.len()))
    }

    /// All sessions so far.
    pub fn sessions(&self) -> MutexGuard<'_, Vec<SessionLog>> {
        lock(&self.sessions)
    }

    /// Notes what should not have happened.
    pub fn problem(&self, problem: String) {
        let mut problems = lock(&self.problems);
        if problems.len() < PROBLEMS {
            problems.push(problem);
        }
    }

    /// What should not have happened, so far.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        lock(&self.problems).clone()
    }

    /// A `conn` is about to be sent; returns its number.
    pub fn conn_sent(&self, client: &str, local: SocketAddr) -> usize {
        let mut sessions = self.sessions();
        sessions.push(SessionLog { client: client.to_owned(), local, opened: None, ended: None });
        sessions.len() - 1
    }

    /// Its `connAck` came, with status 1.
    pub fn session_opened(&self, number: usize) {
        self.sessions()[number].opened = Some(now());
    }

    /// Its connection has ended.
    pub fn session_ended(&self, number: usize) {
        self.sessions()[number].ended.get_or_insert_with(now);
    }

    /// A push was received.
    pub fn received(&self, subscriber: u32, message: Message, id: &str) {
        let mut hasher = DefaultHasher::new();
        id.hash(&mut hasher);
        let id = hasher.finish();
        let mut log = self.subscriber(subscriber);
        let name = log.name.clone();
        if !log.in_connection.insert(id) {
            self.problem(format!("{name} received a push id of {message:?} twice in one connection"));
        }
        if *log.message_of_id.entry(id).or_insert(message) != message {
            self.problem(format!("{name} received two messages under one push id, one of them {message:?}"));
        }
        let ids = log.ids.entry(message).or_default();
        let is_first = ids.is_empty();
        if !ids.contains(&id) {
            ids.push(id);
        }
        if is_first {
            log.firsts.push(message);
        } else {
            log.repeats += 1;
        }
    }

    /// An MQTT client has received a message, which is not a repeated one of QoS 2.
    pub fn received_by_mqtt(&self, subscriber: u32, message: Message) {
        let (published, is_stored_once) = {
            let log = self.publisher(message.0);
            (log.qos(), log.is_stored_once())
        };
        let mut log = self.subscriber(subscriber);
        let is_repeated_here = !log.messages_in_connection.insert(message);
        if log.ids.insert(message, Vec::new()).is_none() {
            log.firsts.push(message);
            return;
        }
        log.repeats += 1;
        if log.is_group {
            return; // two nodes may have served it at the same time, and a member has not acknowledged it
        }
        let subscribed = log.mqtt.map_or(Qos::AtLeastOnce, |kind| kind.qos);
        if published.min(subscribed) == Qos::ExactlyOnce {
            self.problem(format!("{} received {message:?} twice, with QoS 2", log.name));
        } else if is_repeated_here && is_stored_once {
            self.problem(format!("{} received {message:?} twice in one connection", log.name));
        }
    }

    /// A subscriber has a new connection.
    pub fn connected_again(&self, subscriber: u32) {
        let mut log = self.subscriber(subscriber);
        log.in_connection.clear();
        log.messages_in_connection.clear();
    }

    /// How many messages were acknowledged to their publishers.
    #[must_use]
    pub fn acked(&self) -> usize {
        self.publishers.iter().map(|log| lock(log).acked).sum()
    }

    /// How many messages the subscribers have received, each counted once.
    #[must_use]
    pub fn received_once(&self) -> usize {
        self.subscribers.iter().map(|log| lock(log).firsts.len()).sum()
    }

    /// How many acknowledged messages the slowest subscriber has not received, about: others may count, too.
    #[must_use]
    pub fn behind(&self) -> usize {
        let slowest = self.subscribers.iter().map(|log| lock(log).firsts.len()).min();
        self.acked().saturating_sub(slowest.unwrap_or(usize::MAX))
    }

    /// The acknowledged messages that a subscriber has not received.
    #[must_use]
    pub fn missing(&self, subscriber: u32) -> Vec<Message> {
        let log = self.subscriber(subscriber);
        let mut missing = Vec::new();
        for (publisher, sent) in (0..).zip(&self.publishers) {
            for (number, sent) in (0..).zip(&lock(sent).messages) {
                if sent.is_acked && !log.ids.contains_key(&(publisher, number)) {
                    missing.push((publisher, number));
                }
            }
        }
        missing
    }
}
