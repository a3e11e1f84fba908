//! `jmqt bench`: how many messages pass from publishers to subscribers, and how long each takes.

use std::collections::VecDeque;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::arguments::BenchArguments;
use crate::peer::{Peer, Stream, Target};
use crate::{Failure, Output, random_name};

/// After this time without an arrival, missing messages count as lost.
const STALL: Duration = Duration::from_secs(1);
/// Connections that may be in the making at a time.
const CONNECTING: usize = 100;
/// A receiver says so when it has received this many more.
const TELL_EVERY: u64 = 64;
/// How long the last messages may take to arrive.
const LAST: Duration = Duration::from_secs(5);
/// Buckets of the histogram: 32 to each power of two of microseconds, so none is off by more than 3 %.
const STEPS: u64 = 32;

/// What is to be done.
struct Load {
    time: Duration,
    publishers: u32,
    subscribers: u32,
    /// The options, of which `rate` 0 and `window` 0 mean no limit.
    given: BenchArguments,
}

/// What the tasks know of each other.
struct Progress {
    /// Messages that a publisher has begun with.
    begun: AtomicU64,
    published: AtomicU64,
    /// Of all subscribers together.
    received: AtomicU64,
    /// Deliveries that are not coming any more.
    given_up: AtomicU64,
    arrived: Notify,
    /// How many were published, once that is known.
    ended: watch::Sender<Option<u64>>,
    subscribers: u64,
}

impl Progress {
    fn new(subscribers: u32) -> Self {
        Self {
            begun: AtomicU64::new(0),
            published: AtomicU64::new(0),
            received: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
            arrived: Notify::new(),
            ended: watch::Sender::new(None),
            subscribers: subscribers.into(),
        }
    }

    fn deliveries(&self) -> u64 {
        self.published.load(Ordering::Relaxed) * self.subscribers
    }

    /// Waits until fewer than `window` messages are on their way to a subscriber, on average.
    async fn room(&self, window: u64) {
        loop {
            let arrived = self.arrived.notified();
            tokio::pin!(arrived);
            arrived.as_mut().enable(); // before the look, so that no news is missed
            let received = self.received.load(Ordering::Relaxed);
            let done = received + self.given_up.load(Ordering::Relaxed);
            let under_way = self.deliveries().saturating_sub(done);
            if under_way < window * self.subscribers {
                return;
            }
            if tokio::time::timeout(STALL, arrived).await.is_err()
                && self.received.load(Ordering::Relaxed) == received
            {
                self.given_up.fetch_max(self.deliveries().saturating_sub(received), Ordering::Relaxed);
            }
        }
    }
}

/// `limit`: of the time.
pub(crate) async fn run(
    target: Target,
    given: BenchArguments,
    limit: Option<Duration>,
    output: Output,
) -> Result<(), Failure> {
    let time = Duration::from_secs(given.seconds);
    let time = limit.map_or(time, |limit| limit.min(time));
    let (publishers, subscribers) =
        (given.publishers.unwrap_or(given.clients), given.subscribers.unwrap_or(given.clients));
    let load = Arc::new(Load { time, publishers, subscribers, given });
    let channel = load.given.channel.clone().map_or_else(random_name, Ok)?;
    target.check(&channel)?;
    let connecting = Instant::now();
    let (publishers, subscribers) = connect(&target, &load).await?;
    let mut streams = Vec::new();
    for subscriber in &subscribers {
        streams.push(subscriber.subscribe(&channel, load.given.qos).await?);
    }
    let connected = connecting.elapsed();

    let progress = Arc::new(Progress::new(load.subscribers));
    let start = Instant::now();
    let mut receiving = JoinSet::new();
    for stream in streams {
        receiving.spawn(receive(stream, start, Arc::clone(&progress)));
    }
    let watching = tokio::spawn(show(Arc::clone(&progress), start, output));
    let mut publishing = JoinSet::new();
    for publisher in publishers {
        publishing.spawn(publish(
            publisher,
            channel.clone(),
            Arc::clone(&load),
            start,
            Arc::clone(&progress),
        ));
    }
    while let Some(published) = publishing.join_next().await {
        published.map_err(Failure::new)??;
    }
    progress.ended.send_replace(Some(progress.published.load(Ordering::Relaxed)));
    let mut elapsed = start.elapsed();
    let mut histogram = Histogram::default();
    let mut dropped = 0;
    while let Some(received) = receiving.join_next().await {
        let received = received.map_err(Failure::new)?;
        histogram.merge(&received.times);
        elapsed = elapsed.max(received.last.duration_since(start));
        dropped += received.dropped;
    }
    watching.abort();
    close_all(subscribers).await;
    report(&progress, &histogram, &load, Times { elapsed, connected }, dropped, output)
}

/// Closes all at once.
async fn close_all(clients: Vec<Peer>) {
    let mut closing = JoinSet::new();
    for client in clients {
        closing.spawn(async move { client.close().await });
    }
    closing.join_all().await;
}

/// Connects publishers and subscribers, no more of them in a second than `ramp`.
async fn connect(target: &Target, load: &Load) -> Result<(Vec<Peer>, Vec<Peer>), Failure> {
    let count = load.publishers + load.subscribers;
    let mut tick = interval(Duration::from_secs(1) / load.given.ramp);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connecting = JoinSet::new();
    let mut clients = Vec::new();
    let told = |number: u32, outcome: Result<Peer, Failure>| {
        outcome.map_err(|failure| {
            if count == 2 { failure } else { failure.of(format!("client {} of {count}", number + 1)) }
        })
    };
    for number in 0..count {
        tick.tick().await;
        // The first is who the options say, the others are strangers.
        let target = if number == 0 { target.clone() } else { target.clone().stranger()? };
        connecting.spawn(async move { (number, target.connect().await) });
        while let Some(connected) = connecting.try_join_next() {
            let (number, outcome) = connected.map_err(Failure::new)?;
            clients.push(told(number, outcome)?);
        }
        if connecting.len() >= CONNECTING
            && let Some(connected) = connecting.join_next().await
        {
            let (number, outcome) = connected.map_err(Failure::new)?;
            clients.push(told(number, outcome)?);
        }
    }
    while let Some(connected) = connecting.join_next().await {
        let (number, outcome) = connected.map_err(Failure::new)?;
        clients.push(told(number, outcome)?);
    }
    let subscribers = clients.split_off(load.publishers as usize);
    Ok((clients, subscribers))
}

/// Publishes until the time limit has passed, or there are enough messages, and closes the client.
async fn publish(
    client: Peer,
    channel: String,
    load: Arc<Load>,
    start: Instant,
    progress: Arc<Progress>,
) -> Result<(), Failure> {
    let by = start + load.time + LAST;
    let published = publish_all(&client, &channel, &load, start, &progress);
    let published = tokio::time::timeout_at(by.into(), published).await;
    client.close().await;
    published.unwrap_or_else(|_| Err(Failure::timeout_of("the server acknowledges publishes too slowly")))
}

async fn publish_all(
    client: &Peer,
    channel: &str,
    load: &Load,
    start: Instant,
    progress: &Progress,
) -> Result<(), Failure> {
    let BenchArguments { size, qos, rate, window, messages, .. } = load.given;
    let filler = "x".repeat((size as usize).saturating_sub(24));
    let end = start + load.time;
    let rate = rate as f64 / f64::from(load.publishers);
    let mut receipts = VecDeque::new();
    for number in 0_u32.. {
        let mut now = Instant::now();
        if now >= end || progress.begun.fetch_add(1, Ordering::Relaxed) >= messages {
            break;
        }
        if rate > 0.0 {
            let due = start + Duration::from_secs_f64(f64::from(number) / rate);
            if due >= end {
                break;
            }
            // Timers are exact to a millisecond: what is due sooner goes at once.
            if due > now + Duration::from_millis(1) {
                tokio::time::sleep_until(due.into()).await;
                now = Instant::now();
            }
        }
        let micros = now.duration_since(start).as_micros();
        let data = format!("\"{micros:020}{filler}\"");
        if window > 0 {
            progress.room(window).await;
        }
        receipts.push_back(client.queue(channel, data, qos).await?);
        if qos == 0 || receipts.len() as u64 >= window.max(1) {
            let oldest = receipts.pop_front().expect("one was added above");
            oldest.acknowledged().await?;
        }
        progress.published.fetch_add(1, Ordering::Relaxed);
    }
    for receipt in receipts {
        receipt.acknowledged().await?;
    }
    Ok(())
}

/// What a subscriber received.
struct Received {
    times: Histogram,
    last: Instant,
    dropped: u64,
}

/// Receives until everything that was published is here, or nothing more comes.
async fn receive(mut stream: Stream, start: Instant, progress: Arc<Progress>) -> Received {
    let (mut times, mut last) = (Histogram::default(), start);
    let mut ended = progress.ended.subscribe();
    let (mut received, mut total) = (0_u64, None);
    while total.is_none_or(|total| received < total) {
        let next = tokio::select! {
            biased;
            next = tokio::time::timeout(LAST, stream.next()) => next,
            // Perhaps everything is here.
            _ = ended.changed(), if total.is_none() => {
                total = *ended.borrow_and_update();
                continue;
            }
        };
        let Ok(Some(sent)) = next else {
            total = total.or(*ended.borrow_and_update());
            // A stream that has ended stays at its end.
            if total.is_some() || matches!(next, Ok(None)) {
                break;
            }
            continue;
        };
        last = Instant::now();
        let arrived = u64::try_from(last.duration_since(start).as_micros()).unwrap_or(u64::MAX);
        times.add(arrived.saturating_sub(sent));
        received += 1;
        let all = progress.received.fetch_add(1, Ordering::Relaxed) + 1;
        if all.is_multiple_of(TELL_EVERY) || all >= progress.deliveries() {
            progress.arrived.notify_waiters();
        }
    }
    Received { times, last, dropped: stream.dropped() }
}

/// A line that shows what happens now.
async fn show(progress: Arc<Progress>, start: Instant, output: Output) {
    if !output.is_watched() {
        return;
    }
    let (mut published, mut received) = (0, 0);
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = (progress.published.load(Ordering::Relaxed), progress.received.load(Ordering::Relaxed));
        let mut stderr = std::io::stderr().lock();
        // Nobody's loss if it cannot be shown.
        let _ = write!(
            stderr,
            "\r{:>4} s  {:>9}/s published  {:>9}/s received ",
            start.elapsed().as_secs(),
            now.0 - published,
            now.1 - received
        );
        let _ = stderr.flush();
        (published, received) = now;
    }
}

struct Times {
    elapsed: Duration,
    connected: Duration,
}

fn report(
    progress: &Progress,
    histogram: &Histogram,
    load: &Load,
    times: Times,
    dropped: u64,
    output: Output,
) -> Result<(), Failure> {
    let (published, received) =
        (progress.published.load(Ordering::Relaxed), progress.received.load(Ordering::Relaxed));
    let rate = (received as f64 / times.elapsed.as_secs_f64()).round();
    let (p50, p99) = (histogram.quantile(0.5), histogram.quantile(0.99));
    let lost = progress.deliveries().saturating_sub(received);
    let (publishers, subscribers) = (load.publishers, load.subscribers);
    let connects = (f64::from(publishers + subscribers) / times.connected.as_secs_f64()).round();
    if output.is_watched() {
        eprintln!();
    }
    output.line(
        || {
            format!(
                "clients     {:>12}  ({publishers} publish, {subscribers} subscribe; connected {connects}/s)\n\
                 published   {published:>12}\nreceived    {received:>12}\nlost        {lost:>12}  ({dropped} in this client)\n\
                 messages/s  {rate:>12}\np50         {p50:>12} µs\np99         {p99:>12} µs",
                publishers + subscribers
            )
        },
        || {
            json!({ "publishers": publishers, "subscribers": subscribers, "connects_per_second": connects,
                    "published": published, "received": received, "lost": lost, "dropped": dropped,
                    "per_second": rate, "p50_micros": p50, "p99_micros": p99 })
        },
    )
}

/// Times in microseconds, in buckets that grow with them.
#[derive(Debug, Default)]
struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Histogram {
    fn add(&mut self, micros: u64) {
        let bucket = Self::bucket(micros);
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
        self.total += 1;
    }

    fn merge(&mut self, other: &Self) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
    }

    fn bucket(micros: u64) -> usize {
        if micros < STEPS {
            return micros as usize;
        }
        let power = u64::from(micros.ilog2());
        let step = micros >> (power - 5) & (STEPS - 1);
        ((power - 4) * STEPS + step) as usize
    }

    /// The least time that falls into the bucket.
    fn least(bucket: usize) -> u64 {
        let bucket = bucket as u64;
        if bucket < STEPS {
            return bucket;
        }
        let power = bucket / STEPS + 4;
        (STEPS + bucket % STEPS) << (power - 5)
    }

    fn quantile(&self, part: f64) -> u64 {
        let wanted = (self.total as f64 * part).ceil() as u64;
        let mut sum = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            sum += count;
            if sum >= wanted {
                return Self::least(bucket);
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_never_off_by_more_than_three_percent() {
        for micros in (0..100_000).chain([1 << 30, (1 << 40) + 12_345]) {
            let least = Histogram::least(Histogram::bucket(micros));
            assert!(least <= micros && micros - least <= micros / 32, "{micros}: {least}");
        }
    }

    #[test]
    fn quantiles_are_of_what_was_added() {
        let mut histogram = Histogram::default();
        let mut other = Histogram::default();
        (1..=50).for_each(|micros| histogram.add(micros));
        (51..=100).for_each(|micros| other.add(micros));
        histogram.merge(&other);
        assert_eq!((histogram.quantile(0.5), histogram.quantile(0.99)), (50, 98));
    }
}
