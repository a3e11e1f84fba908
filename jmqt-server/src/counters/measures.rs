//! What the admin listener shows beside the counters: by protocol, by reason, and histograms.
//!
//! Nothing here is changed for a single message or delivery: only for a connection, a request, a batch, a commit, or a fan-out to
//! many.

use std::time::Duration;

use super::Counter;
use crate::connection::{CloseReason, Protocol};

/// The kind of a packet, under the same name in all languages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Auth,
    Connect,
    Subscribe,
    Unsubscribe,
    Publish,
    /// `pushAck`; PUBACK, PUBREC, PUBREL and PUBCOMP.
    Acknowledge,
    Disconnect,
    Ping,
}

impl Kind {
    pub(crate) const ALL: [(Self, &'static str); 8] = [
        (Self::Auth, "auth"),
        (Self::Connect, "connect"),
        (Self::Subscribe, "subscribe"),
        (Self::Unsubscribe, "unsubscribe"),
        (Self::Publish, "publish"),
        (Self::Acknowledge, "acknowledge"),
        (Self::Disconnect, "disconnect"),
        (Self::Ping, "ping"),
    ];
}

/// A question to the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Validator {
    Auth,
    Conn,
    Sub,
    Pub,
    Unsub,
    Other,
}

impl Validator {
    pub(crate) const ALL: [(Self, &'static str); 6] = [
        (Self::Auth, "auth"),
        (Self::Conn, "conn"),
        (Self::Sub, "sub"),
        (Self::Pub, "pub"),
        (Self::Unsub, "unsub"),
        (Self::Other, "other"),
    ];

    /// The validator with this name in the log.
    pub(crate) fn named(what: &str) -> Self {
        match what {
            "auth validator" | "auth exchange" => Self::Auth,
            "conn validator" => Self::Conn,
            "sub validator" => Self::Sub,
            "pub validator" => Self::Pub,
            "unsub validator" => Self::Unsub,
            _ => Self::Other,
        }
    }
}

/// How a question to the application ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Answered,
    Failed,
    Panicked,
    TimedOut,
}

impl Outcome {
    pub(crate) const ALL: [(Self, &'static str); 4] = [
        (Self::Answered, "answered"),
        (Self::Failed, "failed"),
        (Self::Panicked, "panicked"),
        (Self::TimedOut, "timed_out"),
    ];
}

const KINDS: usize = Kind::ALL.len();
const STATUSES: usize = 256;
/// JMQT and MQTT.
const LANGUAGES: usize = 2;

/// The last bucket of times, in microseconds, and those before it.
const TIMES: &[u64] = &[
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];
/// The buckets of batch sizes.
const SIZES: &[u64] = &[1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000];

/// The measures of a server.
#[derive(Debug)]
pub(crate) struct Measures {
    accepted: [Counter; Protocol::ALL.len()],
    closed: [Counter; CloseReason::ALL.len()],
    /// All packets of a language.
    packets: [Counter; LANGUAGES],
    /// Of these, those that are no publishes.
    by_kind: [[Counter; KINDS]; LANGUAGES],
    /// Answers with a status that refuses.
    refused: Box<[Counter]>,
    validators: [[Histogram; Outcome::ALL.len()]; Validator::ALL.len()],
    /// How long commits took, in microseconds.
    pub(crate) commits: Histogram,
    /// The operations of each commit.
    pub(crate) commit_sizes: Histogram,
    /// How long fan-outs to many subscribers took, in microseconds.
    pub(crate) fan_outs: Histogram,
}

impl Default for Measures {
    fn default() -> Self {
        Self {
            accepted: Default::default(),
            closed: std::array::from_fn(|_| Counter::default()),
            packets: Default::default(),
            by_kind: Default::default(),
            refused: (0..LANGUAGES * KINDS * STATUSES).map(|_| Counter::default()).collect(),
            validators: std::array::from_fn(|_| std::array::from_fn(|_| Histogram::new(TIMES))),
            commits: Histogram::new(TIMES),
            commit_sizes: Histogram::new(SIZES),
            fan_outs: Histogram::new(TIMES),
        }
    }
}

fn language(protocol: Protocol) -> usize {
    usize::from(protocol.is_mqtt())
}

impl Measures {
    /// A listener has accepted a connection.
    pub(crate) fn accepted(&self, protocol: Protocol) {
        if let Some(at) = Protocol::ALL.iter().position(|of| *of == protocol) {
            self.accepted[at].increment();
        }
    }

    /// The connections that were accepted by each listener.
    pub(crate) fn all_accepted(&self) -> impl Iterator<Item = (Protocol, u64)> + '_ {
        Protocol::ALL.into_iter().zip(&self.accepted).map(|(protocol, count)| (protocol, count.get()))
    }

    /// A session has ended.
    pub(crate) fn closed(&self, reason: CloseReason) {
        if let Some(at) = CloseReason::ALL.iter().position(|(of, _)| *of == reason) {
            self.closed[at].increment();
        }
    }

    /// The sessions that have ended for each reason.
    pub(crate) fn all_closed(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        CloseReason::ALL.into_iter().zip(&self.closed).map(|((_, name), count)| (name, count.get()))
    }

    /// A batch of packets has ended.
    pub(crate) fn batch(&self, protocol: Protocol, packets: u16, acknowledgements: u16) {
        let language = language(protocol);
        self.packets[language].add(packets.into());
        if acknowledgements > 0 {
            self.by_kind[language][Kind::Acknowledge as usize].add(acknowledgements.into());
        }
    }

    /// A packet was received that is neither a publish nor a simple acknowledgement.
    pub(crate) fn packet(&self, protocol: Protocol, kind: Kind) {
        self.by_kind[language(protocol)][kind as usize].increment();
    }

    /// The packets that were received: language, kind, number. Packets of no other kind are publishes.
    pub(crate) fn all_packets(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> + '_ {
        let languages = ["jmqt", "mqtt"].into_iter().zip(&self.packets).zip(&self.by_kind);
        languages.flat_map(|((language, all), by_kind)| {
            let others: u64 = by_kind.iter().map(Counter::get).sum();
            let publishes = all.get().saturating_sub(others);
            Kind::ALL.into_iter().map(move |(kind, name)| {
                let count = if kind == Kind::Publish { publishes } else { by_kind[kind as usize].get() };
                (language, name, count)
            })
        })
    }

    /// A packet was answered with a status that refuses.
    pub(crate) fn refused(&self, protocol: Protocol, kind: Kind, status: u8) {
        let at = (language(protocol) * KINDS + kind as usize) * STATUSES + usize::from(status);
        if let Some(counter) = self.refused.get(at) {
            counter.increment();
        }
    }

    /// The refusals so far: language, kind, status, number.
    pub(crate) fn all_refused(&self) -> impl Iterator<Item = (&'static str, &'static str, usize, u64)> + '_ {
        let counted = self.refused.iter().map(Counter::get).enumerate().filter(|(_, count)| *count > 0);
        counted.map(|(at, count)| {
            let language = ["jmqt", "mqtt"][at / (KINDS * STATUSES)];
            (language, Kind::ALL[at / STATUSES % KINDS].1, at % STATUSES, count)
        })
    }

    /// The application was asked something.
    pub(crate) fn asked(&self, validator: Validator, outcome: Outcome, took: Duration) {
        self.validators[validator as usize][outcome as usize].time(took);
    }

    /// How long the application took to answer: validator, outcome, times. Without those that never happened.
    pub(crate) fn all_asked(&self) -> impl Iterator<Item = (&'static str, &'static str, &Histogram)> + '_ {
        let validators = Validator::ALL.into_iter().zip(&self.validators);
        let each = validators.flat_map(|((_, validator), outcomes)| {
            let outcomes = Outcome::ALL.into_iter().zip(outcomes);
            outcomes.map(move |((_, outcome), times)| (validator, outcome, times))
        });
        each.filter(|(_, _, times)| times.count() > 0)
    }
}

/// How many values were up to each of some bounds.
#[derive(Debug)]
pub(crate) struct Histogram {
    bounds: &'static [u64],
    /// One more than the bounds: values beyond the last one.
    counts: Box<[Counter]>,
    sum: Counter,
}

impl Histogram {
    fn new(bounds: &'static [u64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| Counter::default()).collect();
        Self { bounds, counts, sum: Counter::default() }
    }

    /// Adds a value.
    pub(crate) fn add(&self, value: u64) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        self.counts[at].increment();
        self.sum.add(value);
    }

    /// Adds a time, in microseconds.
    pub(crate) fn time(&self, time: Duration) {
        self.add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    fn count(&self) -> u64 {
        self.counts.iter().map(Counter::get).sum()
    }

    /// Each bound with the number of values up to it, `None` for all values; and the sum of the values.
    pub(crate) fn values(&self) -> (Vec<(Option<u64>, u64)>, u64) {
        let bounds = self.bounds.iter().copied().map(Some).chain([None]);
        let mut so_far = 0;
        let cumulative = bounds.zip(&self.counts).map(|(bound, count)| {
            so_far += count.get();
            (bound, so_far)
        });
        (cumulative.collect(), self.sum.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_in_the_first_bucket_whose_bound_it_does_not_exceed() {
        let sizes = Histogram::new(SIZES);
        [1, 2, 3, 5, 6, 5_000, 5_001].into_iter().for_each(|size| sizes.add(size));
        let (buckets, sum) = sizes.values();
        assert_eq!(buckets[..4], [(Some(1), 1), (Some(2), 2), (Some(5), 4), (Some(10), 5)]);
        assert_eq!(buckets[SIZES.len() - 1..], [(Some(5_000), 6), (None, 7)]);
        assert_eq!(sum, 10_018);
    }

    #[test]
    fn packets_of_no_other_kind_are_publishes() {
        let measures = Measures::default();
        measures.batch(Protocol::Mqtt, 10, 3);
        measures.packet(Protocol::SslMqtt, Kind::Subscribe);
        let of = |kind| measures.all_packets().find(|it| (it.0, it.1) == ("mqtt", kind)).unwrap().2;
        assert_eq!((of("publish"), of("acknowledge"), of("subscribe"), of("ping")), (6, 3, 1, 0));
        assert!(measures.all_packets().filter(|it| it.0 == "jmqt").all(|it| it.2 == 0));
    }

    #[test]
    fn refusals_are_counted_by_language_kind_and_status() {
        let measures = Measures::default();
        measures.refused(Protocol::Socket, Kind::Subscribe, 3);
        measures.refused(Protocol::Mqtt, Kind::Ping, 255);
        measures.refused(Protocol::Mqtt, Kind::Ping, 255);
        let all: Vec<_> = measures.all_refused().collect();
        assert_eq!(all, [("jmqt", "subscribe", 3, 1), ("mqtt", "ping", 255, 2)]);
    }

    #[test]
    fn every_kind_is_at_its_own_place() {
        assert!(Kind::ALL.iter().enumerate().all(|(at, (kind, _))| *kind as usize == at));
        assert!(Validator::ALL.iter().enumerate().all(|(at, (of, _))| *of as usize == at));
        assert!(Outcome::ALL.iter().enumerate().all(|(at, (of, _))| *of as usize == at));
    }
}
