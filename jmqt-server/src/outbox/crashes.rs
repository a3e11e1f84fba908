//! Tests: the packet identifiers of sessions whose process dies.

use std::collections::{BTreeMap, HashMap, HashSet};

use jmqt_core::{ChannelName, ClientId, Qos};
use jmqt_mqtt::{Delivery, Frame, Packet, Peek, Sender, Version, peek};
use proptest::prelude::*;

use super::packet_ids::computed;
use super::*;
use crate::message::{Data, LoggedPush, PushId};
use crate::options::SubscriptionOptions;
use crate::store::{
    ChannelKey, Cursor, Epoch, Exchanges, LogPlace, Sent, SentStep, Seq, Stamp, StoredSubscription,
};
use crate::wire::{LoggedPushes, PacketId};

/// The number of logs.
const LOGS: usize = 4;

/// The place of a message in a log; `None`: it is in no log.
type Place = Option<(ChannelKey, u64)>;

/// One step of a session.
#[derive(Debug, Clone)]
enum Step {
    /// Messages for this log.
    Publish { log: usize, count: u64 },
    /// A message for a subscription without a log.
    PublishUnlogged,
    /// The client acknowledges one of those that it has.
    Acknowledge(usize),
    /// The janitor saves cursors and deletes records.
    Save,
    /// The records are stored.
    Record,
    /// The same, and the process dies before it sends the messages.
    RecordOnly,
    /// The connection ends. The next one has this window.
    End { window: u32 },
    /// The process dies. The next connection has this window.
    Crash { window: u32 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..LOGS, 1..6_u64).prop_map(|(log, count)| Step::Publish { log, count }),
        1 => Just(Step::PublishUnlogged),
        12 => any::<usize>().prop_map(Step::Acknowledge),
        2 => Just(Step::Save),
        3 => Just(Step::Record),
        1 => Just(Step::RecordOnly),
        1 => (1..40_u32).prop_map(|window| Step::End { window }),
        2 => (1..40_u32).prop_map(|window| Step::Crash { window }),
    ]
}

/// Keys of logs whose first messages have almost the same identifiers, or very different ones.
fn keys(are_close: bool) -> Vec<ChannelKey> {
    let of = |key: i64| computed((ChannelKey(key), Seq(0))).get();
    let near = |key: &i64| of(*key).abs_diff(of(1)) < 12;
    (1..).filter(|key| !are_close || near(key)).take(LOGS).map(ChannelKey).collect()
}

/// What the store has, and what the client and the test know.
struct World {
    outbox: Arc<Outbox>,
    keys: Vec<ChannelKey>,
    lasts: HashMap<ChannelKey, u64>,
    cursors: HashMap<ChannelKey, Cursor>,
    /// The table `sent`.
    records: BTreeMap<u64, Sent>,
    /// The last messages that were logged before this process began.
    before: HashMap<ChannelKey, u64>,
    unlogged: u64,
    /// What the client has received on this connection and not acknowledged.
    on_its_way: HashMap<PacketId, Place>,
    /// The same of all connections.
    held: HashMap<PacketId, Place>,
    /// The identifiers that messages of several logs may have had when a process died.
    ambiguous: HashSet<PacketId>,
    /// The identifiers with which messages came last.
    first: HashMap<(ChannelKey, u64), PacketId>,
    acknowledged: HashSet<(ChannelKey, u64)>,
}

fn bob() -> ClientId {
    ClientId::parse("bob").unwrap()
}

fn name(key: ChannelKey) -> ChannelName {
    ChannelName::parse(&format!("log/{}", key.0)).unwrap()
}

fn pushes(channel: ChannelName, ids: impl Iterator<Item = PushId>) -> LoggedPushes {
    let message = |id: PushId| {
        let number = id.place().map_or(0, |(_, Seq(seq))| seq);
        LoggedPush { id, sender: None, data: Data::checked_before(number.to_string().into()) }
    };
    LoggedPushes::new(IdSpace::new(Epoch(1), 1), channel, ids.map(message).collect())
}

fn logged(key: ChannelKey, seqs: impl Iterator<Item = u64>) -> LoggedPushes {
    let id = |seq| PushId::Logged(LogPlace { key, seq: Seq(seq), stamp: Stamp(9) });
    pushes(name(key), seqs.map(id))
}

impl World {
    fn new(are_close: bool) -> Self {
        let keys = keys(are_close);
        let mut world = Self {
            outbox: Arc::new(Outbox::new(Form::MqttV5, None, Arc::new(context()))),
            lasts: keys.iter().map(|key| (*key, 0)).collect(),
            cursors: keys.iter().map(|key| (*key, Cursor::default())).collect(),
            keys,
            records: BTreeMap::new(),
            before: HashMap::new(),
            unlogged: 0,
            on_its_way: HashMap::new(),
            held: HashMap::new(),
            ambiguous: HashSet::new(),
            first: HashMap::new(),
            acknowledged: HashSet::new(),
        };
        world.connect(20);
        world
    }

    fn connect(&mut self, window: u32) {
        self.outbox = Arc::new(Outbox::new(Form::MqttV5, None, Arc::new(context())));
        self.outbox.set_form(Form::MqttV5, 1 << 20);
        self.outbox.set_window(window, Redelivery::AtOnce);
        self.on_its_way.clear();
        let options = SubscriptionOptions::new(Qos::AtLeastOnce);
        for key in self.keys.clone() {
            let log = LogState::Attaching { seen: None };
            let subscription = self.subscribe(name(key), log);
            let (cursor, last) = (self.cursors[&key].clone(), Seq(self.lasts[&key]));
            let stored = StoredSubscription { channel: name(key), key, cursor, last, options };
            self.outbox.attach(&subscription, &stored);
        }
        self.subscribe(ChannelName::parse("unlogged").unwrap(), LogState::Temporary);
        let sent = self.records.values().cloned().collect();
        self.outbox.keep_exchanges(&bob(), &Exchanges { received: Vec::new(), sent });
        self.outbox.go_live();
        self.flow();
    }

    fn subscribe(&self, channel: ChannelName, log: LogState) -> Arc<Subscription> {
        let made = Subscription::new(channel, bob(), Arc::clone(&self.outbox), Stage::Live, log);
        made.set_options(SubscriptionOptions::new(Qos::AtLeastOnce));
        let made = Arc::new(made);
        assert!(self.outbox.insert_subscription(&made));
        made
    }

    /// The server sends what it can, and the client reads it.
    fn flow(&mut self) {
        while let Some(SendAgain { log, packets }) = self.outbox.next_again() {
            let (subscription, key) = log.expect("its subscription has not ended");
            for (id, seq) in packets {
                self.outbox.send_again(&subscription, id, &logged(key, std::iter::once(seq)));
            }
        }
        let mut turns = 0;
        if self.outbox.wants_resume() && self.outbox.begin_resume() {
            while let Some(missing) = self.outbox.next_missing() {
                turns += 1;
                assert!(turns < 1000, "a resume without progress");
                let end = self.lasts[&missing.key].min(missing.after + missing.count as u64);
                let part = logged(missing.key, missing.after + 1..=end);
                let source = Source::Log { key: missing.key, through: end };
                self.outbox.offer(&missing.subscription, &part, source);
            }
        }
        let mut bytes = Vec::new();
        let drained = self.outbox.drain_with(|piece| {
            bytes.extend_from_slice(piece);
            Ok(piece.len())
        });
        assert!(drained.unwrap());
        while let Ok(Peek::Known(header)) = peek(&bytes, 1 << 20) {
            let rest = bytes.split_off(header.packet_length());
            self.receive(&bytes);
            bytes = rest;
        }
    }

    fn receive(&mut self, packet: &[u8]) {
        let packet = Packet::decode(&Frame::of(packet).unwrap(), Version::V5, Sender::Server).unwrap();
        let Packet::Publish(publish) = packet else { panic!("{packet:?}") };
        let Delivery::AtLeastOnce { id, dup } = publish.delivery else { panic!("{publish:?}") };
        let seq = std::str::from_utf8(publish.payload).unwrap().parse().unwrap();
        let key = self.keys.iter().find(|key| name(**key).as_str() == publish.topic);
        let place = key.map(|key| (*key, seq));
        assert!(self.on_its_way.insert(id, place).is_none(), "{id} is in use, {place:?}");
        match place.and_then(|place| self.first.get(&place)) {
            Some(first) if *first == id => assert!(dup, "{place:?} comes again"),
            Some(first) => {
                assert!(
                    dup && self.ambiguous.contains(first),
                    "{place:?} had the identifier {first}, not {id}"
                );
                assert_eq!(self.held.get(&id), None);
                self.first.extend(place.map(|place| (place, id)));
            }
            None => {
                if let Some((key, seq)) = place {
                    let may_be_sent = self.before.get(&key).is_some_and(|last| seq <= *last);
                    assert!(!dup || may_be_sent || self.records_have(place), "{place:?} was not sent before");
                    self.first.insert((key, seq), id);
                }
                // Messages in no log are forgotten in a crash.
                let other = self.held.get(&id).filter(|other| place.is_some() || other.is_some());
                assert!(other.is_none(), "{place:?} has the identifier of {other:?}");
            }
        }
        self.held.insert(id, place);
    }

    fn records_have(&self, place: Place) -> bool {
        let place = place.map(|(key, seq)| (key, Seq(seq)));
        self.records.values().any(|sent| sent.place == place)
    }

    fn acknowledge(&mut self, index: usize) {
        let mut ids: Vec<_> = self.on_its_way.keys().copied().collect();
        ids.sort_unstable();
        let Some(&id) = index.checked_rem(ids.len()).and_then(|index| ids.get(index)) else { return };
        if let Some(Some(place)) = self.on_its_way.remove(&id) {
            self.acknowledged.insert(place);
        }
        let place = self.held.remove(&id).flatten();
        self.held.retain(|_, held| held.is_none() || *held != place);
        assert_eq!(self.outbox.acknowledge_packet(id), Acknowledged::Done);
    }

    fn save(&mut self) {
        let moved = self.outbox.take_moved();
        for update in moved.cursors {
            self.cursors.insert(update.key, update.cursor);
        }
        for complete in moved.complete {
            self.records.remove(&complete.turn);
        }
    }

    fn record(&mut self, sends: bool) {
        let Some(ToRecord { steps, packets }) = self.outbox.take_unrecorded() else { return };
        self.records.extend(steps.iter().map(|step| (step.turn, step.clone())));
        if sends {
            self.outbox.settle_recorded(packets, true);
            self.outbox.record_submitted();
        }
    }

    fn carry_out(&mut self, step: &Step) {
        match *step {
            Step::Publish { log, count } => {
                let key = self.keys[log];
                let last = self.lasts.get_mut(&key).unwrap();
                let new = *last + 1..=*last + count;
                *last += count;
                let subscription = self.outbox.subscription(name(key).as_str()).unwrap();
                self.outbox.offer(&subscription, &logged(key, new), Source::Live);
            }
            Step::PublishUnlogged => {
                self.unlogged += 1;
                let id = PushId::Memory { process: 1, number: self.unlogged };
                let subscription = self.outbox.subscription("unlogged").unwrap();
                let pushes = pushes(subscription.channel.clone(), std::iter::once(id));
                self.outbox.offer(&subscription, &pushes, Source::Live);
            }
            Step::Acknowledge(index) => self.acknowledge(index),
            Step::Save => self.save(),
            Step::Record => self.record(true),
            Step::RecordOnly => {
                self.record(false);
                self.crash(20);
            }
            Step::End { window } => {
                let unanswered = self.outbox.take_unanswered();
                self.records.extend(unanswered.iter().map(|sent| (sent.turn, sent.clone())));
                self.save();
                self.connect(window);
            }
            Step::Crash { window } => self.crash(window),
        }
        self.flow();
    }

    fn crash(&mut self, window: u32) {
        let mut perhaps = HashSet::new();
        for key in &self.keys {
            let range = self.cursors[key].acked.0 + 1..=self.lasts[key];
            let ids = range.map(|seq| computed((*key, Seq(seq))));
            self.ambiguous.extend(ids.filter(|id| !perhaps.insert(*id)));
        }
        for key in &self.keys {
            let last = self.lasts[key];
            if self.cursors[key].acked.0 < last {
                let note = Sent::perhaps(&bob(), *key, Seq(last));
                self.records.insert(note.turn, note);
            }
        }
        self.before = self.lasts.clone();
        self.connect(window);
    }

    /// The client acknowledges everything. Nothing is missing, and nothing is left.
    fn finish(&mut self) {
        for turn in 0.. {
            assert!(turn < 10_000, "messages do not come");
            self.flow();
            self.record(true);
            self.flow();
            if self.on_its_way.is_empty() {
                break;
            }
            self.acknowledge(turn);
        }
        for (key, last) in &self.lasts {
            assert!((1..=*last).all(|seq| self.acknowledged.contains(&(*key, seq))), "{key:?} up to {last}");
        }
        self.save();
        for (key, last) in &self.lasts {
            assert_eq!(self.cursors[key], Cursor { acked: Seq(*last), beyond: Vec::new() });
        }
        self.save(); // records of messages that the cursors had to pass first
        let left: Vec<_> = self.records.values().filter(|sent| sent.step != SentStep::Perhaps).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

fn context() -> OutboxContext {
    OutboxContext {
        queue_bytes: 1 << 20,
        outbound: Arc::new(Budget::new(1 << 30)),
        counters: Arc::default(),
        ids: IdSpace::new(Epoch(1), 1),
        moved_cursors: Mutex::default(),
        unrecorded: Default::default(),
        groups: Default::default(),
    }
}

proptest! {
    #[test] // 2.2.1-4, 3.3.1-1, 4.4.0-1
    fn a_message_keeps_its_identifier_and_no_other_message_has_it(
        are_close in any::<bool>(),
        steps in proptest::collection::vec(step(), 1..120)
    ) {
        let mut world = World::new(are_close);
        for step in &steps {
            world.carry_out(step);
        }
        world.finish();
    }
}
