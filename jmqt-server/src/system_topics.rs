//! The topics below `$SYS/broker/`: what MQTT clients can watch of this node, with the names that Mosquitto uses.
//!
//! Their messages bypass the store, the bus and the pub validator: each node publishes its own values, to its own clients, with QoS 0.
//! Nobody else can publish there.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jmqt_core::{ChannelName, Qos, Retain};
use jmqt_mqtt::Filter;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::attributes::{Attributes, DataForm, Values};
use crate::counters::CountersSnapshot;
use crate::hub::{DirtyOutboxes, Hub};
use crate::message::{Data, Message, RetainedPush};
use crate::outbox::Flush;
use crate::store::StoredTotals;
use crate::wire::Pushes;

/// The beginning of all these topics.
pub(crate) const PREFIX: &str = "$SYS/";
const BROKER: &str = "$SYS/broker/";
/// The periods of the averages, in minutes, and their names.
const PERIODS: [(f64, &str); 3] = [(1.0, "1min"), (5.0, "5min"), (15.0, "15min")];

/// A counter of which averages per minute are published.
struct Rate {
    topic: &'static str,
    count: fn(&CountersSnapshot) -> u64,
}

const RATES: [Rate; 8] = [
    Rate { topic: "load/messages/received", count: |now| now.packets_received },
    Rate { topic: "load/publish/received", count: |now| now.messages_published },
    Rate { topic: "load/publish/sent", count: |now| now.pushes_sent },
    Rate { topic: "load/publish/dropped", count: |now| now.pushes_dropped },
    Rate { topic: "load/bytes/received", count: |now| now.bytes_received },
    Rate { topic: "load/bytes/sent", count: |now| now.bytes_sent },
    Rate { topic: "load/sockets", count: |now| now.connections_accepted },
    Rate { topic: "load/connections", count: |now| now.sessions_opened },
];

/// The topics whose values the database counts, while somebody watches them.
const OF_THE_STORE: [&str; 4] = [
    "$SYS/broker/clients/disconnected",
    "$SYS/broker/clients/total",
    "$SYS/broker/retained messages/count",
    "$SYS/broker/store/messages/count",
];

/// What has been measured so far.
#[derive(Default)]
struct Measured {
    at: Option<(Instant, CountersSnapshot)>,
    most_clients: u64,
    per_minute: [[f64; PERIODS.len()]; RATES.len()],
    /// The values as they were last published, in the order of [`SystemTopics::values`].
    published: Vec<String>,
}

/// The topics below `$SYS/`.
pub(crate) struct SystemTopics {
    started: Instant,
    /// `None`: nothing is published.
    interval: Option<Duration>,
    measured: Mutex<Measured>,
    /// What the database has counted, and when; `None` while nobody watches it.
    stored: Mutex<Option<(Instant, StoredTotals)>>,
    /// Held while the database counts: once for all clients that subscribe.
    counting: tokio::sync::Mutex<()>,
}

impl SystemTopics {
    pub(crate) fn new(interval: Option<Duration>) -> Self {
        Self {
            started: Instant::now(),
            interval,
            measured: Mutex::default(),
            stored: Mutex::default(),
            counting: tokio::sync::Mutex::default(),
        }
    }

    /// Publishes the values that have changed, at each interval.
    pub(crate) async fn run(&self, hub: &Hub, stop: CancellationToken) {
        let Some(interval) = self.interval else { return stop.cancelled().await };
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            match OF_THE_STORE.iter().any(|topic| hub.subscribers.filters.has_match(topic)) {
                true => self.count_stored(hub, Duration::ZERO).await,
                false => *self.stored.lock().unwrap_or_else(PoisonError::into_inner) = None,
            }
            let mut dirty = DirtyOutboxes::default();
            for (topic, value) in self.changed(hub) {
                let Some(message) = message(topic, value) else { continue };
                hub.subscribers
                    .push_here(&message.channel, None, &Pushes::of(&message), Flush::Now, &mut dirty)
                    .await;
            }
            dirty.flush();
        }
    }

    /// Lets the database count, unless the last values are no older than this.
    async fn count_stored(&self, hub: &Hub, oldest: Duration) {
        let stored = || self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        let _counting = self.counting.lock().await;
        if stored().is_some_and(|(at, _)| at.elapsed() < oldest) {
            return;
        }
        if let Some(totals) = hub.stored_totals().await {
            *stored() = Some((Instant::now(), totals));
        }
    }

    /// The topics that a filter matches, with their current values.
    pub(crate) async fn matching(&self, hub: &Hub, filter: Filter<'_>) -> Vec<(ChannelName, RetainedPush)> {
        let Some(interval) = self.interval else { return Vec::new() };
        if OF_THE_STORE.iter().any(|topic| filter.matches(topic)) {
            self.count_stored(hub, interval).await;
        }
        let measured = self.measured.lock().unwrap_or_else(PoisonError::into_inner);
        let values = self.values(hub, &measured).into_iter();
        let matching = values.filter(|(topic, _)| filter.matches(topic));
        matching
            .filter_map(|(topic, value)| {
                let Message { channel, data, .. } = message(topic, value)?;
                Some((channel, RetainedPush { sender: None, data, id: hub.memory_ids.next(), counted: None }))
            })
            .collect()
    }

    /// Measures, and returns the values that have changed since they were last published, if anybody may receive them.
    fn changed(&self, hub: &Hub) -> Vec<(String, String)> {
        let mut measured = self.measured.lock().unwrap_or_else(PoisonError::into_inner);
        measured.measure(Instant::now(), &hub.counters.snapshot());
        if hub.subscribers.filters.is_empty() {
            return Vec::new(); // subscriptions to these topics are among the filters
        }
        let values = self.values(hub, &measured);
        let before = std::mem::take(&mut measured.published);
        measured.published = values.iter().map(|(_, value)| value.clone()).collect();
        drop(measured);
        let values = values.into_iter().enumerate();
        values.filter(|(at, (_, value))| before.get(*at) != Some(value)).map(|(_, it)| it).collect()
    }

    /// All topics with their values, always in the same order.
    fn values(&self, hub: &Hub, measured: &Measured) -> Vec<(String, String)> {
        let now = hub.counters.snapshot();
        let (groups, shares) = hub.subscribers.groups.counts();
        let all = hub.subscribers.channels.subscriptions() + hub.subscribers.filters.len() + shares;
        let subscriptions = all.saturating_sub(groups);
        let clients = now.sessions_opened.saturating_sub(now.sessions_closed);
        let sockets = now.connections_accepted.saturating_sub(now.connections_closed);
        let fixed = [
            ("version", format!("jmqt-server {}", env!("CARGO_PKG_VERSION"))),
            ("uptime", format!("{} seconds", self.started.elapsed().as_secs())),
            ("clients/connected", clients.to_string()),
            ("clients/active", clients.to_string()),
            ("clients/maximum", measured.most_clients.max(clients).to_string()),
            ("connections/socket/count", sockets.to_string()),
            ("messages/received", now.packets_received.to_string()),
            ("publish/messages/received", now.messages_published.to_string()),
            ("publish/messages/sent", now.pushes_sent.to_string()),
            ("publish/messages/dropped", now.pushes_dropped.to_string()),
            ("bytes/received", now.bytes_received.to_string()),
            ("bytes/sent", now.bytes_sent.to_string()),
            ("subscriptions/count", subscriptions.to_string()),
            ("shared_subscriptions/count", shares.to_string()),
        ];
        let fixed = fixed.into_iter().map(|(topic, value)| (format!("{BROKER}{topic}"), value));
        let averages = RATES.iter().zip(&measured.per_minute).flat_map(|(rate, averages)| {
            let periods = PERIODS.iter().zip(averages);
            periods
                .map(|((_, name), value)| (format!("{BROKER}{}/{name}", rate.topic), format!("{value:.2}")))
        });
        let stored = *self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        // The last ones, because they may be absent.
        let stored = stored.into_iter().flat_map(|(_, totals)| {
            let StoredTotals { retained, messages, absent_clients: absent } = totals;
            let values = [absent, absent + clients, retained, messages];
            OF_THE_STORE.iter().zip(values).map(|(topic, value)| ((*topic).to_owned(), value.to_string()))
        });
        fixed.chain(averages).chain(stored).collect()
    }
}

impl Measured {
    /// Takes what happened since the last call into the averages, with less weight the longer ago it is.
    fn measure(&mut self, at: Instant, now: &CountersSnapshot) {
        self.most_clients = self.most_clients.max(now.sessions_opened.saturating_sub(now.sessions_closed));
        if let Some((before, counted)) = &self.at {
            let minutes = at.duration_since(*before).as_secs_f64() / 60.0;
            if minutes <= 0.0 {
                return;
            }
            for (rate, averages) in RATES.iter().zip(&mut self.per_minute) {
                let count = (rate.count)(now).saturating_sub((rate.count)(counted));
                #[expect(clippy::cast_precision_loss, reason = "an average needs no exact count")]
                let per_minute = count as f64 / minutes;
                for ((period, _), average) in PERIODS.iter().zip(averages) {
                    let kept = (-minutes / period).exp();
                    *average = per_minute + kept * (*average - per_minute);
                }
            }
        }
        self.at = Some((at, *now));
    }
}

fn message(topic: String, value: String) -> Option<Message> {
    let text = Attributes::new(Values { form: DataForm::Text, ..Values::default() });
    Some(Message {
        channel: ChannelName::exact(&topic).ok()?,
        sender: None,
        data: Data::new(value.into(), text),
        qos: Qos::AtMostOnce,
        retain: Retain::No,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_follow_the_counters_and_fade() {
        let begin = Instant::now();
        let mut measured = Measured::default();
        let mut now = CountersSnapshot::default();
        measured.measure(begin, &now);
        for second in 1..=60 {
            now.bytes_received += 10;
            measured.measure(begin + Duration::from_secs(second), &now);
        }
        let bytes = RATES.iter().position(|rate| rate.topic == "load/bytes/received").unwrap();
        let [one, five, fifteen] = measured.per_minute[bytes];
        // 600 a minute, of which the average of a minute has taken in 1 - 1/e, and the others less.
        assert!((375.0..385.0).contains(&one), "{one}");
        assert!((105.0..112.0).contains(&five) && (36.0..42.0).contains(&fifteen), "{five} {fifteen}");
        measured.measure(begin + Duration::from_secs(660), &now);
        assert!(measured.per_minute[bytes][0] < 1.0);
    }
}
