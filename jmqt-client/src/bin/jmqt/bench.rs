//! `jmqt bench`: how many messages pass from one session to another, and how long each takes.

use std::collections::VecDeque;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jmqt_client::{ChannelName, Client, Config, Error, Persistence, Publish, Receipt, Subscription};
use serde_json::json;
use tokio::sync::Notify;

use crate::{Failure, Output, channel, random_name, second};

/// What has not arrived after so long without any arrival is lost, and holds nobody up.
const STALL: Duration = Duration::from_secs(1);
/// The receiver says so when it has received this many more.
const TELL_EVERY: u64 = 64;
/// How long the last messages may take to arrive.
const LAST: Duration = Duration::from_secs(5);
/// Buckets of the histogram: 32 to each power of two of microseconds, so none is off by more than 3 %.
const STEPS: u64 = 32;

pub(crate) struct Load {
    pub(crate) time: Duration,
    pub(crate) size: usize,
    pub(crate) qos: u8,
    pub(crate) rate: u64,
    /// Messages that may be on their way at a time; 0: any number.
    pub(crate) window: u64,
    pub(crate) channel: Option<String>,
}

#[derive(Default)]
struct Progress {
    published: AtomicU64,
    received: AtomicU64,
    finished: AtomicBool,
    arrived: Notify,
    /// Told when the last message was published.
    ended: Notify,
}

impl Progress {
    /// Waits until fewer than `window` messages are on their way. `given_up` are those that are not coming.
    async fn room(&self, window: u64, given_up: &mut u64) {
        loop {
            let received = self.received.load(Ordering::Relaxed);
            let under_way = self.published.load(Ordering::Relaxed).saturating_sub(received + *given_up);
            if under_way < window {
                return;
            }
            if tokio::time::timeout(STALL, self.arrived.notified()).await.is_err()
                && self.received.load(Ordering::Relaxed) == received
            {
                *given_up += under_way;
            }
        }
    }
}

pub(crate) async fn run(config: Config, load: Load, output: Output) -> Result<(), Failure> {
    let name = load.channel.clone().map_or_else(random_name, Ok)?;
    let channel = channel(&name)?;
    let (sender, receiver) =
        (Client::connect(config.clone()).await?, Client::connect(second(config)?).await?);
    let stream = receiver.subscribe(&channel, Persistence::Temporary).await?;
    let progress = Arc::new(Progress::default());
    let start = Instant::now();
    let receiving = tokio::spawn(receive(stream, start, Arc::clone(&progress)));
    let watching = tokio::spawn(watch(Arc::clone(&progress), start, output));
    publish(sender.clone(), channel, &load, start, Arc::clone(&progress)).await?;
    sender.close().await;
    progress.finished.store(true, Ordering::Relaxed);
    progress.ended.notify_one();
    let elapsed = start.elapsed();
    let (histogram, last) = receiving.await.map_err(Failure::new)?;
    watching.abort();
    receiver.close().await;
    report(&progress, &histogram, elapsed.max(last.duration_since(start)), receiver.dropped_pushes(), output)
}

/// Publishes until the time is over.
async fn publish(
    client: Client,
    channel: ChannelName,
    load: &Load,
    start: Instant,
    progress: Arc<Progress>,
) -> Result<(), Error> {
    let filler = "x".repeat(load.size.saturating_sub(24));
    let end = start + load.time;
    let mut receipts: VecDeque<Receipt> = VecDeque::new();
    let mut given_up = 0;
    for number in 0.. {
        let mut now = Instant::now();
        if now >= end {
            break;
        }
        if load.rate > 0 {
            let due = start + Duration::from_secs_f64(number as f64 / load.rate as f64);
            // Timers are exact to a millisecond: what is due sooner goes at once.
            if due > now + Duration::from_millis(1) {
                tokio::time::sleep_until(due.into()).await;
                now = Instant::now();
            }
        }
        let micros = now.duration_since(start).as_micros();
        let data = format!("\"{micros:020}{filler}\"");
        let message = Publish::raw(channel.clone(), data).expect("digits and letters in quotes are JSON");
        if load.window > 0 {
            progress.room(load.window, &mut given_up).await;
        }
        if load.qos == 0 {
            client.publish(&message).await?;
        } else {
            receipts.push_back(client.queue(&message.at_least_once()).await?);
            if receipts.len() as u64 >= load.window.max(1)
                && let Some(oldest) = receipts.pop_front()
            {
                oldest.await?;
            }
        }
        progress.published.fetch_add(1, Ordering::Relaxed);
    }
    for receipt in receipts {
        receipt.await?;
    }
    Ok(())
}

/// Receives until everything that was published is here, or nothing more comes.
async fn receive(mut stream: Subscription, start: Instant, progress: Arc<Progress>) -> (Histogram, Instant) {
    let (mut histogram, mut last) = (Histogram::default(), start);
    let mut received = 0_u64;
    loop {
        let done = progress.finished.load(Ordering::Relaxed)
            && received >= progress.published.load(Ordering::Relaxed);
        if done {
            break;
        }
        let next = tokio::select! {
            biased;
            next = tokio::time::timeout(LAST, stream.next()) => next,
            // Perhaps everything is here.
            () = progress.ended.notified() => continue,
        };
        let Ok(Some(push)) = next else {
            if progress.finished.load(Ordering::Relaxed) {
                break;
            }
            continue;
        };
        last = Instant::now();
        let sent: u64 = push.data().get(1..21).and_then(|digits| digits.parse().ok()).unwrap_or_default();
        let arrived = u64::try_from(last.duration_since(start).as_micros()).unwrap_or(u64::MAX);
        histogram.add(arrived.saturating_sub(sent));
        received += 1;
        progress.received.store(received, Ordering::Relaxed);
        if received.is_multiple_of(TELL_EVERY) || received >= progress.published.load(Ordering::Relaxed) {
            progress.arrived.notify_one();
        }
    }
    (histogram, last)
}

/// A line that shows what happens now.
async fn watch(progress: Arc<Progress>, start: Instant, output: Output) {
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

fn report(
    progress: &Progress,
    histogram: &Histogram,
    elapsed: Duration,
    dropped: u64,
    output: Output,
) -> Result<(), Failure> {
    let (published, received) =
        (progress.published.load(Ordering::Relaxed), progress.received.load(Ordering::Relaxed));
    let rate = (received as f64 / elapsed.as_secs_f64()).round();
    let (p50, p99) = (histogram.quantile(0.5), histogram.quantile(0.99));
    let lost = published.saturating_sub(received);
    if output.is_watched() {
        eprintln!();
    }
    output.line(
        || {
            format!(
                "published   {published:>12}\nreceived    {received:>12}\nlost        {lost:>12}  ({dropped} in this client)\n\
                 messages/s  {rate:>12}\np50         {p50:>12} µs\np99         {p99:>12} µs"
            )
        },
        || {
            json!({ "published": published, "received": received, "lost": lost, "dropped": dropped,
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
        (1..=100).for_each(|micros| histogram.add(micros));
        assert_eq!((histogram.quantile(0.5), histogram.quantile(0.99)), (50, 98));
    }
}
