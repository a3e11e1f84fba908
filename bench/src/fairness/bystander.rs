//! Two clients that do not attack, and the effect of an attack on them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};

use super::client::Client;

/// How long the requests of one took, and how many QoS 1 publishes of the other were acknowledged a second.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    pub(super) median: Duration,
    pub(super) worst: Duration,
    pub(super) rate: f64,
}

/// The most QoS 1 publishes without an acknowledgement at a time.
const WINDOW: usize = 16;
/// From one QoS 1 publish to the next: 2,000 a second, which no server is busy with. A publisher that keeps a
/// processor busy by itself would have to share it, however fair the server is.
const INTERVAL: Duration = Duration::from_micros(500);
/// Between two requests.
const PAUSE: Duration = Duration::from_millis(5);

pub(super) fn measure(address: SocketAddr, seconds: Duration) -> Result<Measured> {
    let (stop, published) = (AtomicBool::new(false), AtomicU64::new(0));
    let started = Instant::now();
    thread::scope(|scope| {
        let subscriber = scope.spawn(|| subscribe(address, &stop, &published));
        let requests = request(address, seconds, &stop);
        stop.store(true, Ordering::Relaxed);
        let rate = published.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64();
        subscriber.join().map_err(|_| anyhow!("a bystander panicked"))??;
        let mut times = requests?;
        times.sort_unstable();
        let (Some(&median), Some(&worst)) = (times.get(times.len() / 2), times.last()) else {
            bail!("no request was answered");
        };
        Ok(Measured { median, worst, rate })
    })
}

/// Sends requests to the application, one after the other, and returns how long each took.
fn request(address: SocketAddr, seconds: Duration, stop: &AtomicBool) -> Result<Vec<Duration>> {
    let mut client = Client::connect(address, "bystander", stop)?;
    let (start, mut times) = (Instant::now(), Vec::new());
    while start.elapsed() < seconds {
        let sent = Instant::now();
        client.send("{\"pub\":{\"cn\":\"$request\",\"id\":\"1\"}}\0")?;
        client.expect(b"{\"pubAck\":{")?;
        times.push(sent.elapsed());
        sleep(PAUSE);
    }
    Ok(times)
}

/// A persistent subscriber that acknowledges, with a publisher beside it.
fn subscribe(address: SocketAddr, stop: &AtomicBool, published: &AtomicU64) -> Result<()> {
    let mut subscriber = Client::connect(address, "subscriber", stop)?;
    subscriber.send("{\"sub\":{\"cn\":\"quiet\",\"pr\":1}}\0")?;
    subscriber.expect(b"{\"subAck\":{\"st\":1,")?;
    thread::scope(|scope| {
        let publisher = scope.spawn(|| publish(address, stop, published));
        while !stop.load(Ordering::Relaxed) {
            let Ok(push) = subscriber.next() else { break };
            let push: serde_json::Value = serde_json::from_slice(&push)?;
            if push["push"]["id"].is_string() {
                subscriber.send(&format!("{{\"pushAck\":{{\"id\":{}}}}}\0", push["push"]["id"]))?;
            }
        }
        publisher.join().map_err(|_| anyhow!("the publisher panicked"))?
    })
}

fn publish(address: SocketAddr, stop: &AtomicBool, published: &AtomicU64) -> Result<()> {
    let mut client = Client::connect(address, "publisher", stop)?;
    let publish = "{\"pub\":{\"cn\":\"quiet\",\"dt\":1,\"q\":1,\"id\":\"1\"}}\0";
    client.send(&publish.repeat(WINDOW))?;
    let mut due = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        if client.expect(b"{\"pubAck\":{\"st\":1,").is_err() {
            break;
        }
        published.fetch_add(1, Ordering::Relaxed);
        // Publishes that are late are made up for, as many as fit into the window.
        let now = Instant::now();
        due = (due + INTERVAL).max(now.checked_sub(INTERVAL * WINDOW as u32).unwrap_or(now));
        sleep(due.saturating_duration_since(now));
        client.send(publish)?;
    }
    Ok(())
}
