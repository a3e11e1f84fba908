//! Nothing is ever delivered that the application refuses: random clients of both languages do random things under random
//! rules, and everything they receive is held against the rules.

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::support::{Client, Incoming};

/// How long the test tries new cases.
const TRIES_FOR: Duration = Duration::from_secs(8);
const CLIENTS: usize = 4;
const TOPICS: [&str; 5] = ["a", "a/b", "a/b/c", "b", "a//c"];
const FILTERS: [&str; 6] = ["+", "a/+", "a/#", "#", "+/b/#", "a//+"];

/// The language in which a client comes next, and how.
#[derive(Debug, Clone, Copy)]
enum Language {
    Jmqt,
    V3 { clean: bool },
    V5 { clean: bool },
}

#[derive(Debug, Clone)]
enum Step {
    /// Ends the connection, in order or not, and connects again; with a will to this topic.
    Comes {
        language: Language,
        in_order: bool,
        will: Option<(usize, bool)>,
    },
    Subscribes {
        topic: usize,
        qos: u8,
    },
    SubscribesToFilter {
        filter: usize,
        qos: u8,
    },
    SubscribesToShare {
        filter: usize,
        qos: u8,
    },
    Unsubscribes {
        topic: usize,
    },
    UnsubscribesFromFilter {
        filter: usize,
    },
    Publishes {
        topic: usize,
        qos: u8,
        retain: bool,
    },
    PublishesTo {
        client: usize,
    },
}

fn language() -> impl Strategy<Value = Language> {
    prop_oneof![
        Just(Language::Jmqt),
        any::<bool>().prop_map(|clean| Language::V3 { clean }),
        any::<bool>().prop_map(|clean| Language::V5 { clean }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let will = proptest::option::of((0..TOPICS.len(), any::<bool>()));
    prop_oneof![
        2 => (language(), any::<bool>(), will)
            .prop_map(|(language, in_order, will)| Step::Comes { language, in_order, will }),
        3 => (0..TOPICS.len(), 0..3_u8).prop_map(|(topic, qos)| Step::Subscribes { topic, qos }),
        2 => (0..FILTERS.len(), 0..3_u8).prop_map(|(filter, qos)| Step::SubscribesToFilter { filter, qos }),
        2 => (0..FILTERS.len(), 0..3_u8).prop_map(|(filter, qos)| Step::SubscribesToShare { filter, qos }),
        1 => (0..TOPICS.len()).prop_map(|topic| Step::Unsubscribes { topic }),
        1 => (0..FILTERS.len()).prop_map(|filter| Step::UnsubscribesFromFilter { filter }),
        6 => (0..TOPICS.len(), 0..3_u8, any::<bool>())
            .prop_map(|(topic, qos, retain)| Step::Publishes { topic, qos, retain }),
        1 => (0..CLIENTS).prop_map(|client| Step::PublishesTo { client }),
    ]
}

/// What the application allows, from a number.
fn allows(seed: u64, asked: Asked, client: &str, about: &str) -> bool {
    let mut hasher = DefaultHasher::new();
    (seed, asked, client, about).hash(&mut hasher);
    !hasher.finish().is_multiple_of(3)
}

/// Whether a filter matches a topic, in the simplest way.
fn matches(filter: &str, topic: &str) -> bool {
    let (mut levels, mut names) = (filter.split('/'), topic.split('/'));
    loop {
        match (levels.next(), names.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(level), Some(name)) if level == name => {}
            _ => return false,
        }
    }
}

/// What was published: where, by whom, and whether it was allowed.
struct Sent {
    channel: String,
    is_allowed: bool,
}

/// One case: the names of its clients and topics are its own.
struct Case {
    number: u64,
    seed: u64,
    sent: HashMap<String, Sent>,
    /// What a client was allowed to subscribe to, by client.
    granted: Vec<BTreeSet<String>>,
    delivered: u64,
    /// Of these, to JMQT clients by filters alone.
    delivered_by_wc: u64,
    refused: u64,
}

static NEXT: AtomicU64 = AtomicU64::new(0);

impl Case {
    fn client(&self, index: usize) -> String {
        format!("c{}-{index}", self.number)
    }

    fn topic(&self, topic: usize) -> String {
        format!("r{}/{}", self.number, TOPICS[topic])
    }

    fn filter(&self, filter: usize) -> String {
        match FILTERS[filter] {
            "#" => "#".to_owned(),
            other => format!("r{}/{other}", self.number),
        }
    }

    /// Notes that a client publishes, and returns the payload.
    fn publishes(&mut self, client: usize, channel: &str) -> String {
        let payload = format!("m{}-{}", self.number, self.sent.len());
        let is_allowed = allows(self.seed, Asked::Pub, &self.client(client), channel);
        self.refused += u64::from(!is_allowed);
        self.sent.insert(payload.clone(), Sent { channel: channel.to_owned(), is_allowed });
        payload
    }

    fn subscribes(&mut self, client: usize, filter: &str) {
        if allows(self.seed, Asked::Sub, &self.client(client), filter) {
            self.granted[client].insert(filter.to_owned());
        } else {
            self.refused += 1;
        }
    }

    /// A client has received this.
    fn receives(&mut self, client: usize, channel: &str, payload: &str) {
        if channel == "settle" {
            return;
        }
        // Other cases have published what `#` brings as retained messages.
        if !channel.contains(&format!("r{}/", self.number)) && !channel.contains(&self.client(client)) {
            assert!(payload.starts_with('m') && self.granted[client].contains("#"), "{channel}: {payload}");
            return;
        }
        let name = self.client(client);
        let sent = self.sent.get(payload).unwrap_or_else(|| panic!("{name} received {payload:?}"));
        assert_eq!(channel, sent.channel, "{name}: {payload}");
        assert!(sent.is_allowed, "{name} received {payload} on {channel}, which was refused");
        let own = format!("#{name}");
        let has_asked = channel == own || self.granted[client].iter().any(|filter| matches(filter, channel));
        assert!(has_asked, "{name} received {channel}, which it may not subscribe to");
        self.delivered += 1;
    }
}

/// A connected client.
enum Member {
    Jmqt(Box<Client>),
    Mqtt(Device),
}

impl Member {
    async fn connect(
        server: &TestServer,
        case: &mut Case,
        index: usize,
        language: Language,
        will: Option<(usize, bool)>,
    ) -> Option<Self> {
        let name = case.client(index);
        let (version, clean) = match language {
            Language::Jmqt => return Some(Self::Jmqt(Box::new(server.connect(&name).await))),
            Language::V3 { clean } => (Version::V3_1_1, clean),
            Language::V5 { clean } => (Version::V5, clean),
        };
        let will = will.map(|(topic, retain)| (case.topic(topic), retain));
        let will = will.map(|(topic, retain)| {
            let payload = case.publishes(index, &topic);
            (topic, payload, retain)
        });
        let expiry = if clean { 0 } else { 60 };
        let login = Login {
            clean,
            expiry,
            will: will
                .as_ref()
                .map(|(topic, payload, retain)| (&**topic, payload.as_bytes(), Qos::AtLeastOnce, *retain, 0)),
            ..Login::of(&name)
        };
        let mut device = Device::dial(server, version).await;
        match device.connect(login).await.0 {
            ReasonCode::SUCCESS => {
                // A client receives point-to-point messages if it has asked for them.
                let own = format!("$p2p/{name}");
                let _ = device.send_subscribe(&own, Qos::AtLeastOnce).await;
                Some(Self::Mqtt(device))
            }
            // Its will is not allowed.
            _ => None,
        }
    }

    async fn leave(self, in_order: bool) {
        if let (Self::Mqtt(mut device), true) = (self, in_order) {
            let packet = Disconnect { reason: ReasonCode::SUCCESS, properties: Properties::EMPTY };
            device.send(&Packet::Disconnect(packet)).await;
            while device.read_packet().await.is_some() {}
        }
    }

    /// Reads what has come until a ping is answered; false: the server has closed the connection.
    async fn catch_up(&mut self, case: &mut Case, index: usize) -> bool {
        match self {
            Self::Jmqt(client) => {
                client.send(r#"{"hb":{}}"#).await;
                loop {
                    match client.incoming().await {
                        Incoming::Packet(text) if text.starts_with(r#"{"hbAck""#) => return true,
                        Incoming::Packet(text) if text.starts_with(r#"{"push""#) => {
                            let push: serde_json::Value = serde_json::from_str(&text).unwrap();
                            let push = &push["push"];
                            let [channel, data] =
                                ["cn", "dt"].map(|key| push[key].as_str().unwrap_or_default());
                            case.receives(index, channel, data);
                            let is_by_name =
                                case.granted[index].contains(channel) || channel.starts_with('#');
                            case.delivered_by_wc += u64::from(!is_by_name);
                            if let Some(id) = push["id"].as_str() {
                                client.send(&format!(r#"{{"pushAck":{{"id":"{id}"}}}}"#)).await;
                            }
                        }
                        Incoming::Packet(_) => {}
                        _ => return false,
                    }
                }
            }
            Self::Mqtt(device) => {
                device.send(&Packet::PingReq).await;
                loop {
                    let Some(bytes) = device.read_packet().await else { return false };
                    let frame = Frame::of(&bytes).unwrap();
                    let answer = match Packet::decode(&frame, device.version, Sender::Server).unwrap() {
                        Packet::PingResp => return true,
                        Packet::Publish(publish) => {
                            let channel = match publish.topic.strip_prefix("$p2p/") {
                                Some(client) => format!("#{client}"),
                                None => publish.topic.to_owned(),
                            };
                            case.receives(index, &channel, std::str::from_utf8(publish.payload).unwrap());
                            match publish.delivery {
                                Delivery::AtMostOnce => continue,
                                Delivery::AtLeastOnce { id, .. } => {
                                    Packet::PubAck(Ack::new(id, ReasonCode::SUCCESS))
                                }
                                Delivery::ExactlyOnce { id, .. } => {
                                    Packet::PubRec(Ack::new(id, ReasonCode::SUCCESS))
                                }
                            }
                        }
                        Packet::PubRel(ack) => Packet::PubComp(Ack::new(ack.id, ReasonCode::SUCCESS)),
                        Packet::PubRec(ack) if !ack.reason.is_error() => {
                            Packet::PubRel(Ack::new(ack.id, ReasonCode::SUCCESS))
                        }
                        _ => continue,
                    };
                    device.send(&answer).await;
                }
            }
        }
    }

    async fn subscribe(&mut self, filter: &str, qos: u8) {
        match self {
            Self::Jmqt(client) => {
                let (persistent, wildcards) = (qos.min(1), Self::wildcards(filter));
                client.send(&format!(r#"{{"sub":{{"cn":"{filter}","pr":{persistent}{wildcards}}}}}"#)).await;
            }
            Self::Mqtt(device) => device.send_subscribe(filter, Qos::from_bits(qos).unwrap()).await,
        }
    }

    /// What a JMQT packet with a filter has besides.
    fn wildcards(filter: &str) -> &'static str {
        if filter.contains(['+', '#']) { r#","wc":1"# } else { "" }
    }

    async fn unsubscribe(&mut self, topic: &str) {
        match self {
            Self::Jmqt(client) => {
                let wildcards = Self::wildcards(topic);
                client.send(&format!(r#"{{"unsub":{{"cn":"{topic}"{wildcards}}}}}"#)).await;
            }
            Self::Mqtt(device) => {
                let mut names = NameBuf::new();
                names.push(topic).unwrap();
                let filters = names.as_names();
                let packet = Unsubscribe { id: id(8), properties: Properties::EMPTY, filters };
                device.send(&Packet::Unsubscribe(packet)).await;
            }
        }
    }

    async fn publish(&mut self, channel: &str, payload: &str, qos: u8, retain: bool) {
        match self {
            Self::Jmqt(client) => {
                let (qos, retain) = (qos.min(1), u8::from(retain && !channel.starts_with('#')));
                let with_id = if qos == 1 { format!(r#","id":"{payload}""#) } else { String::new() };
                let publish = format!(
                    r#"{{"pub":{{"cn":"{channel}","dt":"{payload}","q":{qos},"rt":{retain}{with_id}}}}}"#
                );
                client.send(&publish).await;
            }
            Self::Mqtt(device) => {
                let topic = match channel.strip_prefix('#') {
                    Some(client) => format!("$p2p/{client}"),
                    None => channel.to_owned(),
                };
                let delivery = match qos {
                    0 => Delivery::AtMostOnce,
                    1 => Delivery::AtLeastOnce { id: id(9), dup: false },
                    _ => Delivery::ExactlyOnce { id: id(10), dup: false },
                };
                device.publish(&topic, payload.as_bytes(), delivery, retain).await;
            }
        }
    }
}

impl Device {
    pub(super) async fn send_subscribe(&mut self, filter: &str, qos: Qos) {
        let mut filters = FilterBuf::new();
        filters.push(filter, SubscribeOptions::of_qos(qos)).unwrap();
        let properties = Properties::EMPTY;
        self.send(&Packet::Subscribe(Subscribe { id: id(7), properties, filters: filters.as_filters() }))
            .await;
    }
}

async fn play(server: &TestServer, seed: u64, steps: Vec<(usize, Step)>) -> Case {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let granted = vec![BTreeSet::new(); CLIENTS];
    let mut case =
        Case { number, seed, sent: HashMap::new(), granted, delivered: 0, delivered_by_wc: 0, refused: 0 };
    server.app.on_rule(move |asked, client, about| {
        asked == Asked::Unsub
            // A client may always receive what is sent to it alone.
            || asked == Asked::Sub && about.starts_with('#') && about.len() > 1
            || allows(seed, asked, client.as_str(), about)
    });
    let mut members = Vec::new();
    for index in 0..CLIENTS {
        let language = match index {
            0 => Language::Jmqt,
            1 => Language::V3 { clean: true },
            2 => Language::V5 { clean: true },
            _ => Language::V5 { clean: false },
        };
        members.push(Member::connect(server, &mut case, index, language, None).await);
    }
    for (index, step) in steps {
        if let Step::Comes { language, in_order, will } = step {
            if let Some(member) = members[index].take() {
                member.leave(in_order).await;
            }
            members[index] = Member::connect(server, &mut case, index, language, will).await;
        }
        let Some(member) = &mut members[index] else { continue };
        match step {
            Step::Comes { .. } => {}
            Step::Subscribes { topic, qos } => {
                let topic = case.topic(topic);
                case.subscribes(index, &topic);
                member.subscribe(&topic, qos).await;
            }
            Step::SubscribesToFilter { filter, qos } => {
                let filter = case.filter(filter);
                case.subscribes(index, &filter);
                member.subscribe(&filter, qos).await;
            }
            Step::SubscribesToShare { filter, qos } => {
                let filter = case.filter(filter);
                if matches!(member, Member::Mqtt(_)) {
                    case.subscribes(index, &filter);
                    member.subscribe(&format!("$share/g{number}/{filter}"), qos).await;
                }
            }
            Step::Unsubscribes { topic } => member.unsubscribe(&case.topic(topic)).await,
            Step::UnsubscribesFromFilter { filter } => member.unsubscribe(&case.filter(filter)).await,
            Step::Publishes { topic, qos, retain } => {
                let topic = case.topic(topic);
                let payload = case.publishes(index, &topic);
                member.publish(&topic, &payload, qos, retain).await;
            }
            Step::PublishesTo { client } => {
                let channel = format!("#{}", case.client(client));
                let payload = case.publishes(index, &channel);
                member.publish(&channel, &payload, 0, false).await;
            }
        }
        if !member.catch_up(&mut case, index).await {
            members[index] = None;
        }
    }
    server.settle().await;
    for (index, member) in members.iter_mut().enumerate() {
        if let Some(member) = member {
            member.catch_up(&mut case, index).await;
        }
    }
    case
}

#[test]
fn nothing_is_delivered_that_the_application_refuses() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let server = runtime.block_on(start());
    let began = Instant::now();
    let (delivered, delivered_by_wc, refused) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let cases = (any::<u64>(), proptest::collection::vec((0..CLIENTS, step()), 1..60));
    let config =
        Config { cases: 2000, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let tried = TestRunner::new(config).run(&cases, |(seed, steps)| {
        if began.elapsed() < TRIES_FOR {
            let case = runtime.block_on(play(&server, seed, steps));
            delivered.fetch_add(case.delivered, Ordering::Relaxed);
            delivered_by_wc.fetch_add(case.delivered_by_wc, Ordering::Relaxed);
            refused.fetch_add(case.refused, Ordering::Relaxed);
        }
        Ok(())
    });
    tried.unwrap();
    let (delivered, refused) = (delivered.into_inner(), refused.into_inner());
    let by_wc = delivered_by_wc.into_inner();
    assert!(
        delivered > 50 && by_wc > 5 && refused > 20,
        "{delivered} delivered, {by_wc} to JMQT clients by filters, {refused} refused"
    );
}

#[tokio::test] // permissions may change between the CONNECT and the end of the connection
async fn a_will_is_checked_again_when_it_is_published() {
    let server = start().await;
    let mut watcher = Device::new(&server, Version::V5, Login::of("watcher")).await;
    watcher.subscribe("gone", Qos::AtMostOnce).await;
    let login = Login { will: Some(("gone", b"lost", Qos::AtMostOnce, true, 0)), ..Login::of("sensor") };
    for version in VERSIONS {
        let device = Device::new(&server, version, login).await;
        server.app.set(Asked::Pub, Behaviour::Refuse(StatusCode::NOT_ALLOWED));
        server.app.times_asked(Asked::Pub).await;
        drop(device);
        assert_eq!(server.app.asked(Asked::Pub).await, "gone");
        server.app.reset(Asked::Pub);
        let mut late = Device::new(&server, version, Login::of("late")).await;
        late.subscribe("gone", Qos::AtMostOnce).await;
        late.expect_nothing().await;
        watcher.expect_nothing().await;
    }
}
